//! Times as HTTP writes them, and as the statistics do; and when a message was published.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fanfare_hub::Publication;

/// When a message was published, as a client says it again to go on behind it. Later messages have later moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// In seconds since the Unix epoch.
    pub time_s: u64,
    /// Its number among what was published in that second.
    pub tag: u32,
}

impl Moment {
    /// The moment of a publication.
    pub fn of(publication: &Publication) -> Moment {
        Moment { time_s: publication.time_ms / 1000, tag: publication.tag }
    }
}

/// Seconds since the Unix epoch, now.
pub fn now_s() -> u64 {
    now_ms() / 1000
}

/// Milliseconds since the Unix epoch, now.
pub fn now_ms() -> u64 {
    // A clock before 1970 is as good as one at 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
pub fn http_date(time_s: u64) -> String {
    // No publication is of the year 10000, which is where the format ends.
    let time_s = time_s.min(253_402_300_799);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(time_s))
}

/// Seconds since the Unix epoch, of a date in any of HTTP's three formats (RFC 9110 §5.6.7).
pub fn parse_http_date(text: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(text.trim()).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// `1994-11-06T08:49:37`
pub fn iso_date(time_s: u64) -> String {
    let (days, second) = ((time_s / 86_400) as i64, time_s % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// The date of a day since 1970-01-01, which must not be before it. Years begin in March here, so that leap days end them.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_dates() {
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(iso_date(0), "1970-01-01T00:00:00");
        assert_eq!(iso_date(784_111_777), "1994-11-06T08:49:37");
        assert_eq!(iso_date(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(iso_date(1_709_251_199), "2024-02-29T23:59:59");
    }

    #[test]
    fn dates_are_read_in_all_three_formats() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse_http_date(text), Some(784_111_777), "{text}");
        }
        for text in ["", "null", "undefined", "1994-11-06"] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
    }
}
