//! TLS: certificates of one's own, and of clients.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

use super::*;

/// An authority, and a certificate of a server and of a client.
struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(directory.path().join("ca.pem"), authority.pem()).unwrap();
        for name in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            std::fs::write(directory.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(directory.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn receiver(&self, asks_for_client: bool) -> Receiver {
        let provider = Arc::new(crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
        let builder = if asks_for_client {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![CertificateDer::from_pem_file(self.path("server.pem")).unwrap()];
        let mut config =
            builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(self.path("server.key")).unwrap()).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Receiver::on(([127, 0, 0, 1], 0).into(), Some(TlsAcceptor::from(Arc::new(config))))
    }
}

#[test]
fn certificates_of_ones_own_are_trusted_and_shown() {
    let certificates = Certificates::new();
    for protocol in PROTOCOLS {
        for asks_for_client in [false, true] {
            let receiver = certificates.receiver(asks_for_client);
            let mut settings = settings(&receiver, protocol);
            settings.endpoint = Some(format!("https://localhost:{}", receiver.address.port()));
            settings.outbound.ca_file = Some(certificates.path("ca.pem"));
            if asks_for_client {
                settings.outbound.client_certificate = Some(certificates.path("client.pem"));
                settings.outbound.client_key = Some(certificates.path("client.key"));
            }
            let mut scene = Scene::start(settings);
            let changed = scene.window(&recorded("fd_leak_files")) as u64;
            until(&format!("{protocol} {asks_for_client}: nothing came: {:?}", scene.status()), || {
                let status = scene.status();
                (status.records_sent == changed && status.points_sent > 0).then_some(())
            });
            assert!(!receiver.metrics().is_empty());
        }
    }
}

#[test]
fn strangers_are_not_sent_to() {
    let certificates = Certificates::new();
    for protocol in PROTOCOLS {
        let sends = |receiver: &Receiver, ca: Option<PathBuf>| {
            let mut settings = only_logs(receiver, protocol);
            settings.endpoint = Some(format!("https://localhost:{}", receiver.address.port()));
            settings.outbound.ca_file = ca;
            let mut scene = Scene::start(settings);
            scene.window(&recorded("fd_leak_files"));
            let why = until("it does not fail", || scene.status().logs_failing);
            assert!(receiver.came().is_empty(), "{protocol}");
            why
        };
        // Not an authority that this machine knows.
        let why = sends(&certificates.receiver(false), None);
        assert!(why.to_lowercase().contains("certificate"), "{protocol}: {why}");
        let why = sends(&certificates.receiver(false), Some(Certificates::new().path("ca.pem")));
        assert!(why.contains("No such file") || why.to_lowercase().contains("certificate"), "{protocol}: {why}");
        // It wants to know who comes.
        sends(&certificates.receiver(true), Some(certificates.path("ca.pem")));
    }
}
