//! Which unit a channel belongs to, and which slots of a Cluster the units are in.
//!
//! Every node must answer alike, of any version: what is hashed here, and how, is part of the protocol between them.

use super::UnitIx;

/// How many units a Cluster has. A channel's partition never changes, so that only slots move between servers.
pub(super) const PARTITIONS: u16 = 64;
/// Slots of a Cluster.
const SLOTS: u16 = 16384;
/// A tag is good if its slot is so near to the one wanted: a seventeenth of the distance to the next.
const SLOT_ERROR_MAX: u16 = 8;

/// Rendezvous hashing: a channel belongs to the unit that scores highest with it, so that a unit that is added takes channels
/// from all others, and one that is removed gives its own to all others, and no other channel moves.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    units: Vec<(UnitIx, u64)>,
}

impl Ring {
    /// A ring of units and their names, of which there is at least one.
    pub fn new<'a>(units: impl IntoIterator<Item = (UnitIx, &'a str)>) -> Ring {
        let units: Vec<_> = units.into_iter().map(|(ix, name)| (ix, hash(name.as_bytes()))).collect();
        assert!(!units.is_empty(), "the configuration names a server");
        Ring { units }
    }

    /// The same for the same names, in whatever order.
    pub fn fingerprint(&self) -> u64 {
        self.units.iter().fold(0, |sum, (_, name)| mixed(*name).wrapping_add(sum))
    }

    /// Its units.
    pub fn units(&self) -> impl Iterator<Item = UnitIx> + '_ {
        self.units.iter().map(|&(ix, _)| ix)
    }

    /// The unit of a channel, which its hash stands for as it does in cursors.
    pub fn unit_of(&self, channel: u64) -> UnitIx {
        let score = |&(ix, unit): &(UnitIx, u64)| (mixed(channel ^ unit), unit, ix);
        let (.., ix) = self.units.iter().map(score).max().expect("there is a unit");
        ix
    }
}

/// Which server has which partition: the one that scores highest with it and has room, as none has more than its share.
/// A server that is added or removed moves few others' partitions.
pub(super) fn shares(partitions: &[&str], servers: &[&str]) -> Vec<usize> {
    let room = partitions.len().div_ceil(servers.len());
    let mut taken = vec![0; servers.len()];
    let share = |partition: &&str| {
        let score = |&ix: &usize| mixed(hash(partition.as_bytes()) ^ hash(servers[ix].as_bytes()));
        let best = (0..servers.len()).filter(|&ix| taken[ix] < room).max_by_key(score).expect("there is room for all");
        taken[best] += 1;
        best
    };
    partitions.iter().map(share).collect()
}

/// FNV-1a, and then mixed, as its high bits change little with the last bytes.
fn hash(name: &[u8]) -> u64 {
    mixed(
        name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)),
    )
}

/// The last step of splitmix64.
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The hash tags of the partitions. Their slots are spread evenly, so that servers with equal shares of the slots have
/// equal shares of the partitions.
pub(super) fn partition_tags() -> Vec<String> {
    (0..PARTITIONS).map(partition_tag).collect()
}

fn partition_tag(partition: u16) -> String {
    let width = SLOTS / PARTITIONS;
    let wanted = partition * width + width / 2;
    let near = |tag: &String| slot_of_tag(tag.as_bytes()).abs_diff(wanted) <= SLOT_ERROR_MAX;
    (0..).map(|n: u32| format!("p{partition:02}.{n}")).find(near).expect("slots of many tags are everywhere")
}

/// The slot of what stands between braces in a key: CRC-16/XMODEM.
pub(super) fn slot_of_tag(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0u16, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use fanfare_proto::cursor::channel_hash;

    fn ring(names: &[&'static str]) -> Ring {
        Ring::new(names.iter().enumerate().map(|(i, name)| (UnitIx(i as u16), *name)))
    }

    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(slot_of_tag(b"123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot_of_tag(b"foo"), 12182);
    }

    #[test]
    fn partitions_lie_evenly_in_the_slots() {
        let slots: Vec<u16> = partition_tags().iter().map(|tag| slot_of_tag(tag.as_bytes())).collect();
        assert_eq!(slots.len(), 64);
        for (i, slot) in slots.into_iter().enumerate() {
            assert!(slot.abs_diff(i as u16 * 256 + 128) <= SLOT_ERROR_MAX, "{i}: {slot}");
        }
    }

    #[test]
    fn channels_are_shared_out_evenly() {
        let ring = ring(&["127.0.0.1:7001", "127.0.0.1:7002"]);
        let first =
            (0..10_000).filter(|n| ring.unit_of(channel_hash("1", &format!("channel-{n}"))) == UnitIx(0)).count();
        assert!((4_800..=5_200).contains(&first), "{first}");
    }

    #[test]
    fn a_new_unit_takes_its_share_and_moves_no_other_channel() {
        let (before, after) = (ring(&["a:1", "b:1"]), ring(&["a:1", "b:1", "c:1"]));
        let moved = (0..10_000).filter(|n| {
            let channel = channel_hash("app", &format!("room-{n}"));
            let (old, new) = (before.unit_of(channel), after.unit_of(channel));
            assert!(old == new || new == UnitIx(2), "room-{n} went from {old:?} to {new:?}");
            old != new
        });
        let moved = moved.count();
        assert!((3_000..=3_700).contains(&moved), "{moved}");
    }

    #[test]
    fn rings_of_the_same_servers_are_the_same() {
        let ring_of = ring(&["a:1", "b:1"]);
        assert_eq!(ring_of.fingerprint(), ring(&["b:1", "a:1"]).fingerprint());
        assert_ne!(ring_of.fingerprint(), ring(&["a:1", "b:2"]).fingerprint());
    }

    #[test]
    fn servers_share_partitions_evenly_and_keep_most_when_one_comes() {
        let tags = partition_tags();
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        let (two, three) = (shares(&tags, &["a:1", "b:1"]), shares(&tags, &["a:1", "b:1", "c:1"]));
        assert_eq!(two.iter().filter(|server| **server == 0).count(), 32);
        let moved = two.iter().zip(&three).filter(|(before, after)| before != after).count();
        assert!((21..=32).contains(&moved), "{moved}");
    }

    #[test]
    fn nodes_of_all_versions_agree() {
        let ring = ring(&["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"]);
        let units: Vec<u16> = (0..8).map(|n| ring.unit_of(channel_hash("1", &format!("c{n}"))).0).collect();
        assert_eq!(units, AGREED);
    }

    const AGREED: [u16; 8] = [2, 1, 2, 0, 0, 1, 1, 1];
}
