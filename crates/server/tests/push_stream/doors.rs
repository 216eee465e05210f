//! The same message through every door.

use super::Face;

#[test]
fn what_is_published_here_reaches_everybody_and_the_reverse() {
    let face = Face::start("");
    let (mut stream, mut events) = (face.stream("/sub/room", &[]), face.stream("/ev/room", &[]));
    events.expect(": \n");
    let mut socket = face.server.connect();
    socket.subscribe("room");
    assert_eq!(face.subscribers("room"), 3);

    face.publish("room", "from \"here\"");
    socket.expect(r#"{"event":"message","channel":"room","data":"from \"here\""}"#);
    stream.expect("from \"here\"");
    events.expect("data: from \"here\"\n\n");

    face.server.publish("room", "said", "from there");
    socket.expect(r#"{"event":"said","channel":"room","data":"from there"}"#);
    stream.expect("from there");
    events.expect("event: said\ndata: from there\n\n");

    face.publish_with("room", &[("Event-Type", "typed")], "x");
    socket.expect(r#"{"event":"typed","channel":"room","data":"x"}"#);
    assert_eq!(face.get("/poll/room.b3").body, "from \"here\"from therex");
}

#[test]
fn counts_that_subscribers_are_told_are_no_messages_here() {
    let face = Face::start_app("subscription_count = true", "");
    let mut stream = face.stream("/sub/room", &[]);
    let mut socket = face.server.connect();
    socket.ask_for("room", None);
    face.publish("room", "x");
    stream.expect("x");
    stream.expect_nothing();
}
