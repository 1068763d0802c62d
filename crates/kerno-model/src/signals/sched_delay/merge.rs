use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use crate::merge::{
    Entry, Joint, Part, Selected, add, cut_lists, earliest, join_list, join_pids, latest, latest_text, rank_pids,
};
use crate::merged::{Inexact, Merged};
use crate::{
    BlockedTask, CgroupThrottle, CpuGroup, CpuHolder, CpuStat, DnsWait, FullListener, HeldProcess, Process,
    SchedSummary, SchedWaiter, Series, Stall, TaskUse,
};

/// Of one list of processes or of holders in one window.
const MAX_NAMED: usize = 8;

/// Of one list of processes in a merged window.
const MAX_PIDS: usize = 16;

/// Of blocked tasks in one window.
const MAX_BLOCKED: usize = 32;

/// Of stalls, of processes that are held, and of full listeners, each, in one window.
const MAX_STALLS: usize = 32;

/// Of waits for DNS servers in one window.
const MAX_DNS_WAITS: usize = 64;

const GROUP_PIDS: &str = "sched_delay.groups.pids";
const THROTTLED_PIDS: &str = "sched_delay.throttled.pids";

impl Part for SchedSummary {
    const SIGNAL: &'static str = "sched_delay";

    fn cuts(&self, notes: &mut Merged) {
        cut_lists(notes, [&self.waiters]);
        cut_lists(notes, self.waiters.iter().map(|waiter| &waiter.held_by));
        cut_lists(notes, [&self.groups]);
        if self.groups.iter().any(|group| group.pids.len() >= MAX_NAMED) {
            notes.cut(GROUP_PIDS, None);
        }
        cut_lists(notes, [&self.throttled]);
        if self.throttled.iter().any(|cgroup| cgroup.pids.len() >= MAX_NAMED) {
            notes.cut(THROTTLED_PIDS, None);
        }
        // One window follows no more; the shortest sleeps are left out.
        if self.blocked.len() >= MAX_BLOCKED {
            notes.cut(BlockedTask::LIST, None);
        }
        let full = |list, length, most| (length >= most).then_some(list);
        let lists = [
            full(Stall::LIST, self.stalls.len(), MAX_STALLS),
            full(HeldProcess::LIST, self.held.len(), MAX_STALLS),
            full(FullListener::LIST, self.full_listeners.len(), MAX_STALLS),
            full(DnsWait::LIST, self.dns_waits.len(), MAX_DNS_WAITS),
        ];
        lists.into_iter().flatten().for_each(|list| notes.cut(list, None));
    }

    fn merge(&mut self, later: &Self, joint: &mut Joint<'_>) {
        join_list(&mut self.cpus, &later.cpus, joint);
        self.wakeup_ns.merge(&later.wakeup_ns);
        self.preempted_ns.merge(&later.preempted_ns);
        join_list(&mut self.waiters, &later.waiters, joint);
        join_list(&mut self.groups, &later.groups, joint);
        joint.series(&mut self.runnable, &later.runnable);
        self.some_stalled = joint.known_share("sched_delay.some_stalled", self.some_stalled, later.some_stalled);
        join_list(&mut self.throttled, &later.throttled, joint);
        join_list(&mut self.blocked, &later.blocked, joint);
        joint.series(&mut self.uninterruptible, &later.uninterruptible);
        join_list(&mut self.stalls, &later.stalls, joint);
        join_list(&mut self.held, &later.held, joint);
        join_list(&mut self.full_listeners, &later.full_listeners, joint);
        join_list(&mut self.dns_waits, &later.dns_waits, joint);
    }

    fn rank_processes(&mut self, processes: &BTreeMap<u32, Process>, notes: &mut Merged) {
        let run = |used: &TaskUse| used.run_ns;
        for group in &mut self.groups {
            rank_pids(&mut group.pids, (GROUP_PIDS, MAX_PIDS), run, processes, notes);
        }
        for cgroup in &mut self.throttled {
            rank_pids(&mut cgroup.pids, (THROTTLED_PIDS, MAX_PIDS), run, processes, notes);
        }
    }

    fn shift(&mut self, seconds: f64) {
        let all: [&mut Series; 2] = [&mut self.runnable, &mut self.uninterruptible];
        all.into_iter().for_each(|series| series.shift(seconds));
    }
}

impl Entry for CpuStat {
    const LIST: &'static str = "sched_delay.cpus";
    const MAX: usize = 8192;
    const SELECTED: Selected = Selected::All;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        self.cpu == later.cpu
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        self.delay_ns.merge(&later.delay_ns);
        add(&mut self.switches, later.switches);
        self.busy = joint.share(self.busy, later.busy);
        self.nice = joint.share(self.nice, later.nice);
        self.interrupts = joint.share(self.interrupts, later.interrupts);
        self.io_wait = joint.share(self.io_wait, later.io_wait);
        self.steal = joint.share(self.steal, later.steal);
    }

    /// It was offline before.
    fn new_later(&mut self, joint: &mut Joint<'_>) {
        self.scale(|share| joint.share(0.0, share));
    }

    /// It has been taken offline.
    fn absent_later(&mut self, joint: &mut Joint<'_>) -> bool {
        self.scale(|share| joint.share(share, 0.0));
        true
    }

    fn order(&self, other: &Self) -> Ordering {
        self.cpu.cmp(&other.cpu)
    }
}

impl CpuStat {
    fn scale(&mut self, scaled: impl Fn(f64) -> f64) {
        for share in [&mut self.busy, &mut self.nice, &mut self.interrupts, &mut self.io_wait, &mut self.steal] {
            *share = scaled(*share);
        }
    }
}

impl Entry for SchedWaiter {
    const LIST: &'static str = "sched_delay.waiters";
    const MAX: usize = 128;
    const SELECTED: Selected = Selected::Top { full: 24, top: 24, field: "slow_total_ns" };

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        add(&mut self.slow, later.slow);
        self.slow_ns = self.slow_ns.max(later.slow_ns);
        add(&mut self.slow_total_ns, later.slow_total_ns);
        self.max_ns = self.max_ns.max(later.max_ns);
        self.first_ns = earliest(self.first_ns, later.first_ns);
        join_list(&mut self.held_by, &later.held_by, joint);
    }

    fn order(&self, other: &Self) -> Ordering {
        (Reverse(self.slow_total_ns), self.pid).cmp(&(Reverse(other.slow_total_ns), other.pid))
    }

    fn weight(&self) -> u64 {
        self.slow_total_ns
    }
}

impl Entry for CpuHolder {
    const LIST: &'static str = "sched_delay.waiters.held_by";
    const MAX: usize = 16;
    const SELECTED: Selected = Selected::Top { full: MAX_NAMED, top: MAX_NAMED, field: "waits" };

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        add(&mut self.waits, later.waits);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |holder: &Self| (Reverse(holder.waits), holder.pid);
        key(self).cmp(&key(other)).then_with(|| self.comm.cmp(&other.comm))
    }

    fn weight(&self) -> u64 {
        self.waits
    }
}

impl Entry for CpuGroup {
    const LIST: &'static str = "sched_delay.groups";
    const MAX: usize = 64;
    const SELECTED: Selected = Selected::Top { full: 12, top: 6, field: "run_ns" };

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        (&self.comm, self.cgroup_id) == (&later.comm, later.cgroup_id)
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        // Who was there in both windows must not count twice, and who they were is not known of all.
        joint.inexact("sched_delay.groups.processes", Inexact::AtLeast);
        self.processes = self.processes.max(later.processes);
        self.threads = later.threads;
        add(&mut self.run_ns, later.run_ns);
        add(&mut self.wait_ns, later.wait_ns);
        self.realtime = later.realtime;
        self.nice = later.nice;
        join_pids(&mut self.pids, &later.pids);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |group: &Self| (Reverse((group.run_ns, group.pids.first().copied())), group.cgroup_id);
        key(self).cmp(&key(other)).then_with(|| self.comm.cmp(&other.comm))
    }

    fn weight(&self) -> u64 {
        self.run_ns
    }
}

impl Entry for CgroupThrottle {
    const LIST: &'static str = "sched_delay.throttled";
    const MAX: usize = 128;
    const SELECTED: Selected = Selected::Top { full: 32, top: 32, field: "throttled_ns" };

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        self.path == later.path
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.file, &later.file);
        latest(&mut self.quota_us, &later.quota_us);
        latest(&mut self.period_us, &later.period_us);
        add(&mut self.periods, later.periods);
        add(&mut self.throttled_periods, later.throttled_periods);
        add(&mut self.throttled_ns, later.throttled_ns);
        add(&mut self.used_ns, later.used_ns);
        join_pids(&mut self.pids, &later.pids);
    }

    fn order(&self, other: &Self) -> Ordering {
        Reverse(self.throttled_ns).cmp(&Reverse(other.throttled_ns)).then_with(|| self.path.cmp(&other.path))
    }

    fn weight(&self) -> u64 {
        self.throttled_ns
    }
}

impl Entry for BlockedTask {
    const LIST: &'static str = "sched_delay.blocked";
    const MAX: usize = 128;
    const SELECTED: Selected = Selected::All;

    /// Each sleep is one.
    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        let sleep = |task: &Self| (task.tid, task.since_ns);
        sleep(self) == sleep(later) && joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        self.seconds = self.seconds.max(later.seconds);
        self.at_end = later.at_end;
        self.mount = later.mount.clone().or_else(|| self.mount.take());
        self.oom_cgroup = later.oom_cgroup.clone().or_else(|| self.oom_cgroup.take());
        if later.server != 0 {
            (self.server, self.server_comm) = (later.server, later.server_comm.clone());
        }
    }

    fn absent_later(&mut self, _joint: &mut Joint<'_>) -> bool {
        self.at_end = false;
        true
    }

    fn order(&self, other: &Self) -> Ordering {
        other.seconds.total_cmp(&self.seconds).then((self.tid, self.since_ns).cmp(&(other.tid, other.since_ns)))
    }
}

impl Entry for Stall {
    const LIST: &'static str = "sched_delay.stalls";
    const MAX: usize = 128;
    const SELECTED: Selected = Selected::All;

    /// Each sleep is one.
    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        let sleep = |stall: &Self| (stall.tid, stall.since_ns);
        sleep(self) == sleep(later) && joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        let (seconds, moves) = (self.seconds.max(later.seconds), self.moves || later.moves);
        *self = Self { seconds, moves, ..later.clone() };
    }

    fn absent_later(&mut self, _joint: &mut Joint<'_>) -> bool {
        self.at_end = false;
        true
    }

    fn order(&self, other: &Self) -> Ordering {
        other.seconds.total_cmp(&self.seconds).then((self.tid, self.since_ns).cmp(&(other.tid, other.since_ns)))
    }
}

impl Entry for DnsWait {
    const LIST: &'static str = "sched_delay.dns_waits";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::All;

    /// Each sleep is one.
    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        let sleep = |wait: &Self| (wait.tid, wait.since_ns);
        sleep(self) == sleep(later) && joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        *self = Self { seconds: self.seconds.max(later.seconds), ..later.clone() };
    }

    fn absent_later(&mut self, _joint: &mut Joint<'_>) -> bool {
        self.at_end = false;
        true
    }

    fn order(&self, other: &Self) -> Ordering {
        other.seconds.total_cmp(&self.seconds).then((self.tid, self.since_ns).cmp(&(other.tid, other.since_ns)))
    }
}

impl Entry for HeldProcess {
    const LIST: &'static str = "sched_delay.held";
    const MAX: usize = 128;
    const SELECTED: Selected = Selected::All;

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        let (seconds, queued) = (self.seconds.max(later.seconds), self.queued.max(later.queued));
        let listener = later.listener.clone().or_else(|| self.listener.take());
        *self = Self { seconds, queued, listener, ..later.clone() };
    }

    fn absent_later(&mut self, _joint: &mut Joint<'_>) -> bool {
        self.at_end = false;
        true
    }

    fn order(&self, other: &Self) -> Ordering {
        other.queued.cmp(&self.queued).then(other.seconds.total_cmp(&self.seconds)).then(self.pid.cmp(&other.pid))
    }
}

impl Entry for FullListener {
    const LIST: &'static str = "sched_delay.full_listeners";
    const MAX: usize = 64;
    const SELECTED: Selected = Selected::All;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        (&self.name, self.inode) == (&later.name, later.inode)
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        let (queued, full, looks) = (
            self.queued.max(later.queued),
            self.full.saturating_add(later.full),
            self.looks.saturating_add(later.looks),
        );
        *self = Self { queued, full, looks, ..later.clone() };
    }

    fn order(&self, other: &Self) -> Ordering {
        other.full.cmp(&self.full).then_with(|| self.name.cmp(&other.name)).then(self.inode.cmp(&other.inode))
    }
}
