//! Who asks what of a device, and who waits for it.

use std::collections::BTreeMap;

use kerno_model::{DiskDevice, DiskOpStat, DiskSubmitter, DiskSummary, Histogram, Subject, Window};

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
        own.peek().is_some() && own.all(|s| s.dev != dev)
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
        let file_calls = calls.offenders.iter().filter(|call| FILE_CALLS.contains(&call.name.as_str()));
        for call in file_calls.filter(|call| call.slow > 0 && !elsewhere(call.pid)) {
            // A read of a pipe or socket is the same call: only with a part in the device's work is it about files.
            if !disk.submitters.iter().any(|s| s.pid == call.pid && s.dev == dev) && !call.name.contains("sync") {
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
        demand.bytes_share += bytes_of(submitter) / all_bytes;
        demand.requests_share += float(submitter.requests) / all_requests;
    }
    // What kernel threads wrote is shared out by who made pages dirty beyond what it wrote itself.
    let wrote = |s: &&DiskSubmitter| s.write_bytes > 0;
    let kernel_bytes: f64 = kernel.iter().filter(|s| wrote(s)).map(|s| float(s.write_bytes)).sum();
    let kernel_requests: f64 = kernel.iter().filter(|s| wrote(s)).map(|s| float(s.requests)).sum();
    let direct = |pid: u32| disk.submitters.iter().filter(|s| s.pid == pid).map(|s| s.write_bytes).sum::<u64>();
    let users = window.processes.values().filter(|process| !process.kernel_thread);
    let dirtied: Vec<_> =
        users.map(|p| (p, float(p.used.write_bytes.saturating_sub(direct(p.pid))))).filter(|(_, d)| *d > 0.0).collect();
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
