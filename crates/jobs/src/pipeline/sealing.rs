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
