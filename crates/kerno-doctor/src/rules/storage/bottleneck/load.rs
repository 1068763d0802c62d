//! Who asks what of a device, and who waits for it.

use std::collections::BTreeMap;

use kerno_model::{
    DiskDevice, DiskOpStat, DiskSubmitter, DiskSummary, Histogram, Process, RequestKind, Subject, Window,
};

use crate::rules::storage::is_kernel_thread;

/// Calls that wait for a file's storage when they are slow.
const FILE_CALLS: [&str; 32] = [
    "read",
    "write",
    "pread64",
    "pwrite64",
    "readv",
    "writev",
    "preadv",
    "pwritev",
    "preadv2",
    "pwritev2",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "syncfs",
    "sync",
    "msync",
    "open",
    "openat",
    "openat2",
    "creat",
    "unlink",
    "unlinkat",
    "rename",
    "renameat",
    "renameat2",
    "mkdir",
    "mkdirat",
    "truncate",
    "ftruncate",
    "fallocate",
    "getdents64",
    "io_getevents",
];

/// A device that gets this part of all that is written is the one that those write to of whom nothing else is known.
const MOSTLY_HERE: f64 = 0.7;

/// Victims told of in one finding.
const MAX_VICTIMS: usize = 8;

/// What of a process is slow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Requests that it submitted itself.
    Requests,
    /// Its fsync calls and others of their kind, taken together.
    Fsyncs,
    /// A system call.
    Call(String),
}

impl Waits {
    /// Whether it waits for data to be on storage.
    pub(super) fn is_sync(&self) -> bool {
        match self {
            Self::Requests => false,
            Self::Fsyncs => true,
            Self::Call(call) => call.contains("sync"),
        }
    }
}

/// A process that waits for storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sufferer {
    pub(super) pid: u32,
    pub(super) comm: String,
    pub(super) waits: Waits,
    pub(super) mean_ms: f64,
    pub(super) max_ms: f64,
    /// Of the window.
    pub(super) share: f64,
}

/// A process's part in what a device is asked to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Demand {
    pub(super) pid: u32,
    pub(super) comm: String,
    /// Of all bytes and of all requests, buffered writes put down to those who made the pages dirty; 0 to 1.
    pub(super) bytes_share: f64,
    pub(super) requests_share: f64,
    pub(super) bytes: f64,
    /// Of these, read.
    pub(super) read_bytes: f64,
}

fn ms(ns: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a duration")]
    let ns = ns as f64;
    ns / 1e6
}

#[allow(clippy::cast_precision_loss, reason = "counts and sizes")]
const fn float(n: u64) -> f64 {
    n as f64
}

/// A quantile in milliseconds, 0 without values.
pub(super) fn quantile_ms(histogram: &Histogram, quantile: f64) -> f64 {
    histogram.quantile(quantile).map_or(0.0, ms)
}

/// Half of these requests took longer than this, queue and device together: as good as it gets from two histograms.
pub(super) fn typical_ms(stat: &DiskOpStat) -> f64 {
    quantile_ms(&stat.queue_ns, 0.5) + quantile_ms(&stat.device_ns, 0.5)
}

/// Processes that wait long: those whose own requests on the device do (for `slow_ms` on average), and those whose calls for
/// data to be on storage, or other calls on files, do.
pub(super) fn sufferers(window: &Window, disk: &DiskSummary, dev: &str, slow_ms: f64, sync_ms: f64) -> Vec<Sufferer> {
    let window_ms = window.seconds() * 1e3;
    let mut all: BTreeMap<u32, Sufferer> = BTreeMap::new();
    let mut add = |found: Sufferer| {
        if found.pid == 0 || is_kernel_thread(window, found.pid, &found.comm) {
            return;
        }
        let known = all.entry(found.pid).or_insert_with(|| found.clone());
        if found.share > known.share {
            *known = found;
        }
    };
    for submitter in disk.submitters.iter().filter(|s| s.dev == dev && s.requests >= 3) {
        let mean_ms = ms(submitter.total_ns) / float(submitter.requests);
        if mean_ms >= slow_ms {
            add(Sufferer {
                pid: submitter.pid,
                comm: submitter.comm.clone(),
                waits: Waits::Requests,
                mean_ms,
                max_ms: mean_ms,
                share: (ms(submitter.total_ns) / window_ms).min(1.0),
            });
        }
    }
    // Calls do not name a device: those of a process that submits to others only are not this one's.
    let elsewhere = |pid: u32| {
        let mut own = disk.submitters.iter().filter(|s| s.pid == pid).peekable();
        own.peek().is_some() && own.all(|s| s.dev != dev) && !writes_to(disk, pid, dev)
    };
    if let Some(calls) = &window.syscall_latency {
        for sync in calls.syncs.iter().filter(|sync| !elsewhere(sync.pid)) {
            let mean_ms = ms(sync.total_ns) / float(sync.calls.max(1));
            if mean_ms >= sync_ms {
                add(Sufferer {
                    pid: sync.pid,
                    comm: sync.comm.clone(),
                    waits: Waits::Fsyncs,
                    mean_ms,
                    max_ms: ms(sync.max_ns),
                    share: (ms(sync.total_ns) / window_ms).min(1.0),
                });
            }
        }
        let file_calls = calls.offenders.iter().filter(|call| is_of_files(&call.name));
        for call in file_calls.filter(|call| call.slow > 0 && !elsewhere(call.pid)) {
            // A read of a pipe or socket is the same call: only with a part in the device's work is it about files.
            let takes_part = disk.submitters.iter().any(|s| s.pid == call.pid && s.dev == dev)
                || (call.name.contains("write") && writes_to(disk, call.pid, dev));
            if !takes_part && !call.name.contains("sync") {
                continue;
            }
            let mean_ms = ms(call.slow_total_ns) / float(call.slow);
            if mean_ms >= sync_ms {
                add(Sufferer {
                    pid: call.pid,
                    comm: call.comm.clone(),
                    waits: Waits::Call(call.name.clone()),
                    mean_ms,
                    max_ms: ms(call.max_ns),
                    share: (ms(call.slow_total_ns) / window_ms).min(1.0),
                });
            }
        }
    }
    let mut list: Vec<_> = all.into_values().collect();
    list.sort_by(|a, b| b.share.total_cmp(&a.share).then(a.pid.cmp(&b.pid)));
    list
}

/// Whether a call waits for a file's storage when it is slow.
pub(super) fn is_of_files(call: &str) -> bool {
    FILE_CALLS.contains(&call)
}

/// Whether it is known to write to files on this device.
fn writes_to(disk: &DiskSummary, pid: u32, dev: &str) -> bool {
    disk.writers.iter().any(|writer| writer.pid == pid && writer.dev == dev)
}

/// Others than the one behind it: not the same program either, whose processes are parts of one load.
pub(super) fn others<'a>(all: &'a [Sufferer], comm: &'a str) -> impl Iterator<Item = &'a Sufferer> {
    all.iter().filter(move |sufferer| sufferer.comm != comm)
}

pub(super) fn victims<'a>(window: &Window, all: impl Iterator<Item = &'a Sufferer>) -> Vec<Subject> {
    all.take(MAX_VICTIMS).map(|sufferer| Subject::process(window, sufferer.pid, &sufferer.comm)).collect()
}

/// Who asks most of a device, the one with the largest part first.
pub(super) fn demand(window: &Window, disk: &DiskSummary, dev: &str) -> Vec<Demand> {
    let on_device: Vec<_> = disk.submitters.iter().filter(|s| s.dev == dev).collect();
    let bytes_of = |s: &DiskSubmitter| float(s.read_bytes + s.write_bytes);
    let all_bytes = on_device.iter().map(|s| bytes_of(s)).sum::<f64>().max(1.0);
    let all_requests = on_device.iter().map(|s| float(s.requests)).sum::<f64>().max(1.0);
    let (kernel, own): (Vec<_>, Vec<_>) = on_device.into_iter().partition(|s| is_kernel_thread(window, s.pid, &s.comm));
    let mut demands: BTreeMap<u32, Demand> = BTreeMap::new();
    for submitter in own {
        let demand = demands.entry(submitter.pid).or_default();
        demand.comm.clone_from(&submitter.comm);
        demand.bytes += bytes_of(submitter);
        demand.read_bytes += float(submitter.read_bytes);
        demand.bytes_share += bytes_of(submitter) / all_bytes;
        demand.requests_share += float(submitter.requests) / all_requests;
    }
    // What kernel threads wrote is shared out by who made pages dirty beyond what it wrote itself.
    let wrote = |s: &&DiskSubmitter| s.write_bytes > 0;
    let kernel_bytes: f64 = kernel.iter().filter(|s| wrote(s)).map(|s| float(s.write_bytes)).sum();
    let kernel_requests: f64 = kernel.iter().filter(|s| wrote(s)).map(|s| float(s.requests)).sum();
    let dirtied: Vec<_> = dirtied(window, disk, dev);
    let all_dirtied = dirtied.iter().map(|(_, d)| d).sum::<f64>().max(1.0);
    for (process, dirtied) in dirtied {
        let demand = demands.entry(process.pid).or_default();
        if demand.comm.is_empty() {
            demand.comm.clone_from(&process.comm);
        }
        demand.bytes += kernel_bytes * dirtied / all_dirtied;
        demand.bytes_share += kernel_bytes / all_bytes * dirtied / all_dirtied;
        demand.requests_share += kernel_requests / all_requests * dirtied / all_dirtied;
    }
    let mut list: Vec<_> = demands.into_iter().map(|(pid, demand)| Demand { pid, ..demand }).collect();
    list.sort_by(|a, b| {
        let part = |d: &Demand| d.bytes_share + d.requests_share;
        part(b).total_cmp(&part(a)).then(a.pid.cmp(&b.pid))
    });
    list
}

/// What processes wrote to memory, in bytes, as far as it may have gone to this device. Bytes are counted for a process, wherever they go;
/// of those that wrote much it is known where.
fn dirtied<'a>(window: &'a Window, disk: &DiskSummary, dev: &str) -> Vec<(&'a Process, f64)> {
    let direct = |pid: u32| disk.submitters.iter().filter(|s| s.pid == pid).map(|s| s.write_bytes).sum::<u64>();
    let elsewhere = |pid: u32| {
        let mut own = disk.writers.iter().filter(|writer| writer.pid == pid && !writer.dev.is_empty()).peekable();
        own.peek().is_some() && own.all(|writer| writer.dev != dev)
    };
    // A parent is charged with what its children wrote when it has waited for them.
    let of_children = |pid: u32| {
        let ended = window.processes.values().filter(|child| child.parent_pid == pid && !child.alive);
        ended.map(|child| child.used.write_bytes).sum::<u64>()
    };
    let users = window.processes.values().filter(|process| !process.kernel_thread && !elsewhere(process.pid));
    let all: Vec<_> = users
        .map(|process| {
            let others = direct(process.pid).saturating_add(of_children(process.pid));
            (process, float(process.used.write_bytes.saturating_sub(others)))
        })
        .filter(|(_, dirtied)| *dirtied > 0.0)
        .collect();
    // Where somebody is known to write, nobody else is looked for; where nobody is, all may have, if most of what was written went there.
    let submits = |pid: u32| disk.submitters.iter().any(|s| s.pid == pid && s.dev == dev && s.write_bytes > 0);
    let (known, unknown): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(process, _)| writes_to(disk, process.pid, dev) || submits(process.pid));
    if !known.is_empty() {
        return known;
    }
    let written = |device: &DiskDevice| device.op(RequestKind::Write).map_or(0, |stat| stat.bytes);
    let all: u64 = disk.devices.iter().map(written).sum();
    let here = disk.device(dev).map_or(0, written);
    if float(here) >= MOSTLY_HERE * float(all) { unknown } else { Vec::new() }
}

/// Processes that are one load: a process, or those of one name that one parent started, such as the workers of a server, or the commands
/// of a script that come one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// The one that stands for all: one that is still there and asks most.
    pub(super) pid: u32,
    pub(super) comm: String,
    pub(super) pids: Vec<u32>,
    /// Who started them, if there are several.
    pub(super) parent: Option<u32>,
    pub(super) bytes: f64,
    pub(super) bytes_share: f64,
    /// What one of them moves at a time: of those that come one after the other, what all do.
    pub(super) bytes_each: f64,
    /// Mostly reads.
    pub(super) reads: bool,
}

/// The loads on a device beside that which a process belongs to, the largest first.
pub(super) fn loads_beside(window: &Window, disk: &DiskSummary, dev: &str, beside: u32) -> Vec<Load> {
    let parent = |pid: u32| window.process(pid).map_or(0, |process| process.parent_pid);
    let comm = |pid: u32| window.process(pid).map_or("", |process| process.comm.as_str());
    // A server and its workers are one load; of two programs that one shell started, each is one.
    let is_own = |pid: u32| {
        pid == beside
            || descends(window, pid, beside)
            || descends(window, beside, pid)
            || (parent(pid) == parent(beside)
                && comm(pid) == comm(beside)
                && comm(parent(pid)) == comm(pid)
                && !comm(pid).is_empty())
    };
    let demands: Vec<_> = demand(window, disk, dev).into_iter().filter(|demand| !is_own(demand.pid)).collect();
    // One that came and went between two looks has no known parent: it goes with others of its name.
    let known_parent =
        |name: &str| demands.iter().filter(|d| d.comm == name).map(|d| parent(d.pid)).find(|parent| *parent != 0);
    let mut loads: BTreeMap<(u32, &str), Vec<&Demand>> = BTreeMap::new();
    for demand in &demands {
        let by = Some(parent(demand.pid)).filter(|parent| *parent != 0).or_else(|| known_parent(&demand.comm));
        loads.entry((by.unwrap_or(0), demand.comm.as_str())).or_default().push(demand);
    }
    let mut list: Vec<_> = loads
        .into_iter()
        .filter_map(|((by, name), demands)| {
            let alive = |d: &&&Demand| window.process(d.pid).is_some_and(|process| process.alive);
            let most = |a: &&&Demand, b: &&&Demand| a.bytes.total_cmp(&b.bytes).then(b.pid.cmp(&a.pid));
            let first = demands.iter().filter(alive).max_by(most).or_else(|| demands.iter().max_by(most))?;
            let sum = |pick: fn(&Demand) -> f64| demands.iter().map(|d| pick(d)).sum::<f64>();
            let lasting =
                |d: &&&Demand| window.process(d.pid).is_some_and(|p| p.alive && p.started_ns <= window.span.started_ns);
            let at_once = demands.iter().filter(lasting).count().max(1);
            let bytes = sum(|d| d.bytes);
            #[allow(clippy::cast_precision_loss, reason = "a few")]
            Some(Load {
                pid: first.pid,
                comm: name.to_owned(),
                pids: demands.iter().map(|d| d.pid).collect(),
                parent: Some(by).filter(|by| *by != 0),
                bytes,
                bytes_share: sum(|d| d.bytes_share),
                bytes_each: bytes / at_once as f64,
                reads: sum(|d| d.read_bytes) * 2.0 > bytes,
            })
        })
        .collect();
    list.sort_by(|a, b| b.bytes.total_cmp(&a.bytes).then(a.pid.cmp(&b.pid)));
    list
}

/// Whether a process is another's child, or a child of its child, and so on.
fn descends(window: &Window, mut pid: u32, ancestor: u32) -> bool {
    const GENERATIONS: usize = 16;
    for _ in 0..GENERATIONS {
        match window.process(pid).map(|process| process.parent_pid) {
            Some(parent) if parent == ancestor => return true,
            Some(parent) if parent != 0 => pid = parent,
            _ => return false,
        }
    }
    false
}

/// What one process moves on a device, in bytes, at most.
pub(super) fn own_bytes(window: &Window, disk: &DiskSummary, dev: &str, pid: u32) -> f64 {
    let submitted: u64 = disk
        .submitters
        .iter()
        .filter(|s| s.pid == pid && s.dev == dev)
        .map(|s| s.read_bytes.saturating_add(s.write_bytes))
        .sum();
    let dirtied = window.process(pid).map_or(0, |process| process.used.write_bytes);
    float(submitted.max(dirtied))
}

/// Requests and bytes a second while the device was busy.
pub(super) fn pace(device: &DiskDevice, seconds: f64) -> (f64, f64) {
    let busy = (device.utilisation * seconds).max(1e-3);
    let sum = |pick: fn(&DiskOpStat) -> u64| device.ops.iter().map(|stat| float(pick(stat))).sum::<f64>();
    (sum(|stat| stat.count) / busy, sum(|stat| stat.bytes) / busy)
}

/// A kind's requests under way, on average over the window (Little's law).
pub(super) fn under_way(stat: &DiskOpStat, seconds: f64) -> f64 {
    (stat.queue_ns.sum() + stat.device_ns.sum()) / 1e9 / seconds
}

/// The mean length of these requests.
pub(super) fn mean_bytes(stat: &DiskOpStat) -> f64 {
    float(stat.bytes) / float(stat.count.max(1))
}
