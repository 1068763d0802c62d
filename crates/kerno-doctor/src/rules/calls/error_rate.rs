use super::{MAX_FINDINGS, by_process, exemplars, float, since};
use crate::knowledge::normal;
use crate::{Culprit, Finding, Severity, Unit, rule};
use kerno_model::Window;
use kerno_model::errno;
use kerno_model::{SyscallOffender, SyscallSummary};

rule! {
    /// System calls that fail in a way that is not normal life.
    SyscallErrorRate = "syscall_error_rate", "syscall_latency", "a process's system calls fail",
        "Counts the errors of each process that are not normal life (EAGAIN, EINTR, ENOENT on a search and their kin are; the table \
         of them has the reasons). Of errors that say that something ran out or broke (ENOSPC, EDQUOT, EIO, EMFILE, ENFILE, ENOMEM, \
         a full table of processes) a handful matters; EROFS needs ten times as many, as programs try to write caches beside \
         themselves; of any other many a second. Opens that are not allowed and are on ever other paths are a look into what belongs to \
         others, as monitors take.",
        judge;
    grave_per_second: 1.0 PerSecond, 0.01 ..= 1e6, "errors a second that say that something ran out or broke";
    grave_critical: 5.0 PerSecond, 0.01 ..= 1e6, "critical from so many of those a second";
    min_grave: 3.0 Count, 1.0 ..= 1e6, "so many of those in the window at least";
    other_per_second: 200.0 PerSecond, 1.0 ..= 1e7, "errors a second of any other kind";
}

/// How much more of it than of other grave errors is needed: programs in a read-only container try and do without.
const READ_ONLY_FACTOR: f64 = 10.0;

/// One error of one call of a process.
struct Failing<'a> {
    offender: &'a SyscallOffender,
    errno: i32,
    error: &'a str,
    count: u64,
    /// Times its threshold.
    excess: f64,
    threshold: f64,
    grave: Option<&'static str>,
}

fn judge(window: &Window, rule: &SyscallErrorRate) -> Vec<Finding> {
    let Some(summary) = &window.syscall_latency else { return Vec::new() };
    let processes = by_process(summary);
    let mut findings: Vec<_> =
        processes.iter().filter_map(|(pid, calls)| judge_process(window, summary, *pid, calls, rule)).collect();
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.excess.total_cmp(&a.excess)));
    findings.truncate(MAX_FINDINGS);
    findings
}

fn judge_process(
    window: &Window,
    summary: &SyscallSummary,
    pid: u32,
    calls: &[&SyscallOffender],
    rule: &SyscallErrorRate,
) -> Option<Finding> {
    let all = calls.iter().flat_map(|offender| offender.errors.iter().map(move |error| (*offender, error)));
    let searches = searches(window, pid);
    let all = all.filter(|(offender, error)| !(searches && is_closed_to_it(&offender.name, error.errno)));
    let failing = all.filter_map(|(offender, error)| {
        // Saying the same of fork needs no table: EAGAIN is kept only where it is not normal life.
        let full = (error.errno == errno::EAGAIN).then_some("the limit of processes or of locked memory is reached");
        let grave = normal::grave(error.errno).or(full);
        let threshold = match grave {
            Some(_) if error.errno == errno::EROFS => rule.grave_per_second * READ_ONLY_FACTOR,
            Some(_) => rule.grave_per_second,
            None => rule.other_per_second,
        };
        let excess = float(error.count) / window.seconds() / threshold;
        let enough = excess >= 1.0 && (grave.is_none() || float(error.count) >= rule.min_grave);
        let (errno, name, count) = (error.errno, error.name.as_str(), error.count);
        enough.then_some(Failing { offender, errno, error: name, count, excess, threshold, grave })
    });
    let worst = failing.max_by(|a, b| a.grave.is_some().cmp(&b.grave.is_some()).then(a.excess.total_cmp(&b.excess)))?;
    Some(finding(window, summary, pid, &worst, rule))
}

/// An open of what others own: whoever looks into all processes or a whole tree without the right to meets many.
fn is_closed_to_it(name: &str, errno: i32) -> bool {
    matches!(name, "open" | "openat" | "openat2") && matches!(errno, errno::EACCES | errno::EPERM)
}

/// Whether the opens of the process that fail are on ever other paths.
fn searches(window: &Window, pid: u32) -> bool {
    let mut openers = window.file_audit.iter().flat_map(|files| &files.processes);
    openers.find(|opener| opener.pid == pid).is_some_and(|opener| opener.repeated * 2 < opener.failed)
}

fn finding(
    window: &Window,
    summary: &SyscallSummary,
    pid: u32,
    worst: &Failing<'_>,
    rule: &SyscallErrorRate,
) -> Finding {
    let Failing { offender, error, .. } = *worst;
    let rate = float(worst.count) / window.seconds();
    let (comm, name) = (window.name_of(pid, &offender.comm), &offender.name);
    let critical = worst.grave.is_some() && rate * rule.grave_per_second >= rule.grave_critical * worst.threshold;
    let severity = if critical { Severity::Critical } else { Severity::Warning };
    let title = format!("{comm} ({pid}) fails in {name} with {error}: {} a second", rounded(rate));
    let mut finding = SyscallErrorRate::finding(severity, title)
        .measured(format!("{name} failed with {error}"), rate, Unit::PerSecond, Some(worst.threshold))
        .measured(format!("{name} failed with {error}, in the window"), float(worst.count), Unit::Count, None);
    let made: u64 = summary.by_name(name).map(|stat| stat.calls).sum();
    if made >= worst.count {
        let share = float(worst.count) / float(made.max(1));
        finding = finding.measured(format!("of all calls of {name} on this machine"), share, Unit::Ratio, None);
    }
    finding.cause = match (worst.grave, name.as_str(), worst.errno) {
        (_, "inotify_add_watch", errno::ENOSPC) => "the limit of inotify watches of its user is reached".into(),
        (_, "inotify_init" | "inotify_init1", errno::EMFILE) => {
            "the limit of inotify instances of its user is reached, of all its processes together".into()
        }
        (_, "unshare" | "clone" | "clone3", errno::ENOSPC) => "the limit of namespaces (user.max_*_namespaces) is reached".into(),
        (_, "semget" | "shmget" | "msgget", errno::ENOSPC) => "the limit of semaphores, shared memory or queues is reached".into(),
        (_, "mmap" | "mmap2" | "mprotect" | "mremap", errno::ENOMEM) => {
            "no memory that it may have: a limit of address space, of mappings (vm.max_map_count), or of committed memory".into()
        }
        (Some(reason), _, _) => reason.to_owned(),
        (None, _, _) => format!("the program goes on although {name} fails; it or what it was told is wrong"),
    };
    finding.impact = match worst.errno {
        errno::ENOSPC | errno::EDQUOT | errno::EIO | errno::EROFS => {
            "data that it wants to store is lost or its work stops".into()
        }
        _ if worst.grave.is_some() => "what it does for others fails or stops".into(),
        _ => "what it wants does not happen, and trying costs CPU time".into(),
    };
    finding.culprit = Culprit::process(window, pid, comm);
    finding.exemplars = exemplars(window, offender);
    finding.since = since(window, offender.first_ns);
    finding.excess = worst.excess;
    finding.confidence = if worst.grave.is_some() { 0.9 } else { 0.6 };
    fixes(finding, pid, name, worst.errno)
}

fn fixes(finding: Finding, pid: u32, name: &str, errno: i32) -> Finding {
    let finding = match (errno, name) {
        (errno::ENOSPC, "inotify_add_watch") => finding
            .look("sysctl fs.inotify.max_user_watches", "the limit")
            .change("sysctl -w fs.inotify.max_user_watches=1048576", "a higher limit, until the next start"),
        (errno::EMFILE, "inotify_init" | "inotify_init1") => finding
            .look("sysctl fs.inotify.max_user_instances", "the limit")
            .look("find /proc/[0-9]*/fd -lname anon_inode:inotify 2>/dev/null | cut -d/ -f3 | sort | uniq -c | sort -rn | head", "which processes have how many")
            .change("sysctl -w fs.inotify.max_user_instances=1024", "a higher limit, until the next start"),
        (errno::ENOSPC, "unshare" | "clone" | "clone3") => finding.look("sysctl -a -r '^user.max_'", "the limits"),
        (errno::ENOSPC, "semget" | "shmget" | "msgget") => finding.look("ipcs -l; ipcs -u", "the limits, and what is in use"),
        (errno::ENOSPC, _) => finding
            .look("df -h; df -i", "which file system is full, of bytes or of inodes")
            .look(format!("ls -l /proc/{pid}/fd"), "which files it writes to"),
        (errno::EDQUOT, _) => finding.look("repquota -a", "whose quota is used up"),
        (errno::EIO, _) => finding
            .look("dmesg --level=err,warn | tail -n 50", "what the kernel says of the device or file system")
            .look(format!("ls -l /proc/{pid}/fd"), "which files it uses"),
        (errno::EROFS, _) => finding
            .look("findmnt -O ro", "which file systems are read-only")
            .look("dmesg --level=err,warn | tail -n 50", "whether an error made one so"),
        (errno::EMFILE, _) => finding
            .look(format!("grep 'open files' /proc/{pid}/limits; ls /proc/{pid}/fd | wc -l"), "its limit and what it has")
            .change(format!("prlimit --pid {pid} --nofile=65536"), "a higher limit, if it is no leak"),
        (errno::ENFILE, _) => finding
            .look("cat /proc/sys/fs/file-nr", "open files and the limit of the system")
            .change("sysctl -w fs.file-max=2097152", "a higher limit, until the next start"),
        (errno::ENOMEM, _) => finding
            .look(format!("grep -E '^Vm|^Rss' /proc/{pid}/status; wc -l /proc/{pid}/maps"), "its memory and its mappings")
            .look("grep -E 'Commit|Available' /proc/meminfo; sysctl vm.max_map_count", "what may be had"),
        (errno::EAGAIN, _) => finding
            .look(format!("cat /proc/{pid}/limits"), "its limits of processes and of locked memory")
            .look(format!("cat /proc/{pid}/cgroup; sysctl kernel.pid_max kernel.threads-max"), "the cgroup whose pids.max may be reached"),
        _ => finding,
    };
    finding.look(format!("timeout 5 strace -f -e trace={name} -Z -p {pid}"), "the failed calls with their arguments")
}

/// Few with a decimal, many without.
fn rounded(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use kerno_model::{ErrnoCount, Span};

    fn observed(name: &str, errno: i32, count: u64) -> Window {
        let offender = SyscallOffender {
            pid: 4711,
            comm: "logger".into(),
            name: name.into(),
            errors: vec![ErrnoCount::new(errno, count)],
            ..SyscallOffender::default()
        };
        Window {
            span: Span { seconds: 10.0, ..Span::default() },
            syscall_latency: Some(SyscallSummary { offenders: vec![offender], ..SyscallSummary::default() }),
            ..Window::default()
        }
    }

    fn found(name: &str, errno: i32, count: u64) -> Vec<Finding> {
        judge(&observed(name, errno, count), &SyscallErrorRate::with(&Thresholds::default()))
    }

    #[test]
    fn a_handful_of_grave_errors_is_enough() {
        let findings = found("write", errno::ENOSPC, 20);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].title, "logger (4711) fails in write with ENOSPC: 2.0 a second");
        assert_eq!((findings[0].severity, findings[0].culprit.pid), (Severity::Warning, Some(4711)));
        assert!(findings[0].fixes[0].command.contains("df -h"));
        assert_eq!(found("write", errno::ENOSPC, 60)[0].severity, Severity::Critical);
        assert!(found("write", errno::ENOSPC, 9).is_empty());
        assert!(found("clone3", errno::EAGAIN, 50)[0].cause.contains("processes"));
        assert!(found("inotify_add_watch", errno::ENOSPC, 50)[0].cause.contains("inotify"));
        assert!(found("openat", errno::EROFS, 90).is_empty(), "a read-only container");
        assert_eq!(found("write", errno::EROFS, 2000)[0].severity, Severity::Critical);
    }

    #[test]
    fn other_errors_need_a_high_rate() {
        assert!(found("openat", errno::EACCES, 1990).is_empty());
        let findings = found("openat", errno::EACCES, 2010);
        assert_eq!((findings[0].severity, findings[0].culprit.pid), (Severity::Warning, Some(4711)));
        assert!(findings[0].fixes.iter().any(|fix| fix.command.contains("trace=openat -Z -p 4711")));
    }

    #[test]
    fn a_grave_error_goes_before_a_frequent_one() {
        let mut window = observed("openat", errno::EACCES, 100_000);
        let summary = window.syscall_latency.as_mut().unwrap();
        let mut full = summary.offenders[0].clone();
        full.name = "write".into();
        full.errors = vec![ErrnoCount::new(errno::ENOSPC, 30)];
        summary.offenders.push(full);
        let findings = judge(&window, &SyscallErrorRate::with(&Thresholds::default()));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].title.contains("ENOSPC"));
    }

    #[test]
    fn limits_of_their_own_are_told_from_descriptors_and_disks() {
        let findings = found("inotify_init1", errno::EMFILE, 30);
        assert!(findings[0].cause.contains("inotify instances"));
        assert!(findings[0].fixes.iter().any(|fix| fix.command == "sysctl -w fs.inotify.max_user_instances=1024"));
        assert!(!findings[0].fixes.iter().any(|fix| fix.command.contains("prlimit")));
        assert!(found("unshare", errno::ENOSPC, 30)[0].cause.contains("namespaces"));
    }

    #[test]
    fn who_looks_into_all_that_others_have_is_no_symptom() {
        let mut window = observed("openat", errno::EACCES, 20_000);
        let opener = |repeated| kerno_model::FileProcess { pid: 4711, failed: 20_000, repeated, ..Default::default() };
        let part = |repeated| kerno_model::FileSummary { processes: vec![opener(repeated)], ..Default::default() };
        window.file_audit = Some(part(100));
        assert!(judge(&window, &SyscallErrorRate::with(&Thresholds::default())).is_empty());
        window.file_audit = Some(part(19_000));
        assert_eq!(judge(&window, &SyscallErrorRate::with(&Thresholds::default())).len(), 1);
    }
}
