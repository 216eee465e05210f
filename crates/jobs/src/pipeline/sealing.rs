//! Pusher's end-to-end encryption: what goes to a channel whose name begins with `private-encrypted-`.
//!
//! Each channel has a secret of its own, the hash of its name and the master key; the application gives it to those who
//! may listen, when they subscribe. The event's data is NaCl's secretbox of the text, so this is done per route, at the
//! moment of writing.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crypto_secretbox::aead::Aead as _;
use crypto_secretbox::{KeyInit as _, Nonce, XSalsa20Poly1305};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::record::Unsayable;

/// What the names of encrypted channels begin with.
pub const ENCRYPTED: &str = "private-encrypted-";

/// Holds an application's master key.
pub struct Sealer {
    master: [u8; 32],
    random: SystemRandom,
}

impl Sealer {
    pub(super) fn new(master: [u8; 32]) -> Sealer {
        Sealer { master, random: SystemRandom::new() }
    }

    pub(super) fn seal(&self, channel: &str, text: &str) -> Result<String, Unsayable> {
        let mut nonce = Nonce::default();
        self.random.fill(&mut nonce).map_err(|_| Unsayable::NoNonce)?;
        let secret = Sha256::new().chain_update(channel).chain_update(self.master).finalize();
        let cipher = XSalsa20Poly1305::new(&secret);
        let sealed = cipher.encrypt(&nonce, text.as_bytes()).expect("a secretbox takes any text that fits in memory");
        let (nonce, ciphertext) = (BASE64_STANDARD.encode(nonce), BASE64_STANDARD.encode(sealed));
        Ok(json!({ "nonce": nonce, "ciphertext": ciphertext }).to_string())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// As a client does it that was given the channel's secret.
    #[test]
    fn what_was_sealed_can_be_opened_with_the_secret_of_its_channel() {
        let sealer = Sealer::new([7; 32]);
        let sealed = sealer.seal("private-encrypted-a", "hello ü").expect("there is randomness");
        let open = |channel: &str| {
            let sealed: Value = serde_json::from_str(&sealed).expect("it is JSON");
            let bytes =
                |key: &str| BASE64_STANDARD.decode(sealed[key].as_str().expect("it is text")).expect("it is Base64");
            let secret = Sha256::digest([channel.as_bytes(), &[7; 32]].concat());
            XSalsa20Poly1305::new(&secret).decrypt(Nonce::from_slice(&bytes("nonce")), &bytes("ciphertext")[..])
        };
        assert_eq!(open("private-encrypted-a").expect("it opens"), "hello ü".as_bytes());
        assert!(open("private-encrypted-b").is_err());
        assert_ne!(sealer.seal("private-encrypted-a", "hello ü"), Ok(sealed), "a nonce is used once");
    }
}
