//! Connecting to a Redis server: address, TLS, login.
//!
//! Not here: what is then said on a connection (`link`, `subscriber`).

use crate::config::{Login, RedisServer, RedisSettings};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long a connection may take to be there, TLS and login included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a command may go unanswered.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Commands that wait to be written; beyond it, callers wait.
const PIPELINE_LEN: usize = 1024;

/// Why a server could not be talked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("cannot connect: {0}")]
    Io(#[from] io::Error),
    #[error("no answer within {} s", DIAL_TIMEOUT.as_secs())]
    Timeout,
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
    #[error("authentication failed: {0}")]
    Login(redis::RedisError),
    #[error("cannot use {file} as certificate authority: {reason}")]
    Authority { file: String, reason: String },
    #[error("it is a replica")]
    Replica,
    #[error("{0}")]
    Unfit(String),
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub host: Arc<str>,
    pub port: u16,
    pub tls: bool,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl From<&RedisServer> for Address {
    fn from(server: &RedisServer) -> Address {
        Address { host: server.host.clone(), port: server.port, tls: server.tls }
    }
}

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Running(JoinHandle<()>);

impl Running {
    /// Starts it.
    pub fn start(task: impl Future<Output = ()> + Send + 'static) -> Running {
        Running(tokio::spawn(task))
    }

    /// Returns when it has ended by itself.
    pub async fn ended(&mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A byte stream, under TLS or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Makes connections.
pub(super) struct Dialer {
    tls: TlsConnector,
}

impl Dialer {
    /// A dialer that trusts the settings' certificate authority, or the system's.
    pub fn new(settings: &RedisSettings) -> Result<Dialer, DialError> {
        let roots = match &settings.ca {
            Some(file) => roots_in(file)?,
            None => system_roots(),
        };
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Dialer { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// A connection for commands, with its driver, which ends when the connection does.
    pub async fn commands(&self, at: &Address, login: &Login) -> Result<(MultiplexedConnection, Running), DialError> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_pipeline_buffer_size(PIPELINE_LEN);
        in_time(async {
            let stream = self.logged_in(at, login).await?;
            let info = RedisConnectionInfo::default().set_skip_set_lib_name();
            let (connection, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
            Ok((connection, Running::start(driver)))
        })
        .await
    }

    /// A connection for pub/sub.
    pub async fn pubsub(&self, at: &Address, login: &Login) -> Result<Box<dyn Stream>, DialError> {
        in_time(self.logged_in(at, login)).await
    }

    async fn logged_in(&self, at: &Address, login: &Login) -> Result<Box<dyn Stream>, DialError> {
        let mut stream = self.stream(at).await?;
        let Some(password) = &login.password else { return Ok(stream) };
        let mut auth = redis::cmd("AUTH");
        if let Some(username) = &login.username {
            auth.arg(&**username);
        }
        auth.arg(password.as_bytes());
        stream.write_all(&auth.get_packed_command()).await?;
        let answer = redis::parse_redis_value_async(&mut Default::default(), &mut stream).await?;
        answer.extract_error().map_err(DialError::Login)?;
        Ok(stream)
    }

    async fn stream(&self, at: &Address) -> Result<Box<dyn Stream>, DialError> {
        let socket = TcpStream::connect((&*at.host, at.port)).await?;
        socket.set_nodelay(true)?;
        if !at.tls {
            return Ok(Box::new(socket));
        }
        let name = ServerName::try_from(at.host.to_string()).map_err(|error| DialError::Unfit(error.to_string()))?;
        Ok(Box::new(self.tls.connect(name, socket).await?))
    }
}

async fn in_time<T>(dial: impl Future<Output = Result<T, DialError>>) -> Result<T, DialError> {
    timeout(DIAL_TIMEOUT, dial).await.unwrap_or(Err(DialError::Timeout))
}

fn roots_in(file: &Path) -> Result<RootCertStore, DialError> {
    let wrong = |reason: String| DialError::Authority { file: file.display().to_string(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))? {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(wrong("it holds no certificate".to_owned())),
        false => Ok(roots),
    }
}

/// What cannot be read of the system's is left out: without TLS none of it is needed, and with it the handshake will say so.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}
