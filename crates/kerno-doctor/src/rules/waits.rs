use std::collections::BTreeMap;

use crate::knowledge::wait_channels::{WaitsFor, by_design, place, waits_for};
use crate::shell::word as shell_word;
use crate::{Culprit, Exemplar, Finding, Severity, Unit, rule};
use kerno_model::BlockedTask;
use kerno_model::Window;

rule! {
    /// Tasks that sleep uninterruptibly for seconds.
    BlockedTasks = "blocked_tasks", "sched_delay", "tasks stuck in uninterruptible sleep",
    "A task in this state (D in ps) waits for something that is expected to come at once: a disk, a page, a lock in the kernel, \
     the server of a network or FUSE file system. Nothing ends it but that, not even SIGKILL mostly. On a working machine each \
     such sleep takes milliseconds. One sleep (the task did not get a CPU in between) of seconds is judged, never many short ones; \
     what sleeps so by design (the parent of a vfork, frozen tasks, a sync of all there is, a trim) is left out, and so are threads of the kernel of which it is \
     not clear what they wait for. Tasks that wait for the same kind of thing are one finding.", judge;
    warning_seconds: 2.0 Seconds, 1.0 ..= 3600.0, "length of one sleep from where on it is found";
    critical_seconds: 10.0 Seconds, 1.0 ..= 3600.0, "length from where on it is critical";
    critical_tasks: 8.0 Count, 1.0 ..= 100000.0, "tasks that are stuck at once from where on it is critical";
}

/// How many victims are named.
const MAX_VICTIMS: usize = 8;

fn judge(window: &Window, rule: &BlockedTasks) -> Vec<Finding> {
    let Some(sched) = &window.sched_delay else { return Vec::new() };
    let mut kinds: BTreeMap<WaitsFor, Vec<&BlockedTask>> = BTreeMap::new();
    for task in &sched.blocked {
        let kind = waits_for(task);
        if by_design(task).is_none() && !(task.kernel_thread && kind == WaitsFor::Unknown) {
            kinds.entry(kind).or_default().push(task);
        }
    }
    kinds.into_iter().filter_map(|(kind, tasks)| finding(window, rule, kind, tasks)).collect()
}

/// Of the tasks that wait for the same kind of thing.
fn finding(window: &Window, rule: &BlockedTasks, kind: WaitsFor, mut tasks: Vec<&BlockedTask>) -> Option<Finding> {
    tasks.retain(|task| task.seconds >= rule.warning_seconds);
    // A thread that slept so more than once is one that is stuck.
    tasks.sort_by(|a, b| a.tid.cmp(&b.tid).then(b.seconds.total_cmp(&a.seconds)));
    tasks.dedup_by_key(|task| task.tid);
    // A program tells more than a thread of the kernel that waits for the same.
    tasks.sort_by(|a, b| {
        a.kernel_thread.cmp(&b.kernel_thread).then(b.seconds.total_cmp(&a.seconds)).then(a.tid.cmp(&b.tid))
    });
    let worst = *tasks.first()?;
    let longest = tasks.iter().map(|task| task.seconds).fold(0.0, f64::max);
    #[allow(clippy::cast_precision_loss, reason = "a few tasks")]
    let (count, many) = (tasks.len() as f64, tasks.len() as f64 >= rule.critical_tasks);
    let severity = if longest >= rule.critical_seconds || many { Severity::Critical } else { Severity::Warning };
    let name = if worst.comm.is_empty() { "a task".to_owned() } else { worst.comm.clone() };
    let others = match tasks.len() {
        1 => String::new(),
        2 => " and one more".into(),
        more => format!(" and {} more", more - 1),
    };
    let verb = if tasks.len() == 1 { "has been" } else { "have been" };
    let title =
        format!("{name} ({}){others} {verb} stuck for {:.0}s, waiting for {}", worst.pid, worst.seconds, kind.text());
    let mut finding = BlockedTasks::finding(severity, title)
        .measured("longest uninterruptible sleep", longest, Unit::Seconds, Some(rule.warning_seconds))
        .measured("tasks stuck so", count, Unit::Count, None);
    finding.culprit = Culprit::process(window, worst.pid, &worst.comm);
    let mut victims = vec![worst.pid];
    for task in &tasks[1..] {
        if !victims.contains(&task.pid) && victims.len() <= MAX_VICTIMS {
            victims.push(task.pid);
            finding.victims.push(Culprit::process(window, task.pid, &task.comm));
        }
    }
    for task in tasks.iter().take(3) {
        if let Some(place) = place(task) {
            let seconds = (window.seconds() - task.seconds).max(0.0);
            let what = format!("{} ({}) fell asleep in {}{}", task.comm, task.tid, place, called_by(task, place));
            finding.exemplars.push(Exemplar { seconds, what });
        }
    }
    finding.cause =
        format!("{}{}", cause(kind), place(worst).map_or(String::new(), |place| format!(" It sleeps in {place}().")));
    finding.impact = "A task in this state does nothing else, and no signal ends it until what it waits for comes; whoever needs it \
                      or what it holds waits with it. Each counts as load."
        .into();
    let fell_asleep = window.seconds() - longest;
    finding.since = (worst.at_end && fell_asleep > 0.5).then_some(fell_asleep);
    finding.excess = (longest / rule.warning_seconds).max(if many { count / rule.critical_tasks } else { 0.0 });
    finding.confidence = if kind == WaitsFor::Unknown { 0.7 } else { 0.9 };
    Some(with_fixes(finding, kind, worst))
}

/// The functions around a place, to tell one lock or page from another.
fn called_by(task: &BlockedTask, place: &str) -> String {
    let outer: Vec<_> =
        task.stack.iter().skip_while(|frame| *frame != place).skip(1).take(3).map(String::as_str).collect();
    if outer.is_empty() { String::new() } else { format!(", called by {}", outer.join(", ")) }
}

const fn cause(kind: WaitsFor) -> &'static str {
    match kind {
        WaitsFor::Fuse => "The process that serves the FUSE file system does not answer a request.",
        WaitsFor::Nfs => "The NFS server, or the network to it, does not answer.",
        WaitsFor::Smb => "The SMB server, or the network to it, does not answer.",
        WaitsFor::Thaw => {
            "The file system is frozen (fsfreeze, a snapshot under way): all that would write to it waits."
        }
        WaitsFor::Reclaim => "There is no free memory, and reclaiming some takes this long.",
        WaitsFor::PageLock => "Another task has the page locked, mostly while it is read or written.",
        WaitsFor::Disk => "A request to a disk (or its queue, or the file system's log) takes this long.",
        WaitsFor::Lock => "Another task holds the lock, and is itself stuck or slow.",
        WaitsFor::Unknown => "What it waits for has not come.",
    }
}

fn with_fixes(finding: Finding, kind: WaitsFor, task: &BlockedTask) -> Finding {
    let (pid, tid) = (task.pid, task.tid);
    let stack = if pid == tid { format!("/proc/{pid}/stack") } else { format!("/proc/{pid}/task/{tid}/stack") };
    let mut finding =
        finding.look(format!("cat {}", shell_word(&stack)), "where in the kernel it sleeps, innermost first");
    if !task.kernel_thread {
        finding = finding.look(
            format!("ls -l /proc/{pid}/cwd /proc/{pid}/fd"),
            "the files that it has open, and so their file system",
        );
    }
    finding =
        match kind {
            WaitsFor::Fuse => finding
                .look(
                    "grep fuse /proc/mounts; grep -H . /sys/fs/fuse/connections/*/waiting",
                    "FUSE mounts, and requests waiting at each",
                )
                .change(
                    "echo 1 > /sys/fs/fuse/connections/<N>/abort",
                    "ends the connection whose requests wait: all of them fail at once",
                ),
            WaitsFor::Nfs => finding
                .look("nfsstat -m; grep nfs /proc/mounts", "NFS mounts with server and options (hard, soft, timeo)"),
            WaitsFor::Smb => finding
                .look("grep cifs /proc/mounts; cat /proc/fs/cifs/DebugData", "SMB mounts, and requests in flight"),
            WaitsFor::Thaw => finding
                .change("fsfreeze --unfreeze <mount point>", "thaws the file system, when nobody needs it frozen"),
            WaitsFor::Disk | WaitsFor::PageLock => finding.look(
                "grep -H . /sys/block/*/inflight; dmesg | tail -50",
                "requests in flight at each disk, and errors of disks",
            ),
            WaitsFor::Reclaim => finding.look("cat /proc/pressure/memory; free -m", "how short memory is"),
            WaitsFor::Lock | WaitsFor::Unknown => finding.look(
                "ps -eo pid,tid,stat,wchan:32,comm | awk '$3 ~ /^D/'",
                "all who sleep so, to see who holds what others want",
            ),
        };
    finding.change(
        "echo w > /proc/sysrq-trigger; dmesg | tail -200",
        "writes the stacks of all blocked tasks to the kernel log",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Effect, Thresholds};
    use kerno_model::SchedSummary;

    fn task(tid: u32, seconds: f64, stack: &[&str]) -> BlockedTask {
        let stack = stack.iter().map(|frame| (*frame).to_owned()).collect();
        BlockedTask { pid: 100, tid, comm: "rsync".into(), seconds, at_end: true, stack, ..BlockedTask::default() }
    }

    fn found(blocked: Vec<BlockedTask>) -> Vec<Finding> {
        let mut window = Window::default();
        window.span.seconds = 5.0;
        window.sched_delay = Some(SchedSummary { blocked, ..SchedSummary::default() });
        judge(&window, &BlockedTasks::with(&Thresholds::default()))
    }

    const FUSE: &[&str] = &["request_wait_answer", "fuse_lookup"];

    #[test]
    fn a_stuck_task_is_found_with_what_it_waits_for() {
        assert!(found(vec![task(100, 1.9, FUSE)]).is_empty());
        let findings = found(vec![task(100, 4.9, FUSE)]);
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!(finding.title, "rsync (100) has been stuck for 5s, waiting for a FUSE file system's server");
        assert_eq!((finding.severity, finding.culprit.pid, finding.since), (Severity::Warning, Some(100), None));
        assert!(finding.cause.contains("request_wait_answer"));
        assert_eq!(finding.fixes[0].command, "cat /proc/100/stack");
        let sysrq = finding.fixes.iter().find(|fix| fix.command.contains("sysrq")).unwrap();
        assert_eq!(sysrq.effect, Effect::Changing);
        let late = found(vec![task(101, 2.5, FUSE)]);
        assert_eq!((late[0].since, late[0].fixes[0].command.as_str()), (Some(2.5), "cat /proc/100/task/101/stack"));
    }

    #[test]
    fn long_ones_and_many_are_critical_and_each_kind_is_one_finding() {
        assert_eq!(found(vec![task(100, 11.0, FUSE)])[0].severity, Severity::Critical);
        let many = found((0..9).map(|tid| task(tid, 3.0, FUSE)).collect());
        assert_eq!((many.len(), many[0].severity), (1, Severity::Critical));
        assert!(many[0].title.starts_with("rsync (100) and 8 more have been stuck for 3s"), "{}", many[0].title);
        let again = found((2..12).map(|seconds| task(100, f64::from(seconds) / 2.0 + 1.5, FUSE)).collect());
        assert_eq!(again[0].severity, Severity::Warning, "one task, ten times");
        assert!(again[0].title.starts_with("rsync (100) has been stuck for 7s"), "{}", again[0].title);
        let two = found(vec![task(1, 3.0, FUSE), task(2, 3.0, &["jbd2_log_wait_commit"])]);
        assert_eq!(two.len(), 2);
    }

    #[test]
    fn sleeps_by_design_and_the_kernels_own_are_no_findings() {
        assert!(found(vec![task(1, 30.0, &["kernel_clone", "__do_sys_vfork"])]).is_empty());
        let own = |stack| BlockedTask { kernel_thread: true, ..task(1, 30.0, stack) };
        assert!(found(vec![own(&["some_thread"])]).is_empty());
        assert_eq!(found(vec![own(&["jbd2_journal_commit_transaction"])]).len(), 1);
    }
}
