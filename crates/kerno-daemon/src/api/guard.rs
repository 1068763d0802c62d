//! Who may ask from other machines: TLS with files that may change, client certificates, a bearer token.

use std::fs::Metadata;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq as _;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

use crate::explain::explain;
use crate::outbound::{OutboundError, Secret};

/// How often files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

/// Who may ask over HTTP. What is set is required; beyond this machine's loopback, TLS and one of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Guard {
    /// The server's certificate, with those that vouch for it: a file in PEM. Together with the key it turns TLS on.
    pub certificate: Option<PathBuf>,
    /// The key of the certificate: a file in PEM.
    pub key: Option<PathBuf>,
    /// Clients have a certificate that one of these vouches for: a file in PEM.
    pub client_ca: Option<PathBuf>,
    /// Requests have the token in this file: `Authorization: Bearer TOKEN`.
    pub token_file: Option<PathBuf>,
}

/// Why HTTP cannot be served so. Files may change while it runs: then what was read last stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// Something else has to be set, too.
    #[error("{0}")]
    Setting(String),
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not have what it should.
    #[error("{path}: {why}")]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The token cannot be read.
    #[error(transparent)]
    Token(#[from] OutboundError),
}

/// The least bytes of a token: fewer can be guessed.
const SHORTEST_TOKEN: usize = 16;

impl Guard {
    /// Whether it can be served at this address, and every file has what it should.
    ///
    /// # Errors
    /// For the first thing that is missing or wrong.
    pub fn check(&self, address: SocketAddr) -> Result<(), GuardError> {
        let needs = |what: &str| Err(GuardError::Setting(what.to_owned()));
        match (&self.certificate, &self.key) {
            (Some(_), None) => return needs("http_certificate needs http_key, the file of its key"),
            (None, Some(_)) => return needs("http_key needs http_certificate, the file of its certificate"),
            (None, None) if self.client_ca.is_some() => {
                return needs(
                    "http_client_ca needs http_certificate and http_key: without TLS clients show no certificate",
                );
            }
            _ => {}
        }
        if !address.ip().is_loopback() {
            let is_known = self.token_file.is_some() || self.client_ca.is_some();
            if self.certificate.is_none() || !is_known {
                return Err(GuardError::Setting(format!(
                    "http: {address} can be reached from other machines: set http_certificate and http_key for TLS, and \
                     http_token_file or http_client_ca to say who may ask; or serve on this machine only, such as on 127.0.0.1:{}",
                    address.port()
                )));
            }
        }
        Tls::new(self)?;
        Token::new(self)?;
        Ok(())
    }
}

/// When a file was changed last, as far as that can be seen.
type Stamp = (u64, i64, i64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let of = |data: Metadata| (data.ino(), data.mtime(), data.mtime_nsec(), data.len());
    std::fs::metadata(path).ok().map(of)
}

/// What is made of files, and made again when they change.
#[derive(Debug)]
struct Kept<T> {
    value: T,
    files: Vec<PathBuf>,
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
}

impl<T: Clone> Kept<T> {
    fn new(files: Vec<PathBuf>, value: T) -> Self {
        let stamps = files.iter().map(|path| stamp(path)).collect();
        Self { value, files, stamps, looked: Instant::now() }
    }

    /// The value of the files as they are now, or as they were when they could be used last.
    fn current(&mut self, make: impl FnOnce() -> Result<T, GuardError>) -> T {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            let stamps: Vec<_> = self.files.iter().map(|path| stamp(path)).collect();
            if stamps != self.stamps {
                self.stamps = stamps;
                match make() {
                    Ok(value) => {
                        self.value = value;
                        tracing::info!(files = ?self.files, "files for HTTP read again");
                    }
                    Err(error) => {
                        tracing::error!("HTTP goes on with what was read before: {}", explain(&error))
                    }
                }
            }
        }
        self.value.clone()
    }
}

/// TLS, with the files of the guard.
#[derive(Debug)]
pub(super) struct Tls {
    guard: Guard,
    kept: Mutex<Kept<Arc<ServerConfig>>>,
}

impl Tls {
    /// `None` if it is not asked for.
    pub(super) fn new(guard: &Guard) -> Result<Option<Self>, GuardError> {
        let (Some(certificate), Some(key)) = (&guard.certificate, &guard.key) else { return Ok(None) };
        let config = config(certificate, key, guard.client_ca.as_deref())?;
        let files = [Some(certificate), Some(key), guard.client_ca.as_ref()].into_iter().flatten().cloned().collect();
        Ok(Some(Self { guard: guard.clone(), kept: Mutex::new(Kept::new(files, config)) }))
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let again = || match (&self.guard.certificate, &self.guard.key) {
            (Some(certificate), Some(key)) => config(certificate, key, self.guard.client_ca.as_deref()),
            _ => Err(GuardError::Setting("TLS is not asked for".to_owned())),
        };
        kept.current(again).into()
    }
}

fn config(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, GuardError> {
    let provider = Arc::new(ring::default_provider());
    let wrong = |path: &Path, why: String| GuardError::Contents { path: path.to_owned(), why };
    let chain = certificates(certificate)?;
    let text = read(key)?;
    let private =
        PrivateKeyDer::from_pem_slice(&text).map_err(|error| wrong(key, format!("has no key in PEM: {error}")))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(certificate, error.to_string()))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots.add(root).map_err(|error| wrong(path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.build().map_err(|error: VerifierBuilderError| wrong(path, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, private)
        .map_err(|error: rustls::Error| wrong(certificate, format!("does not go with {}: {error}", key.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, GuardError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let wrong = |why: String| GuardError::Contents { path: path.to_owned(), why };
    let found = found.map_err(|error| wrong(format!("cannot be read as PEM: {error}")))?;
    if found.is_empty() {
        return Err(wrong("has no certificate in PEM".to_owned()));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, GuardError> {
    crate::outbound::read(path).map(String::into_bytes).map_err(|error| match error {
        OutboundError::Read { path, source } => GuardError::Read { path, source },
        other => GuardError::Token(other),
    })
}

/// The token of the guard.
#[derive(Debug)]
pub(super) struct Token {
    file: PathBuf,
    kept: Mutex<Kept<Arc<str>>>,
}

impl Token {
    /// `None` if it is not asked for.
    pub(super) fn new(guard: &Guard) -> Result<Option<Self>, GuardError> {
        let Some(file) = &guard.token_file else { return Ok(None) };
        let kept = Mutex::new(Kept::new(vec![file.clone()], token(file)?));
        Ok(Some(Self { file: file.clone(), kept }))
    }

    /// Whether the value of `Authorization` has it. Takes the same time whichever byte differs.
    pub(super) fn is_in(&self, authorization: Option<&[u8]>) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = kept.current(|| token(&self.file));
        let given = authorization.and_then(|value| value.split_at_checked(BEARER.len()));
        given.is_some_and(|(scheme, given)| {
            scheme.eq_ignore_ascii_case(BEARER) && bool::from(given.trim_ascii().ct_eq(expected.as_bytes()))
        })
    }
}

const BEARER: &[u8] = b"Bearer ";

fn token(file: &Path) -> Result<Arc<str>, GuardError> {
    let token = Secret::File(file.to_owned()).read()?;
    let wrong = |why: String| GuardError::Contents { path: file.to_owned(), why };
    if token.len() < SHORTEST_TOKEN {
        return Err(wrong(format!("the token has {} bytes, and needs {SHORTEST_TOKEN} at least", token.len())));
    }
    if token.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(wrong(
            "the token has other bytes than letters, digits and signs of ASCII, or more than one line".into(),
        ));
    }
    Ok(token.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_token_is_the_whole_token() {
        let kept = file(" 0123456789abcdef\n");
        let guard = Guard { token_file: Some(kept.path().to_owned()), ..Guard::default() };
        let token = Token::new(&guard).unwrap().unwrap();
        for good in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef "] {
            assert!(token.is_in(Some(good.as_bytes())), "{good}");
        }
        let bad = ["", "Bearer", "Bearer ", "Basic 0123456789abcdef", "0123456789abcdef", "Bearer 0123456789abcde"];
        for bad in bad.into_iter().chain(["Bearer 0123456789abcdefg", "Bearer 0123456789abcdeF", "\u{fffd}"]) {
            assert!(!token.is_in(Some(bad.as_bytes())), "{bad}");
        }
        assert!(!token.is_in(None));
    }

    #[test]
    fn a_token_that_changes_is_read_again_and_one_that_is_bad_is_not_taken() {
        let kept = file("the first of the tokens".replace(' ', "-").as_str());
        let guard = Guard { token_file: Some(kept.path().to_owned()), ..Guard::default() };
        let token = Token::new(&guard).unwrap().unwrap();
        let is_in = |text: &str| token.is_in(Some(format!("Bearer {text}").as_bytes()));
        let wait = || std::thread::sleep(LOOK + Duration::from_millis(100));
        assert!(is_in("the-first-of-the-tokens"));
        std::fs::write(kept.path(), "the-second-of-the-tokens").unwrap();
        wait();
        assert!(is_in("the-second-of-the-tokens") && !is_in("the-first-of-the-tokens"));
        std::fs::write(kept.path(), "short").unwrap();
        wait();
        assert!(is_in("the-second-of-the-tokens") && !is_in("short"));
        std::fs::remove_file(kept.path()).unwrap();
        wait();
        assert!(is_in("the-second-of-the-tokens"));
    }

    #[test]
    fn nobody_is_let_in_from_other_machines_unasked() {
        let kept = file("0123456789abcdef");
        let path = || Some(kept.path().to_owned());
        let here: SocketAddr = "127.0.0.1:7653".parse().unwrap();
        let everywhere: SocketAddr = "0.0.0.0:7653".parse().unwrap();
        let error = |guard: Guard, address| guard.check(address).unwrap_err().to_string();
        assert!(Guard::default().check(here).is_ok());
        assert!(error(Guard::default(), everywhere).contains("http_certificate and http_key"));
        let token = || Guard { token_file: path(), ..Guard::default() };
        assert!(token().check(here).is_ok());
        assert!(error(token(), everywhere).contains("can be reached from other machines"));
        assert!(error(Guard { key: path(), ..Guard::default() }, here).contains("http_key needs http_certificate"));
        assert!(error(Guard { certificate: path(), ..Guard::default() }, here).contains("needs http_key"));
        assert!(error(Guard { client_ca: path(), ..Guard::default() }, here).contains("without TLS"));
        let both = Guard { certificate: path(), key: path(), ..token() };
        assert!(error(both, everywhere).contains("has no certificate in PEM"));
        let gone = Guard { token_file: Some("/no/such/token".into()), ..Guard::default() };
        assert!(error(gone, here).contains("cannot read /no/such/token"));
        std::fs::write(kept.path(), "short").unwrap();
        assert!(error(token(), here).contains("5 bytes, and needs 16"));
        std::fs::write(kept.path(), "two lines of\nmany letters").unwrap();
        assert!(error(token(), here).contains("more than one line"));
    }
}
