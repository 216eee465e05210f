//! `fanfare publish`: one signed request to the HTTP API.

use super::access::{Access, AccessArgs};
use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use fanfare_proto::sign::sign_query;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub const EXAMPLES: &str = "\
Examples:
  fanfare publish news headline '{\"text\":\"hello\"}'
  fanfare publish private-orders paid 4711 --config fanfare.toml --app-id 1001
  fanfare publish news headline hello --url http://push.example --app-id 1001 --key KEY --secret SECRET";

/// A server that has not answered by then will not.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The channel
    channel: String,
    /// The event's name
    event: String,
    /// The event's data: any text, most often JSON
    data: String,
    #[command(flatten)]
    access: AccessArgs,
}

/// Publishes, and prints the server's answer.
pub async fn run(args: PublishArgs) -> anyhow::Result<()> {
    let body = serde_json::json!({ "name": args.event, "channel": args.channel, "data": args.data });
    let access = args.access.resolve()?;
    let server = access.server.authority.clone();
    let request = signed(&access, body.to_string(), now_s())?;
    let (status, answer) = timeout(ANSWER_WITHIN, ask(&server, request))
        .await
        .with_context(|| format!("{server} did not answer within {} s", ANSWER_WITHIN.as_secs()))??;
    if !status.is_success() {
        bail!("{server} answered {status}: {}", answer.trim());
    }
    println!("{}", answer.trim());
    Ok(())
}

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("no machine's clock is before 1970").as_secs()
}

fn signed(access: &Access, body: String, now_s: u64) -> anyhow::Result<Request<Full<Bytes>>> {
    let app_id = access.app_id.as_deref().context("no such app in the configuration: say --app-id")?;
    let secret = access.secret.as_ref().context("no such app in the configuration: say --secret")?;
    // The prefix belongs to whatever stands before the app's API, so it is not signed.
    let path = format!("/apps/{app_id}/events");
    let query = sign_query(secret.as_bytes(), &access.key, "POST", &path, &[], body.as_bytes(), now_s);
    let request = Request::post(format!("{}{path}?{query}", access.server.prefix))
        .header(header::HOST, &access.server.authority)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body))?;
    Ok(request)
}

async fn ask(server: &str, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(server).await.with_context(|| format!("cannot connect to {server}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let talk = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection carries the answer and ends with the sender; what it has to say, the answer has said.
    let (answer, _) = tokio::join!(talk, connection);
    answer
}

#[cfg(test)]
mod tests {
    use super::super::access::Server;
    use super::*;
    use crate::config::Secret;

    #[test]
    fn the_prefix_is_asked_for_but_not_signed() {
        let access = |prefix: &str| Access {
            server: Server { authority: "push.example:80".to_owned(), prefix: prefix.to_owned() },
            app_id: Some("3".to_owned()),
            key: "278d425bdf160c739803".to_owned(),
            secret: Some(Secret::new("7ad3773142a6692b25b8")),
        };
        let uri = |prefix| signed(&access(prefix), "{}".to_owned(), 1_353_088_179).expect("sound").uri().to_string();
        let plain = uri("");
        assert!(
            plain.starts_with("/apps/3/events?auth_key=278d425bdf160c739803&auth_timestamp=1353088179&"),
            "{plain}"
        );
        assert_eq!(uri("/rt"), format!("/rt{plain}"));
    }
}
