//! Polling and long-polling.

use std::thread;

use super::Face;
use crate::support::{Response, eventually};

const POLL: (&str, &str) = ("X-Nginx-PushStream-Mode", "polling");
const EPOCH: &str = "Thu, 01 Jan 1970 00:00:00 GMT";

impl Face {
    fn poll(&self, target: &str, headers: &[(&str, &str)]) -> Response {
        self.request("GET", target, &[&[POLL], headers].concat(), "")
    }

    /// Begins a long-poll and returns once it waits.
    fn wait_on<'s>(
        &'s self,
        scope: &'s thread::Scope<'s, '_>,
        id: &str,
        target: &str,
    ) -> thread::ScopedJoinHandle<'s, Response> {
        let before = self.subscribers(id);
        let target = target.to_owned();
        let waiting = scope.spawn(move || self.get(&target));
        eventually("the poll waits", || self.subscribers(id) > before);
        waiting
    }

    pub fn subscribers(&self, id: &str) -> u64 {
        let info = self.get(&format!("/channels-stats?id={id}"));
        if info.status == 404 { 0 } else { info.json()["subscribers"].as_u64().expect("a number") }
    }
}

/// What a client sends back to go on.
fn resume(response: &Response) -> Vec<(&'static str, String)> {
    let header = |name: &str| response.header(name).unwrap_or_else(|| panic!("no {name} in {response:?}")).to_owned();
    vec![("If-Modified-Since", header("last-modified")), ("If-None-Match", header("etag"))]
}

fn borrowed<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[test]
fn a_poll_is_answered_at_once_with_all_there_is() {
    let face = Face::start("");
    assert_eq!(face.poll("/sub/a", &[]).status, 304);
    face.publish("a", "one ");
    face.publish("a", "two ");
    assert_eq!(face.poll("/sub/a", &[]).status, 304, "from now on");
    let all = face.poll("/sub/a", &[("If-Modified-Since", EPOCH), ("If-None-Match", "0")]);
    assert_eq!((all.status, all.body.as_str()), (200, "one two "));
    let nothing = face.poll("/sub/a", &borrowed(&resume(&all)));
    assert_eq!((nothing.status, nothing.body.as_str()), (304, ""));
    assert_eq!(
        (nothing.header("etag"), nothing.header("last-modified")),
        (all.header("etag"), all.header("last-modified"))
    );
    face.publish("a", "three ");
    let next = face.poll("/sub/a", &borrowed(&resume(&nothing)));
    assert_eq!((next.status, next.body.as_str()), (200, "three "));
    assert!(next.header("etag").is_some_and(|tag| tag.starts_with("W/")), "{next:?}");
    assert_eq!(face.get("/poll/a.b2").body, "two three ");
}

#[test]
fn a_long_poll_waits_for_one_message() {
    let face = Face::start("");
    thread::scope(|scope| {
        let waiting = face.wait_on(scope, "a", "/lp/a");
        face.publish("a", "one");
        let one = waiting.join().expect("an answer");
        assert_eq!((one.status, one.body.as_str()), (200, "one"));
        face.publish("a", "two ");
        face.publish("a", "three ");
        let rest = face.request("GET", "/lp/a", &borrowed(&resume(&one)), "");
        assert_eq!((rest.status, rest.body.as_str()), (200, "two three "), "all that is stored, in one answer");
    });
}

#[test]
fn a_header_makes_a_long_poll_of_a_stream() {
    let face = Face::start("");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| face.request("GET", "/sub/a", &[("X-Nginx-PushStream-Mode", "long-polling")], ""));
        eventually("the poll waits", || face.subscribers("a") == 1);
        face.publish("a", "x");
        assert_eq!(waiting.join().expect("an answer").body, "x");
    });
}

#[test]
fn a_long_poll_that_waited_in_vain_ends_with_304() {
    let face = Face::start("longpolling_connection_ttl_s = 1\nsubscriber_connection_ttl_s = 100");
    let nothing = face.get("/lp/a");
    assert_eq!((nothing.status, nothing.body.as_str(), nothing.header("etag")), (304, "", Some("W/0")));
    face.publish("a", "x");
    let next = face.request("GET", "/lp/a", &borrowed(&resume(&nothing)), "");
    assert_eq!((next.status, next.body.as_str()), (200, "x"));
    let again = face.request("GET", "/lp/a", &borrowed(&resume(&next)), "");
    assert_eq!(again.status, 304, "nothing is told twice, however soon after");
    assert_eq!(again.header("etag").map(|_| ()), Some(()));
}

#[test]
fn or_with_a_message_where_the_configuration_says_so() {
    let face = Face::start(
        "subscriber_connection_ttl_s = 1\ntimeout_with_body = true\n[push_stream.long_polling]\n\
         message_template = \"~id~:~text~:~channel~:~tag~:~time~\"",
    );
    let nothing = face.get("/lp/a");
    assert_eq!((nothing.status, nothing.body.as_str()), (200, "-3:Timed out::0:Thu, 01 Jan 1970 00:00:00 GMT"));
    assert_eq!(face.get("/lp/a?callback=f").body, "f([-3:Timed out::0:Thu, 01 Jan 1970 00:00:00 GMT]);");
}

#[test]
fn a_page_of_another_origin_has_its_function_called() {
    let face = Face::start("");
    thread::scope(|scope| {
        let waiting = face.wait_on(scope, "a", "/lp/a?callback=Push.on_0");
        face.publish("a", "1");
        let one = waiting.join().expect("an answer");
        assert_eq!(
            (one.header("content-type"), one.body.as_str()),
            (Some("application/javascript"), "Push.on_0([1]);")
        );
        face.publish("b", "2");
        assert_eq!(face.get("/lp/a.b1/b.b1?callback=f").body, "f([1,2]);");
        assert_eq!(face.get("/lp/a?callback=alert(1)//").status, 400);
    });
}

#[test]
fn deleting_a_channel_answers_those_who_wait() {
    let face = Face::start("[push_stream.long_polling]\nmessage_template = \"~id~:~text~\"");
    thread::scope(|scope| {
        let waiting = face.wait_on(scope, "a", "/lp/a/b");
        assert_eq!(face.request("DELETE", "/pub?id=a", &[], "").status, 200);
        let last = waiting.join().expect("an answer");
        assert_eq!((last.status, last.body.as_str()), (200, "-2:Channel deleted"));
    });
}

#[test]
fn a_chain_of_long_polls_misses_nothing_and_hears_nothing_twice() {
    let face =
        Face::start("longpolling_connection_ttl_s = 1\n[push_stream.long_polling]\nmessage_template = \"~text~ \"");
    thread::scope(|scope| {
        let publisher =
            scope.spawn(|| (1..=60).for_each(|n| _ = face.publish(if n % 2 == 0 { "a" } else { "b" }, &n.to_string())));
        let mut heard: Vec<u32> = Vec::new();
        let mut headers = vec![("If-Modified-Since", EPOCH.to_owned()), ("If-None-Match", "0".to_owned())];
        while heard.len() < 60 {
            let response = face.request("GET", "/lp/a/b", &borrowed(&headers), "");
            heard.extend(response.body.split_whitespace().map(|text| text.parse::<u32>().expect("a number")));
            headers = resume(&response);
        }
        publisher.join().expect("all was published");
        heard.sort();
        assert_eq!(heard, (1..=60).collect::<Vec<_>>());
    });
}
