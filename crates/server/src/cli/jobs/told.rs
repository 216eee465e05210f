//! The server's answers about queues, for people.

use super::super::listing::columns;
use crate::data::now_ms;
use serde_json::Value;
use std::fmt::Write;

/// Characters of a job's data or of a reason in a table; `show` prints all.
const CELL_LEN_MAX: usize = 60;

/// The ids of jobs that were put, one on each line.
pub fn ids(answer: &Value) -> String {
    list(answer, "ids").iter().map(|id| format!("{id}\n")).collect()
}

/// Jobs that were claimed.
pub fn claimed(answer: &Value) -> String {
    let jobs = list(answer, "jobs");
    if jobs.is_empty() {
        return "no job is there to be claimed\n".to_owned();
    }
    let row = |job: &Value| ["lease", "kind", "key", "attempt", "data"].map(|key| text(&job[key]));
    columns(["LEASE", "KIND", "KEY", "ATTEMPT", "DATA"], jobs.iter().map(row))
}

/// A lease that was extended.
pub fn extended(answer: &Value) -> String {
    let left_ms = answer["until_ms"].as_u64().unwrap_or_default().saturating_sub(now_ms());
    format!("ends in {}\n", duration(left_ms))
}

/// Something that is done.
pub fn done(_: &Value) -> String {
    "done\n".to_owned()
}

/// What a job is now.
pub fn state(answer: &Value) -> String {
    format!("{}\n", text(&answer["state"]))
}

/// How many jobs were put back.
pub fn retried(answer: &Value) -> String {
    format!("{} retried\n", answer["retried"])
}

/// A page of jobs.
pub fn listed(answer: &Value) -> String {
    let row = |job: &Value| {
        let [id, kind, key, attempt] = ["id", "kind", "key", "attempt"].map(|key| text(&job[key]));
        let note = ["reason", "worker", "result"].map(|key| text(&job[key]));
        let note = note.into_iter().find(|note| !note.is_empty()).unwrap_or_default();
        [id, kind, key, attempt, ago(&job["since_ms"]), cell(&note), cell(&text(&job["data"]))]
    };
    let head = ["JOB", "KIND", "KEY", "ATTEMPT", "SINCE", "NOTE", "DATA"];
    let mut told = columns(head, list(answer, "jobs").iter().map(row));
    if let Some(cursor) = answer["cursor"].as_str() {
        writeln!(told, "more: --cursor {cursor}").expect("a String takes all");
    }
    told
}

/// One job, with all that is known of it.
pub fn job(answer: &Value) -> String {
    let fields = answer.as_object().into_iter().flatten();
    let width = fields.clone().map(|(key, _)| key.len()).max().unwrap_or_default();
    let line = |(key, value): (&String, &Value)| match key.ends_with("_ms") {
        true => format!("{key:width$}  {value} ({})\n", ago(value)),
        false => format!("{key:width$}  {}\n", text(value)),
    };
    fields.map(line).collect()
}

/// All queues.
pub fn queues(answer: &Value) -> String {
    counts(&list(answer, "queues"))
}

/// One queue.
pub fn queue(answer: &Value) -> String {
    let mut told = counts(std::slice::from_ref(answer));
    let totals = answer["totals"].as_object().into_iter().flatten();
    let totals: Vec<_> = totals.map(|(name, n)| format!("{name} {n}")).collect();
    writeln!(told, "ever: {}", totals.join(", ")).expect("a String takes all");
    told
}

fn counts(queues: &[Value]) -> String {
    let head = ["QUEUE", "WAITING", "DELAYED", "CLAIMED", "STALLED", "FINISHED", "BYTES", "WAITING SINCE"];
    let row = |queue: &Value| {
        let keys = ["name", "waiting", "delayed", "claimed", "stalled", "finished", "bytes"];
        let [name, waiting, delayed, claimed, stalled, finished, bytes] = keys.map(|key| text(&queue[key]));
        [name, waiting, delayed, claimed, stalled, finished, bytes, ago(&queue["waiting_since_ms"])]
    };
    columns(head, queues.iter().map(row))
}

fn list(answer: &Value, key: &str) -> Vec<Value> {
    answer[key].as_array().cloned().unwrap_or_default()
}

/// What a value says; nothing says nothing.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The beginning, on one line.
fn cell(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CELL_LEN_MAX).collect();
    if line.len() < text.len() { format!("{line}…") } else { line }
}

/// How far a time is from now, either way.
fn ago(time_ms: &Value) -> String {
    let (Some(time_ms), now_ms) = (time_ms.as_u64(), now_ms()) else { return String::new() };
    match time_ms > now_ms {
        true => format!("in {}", duration(time_ms - now_ms)),
        false => format!("{} ago", duration(now_ms - time_ms)),
    }
}

fn duration(ms: u64) -> String {
    match ms / 1000 {
        0..120 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_is_a_table_that_says_how_to_go_on() {
        let job = json!({"id": 7, "kind": "edit", "attempt": 2, "reason": "no\nanswer", "data": "x".repeat(61)});
        let expected = format!(
            "JOB  KIND  KEY  ATTEMPT  SINCE  NOTE       DATA\n7    edit       2               no answer  {}…\nmore: --cursor 1-7\n",
            "x".repeat(60)
        );
        assert_eq!(listed(&json!({"jobs": [job], "cursor": "1-7"})), expected);
    }

    #[test]
    fn durations_are_as_exact_as_they_matter() {
        assert_eq!(duration(1_250), "1.2 s");
        assert_eq!(duration(600_000), "10 min");
        assert_eq!(duration(7_200_000), "2 h");
        assert_eq!(duration(864_000_000), "10 d");
    }
}
