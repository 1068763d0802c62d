use kerno_model::{Course, Fingerprint, IncidentId, Severity, Transition, Window};
use serde::{Deserialize, Serialize};

use super::Diagnosis;

/// A change in the life of an incident, in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Change {
    /// Which way it went.
    pub course: Course,
    /// The incident.
    pub incident: IncidentId,
    /// The finding as it is now; of one that is over, as it was last.
    pub finding: Diagnosis,
    /// As it was when it was last told; `None` when it is new.
    pub before: Option<Before>,
}

/// How bad an incident was before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Before {
    /// How bad.
    pub severity: Severity,
    /// How far past its threshold.
    pub excess: f64,
}

impl Change {
    /// What [`incidents::step`](crate::incidents::step) told of a window, in words.
    pub fn of(transition: &Transition, window: &Window) -> Self {
        let mut finding = Diagnosis::of(&transition.finding, window);
        finding.severity = transition.severity;
        let before = transition.was.map(|severity| Before { severity, excess: transition.was_excess });
        Self { course: transition.course, incident: transition.id.clone(), finding, before }
    }

    /// What the finding stays the same by.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.finding.fingerprint
    }
}
