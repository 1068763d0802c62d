//! HTTP for other machines: TLS, a token, client certificates, files that change. Everything stays on this machine's loopback.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::daemon::{Daemon, Leak, until};
use crate::support::{alone, kerno, run, text};

const TOKEN: &str = "a-token-that-nobody-guesses";

/// Somebody who vouches for certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key, in PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// A client that trusts this authority, and has such a certificate.
fn client(trusts: &Authority, has: Option<&(String, String)>) -> ureq::Agent {
    let roots = RootCerts::new_with_certs(&[Certificate::from_pem(trusts.pem().as_bytes()).unwrap()]);
    let own = has.map(|(certificate, key)| {
        let certificate = Certificate::from_pem(certificate.as_bytes()).unwrap();
        ClientCert::new_with_certs(&[certificate], PrivateKey::from_pem(key.as_bytes()).unwrap())
    });
    let tls = TlsConfig::builder().root_certs(roots).client_cert(own).build();
    let config = ureq::Agent::config_builder().tls_config(tls).http_status_as_error(false);
    config.proxy(None).timeout_global(Some(Duration::from_secs(20))).build().into()
}

/// The status of an answer, or why there is none.
fn ask(client: &ureq::Agent, daemon: &Daemon, path: &str, token: Option<&str>) -> Result<u16, ureq::Error> {
    let mut request = client.get(format!("https://localhost:{}{path}", daemon.http.port()));
    if let Some(token) = token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    request.call().map(|answer| answer.status().as_u16())
}

fn write(directory: &Path, name: &str, contents: &str) -> std::path::PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, contents).unwrap();
    path
}

#[test]
fn only_who_has_the_token_and_a_certificate_may_ask_and_files_may_change() {
    let _alone = alone();
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let (authority, clients) = (Authority::new("servers"), Authority::new("clients"));
    let (certificate, key) = authority.issue("localhost");
    let at = |name: &str, contents: &str| write(directory.path(), name, contents);
    let files = [
        ("KERNO_START__HTTP_CERTIFICATE", at("certificate", &certificate)),
        ("KERNO_START__HTTP_KEY", at("key", &key)),
        ("KERNO_START__HTTP_CLIENT_CA", at("clients", &clients.pem())),
        ("KERNO_START__HTTP_TOKEN_FILE", at("token", TOKEN)),
    ];
    let settings: Vec<_> = files.iter().map(|(name, path)| (*name, path.as_path())).collect();
    let daemon = Daemon::start_with(&directory, &["--health", "127.0.0.1:0"], &settings);
    let known = clients.issue("prometheus");
    let trusted = client(&authority, Some(&known));

    assert_eq!(ask(&trusted, &daemon, "/metrics", Some(TOKEN)).unwrap(), 200);
    assert_eq!(ask(&trusted, &daemon, "/healthz", None).unwrap(), 401, "nothing without the token");
    assert_eq!(ask(&trusted, &daemon, "/api/v1/incidents", Some("a-token-that-nobody-guessed")).unwrap(), 401);
    assert!(ask(&client(&authority, None), &daemon, "/metrics", Some(TOKEN)).is_err(), "nobody without a certificate");
    let stranger = authority.issue("stranger");
    assert!(ask(&client(&authority, Some(&stranger)), &daemon, "/metrics", Some(TOKEN)).is_err());
    assert!(ask(&client(&clients, Some(&known)), &daemon, "/metrics", Some(TOKEN)).is_err(), "a client can tell");

    // Clients without TLS, and those that send nothing, get nothing and keep nobody up.
    let mut plain = TcpStream::connect(daemon.http).unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let idle: Vec<_> = (0..100).map(|_| TcpStream::connect(daemon.http).unwrap()).collect();
    let ready = ask(&trusted, &daemon, "/readyz", Some(TOKEN)).unwrap();
    assert!([200, 503].contains(&ready), "{ready}");
    drop(idle);

    // Health has a listener of its own, with nothing else.
    let health = daemon.said("health").parse().unwrap();
    assert_eq!(daemon.get_at(health, "/healthz", "").0, 200);
    assert_eq!(daemon.get_at(health, "/metrics", "").0, 404);

    // Certificates expire and are renewed, tokens too.
    let renewed = Authority::new("servers");
    let (certificate, key) = renewed.issue("localhost");
    at("certificate", &certificate);
    at("key", &key);
    at("token", "another-token-that-nobody-guesses");
    let trusts_renewed = client(&renewed, Some(&known));
    until("the files that changed are not read", || {
        let status = ask(&trusts_renewed, &daemon, "/metrics", Some("another-token-that-nobody-guesses"));
        status.is_ok_and(|status| status == 200).then_some(())
    });
    assert_eq!(ask(&trusts_renewed, &daemon, "/metrics", Some(TOKEN)).unwrap(), 401);
    // Nonsense is told, and what was there before goes on.
    at("certificate", "nonsense");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(
        ask(&client(&renewed, Some(&known)), &daemon, "/metrics", Some("another-token-that-nobody-guesses")).unwrap(),
        200
    );
    let log = daemon.stop();
    assert!(
        log.contains("HTTP goes on with what was read before") && log.contains("has no certificate in PEM"),
        "{log}"
    );
    assert!(!log.contains(TOKEN), "{log}");
}

#[test]
fn beyond_this_machine_nothing_is_served_unguarded() {
    let directory = tempfile::tempdir().unwrap();
    let check = |more: &[&str], settings: &[(&str, &Path)]| {
        let mut args = vec!["start", "--check-config", "--config", "/dev/null"];
        args.extend(more);
        let output = run(kerno(&args).envs(settings.iter().copied()));
        (output.status.code(), text(&output.stderr).to_owned())
    };
    let (code, said) = check(&["--http", "0.0.0.0:7653"], &[]);
    assert_eq!(code, Some(2));
    assert!(
        said.contains("0.0.0.0:7653 can be reached from other machines: set http_certificate and http_key"),
        "{said}"
    );
    let authority = Authority::new("servers");
    let (certificate, key) = authority.issue("localhost");
    let at = |name: &str, contents: &str| write(directory.path(), name, contents);
    let (certificate, key, token) = (at("certificate", &certificate), at("key", &key), at("token", TOKEN));
    let tls = [("KERNO_START__HTTP_CERTIFICATE", certificate.as_path()), ("KERNO_START__HTTP_KEY", key.as_path())];
    let (code, said) = check(&["--http", "0.0.0.0:7653"], &tls);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("http_token_file or http_client_ca"), "{said}");
    let with_token = [tls[0], tls[1], ("KERNO_START__HTTP_TOKEN_FILE", token.as_path())];
    let (code, said) = check(&["--http", "0.0.0.0:7653"], &with_token);
    assert_eq!(code, Some(0), "{said}");
    let (_, other) = authority.issue("localhost");
    std::fs::write(&key, other).unwrap();
    let (code, said) = check(&["--http", "0.0.0.0:7653"], &with_token);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("does not go with"), "{said}");
}

#[test]
fn what_leaves_the_machine_has_no_secrets() {
    let _alone = alone();
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let token = write(directory.path(), "token", TOKEN);
    let off = write(directory.path(), "off", "[redaction]\nenabled = false\n");
    let settings = [("KERNO_START__HTTP_TOKEN_FILE", token.as_path())];
    // A leak whose command line has a password.
    let script = "ulimit -n 5000; i=3; while :; do i=$((i+1)); eval \"exec $i</dev/null\"; sleep 0.02; done";
    let leak = std::process::Command::new("bash").args(["-c", script, "app", "--password=hunter2"]).spawn().unwrap();
    let leak = Leak(leak);
    let pid = u64::from(leak.pid());
    let header = format!("Authorization: Bearer {TOKEN}\r\n");
    let asked = |daemon: &Daemon, path: &str| {
        let (status, body) = daemon.get(path, &header);
        assert_eq!(status, 200, "{path}: {body}");
        body
    };
    let told = |daemon: &Daemon| {
        let is_it = |one: &serde_json::Value| one["rule"] == "fd_leak" && one["finding"]["culprit"]["pid"] == pid;
        until("no incident", || daemon.incidents().into_iter().find(is_it))
    };
    let paths = |id: &str| {
        [
            "/api/v1/incidents".to_owned(),
            format!("/api/v1/incidents/{id}"),
            "/api/v1/report".to_owned(),
            "/api/v1/report?from=1m%20ago".to_owned(),
            "/api/v1/windows".to_owned(),
            "/api/v1/windows?merged=true".to_owned(),
            "/api/v1/windows?from=1m%20ago".to_owned(),
            "/api/v1/windows?from=1m%20ago&merged=true".to_owned(),
        ]
    };
    let daemon = Daemon::start_with(&directory, &[], &settings);
    let known = told(&daemon);
    assert!(known.to_string().contains("hunter2"), "the socket is for this machine: {known}");
    for path in paths(known["id"].as_str().unwrap()) {
        let body = asked(&daemon, &path);
        // The latest window alone may have no finding.
        let tells = path.contains("report") || body.contains("--password=[hidden]");
        assert!(!body.contains("hunter2") && tells, "{path}: {body}");
    }
    daemon.stop();
    let daemon = Daemon::start_with(&directory, &["--config", off.to_str().unwrap()], &settings);
    until("it is not ready", || (daemon.get("/readyz", &header).0 == 200).then_some(()));
    for path in paths(known["id"].as_str().unwrap()).iter().filter(|path| !path.contains("report")) {
        assert!(asked(&daemon, path).contains("hunter2"), "{path}");
    }
    daemon.stop();
}
