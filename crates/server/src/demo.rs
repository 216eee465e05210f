//! The demo page: a live thread of comments, served by this binary alone; the client that it uses; and what is printed
//! when it starts.
//!
//! The thread works with the development app only, whose credentials stand in the page. With any other configuration `/`
//! says that the server runs, and no more.
//!
//! Not here: what the page asks for: tokens (`api::dev`), and a way to publish without a secret (`api`).

use std::net::SocketAddr;
use std::sync::LazyLock;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Response};

use crate::apps::Apps;

/// Where the snippets say that the server is; replaced by where it is.
const SNIPPETS_AT: (&str, &str) = ("127.0.0.1", "6001");

const LISTEN_JS: &str = include_str!("../assets/snippets/listen.js");
const HEAR_JS: &str = include_str!("../assets/snippets/hear.js");
const PUBLISH_PY: &str = include_str!("../assets/snippets/publish.py");
const PUBLISH_SH: &str = include_str!("../assets/snippets/publish.sh");

/// Nothing but our own files and our own sockets. `ws:` and `wss:` are named as not every browser counts them to `'self'`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page, with the snippets in it.
static ROOM: LazyLock<Bytes> = LazyLock::new(|| {
    let page = include_str!("../assets/demo.html")
        .replace("{{hear.js}}", &escaped(HEAR_JS))
        .replace("{{listen.js}}", &escaped(LISTEN_JS))
        .replace("{{publish.py}}", &escaped(PUBLISH_PY))
        .replace("{{publish.sh}}", &escaped(PUBLISH_SH));
    page.into()
});

/// A file of the page.
struct Asset {
    content_type: &'static str,
    cache: Cache,
    body: Bytes,
}

/// How long browsers may keep a file.
enum Cache {
    /// It changes with the binary.
    Never,
    /// It changes with the binary, and other people's pages load it.
    Hour,
    /// Its name carries its version.
    Forever,
}

/// Answers `GET` for the page and its files; everything else is not its business.
pub fn page(method: &Method, path: &str, apps: &Apps) -> Option<Response<Full<Bytes>>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    Some(Asset::find(path, apps)?.response())
}

impl Asset {
    fn find(path: &str, apps: &Apps) -> Option<Asset> {
        let text = |content_type, body| Asset { content_type, cache: Cache::Never, body: Bytes::from_static(body) };
        Some(match path {
            "/" if apps.all().iter().any(|app| app.is_development()) => {
                Asset { content_type: "text/html; charset=utf-8", cache: Cache::Never, body: ROOM.clone() }
            }
            "/" => text("text/html; charset=utf-8", include_bytes!("../assets/running.html")),
            "/assets/demo.css" => text("text/css; charset=utf-8", include_bytes!("../assets/demo.css")),
            "/assets/demo.js" => text("text/javascript; charset=utf-8", include_bytes!("../assets/demo.js")),
            "/fanfare.js" => Asset {
                content_type: "text/javascript; charset=utf-8",
                cache: Cache::Hour,
                body: Bytes::from_static(include_bytes!("../../../clients/js/fanfare.js")),
            },
            "/assets/favicon.svg" => text("image/svg+xml", include_bytes!("../assets/favicon.svg")),
            "/assets/pusher-8.6.0.min.js" => Asset {
                content_type: "text/javascript; charset=utf-8",
                cache: Cache::Forever,
                body: Bytes::from_static(include_bytes!("../assets/pusher-8.6.0.min.js")),
            },
            _ => return None,
        })
    }

    fn response(self) -> Response<Full<Bytes>> {
        let cache = match self.cache {
            Cache::Never => "no-cache",
            Cache::Hour => "public, max-age=3600",
            Cache::Forever => "public, max-age=31536000, immutable",
        };
        let mut response = Response::new(Full::new(self.body));
        for (name, value) in [
            (CONTENT_TYPE, self.content_type),
            (CACHE_CONTROL, cache),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            // Modules are only loaded from another origin that allows it. Nothing here is a secret.
            (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// What `fanfare serve` prints for the development app: what is where, and lines to paste. They are not indented, as
/// Python would take offence.
pub fn banner(http: SocketAddr, admin: SocketAddr) -> String {
    let [hear, listen, python, curl] =
        [HEAR_JS, LISTEN_JS, PUBLISH_PY, PUBLISH_SH].map(|snippet| located(snippet, http));
    format!(
        "
Fanfare runs with its development app (id 1, key fanfare-key, secret fanfare-secret), for this machine only.

  demo     http://{http}/  (open it in two tabs)
  metrics  http://{admin}/metrics

── listen with fanfare.js ──
{hear}
── listen with pusher-js ──
{listen}
── publish from Python ──
{python}
── publish with curl ──
{curl}"
    )
}

/// A snippet that finds the server. An IPv6 address keeps its brackets, which every one of them wants.
fn located(snippet: &str, http: SocketAddr) -> String {
    let http = http.to_string();
    let (host, port) = http.rsplit_once(':').expect("an address ends with its port");
    snippet.replace(SNIPPETS_AT.0, host).replace(SNIPPETS_AT.1, port)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::config::{Config, test_config};

    fn apps() -> Apps {
        Apps::new(&Config::default())
    }

    fn get(path: &str) -> Option<Response<Full<Bytes>>> {
        page(&Method::GET, path, &apps())
    }

    #[test]
    fn every_file_that_the_page_names_is_served() {
        let page = std::str::from_utf8(&ROOM).expect("a page in UTF-8");
        let named: Vec<_> = page.split(['"']).filter(|text| text.starts_with("/assets/")).collect();
        assert!(named.len() >= 4, "{named:?}");
        for path in named {
            assert!(get(path).is_some(), "{path}");
        }
        assert!(!page.contains("{{"), "a placeholder is left");
    }

    #[test]
    fn the_room_is_for_the_development_app() {
        let other = Apps::new(&test_config("[[apps]]\nid = 1\nkeys = [{ key = \"k\", secret = \"s\" }]"));
        let served = |apps: &Apps| Asset::find("/", apps).expect("a page").body;
        assert_eq!(served(&apps()), *ROOM);
        assert!(!served(&other).windows(6).any(|window| window == b"pusher"));
    }

    #[test]
    fn the_client_is_served_to_pages_of_any_origin_and_small() {
        let response = get("/fanfare.js").expect("the client");
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).expect("a header");
        assert_eq!(header(CONTENT_TYPE), "text/javascript; charset=utf-8");
        assert_eq!(header(ACCESS_CONTROL_ALLOW_ORIGIN), "*");
        assert_eq!(header(CACHE_CONTROL), "public, max-age=3600");

        let source = Asset::find("/fanfare.js", &apps()).expect("the client").body;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&source).expect("a Vec takes all");
        let size = gzip.finish().expect("a Vec takes all").len();
        assert!(size < 6 * 1024, "{size} bytes gzipped");
    }

    #[test]
    fn other_paths_and_methods_are_left_to_others() {
        assert!(get("/apps/1/events").is_none());
        assert!(page(&Method::POST, "/", &apps()).is_none());
    }

    #[test]
    fn snippets_know_where_the_server_is() {
        let banner = banner("[::1]:7001".parse().expect("an address"), "127.0.0.1:7002".parse().expect("an address"));
        assert!(banner.contains("wsHost: \"[::1]\", wsPort: 7001"), "{banner}");
        assert!(banner.contains("http://[::1]:7001/apps/1/events?"), "{banner}");
        assert!(banner.contains("http://127.0.0.1:7002/metrics"), "{banner}");
        assert!(!banner.contains(SNIPPETS_AT.1), "{banner}");
    }

    #[test]
    fn snippets_name_the_development_app() {
        let app = apps().by_id("1").expect("the development app");
        assert!(HEAR_JS.contains(&*app.first_key().key));
        assert!(LISTEN_JS.contains(&*app.first_key().key) && PUBLISH_PY.contains(&*app.first_key().key));
        assert!(PUBLISH_SH.contains(&format!("auth_key={}&", app.first_key().key)));
        assert!(app.first_key().secret.as_bytes() == b"fanfare-secret" && PUBLISH_SH.contains("-hmac fanfare-secret"));
    }
}
