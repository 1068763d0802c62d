//! Root cause before symptom: findings that another one explains go under it.
//!
//! Each rule says which [`Effect`]s its findings have and from which they suffer. A finding explains another when it has an effect that
//! the other suffers from, and the two are tied together: by a process, a device, a cgroup, an address, or at least by the mechanism
//! ([`ties`]). Two faults that only happen at the same time stay two root causes. Nothing here reads a word of what findings say.

mod storage;
mod ties;

#[cfg(test)]
mod tests;

pub(crate) use self::ties::{Tie, Ties};

use std::collections::HashSet;

use kerno_model::{Effect, Finding, ProcessId, Subject, Window};

use crate::rule::{Rule, Suffers};

/// The most victims that a root cause takes over from what follows from it.
const MAX_VICTIMS: usize = 8;

/// How much earlier than its cause a consequence may seem to begin, in seconds: both are known to the sample only.
const SLACK_SECONDS: f64 = 2.0;
/// The same as a share of the window. A cause crosses its threshold some time after it began, so that one that shares a subject may
/// seem earlier by more than one that shares no more than a mechanism.
const SLACK_SHARE: f64 = 0.1;
const SLACK_SHARE_OF_SUBJECT: f64 = 0.3;

/// Puts each finding that another explains under that one.
pub(crate) fn join(findings: Vec<Finding>, window: &Window) -> Vec<Finding> {
    let parents = parents(&findings, &Ties::new(window));
    let mut slots: Vec<Option<Finding>> = findings.into_iter().map(Some).collect();
    let roots = (0..slots.len()).filter(|index| parents.get(*index).is_some_and(Option::is_none)).collect::<Vec<_>>();
    roots.into_iter().filter_map(|root| assemble(root, &parents, &mut slots)).map(take_over_victims).collect()
}

/// For each finding, the one that explains it and through which effect.
type Parent = Option<(usize, Effect)>;

/// A finding that may explain another.
struct Candidate {
    tie: Tie,
    effect: Effect,
    /// The place of the cause's rule among all rules.
    order: usize,
    excess: f64,
    cause: usize,
}

fn parents(findings: &[Finding], ties: &Ties<'_>) -> Vec<Parent> {
    let rules: Vec<Option<(usize, &Rule)>> =
        findings.iter().map(|finding| crate::rules().enumerate().find(|(_, rule)| finding.rule == rule.id)).collect();
    let rule = |index: usize| rules.get(index).copied().flatten();
    let mut parents: Vec<Parent> = vec![None; findings.len()];
    for (index, consequence) in findings.iter().enumerate() {
        let Some((_, suffering)) = rule(index) else { continue };
        let mut candidates: Vec<Candidate> = Vec::new();
        for (cause_index, cause) in findings.iter().enumerate().filter(|(other, _)| *other != index) {
            let Some((order, causing)) = rule(cause_index) else { continue };
            for Suffers { from, tie, .. } in suffering.suffers.iter().filter(|line| causing.causes.contains(&line.from))
            {
                let tie = tie(ties, cause, consequence);
                let tie = tie.filter(|tie| in_time(cause, consequence, *tie, ties.window));
                let candidate = |tie| Candidate { tie, effect: *from, order, excess: cause.excess, cause: cause_index };
                candidates.extend(tie.map(candidate));
            }
        }
        // The closest tie first; then in the order of effects and of rules; then the one that is further past its threshold.
        candidates.sort_by(|a, b| {
            b.tie
                .cmp(&a.tie)
                .then(a.effect.cmp(&b.effect))
                .then(a.order.cmp(&b.order))
                .then(b.excess.total_cmp(&a.excess))
        });
        let best = candidates.into_iter().find(|candidate| !descends(candidate.cause, index, &parents));
        if let Some(slot) = parents.get_mut(index) {
            *slot = best.map(|candidate| (candidate.cause, candidate.effect));
        }
    }
    parents
}

/// Whether a finding is already explained, over however many steps, by another.
fn descends(mut index: usize, ancestor: usize, parents: &[Parent]) -> bool {
    while index != ancestor {
        match parents.get(index).copied().flatten() {
            Some((parent, _)) => index = parent,
            None => return false,
        }
    }
    true
}

/// Not clearly before its cause. One whose begin is not known may have begun at any time.
fn in_time(cause: &Finding, consequence: &Finding, tie: Tie, window: &Window) -> bool {
    let share = if tie == Tie::Mechanism { SLACK_SHARE } else { SLACK_SHARE_OF_SUBJECT };
    let slack = SLACK_SECONDS.max(share * window.covered_seconds());
    match (cause.since, consequence.since) {
        (Some(cause), Some(consequence)) => {
            window.span.seconds_at(consequence) + slack >= window.span.seconds_at(cause)
        }
        _ => true,
    }
}

/// A finding with those under it, theirs under them, and so on.
fn assemble(index: usize, parents: &[Parent], slots: &mut [Option<Finding>]) -> Option<Finding> {
    let mut finding = slots.get_mut(index)?.take()?;
    for (child, parent) in parents.iter().enumerate() {
        let Some((_, effect)) = parent.filter(|(parent, _)| *parent == index) else { continue };
        if let Some(mut consequence) = assemble(child, parents, slots) {
            consequence.through = Some(effect);
            finding.consequences.push(consequence);
        }
    }
    Some(finding)
}

/// Adds to a root cause's victims those of its consequences.
fn take_over_victims(mut root: Finding) -> Finding {
    let identity = |who: &Subject| who.process.as_ref().map(|process| process.id.clone());
    let mut suffering = Vec::new();
    root.consequences.iter().for_each(|consequence| gather(consequence, &mut suffering));
    let mut known: HashSet<ProcessId> = root.victims.iter().chain([&root.subject]).filter_map(identity).collect();
    for victim in suffering {
        if root.victims.len() < MAX_VICTIMS && identity(&victim).is_some_and(|id| known.insert(id)) {
            root.victims.push(victim);
        }
    }
    root
}

/// Notes who suffers from a consequence and from those under it.
fn gather(finding: &Finding, suffering: &mut Vec<Subject>) {
    suffering.push(finding.subject.clone());
    suffering.extend(finding.victims.iter().cloned());
    finding.consequences.iter().for_each(|consequence| gather(consequence, suffering));
}
