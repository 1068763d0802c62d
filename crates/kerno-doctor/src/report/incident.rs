//! Incidents, for people and programs.

use kerno_model::amount::span;
use kerno_model::{Finding, Fingerprint, Incident, IncidentId, IncidentState, Moment, Severity, Span, fill};
use serde::{Deserialize, Serialize};

use super::Diagnosis;
use super::words::{clock, date};

/// An incident in words: how it began, how it was at its worst, and how it was last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct IncidentReport {
    /// Its id, the same after a restart of kerno.
    pub id: IncidentId,
    /// The identity of its findings.
    pub fingerprint: Fingerprint,
    /// The rule that found it.
    pub rule: String,
    /// Whether it is open.
    pub state: IncidentState,
    /// How bad it is; of one that is closed, how bad it was at its worst.
    pub severity: Severity,
    /// What is wrong, in one line that names the culprit, as it was at its worst.
    pub title: String,
    /// The service or container that it is about; `None` if there is none.
    pub unit: Option<String>,
    /// When it opened: the end of the first window that showed it, as `2026-11-29T03:02:10Z`.
    pub opened: String,
    /// When it was considered over; `None` if it is open.
    pub closed: Option<String>,
    /// The end of the latest window that showed it.
    pub last_seen: String,
    /// When it opened, in nanoseconds since 1970.
    pub opened_unix_ns: u64,
    /// When it was considered over, in nanoseconds since 1970.
    pub closed_unix_ns: Option<u64>,
    /// The end of the latest window that showed it, in nanoseconds since 1970.
    pub last_seen_unix_ns: u64,
    /// How often it came back after it had been considered over.
    pub reopened: u32,
    /// The fingerprint of the finding that explains it; `None` for a root cause.
    pub under: Option<Fingerprint>,
    /// The finding at its worst. Times in it are in seconds since the incident opened.
    pub finding: Diagnosis,
    /// The first finding.
    pub first: Diagnosis,
    /// The latest finding.
    pub last: Diagnosis,
}

impl IncidentReport {
    /// Puts an incident into words.
    pub fn of(incident: &Incident) -> Self {
        let words = |finding: &Finding| Diagnosis::at(finding, incident.opened);
        let finding = words(&incident.worst);
        let subject = &incident.worst.subject;
        let container = subject.container.as_ref().map(|container| format!("{}:{}", container.runtime, container.id));
        Self {
            id: incident.id.clone(),
            fingerprint: incident.fingerprint,
            rule: incident.rule.to_string(),
            state: incident.state,
            severity: if incident.is_open() { incident.severity } else { finding.severity },
            title: finding.title.clone(),
            unit: container.or_else(|| subject.unit.clone()),
            opened: rfc3339(incident.opened),
            closed: incident.closed.map(rfc3339),
            last_seen: rfc3339(incident.last_seen),
            opened_unix_ns: incident.opened.unix_ns,
            closed_unix_ns: incident.closed.map(|closed| closed.unix_ns),
            last_seen_unix_ns: incident.last_seen.unix_ns,
            reopened: incident.reopened,
            under: incident.under,
            first: words(&incident.first),
            last: words(&incident.last),
            finding,
        }
    }

    /// For how long it was seen, in words.
    pub fn lasted(&self) -> String {
        #[allow(clippy::cast_precision_loss, reason = "a duration")]
        let seconds = self.last_seen_unix_ns.saturating_sub(self.opened_unix_ns) as f64 / 1e9;
        span(seconds.round())
    }

    /// Times in its findings are relative to this.
    #[allow(clippy::cast_precision_loss, reason = "a time within microseconds")]
    pub(super) fn span(&self) -> Span {
        fill!(Span { started_unix: self.opened_unix_ns as f64 / 1e9 })
    }
}

impl Diagnosis {
    /// Puts a finding into words without the window that it is of. Times are in seconds since that moment.
    #[allow(clippy::cast_precision_loss, reason = "a time within microseconds")]
    pub fn at(finding: &Finding, moment: Moment) -> Self {
        Self::told(
            finding,
            &fill!(Span { started_unix: moment.unix_ns as f64 / 1e9, started_ns: moment.monotonic_ns }),
            true,
        )
    }
}

/// `2026-11-29T03:02:10Z`
#[allow(clippy::cast_precision_loss, reason = "whole seconds")]
fn rfc3339(moment: Moment) -> String {
    let unix = (moment.unix_ns / 1_000_000_000) as f64;
    format!("{}T{}Z", date(unix), clock(unix))
}
