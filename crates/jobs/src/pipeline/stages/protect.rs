//! What others than those it is for must not read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};

use crate::pipeline::hash::hex;
use crate::pipeline::params::{Bad, Params};
use crate::pipeline::path::Path;
use crate::pipeline::record::{Body, Record};
use crate::pipeline::registry::{Reads, StageKind, optional, required};
use crate::pipeline::sealing::Sealer;
use crate::pipeline::stage::{At, Failed, OnError, Outcome, Stage};

/// Bytes of a hash that are kept: enough that no two texts share one.
const HASH_BYTES: usize = 16;

pub(crate) const KINDS: &[StageKind] = &[
    StageKind {
        name: "anonymise",
        summary: "Takes out of fields whom they are about: `drop` takes the field out; `hash` leaves 32 hexadecimal digits \
                  that are the same for the same value, and say nothing to whoever does not have the key (HMAC-SHA256); `ip` \
                  leaves an address' network (the first 24 bits of IPv4, 48 of IPv6). Fields that are not there, or null, are left \
                  alone.",
        keys: &[
            required("fields", "table", "What to do with each: `{ email = \"hash\", name = \"drop\", ip = \"ip\" }`."),
            optional("key", "name of a key", "The key to hash with, 16 bytes at least."),
        ],
        reads: Reads::Fields,
        on_error: OnError::DeadLetter,
        build: anonymise,
    },
    StageKind {
        name: "encrypt",
        summary: "Encrypts fields, or the whole record, with AES-256-GCM: what is left is `{\"key\": name, \"nonce\": …, \"data\": …}`, \
                  the latter two in Base64, the tag at the end of `data`. The text is the value's JSON.",
        keys: &[
            required("key", "name of a key", "The key, 32 bytes."),
            optional("fields", "list of fields", "Which ones; else the whole record."),
        ],
        reads: Reads::Fields,
        on_error: OnError::Retry,
        build: encrypt,
    },
    StageKind {
        name: "pusher_encrypted",
        summary: "Encrypts what goes to channels whose names begin with `private-encrypted-`, as Pusher's clients decrypt it: \
                  NaCl's secretbox under the SHA-256 of the channel's name and the key. What goes to others stays readable. Without \
                  this stage nothing is published to such channels.",
        keys: &[required("key", "name of a key", "The application's master key, 32 bytes.")],
        reads: Reads::Any,
        on_error: OnError::DeadLetter,
        build: pusher_encrypted,
    },
];

enum Way {
    Drop,
    Hash,
    Ip,
}

struct Anonymise {
    fields: Vec<(Path, Way)>,
    key: Option<hmac::Key>,
}

fn anonymise(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let mut fields = Vec::new();
    for (name, way) in params.map("fields")? {
        let path = Params::field("fields", &name)?;
        let way = match way.as_str() {
            Some("drop") => Way::Drop,
            Some("hash") => Way::Hash,
            Some("ip") => Way::Ip,
            _ => return Err(Bad::at("fields", format!("{name}: takes drop, hash or ip"))),
        };
        fields.push((path, way));
    }
    let hashes = fields.iter().any(|(_, way)| matches!(way, Way::Hash));
    let key = if hashes { Some(hash_key(params)?) } else { None };
    Ok(Box::new(Anonymise { fields, key }))
}

fn hash_key(params: &Params) -> Result<hmac::Key, Bad> {
    let (name, secret) = params.secret("key")?;
    match secret.0.len() >= 16 {
        true => Ok(hmac::Key::new(hmac::HMAC_SHA256, &secret.0)),
        false => Err(Bad::at("key", format!("the key `{name}` has {} bytes; 16 is the least", secret.0.len()))),
    }
}

impl Stage for Anonymise {
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        let fields = record.fields_mut()?;
        for (path, way) in &self.fields {
            let Some(value) = path.get_mut(fields).filter(|value| !value.is_null()) else { continue };
            match (way, &self.key) {
                (Way::Hash, Some(key)) => *value = hashed(key, value).into(),
                (Way::Ip, _) => *value = network(value).ok_or_else(|| format!("{path} is no address"))?.into(),
                (Way::Drop | Way::Hash, _) => drop(path.remove(fields)),
            }
        }
        Ok(Outcome::One(record))
    }
}

fn hashed(key: &hmac::Key, value: &Value) -> String {
    let tag = match value {
        Value::String(text) => hmac::sign(key, text.as_bytes()),
        value => hmac::sign(key, value.to_string().as_bytes()),
    };
    hex(&tag.as_ref()[..HASH_BYTES])
}

fn network(value: &Value) -> Option<String> {
    let network = match value.as_str()?.parse::<IpAddr>().ok()?.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from(u32::from(address) & (u32::MAX << 8))),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & (u128::MAX << 80))),
    };
    Some(network.to_string())
}

struct Encrypt {
    name: String,
    key: LessSafeKey,
    random: SystemRandom,
    fields: Option<Vec<Path>>,
}

fn encrypt(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let (name, key) = key_of_32(params)?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("AES-256 has keys of 32 bytes"));
    let fields = params.value("fields").is_some().then(|| params.paths("fields")).transpose()?;
    Ok(Box::new(Encrypt { name, key, random: SystemRandom::new(), fields }))
}

impl Stage for Encrypt {
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        match (&self.fields, &mut record.body) {
            (None, Body::Json(value)) => *value = self.sealed(value)?,
            (None, Body::Raw(_)) => return Err("the record is not decoded".into()),
            (Some(paths), _) => {
                let fields = record.fields_mut()?;
                for path in paths {
                    if let Some(value) = path.get_mut(fields) {
                        *value = self.sealed(value)?;
                    }
                }
            }
        }
        Ok(Outcome::One(record))
    }
}

impl Encrypt {
    fn sealed(&self, value: &Value) -> Result<Value, Failed> {
        let mut nonce = [0; 12];
        self.random.fill(&mut nonce).map_err(|_| "no randomness for a nonce")?;
        let mut data = value.to_string().into_bytes();
        let (unique, aad) = (Nonce::assume_unique_for_key(nonce), Aad::empty());
        self.key.seal_in_place_append_tag(unique, aad, &mut data).map_err(|_| "too long to be encrypted")?;
        Ok(json!({ "key": self.name, "nonce": BASE64_STANDARD.encode(nonce), "data": BASE64_STANDARD.encode(data) }))
    }
}

struct PusherEncrypted(Arc<Sealer>);

fn pusher_encrypted(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    Ok(Box::new(PusherEncrypted(Arc::new(Sealer::new(key_of_32(params)?.1)))))
}

impl Stage for PusherEncrypted {
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        record.sealer = Some(self.0.clone());
        Ok(Outcome::One(record))
    }
}

fn key_of_32(params: &Params) -> Result<(String, [u8; 32]), Bad> {
    let (name, secret) = params.secret("key")?;
    let wrong = || Bad::at("key", format!("the key `{name}` has {} bytes, and not 32", secret.0.len()));
    let key = secret.0.as_slice().try_into().map_err(|_| wrong())?;
    Ok((name, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::testing::{check_with, compiled, record, wrong};
    use crate::pipeline::{Secret, Shared, Step, Unsayable};

    fn shared() -> Shared {
        let keys = [("k", 32), ("short", 5)].map(|(name, bytes)| (name.to_owned(), Secret(vec![9; bytes])));
        Shared { keys: keys.into(), ..Shared::default() }
    }

    fn through(stages: Value, data: &Value) -> Record {
        match compiled(stages, &shared()).run(0, record(&data.to_string()), 1000).remove(0) {
            Step::Through(record) => record,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fields_no_longer_say_whom_they_are_about() {
        let fields = json!({ "email": "hash", "user.name": "drop", "ip": "ip", "id": "hash" });
        let stage = json!({ "stage": "anonymise", "fields": fields, "key": "k" });
        let cases = [
            (
                json!({ "email": "a@b.c", "user": { "name": "ann", "age": 4 }, "ip": "192.0.2.77" }),
                json!({ "email": "5e9ca0fea0e31fc4d0a9d6bb0b3c0d6f", "user": { "age": 4 }, "ip": "192.0.2.0" }),
            ),
            (json!({ "ip": "2001:db8:1:2:3:4:5:6" }), json!({ "ip": "2001:db8:1::" })),
            (json!({ "ip": "::ffff:192.0.2.77" }), json!({ "ip": "192.0.2.0" })),
            (json!({ "ip": "localhost" }), json!({ "failed": "ip is no address", "retry": false })),
            (json!({ "ip": null, "email": null }), json!({ "ip": null, "email": null })),
            (json!({}), json!({})),
        ];
        for (data, mut expected) in cases {
            if let Some(email) = data["email"].as_str() {
                let key = hmac::Key::new(hmac::HMAC_SHA256, &[9; 32]);
                expected["email"] = hashed(&key, &email.into()).into();
                assert_eq!(expected["email"].as_str().map(str::len), Some(32));
            }
            check_with(&shared(), &stage, data, expected);
        }
        let id = |id: Value| {
            through(json!([{ "stage": "json" }, stage]), &json!({ "id": id })).text().expect("it is text").into_owned()
        };
        assert_eq!((id(json!(5)), id(json!(5)) == id(json!(6))), (id(json!("5")), false));
    }

    #[test]
    fn what_was_encrypted_can_be_read_with_the_key() {
        let open = |sealed: &Value| -> Value {
            let bytes =
                |key: &str| BASE64_STANDARD.decode(sealed[key].as_str().expect("it is text")).expect("it is Base64");
            let (nonce, mut data) = (bytes("nonce"), bytes("data"));
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[9; 32]).expect("it is long enough"));
            let nonce = Nonce::try_assume_unique_for_key(&nonce).expect("it has 12 bytes");
            serde_json::from_slice(key.open_in_place(nonce, Aad::empty(), &mut data).expect("it is ours"))
                .expect("it is JSON")
        };
        let data = json!({ "a": "secret", "b": { "c": [1] }, "d": "open" });
        let stage = json!({ "stage": "encrypt", "key": "k", "fields": ["a", "b.c", "no.where"] });
        let Body::Json(sealed) = through(json!([{ "stage": "json" }, stage]), &data).body else { panic!("it is JSON") };
        assert_eq!((open(&sealed["a"]), open(&sealed["b"]["c"])), (json!("secret"), json!([1])));
        assert_eq!((&sealed["d"], &sealed["a"]["key"]), (&json!("open"), &json!("k")));
        let whole = json!([{ "stage": "json" }, { "stage": "encrypt", "key": "k" }]);
        let Body::Json(sealed) = through(whole, &data).body else { panic!("it is JSON") };
        assert_eq!(open(&sealed), data);
    }

    #[test]
    fn encrypted_channels_get_what_only_their_clients_can_read() {
        let route = json!({ "stage": "route", "channels": ["private-encrypted-a", "open"] });
        let plain = through(json!([{ "stage": "json" }, route]), &json!({ "a": 1 }));
        let text = plain.text().expect("it is text");
        assert_eq!(plain.text_for(&plain.routes[0], &text), Err(Unsayable::Unsealed));
        assert_eq!(plain.text_for(&plain.routes[1], &text).as_deref(), Ok(r#"{"a":1}"#));
        let stages = json!([{ "stage": "json" }, { "stage": "pusher_encrypted", "key": "k" }, route]);
        let record = through(stages, &json!({ "a": 1 }));
        let text = record.text().expect("it is text");
        let sealed: Value = serde_json::from_str(&record.text_for(&record.routes[0], &text).expect("it is sealed"))
            .expect("it is JSON");
        assert_eq!(sealed.as_object().expect("it is an object").keys().collect::<Vec<_>>(), ["ciphertext", "nonce"]);
        assert_eq!(record.text_for(&record.routes[1], &text).as_deref(), Ok(r#"{"a":1}"#));
    }

    #[test]
    fn keys_have_to_be_there_and_long_enough() {
        let cases = [
            (json!({ "stage": "encrypt", "key": "nowhere" }), "key key: there is no key named `nowhere`"),
            (json!({ "stage": "encrypt", "key": "short" }), "key key: the key `short` has 5 bytes, and not 32"),
            (
                json!({ "stage": "pusher_encrypted", "key": "short" }),
                "key key: the key `short` has 5 bytes, and not 32",
            ),
            (json!({ "stage": "anonymise", "fields": { "a": "hash" } }), "key key: is required"),
            (
                json!({ "stage": "anonymise", "fields": { "a": "hash" }, "key": "short" }),
                "key key: the key `short` has 5 bytes; 16 is the least",
            ),
            (json!({ "stage": "anonymise", "fields": { "a": "mask" } }), "key fields: a: takes drop, hash or ip"),
        ];
        for (stage, expected) in cases {
            let message = wrong(json!([{ "stage": "json" }, stage]), &shared());
            assert!(message.ends_with(expected), "{message}");
        }
        assert_eq!(format!("{:?}", Secret(vec![1])), "Secret(…)");
    }
}
