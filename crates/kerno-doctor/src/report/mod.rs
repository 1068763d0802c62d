//! What a person or a program gets to read: a [`Report`] as text for a terminal, as Markdown for an incident channel, as JSON (it
//! serialises; with the feature `schema`, `json_schema` describes it), and what changed from one report to the next.

mod compare;
mod markdown;
#[cfg(feature = "schema")]
mod schema;
mod text;
mod words;

use serde::{Deserialize, Serialize};

pub use compare::{Change, Course, compare};
pub use markdown::markdown;
#[cfg(feature = "schema")]
pub use schema::json_schema;
pub use text::{TextStyle, changes_text, finding_text, text};

use crate::{Finding, Severity};
use kerno_model::{CostOfObserving, HostFacts, Missing, SCHEMA_VERSION, Span, Window};

/// What was found in a window, and what one must know to judge it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Report {
    /// Version of this form; grows when a field changes its meaning or goes.
    pub schema_version: u32,
    /// The version of kerno that made it.
    pub kerno_version: String,
    /// The machine.
    pub host: HostFacts,
    /// When, and for how long.
    pub window: Span,
    /// The signals that were observed.
    pub observed: Vec<String>,
    /// What could not be observed, and why.
    pub missing: Vec<Missing>,
    /// What observing cost.
    pub cost: CostOfObserving,
    /// Nothing is wrong as far as could be seen: no finding is a warning or worse.
    pub healthy: bool,
    /// Root causes, the worst first, with what follows from each under it.
    pub findings: Vec<Finding>,
}

impl Report {
    /// A report on what was observed and judged.
    pub fn new(window: &Window, mut findings: Vec<Finding>) -> Self {
        findings.iter_mut().for_each(keep_finite);
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

    /// The worst severity of all findings; `None` when there is none.
    pub fn worst(&self) -> Option<Severity> {
        worst(&self.findings)
    }
}

fn worst(findings: &[Finding]) -> Option<Severity> {
    findings.iter().flat_map(|finding| [Some(finding.severity), worst(&finding.consequences)]).flatten().max()
}

/// JSON has no infinity: what is not a number would be lost on the way.
fn keep_finite(finding: &mut Finding) {
    const VAST: f64 = 1e9;
    let finite = |value: &f64| value.is_finite();
    if !finding.excess.is_finite() {
        finding.excess = if finding.excess.is_nan() { 1.0 } else { VAST };
    }
    finding.since = finding.since.filter(finite);
    finding.eta = finding.eta.take().filter(|eta| eta.seconds.is_finite() && eta.fit.is_finite());
    finding.evidence.retain(|evidence| evidence.value.is_finite());
    for evidence in &mut finding.evidence {
        evidence.threshold = evidence.threshold.filter(finite);
    }
    finding.exemplars.retain(|exemplar| exemplar.seconds.is_finite());
    finding.chain.retain(|step| step.seconds.is_finite());
    finding.consequences.iter_mut().for_each(keep_finite);
}

#[cfg(test)]
mod tests;
