//! What a stage or a sink is given: its table, read as the kinds of values that they take.
//!
//! Always true: a key is read only if the kind names it, so the reference leaves none out.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::compile::{Secret, Shared, Table, suggest};
use super::condition::Condition;
use super::path::Path;
use super::record::Fields;
use super::registry::{Key, Need};
use super::template::Template;

/// What is wrong with a stage's or a sink's table.
#[derive(Debug)]
pub struct Bad {
    /// At which key, if at one.
    pub key: Option<String>,
    /// What.
    pub message: String,
}

impl Bad {
    /// What is wrong with this key.
    pub fn at(key: &str, message: impl Into<String>) -> Bad {
        Bad { key: Some(key.into()), message: message.into() }
    }
}

/// The table of a stage or a sink, and what its pipeline is compiled with.
pub struct Params<'a> {
    /// The keys of its kind.
    pub(crate) keys: &'static [Key],
    pub(crate) table: &'a Table,
    pub(crate) shared: &'a Shared,
    pub(crate) pipeline: &'a str,
    pub(crate) queue: &'a str,
}

impl Params<'_> {
    /// A key's value: as written, or its default.
    pub fn value(&self, key: &'static str) -> Option<Value> {
        let known = self.keys.iter().find(|known| known.name == key);
        debug_assert!(known.is_some(), "the kind does not name its key {key}");
        let default = || match known?.need {
            Need::Default(json) => Some(serde_json::from_str(json).expect("defaults are JSON")),
            Need::Required | Need::Optional => None,
        };
        self.table.get(key).cloned().or_else(default)
    }

    fn read<T>(&self, key: &'static str, form: &str, read: impl Fn(Value) -> Option<T>) -> Result<Option<T>, Bad> {
        let Some(value) = self.value(key) else { return Ok(None) };
        read(value).ok_or_else(|| Bad::at(key, format!("takes {form}"))).map(Some)
    }

    /// What a key that is required or has a default is.
    fn needed<T>(&self, key: &'static str, value: Option<T>) -> Result<T, Bad> {
        value.ok_or_else(|| Bad::at(key, "is required"))
    }

    /// A string, if there is one.
    pub fn opt_text(&self, key: &'static str) -> Result<Option<String>, Bad> {
        self.read(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// A string.
    pub fn text(&self, key: &'static str) -> Result<String, Bad> {
        let text = self.opt_text(key)?;
        self.needed(key, text)
    }

    /// A number in this range, if there is one.
    pub fn opt_number(&self, key: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, Bad> {
        let form = format!("a whole number from {} to {}", range.start(), range.end());
        self.read(key, &form, |value| value.as_u64().filter(|number| range.contains(number)))
    }

    /// A number in this range.
    pub fn number(&self, key: &'static str, range: RangeInclusive<u64>) -> Result<u64, Bad> {
        let number = self.opt_number(key, range)?;
        self.needed(key, number)
    }

    pub(super) fn percent(&self, key: &'static str) -> Result<f64, Bad> {
        let in_range = |value: Value| value.as_f64().filter(|percent| (0.0..=100.0).contains(percent));
        let percent = self.read(key, "a number from 0 to 100", in_range)?;
        self.needed(key, percent)
    }

    /// True or false.
    pub fn flag(&self, key: &'static str) -> Result<bool, Bad> {
        let flag = self.read(key, "true or false", |value| value.as_bool())?;
        self.needed(key, flag)
    }

    /// A table, if there is one.
    pub fn opt_map(&self, key: &'static str) -> Result<Option<Fields>, Bad> {
        self.read(key, "a table", |value| match value {
            Value::Object(table) => Some(table),
            _ => None,
        })
    }

    pub(super) fn map(&self, key: &'static str) -> Result<Fields, Bad> {
        let table = self.opt_map(key)?;
        self.needed(key, table)
    }

    /// A list of strings, if there is one.
    pub fn opt_texts(&self, key: &'static str) -> Result<Option<Vec<String>>, Bad> {
        self.read(key, "a list of strings", |value| match value {
            Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => None,
        })
    }

    /// A list of strings.
    pub fn texts(&self, key: &'static str) -> Result<Vec<String>, Bad> {
        let texts = self.opt_texts(key)?;
        self.needed(key, texts)
    }

    /// The field that a text names which stands under this key.
    pub(super) fn field(key: &str, text: &str) -> Result<Path, Bad> {
        Path::parse(text).map_err(|message| Bad::at(key, message))
    }

    pub(super) fn opt_path(&self, key: &'static str) -> Result<Option<Path>, Bad> {
        let text = self.opt_text(key)?;
        text.map(|text| Params::field(key, &text)).transpose()
    }

    pub(super) fn path(&self, key: &'static str) -> Result<Path, Bad> {
        let path = self.opt_path(key)?;
        self.needed(key, path)
    }

    /// One field or more.
    pub(super) fn paths(&self, key: &'static str) -> Result<Vec<Path>, Bad> {
        let texts = self.texts(key)?;
        if texts.is_empty() {
            return Err(Bad::at(key, "names no field"));
        }
        texts.iter().map(|text| Params::field(key, text)).collect()
    }

    pub(super) fn opt_template(&self, key: &'static str) -> Result<Option<Template>, Bad> {
        let text = self.opt_text(key)?;
        text.map(|text| Template::parse(&text).map_err(|message| Bad::at(key, message))).transpose()
    }

    pub(super) fn template(&self, key: &'static str) -> Result<Template, Bad> {
        let template = self.opt_template(key)?;
        self.needed(key, template)
    }

    pub(super) fn condition(&self, key: &'static str) -> Result<Condition, Bad> {
        Condition::parse(&self.text(key)?).map_err(|message| Bad::at(key, message))
    }

    /// What one of these words stands for.
    pub(crate) fn choice<T: Clone>(&self, key: &'static str, words: &[(&str, T)]) -> Result<T, Bad> {
        let written = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == written).map(|(_, value)| value.clone());
        found.ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Bad::at(key, suggest(format!("takes {}", known.join(", ")), &written, known.iter().copied()))
        })
    }

    /// One of the configuration's keys, by the name that stands here.
    pub fn secret(&self, key: &'static str) -> Result<(String, &Secret), Bad> {
        let name = self.text(key)?;
        match self.shared.keys.get(&name) {
            Some(secret) => Ok((name, secret)),
            None => Err(Bad::at(key, format!("there is no key named `{name}`"))),
        }
    }
}
