//! Who writes to a file system that runs full: the files that processes have open for writing there.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::devices::{Dev, number};
use crate::engine::{Gap, Gaps, Question, Tick, proc_has_host_pids};
use kerno_model::{Filesystem, FilesystemWriter};

/// Descriptors looked at in all, of the processes that wrote most and ran most first,
const MAX_DESCRIPTORS: usize = 16_384;
/// and of each process.
const MAX_DESCRIPTORS_EACH: usize = 512;

/// Writers told of, for each file system.
const MAX_WRITERS: usize = 8;

/// From this share used on a file system is watched,
const WATCHED_FROM: f64 = 0.85;
/// and from this share of what was left, when the window began, being taken.
const WATCHED_LOSS: f64 = 0.02;

/// Process, file system, inode number.
type FileKey = (u32, Dev, u64);

/// Sizes of files when they were first seen, so that growth shows.
#[derive(Debug, Default)]
pub(super) struct Writers {
    first_sizes: HashMap<FileKey, u64>,
    watched: bool,
}

#[derive(Debug)]
struct OpenFile {
    key: FileKey,
    bytes: u64,
    path: String,
}

impl Writers {
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    /// Looks once, as soon as some file system is nearly full or loses room.
    pub(super) fn sample(&mut self, filesystems: &[Filesystem], tick: &Tick<'_>, gaps: &mut Gaps) {
        if self.watched {
            return;
        }
        let watched = watched_devices(filesystems);
        if !watched.is_empty() {
            self.watched = true;
            let files = open_files(&watched, tick, gaps);
            self.first_sizes = files.into_iter().map(|file| (file.key, file.bytes)).collect();
        }
    }

    /// Looks once more and tells who has files open for writing there.
    pub(super) fn finish(&self, filesystems: &mut [Filesystem], tick: &Tick<'_>, gaps: &mut Gaps) {
        let watched = watched_devices(filesystems);
        if watched.is_empty() {
            return;
        }
        let mut writers: HashMap<(u32, Dev), FilesystemWriter> = HashMap::new();
        let mut largest: HashMap<(u32, Dev), (u64, u64)> = HashMap::new();
        for file in open_files(&watched, tick, gaps) {
            let (pid, dev, _) = file.key;
            // One that was not there before has grown by all it has, unless nothing was looked at before.
            let before = if self.watched { self.first_sizes.get(&file.key).copied().unwrap_or(0) } else { file.bytes };
            let grown = file.bytes.saturating_sub(before);
            let writer = writers.entry((pid, dev)).or_default();
            writer.files += 1;
            writer.grown_bytes += grown;
            let most = largest.entry((pid, dev)).or_default();
            if writer.path.is_empty() || (grown, file.bytes) > *most {
                *most = (grown, file.bytes);
                writer.path = file.path;
            }
        }
        for filesystem in filesystems {
            let of_this = writers.iter().filter(|((_, dev), _)| number(*dev) == filesystem.dev);
            let mut list: Vec<_> = of_this
                .map(|((pid, _), writer)| {
                    let account = tick.tasks.process(*pid);
                    let comm = account.map(|account| account.row.comm.to_str_lossy().into_owned()).unwrap_or_default();
                    let written = account.map_or(0, |account| account.used.write_bytes);
                    (written, FilesystemWriter { pid: *pid, comm, ..writer.clone() })
                })
                .collect();
            list.sort_by_key(|(written, w)| (std::cmp::Reverse((w.grown_bytes, *written, w.files)), w.pid));
            list.truncate(MAX_WRITERS);
            filesystem.writers = list.into_iter().map(|(_, writer)| writer).collect();
        }
    }
}

fn watched_devices(filesystems: &[Filesystem]) -> Vec<Dev> {
    let worth_it = |fs: &&Filesystem| {
        let nearly_full = fs.bytes_used().is_some_and(|used| used >= WATCHED_FROM)
            || fs.inodes_used().is_some_and(|used| used >= WATCHED_FROM);
        let falls = |series: &kerno_model::Series| -series.change() > WATCHED_LOSS * series.first().unwrap_or(0.0);
        !fs.read_only && (nearly_full || falls(&fs.available_bytes) || falls(&fs.free_inodes))
    };
    filesystems.iter().filter(worth_it).filter_map(|fs| super::devices::parse_number(&fs.dev)).collect()
}

/// Files that processes have open for writing on these file systems.
fn open_files(devices: &[Dev], tick: &Tick<'_>, gaps: &mut Gaps) -> Vec<OpenFile> {
    if !proc_has_host_pids() {
        // These ids are others' in /proc.
        return Vec::new();
    }
    let mut all: Vec<_> = tick.tasks.processes().filter(|p| p.alive && !p.row.is_kernel_thread()).collect();
    all.sort_unstable_by_key(|p| std::cmp::Reverse((p.used.write_bytes, p.used.run_ns)));
    let (devices, budget) = (Arc::<[Dev]>::from(devices), Arc::new(AtomicUsize::new(MAX_DESCRIPTORS)));
    let questions = all.iter().map(|process| {
        let (pid, devices, budget) = (process.row.pid, Arc::clone(&devices), Arc::clone(&budget));
        (Question::OpenFiles(pid, process.row.start_ns), move || open_files_of(pid, &devices, &budget))
    });
    let mut files = Vec::new();
    let mut late = None;
    for answer in tick.resolver.ask_all(questions) {
        match answer {
            Ok(found) => files.extend(found),
            Err(reason) => late = Some((late.map_or(1, |(count, _)| count + 1), reason)),
        }
    }
    if let Some((count, reason)) = late {
        let what = format!("which files {count} processes write");
        gaps.add(Gap { what, reason: format!("/proc/PID/fd: {reason}") });
    }
    files
}

fn open_files_of(pid: u32, devices: &[Dev], budget: &AtomicUsize) -> Vec<OpenFile> {
    let mut files: Vec<OpenFile> = Vec::new();
    if budget.load(Ordering::Relaxed) == 0 {
        return files;
    }
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    for entry in entries.take(MAX_DESCRIPTORS_EACH) {
        if budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            break;
        }
        let link = entry.path();
        // The link itself tells how the file was opened.
        let for_writing = link.symlink_metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o200 != 0);
        if !for_writing {
            continue;
        }
        // Not to ask a server that may not answer. Some file systems ask theirs all the same.
        let wanted = StatxFlags::INO | StatxFlags::SIZE | StatxFlags::BLOCKS | StatxFlags::TYPE;
        let Ok(stat) = statx(CWD, &link, AtFlags::STATX_DONT_SYNC, wanted) else { continue };
        let dev = (stat.stx_dev_major, stat.stx_dev_minor);
        let is_regular = u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFREG;
        let key = (pid, dev, stat.stx_ino);
        if is_regular && devices.contains(&dev) && !files.iter().any(|file| file.key == key) {
            let path = fs::read_link(&link).map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
            // What it takes, or will when it is written back: delayed allocation has no blocks yet.
            files.push(OpenFile { key, bytes: stat.stx_size.max(stat.stx_blocks * 512), path });
        }
    }
    files
}
