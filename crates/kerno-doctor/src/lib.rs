//! From a [`Window`] to ranked [`Finding`]s, and from these to what people read. Pure: the same
//! window and thresholds give the same findings on any machine.
//!
//! `rules` has the rules, by theme; [`knowledge`] what is true of Linux whatever was observed; the causes decide which finding explains
//! which; [`report`] makes text, Markdown and JSON of it.
mod causes;
mod compare;
#[cfg(any(test, feature = "corpus"))]
#[doc(hidden)]
pub mod corpus;
pub(crate) mod growth;
pub mod incidents;
pub mod knowledge;
pub mod limits;
pub mod objective;
pub mod objectives;
pub mod redaction;
pub mod report;
mod rule;
mod rules;
pub(crate) mod shell;
pub(crate) mod title;
mod trends;
pub mod why;

pub use compare::{Difference, compare};
pub use knowledge::kernel_log;
pub use rule::{Rule, ThresholdError, ThresholdInfo, Thresholds, Words};
pub(crate) use rule::{Trend, rule, suffers};
pub use trends::Trends;

use kerno_model::{Entity, Finding, Window};

/// Every rule.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    rules::ALL.iter()
}

/// The rule of that id.
pub fn rule_by_id(id: &str) -> Option<&'static Rule> {
    rules().find(|rule| rule.id == id)
}

/// What a finding says in words. Of a rule that this version does not have (the finding is of a newer one) only its id and subject.
pub fn words(finding: &Finding) -> Words {
    match rule_by_id(finding.rule.as_str()) {
        Some(rule) => (rule.words)(finding),
        None => {
            let subject = finding.subject.label().unwrap_or_else(|| "the machine".to_owned());
            Words { title: format!("{}: {subject}", finding.rule), ..Words::default() }
        }
    }
}

/// Judges what was observed: root causes with their consequences under them, the worst first. Empty when nothing is wrong.
pub fn judge(window: &Window, thresholds: &Thresholds) -> Vec<Finding> {
    relate(found(window, thresholds), window)
}

/// What each rule finds, before causes are looked for.
fn found(window: &Window, thresholds: &Thresholds) -> Vec<Finding> {
    rules().flat_map(|rule| (rule.judge)(window, thresholds)).collect()
}

/// Puts consequences under their causes, withdraws commands whose target has ended, and ranks.
fn relate(mut findings: Vec<Finding>, window: &Window) -> Vec<Finding> {
    arrange(&mut findings);
    let mut findings = causes::join(findings, window);
    withdraw(&mut findings, window);
    rank(&mut findings);
    findings
}

/// Findings of several judges, ranked as one list: the worst first.
pub fn ranked(mut findings: Vec<Finding>) -> Vec<Finding> {
    rank(&mut findings);
    findings
}

/// In the order of the rules, of each the worst first; then by identity, so that what is told never depends on the order in which
/// findings come.
fn arrange(findings: &mut [Finding]) {
    let place = |finding: &Finding| rules().position(|rule| finding.rule == rule.id);
    findings.sort_by(|a, b| {
        place(a)
            .cmp(&place(b))
            .then(b.severity.cmp(&a.severity))
            .then(b.excess.total_cmp(&a.excess))
            .then_with(|| a.fingerprint().cmp(&b.fingerprint()))
            .then_with(|| a.calls().cmp(b.calls()))
            .then_with(|| a.errnos().cmp(b.errnos()))
    });
}

/// Takes back commands for a process that has ended: they do not work, or meet another process that has its id now.
fn withdraw(findings: &mut [Finding], window: &Window) {
    let ended = |entity: &Entity| match entity {
        Entity::Process(id) | Entity::Thread { process: id, .. } => {
            let known = window.process(id.pid);
            known.is_some_and(|process| process.started_ns != id.start_ns || !process.alive)
        }
        _ => false,
    };
    for finding in findings {
        finding.fixes.retain(|fix| !ended(&fix.acts_on));
        withdraw(&mut finding.consequences, window);
    }
}

/// By severity, then by how soon it will happen, then by how far past the threshold it is; then by identity, so that the order is
/// always the same.
fn rank(findings: &mut [Finding]) {
    for finding in findings.iter_mut() {
        rank(&mut finding.consequences);
    }
    findings.sort_by(|a, b| {
        let eta = |finding: &Finding| finding.eta.as_ref().map_or(f64::INFINITY, |eta| eta.seconds);
        b.worst()
            .cmp(&a.worst())
            .then(eta(a).total_cmp(&eta(b)))
            .then(b.excess.total_cmp(&a.excess))
            .then_with(|| a.rule.cmp(&b.rule))
            .then_with(|| a.fingerprint().cmp(&b.fingerprint()))
    });
}
