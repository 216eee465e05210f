//! One signed request to the HTTP API, as the verbs of the command line make them.

use super::access::Access;
use crate::tokens::now_s;
use anyhow::{Context, bail};
use bytes::Bytes;
use fanfare_proto::sign::sign_query;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A server that has not answered by then will not.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What is asked of an app's API.
pub struct Request {
    method: Method,
    /// Below `/apps/{id}`.
    path: String,
    params: Vec<(&'static str, String)>,
    body: String,
    /// How long the server may take its time, beside [`ANSWER_WITHIN`].
    patience: Duration,
}

impl Request {
    /// A question. Parameters without a value are left out.
    pub fn get(path: impl Into<String>, params: Vec<(&'static str, Option<String>)>) -> Request {
        let params = params.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        Request { method: Method::GET, params, ..Request::post(path, String::new()) }
    }

    /// Something to do.
    pub fn post(path: impl Into<String>, body: String) -> Request {
        Request { method: Method::POST, path: path.into(), params: Vec::new(), body, patience: Duration::ZERO }
    }

    /// Something to take away.
    pub fn delete(path: impl Into<String>) -> Request {
        Request { method: Method::DELETE, ..Request::post(path, String::new()) }
    }

    /// One whose answer may take so much longer.
    pub fn patient(self, patience: Duration) -> Request {
        Request { patience, ..self }
    }

    /// The body of the answer; one that is no success is an error.
    pub async fn send(self, access: &Access) -> anyhow::Result<String> {
        let server = access.server.authority.clone();
        let within = ANSWER_WITHIN + self.patience;
        let request = self.signed(access, now_s())?;
        let (status, answer) = ask(&server, request, within).await?;
        if !status.is_success() {
            bail!("{server} answered {status}: {}", answer.trim());
        }
        Ok(answer.trim().to_owned())
    }

    /// The request itself, for connections that are kept.
    pub fn signed_now(self, access: &Access) -> anyhow::Result<hyper::Request<Full<Bytes>>> {
        self.signed(access, now_s())
    }

    fn signed(self, access: &Access, now_s: u64) -> anyhow::Result<hyper::Request<Full<Bytes>>> {
        let app_id = access.app_id.as_deref().context("no such app in the configuration: say --app-id")?;
        let secret = access.secret.as_ref().context("no such app in the configuration: say --secret")?;
        // The prefix belongs to whatever stands before the app's API, so it is not signed.
        let path = format!("/apps/{app_id}{}", self.path);
        let params: Vec<_> = self.params.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (secret, method) = (secret.as_bytes(), self.method.as_str());
        let query = sign_query(secret, &access.key, method, &path, &params, self.body.as_bytes(), now_s);
        let request = hyper::Request::builder()
            .method(self.method)
            .uri(format!("{}{path}?{query}", access.server.prefix))
            .header(header::HOST, &access.server.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(self.body))?;
        Ok(request)
    }
}

/// One request on a connection of its own.
pub(super) async fn ask(
    server: &str,
    request: hyper::Request<Full<Bytes>>,
    within: Duration,
) -> anyhow::Result<(StatusCode, String)> {
    let late = || format!("{server} did not answer within {} s", within.as_secs());
    timeout(within, exchange(server, request)).await.with_context(late)?
}

async fn exchange(server: &str, request: hyper::Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, String)> {
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
        let request = || Request::post("/events", "{}".to_owned());
        let uri = |prefix| request().signed(&access(prefix), 1_353_088_179).expect("sound").uri().to_string();
        let plain = uri("");
        assert!(
            plain.starts_with("/apps/3/events?auth_key=278d425bdf160c739803&auth_timestamp=1353088179&"),
            "{plain}"
        );
        assert_eq!(uri("/rt"), format!("/rt{plain}"));
    }
}
