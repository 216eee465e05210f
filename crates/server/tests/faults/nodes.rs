//! Nodes that die, stop, and come back.

use std::time::Instant;

use super::show::{Show, config};
use crate::support::Nodes;

/// The crowd against one node without Redis, which keeps its histories over an orderly restart and loses them in a crash.
#[test]
fn the_crowd_resumes_and_is_told() {
    let mut show = Show::begin("one node", Nodes::start("", 1, &config()));
    show.nodes.kill(0);
    show.nodes.restart(0);
    show.recover("killed", Instant::now());
    let verdict = show.end();
    assert!(verdict.told > 0, "a crash loses histories, which is told: {verdict:?}");
}
