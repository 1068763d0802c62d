//! Who takes the room of a file system.

use kerno_model::{DiskSummary, Filesystem, Process, Window, errno};

use super::{Resource, Room};
use crate::rules::storage::is_kernel_thread;

/// Calls that need room when they end with ENOSPC; others mean something else by it (inotify watches, ports).
const NEEDS_ROOM: [&str; 22] = [
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "open",
    "openat",
    "openat2",
    "creat",
    "mkdir",
    "mkdirat",
    "fallocate",
    "ftruncate",
    "truncate",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "copy_file_range",
];

/// A process that was told that there is no room, by a call that needs some.
pub(super) struct Refused<'a> {
    pub(super) pid: u32,
    pub(super) comm: &'a str,
    /// The system call.
    pub(super) name: &'a str,
    pub(super) count: u64,
}

/// Those who were refused, most often first.
pub(super) fn refused(window: &Window) -> Vec<Refused<'_>> {
    let offenders = window.syscall_latency.iter().flat_map(|calls| &calls.offenders);
    let mut list: Vec<_> = offenders
        .filter(|call| NEEDS_ROOM.contains(&call.name.as_str()))
        .filter_map(|call| {
            let error = call.errors.iter().find(|error| error.errno == errno::ENOSPC)?;
            Some(Refused { pid: call.pid, comm: &call.comm, name: &call.name, count: error.count })
        })
        .collect();
    list.sort_by_key(|call| (std::cmp::Reverse(call.count), call.pid));
    list.dedup_by_key(|call| call.pid);
    list
}

/// How it is known who takes the room.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Known {
    /// Files that it has open there grew by so much.
    Grew { bytes: u64 },
    /// It was refused so often.
    Refused { times: u64 },
    /// It opened so many files while so many inodes went.
    Opened { files: u64, gone: f64 },
    /// It has files open for writing there.
    HasFilesOpen,
    /// It wrote so much, wherever that went.
    Wrote { bytes: u64 },
}

/// Who takes the room.
pub(super) struct Suspect {
    pub(super) pid: u32,
    pub(super) comm: String,
    pub(super) known: Known,
    /// The file that grows; empty when it is not known.
    pub(super) path: String,
}

/// In the order of how sure it is: files that grew there; who is refused and writes; who wrote most, where there is a device.
pub(super) fn suspect(
    window: &Window,
    disk: &DiskSummary,
    fs: &Filesystem,
    room: &Room<'_>,
    refused: &[Refused<'_>],
    going_on: bool,
) -> Option<Suspect> {
    let grew = |least: u64| fs.writers.iter().find(|writer| writer.grown_bytes > least);
    // Files that are few and large take no inodes.
    if let (Some(writer), Resource::Space) = (grew(0), room.resource) {
        return Some(Suspect {
            pid: writer.pid,
            comm: writer.comm.clone(),
            known: Known::Grew { bytes: writer.grown_bytes },
            path: writer.path.clone(),
        });
    }
    if !going_on {
        return None;
    }
    if let Some(call) = refused.first() {
        return Some(Suspect {
            pid: call.pid,
            comm: call.comm.to_owned(),
            known: Known::Refused { times: call.count },
            path: String::new(),
        });
    }
    if room.resource == Resource::Inodes {
        return makes_files(window, -room.left.change());
    }
    let in_memory = fs.kind.ends_with("tmpfs");
    let writer = |pid: u32| fs.writers.iter().find(|writer| writer.pid == pid);
    let users = window.processes.values().filter(|p| !is_kernel_thread(window, p.pid, &p.comm));
    // Pages of a tmpfs count as nobody's writes: what is left is who is open for writing there and at work.
    let candidates: Vec<_> = if in_memory {
        users.filter(|p| writer(p.pid).is_some()).map(|p| (p.used.run_ns, p)).collect()
    } else {
        users.map(|p| (p.used.write_bytes.max(submitted(disk, p.pid)), p)).collect()
    };
    // Bytes are counted for a process, wherever they go: of those that wrote at all, the one that wrote what is missing here.
    let lost = -room.left.change();
    let matches = |amount: u64| {
        #[allow(clippy::cast_precision_loss, reason = "a size")]
        let amount = amount as f64;
        if in_memory || lost <= 0.0 { amount } else { amount.min(lost) / amount.max(lost) }
    };
    let (amount, process) = candidates.into_iter().filter(|(amount, _)| *amount > 0).max_by(|(a, p), (b, q)| {
        let open = |p: &Process| writer(p.pid).is_some();
        open(p).cmp(&open(q)).then(matches(*a).total_cmp(&matches(*b))).then(q.pid.cmp(&p.pid))
    })?;
    let known = if in_memory { Known::HasFilesOpen } else { Known::Wrote { bytes: amount } };
    Some(Suspect { pid: process.pid, comm: process.comm.clone(), known, path: String::new() })
}

/// Opens do not say where: of those who opened as many files as went, the one whose number is nearest to it.
fn makes_files(window: &Window, gone: f64) -> Option<Suspect> {
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    let opens = |opens: u64| opens as f64;
    let processes = window.file_audit.iter().flat_map(|files| &files.processes);
    let enough = processes.filter(|process| gone >= 1.0 && opens(process.opens) >= gone / 2.0);
    let process = enough.min_by(|a, b| opens(a.opens).total_cmp(&opens(b.opens)).then(a.pid.cmp(&b.pid)))?;
    Some(Suspect {
        pid: process.pid,
        comm: process.comm.clone(),
        known: Known::Opened { files: process.opens, gone },
        path: String::new(),
    })
}

fn submitted(disk: &DiskSummary, pid: u32) -> u64 {
    disk.submitters.iter().filter(|submitter| submitter.pid == pid).map(|submitter| submitter.write_bytes).sum()
}
