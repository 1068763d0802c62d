use std::cmp::{Ordering, Reverse};

use crate::merge::{Entry, Inexact, Joint, Part, earliest, join_list, latest, latest_text};
use crate::{BlockedTask, CgroupThrottle, CpuGroup, CpuHolder, CpuStat, SchedSummary, SchedWaiter, Series};

/// Of one list of processes or of holders.
const MAX_NAMED: usize = 8;

impl Part for SchedSummary {
    const SIGNAL: &'static str = "sched_delay";

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
    }

    fn shift(&mut self, seconds: f64) {
        let all: [&mut Series; 2] = [&mut self.runnable, &mut self.uninterruptible];
        all.into_iter().for_each(|series| series.shift(seconds));
    }
}

impl Entry for CpuStat {
    const LIST: &'static str = "sched_delay.cpus";
    const MAX: usize = 8192;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        self.cpu == later.cpu
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        self.delay_ns.merge(&later.delay_ns);
        self.switches += later.switches;
        self.busy = joint.share(self.busy, later.busy);
        self.nice = joint.share(self.nice, later.nice);
        self.interrupts = joint.share(self.interrupts, later.interrupts);
        self.io_wait = joint.share(self.io_wait, later.io_wait);
        self.steal = joint.share(self.steal, later.steal);
    }

    /// It was offline before.
    fn new_later(&mut self, joint: &Joint<'_>) {
        self.scale(|share| joint.share(0.0, share));
    }

    /// It has been taken offline.
    fn absent_later(&mut self, joint: &Joint<'_>, _complete: bool) -> bool {
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
    const FULL: usize = 24;

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        self.slow += later.slow;
        self.slow_ns = self.slow_ns.max(later.slow_ns);
        self.slow_total_ns += later.slow_total_ns;
        self.max_ns = self.max_ns.max(later.max_ns);
        self.first_ns = earliest(self.first_ns, later.first_ns);
        for holder in &later.held_by {
            let of = |holder: &CpuHolder| (holder.pid, holder.comm.clone());
            match self.held_by.iter_mut().find(|known| of(known) == of(holder)) {
                Some(known) => known.waits += holder.waits,
                None => self.held_by.push(holder.clone()),
            }
        }
        self.held_by.sort_by_key(|holder| (Reverse(holder.waits), holder.pid));
        if self.held_by.len() > MAX_NAMED {
            *joint.notes.left_out.entry("sched_delay.waiters.held_by".into()).or_default() +=
                (self.held_by.len() - MAX_NAMED) as u64;
            self.held_by.truncate(MAX_NAMED);
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        (Reverse(self.slow_total_ns), self.pid).cmp(&(Reverse(other.slow_total_ns), other.pid))
    }
}

impl Entry for CpuGroup {
    const LIST: &'static str = "sched_delay.groups";
    const MAX: usize = 64;
    const FULL: usize = 12;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        (&self.comm, self.cgroup_id) == (&later.comm, later.cgroup_id)
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        // Who was there in both windows must not count twice, and who they were is not known of all.
        joint.inexact("sched_delay.groups.processes", Inexact::AtLeast);
        self.processes = self.processes.max(later.processes);
        self.threads = later.threads;
        self.run_ns += later.run_ns;
        self.wait_ns += later.wait_ns;
        self.realtime = later.realtime;
        self.nice = later.nice;
        joint.pids(&mut self.pids, &later.pids, MAX_NAMED, |used| used.run_ns);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |group: &Self| (Reverse((group.run_ns, group.pids.first().copied())), group.cgroup_id);
        key(self).cmp(&key(other)).then_with(|| self.comm.cmp(&other.comm))
    }
}

impl Entry for CgroupThrottle {
    const LIST: &'static str = "sched_delay.throttled";
    const MAX: usize = 128;
    const FULL: usize = 32;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        self.path == later.path
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        latest_text(&mut self.file, &later.file);
        latest(&mut self.quota_us, &later.quota_us);
        latest(&mut self.period_us, &later.period_us);
        self.periods += later.periods;
        self.throttled_periods += later.throttled_periods;
        self.throttled_ns += later.throttled_ns;
        self.used_ns += later.used_ns;
        joint.pids(&mut self.pids, &later.pids, MAX_NAMED, |used| used.run_ns);
    }

    fn order(&self, other: &Self) -> Ordering {
        Reverse(self.throttled_ns).cmp(&Reverse(other.throttled_ns)).then_with(|| self.path.cmp(&other.path))
    }
}

impl Entry for BlockedTask {
    const LIST: &'static str = "sched_delay.blocked";
    const MAX: usize = 128;
    const FULL: usize = 32;

    /// Each sleep is one.
    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, ""), (later.pid, "")) && (self.tid, self.since_ns) == (later.tid, later.since_ns)
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        self.seconds = self.seconds.max(later.seconds);
        self.at_end = later.at_end;
    }

    fn absent_later(&mut self, _joint: &Joint<'_>, complete: bool) -> bool {
        self.at_end &= !complete;
        true
    }

    fn order(&self, other: &Self) -> Ordering {
        other.seconds.total_cmp(&self.seconds).then(self.tid.cmp(&other.tid))
    }
}
