//! What becomes of subscribers when machines and networks fail: of several nodes over Redis, and of one that is killed under load.
//!
//! Every test prints its seed and what it counted; *lost* is what a subscriber missed without being told, and must be none.
//! A seed and a longer time can be given: `cargo xtask faults`.
//!
//! Not here: what else one node does without Redis (`robustness`).

mod support;

mod faults {
    mod balancers;
    mod crowd;
    mod dice;
    mod ear;
    mod fixtures;
    mod kills;
    mod members;
    mod network;
    mod nodes;
    mod press;
    mod servers;
    mod shards;
    mod show;
    mod tally;
}
