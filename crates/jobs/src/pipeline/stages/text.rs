//! Text: made safe, made short.

use std::collections::HashSet;

use serde_json::Value;
use unicode_segmentation::UnicodeSegmentation;

use crate::pipeline::params::{Bad, Params};
use crate::pipeline::path::Path;
use crate::pipeline::record::Record;
use crate::pipeline::registry::{Reads, StageKind, default, optional, required};
use crate::pipeline::stage::{At, Failed, OnError, Outcome, Stage};

mod html;

/// Tags in one field. Broken HTML is repaired as browsers do it, which can take time by the square of its tags.
const TAGS_MAX: u64 = 2000;

pub(crate) const KINDS: &[StageKind] = &[
    StageKind {
        name: "sanitise",
        summary: "Makes strings safe to be shown as HTML: scripts, handlers and tags that are not allowed are taken out, what \
                  is left open is closed, and `&`, `<` and `>` in text are escaped. A field may hold lists and objects: every \
                  string within is cleaned. Fields that are not there are left alone.",
        keys: &[
            required("fields", "list of fields", "Which ones."),
            optional("tags", "list of strings", "The tags that stay; `[]` for text only. Else those that format text."),
            default("tags_max", "number", "500", "Fields with more tags fail: all strings within count together."),
            default(
                "bytes_max",
                "number",
                "65536",
                "Fields with more bytes to clean fail; text without HTML does not count.",
            ),
        ],
        reads: Reads::Fields,
        on_error: OnError::DeadLetter,
        build: sanitise,
    },
    StageKind {
        name: "truncate",
        summary: "Cuts a string that is too long, between characters as readers see them: letters keep their accents, flags and \
                  families stay whole. After `sanitise` it has to know that it cuts HTML (`html`).",
        keys: &[
            required("field", "field", "Which one. If it is not there, nothing is done."),
            required("chars", "number", "How many characters (code points) it has at most, the suffix among them."),
            default("suffix", "string", "\"…\"", "What a cut string ends with."),
            default(
                "html",
                "true or false",
                "false",
                "Whether it is HTML: tags are not counted nor cut, and closed at the end.",
            ),
        ],
        reads: Reads::Fields,
        on_error: OnError::DeadLetter,
        build: truncate,
    },
];

struct Sanitise {
    fields: Vec<Path>,
    cleaner: ammonia::Builder<'static>,
    tags_max: usize,
    bytes_max: usize,
}

fn sanitise(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let mut cleaner = ammonia::Builder::default();
    if let Some(tags) = params.opt_texts("tags")? {
        allow(&mut cleaner, tags)?;
    }
    let (tags_max, bytes_max) = (params.number("tags_max", 0..=TAGS_MAX)?, params.number("bytes_max", 1..=1 << 20)?);
    let fields = params.paths("fields")?;
    Ok(Box::new(Sanitise { fields, cleaner, tags_max: tags_max as usize, bytes_max: bytes_max as usize }))
}

fn allow(cleaner: &mut ammonia::Builder<'static>, tags: Vec<String>) -> Result<(), Bad> {
    let known = ammonia::Builder::default().clone_tags();
    if let Some(tag) = tags.iter().find(|tag| !known.contains(tag.as_str())) {
        return Err(Bad::at("tags", format!("`{tag}` is none of the tags that can be allowed")));
    }
    let allowed: HashSet<&'static str> =
        known.into_iter().filter(|known| tags.iter().any(|tag| tag == known)).collect();
    cleaner.tags(allowed);
    Ok(())
}

impl Stage for Sanitise {
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        let fields = record.fields_mut()?;
        for path in &self.fields {
            if let Some(value) = path.get_mut(fields) {
                let mut room = Room { tags: self.tags_max, bytes: self.bytes_max };
                self.clean(value, &mut room).map_err(|why| format!("{path}: {why}"))?;
            }
        }
        Ok(Outcome::One(record))
    }
}

/// What of one field may still be cleaned: a list of strings takes as long as one that is as large.
struct Room {
    tags: usize,
    bytes: usize,
}

impl Sanitise {
    /// How deep this goes is bounded by the decode stages.
    fn clean(&self, value: &mut Value, room: &mut Room) -> Result<(), String> {
        match value {
            Value::String(text) if is_plain(text) => Ok(()),
            Value::String(text) => self.clean_text(text, room),
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.clean(item, room)),
            Value::Object(fields) => fields.values_mut().try_for_each(|item| self.clean(item, room)),
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        }
    }

    fn clean_text(&self, text: &mut String, room: &mut Room) -> Result<(), String> {
        let tags = text.bytes().filter(|byte| *byte == b'<').count();
        let bytes = room.bytes.checked_sub(text.len());
        room.bytes = bytes.ok_or_else(|| format!("more than {} bytes", self.bytes_max))?;
        room.tags = room.tags.checked_sub(tags).ok_or_else(|| format!("more than {} tags", self.tags_max))?;
        *text = self.cleaner.clean(text).to_string();
        Ok(())
    }
}

/// Whether cleaning leaves a text as it is: nothing in it means anything in HTML. That is what most comments are, and a
/// parser costs 10 µs.
fn is_plain(text: &str) -> bool {
    !text.bytes().any(|byte| matches!(byte, b'<' | b'>' | b'&' | b'\r' | 0)) && !text.contains('\u{a0}')
}

struct Truncate {
    field: Path,
    chars: usize,
    suffix: String,
    html: bool,
}

fn truncate(params: &Params) -> Result<Box<dyn Stage>, Bad> {
    let (field, suffix, html) = (params.path("field")?, params.text("suffix")?, params.flag("html")?);
    let chars = params.number("chars", 1..=1 << 20)? as usize;
    match suffix.chars().count() < chars {
        true => Ok(Box::new(Truncate { field, chars, suffix, html })),
        false => Err(Bad::at("suffix", format!("is as long as the {chars} characters that may stay"))),
    }
}

impl Stage for Truncate {
    fn apply(&self, mut record: Record, _: &At) -> Result<Outcome, Failed> {
        if let Some(Value::String(text)) = self.field.get_mut(record.fields_mut()?)
            && text.len() > self.chars
        {
            let chars = self.chars - self.suffix.chars().count();
            match self.html {
                true => html::cut(text, self.chars, chars, &self.suffix),
                false if text.chars().count() > self.chars => {
                    text.truncate(cut(text, chars));
                    text.push_str(&self.suffix);
                }
                false => {}
            }
        }
        Ok(Outcome::One(record))
    }
}

/// Where to cut a longer text so that `chars` code points stay at most. What readers see as one character is not cut,
/// unless it is longer than that alone.
fn cut(text: &str, chars: usize) -> usize {
    let (mut at, mut taken) = (0, 0);
    for seen in text.graphemes(true) {
        taken += seen.chars().count();
        if taken > chars {
            break;
        }
        at += seen.len();
    }
    if at > 0 { at } else { text.char_indices().nth(chars).map_or(text.len(), |(index, _)| index) }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::{Value, json};

    use super::*;
    use crate::pipeline::Shared;
    use crate::pipeline::testing::{check, compiled, record, run, wrong};

    #[test]
    fn html_is_made_safe() {
        let sanitise = json!({ "stage": "sanitise", "fields": ["text", "author.bio"] });
        let cases = [
            (json!("plain & simple"), json!("plain &amp; simple")),
            (json!("a < b"), json!("a &lt; b")),
            (json!("<b>bold"), json!("<b>bold</b>")),
            (json!("<script>alert(1)</script>x"), json!("x")),
            (json!("<img src=x onerror=alert(1)>"), json!("<img src=\"x\">")),
            (json!("<a href=\"javascript:alert(1)\">x</a>"), json!("<a rel=\"noopener noreferrer\">x</a>")),
            (json!("<svg><style><img src=x onerror=alert(1)>"), json!("<img src=\"x\">")),
            (json!(["<i>1", { "deep": "<u onclick=x>2" }]), json!(["<i>1</i>", { "deep": "<u>2</u>" }])),
            (json!(7), json!(7)),
            (Value::Null, Value::Null),
        ];
        for (text, clean) in cases {
            check(
                &sanitise,
                json!({ "text": text, "other": "<script>" }),
                json!({ "text": clean, "other": "<script>" }),
            );
        }
        check(&sanitise, json!({ "author": { "bio": "<b>" } }), json!({ "author": { "bio": "<b></b>" } }));
        check(&sanitise, json!({}), json!({}));
        check(&sanitise, json!([]), json!({ "failed": "the record is not an object", "retry": false }));
    }

    #[test]
    fn tags_may_be_chosen() {
        let text_only = json!({ "stage": "sanitise", "fields": ["text"], "tags": [] });
        check(&text_only, json!({ "text": "<b>a</b> <i>&amp; b</i>" }), json!({ "text": "a &amp; b" }));
        let some = json!({ "stage": "sanitise", "fields": ["text"], "tags": ["b"] });
        check(&some, json!({ "text": "<b>a</b> <i>b</i>" }), json!({ "text": "<b>a</b> b" }));
        let script = json!([{ "stage": "json" }, { "stage": "sanitise", "fields": ["text"], "tags": ["script"] }]);
        let message = wrong(script, &Shared::default());
        assert!(message.ends_with("key tags: `script` is none of the tags that can be allowed"), "{message}");
    }

    #[test]
    fn what_is_taken_for_plain_is_what_cleaning_would_leave() {
        let cleaner = ammonia::Builder::default();
        for text in ["", " a ", "\n\na", "\t\"'`=/ü€😀", "{{ x }}", "a\u{0b}b\u{7f}\u{feff}"] {
            assert!(is_plain(text));
            assert_eq!(cleaner.clean(text).to_string(), text, "{text:?}");
        }
        for text in ["<", ">", "&", "\r", "\0", "\u{a0}"] {
            assert!(!is_plain(text));
        }
    }

    /// Formatting elements are opened anew in each paragraph, so repaired HTML can be the square of what was written.
    #[test]
    fn html_that_explodes_fails_its_record_in_no_time() {
        let pipeline =
            compiled(json!([{ "stage": "json" }, { "stage": "sanitise", "fields": ["text"] }]), &Shared::default());
        let tags = |tag: &str| (0..30_000 / tag.len()).map(|n| tag.replace('#', &n.to_string())).collect::<String>();
        let few = |tag: &str| (0..250).map(|n| tag.replace('#', &n.to_string())).collect::<String>();
        let bombs = [tags("<b a=#>") + &tags("<p>"), tags("<div>"), tags("<table><tr>"), "<b>".repeat(100_000)];
        for bomb in bombs {
            let started = Instant::now();
            let steps = run(&pipeline, record(&json!({ "text": bomb }).to_string()));
            assert!(steps[0]["failed"].as_str().is_some_and(|why| why.starts_with("text: more than ")), "{steps:?}");
            assert!(started.elapsed() < Duration::from_secs(1));
        }
        let many = vec![few("<b a=#>") + &few("<p>"); 300];
        let steps = run(&pipeline, record(&json!({ "text": many }).to_string()));
        assert_eq!(steps, [json!({ "failed": "text: more than 500 tags", "retry": false })]);
        for bomb in [few("<b a=#>") + &few("<p>"), few("<div><i>"), few("<a href=#><table>")] {
            let started = Instant::now();
            run(&pipeline, record(&json!({ "text": bomb }).to_string()));
            assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        }
    }

    #[test]
    fn html_is_cut_outside_of_its_tags() {
        let truncate = |chars: usize| json!({ "stage": "truncate", "field": "text", "chars": chars, "html": true });
        let cases = [
            (5, "<b>hello</b>", "<b>hello</b>"),
            (5, "<b>hello</b>!", "<b>hell…</b>"),
            (4, "<p>a<b>bc<i>def</i></b></p>", "<p>a<b>bc<i>…</i></b></p>"),
            (3, "ab&amp;&lt;&#39;", "ab…"),
            (5, "ab&amp;&lt;&#39;", "ab&amp;&lt;&#39;"),
            (4, "a<br>b<img src=\"x>y\">cde", "a<br>b<img src=\"x>y\">c…"),
            (3, "<b></b><i>abcd</i>", "<b></b><i>ab…</i>"),
            (3, "abcd<b>e</b>", "ab…"),
            (2, "e\u{301}e\u{301}x", "…"),
            // Nobody has cleaned these.
            (4, "a < b & c", "a <…"),
            (4, "ab&cdefghijklmn", "ab&…"),
            (4, "</b>ab</i>cdef", "</b>ab</i>c…"),
        ];
        for (chars, text, cut) in cases {
            check(&truncate(chars), json!({ "text": text }), json!({ "text": cut }));
        }
        let started = Instant::now();
        for bomb in
            ["<a ".repeat(200_000), "<a \"".repeat(100_000), "&a".repeat(200_000), "<i>".repeat(100_000) + "abcdef"]
        {
            let pipeline = compiled(json!([{ "stage": "json" }, truncate(5)]), &Shared::default());
            run(&pipeline, record(&json!({ "text": bomb }).to_string()));
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }

    #[test]
    fn text_is_cut_where_readers_see_a_gap() {
        let truncate = |chars: usize, suffix: &str| json!({ "stage": "truncate", "field": "text", "chars": chars, "suffix": suffix });
        let cases = [
            (5, "…", "hello", "hello"),
            (5, "…", "hello!", "hell…"),
            (3, "", "äöüß", "äöü"),
            (5, "...", "abcdefgh", "ab..."),
            // An e with an accent of its own, a family of three, two flags.
            (2, "", "e\u{301}e\u{301}", "e\u{301}"),
            (3, "", "ab👨\u{200d}👩\u{200d}👧", "ab"),
            (3, "", "🇩🇪🇫🇷", "🇩🇪"),
            // Nothing but accents: longer than all that may stay.
            (3, "", "e\u{301}\u{302}\u{303}\u{304}", "e\u{301}\u{302}"),
        ];
        for (chars, suffix, text, cut) in cases {
            check(&truncate(chars, suffix), json!({ "text": text }), json!({ "text": cut }));
        }
        check(&truncate(5, ""), json!({ "text": 1234567 }), json!({ "text": 1234567 }));
        check(&truncate(5, ""), json!({}), json!({}));
        let message = wrong(json!([{ "stage": "json" }, truncate(3, "...")]), &Shared::default());
        assert!(message.ends_with("key suffix: is as long as the 3 characters that may stay"), "{message}");
    }
}
