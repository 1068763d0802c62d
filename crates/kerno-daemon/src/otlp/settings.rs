use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use hyper::http::uri::{PathAndQuery, Uri};
use kerno_doctor::redaction::Redaction;

use crate::outbound::{Outbound, Secret, url};

/// What stands for an endpoint that is not wanted.
pub(crate) const OFF: &str = "off";

/// How long an interval may be.
const INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// How long a request may take.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

/// How many records may wait.
const QUEUES: RangeInclusive<usize> = 1..=10_000;

/// The port of OTLP over gRPC.
const GRPC_PORT: u16 = 4317;

/// Set by the library, or by what is sent.
const RESERVED: [&str; 7] =
    ["content-type", "content-length", "content-encoding", "host", "te", "transfer-encoding", "connection"];

/// How OTLP travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtlpProtocol {
    /// `grpc`
    Grpc,
    /// `http/protobuf`
    Http,
}

impl FromStr for OtlpProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::Http),
            _ => Err(format!("expected \"grpc\" or \"http/protobuf\"; this is {text:?}")),
        }
    }
}

impl fmt::Display for OtlpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "grpc",
            Self::Http => "http/protobuf",
        })
    }
}

/// How histograms are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OtlpHistograms {
    /// `explicit`: with the bounds that `/metrics` has, where counts are exact.
    #[default]
    Explicit,
    /// `exponential`: in eight buckets for each power of two. Counts and sums are exact, a value may be one bucket (9 %) off.
    Exponential,
}

impl FromStr for OtlpHistograms {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "explicit" => Ok(Self::Explicit),
            "exponential" => Ok(Self::Exponential),
            _ => Err(format!("expected \"explicit\" or \"exponential\"; this is {text:?}")),
        }
    }
}

/// Where metrics and incidents are sent to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtlpSettings {
    /// The URL of the receiver. For HTTP, `/v1/metrics` and `/v1/logs` are added to it.
    pub endpoint: Option<String>,
    /// The URL for metrics, used as it is; `off` for no metrics; `None` for that of `endpoint`.
    pub metrics_endpoint: Option<String>,
    /// The URL for incidents, used as it is; `off` for no incidents; `None` for that of `endpoint`.
    pub logs_endpoint: Option<String>,
    /// How it travels; `None` for gRPC if the port is 4317, and HTTP otherwise.
    pub protocol: Option<OtlpProtocol>,
    /// How histograms are sent.
    pub histograms: OtlpHistograms,
    /// How often metrics are sent.
    pub interval: Duration,
    /// Whether to compress with gzip.
    pub gzip: bool,
    /// Timeouts, certificates and the file of headers.
    pub outbound: Outbound,
    /// Headers, with where their values are.
    pub headers: Vec<(String, Secret)>,
    /// The variable of the environment that has more headers, as `name=value,...` with escapes as in URLs.
    pub headers_variable: Option<String>,
    /// How many changes of incidents may wait for the receiver. If there are more, the oldest are dropped.
    pub queue: usize,
    /// What the service is called; `None` for `kerno`.
    pub service_name: Option<String>,
    /// More attributes of the resource.
    pub resource_attributes: BTreeMap<String, String>,
}

impl Default for OtlpSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            metrics_endpoint: None,
            logs_endpoint: None,
            protocol: None,
            histograms: OtlpHistograms::default(),
            interval: Duration::from_secs(60),
            gzip: true,
            outbound: Outbound::default(),
            headers: Vec::new(),
            headers_variable: None,
            queue: 1000,
            service_name: None,
            resource_attributes: BTreeMap::new(),
        }
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Metrics,
    Logs,
}

impl Signal {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// Where one of them is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) signal: Signal,
    pub(super) url: Uri,
    pub(super) protocol: OtlpProtocol,
}

impl OtlpSettings {
    /// Those that the environment sets by the names that OpenTelemetry has for them. `variable` looks one up. All others are the defaults.
    ///
    /// # Errors
    /// For the first variable with an impossible value.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let get =
            |name: &'static str| variable(name).filter(|value| !value.trim().is_empty()).map(|value| (name, value));
        let mut settings = Self::default();
        if get("OTEL_SDK_DISABLED").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true")) {
            return Ok(settings);
        }
        let text = |name| get(name).map(|(_, value)| value.trim().to_owned());
        let wrong = |name: &str, why: String| format!("{name}: {why}");
        let millis = |name| -> Result<Option<Duration>, String> {
            let parsed = get(name).map(|(name, value)| {
                let expected = || wrong(name, format!("expected a number of milliseconds; this is {value:?}"));
                value.trim().parse().map(Duration::from_millis).map_err(|_| expected())
            });
            parsed.transpose()
        };
        settings.endpoint = text("OTEL_EXPORTER_OTLP_ENDPOINT");
        settings.metrics_endpoint = text("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT");
        settings.logs_endpoint = text("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT");
        for (name, endpoint) in [
            ("OTEL_METRICS_EXPORTER", &mut settings.metrics_endpoint),
            ("OTEL_LOGS_EXPORTER", &mut settings.logs_endpoint),
        ] {
            if text(name).is_some_and(|exporter| exporter == "none") {
                *endpoint = Some(OFF.to_owned());
            }
        }
        if let Some((name, value)) = get("OTEL_EXPORTER_OTLP_PROTOCOL") {
            settings.protocol = Some(value.trim().parse().map_err(|why| wrong(name, why))?);
        }
        match get("OTEL_EXPORTER_OTLP_COMPRESSION") {
            Some((_, value)) if value.trim() == "gzip" => settings.gzip = true,
            Some((_, value)) if value.trim() == "none" => settings.gzip = false,
            Some((name, value)) => return Err(wrong(name, format!("expected gzip or none; this is {value:?}"))),
            None => {}
        }
        match get("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION") {
            Some((_, value)) if value.trim() == "base2_exponential_bucket_histogram" => {
                settings.histograms = OtlpHistograms::Exponential;
            }
            _ => {}
        }
        if let Some(timeout) = millis("OTEL_EXPORTER_OTLP_TIMEOUT")? {
            settings.outbound.timeout = timeout;
        }
        if let Some(interval) = millis("OTEL_METRIC_EXPORT_INTERVAL")? {
            settings.interval = interval;
        }
        settings.outbound.ca_file = text("OTEL_EXPORTER_OTLP_CERTIFICATE").map(Into::into);
        settings.outbound.client_certificate = text("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE").map(Into::into);
        settings.outbound.client_key = text("OTEL_EXPORTER_OTLP_CLIENT_KEY").map(Into::into);
        settings.headers_variable = get("OTEL_EXPORTER_OTLP_HEADERS").map(|(name, _)| name.to_owned());
        if let Some((name, value)) = get("OTEL_RESOURCE_ATTRIBUTES") {
            settings.resource_attributes = pairs(&value).map_err(|why| wrong(name, why))?.into_iter().collect();
        }
        settings.service_name =
            text("OTEL_SERVICE_NAME").or_else(|| settings.resource_attributes.remove("service.name"));
        Ok(settings)
    }

    /// Whether anything is to be sent.
    pub fn is_on(&self) -> bool {
        [&self.endpoint, &self.metrics_endpoint, &self.logs_endpoint]
            .into_iter()
            .flatten()
            .any(|endpoint| endpoint != OFF)
    }

    /// Finds what is impossible, and reads the files and variables that will be needed.
    ///
    /// # Errors
    /// What is wrong, with the name of the setting.
    pub fn check(&self) -> Result<(), String> {
        self.targets()?;
        if !INTERVALS.contains(&self.interval) {
            return Err(format!("otlp.interval: {:?} is not between 1s and 1h", self.interval));
        }
        if !TIMEOUTS.contains(&self.outbound.timeout) {
            return Err(format!("otlp.timeout: {:?} is not between 100ms and 60s", self.outbound.timeout));
        }
        if !QUEUES.contains(&self.queue) {
            return Err(format!("otlp.queue: {} is not between {} and {}", self.queue, QUEUES.start(), QUEUES.end()));
        }
        if let Some(name) = self.resource_attributes.keys().find(|name| name.trim().is_empty()) {
            return Err(format!("otlp.resource_attributes: {name:?} is no name"));
        }
        self.outbound.check().map_err(|error| format!("otlp: {}", with_source(&error)))?;
        self.read_headers()?;
        Ok(())
    }

    /// The headers with their values as they are now.
    pub(super) fn read_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let mut headers = Vec::new();
        for (name, secret) in &self.headers {
            let value = secret.read().map_err(|error| format!("otlp.headers: {name}: {}", with_source(&error)))?;
            headers.push(header("otlp.headers", name, &value)?);
        }
        if let Some(variable) = &self.headers_variable {
            let text = std::env::var(variable).unwrap_or_default();
            for (name, value) in pairs(&text).map_err(|why| format!("{variable}: {why}"))? {
                headers.push(header(variable, &name, &value)?);
            }
        }
        headers.extend(self.outbound.headers().map_err(|error| format!("otlp.headers_file: {}", with_source(&error)))?);
        match headers.iter().find(|(name, _)| is_reserved(name.as_str())) {
            Some((name, _)) => Err(format!("otlp: the header {name} cannot be set")),
            None => Ok(headers),
        }
    }

    /// Where what is sent to.
    pub(super) fn targets(&self) -> Result<Vec<Target>, String> {
        let target = |signal: Signal, own: Option<&String>| -> Result<Option<Target>, String> {
            let (setting, text, is_own) = match (own, &self.endpoint) {
                (Some(own), _) => (format!("otlp.{}_endpoint", signal.name()), own, true),
                (None, Some(endpoint)) => ("otlp.endpoint".to_owned(), endpoint, false),
                (None, None) => return Ok(None),
            };
            if text == OFF {
                return Ok(None);
            }
            let wrong = |why: String| format!("{setting}: {why}");
            let url = url(text).map_err(|error| wrong(error.to_string()))?;
            if Redaction::default().finds(text) {
                return Err(wrong("the URL has a secret in it; send it as a header from a file".to_owned()));
            }
            let is_grpc_port = url.port_u16() == Some(GRPC_PORT);
            let protocol = self.protocol.unwrap_or(if is_grpc_port { OtlpProtocol::Grpc } else { OtlpProtocol::Http });
            let path = url.path().trim_end_matches('/');
            let url = match protocol {
                OtlpProtocol::Grpc if !path.is_empty() => {
                    return Err(wrong(format!("gRPC has no path; this is {text:?}")));
                }
                OtlpProtocol::Http if !is_own => {
                    let path = format!("{path}/v1/{}", signal.name());
                    let mut parts = url.clone().into_parts();
                    parts.path_and_query =
                        Some(PathAndQuery::try_from(path).map_err(|error| wrong(error.to_string()))?);
                    Uri::from_parts(parts).map_err(|error| wrong(error.to_string()))?
                }
                _ => url,
            };
            Ok(Some(Target { signal, url, protocol }))
        };
        let metrics = target(Signal::Metrics, self.metrics_endpoint.as_ref())?;
        let logs = target(Signal::Logs, self.logs_endpoint.as_ref())?;
        let targets: Vec<_> = metrics.into_iter().chain(logs).collect();
        if targets.is_empty() && !self.is_on() {
            return Err("otlp.endpoint is not set: there is no receiver to send to".to_owned());
        }
        Ok(targets)
    }
}

/// Where the value of a header is: `name=file:/path` or `name=env:VARIABLE`.
///
/// # Errors
/// What was expected. A value itself is refused, and not repeated.
pub fn parse_otlp_header(text: &str) -> Result<(String, Secret), String> {
    let expected = "expected NAME=file:/PATH or NAME=env:VARIABLE";
    let (name, place) = text.split_once('=').ok_or(expected)?;
    let name = name.trim();
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no name of a header; {expected}"))?;
    if is_reserved(&name.to_lowercase()) {
        return Err(format!("the header {name} cannot be set"));
    }
    match place.trim().split_once(':') {
        Some(("file", path)) if !path.is_empty() => Ok((name.to_owned(), Secret::File(path.into()))),
        Some(("env", variable)) if !variable.is_empty() => {
            Ok((name.to_owned(), Secret::Environment(variable.to_owned())))
        }
        _ => Err(format!(
            "the value of {name:?} does not belong into the configuration, where others may read it: put it into a file \
             ({name}=file:/PATH) or a variable of the environment ({name}=env:VARIABLE)"
        )),
    }
}

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with("grpc-") || name.starts_with(':')
}

/// A header. Errors do not repeat its value.
fn header(origin: &str, name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let name =
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{origin}: {name:?} is no name of a header"))?;
    let mut value =
        HeaderValue::from_str(value).map_err(|_| format!("{origin}: the value of {name} is none of a header"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// `name=value,name=value`, with escapes as in URLs.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    for (index, pair) in text.split(',').map(str::trim).enumerate() {
        if pair.is_empty() {
            continue;
        }
        // The value may be a secret.
        let expected = || format!("expected name=value, separated by commas; part {} is none", index + 1);
        let (name, value) = pair.split_once('=').ok_or_else(expected)?;
        pairs.push((unescaped(name.trim()).ok_or_else(expected)?, unescaped(value.trim()).ok_or_else(expected)?));
    }
    Ok(pairs)
}

/// `a%20b` as `a b`.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(digit(rest.next())? << 4 | digit(rest.next())?);
    }
    String::from_utf8(bytes).ok()
}

fn with_source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<OtlpSettings, String> {
        OtlpSettings::from_environment(&|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn urls(settings: &OtlpSettings) -> Vec<(Signal, String, OtlpProtocol)> {
        let targets = settings.targets().unwrap().into_iter();
        targets.map(|target| (target.signal, target.url.to_string(), target.protocol)).collect()
    }

    #[test]
    fn endpoints_are_those_that_the_standard_says() {
        use {OtlpProtocol::*, Signal::*};
        let of = |endpoint: &str| OtlpSettings { endpoint: Some(endpoint.to_owned()), ..OtlpSettings::default() };
        let both = |protocol, metrics: &str, logs: &str| {
            vec![(Metrics, metrics.to_owned(), protocol), (Logs, logs.to_owned(), protocol)]
        };
        assert_eq!(urls(&of("http://c:4318")), both(Http, "http://c:4318/v1/metrics", "http://c:4318/v1/logs"));
        assert_eq!(urls(&of("https://c/otlp/")), both(Http, "https://c/otlp/v1/metrics", "https://c/otlp/v1/logs"));
        assert_eq!(urls(&of("http://c:4317")), both(Grpc, "http://c:4317/", "http://c:4317/"));
        let mut settings = OtlpSettings { protocol: Some(Grpc), ..of("https://c:443") };
        assert_eq!(urls(&settings), both(Grpc, "https://c:443/", "https://c:443/"));
        settings.logs_endpoint = Some(OFF.to_owned());
        assert_eq!(urls(&settings).len(), 1);
        settings.protocol = None;
        settings.logs_endpoint = Some("http://logs/insert?x=y".to_owned());
        assert_eq!(urls(&settings)[1], (Logs, "http://logs/insert?x=y".to_owned(), Http));
        for (bad, why) in [
            ("collector:4317", "otlp.endpoint: "),
            ("ftp://c", "https://"),
            ("http://me:hunter2@c", "has a user or a password"),
            ("http://c:4317/path", "gRPC has no path"),
            ("http://c/?token=hunter2", "has a secret in it"),
        ] {
            let error = of(bad).targets().unwrap_err();
            assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
        }
        assert!(OtlpSettings::default().check().unwrap_err().contains("otlp.endpoint is not set"));
    }

    #[test]
    fn the_environment_of_opentelemetry_is_understood() {
        assert!(!from(&[]).unwrap().is_on());
        let settings = from(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4317"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
            ("OTEL_LOGS_EXPORTER", "none"),
            ("OTEL_SERVICE_NAME", "edge"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=x,deployment.environment.name=a%2Cb, team=one"),
        ]);
        let settings = settings.unwrap();
        assert!(settings.is_on() && !settings.gzip);
        assert_eq!((settings.interval.as_secs(), settings.outbound.timeout.as_millis()), (5, 2500));
        assert_eq!(settings.service_name.as_deref(), Some("edge"));
        assert_eq!(settings.resource_attributes["deployment.environment.name"], "a,b");
        assert_eq!(urls(&settings).len(), 1);
        assert!(!format!("{settings:?}").contains("s3cret"));
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c"),
        ] {
            assert!(from(&[(name, value)]).unwrap_err().starts_with(name), "{name}");
        }
        assert!(!from(&[("OTEL_SDK_DISABLED", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c")]).unwrap().is_on());
    }

    #[test]
    fn secrets_are_not_taken_from_the_configuration() {
        let file = parse_otlp_header("Authorization=file:/run/token").unwrap();
        assert_eq!(file, ("Authorization".to_owned(), Secret::File("/run/token".into())));
        let variable = parse_otlp_header("x-tenant = env:TENANT").unwrap();
        assert_eq!(variable, ("x-tenant".to_owned(), Secret::Environment("TENANT".to_owned())));
        for bad in
            ["authorization=Bearer s3cret", "authorization=file:", "authorization=env:", "authorization=s3cret:x"]
        {
            let error = parse_otlp_header(bad).unwrap_err();
            assert!(error.contains("does not belong into the configuration") && !error.contains("s3cret"), "{error}");
        }
        for bad in ["", "authorization", "a b=env:X", "=env:X"] {
            assert!(parse_otlp_header(bad).unwrap_err().contains("expected NAME="), "{bad}");
        }
        assert!(parse_otlp_header("Content-Type=env:X").unwrap_err().contains("cannot be set"));
    }

    #[test]
    fn headers_are_read_when_they_are_used() {
        let directory = tempfile::tempdir().unwrap();
        let (token, lines) = (directory.path().join("token"), directory.path().join("headers"));
        std::fs::write(&token, "one\n").unwrap();
        std::fs::write(&lines, "x-scope: two\n").unwrap();
        let mut settings = OtlpSettings { endpoint: Some("http://c".to_owned()), ..OtlpSettings::default() };
        settings.headers.push(("authorization".to_owned(), Secret::File(token.clone())));
        settings.outbound.headers_file = Some(lines.clone());
        settings.check().unwrap();
        std::fs::write(&token, "three").unwrap();
        let read = settings.read_headers().unwrap();
        let read: Vec<_> = read.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(read, [("authorization", "three"), ("x-scope", "two")]);
        std::fs::write(&lines, "te: trailers\n").unwrap();
        assert!(settings.check().unwrap_err().contains("cannot be set"));
        std::fs::remove_file(&token).unwrap();
        let error = settings.check().unwrap_err();
        assert!(
            error.contains("otlp.headers: authorization: cannot read") && error.contains("No such file"),
            "{error}"
        );
    }

    #[test]
    fn impossible_values_are_named() {
        let good = OtlpSettings { endpoint: Some("http://c".to_owned()), ..OtlpSettings::default() };
        good.check().unwrap();
        let bad = |change: fn(&mut OtlpSettings)| {
            let mut settings = good.clone();
            change(&mut settings);
            settings.check().unwrap_err()
        };
        assert!(bad(|settings| settings.interval = Duration::ZERO).starts_with("otlp.interval: "));
        assert!(bad(|settings| settings.queue = 0).starts_with("otlp.queue: "));
        assert!(bad(|settings| settings.outbound.timeout = Duration::from_secs(100)).starts_with("otlp.timeout: "));
        assert!(bad(|settings| settings.outbound.ca_file = Some("/no/such".into())).contains("/no/such"));
        assert!(bad(|settings| settings.outbound.client_key = Some("/no/such".into())).contains("certificate"));
    }
}
