//! Processes that are stopped, traced or frozen while others wait for them.

use std::collections::BTreeMap;

use kerno_model::amount::{number, span};
use kerno_model::{Finding, HeldProcess, StallStep, StandingState, Subject, Unit, Window};

use super::{Fault, MAX_VICTIMS, blames, describe, fixes, instead, severity, waiting, way, who, with_state, worst};
use crate::title::title;
use crate::{Words, rule};

rule! {
    /// Stopped, traced and frozen processes that others wait for.
    StoppedProcess = "stopped_process", "sched_delay", "others wait for a process that is stopped, traced or frozen",
        "A process that a signal has stopped (state T), that a debugger holds (state t), or whose cgroup is frozen does nothing until \
         somebody lets it. That alone is no problem: shells stop jobs, and debuggers are made for it. It is one when others depend on \
         it: one that writes to its pipe or socket sleeps, one waits for a lock that it holds, or clients wait in the queue of its \
         listening socket. Follows who waits for whom over several steps, so that the last of a pipeline is named and not the one before.",
        judge, words;
    causes: [HoldsUp];
    suffers: [];
    thresholds: {
        warning_seconds: 2.0 Seconds, 1.0 ..= 3600.0, "how long others must have waited, and for most of the window";
        critical_seconds: 10.0 Seconds, 1.0 ..= 3600.0, "how long they must have waited for it to be critical";
        critical_waiting: 8.0 Count, 1.0 ..= 1e6, "how many must wait for it to be critical";
    }
    evidence: {
        waited: "longest wait for it";
        held: "since it last ran";
        waiting: "threads that wait for it";
        queued: "clients waiting in the queues of its sockets";
    }
}

fn judge(window: &Window, rule: &StoppedProcess) -> Vec<Finding> {
    let Some(sched) = &window.sched_delay else { return Vec::new() };
    let mut held: BTreeMap<u32, &HeldProcess> = sched.held.iter().map(|held| (held.pid, held)).collect();
    let mut findings = Vec::new();
    for blame in blames(window, rule.warning_seconds).iter().filter(|blame| blame.fault == Fault::Held) {
        let held = held.remove(&blame.root.pid);
        let finding = finding(window, rule, blame.root, held, blame.seconds(), blame.waits.len());
        findings.push(fixes(describe(finding, window, blame), window, blame.root));
    }
    for held in held.into_values().filter(|held| held.seconds >= rule.warning_seconds) {
        // Those that wait for its answer to a datagram are in no queue that could be looked at.
        let mut asking: Vec<_> = sched.dns_waits.iter().filter(|wait| wait.server_pid == held.pid).collect();
        asking.sort_by_key(|wait| wait.pid);
        asking.dedup_by_key(|wait| wait.pid);
        if held.queued == 0 && asking.is_empty() {
            continue;
        }
        let root = StallStep {
            pid: held.pid,
            comm: held.comm.clone(),
            state: held.state,
            tracer: held.tracer,
            tracer_comm: held.tracer_comm.clone(),
            cgroup: held.cgroup.clone(),
            thaw_file: held.thaw_file.clone(),
            ..StallStep::default()
        };
        let seconds = held.seconds.min(window.covered_seconds());
        let mut finding = finding(window, rule, &root, Some(held), seconds, asking.len());
        let victims = asking.iter().take(MAX_VICTIMS);
        finding.victims.extend(victims.map(|wait| Subject::process(window, wait.pid, &wait.comm)));
        findings.push(fixes(with_state(finding, window, &root), window, &root));
    }
    worst(findings)
}

#[allow(clippy::cast_precision_loss, reason = "a few")]
fn finding(
    window: &Window,
    rule: &StoppedProcess,
    root: &StallStep,
    held: Option<&HeldProcess>,
    seconds: f64,
    waiting: usize,
) -> Finding {
    let queued = held.map_or(0, |held| held.queued);
    let many = waiting + queued as usize;
    let variant = match root.state {
        StandingState::Stopped => "stopped",
        StandingState::Traced => "traced",
        _ => "frozen",
    };
    let mut finding = StoppedProcess::finding(severity(seconds, rule.critical_seconds, many, rule.critical_waiting))
        .variant(variant)
        .about(Subject::process(window, root.pid, &root.comm))
        .measured("waited", seconds, Unit::Seconds, Some(rule.warning_seconds));
    if let Some(held) = held {
        finding = finding.measured("held", held.seconds, Unit::Seconds, None);
    }
    if waiting > 0 {
        finding = finding.measured("waiting", waiting as f64, Unit::Count, None);
    }
    if queued > 0 {
        finding = finding.measured("queued", f64::from(queued), Unit::Count, None);
        if let Some(listener) = held.and_then(|held| held.listener.as_deref()).filter(|name| !name.is_empty()) {
            finding = finding.detail("listener", listener);
        }
    }
    finding.since = held
        .filter(|held| window.covered_seconds() - held.seconds > 0.5)
        .map(|held| window.moment(window.covered_seconds() - held.seconds));
    finding.excess = seconds / rule.warning_seconds;
    finding.confidence = 0.95;
    finding
}

fn words(finding: &Finding) -> Words {
    let held = match &*finding.variant {
        "stopped" => "is stopped",
        "traced" => "is held by a debugger",
        "frozen" => "is frozen",
        _ => "stands still",
    };
    let clients = finding.number("queued").map(|queued| {
        let place = finding.text("listener").map_or_else(String::new, |place| format!(" at {place}"));
        if queued == 1.0 { format!("a client waits{place}") } else { format!("{} clients wait{place}", number(queued)) }
    });
    let wait = match (finding.victims.is_empty(), clients) {
        (true, Some(clients)) => clients,
        (false, Some(clients)) => format!("{}; {clients}", waiting(finding)),
        (_, None) => waiting(finding),
    };
    let thing = finding.text("thing").map_or_else(String::new, |thing| {
        let what = match finding.text("need").unwrap_or_default() {
            "room" => " does not read from",
            "data" => " writes nothing to",
            "release" => " holds",
            "accept" if thing.starts_with("the connection") => " has not accepted",
            "accept" => " accepts nothing at",
            _ => return " It does not end while others wait for that.".to_owned(),
        };
        format!(" Meanwhile it{what} {thing}.")
    });
    let impact =
        "Whoever waits for it does nothing either, and whoever waits for these waits too. It does not go on by itself.";
    Words {
        title: title(&format!("{} {held}, and {wait}", who(finding)), [finding.number("waited").map(span)]),
        cause: format!("{}{thing}{}", instead(finding), way(finding)),
        impact: impact.to_owned(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{awaits, judge, stall, step, window};
    use super::*;
    use crate::words;
    use kerno_model::{AwaitedKind, Safety, Severity, StallNeed};

    const RULE: &crate::Rule = &StoppedProcess::RULE;

    #[test]
    fn a_stopped_reader_is_named_with_who_waits_for_it() {
        let pipe = awaits(StallNeed::Room, AwaitedKind::Pipe, None);
        let at = |seconds| {
            let chain = vec![step(20, "cat", StandingState::Stopped)];
            judge(RULE, &window(vec![stall(10, "api", seconds, pipe.clone(), chain)], Vec::new()))
        };
        assert!(at(1.9).is_empty());
        let found = at(7.0);
        let [finding] = &found[..] else { panic!("{found:?}") };
        let told = words(finding);
        assert_eq!(told.title, "cat (20) is stopped, and api (10) waits for it: 7 s");
        assert_eq!(told.cause, "It was stopped by a signal (state T). Meanwhile it does not read from a pipe.");
        assert_eq!((finding.pid(), finding.severity), (Some(20), Severity::Warning));
        assert!(finding.fixes.iter().any(|fix| fix.command == "kill -CONT 20" && fix.effect == Safety::Changing));
        assert_eq!(at(11.0)[0].severity, Severity::Critical);
    }

    #[test]
    fn the_last_of_a_chain_is_the_culprit() {
        let pipe = || awaits(StallNeed::Room, AwaitedKind::Pipe, None);
        let middle = StallStep { awaits: Some(pipe()), ..step(20, "tee", StandingState::Sleeps) };
        let frozen = StallStep {
            cgroup: Some("/batch".into()),
            thaw_file: Some("/sys/fs/cgroup/batch/cgroup.freeze".into()),
            ..step(30, "gzip", StandingState::Frozen)
        };
        let found = judge(RULE, &window(vec![stall(10, "tar", 7.0, pipe(), vec![middle, frozen])], Vec::new()));
        let told = words(&found[0]);
        assert_eq!(told.title, "gzip (30) is frozen, and tar (10) and one more wait for it: 7 s");
        assert!(told.cause.contains("Its cgroup /batch is frozen."), "{}", told.cause);
        assert!(told.cause.ends_with("tar (10) waits for tee (20) waits for gzip (30)."), "{}", told.cause);
        assert!(found[0].fixes.iter().any(|fix| fix.command == "echo 0 > /sys/fs/cgroup/batch/cgroup.freeze"));
    }

    #[test]
    fn one_that_has_clients_is_found_and_one_that_nobody_needs_is_not() {
        let held = HeldProcess {
            pid: 5,
            comm: "nginx".into(),
            state: StandingState::Traced,
            tracer: 9,
            tracer_comm: "gdb".into(),
            seconds: 7.0,
            queued: 3,
            listener: Some("0.0.0.0:80".into()),
            ..HeldProcess::default()
        };
        let alone = HeldProcess { queued: 0, listener: None, ..held.clone() };
        assert!(judge(RULE, &window(Vec::new(), vec![alone])).is_empty());
        let found = judge(RULE, &window(Vec::new(), vec![held]));
        let told = words(&found[0]);
        assert_eq!(told.title, "nginx (5) is held by a debugger, and 3 clients wait at 0.0.0.0:80: 7 s");
        assert_eq!(told.cause, "It is held by gdb (9) (state t), as by a debugger.");
        assert!(found[0].fixes.iter().any(|fix| fix.command == "kill 9"));
    }

    #[test]
    fn one_that_is_traced_and_goes_on_is_not_held() {
        let pipe = awaits(StallNeed::Room, AwaitedKind::Pipe, None);
        let traced = StallStep { tracer: 10, still_since_ns: 0, ..step(20, "server", StandingState::Traced) };
        assert!(judge(RULE, &window(vec![stall(5, "api", 4.0, pipe, vec![traced])], Vec::new())).is_empty());
    }

    #[test]
    fn a_debugger_that_waits_for_what_it_holds_is_at_work() {
        let child = awaits(StallNeed::End, AwaitedKind::Child, None);
        let traced = StallStep { tracer: 10, ..step(20, "server", StandingState::Traced) };
        assert!(judge(RULE, &window(vec![stall(10, "strace", 7.0, child, vec![traced])], Vec::new())).is_empty());
    }
}
