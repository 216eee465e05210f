//! What the API answers when its hub or its clock will not do, which a test over a socket cannot bring about.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use fanfare_hub::hub::Routes;
use fanfare_hub::memory::{MemoryBroker, MemoryPresence};
use fanfare_hub::publication::PusherForms;
use fanfare_proto::sign::sign_query;
use http_body_util::BodyExt;
use hyper::header::RETRY_AFTER;

use super::*;
use crate::ingest::recall::Recall;
use crate::queues::Kept;
use crate::readiness::Readiness;

const EVENT: &[u8] = br#"{"name":"said","data":"x","channel":"room"}"#;

/// An API over a hub without loops, so nobody listens.
fn api() -> Api {
    let config = Config { path_prefix: "/push".into(), ..Config::default() };
    let queues = Queues::start(&config, Kept::Here(None), Readiness::default()).expect("memory will do");
    Api::new(hub(), Apps::new(&config), Tokens::default(), queues, Recall::default(), &config)
}

/// A hub without loops.
pub fn hub() -> Hub {
    let routes = Arc::new(Routes::new(Vec::new(), Arc::new(PusherForms { deflate_bytes_min: 0 })));
    let broker = MemoryBroker::start(routes.clone(), 1);
    Hub::start(routes, Arc::new(broker), Arc::new(MemoryPresence::default()))
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Posts an event, signed as of `timestamp`, to `prefix` and the path that is signed.
async fn post(api: &Api, prefix: &str, timestamp: u64) -> (u16, Option<u64>, String) {
    let path = "/apps/1/events";
    let query = sign_query(b"fanfare-secret", "fanfare-key", "POST", path, &[], EVENT, timestamp);
    let request = Request::post(format!("{prefix}{path}?{query}")).body(Full::new(Bytes::from_static(EVENT)));
    let response = api.serve(request.expect("a request")).await;
    let retry_after = response.headers().get(RETRY_AFTER).map(|value| value.to_str().expect("digits").parse());
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("it is all there").to_bytes();
    (status, retry_after.transpose().expect("a number"), String::from_utf8(body.to_vec()).expect("UTF-8"))
}

#[tokio::test]
async fn ten_minutes_are_recent_and_more_are_not() {
    let api = api();
    let now = now_s();
    for good in [now - 590, now + 590] {
        assert_eq!(post(&api, "", good).await.0, 200);
    }
    for bad in [0, now - 700, now + 700] {
        let (status, _, body) = post(&api, "", bad).await;
        assert_eq!(status, 401);
        assert!(body.contains(&format!("auth_timestamp {bad} is more than 600 s from this server's clock")), "{body}");
    }
}

#[tokio::test]
async fn the_prefix_is_not_signed_and_may_be_left_out() {
    let api = api();
    for prefix in ["/push", ""] {
        assert_eq!(post(&api, prefix, now_s()).await, (200, None, "{}".into()));
    }
    assert_eq!(post(&api, "/pushy", now_s()).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_waits_for_its_apps_subscribers_and_then_hears_503() {
    let api = api();
    let app = api.apps.by_id("1").expect("the development app");
    let all = app.usage.window.try_take(1, usize::MAX);
    let (status, retry_after, body) = post(&api, "", now_s()).await;
    assert_eq!((status, retry_after), (503, Some(1)), "{body}");

    drop(all);
    assert_eq!(post(&api, "", now_s()).await.0, 200);
    assert!(app.usage.window.try_take(1, usize::MAX).is_some(), "a delivered publication gives its share back");
}

#[tokio::test]
async fn a_closed_hub_is_503() {
    let api = api();
    api.hub.close().await;
    let (status, retry_after, body) = post(&api, "", now_s()).await;
    assert_eq!((status, retry_after), (503, Some(1)));
    assert_eq!(body, r#"{"error":"broker unavailable"}"#);
}
