//! Hashes that are the same on every node and after every restart.

use sha2::{Digest as _, Sha256};

/// Stands for a text, of whatever length.
pub(super) fn digest(text: &str) -> u128 {
    let [hash, _] = halves(text);
    hash
}

/// Where in 0..100 a text falls, evenly.
pub(super) fn percentile(text: &str) -> f64 {
    let [_, hash] = halves(text);
    hash as f64 / (u128::MAX as f64) * 100.0
}

fn halves(text: &str) -> [u128; 2] {
    let hash: [u8; 32] = Sha256::digest(text).into();
    let half = |index| u128::from_be_bytes(hash[index..index + 16].try_into().expect("it is 16 bytes long"));
    [half(0), half(16)]
}

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another hash would make another choice after an update.
    #[test]
    fn a_text_always_falls_in_the_same_place() {
        assert_eq!(digest(""), 0xe3b0_c442_98fc_1c14_9afb_f4c8_996f_b924);
        assert_eq!((percentile("a") * 100.0) as u32, 6544);
    }

    #[test]
    fn texts_fall_evenly() {
        let below = |limit| (0..10_000).filter(|n| percentile(&n.to_string()) < limit).count();
        for (limit, about) in [(1.0, 100), (10.0, 1000), (50.0, 5000)] {
            assert!(below(limit).abs_diff(about) < about / 4, "{limit}: {}", below(limit));
        }
        assert_eq!((below(0.0), below(100.0)), (0, 10_000));
    }
}
