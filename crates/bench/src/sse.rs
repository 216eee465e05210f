//! Server-sent events and lines, taken one by one from bytes that have arrived.
//!
//! Strict: nothing that is published here needs more than one `data` line, so a second one is an error and not text to join.

use anyhow::{Result, ensure};

/// One event; a comment has none of these.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    pub id: Option<&'a [u8]>,
    pub name: Option<&'a [u8]>,
    pub data: Option<&'a [u8]>,
}

/// Takes a whole event from `bytes` at `at` and moves `at` behind it; `None` while it is incomplete.
pub fn next_event<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Option<Event<'a>>> {
    let mut event = Event::default();
    let mut end = *at;
    while let Some(line) = next_line(bytes, &mut end) {
        if line.is_empty() {
            *at = end;
            return Ok(Some(event));
        }
        event.take(line)?;
    }
    Ok(None)
}

impl<'a> Event<'a> {
    fn take(&mut self, line: &'a [u8]) -> Result<()> {
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let field = match &line[..colon] {
            b"id" => &mut self.id,
            b"event" => &mut self.name,
            b"data" => &mut self.data,
            // A comment begins with the colon; the time to reconnect is nothing to us.
            b"" | b"retry" => return Ok(()),
            other => anyhow::bail!("an event with the field {:?}", String::from_utf8_lossy(other)),
        };
        ensure!(field.replace(value).is_none(), "a field twice in one event: {:?}", String::from_utf8_lossy(line));
        Ok(())
    }
}

/// Takes a whole line from `bytes` at `at` and moves `at` behind its end; `None` while it is incomplete.
#[inline]
pub fn next_line<'a>(bytes: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let rest = &bytes[*at..];
    let line = &rest[..rest.iter().position(|&byte| byte == b'\n')?];
    *at += line.len() + 1;
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_one_by_one_and_only_whole() {
        let bytes = b":ok\nretry: 1500\n\nid: a-1\nevent: bench\ndata: {\"x\": 1}\n\n:\n\ndata:plain\n\n";
        let mut at = 0;
        let mut events = Vec::new();
        while let Some(event) = next_event(bytes, &mut at).expect("legal") {
            events.push(event);
        }
        let full = Event { id: Some(b"a-1"), name: Some(b"bench"), data: Some(b"{\"x\": 1}") };
        let plain = Event { data: Some(b"plain"), ..Event::default() };
        assert_eq!(events, [Event::default(), full, Event::default(), plain]);
        assert_eq!(at, bytes.len());
    }

    #[test]
    fn an_event_is_whole_with_its_empty_line() {
        let bytes = b"id: 1\ndata: x\n\n";
        for cut in 0..bytes.len() {
            let mut at = 0;
            assert_eq!(next_event(&bytes[..cut], &mut at).expect("legal so far"), None, "at {cut}");
            assert_eq!(at, 0);
        }
    }

    #[test]
    fn what_nobody_should_send_is_refused() {
        assert!(next_event(b"data: a\ndata: b\n\n", &mut 0).is_err());
        assert!(next_event(b"dada: a\n\n", &mut 0).is_err());
    }

    #[test]
    fn an_empty_line_is_a_line() {
        let (bytes, mut at) = (b"one\n\ntwo", 0);
        assert_eq!(next_line(bytes, &mut at), Some(&b"one"[..]));
        assert_eq!(next_line(bytes, &mut at), Some(&b""[..]));
        assert_eq!(next_line(bytes, &mut at), None);
        assert_eq!(at, 5);
    }
}
