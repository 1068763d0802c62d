//! Listeners of Unix sockets that have no room for another client.

use kerno_model::amount::{number, quantity};
use kerno_model::{
    Effect, Fact, Finding, FullListener, Limit, Severity, StallStep, StandingState, Subject, Unit, Window, errno,
};

use super::{MAX_VICTIMS, fixes, who, worst};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Full backlogs of Unix sockets.
    UnixBacklogFull = "unix_backlog_full", "sched_delay", "a Unix socket has no room for more clients",
        "Looks a few times a window at the sockets that listen on paths. One whose queue is full keeps clients waiting, or refuses those \
         that do not want to wait: their connect fails with EAGAIN. A queue that is full at one look only may be a burst, unless \
         connects failed.",
        judge, words;
    causes: [NotAccepted];
    suffers: [
        suffers(Effect::HoldsUp, |ties, a, b| ties.same_process(a, b), "cannot accept while it stands still"),
        suffers(Effect::StandsStill, |ties, a, b| ties.same_process(a, b), "is stuck in the kernel itself"),
        suffers(Effect::CpusTaken, |ties, a, b| ties.waits_for_cpu(a, b), "waits for a CPU, and so accepts too slowly"),
    ];
    thresholds: {
        share: 0.5 Ratio, 0.0 ..= 1.0, "share of the looks at which it was full";
        per_second: 1.0 PerSecond, 0.01 ..= 1e6, "connects per second that fail with EAGAIN; then once full is enough";
        critical_per_second: 20.0 PerSecond, 0.01 ..= 1e6, "connects per second that fail which are critical";
    }
    evidence: {
        queued: "clients waiting in the queue, at most";
        backlog: "backlog: the most that may wait";
        full: "share of the looks at which it was full";
        refused_per_second: "connects per second that failed with EAGAIN";
    }
}

fn judge(window: &Window, rule: &UnixBacklogFull) -> Vec<Finding> {
    let Some(sched) = &window.sched_delay else { return Vec::new() };
    let refused = refused(window);
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    let per_second = refused.iter().map(|(_, _, count)| *count).sum::<u64>() as f64 / window.seconds();
    let mut findings = Vec::new();
    for listener in &sched.full_listeners {
        let share = f64::from(listener.full) / f64::from(listener.looks.max(1));
        // Whose clients they were is not known where there are several.
        let fails = per_second >= rule.per_second && sched.full_listeners.len() == 1;
        if fails || (share >= rule.share && listener.full >= 2) {
            findings.push(finding(window, rule, listener, share, if fails { per_second } else { 0.0 }, &refused));
        }
    }
    worst(findings)
}

/// The processes whose connects failed for want of room: id, name, how often.
fn refused(window: &Window) -> Vec<(u32, &str, u64)> {
    let offenders = window.syscall_latency.iter().flat_map(|calls| &calls.offenders);
    let connects = offenders.filter(|offender| offender.name == "connect");
    let failed = connects.filter_map(|offender| {
        let error = offender.errors.iter().find(|error| error.errno == errno::EAGAIN)?;
        Some((offender.pid, offender.comm.as_str(), error.count))
    });
    failed.collect()
}

fn finding(
    window: &Window,
    rule: &UnixBacklogFull,
    listener: &FullListener,
    share: f64,
    per_second: f64,
    refused: &[(u32, &str, u64)],
) -> Finding {
    // Who has inherited the socket and is a client itself is not the one that accepts.
    let is_client = |pid: u32| refused.iter().any(|(client, ..)| *client == pid);
    let server = listener.holders.iter().find(|holder| !is_client(holder.pid)).or(listener.holders.first());
    let (pid, comm) = server.map_or((0, ""), |server| (server.pid, server.comm.as_str()));
    let subject = if pid == 0 { Subject::default() } else { Subject::process(window, pid, comm) };
    let critical = per_second >= rule.critical_per_second;
    let mut finding = UnixBacklogFull::finding(if critical { Severity::Critical } else { Severity::Warning })
        .about(subject)
        .fact(Fact::AtLimit(Limit::AcceptQueue))
        .measured("queued", f64::from(listener.queued), Unit::Count, None)
        .measured("backlog", f64::from(listener.backlog), Unit::Count, None)
        .measured("full", share, Unit::Ratio, Some(rule.share));
    if !listener.name.is_empty() {
        finding = finding.detail("socket", listener.name.as_str());
    }
    if per_second > 0.0 {
        finding = finding.measured("refused_per_second", per_second, Unit::PerSecond, Some(rule.per_second));
        for (client, comm, _) in refused.iter().filter(|(client, ..)| *client != pid).take(MAX_VICTIMS) {
            finding.victims.push(Subject::process(window, *client, comm));
        }
    }
    finding.excess = (per_second / rule.per_second).max(share / rule.share.max(0.01));
    finding.confidence = 0.9;
    finding = finding.look("ss -xlp", "Recv-Q is the length of the queue, Send-Q the backlog");
    if pid == 0 {
        return finding;
    }
    let root = StallStep { pid, state: StandingState::Sleeps, ..StallStep::default() };
    fixes(finding, window, &root)
}

fn words(finding: &Finding) -> Words {
    let place = finding.text("socket").map_or_else(|| "a Unix socket".to_owned(), str::to_owned);
    let refused = finding.number("refused_per_second");
    let numbers = match (finding.number("queued"), finding.number("backlog")) {
        (Some(queued), Some(backlog)) => Some(format!("{} waiting, backlog {}", number(queued), number(backlog))),
        _ => None,
    };
    let rate = refused.map(|rate| format!("{} refused", quantity(rate, Unit::PerSecond)));
    let impact = match refused {
        Some(_) => "Clients that do not want to wait get EAGAIN from connect, and fail or try again.",
        None => "New clients wait until a place is free, or get EAGAIN from connect.",
    };
    Words {
        title: title(&format!("{} accepts connections at {place} too slowly", who(finding)), [numbers, rate]),
        cause: "The queue of the listening socket is full: all workers are busy or stuck, or too few accept."
            .to_owned(),
        impact: impact.to_owned(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judge, window};
    use super::*;
    use crate::words;
    use kerno_model::{ErrnoCount, ListenerHolder, SyscallOffender, SyscallSummary};

    fn found(full: u32, failed: u64) -> Vec<Finding> {
        let mut window = window(Vec::new(), Vec::new());
        let holder = |pid: u32, comm: &str| ListenerHolder { pid, comm: comm.into() };
        let listener = FullListener {
            name: "/run/php-fpm.sock".into(),
            holders: vec![holder(7, "nginx"), holder(9, "php-fpm")],
            queued: 9,
            backlog: 8,
            full,
            looks: 4,
            ..FullListener::default()
        };
        window.sched_delay.as_mut().unwrap().full_listeners.push(listener);
        let offender = SyscallOffender {
            pid: 7,
            comm: "nginx".into(),
            name: "connect".into(),
            errors: vec![ErrnoCount::new(errno::EAGAIN, failed)],
            ..SyscallOffender::default()
        };
        window.syscall_latency = Some(SyscallSummary { offenders: vec![offender], ..SyscallSummary::default() });
        judge(&UnixBacklogFull::RULE, &window)
    }

    #[test]
    fn the_one_that_should_accept_is_named() {
        let found = found(1, 368);
        let told = words(&found[0]);
        assert_eq!(
            told.title,
            "php-fpm (9) accepts connections at /run/php-fpm.sock too slowly: 9 waiting, backlog 8, 46/s refused"
        );
        assert_eq!((found[0].severity, found[0].victims[0].pid()), (Severity::Critical, Some(7)));
    }

    #[test]
    fn one_burst_is_no_symptom() {
        assert!(found(1, 0).is_empty());
        assert_eq!(found(3, 0)[0].severity, Severity::Warning);
    }
}
