//! Output for people and programs: a [`Report`] as text for a terminal, as Markdown for an incident channel, or as JSON (a report
//! serialises; with the feature `schema`, `json_schema` describes the form), and what changed from one report to the next.

mod changes;
mod diagnosis;
mod explanation;
mod incident;
mod limits;
mod markdown;
mod notice;
#[cfg(feature = "schema")]
mod schema;
mod text;
mod why;
mod words;

use serde::{Deserialize, Serialize};

pub use changes::{Before, Change};
pub use diagnosis::{Culprit, Diagnosis, Eta, Evidence, Exemplar, Fix, Step};
pub use explanation::{explanation_markdown, explanation_text};
pub use incident::{Changed, IncidentFilter, IncidentReport};
pub use limits::{limits_markdown, limits_text};
pub use markdown::markdown;
pub use notice::{
    IncidentEvent, NOTICES_VERSION, Notice, NoticeChange, NoticeCommand, NoticeEvent, NoticeEvidence, NoticeOutlook,
    NoticePart, Notices,
};
#[cfg(feature = "schema")]
pub use schema::{json_schema, notices_schema};
pub use text::{TextStyle, changes_text, finding_text, incident_text, incidents_text, text};
pub use why::{why_folded, why_markdown, why_text};
pub use words::rfc3339;

use kerno_model::amount::span;
use kerno_model::{CostOfObserving, Finding, HostFacts, Missing, SCHEMA_VERSION, Severity, Span, Window};

/// The findings of a window, with the context needed to judge them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Report {
    /// Version of the serialised form. Grows when a field changes its meaning or is removed.
    pub schema_version: u32,
    /// The version of kerno that made it.
    pub kerno_version: String,
    /// The machine.
    pub host: HostFacts,
    /// When and how long it was observed.
    pub window: Span,
    /// The signals that were observed.
    pub observed: Vec<String>,
    /// What could not be observed, and why.
    pub missing: Vec<Missing>,
    /// What observing cost.
    pub cost: CostOfObserving,
    /// Whether no finding is a warning or worse.
    pub healthy: bool,
    /// Root causes, the worst first, each with its consequences under it.
    pub findings: Vec<Diagnosis>,
}

impl Report {
    /// Makes a report from a window and its findings.
    pub fn new(window: &Window, findings: &[Finding]) -> Self {
        Self::with(window, findings.iter().map(|finding| Diagnosis::of(finding, window)).collect())
    }

    fn with(window: &Window, findings: Vec<Diagnosis>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            kerno_version: env!("CARGO_PKG_VERSION").to_owned(),
            host: window.host.clone(),
            window: window.span,
            observed: window.observed().into_iter().map(str::to_owned).collect(),
            missing: window.missing.clone(),
            cost: window.cost.clone(),
            healthy: worst(&findings).is_none_or(|severity| severity < Severity::Warning),
            findings,
        }
    }

    /// The worst severity of all findings; `None` without findings.
    pub fn worst(&self) -> Option<Severity> {
        worst(&self.findings)
    }
}

/// How long was watched, and of how long a time.
fn watched(window: &Span) -> String {
    let rounded = |seconds: f64| span(seconds.round().max(1.0));
    let watched = rounded(window.seconds);
    if window.unwatched_seconds >= 1.0 {
        format!("{watched} of {}", rounded(window.covered_seconds()))
    } else {
        watched
    }
}

fn worst(findings: &[Diagnosis]) -> Option<Severity> {
    findings.iter().map(|finding| finding.severity).max()
}

#[cfg(test)]
mod tests;
