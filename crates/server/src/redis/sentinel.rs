//! What Sentinels say about a primary. They agree in the end; until then, the one that knows the latest failover is right.

use super::dial::Address;
use super::fault::Fault;
use super::topology::Answer;
use redis::Cmd;
use std::collections::HashMap;

/// What each of them is asked.
pub(super) fn question(master: &str) -> Cmd {
    let mut question = redis::cmd("SENTINEL");
    question.arg("MASTER").arg(master);
    question
}

/// The primary of the highest epoch.
pub(super) fn primary(answers: Vec<Answer>) -> Result<Address, Fault> {
    let mut faults = Vec::new();
    let mut primaries = Vec::new();
    for (at, answer) in answers {
        let fields = answer.and_then(|value| {
            redis::from_redis_value::<HashMap<String, String>>(value).map_err(|error| Fault::passing(error.to_string()))
        });
        match fields.and_then(|fields| read(&fields, &at).ok_or_else(|| Fault::passing("it does not say where it is")))
        {
            Ok(primary) => primaries.push(primary),
            Err(fault) => faults.push(fault.at(format_args!("sentinel {at}"))),
        }
    }
    let latest = primaries.into_iter().max_by_key(|(epoch, _)| *epoch);
    latest.map(|(_, address)| address).ok_or_else(|| Fault::of_all(faults))
}

fn read(fields: &HashMap<String, String>, sentinel: &Address) -> Option<(u64, Address)> {
    let port = fields.get("port")?.parse().ok()?;
    let epoch = fields.get("config-epoch")?.parse().ok()?;
    Some((epoch, Address { host: fields.get("ip")?.as_str().into(), port, tls: sentinel.tls }))
}
