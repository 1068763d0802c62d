use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use crate::errno::add_counts;
use crate::merge::{
    Entry, Joint, Part, Selected, add, cut_lists, earliest, join_list, join_pids, latest, latest_text, rank_pids,
};
use crate::merged::{Inexact, Merged};
use crate::{
    CgroupIo, DiskDevice, DiskFailure, DiskOpStat, DiskSubmitter, DiskSummary, DiskWriter, Filesystem,
    FilesystemWriter, Process, Series, TaskUse,
};

/// Of one cgroup.
const MAX_PIDS: usize = 16;

/// Of file systems in one window.
const MAX_FILESYSTEMS: usize = 128;

const PIDS: &str = "disk_io.throttled.pids";
const STALLED: &str = "disk_io.throttled.some_stalled";

impl Part for DiskSummary {
    const SIGNAL: &'static str = "disk_io";

    fn cuts(&self, notes: &mut Merged) {
        cut_lists(notes, [&self.submitters]);
        if self.filesystems.len() >= MAX_FILESYSTEMS {
            notes.cut(Filesystem::LIST, None);
        }
        cut_lists(notes, [&self.writers]);
        cut_lists(notes, self.filesystems.iter().map(|fs| &fs.writers));
        cut_lists(notes, [&self.throttled]);
        if self.throttled.iter().any(|cgroup| cgroup.pids.len() >= MAX_PIDS) {
            notes.cut(PIDS, None);
        }
    }

    fn merge(&mut self, later: &Self, joint: &mut Joint<'_>) {
        self.join_devices(later, joint);
        join_list(&mut self.submitters, &later.submitters, joint);
        join_list(&mut self.writers, &later.writers, joint);
        join_list(&mut self.failures, &later.failures, joint);
        join_list(&mut self.filesystems, &later.filesystems, joint);
        join_list(&mut self.throttled, &later.throttled, joint);
        self.some_stalled = joint.known_share("disk_io.some_stalled", self.some_stalled, later.some_stalled);
        self.all_stalled = joint.known_share("disk_io.all_stalled", self.all_stalled, later.all_stalled);
        joint.series(&mut self.dirty_bytes, &later.dirty_bytes);
        joint.series(&mut self.writeback_bytes, &later.writeback_bytes);
    }

    fn rank_processes(&mut self, processes: &BTreeMap<u32, Process>, notes: &mut Merged) {
        let used = |used: &TaskUse| used.read_bytes.saturating_add(used.write_bytes);
        for cgroup in &mut self.throttled {
            rank_pids(&mut cgroup.pids, (PIDS, MAX_PIDS), used, processes, notes);
        }
    }

    fn shift(&mut self, seconds: f64) {
        let devices = self.devices.iter_mut().flat_map(|device| [&mut device.in_flight, &mut device.await_ms]);
        let filesystems = self.filesystems.iter_mut().flat_map(|fs| [&mut fs.available_bytes, &mut fs.free_inodes]);
        devices.chain(filesystems).for_each(|series| series.shift(seconds));
        self.dirty_bytes.shift(seconds);
        self.writeback_bytes.shift(seconds);
    }
}

impl DiskSummary {
    /// A device that a window does not have was not used in it: at each of its samples nothing was under way.
    fn join_devices(&mut self, later: &Self, joint: &mut Joint<'_>) {
        let idle = |series: &Series| series.points().iter().map(|(at, _)| (*at, 0.0)).collect::<Series>();
        let (idle_before, idle_later) = (idle(&self.dirty_bytes), idle(&later.dirty_bytes));
        let is_there = |devices: &[DiskDevice], device: &DiskDevice| devices.iter().any(|other| other.is_same(device));
        let absent = self.devices.iter().filter(|device| !is_there(&later.devices, device));
        let rests = absent.map(|device| DiskDevice { in_flight: idle_later.clone(), ..device.unused() });
        let joined: Vec<_> = later.devices.iter().cloned().chain(rests).collect();
        for device in &joined {
            if !is_there(&self.devices, device) {
                self.devices.push(DiskDevice { in_flight: idle_before.clone(), ..device.unused() });
            }
        }
        join_list(&mut self.devices, &joined, joint);
    }
}

impl DiskDevice {
    /// The same number may be another device later.
    fn is_same(&self, other: &Self) -> bool {
        (&self.dev, &self.name) == (&other.dev, &other.name)
    }

    /// The device as it is in a window in which it is not used.
    fn unused(&self) -> Self {
        Self {
            dev: self.dev.clone(),
            name: self.name.clone(),
            rotational: self.rotational,
            backing: self.backing.clone(),
            mounts: self.mounts.clone(),
            ..Self::default()
        }
    }
}

impl Entry for DiskDevice {
    const LIST: &'static str = "disk_io.devices";
    const MAX: usize = 512;
    const SELECTED: Selected = Selected::All;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        self.is_same(later)
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        self.rotational = later.rotational;
        self.backing.clone_from(&later.backing);
        self.mounts.clone_from(&later.mounts);
        join_list(&mut self.ops, &later.ops, joint);
        joint.series(&mut self.in_flight, &later.in_flight);
        self.utilisation = joint.share(self.utilisation, later.utilisation);
        joint.series(&mut self.await_ms, &later.await_ms);
    }

    fn order(&self, other: &Self) -> Ordering {
        let number = |device: &Self| {
            let (major, minor) = device.dev.split_once(':')?;
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        };
        number(self).cmp(&number(other)).then_with(|| (&self.dev, &self.name).cmp(&(&other.dev, &other.name)))
    }
}

impl Entry for DiskOpStat {
    const LIST: &'static str = "disk_io.devices.ops";
    const MAX: usize = 16;
    const SELECTED: Selected = Selected::All;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        self.op == later.op
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        add(&mut self.count, later.count);
        add(&mut self.bytes, later.bytes);
        add_counts(&mut self.errors, &later.errors);
        self.queue_ns.merge(&later.queue_ns);
        self.device_ns.merge(&later.device_ns);
    }

    fn order(&self, other: &Self) -> Ordering {
        self.op.cmp(&other.op)
    }
}

impl Entry for DiskSubmitter {
    const LIST: &'static str = "disk_io.submitters";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::Top { full: 16, top: 16, field: "read_bytes + write_bytes" };

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        self.dev == later.dev && joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        add(&mut self.requests, later.requests);
        add(&mut self.read_bytes, later.read_bytes);
        add(&mut self.write_bytes, later.write_bytes);
        add(&mut self.flushes, later.flushes);
        add(&mut self.total_ns, later.total_ns);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |s: &Self| (Reverse((s.weight(), s.requests)), s.pid);
        key(self).cmp(&key(other)).then_with(|| self.dev.cmp(&other.dev))
    }

    fn weight(&self) -> u64 {
        self.read_bytes.saturating_add(self.write_bytes)
    }
}

impl Entry for DiskFailure {
    const LIST: &'static str = "disk_io.failures";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::All;

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        (&self.dev, self.op, self.errno) == (&later.dev, later.op, later.errno)
            && joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    /// All else is about the first.
    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        add(&mut self.count, later.count);
        self.timestamp_ns = earliest(self.timestamp_ns, later.timestamp_ns);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |f: &Self| (f.timestamp_ns, f.pid, f.op, f.errno);
        key(self).cmp(&key(other)).then_with(|| self.dev.cmp(&other.dev))
    }
}

impl Entry for Filesystem {
    const LIST: &'static str = "disk_io.filesystems";
    const MAX: usize = 512;
    const SELECTED: Selected = Selected::All;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        (&self.mount, &self.source, &self.dev) == (&later.mount, &later.source, &later.dev)
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        self.read_only = later.read_only;
        self.forced = later.forced;
        self.backing.clone_from(&later.backing);
        latest(&mut self.errors, &later.errors);
        latest_text(&mut self.last_error, &later.last_error);
        self.last_error_unix = self.last_error_unix.max(later.last_error_unix);
        latest(&mut self.total_bytes, &later.total_bytes);
        joint.series(&mut self.available_bytes, &later.available_bytes);
        self.total_inodes = later.total_inodes;
        joint.series(&mut self.free_inodes, &later.free_inodes);
        join_list(&mut self.writers, &later.writers, joint);
        // Those that were closed since take no room any more.
        self.deleted.clone_from(&later.deleted);
        self.deleted_bytes = later.deleted_bytes;
    }

    fn new_later(&mut self, joint: &mut Joint<'_>) {
        joint.shift(&mut self.available_bytes);
        joint.shift(&mut self.free_inodes);
    }

    fn order(&self, other: &Self) -> Ordering {
        (&self.mount, &self.source).cmp(&(&other.mount, &other.source))
    }
}

impl Entry for FilesystemWriter {
    const LIST: &'static str = "disk_io.filesystems.writers";
    const MAX: usize = 32;
    const SELECTED: Selected = Selected::Some;

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        self.files = later.files;
        add(&mut self.grown_bytes, later.grown_bytes);
        latest_text(&mut self.path, &later.path);
    }

    fn order(&self, other: &Self) -> Ordering {
        (Reverse(self.grown_bytes), self.pid).cmp(&(Reverse(other.grown_bytes), other.pid))
    }
}

impl Entry for DiskWriter {
    const LIST: &'static str = "disk_io.writers";
    const MAX: usize = 64;
    const SELECTED: Selected = Selected::Some;

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        self.dev == later.dev && joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        self.held_back = self.held_back.saturating_add(later.held_back);
        self.looks = self.looks.saturating_add(later.looks);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |writer: &Self| (Reverse(writer.held_back), writer.pid);
        key(self).cmp(&key(other)).then_with(|| self.dev.cmp(&other.dev))
    }
}

impl Entry for CgroupIo {
    const LIST: &'static str = "disk_io.throttled";
    const MAX: usize = 512;
    const SELECTED: Selected = Selected::Some;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        (&self.path, &self.dev) == (&later.path, &later.dev)
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        self.limits.clone_from(&later.limits);
        add(&mut self.read_bytes, later.read_bytes);
        add(&mut self.write_bytes, later.write_bytes);
        // Over the stretch of each window in which it used most, and not over one that spans both.
        joint.inexact("disk_io.throttled.limit_used", Inexact::AtLeast);
        if later.limit_used > self.limit_used {
            (self.limit_used, self.tightest) = (later.limit_used, later.tightest);
        }
        self.some_stalled = joint.known_share(STALLED, self.some_stalled, later.some_stalled);
        join_pids(&mut self.pids, &later.pids);
    }

    fn new_later(&mut self, joint: &mut Joint<'_>) {
        self.some_stalled = joint.known_share(STALLED, None, self.some_stalled);
    }

    fn absent_later(&mut self, joint: &mut Joint<'_>) -> bool {
        self.some_stalled = joint.known_share(STALLED, self.some_stalled, None);
        true
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |cgroup: &Self| (cgroup.path.clone(), cgroup.dev.clone());
        other.limit_used.total_cmp(&self.limit_used).then_with(|| key(self).cmp(&key(other)))
    }
}
