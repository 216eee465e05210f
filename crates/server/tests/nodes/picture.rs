//! `fanfare cluster` and the metrics: who is there, and how the servers are.

use std::process::Command;

use serde_json::Value;

use crate::support::nodes::Nodes;
use crate::support::redis::Redis;
use crate::support::{eventually, one_app};

fn cluster(redis: &str, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    let output = command.arg("cluster").args(args).env("FANFARE_REDIS", redis).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

#[test]
fn nodes_and_servers_are_listed_and_those_that_stop_are_not() {
    let [one, two] = Redis::pair();
    let url = format!("{},{}", one.url(), two.url());
    let mut nodes = Nodes::start(&url, 2, &one_app(""));
    let mut subscriber = nodes.node(0).connect();
    (0..20).for_each(|n| subscriber.subscribe(&format!("room-{n}")));
    let counted = |ix: usize, name: &str, server: &Redis| {
        nodes.node(ix).metric(&format!("fanfare_{name}{{server=\"{}\"}}", server.addr()))
    };
    eventually("each node knows both", || (0..2).all(|ix| nodes.node(ix).metric("fanfare_nodes") == 2.0));
    eventually("messages go round", || counted(0, "redis_lag_seconds", &one) > 0.0);
    let subscriptions = |ix| counted(ix, "redis_subscriptions", &one) + counted(ix, "redis_subscriptions", &two);
    assert!(subscriptions(0) >= subscriptions(1) + 20.0);
    assert_eq!(counted(1, "redis_up", &two), 1.0);
    assert!(counted(1, "redis_memory_bytes", &two) > 0.0);

    let picture: Value = serde_json::from_str(&cluster(&url, &["--json"])).expect("it is JSON");
    let listens: Vec<&str> =
        picture["nodes"].as_object().expect("nodes").values().filter_map(|node| node["listen"].as_str()).collect();
    assert!((0..2).all(|ix| listens.contains(&nodes.addr(ix).to_string().as_str())), "{picture}");
    assert_eq!(picture["shards"].as_array().map(Vec::len), Some(2), "{picture}");
    let table = cluster(&url, &[]);
    assert!(table.contains("SHARD") && table.contains(&two.addr().to_string()), "{table}");

    nodes.terminate(1);
    eventually("it has said good-bye", || nodes.node(0).metric("fanfare_nodes") == 1.0);
}

#[test]
fn without_servers_there_is_no_cluster() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    let output = command.arg("cluster").current_dir(folder.path()).output().expect("it runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no Redis servers are configured"), "{output:?}");
}
