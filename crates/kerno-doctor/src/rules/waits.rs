use std::collections::BTreeMap;

use kerno_model::amount::{number, span};
use kerno_model::{
    BlockedTask, Effect, Entity, Exemplar, Fact, Finding, Limit, NamedProcess, Safety, Scope, Severity, Subject, Unit,
    Value, WaitsFor, Window,
};

use crate::knowledge::wait_channels::{by_design, place, waits_for};
use crate::shell::word;
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Tasks that sleep uninterruptibly for seconds.
    BlockedTasks = "blocked_tasks", "sched_delay", "tasks are stuck in uninterruptible sleep",
        "A task in uninterruptible sleep (state D in ps) waits for something that should come at once: a disk, a page, a lock in the \
         kernel, the server of a network or FUSE file system. Only that ends the sleep; usually not even SIGKILL does. On a healthy \
         machine each such sleep takes milliseconds. Judges single sleeps of seconds, in which the task never got a CPU, and never adds \
         up short ones. Ignores tasks that sleep so by design (the parent of a vfork, frozen tasks, a sync of all file systems, a trim) \
         and kernel threads when it is not clear what they wait for. Tasks that wait for the same kind of thing are one finding.",
        judge, words;
    causes: [StandsStill];
    suffers: [
        suffers(Effect::StorageFails, |t, a, b| t.blocked_on_storage(a, b), "waits for requests that fail"),
        suffers(Effect::StorageSlow, |t, a, b| t.blocked_on_storage(a, b), "sleeps until the device answers"),
        suffers(Effect::MemoryShort, |t, a, b| t.slow_for_memory(a, b), "sleeps until memory is found"),
    ];
    thresholds: {
        warning_seconds: 2.0 Seconds, 1.0 ..= 3600.0, "length of one sleep that counts as a problem";
        critical_seconds: 10.0 Seconds, 1.0 ..= 3600.0, "length of one sleep that is critical";
        critical_tasks: 8.0 Count, 1.0 ..= 100000.0, "number of tasks stuck at once that is critical";
    }
    evidence: {
        longest_sleep: "longest uninterruptible sleep";
        tasks: "stuck tasks";
    }
}

/// The most victims that a finding names.
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

/// The finding about tasks that wait for the same kind of thing.
fn finding(window: &Window, rule: &BlockedTasks, kind: WaitsFor, mut tasks: Vec<&BlockedTask>) -> Option<Finding> {
    tasks.retain(|task| task.seconds >= rule.warning_seconds);
    // A thread with several long sleeps counts once.
    tasks.sort_by(|a, b| a.tid.cmp(&b.tid).then(b.seconds.total_cmp(&a.seconds)));
    tasks.dedup_by_key(|task| task.tid);
    // A program comes before kernel threads that wait for the same thing, since it tells more.
    tasks.sort_by(|a, b| {
        a.kernel_thread.cmp(&b.kernel_thread).then(b.seconds.total_cmp(&a.seconds)).then(a.tid.cmp(&b.tid))
    });
    let worst = *tasks.first()?;
    let longest = tasks.iter().map(|task| task.seconds).fold(0.0, f64::max);
    #[allow(clippy::cast_precision_loss, reason = "a few tasks")]
    let (count, many) = (tasks.len() as f64, tasks.len() as f64 >= rule.critical_tasks);
    let severity = if longest >= rule.critical_seconds || many { Severity::Critical } else { Severity::Warning };
    let mut finding = BlockedTasks::finding(severity)
        .variant(kind.name())
        .about(Subject::process(window, worst.pid, &worst.comm))
        .fact(Fact::WaitsFor(kind))
        .detail("sleep", (worst.seconds, Unit::Seconds))
        .detail("awake", !worst.at_end)
        .measured("longest_sleep", longest, Unit::Seconds, Some(rule.warning_seconds))
        .measured("tasks", count, Unit::Count, None);
    if let Some(place) = place(worst) {
        finding = finding.detail("place", place);
    }
    if let Some(mount) = tasks.iter().find_map(|task| task.mount.as_deref()) {
        finding.subject.mount = Some(mount.to_owned());
    }
    if let Some(task) = tasks.iter().find(|task| task.server != 0)
        && let Some(server) = Subject::process(window, task.server, &task.server_comm).process
    {
        finding = finding.detail("server", server);
    }
    let oom_cgroup = tasks.iter().find_map(|task| task.oom_cgroup.as_deref());
    if let Some(cgroup) = oom_cgroup {
        finding.subject.cgroup = Some(cgroup.to_owned());
        finding = finding
            .fact(Fact::Scope(Scope::Cgroup(cgroup.to_owned())))
            .fact(Fact::AtLimit(Limit::CgroupMemory))
            .detail("oom_cgroup", cgroup);
    }
    let mut victims = vec![worst.pid];
    for task in &tasks[1..] {
        if !victims.contains(&task.pid) && victims.len() <= MAX_VICTIMS {
            victims.push(task.pid);
            finding.victims.push(Subject::process(window, task.pid, &task.comm));
        }
    }
    for task in tasks.iter().take(3) {
        if let Some(place) = place(task) {
            let at = window.moment((window.covered_seconds() - task.seconds).max(0.0));
            let what = format!("{} ({}) fell asleep in {}{}", task.comm, task.tid, place, called_by(task, place));
            finding.exemplars.push(Exemplar::new(at, what));
        }
    }
    let fell_asleep = window.covered_seconds() - longest;
    finding.since = (worst.at_end && fell_asleep > 0.5).then(|| window.moment(fell_asleep));
    finding.excess = (longest / rule.warning_seconds).max(if many { count / rule.critical_tasks } else { 0.0 });
    finding.confidence = if kind == WaitsFor::Unknown { 0.7 } else { 0.9 };
    Some(with_fixes(finding, kind, worst))
}

/// The callers of a function, to distinguish one lock or page from another.
fn called_by(task: &BlockedTask, place: &str) -> String {
    let outer: Vec<_> =
        task.stack.iter().skip_while(|frame| *frame != place).skip(1).take(3).map(String::as_str).collect();
    if outer.is_empty() { String::new() } else { format!(", called by {}", outer.join(", ")) }
}

fn with_fixes(finding: Finding, kind: WaitsFor, task: &BlockedTask) -> Finding {
    let (pid, tid) = (task.pid, task.tid);
    let stack = if pid == tid { format!("/proc/{pid}/stack") } else { format!("/proc/{pid}/task/{tid}/stack") };
    let mut finding = finding
        .look_at_process(format!("cat {stack}"), "shows where in the kernel it sleeps, innermost function first");
    if !task.kernel_thread {
        finding = finding.look_at_process(
            format!("ls -l /proc/{pid}/cwd /proc/{pid}/fd"),
            "shows its open files, and so the file systems that it uses",
        );
    }
    if let Some(Value::Process(server)) = finding.get("server").cloned() {
        let pid = server.id.pid;
        finding = finding.fix(
            Entity::Process(server.id),
            Safety::ReadOnly,
            format!("grep -E '^(State|TracerPid|Threads)' /proc/{pid}/status; cat /proc/{pid}/stack"),
            "what the server of the file system does instead of answering",
        );
    }
    finding = match kind {
        WaitsFor::Fuse => finding
            .look(
                "grep fuse /proc/mounts; grep -H . /sys/fs/fuse/connections/*/waiting",
                "shows the FUSE mounts and the number of requests waiting in each connection",
            )
            .change(
                "echo 1 > /sys/fs/fuse/connections/<N>/abort",
                "aborts the connection with the waiting requests: all of them fail at once",
            ),
        WaitsFor::Nfs => finding.look(
            "nfsstat -m; grep nfs /proc/mounts",
            "shows the NFS mounts with server and options (hard, soft, timeo)",
        ),
        WaitsFor::Smb => finding.look(
            "grep cifs /proc/mounts; cat /proc/fs/cifs/DebugData",
            "shows the SMB mounts and the requests in flight",
        ),
        WaitsFor::Thaw => finding.change(
            "fsfreeze --unfreeze <mount point>",
            "thaws the file system; make sure first that no backup or snapshot needs it frozen",
        ),
        WaitsFor::Storage | WaitsFor::PageLock => finding.look(
            "grep -H . /sys/block/*/inflight; dmesg | tail -50",
            "shows the requests in flight on each disk, and recent disk errors",
        ),
        WaitsFor::Memory if finding.text("oom_cgroup").is_some() => with_oom_fixes(finding),
        WaitsFor::Memory => finding.look("cat /proc/pressure/memory; free -m", "shows how short memory is"),
        _ => finding.look(
            "ps -eo pid,tid,stat,wchan:32,comm | awk '$3 ~ /^D/'",
            "lists all tasks in this state, to find the one that holds what the others need",
        ),
    };
    finding.change(
        "echo w > /proc/sysrq-trigger; dmesg | tail -200",
        "writes the stacks of all blocked tasks to the kernel log",
    )
}

/// The commands for a cgroup of v1 that is out of memory and in which the kernel may not kill.
fn with_oom_fixes(finding: Finding) -> Finding {
    let Some(path) = finding.text("oom_cgroup").map(str::to_owned) else { return finding };
    let file = |name: &str| word(&format!("/sys/fs/cgroup/memory{path}/{name}"));
    let (control, limit) = (file("memory.oom_control"), file("memory.limit_in_bytes"));
    let cgroup = Entity::Cgroup(path);
    finding
        .fix(
            cgroup.clone(),
            Safety::ReadOnly,
            format!("cat {control} {limit}"),
            "whether it is out of memory (under_oom), and its limit",
        )
        .fix(
            cgroup.clone(),
            Safety::Changing,
            format!("echo 0 > {control}"),
            "lets the kernel kill one of its processes, so that the others go on",
        )
        .fix(cgroup, Safety::Changing, format!("echo <bytes> > {limit}"), "raises the limit, so that all go on")
}

fn words(finding: &Finding) -> Words {
    let process = finding.subject.process.as_ref();
    let who = process.map_or_else(|| "a task".to_owned(), NamedProcess::to_string);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few tasks")]
    let tasks = finding.number("tasks").map_or(1, |tasks| tasks as u64);
    let others = match tasks {
        0 | 1 => String::new(),
        2 => " and one more task".to_owned(),
        #[allow(clippy::cast_precision_loss, reason = "a few tasks")]
        more => format!(" and {} more tasks", number((more - 1) as f64)),
    };
    let verb = match (tasks > 1, finding.flag("awake")) {
        (false, false) => "is",
        (true, false) => "are",
        (false, true) => "was",
        (true, true) => "were",
    };
    let kind = finding.waits_for().unwrap_or(WaitsFor::Unknown);
    let sleep = finding.number("sleep").or_else(|| finding.number("longest_sleep")).map(span);
    let it = if finding.get("server").is_some() { "The stuck task" } else { "It" };
    let place = finding.text("place").map_or_else(String::new, |place| format!(" {it} sleeps in {place}()."));
    Words {
        title: title(&format!("{who}{others} {verb} stuck waiting for {}", awaited_here(finding, kind)), [sleep]),
        cause: format!("{}{place}", cause_here(finding, kind)),
        impact: "A task in this state does nothing else, and no signal ends it until it gets what it waits for. Whoever needs the task, \
                 or something that it holds, waits too. Each such task adds to the load average."
            .to_owned(),
        outlook: String::new(),
    }
}

/// What a task waits for, with its name if it is known.
fn awaited_here(finding: &Finding, kind: WaitsFor) -> String {
    match (finding.text("oom_cgroup"), &finding.subject.mount) {
        (Some(cgroup), _) => format!("memory in cgroup {cgroup}, whose OOM killer is switched off"),
        (None, Some(mount)) => format!("{} at {mount}", awaited(kind)),
        _ => awaited(kind).to_owned(),
    }
}

fn cause_here(finding: &Finding, kind: WaitsFor) -> String {
    if finding.text("oom_cgroup").is_some() {
        return "The cgroup has reached its memory limit. Its OOM killer is switched off (oom_kill_disable), so its tasks sleep until \
                the limit is raised or memory is freed. The machine itself may have plenty."
            .to_owned();
    }
    match finding.get("server") {
        Some(Value::Process(server)) => format!("{server} serves the file system, and does not answer a request."),
        _ => cause(kind).to_owned(),
    }
}

/// What a task waits for, in words.
const fn awaited(kind: WaitsFor) -> &'static str {
    match kind {
        WaitsFor::Fuse => "the server of a FUSE file system",
        WaitsFor::Nfs => "an NFS server",
        WaitsFor::Smb => "an SMB server",
        WaitsFor::Thaw => "a frozen file system",
        WaitsFor::Memory => "memory to be reclaimed",
        WaitsFor::PageLock => "a locked page of a file",
        WaitsFor::Storage => "disk I/O",
        WaitsFor::Lock => "a lock in the kernel",
        WaitsFor::Network => "the other end of a connection",
        WaitsFor::Cpu => "a CPU",
        _ => "something in the kernel",
    }
}

const fn cause(kind: WaitsFor) -> &'static str {
    match kind {
        WaitsFor::Fuse => "The process that serves the FUSE file system does not answer a request.",
        WaitsFor::Nfs => "The NFS server, or the network to it, does not answer.",
        WaitsFor::Smb => "The SMB server, or the network to it, does not answer.",
        WaitsFor::Thaw => {
            "The file system is frozen (by fsfreeze, or while a snapshot is taken), so every task that writes to it waits."
        }
        WaitsFor::Memory => "There is no free memory, and reclaiming some takes this long.",
        WaitsFor::PageLock => "Another task has locked the page, usually while it is read or written.",
        WaitsFor::Storage => "A request to a disk, its queue, or the journal of the file system takes this long.",
        WaitsFor::Lock => "Another task holds the lock and is itself stuck or slow.",
        WaitsFor::Network => "The other end does not answer.",
        WaitsFor::Cpu => "Other tasks have the CPUs.",
        _ => "What it waits for has not come.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::testing::words_hold;
    use crate::{Thresholds, words};
    use kerno_model::{Safety, SchedSummary};

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
        let told = words(finding);
        assert_eq!(told.title, "rsync (100) is stuck waiting for the server of a FUSE file system: 4.9 s");
        assert_eq!((finding.severity, finding.pid(), finding.since), (Severity::Warning, Some(100), None));
        assert_eq!((&*finding.variant, finding.waits_for()), ("fuse", Some(WaitsFor::Fuse)));
        assert!(told.cause.ends_with(" It sleeps in request_wait_answer()."), "{}", told.cause);
        assert_eq!(finding.fixes[0].command, "cat /proc/100/stack");
        let sysrq = finding.fixes.iter().find(|fix| fix.command.contains("sysrq")).unwrap();
        assert_eq!(sysrq.effect, Safety::Changing);
        let late = found(vec![task(101, 2.5, FUSE)]);
        let since = late[0].since.unwrap();
        assert_eq!(
            (since.monotonic_ns, late[0].fixes[0].command.as_str()),
            (2_500_000_000, "cat /proc/100/task/101/stack")
        );
    }

    #[test]
    fn long_ones_and_many_are_critical_and_each_kind_is_one_finding() {
        assert_eq!(found(vec![task(100, 11.0, FUSE)])[0].severity, Severity::Critical);
        let many = found((0..9).map(|tid| task(tid, 3.0, FUSE)).collect());
        assert_eq!((many.len(), many[0].severity), (1, Severity::Critical));
        assert_eq!(
            words(&many[0]).title,
            "rsync (100) and 8 more tasks are stuck waiting for the server of a FUSE file system: 3 s"
        );
        let again = found((2..12).map(|seconds| task(100, f64::from(seconds) / 2.0 + 1.5, FUSE)).collect());
        assert_eq!(again[0].severity, Severity::Warning, "one task, ten times");
        assert_eq!(words(&again[0]).title, "rsync (100) is stuck waiting for the server of a FUSE file system: 7 s");
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

    #[test]
    fn the_mount_its_server_and_a_cgroup_without_oom_killer_are_named() {
        let at = BlockedTask {
            mount: Some("/mnt/data".into()),
            server: 7,
            server_comm: "sshfs".into(),
            ..task(1, 3.0, FUSE)
        };
        let found = found(vec![
            at,
            BlockedTask { oom_cgroup: Some("/box".into()), ..task(2, 3.0, &["mem_cgroup_oom_synchronize"]) },
        ]);
        let told: Vec<_> = found.iter().map(words).collect();
        assert_eq!(
            told[0].title,
            "rsync (100) is stuck waiting for the server of a FUSE file system at /mnt/data: 3 s"
        );
        assert!(told[0].cause.starts_with("sshfs (7) serves the file system"), "{}", told[0].cause);
        assert!(told[1].title.contains("memory in cgroup /box, whose OOM killer is switched off"), "{}", told[1].title);
        assert!(!told[1].cause.contains("no free memory"));
        assert!(
            found[1].fixes.iter().any(|fix| fix.command == "echo 0 > /sys/fs/cgroup/memory/box/memory.oom_control")
        );
        found.iter().for_each(words_hold);
    }

    #[test]
    fn one_that_woke_up_was_stuck() {
        let woken = BlockedTask { at_end: false, ..task(100, 3.0, &["jbd2_log_wait_commit"]) };
        assert_eq!(words(&found(vec![woken])[0]).title, "rsync (100) was stuck waiting for disk I/O: 3 s");
    }

    #[test]
    fn words_are_made_of_the_finding_alone() {
        words_hold(&found(vec![task(100, 4.9, FUSE)])[0]);
        words_hold(&found((0..9).map(|tid| task(tid, 3.0, FUSE)).collect())[0]);
        words_hold(&found(vec![task(100, 4.9, &[])])[0]);
    }
}
