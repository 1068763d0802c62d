//! From [`Signals`] to ranked [`Finding`]s. Pure: the same signals and thresholds give the same findings, on
//! any machine.
//!
//! Each signal's `rules.rs` has its rules; this module has what they share: the shape of a finding, thresholds, what is normal
//! life and no symptom ([`normal`]), how findings are joined into root causes and consequences, and the ranking.

pub(crate) mod amount;
mod correlate;
mod finding;
pub(crate) mod growth;
pub mod normal;
mod rule;
pub(crate) mod shell;

pub use finding::{Culprit, Effect, Eta, Evidence, Exemplar, Finding, Fix, Severity, Step, Unit};
pub(crate) use rule::rule;
pub use rule::{Rule, ThresholdError, ThresholdInfo, Thresholds};

use crate::signals;
use crate::summary::Signals;

/// Every rule, in the order of the signals.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    signals::ALL.iter().flat_map(|signal| signal.rules.iter())
}

/// Judges what was observed: root causes with their consequences under them, the worst first. Empty when nothing is wrong.
pub fn judge(signals: &Signals, thresholds: &Thresholds) -> Vec<Finding> {
    let findings = rules().flat_map(|rule| (rule.judge)(signals, thresholds)).collect();
    let mut findings = correlate::join(findings, signals);
    leave_the_ended_alone(&mut findings, signals);
    rank(&mut findings);
    findings
}

/// Takes back commands for a culprit that has ended: they do not work, or meet another process that has its id now.
fn leave_the_ended_alone(findings: &mut [Finding], signals: &Signals) {
    for finding in findings {
        leave_the_ended_alone(&mut finding.consequences, signals);
        let ended = finding.culprit.pid.filter(|pid| signals.process(*pid).is_some_and(|process| !process.alive));
        let Some(pid) = ended.map(|pid| pid.to_string()) else { continue };
        let names_it = |command: &str| command.split(|c: char| !c.is_ascii_digit()).any(|number| number == pid);
        finding.fixes.retain(|fix| !names_it(&fix.command));
    }
}

/// By severity, then by how soon it will happen, then by how far past the threshold it is; then by name, so that the order is
/// always the same.
fn rank(findings: &mut [Finding]) {
    for finding in findings.iter_mut() {
        rank(&mut finding.consequences);
    }
    findings.sort_by(|a, b| {
        let eta = |finding: &Finding| finding.eta.as_ref().map_or(f64::INFINITY, |eta| eta.seconds);
        b.severity
            .cmp(&a.severity)
            .then(eta(a).total_cmp(&eta(b)))
            .then(b.excess.total_cmp(&a.excess))
            .then_with(|| a.id.cmp(&b.id))
            .then_with(|| a.title.cmp(&b.title))
    });
}
