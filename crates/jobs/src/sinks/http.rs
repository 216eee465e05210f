//! Records as HTTP requests to one target.
//!
//! What is asked of a target is said by an [`Ask`]; here is what its answers mean. A record that makes several requests
//! is confirmed when all of them are; they go one after the other, so their order is kept.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::HeaderMap;
use hyper::{Method, Request, StatusCode, Uri};

use super::client::Answer;
use super::{Client, Delivery, Sink, SinkError};

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// To where.
    pub uri: Uri,
    /// Beside those that the configuration says.
    pub headers: HeaderMap,
    /// What.
    pub body: Bytes,
}

/// Makes requests of records.
pub trait Ask: Send + Sync {
    /// The requests that deliver this record to the target at `uri`.
    fn ask(&self, uri: &Uri, delivery: Delivery<'_>) -> Result<Vec<Asked>, SinkError>;
}

/// A target, and how it is talked to.
pub struct Posts {
    /// Sends.
    pub client: Client,
    /// Where the target is.
    pub uri: Uri,
    /// Mostly `POST`.
    pub method: Method,
    /// For each request.
    pub headers: HeaderMap,
    /// For each request, from connecting to the head of the answer.
    pub timeout: Duration,
    /// What the target says when it has taken something; nothing: 2xx.
    pub success: Vec<StatusCode>,
    /// What is said to it.
    pub ask: Box<dyn Ask>,
}

#[async_trait]
impl Sink for Posts {
    async fn deliver(&self, delivery: Delivery<'_>) -> Result<(), SinkError> {
        for asked in self.ask.ask(&self.uri, delivery)? {
            let answer = self.client.send(self.request(asked), self.timeout).await?;
            self.judge(answer)?;
        }
        Ok(())
    }
}

impl Posts {
    fn request(&self, asked: Asked) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(asked.body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = asked.uri;
        let headers = request.headers_mut();
        headers.extend(asked.headers);
        headers.extend(self.headers.clone());
        request
    }

    fn judge(&self, Answer { status, after }: Answer) -> Result<(), SinkError> {
        let taken = if self.success.is_empty() { status.is_success() } else { self.success.contains(&status) };
        if taken {
            return Ok(());
        }
        let why = format!("answered {status}");
        Err(match status.as_u16() {
            408 | 425 | 429 | 502..=504 => SinkError::Away { after, why },
            // What is wrong with the record. The other 4xx say rather that the target is not what it should be: a
            // wrong path, or a token that has run out.
            400 | 406 | 409 | 411..=418 | 422 | 431 => SinkError::Refused(why),
            _ => SinkError::Failed(why),
        })
    }
}
