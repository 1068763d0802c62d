//! Where alerts go, as it is set.

use std::fmt;
use std::net::ToSocketAddrs as _;
use std::path::PathBuf;
use std::time::Duration;

use kerno_doctor::redaction::Redaction;
use kerno_doctor::report::{IncidentFilter, IncidentReport};

use crate::explain::explain;
use crate::outbound::{self, Outbound, OutboundError, Secret};

/// The longest name of a sink.
pub const MAX_SINK_NAME: usize = 32;

/// The most sinks.
pub const MAX_SINKS: usize = 32;

/// A receiver of alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkSettings {
    /// Its name: up to 32 of a-z, 0-9, - and _.
    pub name: String,
    /// What it is, and where.
    pub kind: SinkKind,
    /// It gets incidents that pass any of these; all if there is none.
    pub filters: Vec<IncidentFilter>,
    /// Whether it also gets incidents that another one explains.
    pub symptoms: bool,
    /// How it is reached, if over HTTP; the timeout also counts for others.
    pub outbound: Outbound,
    /// How long a message waits for others to come with it.
    pub group_wait: Duration,
    /// The most messages a minute.
    pub per_minute: u32,
}

/// What a sink is, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SinkKind {
    /// Prometheus Alertmanager, API v2.
    Alertmanager {
        /// Its base URL, such as `http://alertmanager:9093`.
        url: Place,
        /// For `Authorization: Bearer`.
        token: Option<Secret>,
        /// How often alerts that go on are sent again.
        resend: Duration,
    },
    /// Anything that takes JSON.
    Webhook {
        /// Where to post.
        url: Place,
        /// For `Authorization: Bearer`.
        token: Option<Secret>,
        /// The key of the signature.
        secret: Option<Secret>,
    },
    /// Slack: an incoming webhook, or the API with a token and a channel.
    Slack {
        /// The URL of the webhook, or of the method `chat.postMessage`.
        url: Place,
        /// The token of a bot.
        token: Option<Secret>,
        /// The channel, with a token.
        channel: Option<String>,
    },
    /// A webhook of Discord.
    Discord {
        /// Its URL.
        url: Place,
    },
    /// A workflow of Microsoft Teams that starts with a webhook.
    Teams {
        /// Its URL.
        url: Place,
    },
    /// PagerDuty, Events API v2.
    PagerDuty {
        /// Where to post.
        url: Place,
        /// The integration key.
        key: Secret,
    },
    /// ntfy, ntfy.sh or another server.
    Ntfy {
        /// The base URL.
        url: Place,
        /// The topic.
        topic: String,
        /// An access token.
        token: Option<Secret>,
    },
    /// Syslog, RFC 5424.
    Syslog {
        /// Where it listens.
        address: SyslogAddress,
        /// The facility, 0 to 23.
        facility: u8,
    },
    /// The systemd journal.
    Journald {
        /// Its socket.
        socket: PathBuf,
    },
}

/// A URL, or where it is if it is a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The URL.
    Plain(String),
    /// Where the URL is.
    Secret(Secret),
}

/// Where a syslog daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyslogAddress {
    /// A Unix socket, such as `/dev/log`.
    Unix(PathBuf),
    /// UDP: a host and a port.
    Udp(String),
    /// TCP: a host and a port.
    Tcp(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(url) => url.fmt(f),
            Self::Secret(secret) => write!(f, "the URL in {secret}"),
        }
    }
}

impl Place {
    /// The URL as it is now.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub fn url(&self) -> Result<String, OutboundError> {
        match self {
            Self::Plain(url) => {
                outbound::url(url)?;
                if Redaction::default().finds(url) {
                    let why = "the URL has a secret in it; put it in a file and name that with url_file";
                    return Err(OutboundError::Url(why.to_owned()));
                }
                Ok(url.clone())
            }
            Self::Secret(secret) => {
                let url = secret.read()?;
                // What it is stays secret.
                outbound::url(&url).map_err(|_| OutboundError::Url(format!("what {secret} has is no URL")))?;
                Ok(url)
            }
        }
    }
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Udp(host) => write!(f, "udp://{host}"),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

impl std::str::FromStr for SyslogAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let host = |host: &str| {
            let port = host.rsplit_once(':').filter(|(name, _)| !name.is_empty());
            let port = port.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0);
            port.map(|_| host.to_owned())
                .ok_or_else(|| format!("{host:?} is no host and port such as logs.example:514"))
        };
        if let Some(rest) = text.strip_prefix("udp://") {
            Ok(Self::Udp(host(rest)?))
        } else if let Some(rest) = text.strip_prefix("tcp://") {
            Ok(Self::Tcp(host(rest)?))
        } else if text.starts_with('/') {
            Ok(Self::Unix(text.into()))
        } else {
            Err(format!("{text:?} is no address such as /dev/log, udp://logs.example:514 or tcp://logs.example:601"))
        }
    }
}

impl SinkKind {
    /// Its name, as in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Alertmanager { .. } => "alertmanager",
            Self::Webhook { .. } => "webhook",
            Self::Slack { .. } => "slack",
            Self::Discord { .. } => "discord",
            Self::Teams { .. } => "teams",
            Self::PagerDuty { .. } => "pagerduty",
            Self::Ntfy { .. } => "ntfy",
            Self::Syslog { .. } => "syslog",
            Self::Journald { .. } => "journald",
        }
    }

    /// Where it is, without secrets.
    pub fn place(&self) -> String {
        match self {
            Self::Alertmanager { url, .. }
            | Self::Webhook { url, .. }
            | Self::Discord { url }
            | Self::Teams { url }
            | Self::PagerDuty { url, .. } => url.to_string(),
            Self::Slack { url, channel, .. } => match channel {
                Some(channel) => format!("{channel} at {url}"),
                None => url.to_string(),
            },
            Self::Ntfy { url, topic, .. } => format!("{topic} at {url}"),
            Self::Syslog { address, .. } => address.to_string(),
            Self::Journald { socket } => socket.display().to_string(),
        }
    }

    fn url(&self) -> Option<&Place> {
        match self {
            Self::Alertmanager { url, .. }
            | Self::Webhook { url, .. }
            | Self::Slack { url, .. }
            | Self::Discord { url }
            | Self::Teams { url }
            | Self::PagerDuty { url, .. }
            | Self::Ntfy { url, .. } => Some(url),
            Self::Syslog { .. } | Self::Journald { .. } => None,
        }
    }

    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let (a, b) = match self {
            Self::Alertmanager { token, .. } | Self::Slack { token, .. } | Self::Ntfy { token, .. } => {
                (token.as_ref(), None)
            }
            Self::Webhook { token, secret, .. } => (token.as_ref(), secret.as_ref()),
            Self::PagerDuty { key, .. } => (Some(key), None),
            _ => (None, None),
        };
        a.into_iter().chain(b)
    }
}

impl SinkSettings {
    /// Checks everything that can be checked without reaching the receiver: names, URLs, and that secrets and certificates can be read.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        if !is_name(&self.name) {
            return Err(format!("the name {:?} is not 1 to {MAX_SINK_NAME} of a-z, 0-9, - and _", self.name));
        }
        let told = |error: OutboundError| explain(&error);
        if let Some(url) = self.kind.url() {
            url.url().map_err(told)?;
        }
        self.kind.secrets().try_for_each(|secret| secret.read().map(drop)).map_err(told)?;
        self.outbound.check().map_err(told)
    }

    /// Whether an incident is for this sink.
    pub fn wants(&self, incident: &IncidentReport) -> bool {
        (self.symptoms || incident.under.is_none())
            && (self.filters.is_empty() || self.filters.iter().any(|filter| filter.passes(incident)))
    }
}

/// Whether a sink may have this name.
pub fn is_name(name: &str) -> bool {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    !name.is_empty() && name.len() <= MAX_SINK_NAME && name.bytes().all(fits)
}

/// The addresses of a host and a port.
pub(super) fn resolve(host: &str) -> std::io::Result<Vec<std::net::SocketAddr>> {
    Ok(host.to_socket_addrs()?.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_syslog() {
        assert_eq!("/dev/log".parse(), Ok(SyslogAddress::Unix("/dev/log".into())));
        assert_eq!("udp://[::1]:514".parse(), Ok(SyslogAddress::Udp("[::1]:514".into())));
        assert_eq!("tcp://logs.example:601".parse(), Ok(SyslogAddress::Tcp("logs.example:601".into())));
        for bad in ["", "dev/log", "udp://", "udp://a", "tcp://:5", "tcp://a:0", "tcp://a:99999", "http://a:1"] {
            assert!(bad.parse::<SyslogAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn urls_with_secrets_are_refused_where_everybody_can_read_them() {
        let plain = |url: &str| Place::Plain(url.into()).url();
        assert!(plain("http://127.0.0.1:9093").is_ok());
        for bad in ["https://hooks.slack.com/services/T/B/x", "https://a/?token=x", "https://u:p@a/"] {
            let error = plain(bad).unwrap_err().to_string();
            assert!(error.contains("file"), "{bad}: {error}");
        }
    }
}
