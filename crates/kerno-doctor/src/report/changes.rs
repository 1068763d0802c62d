use kerno_model::{Course, Fingerprint, IncidentId, Severity, Transition, Window};
use serde::{Deserialize, Serialize};

use super::Diagnosis;

/// A change of an incident, in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Change {
    /// The kind of change.
    pub course: Course,
    /// The incident.
    pub incident: IncidentId,
    /// The latest finding of the incident.
    pub finding: Diagnosis,
    /// Its state when it was last reported; `None` if it is new.
    pub before: Option<Before>,
}

/// The earlier state of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Before {
    /// Its severity.
    pub severity: Severity,
    /// How far it was past its threshold, as a multiple of it.
    pub excess: f64,
}

impl Change {
    /// Puts into words what [`incidents::step`](crate::incidents::step) reported for a window.
    pub fn of(transition: &Transition, window: &Window) -> Self {
        let mut finding = Diagnosis::of(&transition.finding, window);
        finding.severity = transition.severity;
        let before = transition.was.map(|severity| Before { severity, excess: transition.was_excess });
        Self { course: transition.course, incident: transition.id.clone(), finding, before }
    }

    /// The identity of the finding.
    pub const fn fingerprint(&self) -> Fingerprint {
        self.finding.fingerprint
    }
}
