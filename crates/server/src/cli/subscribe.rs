//! `fanfare subscribe`: prints the events of channels as they come, and comes back when the connection goes.
//!
//! Events go to standard output, one line each; what happens to the connection goes to standard error.

use super::access::{Access, AccessArgs};
use super::socket::{Incoming, Socket};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use fanfare_proto::close::{CloseCode, Reconnect};
use fanfare_proto::sign;
use fanfare_proto::socket_id::SocketId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{ErrorKind, Write};
use std::time::Duration;
use tokio::time::{sleep, timeout};

pub const EXAMPLES: &str = "\
Examples:
  fanfare subscribe news weather
  fanfare subscribe news --json | jq -r .data
  fanfare subscribe presence-room --user alice
  fanfare subscribe private-orders --url ws://push.example --key KEY --secret SECRET";

/// How long the handshake and a pong may take, as in pusher-js.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(16);

#[derive(Debug, Args)]
pub struct SubscribeArgs {
    /// The channels
    #[arg(required = true, value_name = "CHANNEL")]
    channels: Vec<String>,
    /// Print each event as a JSON object: event, channel, data, user_id
    #[arg(long)]
    json: bool,
    /// Who to be on presence channels
    #[arg(long, value_name = "ID", default_value = "fanfare-cli")]
    user: String,
    #[command(flatten)]
    access: AccessArgs,
}

/// Prints until the server says to stay away, or nobody reads any more.
pub async fn run(args: SubscribeArgs) -> anyhow::Result<()> {
    let subscriber =
        Subscriber { access: args.access.resolve()?, channels: args.channels, user: args.user, json: args.json };
    let mut pause = RETRY_FIRST;
    let mut ever_connected = false;
    loop {
        let mut connected = false;
        let end = match subscriber.session(&mut connected).await {
            Err(End::Unread) => return Ok(()),
            Err(End::Refused(error)) => return Err(error),
            Err(End::Lost(error)) if !connected && !ever_connected => return Err(error),
            Err(End::Lost(error)) => (Reconnect::Ordinary, format!("{error:#}")),
            Ok((code, reason)) => (code.map_or(Reconnect::Ordinary, CloseCode::reconnection), said(code, &reason)),
        };
        ever_connected |= connected;
        if connected {
            pause = RETRY_FIRST;
        }
        match end {
            (Reconnect::Never, said) => bail!(said),
            (Reconnect::Now, said) if connected => eprintln!("{said}; reconnecting"),
            (_, said) => {
                eprintln!("{said}; reconnecting in {} s", pause.as_secs());
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_LONGEST);
            }
        }
    }
}

fn said(code: Option<CloseCode>, reason: &str) -> String {
    match code {
        Some(code) => format!("closed by the server: {} {reason}", code.code()).trim_end().to_owned(),
        None => "closed by the server".to_owned(),
    }
}

/// How a session ends, other than by a close frame.
enum End {
    /// The connection broke: it may be tried again.
    Lost(anyhow::Error),
    /// A subscription was refused: trying again would not help.
    Refused(anyhow::Error),
    /// Standard output was closed.
    Unread,
}

impl From<anyhow::Error> for End {
    fn from(error: anyhow::Error) -> End {
        End::Lost(error)
    }
}

/// A message from the server.
#[derive(Debug, Deserialize, Serialize)]
struct Message {
    event: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
}

struct Subscriber {
    access: Access,
    channels: Vec<String>,
    user: String,
    json: bool,
}

impl Subscriber {
    /// One connection, from handshake to close frame. `connected` becomes true once the server has welcomed it.
    async fn session(&self, connected: &mut bool) -> Result<(Option<CloseCode>, String), End> {
        let mut socket = self.connect().await?;
        // The server says how much silence it suffers; until then, what pusher-js assumes.
        let mut silence = Duration::from_secs(120);
        loop {
            let message = match next(&mut socket, silence).await? {
                Incoming::Text(text) => parse(&text)?,
                Incoming::Alive => continue,
                Incoming::Close(code, reason) => return Ok((code, reason)),
            };
            match message.event.as_str() {
                "pusher:connection_established" => {
                    let welcome = welcome(&message)?;
                    *connected = true;
                    silence = Duration::from_secs(welcome.activity_timeout);
                    self.subscribe(&mut socket, welcome.socket_id).await?;
                }
                "pusher:ping" => socket.send_text(r#"{"event":"pusher:pong","data":{}}"#).await?,
                _ => self.hear(&message)?,
            }
        }
    }

    async fn connect(&self) -> anyhow::Result<Socket> {
        let version = env!("CARGO_PKG_VERSION");
        let target = format!("/app/{}?protocol=7&client=fanfare-cli&version={version}", self.access.key);
        let server = &self.access.server;
        let open = timeout(ANSWER_WITHIN, Socket::open(server, &target)).await;
        let late = || anyhow!("no answer within {} s", ANSWER_WITHIN.as_secs());
        open.unwrap_or_else(|_| Err(late())).with_context(|| format!("cannot connect to {}", server.authority))
    }

    async fn subscribe(&self, socket: &mut Socket, id: SocketId) -> Result<(), End> {
        for channel in &self.channels {
            let request = self.request(channel, id).map_err(End::Refused)?;
            socket.send_text(&request.to_string()).await?;
        }
        Ok(())
    }

    /// A subscribe message, signed where the channel asks for it.
    fn request(&self, channel: &str, id: SocketId) -> anyhow::Result<Value> {
        let mut data = json!({ "channel": channel });
        let presence = channel.starts_with("presence-");
        if presence || channel.starts_with("private-") {
            let channel_data = presence.then(|| json!({ "user_id": self.user }).to_string());
            let secret = self.access.secret.as_ref();
            let secret = secret.with_context(|| format!("{channel} takes a signature: say --secret"))?;
            let text = sign::channel_text(id, channel, channel_data.as_deref());
            let signature = sign::hmac_hex(secret.as_bytes(), text.as_bytes());
            data["auth"] = format!("{}:{signature}", self.access.key).into();
            if let Some(channel_data) = channel_data {
                data["channel_data"] = channel_data.into();
            }
        }
        Ok(json!({ "event": "pusher:subscribe", "data": data }))
    }

    /// Tells the user of a message.
    fn hear(&self, message: &Message) -> Result<(), End> {
        let channel = message.channel.as_deref().unwrap_or_default();
        match message.event.as_str() {
            "pusher:pong" => {}
            "pusher_internal:subscription_succeeded" => match channel.starts_with("presence-") {
                true => eprintln!("subscribed to {channel} {}", plain(&message.data)),
                false => eprintln!("subscribed to {channel}"),
            },
            "pusher:subscription_error" => {
                return Err(End::Refused(anyhow!("{channel}: {}", detail(&message.data, "error"))));
            }
            "pusher:error" => eprintln!("{}", detail(&message.data, "message")),
            _ => print(&self.line(message))?,
        }
        Ok(())
    }

    fn line(&self, message: &Message) -> String {
        if self.json {
            return serde_json::to_string(message).expect("a message of strings is JSON");
        }
        let channel = message.channel.as_deref().unwrap_or("-");
        format!("{channel} {} {}", message.event, plain(&message.data))
    }
}

/// The next thing from the server, which is pinged when it has been silent for as long as it suffers silence itself.
async fn next(socket: &mut Socket, silence: Duration) -> anyhow::Result<Incoming> {
    if let Ok(incoming) = timeout(silence, socket.next()).await {
        return incoming;
    }
    socket.send_text(r#"{"event":"pusher:ping","data":{}}"#).await?;
    timeout(ANSWER_WITHIN, socket.next()).await.context("the server fell silent")?
}

/// What `pusher:connection_established` says.
struct Welcome {
    socket_id: SocketId,
    activity_timeout: u64,
}

fn parse(text: &str) -> anyhow::Result<Message> {
    serde_json::from_str(text).with_context(|| format!("the server sent what is no message: {text}"))
}

fn welcome(message: &Message) -> anyhow::Result<Welcome> {
    let data: Value = serde_json::from_str(message.data.as_str().unwrap_or_default())?;
    Ok(Welcome {
        socket_id: data["socket_id"].as_str().context("the server gave no socket id")?.parse()?,
        activity_timeout: data["activity_timeout"].as_u64().context("the server gave no activity timeout")?,
    })
}

/// A field of data that is an object, or a string that holds one.
fn detail(data: &Value, field: &str) -> String {
    let inner = data.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    match &inner.as_ref().unwrap_or(data)[field] {
        Value::String(text) => text.clone(),
        _ => plain(data),
    }
}

/// Data as one line: a string as it is, but for its line breaks.
fn plain(data: &Value) -> String {
    match data {
        Value::String(text) => text.replace('\r', "\\r").replace('\n', "\\n"),
        other => other.to_string(),
    }
}

/// Prints a line at once: whoever reads a pipe waits for it.
fn print(line: &str) -> Result<(), End> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(End::Unread),
        Err(error) => Err(End::Refused(error.into())),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::Server;
    use super::*;
    use crate::config::Secret;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// The worked example of Pusher's documentation.
    fn subscriber(channel: &str, json: bool) -> Subscriber {
        let access = Access {
            server: Server { authority: "127.0.0.1:1".to_owned(), prefix: String::new() },
            app_id: None,
            key: "278d425bdf160c739803".to_owned(),
            secret: Some(Secret::new("7ad3773142a6692b25b8")),
        };
        Subscriber { access, channels: vec![channel.to_owned()], user: "alice".to_owned(), json }
    }

    fn request(channel: &str) -> String {
        let id = SocketId { a: 1234, b: 1234 };
        subscriber(channel, false).request(channel, id).expect("there is a secret").to_string()
    }

    #[test]
    fn channels_are_signed_where_they_ask_for_it() {
        assert_eq!(request("news"), r#"{"data":{"channel":"news"},"event":"pusher:subscribe"}"#);
        assert_eq!(
            request("private-foobar"),
            r#"{"data":{"auth":"278d425bdf160c739803:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4","channel":"private-foobar"},"event":"pusher:subscribe"}"#
        );
        assert!(request("presence-room").contains(r#""channel_data":"{\"user_id\":\"alice\"}""#));
    }

    #[test]
    fn an_event_is_one_line() {
        let text = r#"{"event":"e","channel":"news","data":"{\"a\":\n1}"}"#;
        let message = parse(text).expect("sound");
        assert_eq!(subscriber("news", false).line(&message), r#"news e {"a":\n1}"#);
        assert_eq!(subscriber("news", true).line(&message), text);
    }

    #[test]
    fn errors_are_told_from_objects_and_from_strings() {
        assert_eq!(detail(&json!({ "message": "m" }), "message"), "m");
        assert_eq!(detail(&json!(r#"{"error":"e"}"#), "error"), "e");
        assert_eq!(detail(&json!("other"), "error"), "other");
    }

    /// Plays a server: takes one connection, shakes hands and says what it is told to.
    async fn welcome_one(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().await.expect("a client comes");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.expect("the head comes") > 0);
        }
        assert!(head.starts_with(b"GET /app/278d425bdf160c739803?protocol=7&client=fanfare-cli&version="));
        let accept = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n";
        stream.write_all(accept.as_bytes()).await.expect("the client reads");
        let established =
            r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\",\"activity_timeout\":120}"}"#;
        stream.write_all(&fanfare_proto::ws::text_frame(established.as_bytes())).await.expect("the client reads");
        stream
    }

    async fn close(mut stream: TcpStream, code: CloseCode) {
        let mut frame = Vec::new();
        fanfare_proto::ws::close_frame(&mut frame, code, code.reason());
        stream.write_all(&frame).await.expect("the client reads");
    }

    #[tokio::test]
    async fn it_comes_back_after_4200_and_stays_away_after_4001() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let url = format!("ws://{}", listener.local_addr().expect("it is bound"));
        let arguments = ["fanfare", "subscribe", "news", "--url", &url, "--app-id", "3"];
        let access = ["--key", "278d425bdf160c739803", "--secret", "s"];
        let cli = <super::super::Cli as clap::Parser>::parse_from(arguments.into_iter().chain(access));
        let Some(super::super::Verb::Subscribe(args)) = cli.verb else { panic!("another verb") };
        let serve = async {
            close(welcome_one(&listener).await, CloseCode::RECONNECT).await;
            close(welcome_one(&listener).await, CloseCode::APP_UNKNOWN).await;
        };
        let (end, ()) = tokio::join!(run(args), serve);
        let error = end.expect_err("it gave up").to_string();
        assert_eq!(error, "closed by the server: 4001 Application does not exist");
    }
}
