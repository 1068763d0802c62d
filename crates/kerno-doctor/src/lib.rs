//! From a [`Window`] to ranked [`Finding`]s, and from these to what people read. Pure: the same
//! window and thresholds give the same findings on any machine.
//!
//! `rules` has the rules, by theme; [`knowledge`] what is true of Linux whatever was observed; the causes decide which finding explains
//! which; [`report`] makes text, Markdown and JSON of it.

mod correlate;
pub(crate) mod growth;
pub mod knowledge;
pub mod report;
mod rule;
mod rules;
pub(crate) mod shell;

pub use kerno_model::{Culprit, Effect, Eta, Evidence, Exemplar, Finding, Fix, Severity, Step, Unit};
pub(crate) use rule::rule;
pub use rule::{Rule, ThresholdError, ThresholdInfo, Thresholds};

use kerno_model::Window;

/// Every rule.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    rules::ALL.iter()
}

/// Judges what was observed: root causes with their consequences under them, the worst first. Empty when nothing is wrong.
pub fn judge(window: &Window, thresholds: &Thresholds) -> Vec<Finding> {
    let findings = rules().flat_map(|rule| (rule.judge)(window, thresholds)).collect();
    let mut findings = correlate::join(findings, window);
    leave_the_ended_alone(&mut findings, window);
    rank(&mut findings);
    findings
}

/// Takes back commands for a culprit that has ended: they do not work, or meet another process that has its id now.
fn leave_the_ended_alone(findings: &mut [Finding], window: &Window) {
    for finding in findings {
        leave_the_ended_alone(&mut finding.consequences, window);
        let ended = finding.culprit.pid.filter(|pid| window.process(*pid).is_some_and(|process| !process.alive));
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
