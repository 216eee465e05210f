//! A report as people read it.

use std::fmt::Write;

use super::report::{Minute, Part, Report, Step};

/// Columns of the table, of which the first is wide.
const HEAD: [&str; 8] = ["", "IN", "MADE", "OUT", "DROPPED", "FAILED", "IN FLIGHT", "MISSING"];

/// The chain, what was in the last minutes, and the verdict.
pub fn written(report: &Report) -> String {
    let mut text = banner(report);
    text.push('\n');
    text.push_str(&table(&report.chain));
    for minute in &report.minutes {
        let Minute { ended_ms, parted, chain } = minute;
        let ago_s = report.now_ms.saturating_sub(*ended_ms) / 1000;
        let when = if ago_s == 0 { "up to now".to_owned() } else { format!("up to {} ago", duration(ago_s)) };
        let parted = parted.as_ref().map(|parted| format!(": {parted}")).unwrap_or_default();
        line(&mut text, &format!("\nThe minute {when}{parted}"));
        match chain.is_empty() {
            true => line(&mut text, "nothing happened"),
            false => text.push_str(&table(chain)),
        }
    }
    text
}

/// What matters most, in two lines.
pub fn banner(report: &Report) -> String {
    let Report { version, since_ms, now_ms, life, compared, parted, .. } = report;
    let up = duration(now_ms.saturating_sub(*since_ms) / 1000);
    let mut text = String::new();
    let (published, delivered) = (grouped(life.published), grouped(life.delivered));
    line(&mut text, &format!("fanfare {version}: {published} published and {delivered} delivered in its life"));
    match parted {
        None => line(&mut text, &format!("All {compared} sums agree, counted since the start {up} ago.")),
        Some(parted) => {
            line(&mut text, &format!("THE SUMS PART at {parted}. Counted since the start {up} ago."));
        }
    }
    text
}

/// The steps below the names of their places.
fn table(chain: &[Step]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    let mut place = None;
    for step in chain {
        let Some(row) = row(step) else { continue };
        if place.replace(step.place()) != Some(step.place()) {
            let name = step.place().to_string();
            let name = if name.is_empty() { "this node" } else { name.trim_end_matches(": ") };
            rows.push(std::array::from_fn(|column| if column == 0 { name.to_owned() } else { String::new() }));
        }
        rows.push(row);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut cells = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            write!(cells, "  {cell:>width$}").expect("a String takes all");
        }
        line(&mut text, cells.trim_end());
    }
    text
}

/// Links are shown where their ends differ.
fn row(step: &Step) -> Option<[String; 8]> {
    let number = |n: u64| if n == 0 { "·".to_owned() } else { n.to_string() };
    let missing = match step.difference() {
        0 => String::new(),
        difference => difference.to_string(),
    };
    match step {
        Step::Link(link) => (link.difference != 0).then(|| {
            let (sent, came, under_way) = (number(link.sent), number(link.came), number(link.under_way));
            [
                format!("  {} → {}", link.from, link.to),
                sent,
                String::new(),
                came,
                String::new(),
                String::new(),
                under_way,
                missing,
            ]
        }),
        Step::Part(part) => {
            let Part { came, made, out, failed, in_flight, .. } = part;
            let [came, made, out, failed, in_flight] = [came, made, out, failed, in_flight].map(|n| number(*n));
            Some([format!("  {}", part.part), came, made, out, dropped(part), failed, in_flight, missing])
        }
    }
}

fn dropped(part: &Part) -> String {
    let reasons: Vec<_> =
        part.dropped.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{n} {reason}")).collect();
    if reasons.is_empty() { "·".to_owned() } else { reasons.join(", ") }
}

fn duration(s: u64) -> String {
    match s {
        0..120 => format!("{s} s"),
        120..7200 => format!("{} min", s / 60),
        7200..172_800 => format!("{} h", s / 3600),
        _ => format!("{} days", s / 86_400),
    }
}

/// With its thousands apart.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::report::{Life, Link, Parted, Place};
    use super::*;

    #[test]
    fn people_see_the_chain_and_where_it_parts() {
        let place = Place { app: "1".to_owned(), queue: "comments".to_owned(), ..Place::default() };
        let part = |part: &str, came, out| Part {
            place: place.clone(),
            part: part.to_owned(),
            came,
            out,
            dropped: [("retracted".to_owned(), came - out)].into(),
            ..Part::default()
        };
        let link = Link {
            place: place.clone(),
            from: "put".to_owned(),
            to: "jobs".to_owned(),
            sent: 1200,
            came: 1190,
            difference: 10,
            ..Link::default()
        };
        let report = Report {
            version: "1.0".to_owned(),
            since_ms: 0,
            now_ms: 60_000,
            life: Life { published: 999, delivered: 1_234_567 },
            compared: 12,
            parted: Some(Parted { at: "app 1: queue comments: put → jobs".to_owned(), difference: 10 }),
            chain: vec![Step::Part(part("put", 1200, 1200)), Step::Link(link), Step::Part(part("jobs", 1190, 1188))],
            minutes: Vec::new(),
        };
        let expected = "\
fanfare 1.0: 999 published and 1,234,567 delivered in its life
THE SUMS PART at app 1: queue comments: put → jobs: 10 missing. Counted since the start 60 s ago.

                         IN  MADE   OUT      DROPPED  FAILED  IN FLIGHT  MISSING
app 1: queue comments
  put                  1200     ·  1200            ·       ·          ·
  put → jobs           1200        1190                               ·       10
  jobs                 1190     ·  1188  2 retracted       ·          ·
";
        assert_eq!(written(&report), expected);
    }
}
