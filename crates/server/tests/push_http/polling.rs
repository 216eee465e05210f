//! Pollers of several channels, one message per answer.

use super::*;
use serde_json::json;

#[test]
fn a_poller_of_many_channels_gets_what_was_published_at_once_each_once() {
    let server = server("");
    let channels: Vec<String> = (0..8).map(|channel| format!("room-{channel}")).collect();
    let target = format!("/sub/fanfare-key/{}?transport=poll&format=", channels.join("/"));
    // Somebody is shown all of it, so that the publications are in flight at the same time.
    let mut socket = server.connect();
    channels.iter().for_each(|channel| socket.subscribe(channel));
    for round in 0..5 {
        let start = server.request("GET", &format!("{target}json"), &[], "").json();
        let mut cursor = start["cursor"].as_str().expect("an answer says where to go on from").to_owned();
        let event =
            |channel: &String| json!({"name": "said", "channel": channel, "data": format!("{round} {channel}")});
        let batch: Vec<_> = channels.iter().map(event).collect();
        assert_eq!(server.post("/batch_events", &json!({"batch": batch})).status, 200);
        channels.iter().for_each(|_| drop(socket.recv_text()));
        let mut heard = Vec::new();
        loop {
            let answer = server.request("GET", &format!("{target}raw&since={cursor}"), &[], "");
            let next = answer.header("fanfare-cursor");
            cursor = next.unwrap_or_else(|| panic!("{} {}", answer.status, answer.body)).to_owned();
            if answer.status == 204 {
                break;
            }
            assert_eq!(answer.header("fanfare-recovered"), Some("true"));
            heard.push(answer.body);
            assert!(heard.len() <= channels.len(), "{heard:?}");
        }
        heard.sort();
        let expected: Vec<String> = channels.iter().map(|channel| format!("{round} {channel}")).collect();
        assert_eq!(heard, expected);
    }
}
