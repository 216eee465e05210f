//! The messages of a firehose as a program hears them: each once, from where it was after every reconnect.
//!
//! Not here: what is done with the messages (`record`).

use super::access::Access;
use super::feed::{ANSWER_WITHIN, Again, Heard, Over, SILENCE, Said};
use anyhow::{Context, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What of a firehose.
#[derive(Debug)]
pub struct Part {
    /// Who asks.
    pub token: String,
    /// Names of channels, or beginnings and `*`; none is all.
    pub channels: Vec<String>,
    /// A condition in CEL.
    pub filter: Option<String>,
}

/// A firehose that is heard.
pub struct Hose {
    access: Access,
    part: Part,
    /// Where the next connection goes on.
    cursor: Option<String>,
    body: Option<Incoming>,
    /// What has come of the next lines.
    text: Vec<u8>,
    again: Again,
}

impl Hose {
    /// Nothing is asked before the first [`Hose::next`]. Without a cursor it begins with what is published from now on.
    pub fn new(access: Access, part: Part, since: Option<String>) -> Hose {
        Hose { access, part, cursor: since, body: None, text: Vec::new(), again: Again::default() }
    }

    /// Where it stands.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Waits for what comes next. An error is the end: trying again would not help.
    pub async fn next(&mut self) -> anyhow::Result<Heard> {
        loop {
            let heard = match self.body {
                None => self.connect().await.map(|()| None),
                Some(_) => self.hear().await,
            };
            match heard {
                Ok(Some(heard)) => return Ok(heard),
                Ok(None) => {}
                Err(over) => {
                    self.body = None;
                    return self.again.after(over).await;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Over> {
        self.text.clear();
        let late = |_| anyhow!("no answer within {} s", ANSWER_WITHIN.as_secs());
        self.body = Some(timeout(ANSWER_WITHIN, self.open()).await.map_err(late)??);
        Ok(())
    }

    async fn open(&self) -> Result<Incoming, Over> {
        let server = &self.access.server.authority;
        let stream = TcpStream::connect(server).await.with_context(|| format!("cannot connect to {server}"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It carries the answer, and ends with it.
        tokio::spawn(connection);
        let request = hyper::Request::get(self.target())
            .header(header::HOST, server)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.part.token))
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let (status, body) = (response.status(), response.into_body());
        if status == StatusCode::OK {
            return Ok(body);
        }
        let told = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
        let told = anyhow!("{server} answered {status}: {}", told.trim());
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Over::Lost(told),
            _ => Over::Refused(told),
        })
    }

    fn target(&self) -> String {
        let channels = self.part.channels.join(",");
        let all = [
            ("channels", Some(channels.as_str()).filter(|channels| !channels.is_empty())),
            ("filter", self.part.filter.as_deref()),
            ("since", self.cursor.as_deref()),
        ];
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(all.into_iter().filter_map(|(name, value)| Some((name, value?))));
        format!("{}/firehose/{}?{}", self.access.server.prefix, self.access.key, query.finish())
    }

    /// The next line, or `None` if what has come is not all of it.
    async fn hear(&mut self) -> Result<Option<Heard>, Over> {
        if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.text.drain(..=end).collect();
            return self.heard(&line[..end]);
        }
        let body = self.body.as_mut().ok_or_else(|| anyhow!("not connected"))?;
        let frame = timeout(SILENCE, body.frame()).await.map_err(|_| anyhow!("the server fell silent"))?;
        let frame = frame.ok_or_else(|| anyhow!("the connection was closed"))??;
        self.text.extend(frame.into_data().unwrap_or_default());
        Ok(None)
    }

    fn heard(&mut self, line: &[u8]) -> Result<Option<Heard>, Over> {
        if line.is_empty() {
            return Ok(None);
        }
        let wrong = || format!("the server sent what is no message: {}", String::from_utf8_lossy(line));
        let said: Said = serde_json::from_slice(line).with_context(wrong)?;
        let told = match said.event.as_str() {
            "fanfare:closed" => return Err(said.closed()),
            "fanfare:gap" => Some(Heard::Gap("the firehose".to_owned())),
            "fanfare:subscribed" => {
                self.again = Again::from_here();
                // What comes next is behind its own cursor, should there be a gap.
                self.cursor = self.cursor.take().or(said.cursor);
                return Ok(Some(Heard::Note("reading the firehose".to_owned())));
            }
            _ => None,
        };
        self.cursor = said.cursor.clone().or(self.cursor.take());
        Ok(told.or_else(|| said.message().map(Heard::Message)))
    }
}
