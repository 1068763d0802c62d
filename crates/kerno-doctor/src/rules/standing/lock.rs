//! Locks that are held while others wait, and deadlocks.

use kerno_model::amount::{number, span};
use kerno_model::{AwaitedKind, Effect, Fact, Finding, NamedProcess, StandingState, Subject, Unit, WaitsFor, Window};

use super::{Blame, Fault, blames, describe, fixes, instead, severity, waiting, way, who, worst};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Locks of files and mutexes that are not released.
    LockHeld = "lock_held", "sched_delay", "threads wait for a lock that is not released",
        "Judges waits for locks of files (flock, fcntl, OFD) and mutexes of programs that last for most of the window. Two or more must \
         wait, unless the lock is a mutex whose holder sleeps all the time. A holder that waits for work (accept, poll, a read of what nobody is known to owe) keeps the \
         lock by design: only one process of a group may wait there, or it leads the others. Threads and processes that wait for each \
         other's locks are a deadlock, which never ends by itself. The owner of a mutex is known for those of glibc that are not \
         recursive readers' locks.",
        judge, words;
    causes: [HoldsUp];
    suffers: [
        suffers(Effect::StandsStill, |ties, a, b| ties.same_process(a, b), "its holder is stuck in the kernel itself"),
        suffers(Effect::CpusTaken, |ties, a, b| ties.waits_for_cpu(a, b), "its holder waits for a CPU"),
    ];
    thresholds: {
        warning_seconds: 2.0 Seconds, 1.0 ..= 3600.0, "length of a wait that counts, if it also is most of the window";
        critical_seconds: 10.0 Seconds, 1.0 ..= 3600.0, "length of a wait that is critical";
        min_waiters: 2.0 Count, 1.0 ..= 1e6, "number of waiters that counts";
        critical_waiters: 8.0 Count, 1.0 ..= 1e6, "number of waiters that is critical";
    }
    evidence: {
        waited: "longest wait for it";
        waiters: "waiters";
    }
}

#[allow(clippy::cast_precision_loss, reason = "a few")]
fn judge(window: &Window, rule: &LockHeld) -> Vec<Finding> {
    let mut findings = Vec::new();
    for blame in &blames(window, rule.warning_seconds) {
        let deadlock = blame.fault == Fault::Deadlock;
        let held = blame.fault == Fault::Lock && counts(blame, rule);
        if !deadlock && !held {
            continue;
        }
        let (seconds, waiters) = (blame.seconds(), blame.waiters());
        let critical = if deadlock { rule.warning_seconds } else { rule.critical_seconds };
        let mut finding = LockHeld::finding(severity(seconds, critical, waiters, rule.critical_waiters))
            .variant(if deadlock { "deadlock" } else { "held" })
            .about(Subject::process(window, blame.root.pid, &blame.root.comm))
            .fact(Fact::WaitsFor(WaitsFor::Lock))
            .measured("waited", seconds, Unit::Seconds, Some(rule.warning_seconds));
        if waiters > 0 {
            finding = finding.measured("waiters", waiters as f64, Unit::Count, Some(rule.min_waiters));
        }
        finding.excess = seconds / rule.warning_seconds;
        finding.confidence = if deadlock { 0.95 } else { 0.85 };
        finding = describe(finding, window, blame);
        if let Some(edge) = blame.edge().filter(|edge| edge.kind != AwaitedKind::Mutex) {
            let inode = edge.id;
            finding = finding
                .look(format!("grep ':{inode} ' /proc/locks"), "who holds it, and who waits (the lines with ->)");
        }
        findings.push(fixes(finding, window, blame.root));
    }
    worst(findings)
}

/// Whether so many wait that it is no queue of two.
#[allow(clippy::cast_precision_loss, reason = "a few")]
fn counts(blame: &Blame<'_>, rule: &LockHeld) -> bool {
    let mutex = blame.edge().is_some_and(|edge| edge.kind == AwaitedKind::Mutex);
    let asleep = blame.root.still_since_ns > 0;
    let stuck = blame.root.state == StandingState::Blocked;
    blame.waiters() as f64 >= rule.min_waiters || stuck || (mutex && asleep)
}

fn words(finding: &Finding) -> Words {
    let thing = finding.text("thing").unwrap_or("a lock");
    let waited = [finding.number("waited").map(span)];
    if finding.variant == "deadlock" {
        let other = finding.victims.first().and_then(|victim| victim.process.as_ref()).map(NamedProcess::to_string);
        let who = match other {
            Some(other) => format!("{} and {other} wait for each other", who(finding)),
            None => format!("threads of {} wait for each other", who(finding)),
        };
        return Words {
            title: title(&who, waited),
            cause: format!(
                "Each has what another one needs, and waits for what that one has: {thing} is one of these.{}",
                way(finding)
            ),
            impact: "None of them ever goes on by itself, nor does anyone who waits for them.".to_owned(),
            ..Words::default()
        };
    }
    let waiters = match finding.number("waiters") {
        Some(many) if many > 1.0 => format!("{} others wait for it", number(many)),
        _ => waiting(finding),
    };
    Words {
        title: title(&format!("{} holds {thing}, and {waiters}", who(finding)), waited),
        cause: format!("{}{}", instead(finding), way(finding)),
        impact: "Those who wait do nothing else until it releases the lock or ends.".to_owned(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{awaits, judge, stall, step, window};
    use super::*;
    use crate::words;
    use kerno_model::{Awaited, Severity, Stall, StallNeed, StallStep};

    const RULE: &crate::Rule = &LockHeld::RULE;

    fn lock(kind: AwaitedKind, waiters: u32) -> Awaited {
        Awaited { waiters, ..awaits(StallNeed::Release, kind, Some("/run/job.lock")) }
    }

    fn holder(call: &str) -> StallStep {
        StallStep { call: Some(call.into()), ..step(20, "backup", StandingState::Sleeps) }
    }

    fn waiter(pid: u32, kind: AwaitedKind, waiters: u32, call: &str) -> Stall {
        stall(pid, "cron", 7.0, lock(kind, waiters), vec![holder(call)])
    }

    #[test]
    fn a_holder_that_sleeps_is_named_with_those_behind_it() {
        let stalls = (1..5).map(|pid| waiter(pid, AwaitedKind::Flock, 4, "clock_nanosleep")).collect();
        let found = judge(RULE, &window(stalls, Vec::new()));
        let [finding] = &found[..] else { panic!("{found:?}") };
        let told = words(finding);
        assert_eq!(told.title, "backup (20) holds the flock on /run/job.lock, and 4 others wait for it: 7 s");
        assert_eq!(told.cause, "It sleeps in clock_nanosleep().");
        assert_eq!((finding.victims.len(), finding.severity), (4, Severity::Warning));
    }

    #[test]
    fn what_the_holder_waits_for_is_its_own_business() {
        let child = awaits(StallNeed::End, AwaitedKind::Child, None);
        let chain =
            vec![StallStep { awaits: Some(child), ..holder("wait4") }, step(30, "sleep", StandingState::Sleeps)];
        let waits = |pid| Stall { chain: chain.clone(), ..waiter(pid, AwaitedKind::Flock, 3, "") };
        let found = judge(RULE, &window(vec![waits(1), waits(2), waits(3)], Vec::new()));
        assert_eq!(found[0].pid(), Some(20));
    }

    #[test]
    fn a_queue_of_two_and_locks_for_work_are_normal() {
        let silent =
            |kind, waiters, call| judge(RULE, &window(vec![waiter(1, kind, waiters, call)], Vec::new())).is_empty();
        assert!(silent(AwaitedKind::Flock, 1, "wait4"));
        assert!(silent(AwaitedKind::Mutex, 63, "recvfrom"), "threads of which one reads the next request");
        assert!(silent(AwaitedKind::PosixLock, 5, "accept4"), "workers that accept in turn");
        assert!(silent(AwaitedKind::Mutex, 5, "epoll_wait"));
        assert!(!silent(AwaitedKind::Mutex, 1, "clock_nanosleep"), "a mutex is held for moments");
    }

    #[test]
    fn a_deadlock_is_one_finding_and_critical() {
        let side = |pid: u32, other: u32| {
            let step =
                StallStep { awaits: Some(lock(AwaitedKind::Mutex, 1)), ..step(other, "app", StandingState::Sleeps) };
            Stall { deadlock: true, ..stall(pid, "app", 7.0, lock(AwaitedKind::Mutex, 1), vec![step]) }
        };
        // The last of a chain closes the circle.
        let both = |a, b| Stall { chain: vec![side(a, b).chain[0].clone(), side(b, a).chain[0].clone()], ..side(a, b) };
        let found = judge(RULE, &window(vec![both(10, 20), both(20, 10)], Vec::new()));
        let [finding] = &found[..] else { panic!("{found:?}") };
        assert_eq!(words(finding).title, "app (10) and app (20) wait for each other: 7 s");
        assert_eq!((&*finding.variant, finding.severity), ("deadlock", Severity::Critical));
    }
}
