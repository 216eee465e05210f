//! What the servers of a Cluster say about its slots. Where they differ, who knows the higher epoch is right: a primary that
//! was cut off goes on believing in itself.

use super::dial::Address;
use super::fault::Fault;
use super::topology::Answer;
use redis::Cmd;
use std::collections::HashMap;

/// What each of them is asked.
pub(super) fn question() -> Cmd {
    let mut question = redis::cmd("CLUSTER");
    question.arg("NODES");
    question
}

/// Who has which slots.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Ranges of slots, with the epoch of whoever claims them.
    claims: Vec<(std::ops::RangeInclusive<u16>, u64, Address)>,
    servers: Vec<Address>,
}

impl View {
    /// What all who answered say together.
    pub fn merged(answers: Vec<Answer>) -> Result<View, Fault> {
        let mut view = View::default();
        let mut faults = Vec::new();
        for (at, answer) in answers {
            let text = answer.and_then(|value| {
                redis::from_redis_value::<String>(value).map_err(|error| Fault::passing(error.to_string()))
            });
            match text {
                Ok(text) => text.lines().for_each(|line| view.read(line, &at)),
                Err(fault) => faults.push(fault.at(at)),
            }
        }
        match view.claims.is_empty() {
            true => Err(Fault::of_all(faults)),
            false => Ok(view),
        }
    }

    /// `id ip:port@cport,hostname flags primary ping pong epoch link slot-slot …`
    fn read(&mut self, line: &str, told_by: &Address) {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, place, flags, _, _, _, epoch, _, slots @ ..] = &words[..] else { return };
        let Some(address) = address(place, told_by) else { return };
        if flags.contains("fail") && !flags.contains("fail?") || flags.contains("noaddr") {
            return;
        }
        let (Some(epoch), true) = (epoch.parse().ok(), flags.contains("master")) else {
            self.servers.push(address);
            return;
        };
        // `[93-<-…]` are slots on their way: they are where they were until they have arrived.
        for slots in slots.iter().filter(|slots| !slots.starts_with('[')) {
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            if let (Ok(first), Ok(last)) = (first.parse(), last.parse()) {
                self.claims.push((first..=last, epoch, address.clone()));
            }
        }
        self.servers.push(address);
    }

    /// All servers that are there, replicas too.
    pub fn servers(&self) -> impl Iterator<Item = &Address> {
        self.servers.iter()
    }

    /// Who has a slot.
    pub fn primary_of(&self, slot: u16) -> Option<&Address> {
        let claims = self.claims.iter().filter(|(slots, ..)| slots.contains(&slot));
        // Of equal epochs, what most say.
        let mut votes: HashMap<(u64, &Address), usize> = HashMap::new();
        for (_, epoch, address) in claims {
            *votes.entry((*epoch, address)).or_default() += 1;
        }
        let latest = votes.into_iter().max_by_key(|((epoch, _), votes)| (*epoch, *votes));
        latest.map(|((_, address), _)| address)
    }
}

/// A server does not know its own address before another has told it; a name is what certificates are made out to.
fn address(place: &str, told_by: &Address) -> Option<Address> {
    let (place, name) =
        place.split_once(',').map_or((place, ""), |(place, rest)| (place, rest.split(',').next().unwrap_or("")));
    let (ip, port) = place.split('@').next()?.rsplit_once(':')?;
    let host = [name, ip, &told_by.host].into_iter().find(|host| !host.is_empty())?;
    Some(Address { host: host.into(), port: port.parse().ok()?, tls: told_by.tls })
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::Value;

    fn at(port: u16) -> Address {
        Address { host: "127.0.0.1".into(), port, tls: false }
    }

    fn view(told: &[(u16, &str)]) -> View {
        let answer = |&(port, text): &(u16, &str)| (at(port), Ok(Value::BulkString(text.into())));
        View::merged(told.iter().map(answer).collect()).expect("somebody knows")
    }

    #[test]
    fn slots_belong_to_those_who_claim_them() {
        let view = view(&[(
            7001,
            "aa :7001@17001 myself,master - 0 0 1 connected 0-5460 5462\n\
             bb 127.0.0.1:7002@17002,redis-b master - 0 0 2 connected 5461 5463-16383 [93-<-aa]\n\
             cc 127.0.0.1:7003@17003 slave aa 0 0 1 connected\n",
        )]);
        assert_eq!(view.primary_of(0), Some(&at(7001)));
        assert_eq!(view.primary_of(5462), Some(&at(7001)));
        let named = Address { host: "redis-b".into(), ..at(7002) };
        assert_eq!(view.primary_of(5461), Some(&named));
        assert_eq!(view.servers().count(), 3);
    }

    #[test]
    fn a_primary_that_was_replaced_is_not_believed() {
        let view = view(&[
            (7001, "aa 127.0.0.1:7001@17001 myself,master - 0 0 1 connected 0-16383\n"),
            (
                7002,
                "aa 127.0.0.1:7001@17001 master,fail - 0 0 1 connected\n\
                 bb 127.0.0.1:7002@17002 myself,master - 0 0 7 connected 0-16383\n",
            ),
        ]);
        assert_eq!(view.primary_of(100), Some(&at(7002)));
    }
}
