//! Sends one request and says what became of it: over gRPC with tonic, over HTTP with the client that everything else uses.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use prost::Message;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{MetadataKey, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::message::{Answer, ErrorDetails, RETRY_INFO, RetryInfo};
use super::retry::{Sent, retry_after};
use super::settings::{OtlpProtocol, OtlpSettings, Signal, Target};
use super::shortened;
use crate::outbound::{Outbound, USER_AGENT};

/// No answer is longer that says anything.
const MAX_ANSWER: u64 = 64 << 10;

/// The longest part of an answer that is repeated in the log.
const MAX_WHY: usize = 300;

/// What is sent with each request.
pub(super) type Headers = Vec<(HeaderName, HeaderValue)>;

/// A way to a receiver.
#[derive(Debug)]
pub(super) enum Transport {
    Grpc { channel: Channel, path: PathAndQuery, timeout: Duration, gzip: bool },
    Http { agent: ureq::Agent, url: String, gzip: bool },
}

impl Transport {
    /// Connects when something is sent. Must be called within a runtime.
    pub(super) fn new(target: &Target, settings: &OtlpSettings) -> Result<Self, String> {
        let (gzip, outbound) = (settings.gzip, &settings.outbound);
        match target.protocol {
            OtlpProtocol::Grpc => {
                let channel = channel(target, outbound)?;
                let path = PathAndQuery::from_static(match target.signal {
                    Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
                    Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
                });
                Ok(Self::Grpc { channel, path, timeout: outbound.timeout, gzip })
            }
            OtlpProtocol::Http => {
                let agent = outbound.agent().map_err(|error| error.to_string())?;
                Ok(Self::Http { agent, url: target.url.to_string(), gzip })
            }
        }
    }

    pub(super) async fn send<M: Message + Clone + Default + 'static>(&self, headers: Headers, message: M) -> Sent {
        match self {
            Self::Grpc { channel, path, timeout, gzip } => {
                let sending = over_grpc(channel.clone(), path.clone(), *gzip, headers, message);
                match tokio::time::timeout(*timeout, sending).await {
                    Ok(sent) => sent,
                    Err(_) => Sent::Later { why: format!("no answer within {timeout:?}"), after: None },
                }
            }
            Self::Http { agent, url, gzip } => {
                let (agent, url, gzip, body) = (agent.clone(), url.clone(), *gzip, message.encode_to_vec());
                // It has its own timeout.
                let sending = tokio::task::spawn_blocking(move || over_http(&agent, &url, gzip, headers, body));
                sending.await.unwrap_or_else(|error| Sent::Later { why: error.to_string(), after: None })
            }
        }
    }
}

fn channel(target: &Target, outbound: &Outbound) -> Result<Channel, String> {
    let wrong = |error: tonic::transport::Error| chain(&error);
    let mut endpoint = Endpoint::from(target.url.clone())
        .user_agent(USER_AGENT)
        .map_err(wrong)?
        .connect_timeout(outbound.timeout)
        .tcp_keepalive(Some(Duration::from_secs(30)));
    if target.url.scheme_str() == Some("https") {
        let tls = match outbound.ca_pem().map_err(|error| error.to_string())? {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        let tls = match outbound.identity_pem().map_err(|error| error.to_string())? {
            Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
            None => tls,
        };
        endpoint = endpoint.tls_config(tls).map_err(wrong)?;
    }
    Ok(endpoint.connect_lazy())
}

async fn over_grpc<M: Message + Clone + Default + 'static>(
    channel: Channel,
    path: PathAndQuery,
    gzip: bool,
    headers: Headers,
    message: M,
) -> Sent {
    let mut client = tonic::client::Grpc::new(channel).accept_compressed(CompressionEncoding::Gzip);
    if gzip {
        client = client.send_compressed(CompressionEncoding::Gzip);
    }
    let mut request = tonic::Request::new(message);
    for (name, value) in headers {
        let key = MetadataKey::from_bytes(name.as_str().as_bytes());
        let (Ok(key), Ok(value)) = (key, MetadataValue::try_from(value.as_bytes())) else {
            return Sent::Refused { why: format!("the header {name} cannot be sent over gRPC") };
        };
        request.metadata_mut().append(key, value);
    }
    if let Err(error) = client.ready().await {
        return Sent::Later { why: chain(&error), after: None };
    }
    match client.unary::<M, Answer, _>(request, path, ProstCodec::default()).await {
        Ok(answer) => taken(answer.into_inner()),
        Err(status) => of_status(&status),
    }
}

/// Which errors may be tried again is what the protocol says. That a resource is exhausted may mean that a request is too large: that is tried
/// again only if the receiver says when.
fn of_status(status: &Status) -> Sent {
    let after = retry_delay(status.details());
    let cause = std::error::Error::source(status).map(|source| format!(": {}", chain(source))).unwrap_or_default();
    let why = one_line(&format!("{}: {}{cause}", status.code(), status.message()));
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Sent::Later { why, after },
        Code::ResourceExhausted if after.is_some() => Sent::Later { why, after },
        _ => Sent::Refused { why },
    }
}

fn retry_delay(details: &[u8]) -> Option<Duration> {
    let details = ErrorDetails::decode(details).ok()?.details;
    let info = details.iter().find(|detail| detail.kind.ends_with(RETRY_INFO))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.delay.unwrap_or_default();
    let seconds = u64::try_from(delay.seconds).unwrap_or(0);
    Some(Duration::new(seconds, u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999)))
}

fn over_http(agent: &ureq::Agent, url: &str, gzip: bool, headers: Headers, body: Vec<u8>) -> Sent {
    let mut request = agent.post(url).header("content-type", "application/x-protobuf");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let body = if gzip {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        match encoder.write_all(&body).and_then(|()| encoder.finish()) {
            Ok(compressed) => {
                request = request.header("content-encoding", "gzip");
                compressed
            }
            Err(error) => return Sent::Later { why: error.to_string(), after: None },
        }
    } else {
        body
    };
    let mut answer = match request.send(&body[..]) {
        Ok(answer) => answer,
        Err(error) => return Sent::Later { why: one_line(&chain(&error)), after: None },
    };
    let status = answer.status().as_u16();
    let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let after = after.and_then(|value| retry_after(value, SystemTime::now()));
    let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
    if (200..300).contains(&status) {
        // It has the data, whatever its answer says of them.
        return taken(body.ok().and_then(|body| Answer::decode(body.as_slice()).ok()).unwrap_or_default());
    }
    let told = body.map(|body| message_of(&body)).unwrap_or_default();
    let why = if told.is_empty() { format!("HTTP status {status}") } else { format!("HTTP status {status}: {told}") };
    match status {
        429 | 502 | 503 | 504 => Sent::Later { why, after },
        _ => Sent::Refused { why },
    }
}

/// What the body of an error says: text, or a message of protocol buffers with text in it.
fn message_of(body: &[u8]) -> String {
    let of_status = ErrorDetails::decode(body).ok().map(|status| status.message).filter(|message| !message.is_empty());
    one_line(&of_status.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()))
}

fn taken(answer: Answer) -> Sent {
    let partial = answer.partial.unwrap_or_default();
    Sent::Taken { rejected: u64::try_from(partial.rejected).unwrap_or(0), message: one_line(&partial.message) }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let why = source.to_string();
        if !text.ends_with(&why) {
            text = format!("{text}: {why}");
        }
        next = source.source();
    }
    text
}

/// One harmless line of what others say.
fn one_line(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    let short = shortened(&line, MAX_WHY);
    if short.len() < line.len() { format!("{short}\u{2026}") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::message::{Detail, Span};

    fn details(seconds: i64) -> Vec<u8> {
        let info = RetryInfo { delay: Some(Span { seconds, nanos: 500_000_000 }) };
        let kind = format!("type.googleapis.com/{RETRY_INFO}");
        let detail = Detail { kind, value: info.encode_to_vec() };
        ErrorDetails { message: String::new(), details: vec![detail] }.encode_to_vec()
    }

    #[test]
    fn errors_of_grpc_are_tried_again_as_the_protocol_says() {
        let of = |code, details: Vec<u8>| of_status(&Status::with_details(code, "why", details.into()));
        let after = Some(Duration::from_millis(3500));
        for code in [Code::Unavailable, Code::Aborted, Code::DeadlineExceeded, Code::DataLoss] {
            assert!(matches!(of(code, Vec::new()), Sent::Later { after: None, .. }), "{code:?}");
            assert!(matches!(of(code, details(3)), Sent::Later { after: told, .. } if told == after), "{code:?}");
        }
        assert!(matches!(of(Code::ResourceExhausted, details(3)), Sent::Later { after: told, .. } if told == after));
        assert!(matches!(of(Code::ResourceExhausted, Vec::new()), Sent::Refused { .. }));
        for code in [Code::InvalidArgument, Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented] {
            assert!(matches!(of(code, details(3)), Sent::Refused { .. }), "{code:?}");
        }
        assert_eq!(retry_delay(&details(-5)), Some(Duration::from_millis(500)));
        assert_eq!(retry_delay(b"nonsense"), None);
    }

    #[test]
    fn what_receivers_say_is_one_short_line() {
        assert_eq!(one_line("a\n b\u{1b}[31m"), "a b[31m");
        assert!(one_line(&"é".repeat(1000)).len() < 310);
        let status = ErrorDetails { message: "too many".to_owned(), details: Vec::new() }.encode_to_vec();
        assert_eq!(message_of(&status), "too many");
        assert_eq!(message_of(b"plain text"), "plain text");
    }
}
