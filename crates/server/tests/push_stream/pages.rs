//! What a page with the module's own JavaScript client sends: each of its ways to connect, and each of its points to start from.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::Face;
use crate::support::{Response, WebSocket};

/// The templates that the client is made for.
fn face() -> Face {
    let json =
        r#"{"id":~id~,"channel":"~channel~","text":"~text~","tag":"~tag~","time":"~time~","eventid":"~event-id~"}"#;
    let template = |mode: &str| format!("[push_stream.{mode}]\nmessage_template = '{json}'\n");
    let streaming = "[push_stream.streaming]\n\
        header_template = \"<script>parent.PushStream.register(this);</script>\"\n\
        message_template = \"<script>p(~id~,'~channel~','~text~','~event-id~','~time~','~tag~');</script>\"\n\
        footer_template = \"</body></html>\"\ncontent_type = \"text/html; charset=utf-8\"\n";
    let modes = ["eventsource", "websocket", "long_polling"].map(template).concat();
    Face::start(&format!("longpolling_connection_ttl_s = 1\nwebsocket_allow_publish = true\n{streaming}{modes}"))
}

impl Face {
    /// As `sendMessage` publishes.
    fn send(&self, id: &str, text: &str) {
        let headers = [("Accept", "application/json"), ("Content-type", "application/x-www-form-urlencoded")];
        let response = self.request("POST", &format!("/pub?id=/{id}&_=1700000000000"), &headers, text);
        assert_eq!(response.status, 200, "{response:?}");
    }
}

/// As the client reads a long-poll's body: objects, one behind the other.
fn messages(body: &str) -> Vec<Value> {
    let lines = body.replace("}{", "}\r\n{");
    lines.split("\r\n").filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn texts(response: &Response) -> Vec<String> {
    messages(&response.body).iter().map(|message| message["text"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn by_event_source() {
    let face = face();
    face.send("ch1", "before");
    let mut stream =
        face.stream("/ev/ch1.b1/ch2?_=1700000000000&tag=&time=&eventid=", &[("Accept", "text/event-stream")]);
    stream.expect(": \ndata: {\"id\":1,\"channel\":\"ch1\",\"text\":\"before\"");
    face.send("ch2", "now");
    stream.take_to("\"channel\":\"ch2\",\"text\":\"now\"");
}

#[test]
fn by_websocket_where_it_sends_too() {
    let face = face();
    let target = "/ws/ch1?_=1700000000000&tag=&time=&eventid=";
    let mut socket = WebSocket::open(face.addr, target, &[("Origin", "http://localhost")]).expect("a WebSocket");
    socket.send_text("hello%20there");
    let message: Value = serde_json::from_str(&socket.frame().expect("a message").text()).expect("JSON");
    assert_eq!((&message["id"], &message["text"]), (&1.into(), &"hello%20there".into()));
}

#[test]
fn by_a_frame_that_never_ends() {
    let face = face();
    let mut stream = face.stream("/sub/ch1?_=1700000000000&streamid=0&tag=&time=&eventid=", &[]);
    stream.expect("<script>parent.PushStream.register(this);</script>");
    face.send("ch1", "hi");
    stream.expect("<script>p(1,'ch1','hi','','");
}

#[test]
fn by_long_polls_with_headers() {
    let face = face();
    let begin = [("If-None-Match", "0"), ("If-Modified-Since", "null")];
    let nothing = face.request("GET", "/lp/ch1?tag=&time=&eventid=&_=1700000000000", &begin, "");
    assert_eq!(nothing.status, 304);
    let header =
        |response: &Response, name: &str| response.header(name).expect("the poll says how to go on").to_owned();
    face.send("ch1", "one");
    face.send("ch1", "two");
    let (tag, time) = (header(&nothing, "etag"), header(&nothing, "last-modified"));
    let resume = [("If-None-Match", tag.as_str()), ("If-Modified-Since", time.as_str())];
    let both = face.request("GET", "/lp/ch1?tag=&time=&eventid=&_=1700000000001", &resume, "");
    assert_eq!(texts(&both), ["one", "two"]);
    let (tag, time) = (header(&both, "etag"), header(&both, "last-modified"));
    let resume = [("If-None-Match", tag.as_str()), ("If-Modified-Since", time.as_str())];
    assert_eq!(face.request("GET", "/lp/ch1?tag=&time=&eventid=&_=1700000000002", &resume, "").status, 304);
}

#[test]
fn by_long_polls_of_another_origin_with_arguments() {
    let face = face();
    face.send("ch1", "one");
    let target = "/lp/ch1.b1?tag=&time=&eventid=&callback=PushStreamManager_0_onmessage_1700000000000&_=1700000000000";
    let called = |response: &Response| {
        let body = response.body.strip_prefix("PushStreamManager_0_onmessage_1700000000000([");
        let body = body.and_then(|body| body.strip_suffix("]);")).unwrap_or_else(|| panic!("{response:?}"));
        serde_json::from_str::<Value>(&format!("[{body}]")).expect("an array of messages")
    };
    let first = called(&face.get(target));
    assert_eq!(first[0]["text"], "one");
    face.send("ch1", "two");
    face.send("ch1", "three");
    let (tag, time) = (first[0]["tag"].as_str().expect("a tag"), first[0]["time"].as_str().expect("a time"));
    let time = time.replace(',', "%2C").replace(' ', "%20").replace(':', "%3A");
    let next = called(&face.get(&target.replace(".b1", "").replace("tag=&time=", &format!("tag={tag}&time={time}"))));
    assert_eq!((&next[0]["text"], &next[1]["text"]), (&"two".into(), &"three".into()));
}

#[test]
fn it_starts_from_messages_published_after_a_time() {
    let face = face();
    face.send("ch1", "old enough");
    let after = |seconds: u64| httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(seconds));
    let (minute, future) = (after(60), httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60)));
    let poll = |time: &str| face.request("GET", "/lp/ch1", &[("If-None-Match", "0"), ("If-Modified-Since", time)], "");
    assert_eq!(texts(&poll(&minute)), ["old enough"]);
    assert_eq!(poll(&future).status, 304);
    // With arguments, an unknown tag is sent as an empty one.
    let time = minute.replace(' ', "%20");
    assert_eq!(texts(&face.get(&format!("/lp/ch1?tag=&time={time}&eventid="))), ["old enough"]);
    let mut stream = face.stream(&format!("/ev/ch1?_=1&tag=&time={time}&eventid="), &[]);
    stream.expect(": \ndata: {\"id\":1,");
}

#[test]
fn it_starts_from_the_last_event_id() {
    let face = face();
    for (id, text) in [("e1", "one"), ("e2", "two")] {
        face.publish_with("ch1", &[("Event-Id", id)], text);
    }
    assert_eq!(texts(&face.get("/lp/ch1?tag=&time=&eventid=e1")), ["two"]);
    let mut stream = face.stream("/ev/ch1", &[("Last-Event-ID", "e1")]);
    stream.expect(": \nid: e2\ndata: {\"id\":2,\"channel\":\"ch1\",\"text\":\"two\"");
}

#[test]
fn its_channels_may_be_an_argument() {
    let face = face();
    face.send("ch1", "one");
    assert_eq!(texts(&face.get("/lp?channels=ch1.b1%2Fch2&_=1")), ["one"]);
}
