//! File descriptors that leak or run out.

use kerno_model::errno;
use std::collections::BTreeMap;

use crate::growth::{Growth, steady_growth};
use crate::shell::{is_service, word};
use crate::{Culprit, Eta, Finding, Severity, Unit, rule};
use kerno_model::amount::{count, seconds, share};
use kerno_model::{DescriptorKind, FdKind, FdProcess};
use kerno_model::{ErrnoCount, Window};

/// In windows longer than this a slower leak is believed.
const SHORT_SECONDS: f64 = 30.0;
/// Growth by a smaller share of what is open is no leak.
const MATTERS: f64 = 0.02;

/// A program has started up after so long, and needs less of its limit for it.
const START_SECONDS: f64 = 10.0;
const START_SHARE: f64 = 0.5;

rule! {
    /// A process that opens and does not close.
    FdLeak = "fd_leak", "fd_track", "a process's open descriptors keep growing",
        "The number of open descriptors of each process is exact, from the kernel's own bitmap. A leak is a number that grows \
         along a line to the window's end: a server whose connections rise and settle, a build, a burst are not, nor are a few more of very many. What grows is \
         found by looking at the descriptors when the growth begins and again at the end.",
        fd_leak;
    min_growth: 20.0 Count, 1.0 ..= 1e9, "net new descriptors in the window";
    min_per_second: 1.0 PerSecond, 0.001 ..= 1e9, "new descriptors a second; in windows longer than 30 seconds less, in proportion";
    min_fit: 0.9 Ratio, 0.0 ..= 1.0, "how well a straight line must fit (R squared)";
    critical_seconds: 600.0 Seconds, 0.0 ..= 1e9, "critical when the process's own limit will be reached sooner than this";
}

rule! {
    /// No descriptors left, or nearly.
    FdExhaustion = "fd_exhaustion", "fd_track", "a process or the machine runs out of descriptors",
        "A process near its own limit (RLIMIT_NOFILE), one whose calls fail with EMFILE, or a machine near fs.file-max or failing \
         with ENFILE. Limits below min_limit are left out unless calls fail: some programs lower their limit on purpose so that \
         they can open nothing any more.",
        fd_exhaustion;
    used: 0.9 Ratio, 0.1 ..= 1.0, "open descriptors as a share of the process's soft limit";
    min_limit: 64.0 Count, 0.0 ..= 1e9, "soft limits below this are taken to be on purpose";
    min_failures: 1.0 Count, 1.0 ..= 1e9, "calls of one process that failed with EMFILE or ENFILE";
    system_used: 0.9 Ratio, 0.1 ..= 1.0, "open files of the machine as a share of fs.file-max";
}

fn fd_leak(window: &Window, rule: &FdLeak) -> Vec<Finding> {
    let processes = window.fd_track.iter().flat_map(|part| &part.processes);
    processes
        .filter_map(|process| {
            let growth = steady_growth(&process.open, rule.min_fit)?;
            // The longer it was seen to go on, the slower a leak may be.
            let per_second = rule.min_per_second * (SHORT_SECONDS / window.seconds()).min(1.0);
            // Of a server with very many connections some more are no leak, unless they lead to the limit soon.
            #[allow(clippy::cast_precision_loss, reason = "a limit")]
            let matters = growth.net >= MATTERS * growth.last
                || growth.seconds_until(process.soft_limit as f64) <= rule.critical_seconds;
            let enough = growth.net >= rule.min_growth && growth.per_second >= per_second && matters;
            let enough = enough && !starts_up(window, process);
            enough.then(|| leak(window, rule, process, &growth))
        })
        .collect()
}

/// It began in this window, and what it has opened so far may be all that it needs.
fn starts_up(window: &Window, process: &FdProcess) -> bool {
    let began = window.process(process.pid).map_or(0, |process| process.started_ns);
    let seen =
        process.open.points().last().zip(process.open.points().first()).map_or(0.0, |(last, first)| last.0 - first.0);
    began > window.span.started_ns && seen < START_SECONDS && process.share() < START_SHARE
}

/// What a process leaks, in the plural, and what of it.
struct Leaked<'a> {
    what: String,
    kind: Option<&'a FdKind>,
    duplicates: bool,
}

impl<'a> Leaked<'a> {
    fn of(process: &'a FdProcess) -> Self {
        let kind = process.kinds.first().filter(|kind| kind.growth > 0);
        let Some(kind) = kind else { return Self { what: "descriptors".into(), kind: None, duplicates: false } };
        let duplicates = kind.duplicated >= 0.5;
        let plural = plural(&kind.kind);
        let what = match kind.examples.first() {
            Some(example) if duplicates && kind.kind == DescriptorKind::File => format!("duplicates of {example}"),
            Some(example) if duplicates && example.contains(":[") && !example.starts_with("anon_inode") => {
                format!("duplicates of one {} ({example})", kind.kind)
            }
            _ if duplicates => format!("duplicated {plural}"),
            _ => plural,
        };
        Self { what, kind: Some(kind), duplicates }
    }
}

fn plural(kind: &DescriptorKind) -> String {
    match kind.name() {
        "epoll" => "epoll descriptors".into(),
        "inotify" => "inotify descriptors".into(),
        "timerfd" | "signalfd" | "eventfd" | "memfd" | "pidfd" => format!("{kind}s"),
        "device" | "file" | "pipe" | "socket" | "namespace" => format!("{kind}s"),
        other => format!("{other} descriptors"),
    }
}

#[allow(clippy::cast_precision_loss, reason = "numbers of descriptors")]
fn leak(window: &Window, rule: &FdLeak, process: &FdProcess, growth: &Growth) -> Finding {
    let FdProcess { pid, comm, .. } = process;
    let leaked = Leaked::of(process);
    let limit = process.soft_limit as f64;
    let left = growth.seconds_until(limit);
    let severity = if left <= rule.critical_seconds { Severity::Critical } else { Severity::Warning };
    let pace = count(growth.per_second);
    let title = if left > 0.0 {
        format!("{comm} ({pid}) leaks {}: {pace} a second, limit of {} in {}", leaked.what, count(limit), seconds(left))
    } else {
        format!("{comm} ({pid}) leaks {}: {pace} a second, limit of {} reached", leaked.what, count(limit))
    };
    let mut finding = FdLeak::finding(severity, title);
    let example = leaked.kind.and_then(|kind| kind.examples.first());
    finding.cause = match (&leaked.kind, example) {
        (Some(_), _) if leaked.duplicates => {
            "It duplicates a descriptor (dup, fcntl, a received message) again and again and \
            closes none of the copies."
                .to_owned()
        }
        (Some(kind), Some(example)) if kind.kind == DescriptorKind::File => {
            format!("It opens files, such as {example}, and does not close them.")
        }
        (Some(kind), Some(example)) => {
            format!("It makes new {} (the latest is {example}) and does not close them.", plural(&kind.kind))
        }
        _ => "It opens descriptors and does not close them.".to_owned(),
    };
    finding.impact = format!(
        "At {} open descriptors each further open, socket, accept or pipe of this process fails with EMFILE.",
        count(limit)
    );
    finding = finding
        .measured("new descriptors a second", growth.per_second, Unit::PerSecond, Some(rule.min_per_second))
        .measured("net new descriptors since the growth began", growth.net, Unit::Count, Some(rule.min_growth))
        .measured("how well a straight line fits the growth (R squared)", growth.fit, Unit::Ratio, Some(rule.min_fit))
        .measured("open descriptors at the window's end", growth.last, Unit::Count, None)
        .measured("the process's own limit (RLIMIT_NOFILE, soft)", limit, Unit::Count, None);
    for kind in process.kinds.iter().filter(|kind| kind.growth > 0).take(3) {
        let what = format!("of the new ones looked at, {}", plural(&kind.kind));
        finding = finding.measured(what, kind.growth as f64, Unit::Count, None);
    }
    finding.culprit = Culprit::process(window, *pid, comm);
    finding.since = growth.since;
    finding.eta = Some(Eta {
        seconds: left,
        what: format!("{comm} ({pid}) reaches its limit of {} descriptors", count(limit)),
        fit: growth.fit,
    });
    finding.excess = growth.net / rule.min_growth;
    // A longer look and a straighter line say more.
    let all_of_one_kind = leaked.kind.is_some_and(|kind| kind.growth as f64 >= 0.3 * growth.net);
    finding.confidence = (0.6 + 0.25 * growth.fit + if all_of_one_kind { 0.1 } else { 0.0 }).min(0.95);
    advise(finding, process, &leaked)
}

fn advise(mut finding: Finding, process: &FdProcess, leaked: &Leaked<'_>) -> Finding {
    let pid = process.pid;
    finding = finding.look(
        format!("ls -l /proc/{pid}/fd | sed 's/.* -> //; s/\\[[0-9]*\\]//' | sort | uniq -c | sort -rn | head"),
        "which targets there are most of",
    );
    finding = match leaked.kind.map(|kind| &kind.kind) {
        Some(DescriptorKind::Socket) => finding
            .look(format!("lsof -nP -a -p {pid} -i"), "whom the sockets are connected to, and in which state")
            .look(
                format!("ss -tnp state close-wait | grep pid={pid},"),
                "connections that the other side has closed and this process has not",
            ),
        _ => finding.look(format!("lsof -nP -p {pid}"), "each descriptor with its file"),
    };
    raise_limit(finding, process, "buys time; the leak itself is a bug in the program")
}

/// The command that raises a process's limit, as far as it may without privileges.
fn raise_limit(mut finding: Finding, process: &FdProcess, why: &str) -> Finding {
    /// The least that fs.nr_open is anywhere: nobody may have a higher limit than that, not even root.
    const NR_OPEN: u64 = 1 << 20;
    let soft = process.soft_limit.saturating_mul(4).max(1024).min(process.hard_limit.max(NR_OPEN));
    let hard = soft.max(process.hard_limit);
    if soft <= process.soft_limit {
        return finding
            .look("sysctl fs.nr_open", "the highest limit that any process may have: this one's is no lower");
    }
    finding = finding.change(format!("prlimit --pid {} --nofile={soft}:{hard}", process.pid), why);
    // What is no service has no such setting.
    if let Some(unit) = finding.culprit.unit.clone().filter(|unit| is_service(unit)) {
        finding = finding.change(
            format!("systemctl edit {}   # [Service] LimitNOFILE={soft}", word(&unit)),
            "raises the limit for good, from the next start on",
        );
    }
    finding
}

/// How often each process's calls failed with EMFILE and with ENFILE, by whichever signal saw more: an open that fails is seen by two.
fn failures(window: &Window) -> BTreeMap<u32, (String, u64, u64)> {
    let count = |errors: &[ErrnoCount], errno: i32| -> u64 {
        errors.iter().filter(|error| error.errno == errno).map(|error| error.count).sum()
    };
    let pair = |errors: &[ErrnoCount]| (count(errors, errno::EMFILE), count(errors, errno::ENFILE));
    let mut found = BTreeMap::<u32, (String, u64, u64)>::new();
    // For these the error has to do with a limit of their own (fs.inotify.max_user_instances and the like).
    let own_limit =
        |name: &str| matches!(name, "inotify_init" | "inotify_init1" | "fanotify_init" | "mount" | "userfaultfd");
    let offenders = window.syscall_latency.iter().flat_map(|part| &part.offenders);
    for offender in offenders.filter(|offender| !own_limit(&offender.name)) {
        let (process, system) = pair(&offender.errors);
        let entry = found.entry(offender.pid).or_insert_with(|| (offender.comm.clone(), 0, 0));
        entry.1 += process;
        entry.2 += system;
    }
    for opener in window.file_audit.iter().flat_map(|part| &part.processes) {
        let (process, system) = pair(&opener.errors);
        let entry = found.entry(opener.pid).or_insert_with(|| (opener.comm.clone(), 0, 0));
        entry.1 = entry.1.max(process);
        entry.2 = entry.2.max(system);
    }
    found
}

#[allow(clippy::cast_precision_loss, reason = "numbers of descriptors")]
fn fd_exhaustion(window: &Window, rule: &FdExhaustion) -> Vec<Finding> {
    let failures = failures(window);
    let mut findings = Vec::new();
    let known = window.fd_track.iter().flat_map(|part| &part.processes);
    let mut seen = std::collections::BTreeSet::new();
    for process in known {
        seen.insert(process.pid);
        let failed = failures.get(&process.pid).map_or(0, |failures| failures.1) as f64;
        let near = process.share() >= rule.used && process.soft_limit as f64 >= rule.min_limit;
        if near || failed >= rule.min_failures {
            findings.push(process_exhausted(window, rule, process, failed));
        }
    }
    // Those that failed and are gone, or have few descriptors of their own by now.
    for (pid, (comm, failed, _)) in failures.iter().filter(|(pid, _)| !seen.contains(pid)) {
        if *failed as f64 >= rule.min_failures {
            let process = FdProcess { pid: *pid, comm: comm.clone(), ..FdProcess::default() };
            findings.push(process_exhausted(window, rule, &process, *failed as f64));
        }
    }
    findings.extend(machine_exhausted(window, rule, &failures));
    findings
}

#[allow(clippy::cast_precision_loss, reason = "numbers of descriptors")]
fn process_exhausted(window: &Window, rule: &FdExhaustion, process: &FdProcess, failed: f64) -> Finding {
    let FdProcess { pid, comm, .. } = process;
    let (open, limit) = (process.open.last().unwrap_or(0.0), process.soft_limit as f64);
    let of_limit = format!("{} of {} descriptors open", count(open), count(limit));
    let known = process.soft_limit > 0;
    let title = match (failed > 0.0, known) {
        (true, true) => format!("{comm} ({pid}) is out of descriptors: {} calls failed, {of_limit}", count(failed)),
        (true, false) => format!("{comm} ({pid}) was out of descriptors: {} calls failed with EMFILE", count(failed)),
        (false, _) => format!("{comm} ({pid}) is near its limit: {of_limit}"),
    };
    let mut finding = FdExhaustion::finding(if failed > 0.0 { Severity::Critical } else { Severity::Warning }, title);
    finding.cause =
        "The process has as many descriptors open as its own limit (RLIMIT_NOFILE) allows, or nearly: it needs more \
        than it may have, or it does not close what it no longer needs."
            .into();
    finding.impact = if failed > 0.0 {
        "Its calls fail with EMFILE: it can accept no connection and open no file.".into()
    } else {
        "At the limit it can accept no connection and open no file.".into()
    };
    if failed > 0.0 {
        finding = finding.measured("calls that failed with EMFILE", failed, Unit::Count, Some(rule.min_failures));
    }
    finding.culprit = Culprit::process(window, *pid, comm);
    finding.excess = if failed > 0.0 { (failed / rule.min_failures).max(1.0) } else { process.share() / rule.used };
    finding.confidence = if failed > 0.0 { 0.95 } else { 0.85 };
    if known {
        finding = finding
            .measured("share of its limit in use", process.share(), Unit::Ratio, Some(rule.used))
            .measured("open descriptors", open, Unit::Count, None)
            .measured("the process's own limit (RLIMIT_NOFILE, soft)", limit, Unit::Count, None)
            .measured("how far it may raise that itself (hard)", process.hard_limit as f64, Unit::Count, None);
        finding.since = process.open.since_at_least(rule.used * limit).filter(|since| *since > 0.0);
        finding = finding
            .look(
                format!("ls /proc/{pid}/fd | wc -l; grep 'open files' /proc/{pid}/limits"),
                "how many, and how many may be",
            )
            .look(
                format!("ls -l /proc/{pid}/fd | sed 's/.* -> //; s/\\[[0-9]*\\]//' | sort | uniq -c | sort -rn | head"),
                "what they are",
            );
        finding = raise_limit(finding, process, "lets it open more at once");
    } else {
        finding = finding.look(format!("grep 'open files' /proc/{pid}/limits"), "its limit, while it still runs");
    }
    finding
}

#[allow(clippy::cast_precision_loss, reason = "numbers of descriptors")]
fn machine_exhausted(
    window: &Window,
    rule: &FdExhaustion,
    failures: &BTreeMap<u32, (String, u64, u64)>,
) -> Option<Finding> {
    let part = window.fd_track.as_ref()?;
    let (files, max) = (part.files.last().unwrap_or(0.0), part.files_max as f64);
    let failed = failures.values().map(|failures| failures.2).sum::<u64>() as f64;
    let used = if max > 0.0 { files / max } else { 0.0 };
    if failed < rule.min_failures && used < rule.system_used {
        return None;
    }
    let most =
        part.processes.iter().max_by(|a, b| a.open.last().unwrap_or(0.0).total_cmp(&b.open.last().unwrap_or(0.0)));
    let by = most.map_or_else(String::new, |process| {
        format!("; {} ({}) has most, {}", process.comm, process.pid, count(process.open.last().unwrap_or(0.0)))
    });
    let title = format!("the machine has {} of {} files open ({}){by}", count(files), count(max), share(used));
    let mut finding = FdExhaustion::finding(Severity::Critical, title);
    finding.cause = "All processes together have as many files open as fs.file-max allows, or nearly.".into();
    finding.impact = "At the limit no process without CAP_SYS_ADMIN can open anything: calls fail with ENFILE.".into();
    finding = finding
        .measured("share of fs.file-max in use", used, Unit::Ratio, Some(rule.system_used))
        .measured("files open in the machine", files, Unit::Count, None)
        .measured("fs.file-max", max, Unit::Count, None);
    if failed > 0.0 {
        finding = finding.measured("calls that failed with ENFILE", failed, Unit::Count, Some(rule.min_failures));
    }
    finding.culprit = most.map(|process| Culprit::process(window, process.pid, &process.comm)).unwrap_or_default();
    finding.victims = failures
        .iter()
        .filter(|(_, failures)| failures.2 > 0)
        .take(10)
        .map(|(pid, failures)| Culprit::process(window, *pid, &failures.0))
        .collect();
    finding.since = part.files.since_at_least(rule.system_used * max).filter(|since| *since > 0.0);
    finding.excess = (used / rule.system_used).max(failed / rule.min_failures);
    finding = finding.look("cat /proc/sys/fs/file-nr", "files open, and how many may be");
    if let Some(process) = most {
        finding = finding.look(format!("lsof -nP -p {}", process.pid), "what the process with most has open");
    }
    Some(finding.change(format!("sysctl -w fs.file-max={}", part.files_max.saturating_mul(2)), "allows twice as many"))
}

#[cfg(test)]
mod tests;
