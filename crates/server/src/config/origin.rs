//! Which web pages may use an app: the rules of `allowed_origins`.
//!
//! A browser states its page's origin and cannot be talked out of it; other clients state none, or whatever they
//! like. So this keeps other people's sites from spending an app's quota, and is no authentication.

/// One entry of `allowed_origins`: `https://example.com`, `example.com:8080`, `*.example.com`, `https://*.example.com`.
///
/// What an entry leaves out (scheme, port) it does not ask about; `*.` stands for one label or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginRule {
    scheme: Option<String>,
    host: HostRule,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostRule {
    Any,
    Exactly(String),
    /// Holds the leading dot: `.example.com`.
    EndsWith(String),
}

impl OriginRule {
    /// Reads an entry, or says what an entry looks like.
    pub fn parse(entry: &str) -> Result<OriginRule, String> {
        let origin = Origin::parse(&entry.to_ascii_lowercase()).ok_or_else(|| {
            format!("expected an origin such as \"https://example.com\" or \"*.example.com\", found {entry:?}")
        })?;
        Ok(OriginRule { scheme: origin.scheme, host: HostRule::of(origin.host), port: origin.port })
    }

    /// Whether a page of this origin (the `Origin` header) may connect.
    pub fn matches(&self, origin: &str) -> bool {
        Origin::parse(&origin.to_ascii_lowercase()).is_some_and(|origin| {
            self.host.matches(&origin.host)
                && (self.scheme.is_none() || self.scheme == origin.scheme)
                && self.port_matches(&origin)
        })
    }

    /// An entry with a scheme but no port means that scheme's own port, as browsers leave it out.
    fn port_matches(&self, origin: &Origin) -> bool {
        match (&self.scheme, self.port) {
            (None, None) => true,
            (Some(_), None) => origin.port_or_default() == default_port(self.scheme.as_deref()),
            (_, Some(port)) => origin.port_or_default() == Some(port),
        }
    }
}

impl HostRule {
    fn of(host: String) -> HostRule {
        match host.strip_prefix('*') {
            Some("") => HostRule::Any,
            Some(suffix) => HostRule::EndsWith(suffix.to_owned()),
            None => HostRule::Exactly(host),
        }
    }

    fn matches(&self, host: &str) -> bool {
        match self {
            HostRule::Any => true,
            HostRule::Exactly(name) => host == name,
            HostRule::EndsWith(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        }
    }
}

/// `[scheme://]host[:port]`, in lower case.
struct Origin {
    scheme: Option<String>,
    host: String,
    port: Option<u16>,
}

impl Origin {
    fn parse(text: &str) -> Option<Origin> {
        let (scheme, authority) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_owned()), rest),
            None => (None, text),
        };
        let (host, port) = split_port(authority)?;
        let sound = |host: &str| {
            let name = host.strip_prefix("*.").unwrap_or(host);
            host == "*" || (!name.is_empty() && !name.contains(['*', '/', '?', '#', '@', ' ']))
        };
        let scheme_sound = scheme.as_deref().is_none_or(|scheme| !scheme.is_empty());
        (sound(host) && scheme_sound).then(|| Origin { scheme, host: host.to_owned(), port })
    }

    fn port_or_default(&self) -> Option<u16> {
        self.port.or(default_port(self.scheme.as_deref()))
    }
}

/// Splits off `:port`, leaving the colons of `[::1]` alone. `None`: the port is no number.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    match authority.rsplit_once(':') {
        Some((_, tail)) if tail.ends_with(']') => Some((authority, None)),
        Some((host, port)) => Some((host, Some(port.parse().ok()?))),
        None => Some((authority, None)),
    }
}

fn default_port(scheme: Option<&str>) -> Option<u16> {
    match scheme {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(entry: &str, origin: &str, allowed: bool) {
        let rule = OriginRule::parse(entry).expect("the entry is sound");
        assert_eq!(rule.matches(origin), allowed, "{entry} on {origin}");
    }

    #[test]
    fn an_entry_asks_only_about_what_it_names() {
        check("https://example.com", "https://example.com", true);
        check("https://example.com", "https://EXAMPLE.com:443", true);
        check("https://example.com", "http://example.com", false);
        check("https://example.com", "https://example.com:8443", false);
        check("https://example.com", "https://www.example.com", false);
        check("example.com", "http://example.com:8080", true);
        check("example.com:8080", "http://example.com:8080", true);
        check("example.com:8080", "http://example.com", false);
        check("example.com", "https://notexample.com", false);
        check("*", "https://anything.test", true);
        check("http://[::1]:3000", "http://[::1]:3000", true);
    }

    #[test]
    fn a_star_stands_for_one_label_or_more_and_never_for_none() {
        check("*.example.com", "https://www.example.com", true);
        check("*.example.com", "https://a.b.example.com", true);
        check("*.example.com", "https://example.com", false);
        check("*.example.com", "https://evilexample.com", false);
        check("https://*.example.com", "http://www.example.com", false);
    }

    #[test]
    fn the_null_origin_of_a_sandboxed_frame_is_a_name_like_any_other() {
        check("https://example.com", "null", false);
    }

    #[test]
    fn an_entry_that_no_origin_could_ever_match_is_refused() {
        for entry in ["", "https://", "https://example.com/app", "ex*mple.com", "example.com:http", "a.*.com"] {
            assert!(OriginRule::parse(entry).is_err(), "{entry:?}");
        }
        assert_eq!(
            OriginRule::parse("https://example.com/"),
            Err("expected an origin such as \"https://example.com\" or \"*.example.com\", found \"https://example.com/\"".to_owned())
        );
    }
}
