//! `fanfare cluster`: the nodes that share the configured Redis servers, and those servers.

use crate::redis::nodes::{self, Report, Server};
use crate::redis::{LinkEvents, Redis, UnitIx};
use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

/// What `fanfare cluster` is told.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    #[command(flatten)]
    file: super::FileArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything that is printed.
#[derive(Debug, Serialize)]
struct Picture {
    nodes: BTreeMap<String, Report>,
    shards: Vec<Server>,
}

/// Somebody who only looks.
struct Nobody;

#[async_trait]
impl LinkEvents for Nobody {
    async fn message(&self, _unit: UnitIx, _channel: &[u8], _payload: Bytes) {}
    fn down(&self, _unit: UnitIx) {}
    async fn up(&self, _unit: UnitIx, _generation: u64) {}
}

/// Prints who is there.
pub async fn run(args: ClusterArgs) -> anyhow::Result<()> {
    let settings = args.file.source().load()?.redis;
    let settings = settings.context("no Redis servers are configured, so that each node is alone")?;
    let redis = Redis::start(&settings, Arc::new(Nobody)).await?;
    let nodes = nodes::heard(&redis).await;
    let picture = Picture { shards: shards(redis.servers(), &nodes), nodes };
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&picture)?),
        false => print!("{}", tables(&picture)),
    }
    Ok(())
}

/// What all nodes together see of the servers: the sum of their subscriptions, and the worst of their lags.
fn shards(mut servers: Vec<Server>, nodes: &BTreeMap<String, Report>) -> Vec<Server> {
    for server in &mut servers {
        let seen = || nodes.values().flat_map(|node| &node.servers).filter(|seen| seen.server == server.server);
        let (subscriptions, lag_us, lost) = seen().fold((0, 0, 0), |(subscriptions, lag_us, lost), seen| {
            (subscriptions + seen.subscriptions, lag_us.max(seen.lag_us), lost + seen.lost)
        });
        *server = Server { subscriptions, lag_us, lost, ..std::mem::take(server) };
    }
    servers
}

fn tables(picture: &Picture) -> String {
    let head = ["NODE", "LISTEN", "ROLE", "VERSION", "UPTIME", "CONNECTIONS", "SUBSCRIPTIONS", "LAG"];
    let nodes = picture.nodes.iter().map(|(name, node)| {
        let subscriptions: usize = node.servers.iter().map(|server| server.subscriptions).sum();
        let lag_us = node.servers.iter().map(|server| server.lag_us).max().unwrap_or(0);
        [
            name.clone(),
            node.listen.clone(),
            node.role.clone(),
            node.version.clone(),
            format!("{} s", node.uptime_s),
            node.connections.to_string(),
            subscriptions.to_string(),
            milliseconds(lag_us),
        ]
    });
    let nodes = super::listing::columns(head, nodes);
    let head = ["SHARD", "UP", "UNITS", "CHANNELS", "SUBSCRIPTIONS", "LAG", "LOST", "MEMORY"];
    let shards = picture.shards.iter().map(|shard| {
        [
            shard.server.clone(),
            if shard.up { "yes" } else { "no" }.to_owned(),
            shard.units.to_string(),
            shard.channels.to_string(),
            shard.subscriptions.to_string(),
            milliseconds(shard.lag_us),
            shard.lost.to_string(),
            memory(shard),
        ]
    });
    let mut text = nodes;
    writeln!(text).expect("a String takes all");
    text.push_str(&super::listing::columns(head, shards));
    let rings: BTreeSet<&str> = picture.nodes.values().map(|node| &*node.ring).collect();
    if rings.len() > 1 {
        text.push_str("\nThe nodes are configured with different servers, and do not hear each other.\n");
    }
    text
}

fn milliseconds(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}

fn memory(shard: &Server) -> String {
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    match shard.memory_max {
        0 => mib(shard.memory),
        max => format!("{} of {}", mib(shard.memory), mib(max)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_shards_are_tables() {
        let seen = |subscriptions, lag_us| Server {
            server: "127.0.0.1:7001".to_owned(),
            up: true,
            units: 1,
            channels: 12,
            memory: 3 << 20,
            subscriptions,
            lag_us,
            ..Server::default()
        };
        let node = |listen: &str, server| Report {
            listen: listen.to_owned(),
            version: "0.1.0".to_owned(),
            role: "all".to_owned(),
            servers: vec![server],
            ..Report::default()
        };
        let nodes: BTreeMap<_, _> =
            [("a".to_owned(), node("h:1", seen(3, 400))), ("b".to_owned(), node("h:2", seen(4, 900)))].into();
        let picture = Picture { shards: shards(vec![seen(0, 0)], &nodes), nodes };
        let expected = "\
NODE  LISTEN  ROLE  VERSION  UPTIME  CONNECTIONS  SUBSCRIPTIONS  LAG
a     h:1     all   0.1.0    0 s     0            3              0.4 ms
b     h:2     all   0.1.0    0 s     0            4              0.9 ms

SHARD           UP   UNITS  CHANNELS  SUBSCRIPTIONS  LAG     LOST  MEMORY
127.0.0.1:7001  yes  1      12        7              0.9 ms  0     3.0 MiB
";
        assert_eq!(tables(&picture), expected);
    }
}
