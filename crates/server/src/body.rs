//! Reads a request's body, and no more of it than it may have.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Body;

/// How long a body may take to arrive: 1 MiB over a poor mobile line. Beyond it, 408.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A body from hyper, or from a test.
pub trait Readable: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> {}

impl<B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>> Readable for B {}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BadBody {
    /// There is more of it than is allowed.
    #[error("the body may have {bytes_max} bytes")]
    TooLarge {
        /// Bytes allowed.
        bytes_max: usize,
    },
    /// It did not arrive in time.
    #[error("the body took longer than {} s to arrive", BODY_TIMEOUT.as_secs())]
    Slow,
    /// The peer left, or broke the framing.
    #[error("the body ended before its announced length")]
    CutShort,
    /// JSON and forms are UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
}

impl BadBody {
    /// What its sender may do about it.
    pub fn status(&self) -> StatusCode {
        match self {
            BadBody::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BadBody::Slow => StatusCode::REQUEST_TIMEOUT,
            BadBody::CutShort | BadBody::NotUtf8 => StatusCode::BAD_REQUEST,
        }
    }
}

/// The whole body.
pub async fn read<B: Readable>(body: B, bytes_max: usize) -> Result<Bytes, BadBody> {
    // Who announces too much is told before sending it.
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(BadBody::TooLarge { bytes_max });
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BadBody::TooLarge { bytes_max }),
        Ok(Err(_)) => Err(BadBody::CutShort),
        Err(_elapsed) => Err(BadBody::Slow),
    }
}

/// The body as text.
pub fn text(body: &[u8]) -> Result<&str, BadBody> {
    std::str::from_utf8(body).map_err(|_| BadBody::NotUtf8)
}
