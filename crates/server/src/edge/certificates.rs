//! Who we are over TLS: the certificate, its key, and what we agree on with a peer.
//!
//! Both files are read again while the server runs; new connections get the new certificate, and a pair that does not fit
//! together changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::TlsFiles;

/// What is spoken under TLS, the preferred first.
const ALPN: [&[u8]; 2] = [HTTP2, b"http/1.1"];

/// The name of HTTP/2 in that negotiation.
pub const HTTP2: &[u8] = b"h2";

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadCertificate {
    /// A file cannot be read, or holds nothing of the kind.
    #[error("no PEM {what} in {file}: {error}")]
    Pem {
        /// What it should hold.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// What was found.
        error: pem::Error,
    },
    /// The key is of a kind that cannot be used, or is not the certificate's.
    #[error("{cert} and {key} do not go together: {error}")]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        error: rustls::Error,
    },
    /// TLS itself could not be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
}

/// The certificate in use; cheap to clone.
#[derive(Clone, Debug)]
pub struct Certificates {
    files: TlsFiles,
    current: Arc<ArcSwap<CertifiedKey>>,
}

impl Certificates {
    /// Reads both files.
    pub fn read(files: &TlsFiles) -> Result<Self, BadCertificate> {
        let current = Arc::new(ArcSwap::from_pointee(read_pair(files)?));
        Ok(Certificates { files: files.clone(), current })
    }

    /// Reads both files again; new connections get what is in them now.
    pub fn reread(&self) -> Result<(), BadCertificate> {
        self.current.store(Arc::new(read_pair(&self.files)?));
        Ok(())
    }

    /// How we speak TLS with this certificate.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, BadCertificate> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(BadCertificate::Tls)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        // Whoever comes back brings its session along: after a restart of a proxy everybody does at once.
        config.ticketer = ring::Ticketer::new().map_err(BadCertificate::Tls)?;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read_pair(files: &TlsFiles) -> Result<CertifiedKey, BadCertificate> {
    let chain = CertificateDer::pem_file_iter(&files.cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
    let chain = chain.map_err(|error| bad_pem("certificate", &files.cert, error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| bad_pem("private key", &files.key, error))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| BadCertificate::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        error,
    })
}

fn bad_pem(what: &'static str, file: &Path, error: pem::Error) -> BadCertificate {
    BadCertificate::Pem { what, file: file.to_owned(), error }
}
