//! Calls that take long.

use kerno_model::amount::{millis as in_words, number};
use kerno_model::{Effect, Fact, Finding, Severity, Subject, SyscallOffender, SyscallSummary, Unit, Window};

use super::{MAX_FINDINGS, by_process, exemplars, float, millis, since, who};
use crate::knowledge::normal;
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Long calls that do not wait by design.
    SyscallLatencyHigh = "syscall_latency_high", "syscall_latency", "a process stalls in system calls that should be quick",
        "Counts the calls of each process that took 10 ms or more and do not wait by design: fsync and the like, reads and writes of \
        files and block devices, opens, path lookups. Calls on sockets, pipes and terminals, sleeps, locks and waits for events never \
        count. Time spent waiting for a CPU is subtracted, since it makes every call long. A process that moves 30 MB/s or more, such \
        as a backup, waits for its own load and is left out, and so is one that the kernel makes wait because it wrote more than the \
        device can write back. This is a symptom: the cause is the device, the file system or another \
        process. Where another finding shows that cause, this one is listed under it.",
        judge, words;
    causes: [];
    suffers: [
        suffers(Effect::StorageFails, |ties, a, b| ties.slow_storage(a, b), "waits for requests that fail"),
        suffers(
            Effect::StorageSlow,
            |ties, a, b| ties.slow_storage(a, b),
            "its file and sync calls wait for the device",
        ),
        suffers(Effect::MemoryShort, |ties, a, b| ties.slow_for_memory(a, b), "its calls wait for memory"),
        suffers(
            Effect::HeldBackByQuota,
            |ties, a, b| ties.in_throttled_cgroup(a, b),
            "held back by the quota of its cgroup in the middle of calls",
        ),
        suffers(Effect::CpusStolen, |ties, a, b| ties.slow_for_cpu(a, b), "its calls wait for a CPU"),
        suffers(Effect::CpusTaken, |ties, a, b| ties.slow_for_cpu(a, b), "its calls wait for a CPU"),
        suffers(
            Effect::NotAccepted,
            |ties, a, b| ties.slow_connect_to_listener(a, b),
            "its connects wait to be accepted",
        ),
        suffers(Effect::ConnectsFail, |ties, a, b| ties.slow_connect(a, b), "its connects wait for an answer"),
        suffers(Effect::HoldsUp, |ties, a, b| ties.held_up(a, b), "the call in which it waits"),
        suffers(Effect::StandsStill, |ties, a, b| ties.same_process(a, b), "the call that it sleeps in"),
    ];
    thresholds: {
        stalled_share: 0.2 Ratio, 0.001 ..= 64.0, "time in slow calls, of all threads together, as a share of the window";
        mean_ms: 50.0 Milliseconds, 10.0 ..= 60_000.0, "average time of a slow call, when most time goes into fsync and the like or writes";
        lookup_mean_ms: 30.0 Milliseconds, 10.0 ..= 60_000.0, "the same for reads, opens and lookups, which are quicker on any healthy disk";
        slow_per_second: 0.2 PerSecond, 0.01 ..= 1_000.0, "slow calls per second";
        min_calls: 3.0 Count, 1.0 ..= 1_000.0, "slow calls needed in the window, so that one hiccup does not count";
        critical_ms: 2_000.0 Milliseconds, 10.0 ..= 600_000.0, "average time of a slow call that is critical";
    }
    evidence: {
        stalled_share: "share of the window in slow calls, without waits for a CPU";
        mean: "average time of a slow call";
        slow_per_second: "slow calls per second";
        longest: "longest call";
        p99_of_all: "99th percentile of this call, all processes";
    }
}

fn judge(window: &Window, rule: &SyscallLatencyHigh) -> Vec<Finding> {
    let Some(summary) = &window.syscall_latency else { return Vec::new() };
    let processes = by_process(summary);
    let mut findings: Vec<_> =
        processes.iter().filter_map(|(pid, calls)| judge_process(window, summary, *pid, calls, rule)).collect();
    findings.sort_by(|a, b| b.excess.total_cmp(&a.excess));
    findings.truncate(MAX_FINDINGS);
    findings
}

fn judge_process(
    window: &Window,
    summary: &SyscallSummary,
    pid: u32,
    calls: &[&SyscallOffender],
    rule: &SyscallLatencyHigh,
) -> Option<Finding> {
    let worst = calls.iter().filter(|call| call.slow > 0).max_by_key(|call| call.slow_total_ns)?;
    let slow = float(calls.iter().map(|call| call.slow).sum());
    let stalled_ns: u64 = calls.iter().map(|call| call.slow_total_ns).sum();
    let waited_ns = window.process(pid).map_or(0, |process| process.used.wait_ns);
    let seconds = window.seconds();
    let stalled_ns = stalled_ns.saturating_sub(waited_ns);
    let share = float(stalled_ns) / 1e9 / seconds;
    let mean_ms = millis(stalled_ns) / slow;
    let per_second = slow / seconds;
    let writes = normal::syncs(&worst.name) || worst.name.contains("write");
    let limit_ms = if writes { rule.mean_ms } else { rule.lookup_mean_ms };
    if slow < rule.min_calls || share < rule.stalled_share || mean_ms < limit_ms || per_second < rule.slow_per_second {
        return None;
    }
    if moves_much(window, pid) || (worst.name.contains("write") && writes_most(window, pid)) {
        return None;
    }
    let severity = if mean_ms >= rule.critical_ms { Severity::Critical } else { Severity::Warning };
    let name = &worst.name;
    let subject = Subject::process(window, pid, window.name_of(pid, &worst.comm));
    let mut finding = SyscallLatencyHigh::finding(severity)
        .about(subject.clone())
        .fact(Fact::Call(name.clone()))
        .measured("stalled_share", share, Unit::Ratio, Some(rule.stalled_share))
        .measured("mean", mean_ms, Unit::Milliseconds, Some(limit_ms))
        .measured("slow_per_second", per_second, Unit::PerSecond, Some(rule.slow_per_second))
        .measured("longest", millis(worst.max_ns), Unit::Milliseconds, None);
    if let Some(p99) = summary.by_name(name).filter_map(|stat| stat.latency.quantile(0.99)).max() {
        finding = finding.measured("p99_of_all", millis(p99), Unit::Milliseconds, None);
    }
    finding.victims = vec![subject];
    finding.exemplars = exemplars(window, worst);
    finding.since = since(window, worst.first_ns);
    finding.excess = (share / rule.stalled_share).min(mean_ms / limit_ms);
    finding.confidence = if normal::syncs(name) { 0.7 } else { 0.8 };
    Some(
        finding
            .look_at_process(
                format!("cat /proc/{pid}/stack /proc/{pid}/io"),
                "where in the kernel it waits now, and how much it read and wrote",
            )
            .look_at_process(
                format!("ls -l /proc/{pid}/fd"),
                "which files it has open, and so which file system may be slow",
            )
            .look_at_process(
                format!("timeout 5 strace -f -T -e trace={name} -p {pid}"),
                "each call with its file and the time it takes",
            )
            .look(
                "cat /proc/pressure/io /proc/diskstats",
                "whether the whole machine waits for storage, and which device is busy",
            ),
    )
}

/// Whoever reads or writes as fast as storage can waits for it, and gets what it can give: backups, copies, checkpoints.
fn moves_much(window: &Window, pid: u32) -> bool {
    /// Bytes a second, read from storage and written: more than what is slow gives.
    const MUCH: f64 = 30e6;
    window.process(pid).is_some_and(|process| {
        float(process.used.read_bytes.saturating_add(process.used.write_bytes)) >= MUCH * window.seconds()
    })
}

/// Whoever writes more than the device can write back is made to wait by the kernel, so that it makes no more memory dirty: it waits for its
/// own load if it made most of that dirty itself.
fn writes_most(window: &Window, pid: u32) -> bool {
    const MOST: f64 = 0.6;
    let Some(disk) = &window.disk_io else { return false };
    let dirtied = |pid: u32| window.process(pid).map_or(0, |process| process.used.write_bytes);
    disk.writers.iter().filter(|writer| writer.pid == pid && writer.held_back > 0).any(|own| {
        // Copies that come one after the other are one load.
        let here = || disk.writers.iter().filter(|writer| writer.dev == own.dev);
        let all: u64 = here().map(|writer| dirtied(writer.pid)).sum();
        let alike: u64 = here().filter(|writer| writer.comm == own.comm).map(|writer| dirtied(writer.pid)).sum();
        let others = here().filter(|writer| writer.comm != own.comm).map(|writer| dirtied(writer.pid)).max();
        float(alike) >= MOST * float(all) && others.is_none_or(|others| dirtied(pid) > others)
    })
}

fn words(finding: &Finding) -> Words {
    let call = finding.calls().next();
    let rate = finding.number("slow_per_second").map(|rate| format!("{} slow calls/s", number(rate)));
    let mean = finding.number("mean").map(|ms| format!("{} on average", in_words(ms)));
    let cause = match call {
        None => "Its calls wait for a device, a file system or a lock in the kernel.".to_owned(),
        Some(call) if normal::syncs(call) => format!(
            "{call} returns when the data is on storage: the device is slow or busy, or the file system waits for its journal."
        ),
        Some(call) if normal::waiting(call) == normal::Waiting::UnlessOnFile => format!(
            "{call} on files waits for the device or the file system, which is slow, busy or limited by a cgroup."
        ),
        Some(call) => {
            format!("{call} does not wait by design: its device, its file system or a lock in the kernel is slow.")
        }
    };
    Words {
        title: title(&format!("{} stalls in {}", who(finding), call.unwrap_or("system calls")), [rate, mean]),
        cause,
        impact: "The threads that make these calls do nothing else meanwhile.".into(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use crate::rules::testing::words_hold;
    use kerno_model::fill;
    use kerno_model::{Process, Span, SyscallExemplar};

    fn observed(name: &str, slow: u64, each_ms: u64, waited_ms: u64) -> Window {
        let offender = SyscallOffender {
            pid: 4711,
            comm: "postgres".into(),
            name: name.into(),
            slow,
            slow_ns: 10_000_000,
            slow_total_ns: slow * each_ms * 1_000_000,
            max_ns: each_ms * 2_000_000,
            first_ns: 4_000_000_000,
            exemplars: vec![SyscallExemplar {
                timestamp_ns: 5_000_000_000,
                tid: 4712,
                latency_ns: 180_000_000,
                ret: -5,
            }],
            ..SyscallOffender::default()
        };
        let mut window = fill!(Window {
            span: fill!(Span { started_ns: 1_000_000_000, seconds: 10.0 }),
            syscall_latency: Some(SyscallSummary { offenders: vec![offender], ..SyscallSummary::default() }),
        });
        let mut process = Process { pid: 4711, ..Process::default() };
        process.used.wait_ns = waited_ms * 1_000_000;
        window.processes.insert(4711, process);
        window
    }

    fn found(window: &Window) -> Vec<Finding> {
        let findings = judge(window, &SyscallLatencyHigh::with(&Thresholds::default()));
        findings.iter().for_each(words_hold);
        findings
    }

    #[test]
    fn slow_syncs_are_found_with_who_and_how_long() {
        let window = observed("fsync", 25, 90, 0);
        let findings = found(&window);
        assert_eq!(findings.len(), 1);
        let finding = &findings[0];
        let words = crate::words(finding);
        assert_eq!(words.title, "postgres (4711) stalls in fsync: 2.5 slow calls/s, 90 ms on average");
        assert_eq!((finding.severity, finding.subject.pid()), (Severity::Warning, Some(4711)));
        assert_eq!(finding.since, Some(window.moment(3.0)));
        assert!(words.cause.contains("on storage"));
        assert_eq!(finding.calls().collect::<Vec<_>>(), ["fsync"]);
        assert_eq!(finding.exemplars[0].what, "fsync of thread 4712 took 180 ms and failed with EIO");
        assert_eq!(finding.exemplars[0].at, window.moment(4.0));
        assert!((finding.excess - 1.125).abs() < 1e-9 || (finding.excess - 1.8).abs() < 1e-9, "{}", finding.excess);
        assert!(finding.fixes.iter().any(|fix| fix.command.contains("trace=fsync -p 4711")));
        assert_eq!(found(&observed("read", 3, 3000, 0))[0].severity, Severity::Critical);
    }

    #[test]
    fn below_any_threshold_nothing_is_found() {
        assert!(found(&observed("fsync", 0, 0, 0)).is_empty());
        assert!(found(&observed("fsync", 2, 5000, 0)).is_empty(), "too few");
        assert!(found(&observed("fsync", 200, 40, 0)).is_empty(), "an old disk in good order");
        assert!(found(&observed("pwrite64", 200, 40, 0)).is_empty(), "a writer that is held back");
        assert!(found(&observed("pread64", 200, 20, 0)).is_empty(), "a disk that turns");
        assert_eq!(found(&observed("pread64", 200, 40, 0)).len(), 1, "no disk in good order");
        assert!(found(&observed("fsync", 15, 100, 0)).is_empty(), "a small share of the time");
        assert!(found(&Window::default()).is_empty());
    }

    #[test]
    fn waits_for_a_cpu_are_not_the_calls_own() {
        assert_eq!(found(&observed("openat", 40, 100, 0)).len(), 1);
        assert!(found(&observed("openat", 40, 100, 3000)).is_empty());
    }

    #[test]
    fn a_backup_waits_for_its_own_load() {
        let mut backup = observed("write", 40, 200, 0);
        backup.processes.get_mut(&4711).unwrap().used.write_bytes = 800_000_000;
        assert!(found(&backup).is_empty());
        backup.processes.get_mut(&4711).unwrap().used.write_bytes = 8_000_000;
        assert_eq!(found(&backup).len(), 1);
    }
}
