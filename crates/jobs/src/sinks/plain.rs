//! The sinks that need no settings: standard output, and nowhere.

use std::io::Write;

use async_trait::async_trait;

use super::text::{envelope, line};
use super::{Delivery, Sink, SinkError};

/// Writes a line of JSON per record to standard output.
pub(super) struct Stdout;

#[async_trait]
impl Sink for Stdout {
    async fn deliver(&self, delivery: Delivery<'_>) -> Result<(), SinkError> {
        let line = line(&envelope(delivery)?);
        // Whoever reads may be slow, or not read at all.
        let written = tokio::task::spawn_blocking(move || {
            let mut out = std::io::stdout().lock();
            out.write_all(&line).and_then(|()| out.flush())
        });
        let written = written.await.map_err(|error| SinkError::away(error.to_string()))?;
        written.map_err(|error| SinkError::away(format!("standard output: {error}")))
    }
}

/// Confirms everything.
pub(super) struct Null;

#[async_trait]
impl Sink for Null {
    async fn deliver(&self, _delivery: Delivery<'_>) -> Result<(), SinkError> {
        Ok(())
    }
}
