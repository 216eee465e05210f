//! The server to measure, and an app on it: addresses and credentials, and the signed requests made of them.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use fanfare_proto::sign::sign_query;
use serde::{Deserialize, Serialize};

/// Where the server is and which app to use. The defaults are Fanfare's development app.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// The server: host:port, also as ws:// or http:// (without TLS); several nodes with commas between them share the
    /// subscribers, by client process, and the requests in flight
    #[arg(long, default_value = "127.0.0.1:6001", value_name = "HOST:PORT", value_parser = Server::parse, value_delimiter = ',')]
    pub url: Vec<Server>,
    #[command(flatten)]
    pub app: App,
    /// How the server is spoken to
    #[arg(long, value_enum, default_value_t = Dialect::Fanfare)]
    pub dialect: Dialect,
}

/// The addresses and publishing rules of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Dialect {
    /// The Pusher protocol's, and /sub for the other transports
    Fanfare,
    /// nginx with nchan, as `compare --against nchan` sets it up; for long-polling
    Nchan,
}

/// An app's credentials.
#[derive(Debug, Clone, clap::Args)]
pub struct App {
    #[arg(long, default_value = "fanfare-key")]
    pub key: String,
    #[arg(long, default_value = "fanfare-secret")]
    pub secret: Secret,
    #[arg(long, default_value = "1")]
    pub app_id: String,
}

/// An address with the name it was found by.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Server {
    pub address: SocketAddr,
    pub host: String,
}

impl Server {
    fn parse(text: &str) -> Result<Server> {
        ensure!(!text.starts_with("wss:") && !text.starts_with("https:"), "TLS is not measured: use ws:// or http://");
        let host = text.split_once("://").map_or(text, |(_, rest)| rest).trim_end_matches('/');
        let mut found = host.to_socket_addrs().with_context(|| format!("{host} is not host:port"))?;
        let address = found.next().with_context(|| format!("{host} has no address"))?;
        Ok(Server { address, host: host.to_owned() })
    }
}

/// An app's secret. Not shown by `Debug`.
#[derive(Clone)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(secret: String) -> Secret {
        Secret(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Target {
    /// Where the n-th client process or lane goes.
    pub fn server(&self, n: u32) -> &Server {
        &self.url[n as usize % self.url.len()]
    }

    /// The path of one of the app's own resources.
    pub fn path(&self, resource: &str) -> String {
        format!("/apps/{}/{resource}", self.app.app_id)
    }

    /// Appends nchan's way to publish: a POST that nobody signs.
    pub fn bare_post(&self, channel: &str, body: &[u8], out: &mut Vec<u8>) {
        let (host, length) = (&self.server(0).host, body.len());
        let head = format!(
            "POST /pub?id={channel} HTTP/1.1\r\nHost: {host}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
        );
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(body);
    }

    /// Appends a signed POST of a JSON body.
    pub fn signed_post(&self, path: &str, body: &[u8], out: &mut Vec<u8>) {
        let App { key, secret, .. } = &self.app;
        let query = sign_query(secret.0.as_bytes(), key, "POST", path, &[], body, unix_s());
        let (host, length) = (&self.server(0).host, body.len());
        let head = format!(
            "POST {path}?{query} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(body);
    }
}

/// The time as API signatures want it.
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970").as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_given_with_or_without_a_scheme() {
        for text in ["127.0.0.1:6001", "ws://127.0.0.1:6001", "http://127.0.0.1:6001/"] {
            let server = Server::parse(text).expect(text);
            assert_eq!((server.address.to_string(), server.host), ("127.0.0.1:6001".into(), "127.0.0.1:6001".into()));
        }
        assert!(Server::parse("127.0.0.1").is_err());
        assert!(Server::parse("wss://127.0.0.1:6001").is_err());
    }

    #[test]
    fn a_secret_does_not_show() {
        assert!(!format!("{:?}", Secret::from("hush".to_owned())).contains("hush"));
    }
}
