use std::cmp::{Ordering, Reverse};

use crate::errno::add_counts;
use crate::merge::{Entry, Joint, Part, Selected, add, cut_lists, earliest, join_list, latest_text};
use crate::merged::Merged;
use crate::{SyncStat, SyscallOffender, SyscallStat, SyscallSummary};

/// Kept of each process and call.
const MAX_EXEMPLARS: usize = 4;

impl Part for SyscallSummary {
    const SIGNAL: &'static str = "syscall_latency";

    fn cuts(&self, notes: &mut Merged) {
        cut_lists(notes, [&self.offenders]);
        cut_lists(notes, [&self.syncs]);
    }

    fn merge(&mut self, later: &Self, joint: &mut Joint<'_>) {
        add(&mut self.calls, later.calls);
        join_list(&mut self.syscalls, &later.syscalls, joint);
        join_list(&mut self.offenders, &later.offenders, joint);
        join_list(&mut self.syncs, &later.syncs, joint);
    }

    fn shift(&mut self, _seconds: f64) {}
}

impl Entry for SyscallStat {
    const LIST: &'static str = "syscall_latency.syscalls";
    const MAX: usize = 1024;
    const SELECTED: Selected = Selected::All;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        (self.nr, self.compat) == (later.nr, later.compat)
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        add(&mut self.calls, later.calls);
        add_counts(&mut self.errors, &later.errors);
        self.latency.merge(&later.latency);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |stat: &Self| (Reverse(stat.calls), stat.compat, stat.nr);
        key(self).cmp(&key(other))
    }
}

impl Entry for SyscallOffender {
    const LIST: &'static str = "syscall_latency.offenders";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::Top { full: 64, top: 64, field: "slow_total_ns" };

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
            && (self.nr, self.compat) == (later.nr, later.compat)
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        add(&mut self.slow, later.slow);
        self.slow_ns = self.slow_ns.max(later.slow_ns);
        add(&mut self.slow_total_ns, later.slow_total_ns);
        self.max_ns = self.max_ns.max(later.max_ns);
        self.first_ns = earliest(self.first_ns, later.first_ns);
        add_counts(&mut self.errors, &later.errors);
        self.exemplars.extend_from_slice(&later.exemplars);
        self.exemplars.sort_by_key(|call| (Reverse(call.latency_ns), call.timestamp_ns));
        self.exemplars.truncate(MAX_EXEMPLARS);
        self.exemplars.sort_by_key(|call| call.timestamp_ns);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |offender: &Self| (Reverse(offender.weight()), offender.pid, offender.compat, offender.nr);
        key(self).cmp(&key(other))
    }

    /// The time in slow calls, with a millisecond for each error.
    fn weight(&self) -> u64 {
        let errors = self.errors.iter().fold(0u64, |sum, error| sum.saturating_add(error.count));
        self.slow_total_ns.saturating_add(errors.saturating_mul(1_000_000))
    }
}

impl Entry for SyncStat {
    const LIST: &'static str = "syscall_latency.syncs";
    const MAX: usize = 128;
    const SELECTED: Selected = Selected::Top { full: 32, top: 32, field: "total_ns" };

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        add(&mut self.calls, later.calls);
        add(&mut self.total_ns, later.total_ns);
        self.max_ns = self.max_ns.max(later.max_ns);
        self.first_ns = earliest(self.first_ns, later.first_ns);
    }

    fn order(&self, other: &Self) -> Ordering {
        (Reverse(self.total_ns), self.pid).cmp(&(Reverse(other.total_ns), other.pid))
    }

    fn weight(&self) -> u64 {
        self.total_ns
    }
}
