//! Incidents as they are kept, with what changed on the machine when they began.

use serde::{Deserialize, Serialize};

use crate::vocabulary::vocabulary;
use crate::{Incident, Moment};

/// An incident as it is kept, with what was around it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct IncidentRecord {
    /// The incident.
    pub incident: Incident,
    /// What changed on the machine about the time it began, in the order in which it happened. Context, not causes.
    #[serde(default)]
    pub changes: Vec<Change>,
}

impl IncidentRecord {
    /// An incident about which nothing else is known.
    pub fn new(incident: Incident) -> Self {
        Self { incident, changes: Vec::new() }
    }
}

impl From<Incident> for IncidentRecord {
    fn from(incident: Incident) -> Self {
        Self::new(incident)
    }
}

/// Something that changed on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct Change {
    /// When it changed, or when the change was first seen.
    pub at: Moment,
    /// The kind of change.
    pub kind: ChangeKind,
    /// What changed: the name of a process or unit, a path, the name of a setting. May contain control characters.
    pub what: String,
    /// What it was before, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What it is now; `None` if it is gone, or if there is nothing to say beside `what`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl Change {
    /// A change of which nothing else is known.
    pub fn new(at: Moment, kind: ChangeKind, what: impl Into<String>) -> Self {
        Self { at, kind, what: what.into(), before: None, after: None }
    }
}

vocabulary! {
    /// A kind of change.
    ChangeKind {
        /// A process started.
        ProcessStarted = "process_started",
        /// A process ended.
        ProcessEnded = "process_ended",
        /// A unit or container started.
        UnitStarted = "unit_started",
        /// A unit or container was started again.
        UnitRestarted = "unit_restarted",
        /// A unit or container stopped.
        UnitStopped = "unit_stopped",
        /// The file of a running program was replaced.
        Binary = "binary",
        /// A package was installed, updated or removed.
        Package = "package",
        /// A file system was mounted, unmounted or mounted in another way.
        Mount = "mount",
        /// A kernel setting (sysctl).
        Sysctl = "sysctl",
        /// A limit of a process (`ulimit`).
        ProcessLimit = "process_limit",
        /// A limit of a cgroup.
        CgroupLimit = "cgroup_limit",
        /// The machine started.
        Boot = "boot",
        /// Another kernel runs since the machine started.
        Kernel = "kernel",
        /// The wall clock was set.
        ClockStep = "clock_step",
        ..
        /// Another kind.
        Other = "other"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Finding, RuleId, Severity};

    #[test]
    fn what_is_written_is_read() {
        let finding = Finding::new(RuleId::new("fd_leak"), Severity::Warning);
        let mut record =
            IncidentRecord::new(Incident::new(Moment { monotonic_ns: 5, unix_ns: 7_000_000_000 }, finding));
        record.changes.push(Change {
            before: Some("1024".into()),
            after: Some("64".into()),
            ..Change::new(Moment::default(), ChangeKind::Sysctl, "net.core.somaxconn")
        });
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<IncidentRecord>(&json).unwrap(), record);
    }

    #[test]
    fn what_a_later_kerno_adds_is_taken() {
        let change: Change = serde_json::from_str(r#"{"kind": "firmware", "what": "BIOS", "who": "root"}"#).unwrap();
        assert_eq!((change.kind, change.what.as_str(), change.before), (ChangeKind::Other, "BIOS", None));
    }
}
