//! The life of a finding over windows.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Finding, Fingerprint, Moment, RuleId, Severity};

/// The id of an incident: the fingerprint of its finding and when it opened, in seconds since 1970. The same over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct IncidentId(String);

impl IncidentId {
    /// That of a finding of this fingerprint that opened then.
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

/// Whether an incident goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum IncidentState {
    /// It goes on.
    #[default]
    Open,
    /// It is over.
    Closed,
}

/// Something that is or was wrong, from when it was first seen until it was no longer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Incident {
    /// Its id.
    pub id: IncidentId,
    /// What its findings stay the same by.
    pub fingerprint: Fingerprint,
    /// The rule that finds it.
    pub rule: RuleId,
    /// Whether it goes on.
    pub state: IncidentState,
    /// The end of the first window that showed it.
    pub opened: Moment,
    /// The end of the window with which it was taken to be over.
    #[serde(default)]
    pub closed: Option<Moment>,
    /// The end of the latest window that showed it.
    pub last_seen: Moment,
    /// How bad it is, by itself; it takes a while to get better.
    pub severity: Severity,
    /// How often it came back after it had been taken to be over.
    #[serde(default)]
    pub reopened: u32,
    /// The finding that explains it, by its fingerprint; `None` for a root cause.
    #[serde(default)]
    pub under: Option<Fingerprint>,
    /// Its first finding.
    pub first: Finding,
    /// The finding that was worst.
    pub worst: Finding,
    /// Its latest finding.
    pub last: Finding,
}

impl Incident {
    /// Whether it goes on.
    pub fn is_open(&self) -> bool {
        self.state == IncidentState::Open
    }
}

/// Which way an incident went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Course {
    /// It was not there before.
    Opened,
    /// It was taken to be over and came back.
    Reopened,
    /// It is more severe, or clearly further past its threshold.
    Worse,
    /// It is less severe, or clearly nearer to its threshold, and stayed so.
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

/// A change in an incident's life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Transition {
    /// Which way it went.
    pub course: Course,
    /// The incident.
    pub id: IncidentId,
    /// The end of the window that showed it.
    pub at: Moment,
    /// The severity that it had before; `None` when it was not there.
    #[serde(default)]
    pub was: Option<Severity>,
    /// How bad it is now.
    pub severity: Severity,
    /// How far past its threshold it was when that was last told; 0 when it was not there.
    #[serde(default)]
    pub was_excess: f64,
    /// The finding as it is now; of one that is over, as it was last.
    pub finding: Finding,
}
