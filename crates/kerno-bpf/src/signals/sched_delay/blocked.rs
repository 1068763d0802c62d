//! Threads that sleep uninterruptibly for long: followed over the window, so that one that got free before its end is told of too.

use std::collections::{HashMap, HashSet};

use crate::engine::{Gap, Gaps, Late, Question, Tick, proc_has_host_pids};
use crate::waits::asleep;
use crate::waits::ends::Ends;
use crate::waits::places::{self, ServedMount};
use crate::waits::state;
use kerno_model::BlockedTask;

/// The most threads that are named.
const MAX_TASKS: usize = 32;

/// From here on a sleep is looked at: everything shorter is normal I/O, also on slow devices.
const LONG_NS: u64 = 1_000_000_000;

#[derive(Debug, Default)]
pub(super) struct BlockedTasks {
    /// By thread and when it fell asleep: each sleep is one.
    seen: HashMap<(u32, u64), BlockedTask>,
    /// The FUSE connections in which some wait.
    connections: HashMap<(u32, u64), u32>,
    /// The sleeps whose place in the kernel is not known yet, and why not.
    unknown: HashMap<(u32, u64), Option<Late>>,
}

impl BlockedTasks {
    pub(super) fn begin(&mut self) {
        self.seen.clear();
        self.unknown.clear();
        self.connections.clear();
    }

    /// Says who serves the FUSE file systems in which some wait.
    pub(super) fn name_servers(&mut self, tick: &Tick<'_>) {
        let minors: HashSet<u32> = self.connections.values().copied().collect();
        if minors.is_empty() {
            return;
        }
        let find = move || {
            let ends = Ends::scan();
            let of = |minor| Some((minor, places::fuse_server(&ends, minor)?));
            let servers = minors.into_iter().filter_map(of);
            servers.map(|(minor, pid)| (minor, (pid, state::name(pid).unwrap_or_default()))).collect::<HashMap<_, _>>()
        };
        let Ok(servers) = tick.resolver.ask(Question::Servers, find) else { return };
        for (key, minor) in &self.connections {
            if let (Some(task), Some((pid, comm))) = (self.seen.get_mut(key), servers.get(minor)) {
                (task.server, task.server_comm) = (*pid, comm.clone());
            }
        }
    }

    pub(super) fn sample(&mut self, tick: &Tick<'_>) {
        for task in self.seen.values_mut() {
            task.at_end = false;
        }
        let mut long: Vec<_> =
            tick.tasks.blocked().filter(|task| tick.now_ns.saturating_sub(task.since_ns) >= LONG_NS).collect();
        long.sort_unstable_by_key(|task| (task.since_ns, task.row.tid));
        let now: HashSet<_> = long.iter().map(|task| (task.row.tid, task.since_ns)).collect();
        for task in long {
            let key = (task.row.tid, task.since_ns);
            #[allow(clippy::cast_precision_loss, reason = "seconds")]
            let seconds = tick.now_ns.saturating_sub(task.since_ns) as f64 / 1e9;
            if let Some(known) = self.seen.get_mut(&key) {
                known.seconds = seconds;
                known.at_end = true;
                continue;
            }
            if self.seen.len() >= MAX_TASKS && !self.forget_shortest(&now) {
                continue;
            }
            let row = &task.row;
            self.seen.insert(
                key,
                BlockedTask {
                    pid: row.pid,
                    tid: row.tid,
                    comm: row.comm.to_str_lossy().into_owned(),
                    kernel_thread: row.is_kernel_thread(),
                    seconds,
                    since_ns: task.since_ns,
                    at_end: true,
                    ..BlockedTask::default()
                },
            );
            // Else these ids are others' in /proc.
            if proc_has_host_pids() {
                self.unknown.insert(key, None);
            }
        }
        self.look(tick);
    }

    /// Finds out where they sleep. A lock of the process or of the kernel may be in the way; then the next sample has the answer.
    fn look(&mut self, tick: &Tick<'_>) {
        let asleep: Vec<_> = self.unknown.keys().filter_map(|key| Some((*key, self.seen.get(key)?))).collect();
        let questions = asleep.iter().map(|((tid, since_ns), task)| {
            let (pid, tid) = (task.pid, *tid);
            (Question::Stack(tid, *since_ns), move || Place::of(pid, tid))
        });
        let answers = tick.resolver.ask_all(questions);
        let keys: Vec<_> = asleep.into_iter().map(|(key, _)| key).collect();
        self.unknown.clear();
        for (key, answer) in keys.into_iter().zip(answers) {
            match (answer, self.seen.get_mut(&key)) {
                (Ok(place), Some(task)) => {
                    (task.wait_channel, task.stack) = (place.wait_channel, place.stack);
                    task.oom_cgroup = place.oom_cgroup;
                    if let Some(mount) = place.mount {
                        task.mount = Some(mount.target);
                        if mount.kind.starts_with("fuse") {
                            self.connections.insert(key, mount.minor);
                        }
                    }
                }
                (Err(late), Some(_)) => drop(self.unknown.insert(key, Some(late))),
                (_, None) => {}
            }
        }
    }

    /// Makes room: of those that got free, the one that slept shortest is told of least. False where none did.
    fn forget_shortest(&mut self, asleep: &HashSet<(u32, u64)>) -> bool {
        let free = self.seen.iter().filter(|(key, _)| !asleep.contains(*key));
        let shortest = free.min_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds)).map(|(key, _)| *key);
        shortest.is_some_and(|key| self.seen.remove(&key).is_some())
    }

    /// The longest first.
    pub(super) fn take(&mut self, gaps: &mut Gaps) -> Vec<BlockedTask> {
        for (key, late) in self.unknown.drain() {
            if let (Some(task), Some(late)) = (self.seen.get(&key), late) {
                let what = format!("where {} ({}) is blocked", task.comm, task.tid);
                gaps.add(Gap { what, reason: format!("/proc/PID/stack: {late}") });
            }
        }
        let mut tasks: Vec<_> = self.seen.drain().map(|(_, task)| task).collect();
        tasks.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then(a.tid.cmp(&b.tid)));
        tasks
    }
}

/// Where a thread is stuck.
#[derive(Debug, Default)]
struct Place {
    wait_channel: Option<String>,
    stack: Vec<String>,
    mount: Option<ServedMount>,
    oom_cgroup: Option<String>,
}

impl Place {
    fn of(pid: u32, tid: u32) -> Self {
        let (wait_channel, stack) = (asleep::wait_channel(pid, tid), asleep::stack(pid, tid));
        let is_in = |names: &[&str]| {
            stack.iter().chain(&wait_channel).any(|frame| names.iter().any(|name| frame.starts_with(name)))
        };
        let kind =
            [("fuse", &["fuse_", "request_wait_answer"][..]), ("nfs", &["nfs", "rpc_"]), ("cifs", &["cifs_", "smb2_"])];
        let kind = kind.into_iter().find(|(_, names)| is_in(names)).map(|(kind, _)| kind);
        let mount = kind.and_then(|kind| places::served_mount(pid, tid, kind));
        let oom_cgroup =
            is_in(&["mem_cgroup_oom", "mem_cgroup_out_of_memory"]).then(|| places::oom_cgroup(pid)).flatten();
        Self { wait_channel, stack, mount, oom_cgroup }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_got_free_make_room_for_others() {
        let seen =
            (1..=3).map(|tid| ((tid, 7), BlockedTask { tid, seconds: f64::from(tid), ..BlockedTask::default() }));
        let mut tasks = BlockedTasks { seen: seen.collect(), ..BlockedTasks::default() };
        assert!(tasks.forget_shortest(&HashSet::from([(1, 7)])));
        assert_eq!(tasks.take(&mut Gaps::new("sched_delay")).iter().map(|task| task.tid).collect::<Vec<_>>(), [3, 1]);
        assert!(!BlockedTasks::default().forget_shortest(&HashSet::new()));
    }
}
