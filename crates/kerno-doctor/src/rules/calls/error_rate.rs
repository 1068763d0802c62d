//! Calls that fail.

use kerno_model::amount::quantity;
use kerno_model::{
    Effect, ErrnoCount, Fact, Finding, Limit, Severity, Subject, SyscallOffender, SyscallSummary, Unit, Window, errno,
};

use super::{MAX_FINDINGS, by_process, exemplars, float, since, who};
use crate::knowledge::{limits, normal};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// System calls that fail in a way that is not normal life.
    SyscallErrorRate = "syscall_error_rate", "syscall_latency", "a process's system calls fail",
        "Counts the errors of each process, except those that are normal, such as EAGAIN, EINTR, or ENOENT in a search. A few errors \
        are enough when they mean that something ran out or broke (ENOSPC, EDQUOT, EIO, EMFILE, ENFILE, ENOMEM, or the limit of \
        processes). EROFS needs ten times as many, because programs try to write caches next to their files. Any other error needs \
        many per second. Opens without permission do not count when they are of ever new paths: monitors look into everything.",
        judge, words;
    causes: [];
    suffers: [
        suffers(Effect::StorageFails, |ties, a, b| ties.failing_storage(a, b), "its calls fail with I/O errors"),
        suffers(Effect::NoSpace, |ties, a, b| ties.no_space(a, b), "its writes fail for want of space"),
        suffers(
            Effect::NoDescriptors,
            |ties, a, b| ties.no_descriptor(a, b),
            "its calls fail for want of a file descriptor",
        ),
        suffers(Effect::LimitReached, |ties, a, b| ties.same_limit(a, b), "its calls fail for it"),
        suffers(Effect::ConnectsFail, |ties, a, b| ties.connect_errors(a, b), "its connects fail"),
        suffers(
            Effect::NotAccepted,
            |ties, a, b| ties.refused_by_full_backlog(a, b),
            "its connects fail because nobody accepts them",
        ),
        suffers(Effect::OpensFail, |ties, a, b| ties.failed_opens(a, b), "the same failed opens"),
    ];
    thresholds: {
        grave_per_second: 1.0 PerSecond, 0.01 ..= 1e6, "errors per second that mean that something ran out or broke";
        grave_critical: 5.0 PerSecond, 0.01 ..= 1e6, "such errors per second that are critical";
        min_grave: 3.0 Count, 1.0 ..= 1e6, "such errors needed in the window";
        other_per_second: 200.0 PerSecond, 1.0 ..= 1e7, "errors per second of any other kind";
    }
    evidence: {
        failed_per_second: "failed calls per second";
        failed: "failed calls in the window";
        share_of_calls: "share of all such calls on this machine";
    }
}

/// How much more of it than of other grave errors is needed: programs in a read-only container try and do without.
const READ_ONLY_FACTOR: f64 = 10.0;

/// One error of one call of a process.
struct Failing<'a> {
    offender: &'a SyscallOffender,
    errno: i32,
    count: u64,
    /// Times its threshold.
    excess: f64,
    threshold: f64,
    /// Something ran out or broke.
    grave: bool,
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
        let grave = is_grave(error.errno);
        let threshold = match error.errno {
            errno::EROFS => rule.grave_per_second * READ_ONLY_FACTOR,
            _ if grave => rule.grave_per_second,
            _ => rule.other_per_second,
        };
        let excess = float(error.count) / window.seconds() / threshold;
        let enough = excess >= 1.0 && (!grave || float(error.count) >= rule.min_grave);
        let (errno, count) = (error.errno, error.count);
        enough.then_some(Failing { offender, errno, count, excess, threshold, grave })
    });
    let worst = failing.max_by(|a, b| a.grave.cmp(&b.grave).then(a.excess.total_cmp(&b.excess)))?;
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

/// Whether an error says that something ran out or broke. EAGAIN does: it is kept only where it is not normal, as of fork.
fn is_grave(error: i32) -> bool {
    error == errno::EAGAIN || normal::grave(error).is_some()
}

/// What an error means of calls that have a limit of their own, and a common error for it.
fn own_limit(call: &str, error: i32) -> Option<&'static str> {
    match (call, error) {
        ("inotify_add_watch", errno::ENOSPC) => Some("The limit of inotify watches of its user is reached."),
        ("inotify_init" | "inotify_init1", errno::EMFILE) => {
            Some("The limit of inotify instances of its user is reached, by all processes of that user together.")
        }
        ("unshare" | "clone" | "clone3", errno::ENOSPC) => {
            Some("The limit of namespaces (user.max_*_namespaces) is reached.")
        }
        ("semget" | "shmget" | "msgget", errno::ENOSPC) => {
            Some("The limit of semaphores, shared memory segments or message queues is reached.")
        }
        _ => None,
    }
}

/// What kind of trouble it is: as long as that goes on, the call in front may change.
fn variant(call: &str, error: i32) -> &'static str {
    match error {
        _ if own_limit(call, error).is_some() => "limit",
        errno::ENOSPC | errno::EDQUOT => "no_space",
        errno::EIO => "io_error",
        errno::EROFS => "read_only",
        errno::EMFILE | errno::ENFILE => "no_descriptor",
        errno::ENOMEM => "no_memory",
        errno::EAGAIN => "limit",
        _ => "other",
    }
}

fn finding(
    window: &Window,
    summary: &SyscallSummary,
    pid: u32,
    worst: &Failing<'_>,
    rule: &SyscallErrorRate,
) -> Finding {
    let offender = worst.offender;
    let rate = float(worst.count) / window.seconds();
    let (name, error) = (offender.name.as_str(), worst.errno);
    let critical = worst.grave && rate * rule.grave_per_second >= rule.grave_critical * worst.threshold;
    let severity = if critical { Severity::Critical } else { Severity::Warning };
    let mut finding = SyscallErrorRate::finding(severity)
        .variant(variant(name, error))
        .about(Subject::process(window, pid, window.name_of(pid, &offender.comm)))
        .fact(Fact::Call(name.to_owned()))
        .fact(Fact::Errno(error))
        .measured("failed_per_second", rate, Unit::PerSecond, Some(worst.threshold))
        .measured("failed", float(worst.count), Unit::Count, None);
    finding = match error {
        _ if own_limit(name, error).is_some() => finding,
        errno::EMFILE => finding.fact(Fact::AtLimit(Limit::Descriptors)),
        errno::ENFILE => finding.fact(Fact::AtLimit(Limit::OpenFiles)),
        _ => finding,
    };
    let made: u64 = summary.by_name(name).map(|stat| stat.calls).sum();
    if made >= worst.count {
        let share = float(worst.count) / float(made.max(1));
        finding = finding.measured("share_of_calls", share, Unit::Ratio, None);
    }
    let looked =
        window.limits.iter().find(|failure| (failure.pid, &*failure.call, failure.errno) == (pid, name, error));
    if looked.is_some_and(|failure| !failure.limits.iter().any(|limit| limits::explains(limit, name, error))) {
        finding = finding.detail("no_limit_full", true);
    }
    finding.exemplars = exemplars(window, offender);
    finding.since = since(window, offender.first_ns);
    finding.excess = worst.excess;
    finding.confidence = if worst.grave { 0.9 } else { 0.6 };
    fixes(finding, pid, name, error)
}

fn fixes(finding: Finding, pid: u32, name: &str, errno: i32) -> Finding {
    let finding = match (errno, name) {
        (errno::ENOSPC, "inotify_add_watch") => finding
            .look("sysctl fs.inotify.max_user_watches", "the limit")
            .change("sysctl -w fs.inotify.max_user_watches=1048576", "raises the limit until the next boot"),
        (errno::EMFILE, "inotify_init" | "inotify_init1") => finding
            .look("sysctl fs.inotify.max_user_instances", "the limit")
            .look("find /proc/[0-9]*/fd -lname anon_inode:inotify 2>/dev/null | cut -d/ -f3 | sort | uniq -c | sort -rn | head", "how many each process has")
            .change("sysctl -w fs.inotify.max_user_instances=1024", "raises the limit until the next boot"),
        (errno::ENOSPC, "unshare" | "clone" | "clone3") => finding.look("sysctl -a -r '^user.max_'", "the limits"),
        (errno::ENOSPC, "semget" | "shmget" | "msgget") => finding.look("ipcs -l; ipcs -u", "the limits, and how much is in use"),
        (errno::ENOSPC, _) => finding
            .look("df -h; df -i", "which file system is out of space or of inodes")
            .look_at_process(format!("ls -l /proc/{pid}/fd"), "which files it writes to"),
        (errno::EDQUOT, _) => finding.look("repquota -a", "whose quota is used up"),
        (errno::EIO, _) => finding
            .look("dmesg --level=err,warn | tail -n 50", "what the kernel reports about the device or the file system")
            .look_at_process(format!("ls -l /proc/{pid}/fd"), "which files it uses"),
        (errno::EROFS, _) => finding
            .look("findmnt -O ro", "which file systems are read-only")
            .look("dmesg --level=err,warn | tail -n 50", "whether an error made one read-only"),
        (errno::EMFILE, _) => finding
            .look_at_process(format!("grep 'open files' /proc/{pid}/limits; ls /proc/{pid}/fd | wc -l"), "its limit, and how many it has open")
            .change_process(format!("prlimit --pid {pid} --nofile=65536"), "raises the limit, which helps unless it is a leak"),
        (errno::ENFILE, _) => finding
            .look("cat /proc/sys/fs/file-nr", "open files and the limit of the machine")
            .change("sysctl -w fs.file-max=2097152", "raises the limit until the next boot"),
        (errno::ENOMEM, _) => finding
            .look_at_process(format!("grep -E '^Vm|^Rss' /proc/{pid}/status; wc -l /proc/{pid}/maps"), "its memory and its mappings")
            .look("grep -E 'Commit|Available' /proc/meminfo; sysctl vm.max_map_count", "how much memory and how many mappings are allowed"),
        (errno::EAGAIN, "connect") => finding
            .look("ss -xlp", "which Unix socket's Recv-Q has reached its Send-Q, the backlog, and whose it is")
            .look("sysctl net.core.somaxconn net.unix.max_dgram_qlen", "the largest backlog that a program can ask for"),
        (errno::EAGAIN, _) => finding
            .look_at_process(format!("cat /proc/{pid}/limits"), "its limits of processes and of locked memory")
            .look_at_process(format!("cat /proc/{pid}/cgroup; sysctl kernel.pid_max kernel.threads-max"), "the cgroup whose pids.max may be reached"),
        _ => finding,
    };
    finding.look_at_process(
        format!("timeout 5 strace -f -e trace={name} -Z -p {pid}"),
        "the failed calls with their arguments",
    )
}

fn words(finding: &Finding) -> Words {
    let (call, error) = (finding.calls().next(), finding.errnos().next());
    let name = error.map_or_else(String::new, |error| format!(" with {}", ErrnoCount::new(error, 0).name));
    let rate = finding.number("failed_per_second").map(|rate| quantity(rate, Unit::PerSecond));
    let impact = match error {
        Some(errno::ENOSPC | errno::EDQUOT | errno::EIO | errno::EROFS) => {
            "Data that it wants to store is lost, or its work stops."
        }
        Some(error) if is_grave(error) => "What it does for others fails or stops.",
        _ => "What it attempts does not happen, and the attempts cost CPU time.",
    };
    Words {
        title: title(&format!("{} fails in {}{name}", who(finding), call.unwrap_or("system calls")), [rate]),
        cause: cause(finding, call, error).into(),
        impact: impact.into(),
        ..Words::default()
    }
}

fn cause(finding: &Finding, call: Option<&str>, error: Option<i32>) -> &'static str {
    const FAULT: &str = "The program goes on although these calls fail. It has a fault, or it was configured wrongly.";
    let (Some(error), call) = (error, call.unwrap_or_default()) else { return FAULT };
    match (error, call) {
        (errno::EAGAIN, "connect") => {
            "The backlog of the Unix socket that it connects to is full: whoever listens there accepts too slowly."
        }
        (errno::EAGAIN, _) if finding.flag("no_limit_full") => {
            "The error says that a limit is reached, but none that gives it was full when it was looked at."
        }
        (errno::EAGAIN, _) => {
            "The error says that a limit is reached, such as that of processes or of locked memory. Which one was not seen."
        }
        (errno::ENOMEM, _) if finding.flag("no_limit_full") => {
            "Less was left than it asked for at once, of memory or of a limit on it. None of these limits was full when it was looked at."
        }
        (errno::ENOMEM, "mmap" | "mmap2" | "mprotect" | "mremap") => {
            "A limit of its memory is reached: address space, number of mappings (vm.max_map_count), or committed memory."
        }
        _ => own_limit(call, error).or_else(|| normal::grave(error)).unwrap_or(FAULT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use crate::rules::testing::words_hold;
    use kerno_model::Span;
    use kerno_model::fill;

    fn observed(name: &str, errno: i32, count: u64) -> Window {
        let offender = SyscallOffender {
            pid: 4711,
            comm: "logger".into(),
            name: name.into(),
            errors: vec![ErrnoCount::new(errno, count)],
            ..SyscallOffender::default()
        };
        fill!(Window {
            span: fill!(Span { seconds: 10.0 }),
            syscall_latency: Some(SyscallSummary { offenders: vec![offender], ..SyscallSummary::default() }),
        })
    }

    fn found(name: &str, errno: i32, count: u64) -> Vec<Finding> {
        let findings = judge(&observed(name, errno, count), &SyscallErrorRate::with(&Thresholds::default()));
        findings.iter().for_each(words_hold);
        findings
    }

    fn cause(finding: &Finding) -> String {
        crate::words(finding).cause
    }

    #[test]
    fn a_handful_of_grave_errors_is_enough() {
        let findings = found("write", errno::ENOSPC, 20);
        assert_eq!(findings.len(), 1);
        assert_eq!(crate::words(&findings[0]).title, "logger (4711) fails in write with ENOSPC: 2/s");
        assert_eq!(findings[0].errnos().collect::<Vec<_>>(), [errno::ENOSPC]);
        assert_eq!(findings[0].calls().collect::<Vec<_>>(), ["write"]);
        assert_eq!((findings[0].severity, findings[0].subject.pid()), (Severity::Warning, Some(4711)));
        assert!(findings[0].fixes[0].command.contains("df -h"));
        assert_eq!(found("write", errno::ENOSPC, 60)[0].severity, Severity::Critical);
        assert!(found("write", errno::ENOSPC, 9).is_empty());
        assert!(cause(&found("clone3", errno::EAGAIN, 50)[0]).contains("processes"));
        assert!(cause(&found("inotify_add_watch", errno::ENOSPC, 50)[0]).contains("inotify"));
        assert!(found("openat", errno::EROFS, 90).is_empty(), "a read-only container");
        assert_eq!(found("write", errno::EROFS, 2000)[0].severity, Severity::Critical);
    }

    #[test]
    fn other_errors_need_a_high_rate() {
        assert!(found("openat", errno::EACCES, 1990).is_empty());
        let findings = found("openat", errno::EACCES, 2010);
        assert_eq!((findings[0].severity, findings[0].subject.pid()), (Severity::Warning, Some(4711)));
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
        assert!(crate::words(&findings[0]).title.contains("ENOSPC"));
    }

    #[test]
    fn limits_of_their_own_are_told_from_descriptors_and_disks() {
        let findings = found("inotify_init1", errno::EMFILE, 30);
        assert!(cause(&findings[0]).contains("inotify instances"));
        assert!(findings[0].fixes.iter().any(|fix| fix.command == "sysctl -w fs.inotify.max_user_instances=1024"));
        assert!(!findings[0].fixes.iter().any(|fix| fix.command.contains("prlimit")));
        assert!(
            !findings[0].is_at(Limit::Descriptors) && found("openat", errno::EMFILE, 30)[0].is_at(Limit::Descriptors)
        );
        let [inotify, full] =
            ["inotify_add_watch", "write"].map(|call| found(call, errno::ENOSPC, 30)[0].fingerprint());
        assert_ne!(inotify, full);
        assert!(cause(&found("unshare", errno::ENOSPC, 30)[0]).contains("namespaces"));
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
