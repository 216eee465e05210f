//! One HTTP answer for each publication, and the next request as soon as an answer is there.
//!
//! Each answer's `ETag` comes back as `If-None-Match`, and its `Last-Modified` as `If-Modified-Since`, which is all the
//! cursor that Fanfare or nchan want. So a publication between two requests is owed like any other.

use std::ops::Range;

use anyhow::{Result, bail};

use super::{Phase, Sink, Subscriber};
use crate::http::{self, Answer};
use crate::sys;
use crate::transport::Script;

impl Subscriber {
    pub(super) fn consume_answers(
        &mut self,
        bytes: &[u8],
        script: &Script,
        sink: &mut impl Sink,
    ) -> Result<Option<Range<usize>>> {
        let mut at = 0;
        while let Some(answer) = http::next_answer(bytes, &mut at)? {
            let first_visit = self.cursor.is_empty();
            match answer.status {
                // What was there before us is not owed; what it brings is the cursor.
                200 if first_visit => {}
                200 => sink(answer.body, sys::monotonic_ns()),
                // Nothing new until now, or nothing that could be told.
                204 | 304 => {}
                status => bail!("a poll was answered {status}: {}", String::from_utf8_lossy(answer.body).trim_end()),
            }
            self.phase = Phase::Live;
            if answer.recovered == Some("false") && !first_visit {
                self.recovered = Some(false);
            }
            self.keep_header_lines(&answer);
            self.send(&script.next_poll(self.channel, &self.cursor))?;
        }
        Ok(Some(at..bytes.len()))
    }

    fn keep_header_lines(&mut self, answer: &Answer<'_>) {
        self.cursor.clear();
        for (name, value) in [("If-None-Match", answer.etag), ("If-Modified-Since", answer.last_modified)] {
            if let Some(value) = value {
                self.cursor.extend([name, ": ", value, "\r\n"]);
            }
        }
    }
}
