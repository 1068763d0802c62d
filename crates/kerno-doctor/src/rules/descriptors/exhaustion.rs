use std::collections::{BTreeMap, BTreeSet};

use kerno_model::amount::{number, share};
use kerno_model::errno;
use kerno_model::{Effect, ErrnoCount, Fact, FdProcess, Finding, Limit, Scope, Severity, Subject, Unit, Window};

use super::{count_targets, holder, raise_limit};
use crate::title::title;
use crate::{Words, rule, suffers};

/// The variant of findings about one process's own limit.
const PROCESS: &str = "process";
/// The variant of findings about the machine's limit.
const MACHINE: &str = "machine";
/// How many are named whose calls failed because the machine was out of open files.
const MAX_VICTIMS: usize = 10;

rule! {
    /// No file descriptors left, or nearly.
    FdExhaustion = "fd_exhaustion", "fd_track", "a process or the machine runs out of file descriptors",
        "Finds a process near its own limit (RLIMIT_NOFILE), a process whose calls fail with EMFILE, and a machine near fs.file-max or \
         with calls that fail with ENFILE. Limits below min_limit do not count unless calls fail: some programs lower their limit on \
         purpose, so that they cannot open anything any more.",
        judge, words;
    causes: [NoDescriptors];
    suffers: [suffers(Effect::DescriptorsFill, |t, a, b| t.leaks_to_limit(a, b), "the leak fills the table of file descriptors")];
    thresholds: {
        used: 0.9 Ratio, 0.1 ..= 1.0, "open file descriptors as a share of the process's soft limit";
        min_limit: 64.0 Count, 0.0 ..= 1e9, "soft limits below this are taken to be low on purpose";
        min_failures: 1.0 Count, 1.0 ..= 1e9, "calls of one process that failed with EMFILE or ENFILE";
        system_used: 0.9 Ratio, 0.1 ..= 1.0, "open files of the machine as a share of fs.file-max";
    }
    evidence: {
        emfile: "calls that failed with EMFILE";
        used: "share of the soft limit in use";
        open: "open file descriptors";
        soft_limit: "soft limit of the process (RLIMIT_NOFILE)";
        hard_limit: "hard limit, up to which the process may raise the soft limit";
        enfile: "calls that failed with ENFILE";
        system_used: "share of fs.file-max in use";
        files: "open files of the machine";
        files_max: "limit of the machine (fs.file-max)";
    }
}

#[allow(clippy::cast_precision_loss, reason = "numbers of file descriptors")]
fn judge(window: &Window, rule: &FdExhaustion) -> Vec<Finding> {
    let failures = failures(window);
    let mut findings = Vec::new();
    let known = window.fd_track.iter().flat_map(|part| &part.processes);
    let mut seen = BTreeSet::new();
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

/// How often each process's calls failed with EMFILE and with ENFILE, by whichever signal saw more: an open that fails is seen by two.
fn failures(window: &Window) -> BTreeMap<u32, (String, u64, u64)> {
    let count = |errors: &[ErrnoCount], errno: i32| -> u64 {
        errors.iter().filter(|error| error.errno == errno).map(|error| error.count).sum()
    };
    let pair = |errors: &[ErrnoCount]| (count(errors, errno::EMFILE), count(errors, errno::ENFILE));
    let mut found = BTreeMap::<u32, (String, u64, u64)>::new();
    // For these the error has to do with a limit of their own (fs.inotify.max_user_instances and the like).
    let own_limit = |name: &str| {
        matches!(name, "inotify_init" | "inotify_init1" | "fanotify_init" | "mq_open" | "mount" | "userfaultfd")
    };
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

#[allow(clippy::cast_precision_loss, reason = "numbers of file descriptors")]
fn process_exhausted(window: &Window, rule: &FdExhaustion, process: &FdProcess, failed: f64) -> Finding {
    let pid = process.pid;
    let (open, limit) = (process.open.last().unwrap_or(0.0), process.soft_limit as f64);
    let mut finding = FdExhaustion::finding(if failed > 0.0 { Severity::Critical } else { Severity::Warning })
        .variant(PROCESS)
        .about(Subject::process(window, pid, &process.comm))
        .fact(Fact::Scope(Scope::Process))
        .fact(Fact::AtLimit(Limit::Descriptors));
    if failed > 0.0 {
        finding =
            finding.fact(Fact::Errno(errno::EMFILE)).measured("emfile", failed, Unit::Count, Some(rule.min_failures));
    }
    finding.excess = if failed > 0.0 { (failed / rule.min_failures).max(1.0) } else { process.share() / rule.used };
    finding.confidence = if failed > 0.0 { 0.95 } else { 0.85 };
    // Of one that has ended, no more is known than that its calls failed.
    if process.soft_limit == 0 {
        return finding
            .look_at_process(format!("grep 'open files' /proc/{pid}/limits"), "shows its limit, while it still runs");
    }
    finding = finding
        .measured("used", process.share(), Unit::Ratio, Some(rule.used))
        .measured("open", open, Unit::Count, None)
        .measured("soft_limit", limit, Unit::Count, None)
        .measured("hard_limit", process.hard_limit as f64, Unit::Count, None);
    let since = process.open.since_at_least(rule.used * limit).filter(|since| *since > 0.0);
    finding.since = since.map(|since| window.moment(since));
    finding = finding
        .look_at_process(
            format!("ls /proc/{pid}/fd | wc -l; grep 'open files' /proc/{pid}/limits"),
            "shows how many are open, and its limits",
        )
        .look_at_process(count_targets(pid), "shows what they refer to");
    raise_limit(finding, process, "lets it open more at once")
}

#[allow(clippy::cast_precision_loss, reason = "numbers of file descriptors")]
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
    let open = |process: &FdProcess| process.open.last().unwrap_or(0.0);
    let most = part.processes.iter().max_by(|a, b| open(a).total_cmp(&open(b)));
    let mut finding = FdExhaustion::finding(Severity::Critical)
        .variant(MACHINE)
        .about(most.map(|process| Subject::process(window, process.pid, &process.comm)).unwrap_or_default())
        .fact(Fact::Scope(Scope::Machine))
        .fact(Fact::AtLimit(Limit::OpenFiles))
        .measured("system_used", used, Unit::Ratio, Some(rule.system_used))
        .measured("files", files, Unit::Count, None)
        .measured("files_max", max, Unit::Count, None);
    if failed > 0.0 {
        finding =
            finding.fact(Fact::Errno(errno::ENFILE)).measured("enfile", failed, Unit::Count, Some(rule.min_failures));
    }
    let failing = failures.iter().filter(|(_, failures)| failures.2 > 0).take(MAX_VICTIMS);
    finding.victims = failing.map(|(pid, failures)| Subject::process(window, *pid, &failures.0)).collect();
    let since = part.files.since_at_least(rule.system_used * max).filter(|since| *since > 0.0);
    finding.since = since.map(|since| window.moment(since));
    finding.excess = (used / rule.system_used).max(failed / rule.min_failures);
    finding = finding.look("cat /proc/sys/fs/file-nr", "shows how many files are open, and how many may be");
    if let Some(process) = most {
        finding = finding
            .detail("most_open", (open(process), Unit::Count))
            .look_at_process(format!("lsof -nP -p {}", process.pid), "shows what the process with the most has open");
    }
    Some(finding.change(format!("sysctl -w fs.file-max={}", part.files_max.saturating_mul(2)), "allows twice as many"))
}

fn words(finding: &Finding) -> Words {
    if finding.variant == MACHINE { words_of_machine(finding) } else { words_of_process(finding) }
}

/// `OPEN of LIMIT open`, as far as it is known.
fn of_limit(finding: &Finding, open: &str, limit: &str) -> Option<String> {
    let open = finding.number(open).map(number)?;
    Some(match finding.number(limit).filter(|limit| *limit > 0.0) {
        Some(limit) => format!("{open} of {} open", number(limit)),
        None => format!("{open} open"),
    })
}

fn words_of_process(finding: &Finding) -> Words {
    let who = holder(finding);
    let of_limit = of_limit(finding, "open", "soft_limit");
    let failed = finding.number("emfile");
    let fails = failed.is_some() || finding.errnos().any(|errno| errno == errno::EMFILE);
    let what = if fails {
        format!("{who} ran out of file descriptors")
    } else {
        format!("{who} is about to run out of file descriptors")
    };
    let failed = failed.map(|failed| format!("{} calls failed with EMFILE", number(failed)));
    let impact = if fails {
        "Its calls fail with EMFILE: it cannot accept connections or open files."
    } else {
        "At the limit it cannot accept connections or open files."
    };
    Words {
        title: title(&what, [failed, of_limit]),
        cause: "The process has about as many file descriptors open as its own limit (RLIMIT_NOFILE) allows. It \
                needs more than that, or it does not close those that it no longer needs."
            .to_owned(),
        impact: impact.to_owned(),
        outlook: String::new(),
    }
}

fn words_of_machine(finding: &Finding) -> Words {
    let failed = finding.number("enfile");
    let fails = failed.is_some() || finding.errnos().any(|errno| errno == errno::ENFILE);
    let what = if fails {
        "the machine reached its limit of open files"
    } else {
        "the machine is near its limit of open files"
    };
    let failed = failed.map(|failed| format!("{} calls failed with ENFILE", number(failed)));
    let open = of_limit(finding, "files", "files_max");
    let open = open.map(|open| match finding.number("system_used").filter(|used| *used > 0.0) {
        Some(used) => format!("{open} ({})", share(used)),
        None => open,
    });
    let most = finding.subject.process.as_ref().map(|process| match finding.number("most_open") {
        Some(most) => format!("; {process} has the most, {}", number(most)),
        None => format!("; {process} has the most"),
    });
    Words {
        title: title(what, [failed, open]) + &most.unwrap_or_default(),
        cause: "All processes together have about as many files open as fs.file-max allows.".to_owned(),
        impact: "At the limit no process without CAP_SYS_ADMIN can open anything: calls fail with ENFILE.".to_owned(),
        outlook: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use crate::rules::descriptors::sample::{observed, process};
    use crate::rules::testing::words_hold;
    use kerno_model::fill;
    use kerno_model::{Entity, FileProcess, FileSummary, SyscallOffender, SyscallSummary};

    fn exhausted(window: &Window) -> Vec<Finding> {
        judge(window, &FdExhaustion::with(&Thresholds::default()))
    }

    fn failed(errno: i32, count: u64) -> Option<SyscallSummary> {
        let errors = vec![ErrnoCount::new(errno, count)];
        let offender = SyscallOffender { pid: 4711, comm: "postgres".into(), errors, ..SyscallOffender::default() };
        Some(SyscallSummary { offenders: vec![offender], ..SyscallSummary::default() })
    }

    fn title(finding: &Finding) -> String {
        crate::words(finding).title
    }

    #[test]
    fn near_the_limit_is_a_warning_and_failing_is_critical() {
        let below = observed(vec![process(|_| 900.0)]);
        assert!(exhausted(&below).is_empty());
        let near = observed(vec![process(|_| 922.0)]);
        let [finding] = &exhausted(&near)[..] else { panic!("one finding") };
        assert_eq!(title(finding), "postgres (4711) is about to run out of file descriptors: 922 of 1,024 open");
        assert_eq!(finding.severity, Severity::Warning);
        let failing =
            fill!(Window { syscall_latency: failed(errno::EMFILE, 37), ..observed(vec![process(|_| 1024.0)]) });
        let [finding] = &exhausted(&failing)[..] else { panic!("one finding") };
        assert_eq!(
            title(finding),
            "postgres (4711) ran out of file descriptors: 37 calls failed with EMFILE, 1,024 of 1,024 open"
        );
        assert_eq!((finding.severity, finding.pid()), (Severity::Critical, Some(4711)));
        assert!(finding.is_at(Limit::Descriptors) && finding.errnos().eq([errno::EMFILE]));
    }

    #[test]
    fn a_limit_lowered_on_purpose_is_none() {
        let mut sandboxed = process(|_| 5.0);
        sandboxed.soft_limit = 0;
        assert!(exhausted(&observed(vec![sandboxed])).is_empty());
    }

    #[test]
    fn failures_are_not_counted_twice_and_need_no_descriptors() {
        let opener = FileProcess {
            pid: 4711,
            comm: "postgres".into(),
            errors: vec![ErrnoCount::new(errno::EMFILE, 40)],
            ..FileProcess::default()
        };
        let file_audit = Some(FileSummary { processes: vec![opener], ..FileSummary::default() });
        let gone = fill!(Window { syscall_latency: failed(errno::EMFILE, 37), file_audit, ..observed(Vec::new()) });
        let [finding] = &exhausted(&gone)[..] else { panic!("one finding") };
        assert_eq!(title(finding), "postgres (4711) ran out of file descriptors: 40 calls failed with EMFILE");
        let other = fill!(Window { syscall_latency: failed(errno::EACCES, 37), ..observed(Vec::new()) });
        assert!(exhausted(&other).is_empty());
    }

    #[test]
    fn the_machine_itself_can_run_out() {
        let mut full = observed(vec![process(|_| 800.0)]);
        full.fd_track.as_mut().unwrap().files = [(0.0, 95_000.0)].into_iter().collect();
        let [finding] = &exhausted(&full)[..] else { panic!("one finding") };
        assert_eq!(
            title(finding),
            "the machine is near its limit of open files: 95,000 of 100,000 open (95 %); postgres (4711) has the most, 800"
        );
        assert_eq!((finding.scope(), finding.is_at(Limit::OpenFiles)), (Some(&Scope::Machine), true));
        let failing = fill!(Window { syscall_latency: failed(errno::ENFILE, 2), ..observed(Vec::new()) });
        let [finding] = &exhausted(&failing)[..] else { panic!("one finding") };
        assert_eq!(finding.victims[0].pid(), Some(4711));
    }

    #[test]
    fn limits_are_raised_no_further_than_the_kernel_lets() {
        let prlimit = |soft, hard| {
            let full = FdProcess { soft_limit: soft, hard_limit: hard, ..process(|_| 1e9) };
            let findings = exhausted(&observed(vec![full]));
            findings[0].fixes.iter().find(|fix| fix.command.starts_with("prlimit")).map(|fix| fix.command.clone())
        };
        assert_eq!(prlimit(1024, 4096).unwrap(), "prlimit --pid 4711 --nofile=4096:4096");
        assert_eq!(prlimit(524_288, 524_288).unwrap(), "prlimit --pid 4711 --nofile=1048576:1048576");
        assert_eq!(prlimit(1 << 20, 1 << 20), None);
    }

    #[test]
    fn inotify_instances_are_no_descriptors() {
        let mut calls = failed(errno::EMFILE, 37);
        calls.as_mut().unwrap().offenders[0].name = "inotify_init1".into();
        assert!(exhausted(&fill!(Window { syscall_latency: calls, ..observed(Vec::new()) })).is_empty());
    }

    #[test]
    fn commands_for_the_process_act_on_it() {
        let mut full = observed(vec![process(|_| 1000.0)]);
        full.fd_track.as_mut().unwrap().files = [(0.0, 95_000.0)].into_iter().collect();
        let findings = exhausted(&full);
        assert_eq!(findings.len(), 2);
        for fix in findings.iter().flat_map(|finding| &finding.fixes) {
            let of_process = matches!(&fix.acts_on, Entity::Process(id) if id.pid == 4711);
            assert_eq!(of_process, fix.command.contains("4711"), "{fix:?}");
        }
    }

    #[test]
    fn words_are_of_the_finding_alone() {
        let mut machine = observed(vec![process(|_| 800.0)]);
        machine.fd_track.as_mut().unwrap().files = [(0.0, 95_000.0)].into_iter().collect();
        let windows = [
            observed(vec![process(|_| 922.0)]),
            fill!(Window { syscall_latency: failed(errno::EMFILE, 37), ..observed(vec![process(|_| 1024.0)]) }),
            fill!(Window { syscall_latency: failed(errno::EMFILE, 37), ..observed(Vec::new()) }),
            fill!(Window { syscall_latency: failed(errno::ENFILE, 2), ..observed(Vec::new()) }),
            machine,
        ];
        for window in windows {
            let found = exhausted(&window);
            assert_eq!(found.len(), 1);
            found.iter().for_each(words_hold);
        }
    }
}
