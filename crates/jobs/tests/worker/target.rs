//! A real HTTP server that answers, fails or hangs as a test wants it to.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What the server heard.
#[derive(Clone, Debug)]
pub struct Heard {
    pub target: String,
    pub headers: HeaderMap,
    pub body: String,
    pub at: Instant,
}

/// What it does.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    Status(u16),
    /// 503, and not to come back for so many seconds.
    After(u64),
    Hang,
}

type Rule = dyn Fn(&Heard) -> Reply + Send;

#[derive(Clone)]
pub struct Target {
    pub url: String,
    heard: Arc<Mutex<Vec<Heard>>>,
    rule: Arc<Mutex<Box<Rule>>>,
}

impl Target {
    /// One that takes everything.
    pub async fn start() -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/in", listener.local_addr().unwrap());
        let rule: Box<Rule> = Box::new(|_| Reply::Status(200));
        let target = Target { url, heard: Arc::default(), rule: Arc::new(Mutex::new(rule)) };
        tokio::spawn(target.clone().serve(listener));
        target
    }

    /// From now on this decides.
    pub fn decide(&self, rule: impl Fn(&Heard) -> Reply + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    pub fn always(&self, reply: Reply) {
        self.decide(move |_| reply);
    }

    /// All that it was asked, whatever it answered.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    pub fn bodies(&self) -> Vec<String> {
        self.heard().into_iter().map(|heard| heard.body).collect()
    }

    /// The address of one that confirms everything and never ends its answer.
    pub async fn without_end() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/in", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                // An answer before its question is none.
                assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
                socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nand").await.unwrap();
                open.push(socket);
            }
        });
        url
    }

    async fn serve(self, listener: TcpListener) {
        while let Ok((socket, _)) = listener.accept().await {
            let target = self.clone();
            let service = service_fn(move |request| target.clone().answer(request));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (parts, body) = request.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let heard = Heard { target: parts.uri.to_string(), headers: parts.headers, body, at: Instant::now() };
        let reply = (self.rule.lock().unwrap())(&heard);
        self.heard.lock().unwrap().push(heard);
        let mut response = Response::new(Full::new(Bytes::from_static(b"said")));
        match reply {
            Reply::Status(status) => *response.status_mut() = StatusCode::from_u16(status).unwrap(),
            Reply::After(seconds) => {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                response.headers_mut().insert("retry-after", seconds.to_string().parse().unwrap());
            }
            Reply::Hang => tokio::time::sleep(Duration::from_secs(3600)).await,
        }
        Ok(response)
    }
}
