//! Connections to other machines: what everything that sends has in common.
//!
//! TLS is rustls with the certificates that this machine trusts, or those of one file. Proxies are those of the environment (`HTTPS_PROXY`,
//! `HTTP_PROXY`, `NO_PROXY`). Secrets are read from files and the environment when they are used, so that they may change meanwhile.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use ureq::http::{HeaderName, HeaderValue, Uri};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig};

/// What requests say of who sends them.
pub(crate) const USER_AGENT: &str = concat!("kerno/", env!("CARGO_PKG_VERSION"));

/// No secret, and no file of headers or certificates, is longer.
const MAX_BYTES: u64 = 1 << 20;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// In a file, without the white space about it.
    File(PathBuf),
    /// In a variable of the environment.
    Environment(String),
}

/// How to reach a server over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// The longest that a request may take, from the look-up of the name to the end of the answer.
    pub timeout: Duration,
    /// Trust these certificates (PEM) instead of those that this machine trusts.
    pub ca_file: Option<PathBuf>,
    /// Send the headers in this file, one `Name: value` a line. It may have secrets.
    pub headers_file: Option<PathBuf>,
    /// Show this certificate (PEM) to servers that ask for one. It needs the key.
    pub client_certificate: Option<PathBuf>,
    /// The private key (PEM) of that certificate.
    pub client_key: Option<PathBuf>,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            ca_file: None,
            headers_file: None,
            client_certificate: None,
            client_key: None,
        }
    }
}

/// Why nothing can be sent from here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboundError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A variable of the environment is not set.
    #[error("the environment has no variable {0}")]
    NoVariable(String),
    /// There is nothing where a secret should be.
    #[error("{0} is empty")]
    Empty(String),
    /// A file has no certificate.
    #[error("{path}: {why}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate for clients has no key, or a key no certificate.
    #[error("a client certificate and its key are needed together")]
    HalfIdentity,
    /// A file of headers has a line that is none.
    #[error("{path}:{line}: expected a header such as \"Authorization: Bearer ...\"")]
    Header {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// This is not the address of a server.
    #[error("{0}")]
    Url(String),
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Environment(name) => write!(f, "the environment variable {name}"),
        }
    }
}

impl Secret {
    /// The secret as it is now.
    ///
    /// # Errors
    /// If there is none.
    pub fn read(&self) -> Result<String, OutboundError> {
        let text = match self {
            Self::File(path) => read(path)?,
            Self::Environment(name) => std::env::var(name).map_err(|_| OutboundError::NoVariable(name.clone()))?,
        };
        match text.trim() {
            "" => Err(OutboundError::Empty(self.to_string())),
            text => Ok(text.to_owned()),
        }
    }
}

impl Outbound {
    /// A client that reaches servers so. It keeps connections, and no status of an answer is an error. It follows no redirect: the
    /// receiver that was configured is the one that gets what is sent.
    ///
    /// # Errors
    /// If the certificates cannot be read.
    pub fn agent(&self) -> Result<ureq::Agent, OutboundError> {
        let client = self.identity()?.map(|identity| ClientCert::new_with_certs(&identity.chain, identity.key));
        let tls = TlsConfig::builder().root_certs(self.roots()?).client_cert(client).build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .user_agent(USER_AGENT)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(self.timeout))
            .max_idle_connections_per_host(1)
            .max_idle_age(Duration::from_secs(15))
            .build();
        Ok(config.into())
    }

    /// The file of certificates as it is now, for clients that take PEM; `None` to trust what this machine trusts.
    ///
    /// # Errors
    /// If it cannot be read, or has no certificate.
    pub fn ca_pem(&self) -> Result<Option<String>, OutboundError> {
        let Some(path) = &self.ca_file else { return Ok(None) };
        let text = read(path)?;
        certificates(path, &text)?;
        Ok(Some(text))
    }

    /// The certificate for clients and its key as they are now, for clients that take PEM; `None` without.
    ///
    /// # Errors
    /// If one is missing, cannot be read, or is none.
    pub fn identity_pem(&self) -> Result<Option<(String, String)>, OutboundError> {
        Ok(self.identity()?.map(|identity| identity.pem))
    }

    fn identity(&self) -> Result<Option<Identity>, OutboundError> {
        let (certificate, key) = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => return Ok(None),
            _ => return Err(OutboundError::HalfIdentity),
        };
        let pem = (read(certificate)?, read(key)?);
        let chain = certificates(certificate, &pem.0)?;
        let why =
            |error| OutboundError::Certificates { path: key.clone(), why: format!("has no private key: {error}") };
        let key = PrivateKey::from_pem(pem.1.as_bytes()).map_err(why)?;
        Ok(Some(Identity { chain, key, pem }))
    }

    /// The headers of the file, as they are now; none without a file.
    ///
    /// # Errors
    /// If it cannot be read, or has a line that is no header.
    pub fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, OutboundError> {
        let Some(path) = &self.headers_file else { return Ok(Vec::new()) };
        let text = read(path)?;
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let header = |(line, text): (usize, &str)| {
            let parsed = text.split_once(':').and_then(|(name, value)| {
                let mut value = HeaderValue::from_str(value.trim()).ok()?;
                value.set_sensitive(true);
                Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
            });
            parsed.ok_or_else(|| OutboundError::Header { path: path.clone(), line })
        };
        lines.filter(|(_, text)| !text.is_empty() && !text.starts_with('#')).map(header).collect()
    }

    /// Reads everything that is read later, to find mistakes at the start.
    ///
    /// # Errors
    /// For the first that cannot be used.
    pub fn check(&self) -> Result<(), OutboundError> {
        self.ca_pem()?;
        self.identity()?;
        self.headers()?;
        Ok(())
    }

    fn roots(&self) -> Result<RootCerts, OutboundError> {
        match &self.ca_file {
            Some(path) => Ok(RootCerts::new_with_certs(&certificates(path, &read(path)?)?)),
            None => Ok(of_this_machine()),
        }
    }
}

/// What a client shows to a server that asks who it is.
struct Identity {
    chain: Vec<Certificate<'static>>,
    key: PrivateKey<'static>,
    /// Both as they were read.
    pem: (String, String),
}

/// What this machine trusts, read once: it is two hundred certificates. In a container without any, those that are built in.
fn of_this_machine() -> RootCerts {
    static ROOTS: OnceLock<RootCerts> = OnceLock::new();
    let read = || {
        let found = rustls_native_certs::load_native_certs().certs;
        if found.is_empty() {
            return RootCerts::WebPki;
        }
        RootCerts::from(found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()))
    };
    ROOTS.get_or_init(read).clone()
}

fn certificates(path: &Path, text: &str) -> Result<Vec<Certificate<'static>>, OutboundError> {
    let wrong = |why: String| OutboundError::Certificates { path: path.to_owned(), why };
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(text.as_bytes()) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
        }
    }
    if found.is_empty() {
        return Err(wrong("has no certificate (PEM)".to_owned()));
    }
    Ok(found)
}

pub(crate) fn read(path: &Path) -> Result<String, OutboundError> {
    let failed = |source| OutboundError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {MAX_BYTES} bytes"))));
    }
    Ok(text)
}

/// An address as a server has one: `http://` or `https://` and a host. One with a password in it is refused: the configuration is no place
/// for secrets.
///
/// # Errors
/// What was expected.
pub(crate) fn url(text: &str) -> Result<Uri, OutboundError> {
    let uri: Uri = text.parse().map_err(|_| OutboundError::Url(format!("{text:?} is no URL")))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(OutboundError::Url(format!("{text:?} is no URL such as https://host:port/path")));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        let why = "the URL has a user or a password in it; put the whole URL, or an Authorization header, in a file";
        return Err(OutboundError::Url(why.to_owned()));
    }
    Ok(uri)
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
    fn secrets_are_read_when_they_are_used_and_shown_by_their_place_only() {
        let kept = file("  s3cret\n");
        let secret = Secret::File(kept.path().to_owned());
        assert_eq!(secret.read().unwrap(), "s3cret");
        std::fs::write(kept.path(), "another").unwrap();
        assert_eq!(secret.read().unwrap(), "another");
        assert!(!format!("{secret} {secret:?}").contains("another"));
        std::fs::write(kept.path(), "\n").unwrap();
        assert!(matches!(secret.read(), Err(OutboundError::Empty(_))));
        assert!(matches!(Secret::File("/no/such".into()).read(), Err(OutboundError::Read { .. })));
        assert!(matches!(Secret::File("/dev/zero".into()).read(), Err(OutboundError::Read { .. })));
        assert!(matches!(Secret::Environment("NO_SUCH_VARIABLE".into()).read(), Err(OutboundError::NoVariable(_))));
        assert!(Secret::Environment("PATH".into()).read().is_ok());
    }

    #[test]
    fn headers_come_from_a_file_of_lines() {
        let kept = file("# for the gateway\nAuthorization: Bearer a:b\n\n x-scope :  one \n");
        let outbound = Outbound { headers_file: Some(kept.path().to_owned()), ..Outbound::default() };
        let headers = outbound.headers().unwrap();
        let shown: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(shown, [("authorization", "Bearer a:b"), ("x-scope", "one")]);
        assert!(!format!("{headers:?}").contains("Bearer"), "{headers:?}");
        for bad in ["x\n", "ok: 1\nno header\n", ": x\n", "a b: c\n", "a: \u{1}\n"] {
            std::fs::write(kept.path(), bad).unwrap();
            assert!(matches!(outbound.headers(), Err(OutboundError::Header { .. })), "{bad:?}");
        }
    }

    #[test]
    fn files_without_a_certificate_are_refused() {
        for bad in ["", "no certificate", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
            let kept = file(bad);
            let outbound = Outbound { ca_file: Some(kept.path().to_owned()), ..Outbound::default() };
            assert!(matches!(outbound.check(), Err(OutboundError::Certificates { .. })), "{bad:?}");
            assert!(outbound.agent().is_err());
        }
        assert!(Outbound::default().check().is_ok() && Outbound::default().agent().is_ok());
    }

    #[test]
    fn a_client_certificate_needs_its_key() {
        let half = Outbound { client_key: Some("/no/such".into()), ..Outbound::default() };
        assert!(matches!(half.check(), Err(OutboundError::HalfIdentity)));
        let missing = Outbound { client_certificate: Some("/no/such".into()), ..half };
        assert!(matches!(missing.check(), Err(OutboundError::Read { .. })));
        assert_eq!(Outbound::default().identity_pem().unwrap(), None);
    }

    #[test]
    fn addresses_have_a_host_and_no_password() {
        for good in ["http://localhost:9093", "https://a.example/x?y=z", "http://[::1]:1/"] {
            assert!(url(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost:9093", "ftp://a", "http://", "/x", "https://user:pass@a/", "https://token@a/", "a b"]
        {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
