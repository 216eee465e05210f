//! Which server a client verb talks to, and as which app: flags first, then what the configuration says.

use super::FileArgs;
use crate::config::{AppSettings, Config, Secret};
use anyhow::{Context, bail};
use clap::Args;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// The flags that say which app is meant.
#[derive(Debug, Args)]
pub struct AppArgs {
    /// The app's id [default: the configuration's first app]
    #[arg(long, visible_alias = "app", value_name = "ID")]
    app_id: Option<String>,
    /// One of the app's keys
    #[arg(long)]
    key: Option<String>,
    /// The secret of that key
    #[arg(long)]
    secret: Option<String>,
    #[command(flatten)]
    file: FileArgs,
}

/// An app, as far as it is known.
#[derive(Debug)]
pub struct AppAccess {
    /// The app's id; only the HTTP API asks for it.
    pub app_id: Option<String>,
    /// One of the app's keys.
    pub key: String,
    /// Needed for all but public channels.
    pub secret: Option<Secret>,
}

impl AppArgs {
    /// Completes the flags from the configuration, which is not looked at if key and secret are given.
    pub fn resolve(self) -> anyhow::Result<AppAccess> {
        let complete = self.key.is_some() && self.secret.is_some();
        let config = if complete { Config::default() } else { self.file.source().load()? };
        self.completed(&config)
    }

    fn completed(self, config: &Config) -> anyhow::Result<AppAccess> {
        let app = find(config, self.app_id.as_deref(), self.key.as_deref());
        let pair = app.and_then(|app| match &self.key {
            Some(key) => app.keys.iter().find(|pair| *pair.key == **key),
            None => app.keys.first(),
        });
        let configured_key = pair.map(|pair| pair.key.to_string());
        Ok(AppAccess {
            app_id: self.app_id.or(app.map(|app| app.id.to_string())),
            key: self.key.or(configured_key).context("no such app in the configuration: say --key and --secret")?,
            secret: self.secret.map(|secret| Secret::new(&secret)).or(pair.map(|pair| pair.secret.clone())),
        })
    }
}

/// The flags that `publish` and `subscribe` share.
#[derive(Debug, Args)]
pub struct AccessArgs {
    /// The server, as http://… or ws://… [default: where the configuration listens]
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    app: AppArgs,
}

/// A server, and how to reach an app on it.
#[derive(Debug)]
pub struct Access {
    /// Where it is.
    pub server: Server,
    /// The app's id; only the HTTP API asks for it.
    pub app_id: Option<String>,
    /// One of the app's keys.
    pub key: String,
    /// Needed for all but public channels.
    pub secret: Option<Secret>,
}

impl AccessArgs {
    /// Completes the flags from the configuration, which is not looked at if they suffice.
    pub fn resolve(self) -> anyhow::Result<Access> {
        let app = &self.app;
        let complete = self.url.is_some() && app.app_id.is_some() && app.key.is_some() && app.secret.is_some();
        let config = match complete {
            true => Config::default(),
            false => app.file.source().load()?,
        };
        let server = match self.url {
            Some(url) => Server::parse(&url)?,
            None => Server::of(&config),
        };
        let AppAccess { app_id, key, secret } = self.app.completed(&config)?;
        Ok(Access { server, app_id, key, secret })
    }
}

/// The configured app that both flags fit, where they are given.
fn find<'a>(config: &'a Config, id: Option<&str>, key: Option<&str>) -> Option<&'a AppSettings> {
    config.apps.iter().find(|app| {
        id.is_none_or(|id| *app.id == *id) && key.is_none_or(|key| app.keys.iter().any(|pair| *pair.key == *key))
    })
}

/// The address of a server, and the path under which it serves.
#[derive(Debug, PartialEq, Eq)]
pub struct Server {
    /// `host:port`, as `connect` and the `Host` header take it.
    pub authority: String,
    /// Before `/app` and `/apps`; without a slash at its end.
    pub prefix: String,
}

impl Server {
    fn parse(url: &str) -> anyhow::Result<Server> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        match scheme {
            "http" | "ws" => {}
            "https" | "wss" => bail!("{url}: TLS is not spoken here; name the server behind the proxy that ends it"),
            _ => bail!("{url}: expected a URL such as http://127.0.0.1:6001"),
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if authority.is_empty() {
            bail!("{url}: expected a URL such as http://127.0.0.1:6001");
        }
        Ok(Server {
            authority: if has_port { authority.to_owned() } else { format!("{authority}:80") },
            prefix: path.trim_end_matches('/').to_owned(),
        })
    }

    /// The server that runs from this configuration, seen from the same machine.
    fn of(config: &Config) -> Server {
        let ip = match config.listen.ip() {
            ip if !ip.is_unspecified() => ip,
            ip if ip.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
            _ => Ipv6Addr::LOCALHOST.into(),
        };
        Server { authority: SocketAddr::new(ip, config.listen.port()).to_string(), prefix: config.path_prefix.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_config;

    fn server(authority: &str, prefix: &str) -> Server {
        Server { authority: authority.to_owned(), prefix: prefix.to_owned() }
    }

    #[test]
    fn a_url_may_leave_out_scheme_port_and_path() {
        let parse = |url| Server::parse(url).expect("sound");
        assert_eq!(parse("http://127.0.0.1:6001"), server("127.0.0.1:6001", ""));
        assert_eq!(parse("ws://push.example/realtime/"), server("push.example:80", "/realtime"));
        assert_eq!(parse("localhost:6001"), server("localhost:6001", ""));
        assert_eq!(parse("http://[::1]/"), server("[::1]:80", ""));
        assert!(Server::parse("wss://push.example").is_err());
        assert!(Server::parse("ftp://push.example").is_err());
        assert!(Server::parse("http:///x").is_err());
    }

    #[test]
    fn a_server_that_listens_everywhere_is_reached_on_loopback() {
        let apps = "[[apps]]\nid = 1\nkeys = [{ key = \"k\", secret = \"s\" }]";
        let config = test_config(&format!("listen = \"0.0.0.0:80\"\npath_prefix = \"/rt\"\n{apps}"));
        assert_eq!(Server::of(&config), server("127.0.0.1:80", "/rt"));
        let config = test_config(&format!("listen = \"[::]:80\"\n{apps}"));
        assert_eq!(Server::of(&config), server("[::1]:80", ""));
    }

    #[test]
    fn an_app_is_found_by_what_is_given() {
        let config = test_config(
            "[[apps]]\nid = 1\nkeys = [{ key = \"a\", secret = \"s\" }]\n\
             [[apps]]\nid = 2\nkeys = [{ key = \"b\", secret = \"s\" }, { key = \"c\", secret = \"s\" }]",
        );
        let id = |id, key| find(&config, id, key).map(|app| app.id.to_string());
        assert_eq!(id(None, None).as_deref(), Some("1"));
        assert_eq!(id(Some("2"), None).as_deref(), Some("2"));
        assert_eq!(id(None, Some("c")).as_deref(), Some("2"));
        assert_eq!(id(Some("1"), Some("c")), None);
    }
}
