//! Several nodes that share Redis servers, while all of them are well: what each is there for, and how subscribers pass from one
//! to the next.
//!
//! Not here: what happens when a machine or a network fails (`faults`).

mod support;

mod nodes {
    mod failover;
    mod firehose;
    mod gaps;
    mod groups;
    mod limits;
    mod passing;
    mod picture;
    mod presence;
    mod refills;
    mod relays;
    mod roles;
    mod workers;
}
