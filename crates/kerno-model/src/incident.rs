//! Findings over time: incidents and their changes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Finding, Fingerprint, Moment, RuleId, Severity};

/// The id of an incident: the fingerprint of its finding, and when it opened, in seconds since 1970. The same after a restart of kerno.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct IncidentId(String);

impl IncidentId {
    /// The id of the incident with this fingerprint that opened at this moment.
    pub fn new(fingerprint: Fingerprint, opened: Moment) -> Self {
        Self(format!("{fingerprint}-{}", opened.unix_ns / 1_000_000_000))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whether an incident is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum IncidentState {
    /// It is not over.
    #[default]
    Open,
    /// It is over.
    Closed,
}

/// A problem over its whole life, from the first window that showed it to the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Incident {
    /// Its id.
    pub id: IncidentId,
    /// The identity of its findings.
    pub fingerprint: Fingerprint,
    /// The rule that found it.
    pub rule: RuleId,
    /// Whether it is open.
    pub state: IncidentState,
    /// The end of the first window that showed it.
    pub opened: Moment,
    /// The end of the window at which it was considered over.
    #[serde(default)]
    pub closed: Option<Moment>,
    /// The end of the latest window that showed it.
    pub last_seen: Moment,
    /// How bad it is, without its consequences. An improvement counts only after a while.
    pub severity: Severity,
    /// How often it came back after it had been considered over.
    #[serde(default)]
    pub reopened: u32,
    /// The fingerprint of the finding that explains it; `None` for a root cause.
    #[serde(default)]
    pub under: Option<Fingerprint>,
    /// Its first finding.
    pub first: Finding,
    /// Its worst finding.
    pub worst: Finding,
    /// Its latest finding.
    pub last: Finding,
}

impl Incident {
    /// The incident that opens with this finding.
    pub fn new(opened: Moment, finding: Finding) -> Self {
        let fingerprint = finding.fingerprint();
        Self {
            id: IncidentId::new(fingerprint, opened),
            fingerprint,
            rule: finding.rule.clone(),
            state: IncidentState::Open,
            opened,
            closed: None,
            last_seen: opened,
            severity: finding.severity,
            reopened: 0,
            under: None,
            first: finding.clone(),
            worst: finding.clone(),
            last: finding,
        }
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.state == IncidentState::Open
    }
}

/// A kind of change of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Course {
    /// It is new.
    Opened,
    /// It was considered over and came back.
    Reopened,
    /// It became more severe, or is clearly further past its threshold.
    Worse,
    /// It became less severe, or clearly closer to its threshold, and stayed so.
    Better,
    /// It is over.
    Closed,
}

impl Course {
    /// Its name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Reopened => "reopened",
            Self::Worse => "worse",
            Self::Better => "better",
            Self::Closed => "closed",
        }
    }
}

/// A change of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Transition {
    /// The kind of change.
    pub course: Course,
    /// The incident.
    pub id: IncidentId,
    /// The end of the window that showed it.
    pub at: Moment,
    /// Its severity before; `None` if it is new.
    #[serde(default)]
    pub was: Option<Severity>,
    /// How bad it is now.
    pub severity: Severity,
    /// How far it was past its threshold when that was last reported, as a multiple of it; 0 if it is new.
    #[serde(default)]
    pub was_excess: f64,
    /// Its latest finding.
    pub finding: Finding,
}

impl Transition {
    /// A change of an incident, without what it was before.
    pub fn new(course: Course, incident: &Incident, at: Moment) -> Self {
        Self {
            course,
            id: incident.id.clone(),
            at,
            was: None,
            severity: incident.severity,
            was_excess: 0.0,
            finding: incident.last.clone(),
        }
    }
}
