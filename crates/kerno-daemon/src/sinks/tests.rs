//! Sinks against receivers that refuse, hang, lie and come back.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kerno_doctor::redaction::Redaction;
use kerno_doctor::report::{IncidentFilter, Notices};
use kerno_model::{Finding, Incident, IncidentRecord, IncidentState, Moment, RuleId, Severity, Subject, fill};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use super::deliver::{Keep, SinkStatus};
use super::outbox::Outbox;
use super::settings::{Place, SinkKind, SinkSettings};
use super::webhook::signature;
use super::{Sinks, send_test};
use crate::outbound::{Outbound, Secret};

/// What the receiver does with a request.
#[derive(Clone, Debug)]
enum Do {
    Answer(&'static str),
    /// Closes the connection without reading, so that it is reset.
    Reset,
    /// Reads, and answers nothing for so long.
    Hang(Duration),
}

const OK: Do = Do::Answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");

#[derive(Clone, Debug)]
struct Request {
    at: Instant,
    line: String,
    headers: String,
    body: String,
}

impl Request {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// A receiver that does what its script says, and after that takes everything.
struct Receiver {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Receiver {
    fn start(script: &[Do]) -> Self {
        Self::with(script, |stream| Some(Box::new(stream)))
    }

    fn with(script: &[Do], secure: impl Fn(TcpStream) -> Option<Box<dyn Stream>> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (taken, mut script) = (Arc::clone(&requests), VecDeque::from(script.to_vec()));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let next = script.pop_front().unwrap_or(OK);
                if let Do::Reset = next {
                    // What was not read makes the kernel reset the connection.
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
                let Some(mut stream) = secure(stream) else { continue };
                let taken = Arc::clone(&taken);
                std::thread::spawn(move || {
                    let Ok(request) = read(&mut stream) else { return };
                    taken.lock().unwrap().push(request);
                    match next {
                        Do::Answer(text) => drop(stream.write_all(text.as_bytes()).and_then(|()| stream.flush())),
                        Do::Hang(time) => std::thread::sleep(time),
                        Do::Reset => {}
                    }
                });
            }
        });
        Self { address, requests }
    }

    fn url(&self) -> String {
        format!("http://{}/in", self.address)
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    fn after(&self, count: usize) -> Vec<Request> {
        until(|| Some(self.requests()).filter(|requests| requests.len() >= count))
    }
}

fn read(stream: &mut dyn Stream) -> io::Result<Request> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let mut request = Request { at: Instant::now(), line: line.into(), headers: headers.into(), body: String::new() };
    let mut body = vec![0; request.header("content-length").map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body)?;
    request.body = String::from_utf8(body).unwrap();
    Ok(request)
}

fn until<T>(mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "it does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn settings(name: &str, kind: SinkKind) -> SinkSettings {
    SinkSettings {
        name: name.to_owned(),
        kind,
        filters: Vec::new(),
        symptoms: false,
        outbound: Outbound { timeout: Duration::from_secs(2), ..Outbound::default() },
        group_wait: Duration::ZERO,
        per_minute: 600,
    }
}

fn hook(name: &str, url: String) -> SinkSettings {
    settings(name, SinkKind::Webhook { url: Place::Plain(url), token: None, secret: None })
}

fn record(number: usize) -> IncidentRecord {
    let subject = fill!(Subject { cgroup: Some(format!("/app-{number} --token=hunter2")) });
    let finding = Finding::new(RuleId::new("fd_leak"), Severity::Warning).about(subject);
    let opened = Moment { unix_ns: 1_780_000_000_000_000_000, monotonic_ns: 1 };
    IncidentRecord::new(Incident::new(opened, finding))
}

fn over(mut record: IncidentRecord) -> IncidentRecord {
    record.incident.state = IncidentState::Closed;
    record.incident.closed = Some(Moment { unix_ns: 1_780_000_060_000_000_000, monotonic_ns: 60_000_000_001 });
    record
}

fn sinks(settings: &[SinkSettings]) -> Sinks {
    let outboxes = settings.iter().map(|_| Outbox::default()).collect();
    Sinks::start(settings, outboxes, &Redaction::default(), None, &[]).unwrap()
}

fn status(sinks: &Sinks, check: impl Fn(&SinkStatus) -> bool) -> SinkStatus {
    until(|| sinks.status().into_iter().next().filter(&check))
}

#[test]
fn what_fails_for_now_is_sent_again_when_the_receiver_says_so() {
    let receiver = Receiver::start(&[
        Do::Answer(
            "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow",
        ),
        Do::Answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        Do::Reset,
        Do::Answer("HTTP/1.1 20"),
    ]);
    let sinks = sinks(&[hook("a", receiver.url())]);
    sinks.offer(&[record(1)]);
    let failing = status(&sinks, |status| status.failing.is_some());
    assert!(failing.failing.unwrap().contains("429"));
    assert_eq!(failing.waiting, 1);
    let done = status(&sinks, |status| status.delivered == 1);
    assert_eq!((done.waiting, done.failed, done.failing, done.retries), (0, 0, None, 4));
    let requests = receiver.requests();
    assert_eq!(requests.len(), 4, "one was reset before it was read");
    assert!(requests[1].at - requests[0].at >= Duration::from_secs(2), "Retry-After");
    let ids: std::collections::BTreeSet<_> = requests.iter().map(|one| one.header("kerno-delivery").unwrap()).collect();
    assert_eq!(ids.len(), 1, "the receiver can tell that it is the same");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(receiver.requests().len(), 4, "once delivered, it is not sent again");
}

#[test]
fn what_the_receiver_refuses_is_told_and_counted_and_holds_up_nothing() {
    let receiver = Receiver::start(&[
        Do::Answer("HTTP/1.1 400 Bad Request\r\nContent-Length: 8\r\nConnection: close\r\n\r\nno thank"),
        Do::Answer(
            "HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ),
    ]);
    let sinks = sinks(&[hook("a", receiver.url())]);
    for (number, why) in [(1, "400 Bad Request: no thank"), (2, "redirect to http://127.0.0.1:1/")] {
        sinks.offer(&[record(number)]);
        let refused = status(&sinks, |status| status.failed == number as u64);
        assert!(refused.failing.as_ref().unwrap().contains(why), "{refused:?}");
        assert_eq!((refused.waiting, refused.delivered), (0, 0));
    }
    sinks.offer(&[record(3)]);
    assert_eq!(status(&sinks, |status| status.delivered == 1).failing, None);
    assert_eq!(receiver.requests().len(), 3);
}

#[test]
fn an_answer_that_breaks_off_after_its_status_was_an_answer() {
    let receiver = Receiver::start(&[Do::Answer("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nhalf")]);
    let sinks = sinks(&[hook("a", receiver.url())]);
    sinks.offer(&[record(1)]);
    assert_eq!(status(&sinks, |status| status.delivered == 1).retries, 0);
    assert_eq!(receiver.requests().len(), 1);
}

#[test]
fn a_receiver_that_hangs_holds_up_neither_others_nor_the_stop() {
    let slow = Receiver::start(&vec![Do::Hang(Duration::from_secs(60)); 100]);
    let good = Receiver::start(&[]);
    let mut patient = hook("slow", slow.url());
    patient.outbound.timeout = Duration::from_secs(60);
    let sinks = sinks(&[patient, hook("good", good.url())]);
    let begun = Instant::now();
    sinks.offer(&[record(1)]);
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    good.after(1);
    slow.after(1);
    let asked = Instant::now();
    sinks.stop(Duration::from_millis(300));
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[test]
fn nothing_is_lost_or_told_twice_over_a_restart() {
    let kept: Arc<Mutex<Option<Outbox>>> = Arc::default();
    let theirs = Arc::clone(&kept);
    let keep: Keep = Arc::new(move |name, outbox| {
        assert_eq!(name, "a");
        // As the store has it.
        let json = serde_json::to_vec(&outbox).unwrap();
        *theirs.lock().unwrap() = Some(serde_json::from_slice(&json).unwrap());
    });
    let start = |url: String, records: &[IncidentRecord]| {
        let outbox = kept.lock().unwrap().clone().unwrap_or_default();
        Sinks::start(&[hook("a", url)], vec![outbox], &Redaction::default(), Some(&keep), records).unwrap()
    };
    // Nobody listens.
    let nobody = { TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    let first = start(format!("http://{nobody}/in"), &[]);
    first.offer(&[record(1), record(2)]);
    status(&first, |status| status.retries > 0);
    first.stop(Duration::from_secs(2));
    let receiver = Receiver::start(&[]);
    // One ended while nobody watched; one came in a window that was lost.
    let second = start(receiver.url(), &[record(1), record(3)]);
    let events = |requests: &[Request]| -> Vec<(String, String)> {
        let mut events = Vec::new();
        for request in requests {
            let notices: Notices = serde_json::from_str(&request.body).unwrap();
            events.extend(notices.events.iter().map(|one| (one.event.name().to_owned(), one.incident.id.clone())));
        }
        events
    };
    let id = |number| record(number).incident.id.to_string();
    until(|| (events(&receiver.requests()).len() == 4).then_some(()));
    let told = events(&receiver.requests());
    let opened = |number| ("opened".to_owned(), id(number));
    assert!([1, 2, 3].iter().all(|number| told.iter().filter(|one| **one == opened(*number)).count() == 1), "{told:?}");
    assert!(told.contains(&("resolved".to_owned(), id(2))), "{told:?}");
    second.stop(Duration::from_secs(2));
    let third = start(receiver.url(), &[record(1), record(3)]);
    third.offer(&[over(record(1))]);
    until(|| (events(&receiver.requests()).len() == 5).then_some(()));
    assert_eq!(events(&receiver.requests())[4], ("resolved".to_owned(), id(1)));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(events(&receiver.requests()).len(), 5);
    third.stop(Duration::from_secs(2));
}

#[test]
fn those_that_open_together_are_one_message_and_the_rate_is_kept() {
    let receiver = Receiver::start(&[]);
    let mut chat = settings("chat", SinkKind::Discord { url: Place::Plain(receiver.url()) });
    chat.group_wait = Duration::from_secs(4);
    let mut pager =
        settings("pager", SinkKind::Ntfy { url: Place::Plain(receiver.url()), topic: "t".into(), token: None });
    pager.filters = vec![IncidentFilter { severity: Some(Severity::Critical), ..IncidentFilter::default() }];
    let sinks = sinks(&[chat, pager]);
    let all: Vec<_> = (0..50).map(record).collect();
    sinks.offer(&all);
    let requests = receiver.after(1);
    assert!(requests[0].json()["embeds"][0]["title"].as_str().unwrap().starts_with("50 incidents"), "{requests:?}");
    sinks.offer(&all);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(receiver.requests().len(), 1, "nothing new, and nothing for the other one");
    let slow = Receiver::start(&[]);
    let pages = SinkKind::PagerDuty { url: Place::Plain(slow.url()), key: Secret::Environment("PATH".into()) };
    let sinks = self::sinks(&[SinkSettings { per_minute: 60, ..settings("pages", pages) }]);
    let begun = Instant::now();
    sinks.offer(&all);
    std::thread::sleep(Duration::from_secs(3));
    let (sent, passed) = (slow.requests().len() as f64, begun.elapsed().as_secs_f64());
    assert!(sent >= 6.0 && sent <= 5.0 + passed, "{sent} in {passed} s");
    assert!(status(&sinks, |_| true).waiting > 40);
}

/// A certificate for this machine, and that of who signed it.
fn certified() -> (String, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "kerno test authority");
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    (root.pem(), vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn tls_trusts_the_authority_that_is_set_and_no_other() {
    let (root, chain, key) = certified();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let receiver = Receiver::with(&[], move |stream| {
        Some(Box::new(StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream)))
    });
    let directory = tempfile::tempdir().unwrap();
    let secret = file(&directory, "secret", "s3cret\n");
    let kind = SinkKind::Webhook {
        url: Place::Secret(Secret::File(file(
            &directory,
            "url",
            &format!("https://{}/in?token=t0p", receiver.address),
        ))),
        token: Some(Secret::File(file(&directory, "token", "bearer-t0ken\n"))),
        secret: Some(Secret::File(secret)),
    };
    let mut sink = settings("tls", kind);
    let (other, ..) = certified();
    for (ca, works) in [(None, false), (Some(other), false), (Some(root), true)] {
        sink.outbound.ca_file = ca.map(|ca| file(&directory, "ca.pem", &ca));
        let result = send_test(&sink);
        assert_eq!(result.is_ok(), works, "{result:?}");
        if let Err(why) = result {
            assert!(why.to_lowercase().contains("certificate") && !why.contains("t0p"), "{why}");
        }
    }
    let request = receiver.after(1).remove(0);
    assert_eq!(request.line, "POST /in?token=t0p HTTP/1.1");
    assert_eq!(request.header("authorization"), Some("Bearer bearer-t0ken"));
    assert!(request.header("user-agent").unwrap().starts_with("kerno/"));
    let expected = signature(b"s3cret", request.header("kerno-timestamp").unwrap(), request.body.as_bytes()).unwrap();
    assert_eq!(request.header("kerno-signature"), Some(expected.as_str()));
}

#[test]
fn no_secret_is_sent_or_shown() {
    let receiver = Receiver::start(&[
        Do::Answer("HTTP/1.1 500 Oops\r\nContent-Length: 21\r\nConnection: close\r\n\r\nyour token=hunter2 no"),
        OK,
    ]);
    let sinks = sinks(&[hook("a", receiver.url())]);
    sinks.offer(&[record(1)]);
    let failing = status(&sinks, |status| status.failing.is_some());
    assert!(!failing.failing.as_ref().unwrap().contains("hunter2"), "{failing:?}");
    status(&sinks, |status| status.delivered == 1);
    for request in receiver.requests() {
        assert!(
            request.body.contains("/app-1 --token=[hidden]") && !request.body.contains("hunter2"),
            "{}",
            request.body
        );
    }
}

#[test]
fn each_kind_over_http_sends_a_test_as_it_sends_alerts() {
    let receiver = Receiver::start(&[]);
    let place = || Place::Plain(format!("http://{}", receiver.address));
    let kinds = [
        (SinkKind::Alertmanager { url: place(), token: None, resend: Duration::from_secs(60) }, "/api/v2/alerts", 1),
        (SinkKind::Webhook { url: place(), token: None, secret: None }, "/", 1),
        (SinkKind::Slack { url: place(), token: None, channel: None }, "/", 1),
        (SinkKind::Discord { url: place() }, "/", 1),
        (SinkKind::Teams { url: place() }, "/", 1),
        (SinkKind::PagerDuty { url: place(), key: Secret::Environment("HOME".into()) }, "/", 2),
        (SinkKind::Ntfy { url: place(), topic: "t".into(), token: None }, "/", 1),
    ];
    for (kind, path, count) in kinds {
        receiver.requests.lock().unwrap().clear();
        let name = kind.name();
        assert_eq!(send_test(&settings("x", kind)), Ok("200 OK: ok".to_owned()), "{name}");
        let requests = receiver.requests();
        assert_eq!(requests.len(), count, "{name}");
        assert_eq!(requests[0].line, format!("POST {path} HTTP/1.1"), "{name}");
        assert_eq!(requests[0].header("content-type"), Some("application/json"), "{name}");
        assert!(requests[0].body.to_lowercase().contains("test"), "{name}: {}", requests[0].body);
        assert!(requests[0].json().is_object() || requests[0].json().is_array());
    }
}

#[test]
fn slack_answers_with_the_thread_and_says_with_200_that_it_failed() {
    let answer = |text: &'static str| Do::Answer(text);
    let receiver = Receiver::start(&[
        answer(
            "HTTP/1.1 200 OK\r\nContent-Length: 33\r\nConnection: close\r\n\r\n{\"ok\":false,\"error\":\"ratelimited\"}",
        ),
        answer(
            "HTTP/1.1 200 OK\r\nRetry-After: 0\r\nConnection: close\r\n\r\n{\"ok\":false,\"error\":\"fatal_error\"}",
        ),
        answer("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"ok\":true,\"ts\":\"17.5\",\"channel\":\"C1\"}"),
        answer("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"ok\":true,\"ts\":\"18.5\",\"channel\":\"C1\"}"),
        answer("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"ok\":false,\"error\":\"channel_not_found\"}"),
    ]);
    let kind = SinkKind::Slack {
        url: Place::Plain(receiver.url()),
        token: Some(Secret::Environment("HOME".into())),
        channel: Some("#ops".into()),
    };
    let sinks = sinks(&[settings("slack", kind)]);
    // The first answer has a length that cuts it off, so it cannot be read.
    sinks.offer(&[record(1)]);
    status(&sinks, |status| status.delivered == 1);
    sinks.offer(&[over(record(1))]);
    status(&sinks, |status| status.delivered == 2);
    sinks.offer(&[record(2)]);
    let refused = status(&sinks, |status| status.failed == 1);
    assert_eq!(refused.failing.as_deref(), Some("Slack says: channel_not_found"));
    let threads: Vec<_> = receiver.requests().iter().map(|one| one.json()["thread_ts"].clone()).collect();
    assert_eq!(threads, [Value::Null, Value::Null, Value::Null, "17.5".into(), Value::Null]);
    assert!(receiver.requests().iter().all(|one| one.json()["channel"] == "#ops"));
}
