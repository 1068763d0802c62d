//! Root cause before symptom: findings that another one explains go under it.
//!
//! [`LINKS`] says which rule's findings may explain which other's, and by what they must be tied together: a process, a device, a
//! cgroup, an address, or at least the mechanism. Two faults that only happen at the same time stay two root causes.

mod storage;
mod ties;

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use self::ties::{Tie, Ties};
use kerno_model::Window;
use kerno_model::{Culprit, Finding, Step};

/// The most victims that a root cause takes over from what follows from it.
const MAX_VICTIMS: usize = 8;

/// How much earlier than its cause a consequence may seem to begin, in seconds: both are known to the sample only.
const SLACK_SECONDS: f64 = 2.0;
/// The same as a share of the window. A cause crosses its threshold some time after it began, so that one that shares a subject may
/// seem earlier by more than one that shares no more than a mechanism.
const SLACK_SHARE: f64 = 0.1;
const SLACK_SHARE_OF_SUBJECT: f64 = 0.3;

/// One rule's findings may explain another's.
struct Link {
    cause: &'static str,
    consequence: &'static str,
    /// What ties the two together; `None` when nothing does.
    tie: fn(&Ties<'_>, &Finding, &Finding) -> Option<Tie>,
    /// What the cause does to the one whom the consequence names; reads after "NAME: ".
    how: &'static str,
}

const fn link(
    cause: &'static str,
    consequence: &'static str,
    tie: fn(&Ties<'_>, &Finding, &Finding) -> Option<Tie>,
    how: &'static str,
) -> Link {
    Link { cause, consequence, tie, how }
}

/// What explains what. Where several would, the closest tie counts, then the order here.
const LINKS: &[Link] = &[
    // Storage that fails: what it fails with, and the waiting while it is tried again.
    link("disk_errors", "syscall_error_rate", |t, a, b| t.failing_storage(a, b), "its calls fail with I/O errors"),
    link("disk_errors", "file_open_storm", |t, a, b| t.failing_storage(a, b), "its opens fail with I/O errors"),
    link(
        "disk_errors",
        "disk_io_bottleneck",
        |t, a, b| t.same_device(a, b),
        "failed requests are tried again and take long",
    ),
    link("disk_errors", "disk_errors", |t, a, b| t.stacked_device(a, b), "its requests fail on the device below"),
    link("disk_errors", "blocked_tasks", |t, a, b| t.blocked_on_storage(a, b), "waits for requests that fail"),
    link("disk_errors", "syscall_latency_high", |t, a, b| t.slow_storage(a, b), "waits for requests that fail"),
    link("disk_full", "syscall_error_rate", |t, a, b| t.no_space(a, b), "its writes fail for want of space"),
    link("disk_full", "file_open_storm", |t, a, b| t.no_space(a, b), "its opens fail for want of space"),
    // Storage that is slow.
    link(
        "disk_io_bottleneck",
        "disk_io_bottleneck",
        |t, a, b| t.stacked_device(a, b),
        "its requests wait for the device below",
    ),
    link(
        "disk_io_bottleneck",
        "syscall_latency_high",
        |t, a, b| t.slow_storage(a, b),
        "its file and sync calls wait for the device",
    ),
    link(
        "disk_io_bottleneck",
        "blocked_tasks",
        |t, a, b| t.blocked_on_storage(a, b),
        "sleeps until the device answers",
    ),
    link(
        "disk_io_bottleneck",
        "memory_pressure",
        |t, a, b| t.memory_waits_for_disk(a, b),
        "pages come back from the device too slowly",
    ),
    // Memory that runs out.
    link("oom_kill", "oom_imminent", |t, a, b| t.same_memory(a, b), "memory was about to run out, and did"),
    link("oom_kill", "memory_pressure", |t, a, b| t.same_memory(a, b), "tasks waited for memory until the kill"),
    link("oom_imminent", "memory_pressure", |t, a, b| t.same_memory(a, b), "tasks wait for memory to be reclaimed"),
    link(
        "oom_kill",
        "disk_io_bottleneck",
        |t, a, b| t.thrashing(a, b),
        "pages that were dropped are read again and again",
    ),
    link(
        "oom_imminent",
        "disk_io_bottleneck",
        |t, a, b| t.thrashing(a, b),
        "pages that were dropped are read again and again",
    ),
    link(
        "memory_pressure",
        "disk_io_bottleneck",
        |t, a, b| t.thrashing(a, b),
        "pages that were dropped are read again and again",
    ),
    link("oom_kill", "syscall_latency_high", |t, a, b| t.slow_for_memory(a, b), "its calls wait for memory"),
    link("oom_imminent", "syscall_latency_high", |t, a, b| t.slow_for_memory(a, b), "its calls wait for memory"),
    link("memory_pressure", "syscall_latency_high", |t, a, b| t.slow_for_memory(a, b), "its calls wait for memory"),
    link("oom_imminent", "blocked_tasks", |t, a, b| t.slow_for_memory(a, b), "sleeps until memory is found"),
    link("memory_pressure", "blocked_tasks", |t, a, b| t.slow_for_memory(a, b), "sleeps until memory is found"),
    // Descriptors.
    link("fd_leak", "fd_exhaustion", |t, a, b| t.leaks_to_limit(a, b), "the leak fills the table of descriptors"),
    link(
        "fd_exhaustion",
        "syscall_error_rate",
        |t, a, b| t.no_descriptor(a, b),
        "its calls fail for want of a descriptor",
    ),
    link("fd_leak", "syscall_error_rate", |t, a, b| t.no_descriptor(a, b), "its calls fail for want of a descriptor"),
    link(
        "fd_exhaustion",
        "file_open_storm",
        |t, a, b| t.no_descriptor(a, b),
        "its opens fail for want of a descriptor",
    ),
    link("fd_leak", "file_open_storm", |t, a, b| t.no_descriptor(a, b), "its opens fail for want of a descriptor"),
    link(
        "fd_exhaustion",
        "tcp_accept_queue_overflow",
        |t, a, b| t.same_process(a, b),
        "cannot accept without a descriptor",
    ),
    link(
        "fd_leak",
        "tcp_accept_queue_overflow",
        |t, a, b| t.at_limit_and_same_process(a, b),
        "cannot accept without a descriptor",
    ),
    // CPU time.
    link(
        "cpu_throttling",
        "scheduler_contention",
        |t, a, b| t.in_throttled_cgroup(a, b),
        "held back by the quota of its cgroup",
    ),
    link(
        "cpu_throttling",
        "syscall_latency_high",
        |t, a, b| t.in_throttled_cgroup(a, b),
        "held back by the quota in the middle of calls",
    ),
    link(
        "cpu_throttling",
        "tcp_accept_queue_overflow",
        |t, a, b| t.in_throttled_cgroup(a, b),
        "held back by the quota, it accepts too slowly",
    ),
    link(
        "cpu_steal",
        "scheduler_contention",
        |_, _, _| Some(Tie::Mechanism),
        "waits for CPUs that the hypervisor gave to others",
    ),
    link("scheduler_contention", "syscall_latency_high", |t, a, b| t.slow_for_cpu(a, b), "its calls wait for a CPU"),
    link("cpu_steal", "syscall_latency_high", |t, a, b| t.slow_for_cpu(a, b), "its calls wait for a CPU"),
    link(
        "scheduler_contention",
        "tcp_rtt_inflation",
        |t, a, b| t.loopback(a, b),
        "the other end waits for a CPU before it answers",
    ),
    link(
        "cpu_steal",
        "tcp_rtt_inflation",
        |t, a, b| t.loopback(a, b),
        "the other end waits for a CPU before it answers",
    ),
    link(
        "scheduler_contention",
        "tcp_accept_queue_overflow",
        |t, a, b| t.waits_for_cpu(a, b),
        "waits for a CPU, and so accepts too slowly",
    ),
    // The network.
    link(
        "tcp_accept_queue_overflow",
        "tcp_connect_failures",
        |t, a, b| t.to_listener(a, b),
        "nobody accepts what it opens",
    ),
    link(
        "tcp_accept_queue_overflow",
        "tcp_retransmit_storm",
        |t, a, b| t.to_listener(a, b),
        "the listener drops what it sends",
    ),
    link(
        "tcp_accept_queue_overflow",
        "tcp_rtt_inflation",
        |t, a, b| t.to_listener(a, b),
        "the listener drops what it sends",
    ),
    link(
        "tcp_accept_queue_overflow",
        "syscall_latency_high",
        |t, a, b| t.slow_connect_to_listener(a, b),
        "its connects wait to be accepted",
    ),
    link(
        "tcp_retransmit_storm",
        "tcp_rtt_inflation",
        |t, a, b| t.same_remote(a, b),
        "segments arrive late because they are sent again",
    ),
    link(
        "tcp_retransmit_storm",
        "tcp_connect_failures",
        |t, a, b| t.timed_out_to_same_remote(a, b),
        "what it sends to open connections is lost",
    ),
    link("tcp_connect_failures", "syscall_error_rate", |t, a, b| t.connect_errors(a, b), "its connects fail"),
    link(
        "tcp_connect_failures",
        "syscall_latency_high",
        |t, a, b| t.slow_connect(a, b),
        "its connects wait for an answer",
    ),
    // The same thing seen twice.
    link("file_open_storm", "syscall_error_rate", |t, a, b| t.failed_opens(a, b), "the same failed opens"),
    link("blocked_tasks", "syscall_latency_high", |t, a, b| t.same_process(a, b), "the call that it sleeps in"),
];

/// Puts each finding that another explains under that one.
pub(super) fn join(findings: Vec<Finding>, window: &Window) -> Vec<Finding> {
    let parents = parents(&findings, &Ties::new(window));
    let mut slots: Vec<Option<Finding>> = findings.into_iter().map(Some).collect();
    let roots = (0..slots.len()).filter(|index| parents.get(*index).is_some_and(Option::is_none)).collect::<Vec<_>>();
    roots.into_iter().filter_map(|root| assemble(root, &parents, &mut slots)).map(tell).collect()
}

/// For each finding, the one that explains it and how.
type Parent = Option<(usize, &'static Link)>;

fn parents(findings: &[Finding], ties: &Ties<'_>) -> Vec<Parent> {
    let mut parents: Vec<Parent> = vec![None; findings.len()];
    for (index, consequence) in findings.iter().enumerate() {
        let mut candidates: Vec<(Tie, usize, usize, &'static Link)> = Vec::new();
        for (cause_index, cause) in findings.iter().enumerate().filter(|(other, _)| *other != index) {
            for (order, link) in LINKS.iter().enumerate() {
                if link.cause == cause.id && link.consequence == consequence.id {
                    let tie = (link.tie)(ties, cause, consequence);
                    let tie = tie.filter(|tie| in_time(cause, consequence, *tie, ties.window.seconds()));
                    candidates.extend(tie.map(|tie| (tie, order, cause_index, link)));
                }
            }
        }
        candidates.sort_by(|a, b| {
            let excess = |index: usize| findings.get(index).map_or(0.0, |finding| finding.excess);
            b.0.cmp(&a.0).then(a.1.cmp(&b.1)).then(excess(b.2).total_cmp(&excess(a.2)))
        });
        let best = candidates.into_iter().find(|candidate| !descends(candidate.2, index, &parents));
        if let Some(slot) = parents.get_mut(index) {
            *slot = best.map(|(_, _, cause, link)| (cause, link));
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
fn in_time(cause: &Finding, consequence: &Finding, tie: Tie, window_seconds: f64) -> bool {
    let share = if tie == Tie::Mechanism { SLACK_SHARE } else { SLACK_SHARE_OF_SUBJECT };
    let slack = SLACK_SECONDS.max(share * window_seconds);
    match (cause.since, consequence.since) {
        (Some(cause), Some(consequence)) => consequence + slack >= cause,
        _ => true,
    }
}

/// A finding with those under it, theirs under them, and so on.
fn assemble(index: usize, parents: &[Parent], slots: &mut [Option<Finding>]) -> Option<Finding> {
    let mut finding = slots.get_mut(index)?.take()?;
    for (child, parent) in parents.iter().enumerate() {
        let Some((_, link)) = parent.filter(|(parent, _)| *parent == index) else { continue };
        if let Some(mut consequence) = assemble(child, parents, slots) {
            // How it came to this one is the first step of its own chain; `tell` gathers them.
            consequence.chain.insert(0, step(&consequence, link.how));
            finding.severity = finding.severity.max(consequence.severity);
            finding.consequences.push(consequence);
        }
    }
    Some(finding)
}

fn step(finding: &Finding, how: &str) -> Step {
    let who = label(&finding.culprit).unwrap_or_else(|| finding.title.clone());
    Step { seconds: finding.since.unwrap_or(0.0), what: format!("{who}: {how}") }
}

/// Tells the story of a root cause: its chain and who suffers, from those of its consequences.
fn tell(mut root: Finding) -> Finding {
    if root.consequences.is_empty() {
        return root;
    }
    let first = Step { seconds: root.since.unwrap_or(0.0), what: root.title.clone() };
    let mut steps = std::mem::take(&mut root.chain);
    let mut suffering = Vec::new();
    for consequence in &mut root.consequences {
        gather(consequence, &mut steps, &mut suffering);
    }
    steps.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    // The cause comes first, though a sample may have shown a consequence a little earlier.
    steps.insert(0, first);
    let mut told = HashSet::new();
    steps.retain(|step| told.insert(step.what.clone()));
    root.chain = steps;

    let mut known: HashSet<u32> = root.victims.iter().chain([&root.culprit]).filter_map(|who| who.pid).collect();
    for victim in suffering {
        if root.victims.len() < MAX_VICTIMS && victim.pid.is_some_and(|pid| known.insert(pid)) {
            root.victims.push(victim);
        }
    }
    root
}

/// Takes the steps out of a consequence and those under it, and notes who suffers.
fn gather(finding: &mut Finding, steps: &mut Vec<Step>, suffering: &mut Vec<Culprit>) {
    steps.append(&mut finding.chain);
    suffering.push(finding.culprit.clone());
    suffering.extend(finding.victims.iter().cloned());
    for consequence in &mut finding.consequences {
        gather(consequence, steps, suffering);
    }
}

/// Whom a finding names, in a few words.
fn label(culprit: &Culprit) -> Option<String> {
    let process = culprit.process.as_ref().filter(|name| !name.is_empty());
    match (process, culprit.pid) {
        (Some(name), Some(pid)) => Some(format!("{name} ({pid})")),
        (None, Some(pid)) => Some(format!("process {pid}")),
        (Some(name), None) => Some(name.clone()),
        (None, None) => {
            let place = [&culprit.device, &culprit.mount, &culprit.local, &culprit.cgroup, &culprit.remote];
            place.into_iter().flatten().next().cloned()
        }
    }
}
