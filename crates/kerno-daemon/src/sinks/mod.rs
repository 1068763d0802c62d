//! Sinks: incidents as messages to those who have to know.
//!
//! Each sink has a thread and an [`outbox`] of its own, so a slow receiver holds up neither the loop nor other sinks. The outbox is
//! kept in the store. A file a kind makes the message as its receiver wants it.

mod alertmanager;
mod chat;
pub(crate) mod deliver;
mod discord;
mod http;
mod journald;
mod kinds;
mod ntfy;
pub(crate) mod outbox;
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
use std::time::{Duration, Instant};

use kerno_doctor::redaction::Redaction;
use kerno_doctor::report::{IncidentReport, Notice, NoticeEvent};
use kerno_model::IncidentRecord;

use deliver::{Failure, Keep, SinkStatus, now_unix_ns};
pub use journald::JOURNAL_SOCKET;
use kinds::deliver;
use outbox::{Message, Outbox};
use sender::Sender;
use settings::{SinkKind, SinkSettings};

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

/// The names of the facilities of syslog, in the order of their numbers.
pub const SYSLOG_FACILITIES: [&str; 24] = syslog::FACILITIES;
