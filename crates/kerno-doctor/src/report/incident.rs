//! Incidents, for people and programs.

use kerno_model::amount::span;
use kerno_model::{
    Change, ChangeKind, Finding, Fingerprint, IncidentId, IncidentRecord, IncidentState, Moment, Severity, Span, fill,
};
use serde::{Deserialize, Serialize};

use super::Diagnosis;

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
    /// What changed on the machine shortly before it opened, in the order of time. Context, not causes.
    #[serde(default)]
    pub changes: Vec<Changed>,
}

/// Which incidents are meant. What is `None` lets all pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncidentFilter {
    /// Only those in this state.
    pub state: Option<IncidentState>,
    /// Only those at least so severe.
    pub severity: Option<Severity>,
    /// Only those that this rule found.
    pub rule: Option<String>,
    /// Only those of this service or container.
    pub unit: Option<String>,
    /// Only those that went on at this time or later, in nanoseconds since 1970.
    pub from_unix_ns: Option<u64>,
    /// Only those that opened before this time, in nanoseconds since 1970.
    pub to_unix_ns: Option<u64>,
}

impl IncidentFilter {
    /// Whether an incident is meant.
    pub fn passes(&self, incident: &IncidentReport) -> bool {
        let end = incident.closed_unix_ns.unwrap_or(u64::MAX);
        self.state.is_none_or(|state| incident.state == state)
            && self.severity.is_none_or(|least| incident.severity >= least)
            && self.rule.as_ref().is_none_or(|rule| incident.rule == *rule)
            && self.unit.as_ref().is_none_or(|unit| incident.unit.as_ref() == Some(unit))
            && self.from_unix_ns.is_none_or(|from| end >= from)
            && self.to_unix_ns.is_none_or(|to| incident.opened_unix_ns < to)
    }
}

/// Something that changed on the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Changed {
    /// When, as `2026-11-29T03:02:10Z`.
    pub at: String,
    /// When, in nanoseconds since 1970.
    pub at_unix_ns: u64,
    /// The kind of change, such as `unit_restarted`.
    pub kind: ChangeKind,
    /// What changed, in words.
    pub what: String,
}

impl Changed {
    fn of(change: &Change) -> Self {
        let from = match (&change.before, &change.after) {
            (Some(before), Some(after)) => format!(", from {before} to {after}"),
            (None, Some(after)) => format!(": {after}"),
            (Some(before), None) => format!(", was {before}"),
            (None, None) => String::new(),
        };
        let what = &change.what;
        let words = match change.kind {
            ChangeKind::ProcessStarted | ChangeKind::UnitStarted => format!("{what} started"),
            ChangeKind::UnitRestarted => format!("{what} was restarted"),
            ChangeKind::ProcessEnded => format!("{what} ended"),
            ChangeKind::UnitStopped => format!("{what} stopped"),
            ChangeKind::Binary => format!("the program {what} was replaced or is new"),
            ChangeKind::Package if change.after.is_none() && change.before.is_some() => {
                format!("package {what} was removed")
            }
            ChangeKind::Package => format!("package {what} was installed{from}"),
            ChangeKind::Mount if change.after.is_none() => format!("{what} was unmounted{from}"),
            ChangeKind::Mount if change.before.is_none() => format!("{what} was mounted{from}"),
            ChangeKind::Mount => format!("{what} was mounted in another way{from}"),
            ChangeKind::Sysctl => format!("sysctl {what} was set{from}"),
            ChangeKind::ProcessLimit | ChangeKind::CgroupLimit => format!("the limit of {what} was set{from}"),
            ChangeKind::Kernel => format!("another kernel runs{from}"),
            _ => format!("{what}{from}"),
        };
        Self { at: rfc3339(change.at), at_unix_ns: change.at.unix_ns, kind: change.kind, what: words }
    }
}

impl IncidentReport {
    /// Puts an incident into words.
    pub fn of(record: &IncidentRecord) -> Self {
        let incident = &record.incident;
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
            changes: record.changes.iter().map(Changed::of).collect(),
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
fn rfc3339(moment: Moment) -> String {
    super::words::rfc3339(moment.unix_ns)
}
