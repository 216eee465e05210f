//! TLS on the client's side: certificates, and a tunnel that lets every other helper speak through it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A certificate for `localhost` that nobody vouches for but the test, in a folder of its own.
pub struct Certificate {
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
    folder: TempDir,
}

impl Certificate {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let certificate = Self { made: make(), folder };
        certificate.write();
        certificate
    }

    /// The lines of a configuration that use it.
    pub fn config(&self) -> String {
        format!("[tls]\ncert = {:?}\nkey = {:?}\n", self.cert_file(), self.folder.path().join("key.pem"))
    }

    pub fn cert_file(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// Puts another one in its place.
    pub fn renew(&mut self) {
        self.made = make();
        self.write();
    }

    fn write(&self) {
        let key = self.folder.path().join("key.pem");
        std::fs::write(key, self.made.signing_key.serialize_pem()).expect("the key is written");
        std::fs::write(self.cert_file(), self.made.cert.pem()).expect("the certificate is written");
    }

    /// A client that trusts this certificate alone, and speaks these protocols.
    pub fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).expect("a certificate");
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.made.cert.der().clone()
    }
}

fn make() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    rcgen::generate_simple_self_signed(names).expect("a certificate can be made")
}

/// Connects and shakes hands; fails as the client of a browser's user would see it.
pub async fn connect_tls(to: SocketAddr, client: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(to).await?;
    TlsConnector::from(client).connect("localhost".try_into().expect("a name"), socket).await
}

/// Takes bare connections and carries each over TLS to a server, until it is dropped.
pub struct Tunnel {
    /// Where it listens.
    pub addr: SocketAddr,
    runtime: Option<Runtime>,
}

impl Tunnel {
    pub fn to(server: SocketAddr, client: Arc<ClientConfig>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("it need not block");
        let addr = listener.local_addr().expect("it has an address");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("the runtime takes it");
            loop {
                let (mut bare, _) = listener.accept().await.expect("a connection");
                let client = client.clone();
                tokio::spawn(async move {
                    let mut secret = connect_tls(server, client).await.expect("a handshake");
                    // How it ends is for the test to judge by what it was sent.
                    let _ = tokio::io::copy_bidirectional(&mut bare, &mut secret).await;
                });
            }
        });
        Self { addr, runtime: Some(runtime) }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
