//! The section `otlp`: what is sent by the protocol of OpenTelemetry.

use std::path::PathBuf;
use std::time::Duration;

use kerno_daemon::{OtlpHistograms, OtlpProtocol, OtlpSettings, Secret, parse_otlp_header};

use super::{Problem, Value, list, number, suggest, text};
use crate::values;

/// Settings of what is sent; those that are not set are those of the environment of OpenTelemetry.
#[derive(Debug, Default)]
pub(crate) struct OtlpConfig {
    endpoint: Option<String>,
    metrics_endpoint: Option<String>,
    logs_endpoint: Option<String>,
    protocol: Option<OtlpProtocol>,
    histograms: Option<OtlpHistograms>,
    interval: Option<Duration>,
    timeout: Option<Duration>,
    gzip: Option<bool>,
    headers: Option<Vec<(String, Secret)>>,
    headers_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_key: Option<PathBuf>,
    queue: Option<usize>,
    service_name: Option<String>,
    resource_attributes: Option<Vec<(String, String)>>,
    /// Whether anything is set here.
    is_set: bool,
}

impl OtlpConfig {
    pub(super) const KEYS: [&'static str; 16] = [
        "endpoint",
        "metrics_endpoint",
        "logs_endpoint",
        "protocol",
        "histograms",
        "interval",
        "timeout",
        "compression",
        "headers",
        "headers_file",
        "ca_file",
        "client_certificate",
        "client_key",
        "queue",
        "service_name",
        "resource_attributes",
    ];

    pub(super) fn set(&mut self, key: &str, value: &Value) -> Result<(), Problem> {
        let wrong = |allowed: &str, what: String| Problem::Value(format!("otlp.{key} is {allowed}; this is {what}"));
        let words = |allowed: &str| text(value).map_err(|what| wrong(allowed, what));
        let refused = |why: String| Problem::Value(format!("otlp.{key}: {why}"));
        let time = || values::positive_duration(&words("a time such as \"10s\"")?).map_err(refused);
        let path = || words("a path").map(PathBuf::from);
        let endpoint = || words("a URL such as \"http://127.0.0.1:4317\", or \"off\"");
        match key {
            "endpoint" => self.endpoint = Some(endpoint()?),
            "metrics_endpoint" => self.metrics_endpoint = Some(endpoint()?),
            "logs_endpoint" => self.logs_endpoint = Some(endpoint()?),
            "protocol" => {
                self.protocol = Some(words("\"grpc\" or \"http/protobuf\"")?.parse().map_err(refused)?);
            }
            "histograms" => {
                self.histograms = Some(words("\"explicit\" or \"exponential\"")?.parse().map_err(refused)?);
            }
            "interval" => self.interval = Some(time()?),
            "timeout" => self.timeout = Some(time()?),
            "compression" => {
                const ALLOWED: &str = "\"gzip\" or \"none\"";
                self.gzip = Some(match words(ALLOWED)?.as_str() {
                    "gzip" => true,
                    "none" => false,
                    other => return Err(wrong(ALLOWED, format!("{other:?}"))),
                });
            }
            "headers" => {
                let example = "a list such as [\"authorization=file:/etc/kerno/token\"]";
                let headers = list(value).map_err(|what| wrong(example, what))?;
                let headers = headers.iter().map(|header| parse_otlp_header(header).map_err(refused));
                self.headers = Some(headers.collect::<Result<_, _>>()?);
            }
            "headers_file" => self.headers_file = Some(path()?),
            "ca_file" => self.ca_file = Some(path()?),
            "client_certificate" => self.client_certificate = Some(path()?),
            "client_key" => self.client_key = Some(path()?),
            "queue" => self.queue = Some(count(value).map_err(|what| wrong("a whole number", what))?),
            "service_name" => self.service_name = Some(words("a name")?),
            "resource_attributes" => {
                const EXAMPLE: &str = "a list such as [\"deployment.environment.name=prod\"]";
                let pairs = list(value).map_err(|what| wrong(EXAMPLE, what))?;
                let pair = |text: &String| {
                    let (name, value) = text.split_once('=').ok_or_else(|| wrong(EXAMPLE, format!("{text:?}")))?;
                    Ok((name.trim().to_owned(), value.trim().to_owned()))
                };
                self.resource_attributes = Some(pairs.iter().map(pair).collect::<Result<_, _>>()?);
            }
            _ => return Err(Problem::Key(suggest::unknown("setting of otlp", key, &Self::KEYS))),
        }
        self.is_set = true;
        Ok(())
    }

    /// With what the environment of OpenTelemetry has below these settings, each variable of which `variable` looks up; `None` if nothing is to
    /// be sent.
    pub(crate) fn settings(self, variable: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Option<OtlpSettings>> {
        let mut settings = OtlpSettings::from_environment(variable).map_err(anyhow::Error::msg)?;
        let is_set = self.is_set;
        settings.endpoint = self.endpoint.or(settings.endpoint);
        settings.metrics_endpoint = self.metrics_endpoint.or(settings.metrics_endpoint);
        settings.logs_endpoint = self.logs_endpoint.or(settings.logs_endpoint);
        settings.protocol = self.protocol.or(settings.protocol);
        settings.histograms = self.histograms.unwrap_or(settings.histograms);
        settings.interval = self.interval.unwrap_or(settings.interval);
        settings.gzip = self.gzip.unwrap_or(settings.gzip);
        settings.queue = self.queue.unwrap_or(settings.queue);
        settings.service_name = self.service_name.or(settings.service_name);
        settings.resource_attributes.extend(self.resource_attributes.unwrap_or_default());
        if self.headers.is_some() || self.headers_file.is_some() {
            // What is meant for other programs is not sent to a receiver that has headers of its own.
            settings.headers_variable = None;
        }
        settings.headers = self.headers.unwrap_or_default();
        let outbound = &mut settings.outbound;
        outbound.timeout = self.timeout.unwrap_or(outbound.timeout);
        outbound.headers_file = self.headers_file;
        outbound.ca_file = self.ca_file.or_else(|| outbound.ca_file.take());
        outbound.client_certificate = self.client_certificate.or_else(|| outbound.client_certificate.take());
        outbound.client_key = self.client_key.or_else(|| outbound.client_key.take());
        // Settings without an endpoint are a mistake, which the check tells.
        let is_off = settings.endpoint.as_deref() == Some("off") && !settings.is_on();
        Ok((settings.is_on() || (is_set && !is_off)).then_some(settings))
    }
}

fn count(value: &Value) -> Result<usize, String> {
    let number = number(value)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number in range")]
    if number.fract() == 0.0 && (0.0..=1e9).contains(&number) { Ok(number as usize) } else { Err(value.kind()) }
}
