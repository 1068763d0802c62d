//! Processes that do not read what others write to them.

use kerno_model::amount::span;
use kerno_model::{Effect, Finding, StandingState, Subject, Unit, Window};

use super::{Fault, blames, describe, fixes, instead, severity, waiting, way, who, worst};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Pipes and sockets that are full because the other end is not read.
    StalledPeer = "stalled_peer", "sched_delay", "a process does not read what others write to it",
        "A write to a pipe, a socket or a terminal that is full sleeps until the other end reads. Judges writes that have slept for most \
         of the window while nothing was read: what waits in between did not change. A pipeline with a slow stage keeps moving and does \
         not count, nor do programs that show their input to a person. A reader that waits for data, and a worker that waits for work, \
         are no symptom either. Whoever sleeps in a read counts only if the writer is stuck itself.",
        judge, words;
    causes: [HoldsUp];
    suffers: [
        suffers(Effect::StandsStill, |ties, a, b| ties.same_process(a, b), "is stuck in the kernel itself"),
        suffers(Effect::CpusTaken, |ties, a, b| ties.waits_for_cpu(a, b), "waits for a CPU, and so does not read"),
    ];
    thresholds: {
        warning_seconds: 2.0 Seconds, 1.0 ..= 3600.0, "length of a wait that counts, if it also is most of the window";
        critical_seconds: 10.0 Seconds, 1.0 ..= 3600.0, "length of a wait that is critical";
        critical_waiting: 8.0 Count, 1.0 ..= 1e6, "number of threads that wait for it to be critical";
    }
    evidence: {
        waited: "longest wait for it";
        waiting: "threads that wait for it";
    }
}

fn judge(window: &Window, rule: &StalledPeer) -> Vec<Finding> {
    let mut findings = Vec::new();
    for blame in blames(window, rule.warning_seconds).iter().filter(|blame| blame.fault == Fault::Peer) {
        let (seconds, waiting) = (blame.seconds(), blame.waits.len());
        let variant = match blame.edge().map(|edge| edge.kind.name()) {
            Some("terminal") => "terminal",
            Some("unix_listener") => "accept",
            Some("tcp") => "connection",
            Some("unix_socket" | "unix_datagrams") => "unix_socket",
            Some("child" | "thread") => "end",
            _ => "pipe",
        };
        #[allow(clippy::cast_precision_loss, reason = "a few")]
        let mut finding =
            StalledPeer::finding(severity(seconds, rule.critical_seconds, waiting, rule.critical_waiting))
                .variant(variant)
                .about(Subject::process(window, blame.root.pid, &blame.root.comm))
                .measured("waited", seconds, Unit::Seconds, Some(rule.warning_seconds))
                .measured("waiting", waiting as f64, Unit::Count, None);
        finding.excess = seconds / rule.warning_seconds;
        let others = blame.edge().is_some_and(|edge| edge.others > 0);
        let sure = matches!(blame.root.state, StandingState::Sleeps | StandingState::Blocked) && !others;
        finding.confidence = if sure { 0.9 } else { 0.7 };
        findings.push(fixes(describe(finding, window, blame), window, blame.root));
    }
    worst(findings)
}

fn words(finding: &Finding) -> Words {
    let thing = finding.text("thing").unwrap_or("a pipe or socket");
    let does = match finding.text("need").unwrap_or("room") {
        "accept" if thing.starts_with("the connection") => format!("does not accept {thing}"),
        "accept" => format!("does not accept connections at {thing}"),
        "end" => "does not end".to_owned(),
        "data" => format!("writes nothing to {thing}"),
        _ => format!("does not read from {thing}"),
    };
    let others = if finding.number("others").is_some() { " Other processes have that end open too." } else { "" };
    Words {
        title: title(
            &format!("{} {does}, and {}", who(finding), waiting(finding)),
            [finding.number("waited").map(span)],
        ),
        cause: format!("{}{others}{}", instead(finding), way(finding)),
        impact: "Whoever writes there sleeps until there is room again, and does nothing else meanwhile.".to_owned(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{awaits, judge, stall, step, window};
    use super::*;
    use crate::words;
    use kerno_model::{AwaitedKind, Stall, StallNeed, StallStep};

    const RULE: &crate::Rule = &StalledPeer::RULE;

    fn full(reader: StallStep) -> Stall {
        let socket = awaits(StallNeed::Room, AwaitedKind::UnixDatagrams, Some("/dev/log"));
        stall(10, "api", 7.0, socket, vec![reader])
    }

    fn asleep() -> StallStep {
        StallStep { call: Some("nanosleep".into()), ..step(20, "rsyslogd", StandingState::Sleeps) }
    }

    #[test]
    fn a_reader_that_does_not_read_is_named() {
        let found = judge(RULE, &window(vec![full(asleep())], Vec::new()));
        let told = words(&found[0]);
        assert_eq!(
            told.title,
            "rsyslogd (20) does not read from the Unix socket /dev/log, and api (10) waits for it: 7 s"
        );
        assert_eq!(told.cause, "It sleeps in nanosleep().");
    }

    #[test]
    fn what_moves_and_what_a_person_reads_is_normal() {
        let silent = |stall: Stall| judge(RULE, &window(vec![stall], Vec::new())).is_empty();
        assert!(silent(Stall { moves: true, ..full(asleep()) }), "a slow stage");
        assert!(silent(full(StallStep { interactive: true, ..asleep() })), "a pager");
        let terminal = |comm: &str| {
            let output = awaits(StallNeed::Room, AwaitedKind::Terminal, Some("/dev/pts/3"));
            stall(10, "journalctl", 7.0, output, vec![step(20, comm, StandingState::Sleeps)])
        };
        assert!(silent(terminal("sshd-session")) && !silent(terminal("python3")), "a person at a terminal");
        assert!(silent(Stall { seconds: 1.0, ..full(asleep()) }));
        let awake = StallStep { still_since_ns: 0, state: StandingState::Runs, ..asleep() };
        assert!(silent(Stall { seconds: 4.5, ..full(awake.clone()) }), "it may come to it");
        assert!(!silent(full(awake)));
        let read = awaits(StallNeed::Data, AwaitedKind::Pipe, None);
        assert!(silent(stall(10, "cat", 7.0, read.clone(), vec![asleep()])), "nobody owes it data");
        let moment = StallStep { still_since_ns: 0, ..step(20, "dd", StandingState::Blocked) };
        assert!(silent(stall(10, "cat", 7.0, read.clone(), vec![moment])), "a read of a disk");
        let stuck = step(20, "dd", StandingState::Blocked);
        assert!(!silent(stall(10, "cat", 7.0, read, vec![stuck])));
    }
}
