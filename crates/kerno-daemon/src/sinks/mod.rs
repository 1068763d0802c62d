//! Sinks: incidents as messages to those who have to know.
//!
//! Each sink has a thread and an [outbox](outbox) of its own, so a slow receiver holds up neither the loop nor other sinks. The outbox is
//! kept in the store. A file a kind makes the message as its receiver wants it.

mod alertmanager;
mod chat;
mod discord;
mod http;
mod journald;
mod ntfy;
mod outbox;
mod pagerduty;
mod sender;
pub(crate) mod settings;
mod slack;
mod syslog;
mod teams;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod text;
mod webhook;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kerno_doctor::redaction::Redaction;
use kerno_doctor::report::{IncidentReport, Notice, NoticeEvent};
use kerno_model::IncidentRecord;
use serde::{Deserialize, Serialize};

pub use journald::JOURNAL_SOCKET;
pub(crate) use outbox::Outbox;
use outbox::{Manner, Message};
use sender::Sender;
use settings::{SinkKind, SinkSettings};

/// Keeps an outbox by the name of its sink. Must not wait.
pub(crate) type Keep = Arc<dyn Fn(&str, Outbox) + Send + Sync>;

/// What a receiver answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Receipt {
    /// For people.
    answer: String,
    /// What it calls the message, if it has threads.
    handle: Option<String>,
}

/// Why a message was not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// It may be tried again, after that time if the receiver said so.
    Later { why: String, after: Option<Duration> },
    /// The receiver will not take it.
    Never { why: String },
}

impl Failure {
    fn later(why: String) -> Self {
        Self::Later { why, after: None }
    }

    fn never(why: String) -> Self {
        Self::Never { why }
    }

    fn why(&self) -> &str {
        match self {
            Self::Later { why, .. } | Self::Never { why } => why,
        }
    }
}

/// Sends messages to a receiver. May take as long as the timeout that is set.
trait Deliver: Send {
    fn send(&mut self, messages: &[Message], now_unix_ns: u64) -> Result<Receipt, Failure>;
}

/// How a sink is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// Its kind, such as `slack`.
    pub kind: String,
    /// Incidents of which something is still to be told.
    pub waiting: u64,
    /// Messages that were delivered since the start.
    pub delivered: u64,
    /// Messages that the receiver refused for good.
    pub failed: u64,
    /// Incidents that were not told because too many waited.
    pub dropped: u64,
    /// Attempts that failed and were, or will be, repeated.
    pub retries: u64,
    /// Why the latest attempt failed; `None` if it did not.
    pub failing: Option<String>,
    /// Seconds since the latest delivery; `None` if there was none.
    pub delivered_seconds_ago: Option<f64>,
}

/// The sinks that run.
pub(crate) struct Sinks {
    senders: Vec<Sender>,
    redaction: Redaction,
    host: String,
}

impl Sinks {
    /// Starts the sinks with the outboxes that were kept of them. What goes on is told if it was not, and what nobody follows any longer is over.
    pub(crate) fn start(
        settings: &[SinkSettings],
        outboxes: Vec<Outbox>,
        redaction: &Redaction,
        keep: Option<&Keep>,
        records: &[IncidentRecord],
    ) -> io::Result<Self> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let now = now_unix_ns();
        let mut senders = Vec::new();
        let followed = |id: &str| records.iter().any(|record| record.incident.id.as_str() == id);
        for (sink, mut outbox) in settings.iter().zip(outboxes) {
            outbox.close_others(&followed, now);
            senders.push(Sender::start(sink.clone(), outbox, keep.cloned())?);
        }
        let sinks = Self { senders, redaction: redaction.clone(), host };
        sinks.offer(records);
        Ok(sinks)
    }

    /// Takes incidents that changed. Never waits for a receiver.
    pub(crate) fn offer(&self, records: &[IncidentRecord]) {
        if self.senders.is_empty() {
            return;
        }
        let now = now_unix_ns();
        for record in records {
            let report = IncidentReport::of(record);
            let notice = Notice::of(&report, &self.host, &self.redaction);
            for sender in &self.senders {
                sender.offer(notice.clone(), &report, now);
            }
        }
    }

    pub(crate) fn status(&self) -> Vec<SinkStatus> {
        self.senders.iter().map(Sender::status).collect()
    }

    /// Ends after what is being sent was sent, or after this time. What was not sent is kept.
    pub(crate) fn stop(self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        self.senders.iter().for_each(Sender::cancel);
        for sender in self.senders {
            sender.stop(deadline);
        }
    }
}

fn now_unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Sends a message that says that it is a test, as any other is sent.
///
/// # Errors
/// Why it was not delivered.
pub fn send_test(settings: &SinkSettings) -> Result<String, String> {
    settings.check()?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let now = now_unix_ns();
    let message = Message {
        event: NoticeEvent::Opened,
        notice: Notice::test(&host, now),
        told: None,
        handle: None,
        again: false,
    };
    let mut deliver = deliver(settings);
    let failed = |failure: Failure| failure.why().to_owned();
    let receipt = deliver.send(std::slice::from_ref(&message), now).map_err(failed)?;
    if let SinkKind::PagerDuty { .. } = settings.kind {
        // Nobody should have to close it.
        deliver.send(&[Message { event: NoticeEvent::Resolved, ..message }], now).map_err(failed)?;
    }
    Ok(receipt.answer)
}

fn deliver(settings: &SinkSettings) -> Box<dyn Deliver> {
    let outbound = &settings.outbound;
    let http = |url, token: &Option<_>| http::Http::new(url, token.as_ref(), outbound);
    let timeout = outbound.timeout;
    match &settings.kind {
        SinkKind::Alertmanager { url, token, resend } => {
            Box::new(alertmanager::Alertmanager { http: http(url, token), resend: *resend })
        }
        SinkKind::Webhook { url, token, secret } => {
            Box::new(webhook::Webhook { http: http(url, token), sink: settings.name.clone(), secret: secret.clone() })
        }
        SinkKind::Slack { url, token, channel } => {
            Box::new(slack::Slack { http: http(url, token), channel: channel.clone() })
        }
        SinkKind::Discord { url } => Box::new(discord::Discord { http: http(url, &None) }),
        SinkKind::Teams { url } => Box::new(teams::Teams { http: http(url, &None) }),
        SinkKind::PagerDuty { url, key } => Box::new(pagerduty::PagerDuty { http: http(url, &None), key: key.clone() }),
        SinkKind::Ntfy { url, topic, token } => Box::new(ntfy::Ntfy { http: http(url, token), topic: topic.clone() }),
        SinkKind::Syslog { address, facility } => {
            Box::new(syslog::Syslog { address: address.clone(), facility: *facility, timeout })
        }
        SinkKind::Journald { socket } => Box::new(journald::Journald { socket: socket.clone(), timeout }),
    }
}

fn manner(settings: &SinkSettings) -> Manner {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (batch, both, resend_ns) = match &settings.kind {
        SinkKind::Alertmanager { resend, .. } => (64, false, Some(ns(*resend))),
        SinkKind::Webhook { .. } => (50, true, None),
        SinkKind::Slack { .. } | SinkKind::Discord { .. } | SinkKind::Teams { .. } | SinkKind::Ntfy { .. } => {
            (100, false, None)
        }
        SinkKind::PagerDuty { .. } | SinkKind::Syslog { .. } | SinkKind::Journald { .. } => (1, true, None),
    };
    Manner { batch, both, resend_ns, group_wait_ns: ns(settings.group_wait) }
}

/// The names of the facilities of syslog, in the order of their numbers.
pub const SYSLOG_FACILITIES: [&str; 24] = syslog::FACILITIES;
