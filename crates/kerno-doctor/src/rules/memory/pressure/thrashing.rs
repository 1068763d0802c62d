//! A cgroup whose limit leaves no room for what its processes run on: pages of files are dropped at the limit and read again at once. Where
//! such pages were never used twice in a row, the kernel counts the wait as one for I/O, and pressure on memory shows nothing.

use kerno_model::{CgroupMemory, Finding, RequestKind, Unit, Window};

use super::MemoryPressure;

/// A cgroup reaches its limit this often a second when it cannot get by without dropping pages,
const HITS: f64 = 10.0;
/// and so many of the faults are for pages that it had dropped itself. Whoever reads a large file once has none.
const REFAULTED: f64 = 0.3;

/// Faults of one cgroup, a second, and what they cost the process that has most of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Thrashing {
    pub(super) pid: u32,
    pub(super) comm: String,
    faults: f64,
    refaults: f64,
    hits: f64,
    /// Share of the window, 0 to 1.
    waits: f64,
    threshold: (f64, f64),
}

/// Whether a cgroup thrashes at its limit.
#[allow(clippy::cast_precision_loss, reason = "counts of a window")]
pub(super) fn thrashes(window: &Window, rule: &MemoryPressure, cgroup: &CgroupMemory) -> Option<Thrashing> {
    let rate = |count: u64| count as f64 / window.seconds();
    let hits = rate(cgroup.limit_hits.max(cgroup.high_hits));
    let (faults, refaults) = (rate(cgroup.major_faults), rate(cgroup.refaulted_pages));
    if hits < HITS || faults < rule.cgroup_faults_per_second || refaults < REFAULTED * faults {
        return None;
    }
    let faults_of = |pid: u32| window.process(pid).map_or(0, |process| process.used.major_faults);
    let memory = window.oom_track.iter().flat_map(|memory| &memory.processes);
    let inside = memory.filter(|process| {
        process.cgroup.as_deref().is_some_and(|path| kerno_model::paths::is_within(path, &cgroup.path))
    });
    let members = cgroup.largest.iter().map(|process| (process.pid, &process.comm));
    let members = members.chain(inside.map(|process| (process.pid, &process.comm)));
    let (pid, comm) = members.max_by_key(|(pid, _)| (faults_of(*pid), std::cmp::Reverse(*pid)))?;
    let own = faults_of(pid).min(cgroup.major_faults);
    let waited = window.process(pid).map_or(0, |process| process.used.io_delay_ns);
    let waits = if waited > 0 { waited as f64 } else { own as f64 * read_ns(window, pid)? } / 1e9 / window.seconds();
    let threshold = (rule.cgroup_faults_per_second, rule.fault_share);
    (waits >= rule.fault_share).then(|| Thrashing {
        pid,
        comm: comm.clone(),
        faults,
        refaults,
        hits,
        waits: waits.min(1.0),
        threshold,
    })
}

/// What a read of a process takes on average, in nanoseconds: whoever needs a page asks for it itself. Where its requests are not known, what
/// reads take on whatever device.
#[allow(clippy::cast_precision_loss, reason = "counts")]
fn read_ns(window: &Window, pid: u32) -> Option<f64> {
    let disk = window.disk_io.as_ref()?;
    let own = disk.submitters.iter().filter(|submitter| submitter.pid == pid && submitter.read_bytes > 0);
    let (time, count) = own.fold((0, 0), |(time, count), s| (time + s.total_ns, count + s.requests));
    if count > 0 {
        return Some(time as f64 / count as f64);
    }
    let reads = disk.devices.iter().filter_map(|device| device.op(RequestKind::Read));
    let (time, count) = reads
        .fold((0.0, 0), |(time, count), stat| (time + stat.queue_ns.sum() + stat.device_ns.sum(), count + stat.count));
    (count > 0).then(|| time / count as f64)
}

impl Thrashing {
    pub(super) fn excess(&self) -> f64 {
        (self.faults / self.threshold.0.max(1e-9)).min(self.waits / self.threshold.1.max(1e-9))
    }

    pub(super) fn describe(&self, finding: Finding) -> Finding {
        finding
            .detail("thrashing", true)
            .measured("cgroup_faults_per_second", self.faults, Unit::PerSecond, Some(self.threshold.0))
            .measured("cgroup_refaults_per_second", self.refaults, Unit::PerSecond, None)
            .measured("limit_hits_per_second", self.hits, Unit::PerSecond, None)
            .measured("fault_share", self.waits, Unit::Ratio, Some(self.threshold.1))
    }
}
