//! Several nodes over Redis, and what becomes of their subscribers when machines and networks fail.
//!
//! Not here: what one node does without Redis (`robustness`).

mod support;

mod faults {
    mod fixtures;
}
