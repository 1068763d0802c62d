use std::cmp::{Ordering, Reverse};

use crate::merge::{Entry, Joint, Part, Selected, add, cut_lists, join_list, latest, latest_text};
use crate::merged::Merged;
use crate::{CgroupMemory, OomKill, OomSummary, ProcessMemory};

/// Of a cgroup.
const STALLED: &str = "oom_track.cgroups.some_stalled";

impl Part for OomSummary {
    const SIGNAL: &'static str = "oom_track";

    fn cuts(&self, notes: &mut Merged) {
        cut_lists(notes, [&self.cgroups]);
        cut_lists(notes, [&self.processes]);
    }

    fn merge(&mut self, later: &Self, joint: &mut Joint<'_>) {
        join_list(&mut self.kills, &later.kills, joint);
        add(&mut self.kills_total, later.kills_total);
        latest(&mut self.total_bytes, &later.total_bytes);
        joint.series(&mut self.available_bytes, &later.available_bytes);
        // A machine may give up its swap.
        self.swap_total_bytes = later.swap_total_bytes;
        joint.series(&mut self.swap_free_bytes, &later.swap_free_bytes);
        self.some_stalled = joint.known_share("oom_track.some_stalled", self.some_stalled, later.some_stalled);
        self.all_stalled = joint.known_share("oom_track.all_stalled", self.all_stalled, later.all_stalled);
        add(&mut self.direct_reclaims, later.direct_reclaims);
        add(&mut self.direct_scanned_pages, later.direct_scanned_pages);
        add(&mut self.major_faults, later.major_faults);
        add(&mut self.refaulted_pages, later.refaulted_pages);
        add(&mut self.swapped_out_pages, later.swapped_out_pages);
        join_list(&mut self.cgroups, &later.cgroups, joint);
        join_list(&mut self.processes, &later.processes, joint);
    }

    fn shift(&mut self, seconds: f64) {
        self.available_bytes.shift(seconds);
        self.swap_free_bytes.shift(seconds);
        self.cgroups.iter_mut().for_each(|cgroup| cgroup.used_bytes.shift(seconds));
        self.processes.iter_mut().for_each(|process| process.anon_bytes.shift(seconds));
    }
}

impl Entry for OomKill {
    const LIST: &'static str = "oom_track.kills";
    /// As in one window, whose first ones are kept: `kills_total` has all.
    const MAX: usize = 64;
    const SELECTED: Selected = Selected::All;

    fn is(&self, _later: &Self, _joint: &Joint<'_>) -> bool {
        false
    }

    fn join(&mut self, _later: &Self, _joint: &mut Joint<'_>) {}

    fn order(&self, other: &Self) -> Ordering {
        (self.timestamp_ns, self.pid).cmp(&(other.timestamp_ns, other.pid))
    }
}

impl Entry for CgroupMemory {
    const LIST: &'static str = "oom_track.cgroups";
    const MAX: usize = 128;
    const SELECTED: Selected = Selected::Some;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        self.path == later.path
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        joint.series(&mut self.used_bytes, &later.used_bytes);
        latest_text(&mut self.directory, &later.directory);
        latest(&mut self.limit_bytes, &later.limit_bytes);
        self.high_bytes = later.high_bytes;
        add(&mut self.limit_hits, later.limit_hits);
        add(&mut self.high_hits, later.high_hits);
        add(&mut self.major_faults, later.major_faults);
        add(&mut self.refaulted_pages, later.refaulted_pages);
        add(&mut self.oom_kills, later.oom_kills);
        self.some_stalled = joint.known_share(STALLED, self.some_stalled, later.some_stalled);
        self.largest.clone_from(&later.largest);
    }

    fn new_later(&mut self, joint: &mut Joint<'_>) {
        joint.shift(&mut self.used_bytes);
        self.some_stalled = joint.known_share(STALLED, None, self.some_stalled);
    }

    fn absent_later(&mut self, joint: &mut Joint<'_>) -> bool {
        self.some_stalled = joint.known_share(STALLED, self.some_stalled, None);
        true
    }

    /// Those nearest to their limit first.
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    fn order(&self, other: &Self) -> Ordering {
        let used = |cgroup: &Self| cgroup.used_bytes.last().unwrap_or(0.0) / cgroup.limit_bytes.max(1) as f64;
        used(other).total_cmp(&used(self)).then_with(|| self.path.cmp(&other.path))
    }
}

impl Entry for ProcessMemory {
    const LIST: &'static str = "oom_track.processes";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::Some;

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        latest(&mut self.cgroup, &later.cgroup);
        joint.series(&mut self.anon_bytes, &later.anon_bytes);
        self.alive = later.alive;
    }

    fn new_later(&mut self, joint: &mut Joint<'_>) {
        joint.shift(&mut self.anon_bytes);
    }

    fn absent_later(&mut self, joint: &mut Joint<'_>) -> bool {
        self.alive &= joint.may_be_alive(self.pid);
        true
    }

    fn order(&self, other: &Self) -> Ordering {
        let last = |process: &Self| process.anon_bytes.last().unwrap_or(0.0);
        let key = |process: &Self| (Reverse(process.alive), process.pid);
        last(other).total_cmp(&last(self)).then_with(|| key(self).cmp(&key(other)))
    }
}
