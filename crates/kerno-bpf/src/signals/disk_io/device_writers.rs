//! Who writes to which device through the page cache: the requests of such writes are made by threads of the kernel, and bytes are counted
//! for a process wherever they go. So those that make most pages dirty are asked which files they have open, and those that sleep because
//! too many are dirty, which file they write.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

use super::devices::{Dev, number, parse_number, whole_disk};
use crate::engine::{ProcessAccount, Question, Tick, proc_has_host_pids};
use crate::probe::unescape_mount;
use crate::waits::asleep::{self, Doing};
use crate::waits::ends::{Holder, mount_id};
use kerno_model::DiskWriter;

/// Threads in uninterruptible sleep that are looked at in one sample, and processes that write.
const MAX_ASLEEP: usize = 32;
const MAX_BUSY: usize = 8;
/// The same at the window's end.
const MAX_ASKED: usize = 32;
/// Descriptors of one process.
const MAX_DESCRIPTORS: usize = 128;
/// A process that made fewer bytes dirty since the sample before is not asked.
const MUCH: u64 = 256 << 10;
/// Writers told of.
const MAX_TOLD: usize = 32;
/// Layers of devices.
const MAX_LAYERS: usize = 8;

/// The kernel function that a thread sleeps in when too much is dirty.
const HELD_BACK: &str = "balance_dirty_pages";

/// Those that write, over the window.
#[derive(Debug, Default)]
pub(super) struct DeviceWriters {
    /// By process and device; one whose device is not known has none.
    known: HashMap<(u32, Option<Dev>), Writer>,
    /// What each had made dirty at the sample before.
    dirtied: HashMap<u32, u64>,
    looks: u32,
}

#[derive(Debug, Default)]
struct Writer {
    comm: String,
    held_back: u32,
    latest: u32,
    dirtied: u64,
}

impl DeviceWriters {
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    pub(super) fn sample(&mut self, tick: &Tick<'_>) {
        // Else these ids are others' in /proc.
        if !proc_has_host_pids() {
            return;
        }
        self.looks += 1;
        self.look_at_sleepers(tick);
        self.look_at_writers(tick);
    }

    fn look_at_sleepers(&mut self, tick: &Tick<'_>) {
        let asleep = tick.tasks.blocked().filter(|task| !task.row.is_kernel_thread());
        let asleep: Vec<_> = asleep.take(MAX_ASLEEP).map(|task| (task.row.pid, task.row.tid, task.since_ns)).collect();
        let questions = asleep.iter().map(|(pid, tid, since_ns)| {
            let (pid, tid) = (*pid, *tid);
            (Question::HeldBack(tid, *since_ns), move || held_back(pid, tid))
        });
        for ((pid, ..), answer) in asleep.iter().zip(tick.resolver.ask_all(questions)) {
            let Ok(Some(devices)) = answer else { continue };
            let devices: Vec<Option<Dev>> =
                if devices.is_empty() { vec![None] } else { devices.into_iter().map(Some).collect() };
            for device in devices {
                let looks = self.looks;
                let writer = self.note(tick, *pid, device);
                // Several threads of one process are one look.
                if writer.latest != looks {
                    writer.latest = looks;
                    writer.held_back += 1;
                }
            }
        }
    }

    fn look_at_writers(&mut self, tick: &Tick<'_>) {
        let mut busy = Vec::new();
        let mut now = HashMap::new();
        for process in writing(tick) {
            let (pid, dirtied) = (process.row.pid, process.used.write_bytes);
            let more = dirtied.saturating_sub(self.dirtied.get(&pid).copied().unwrap_or(0));
            now.insert(pid, dirtied);
            if more >= MUCH {
                busy.push((more, pid, process.row.start_ns));
            }
        }
        self.dirtied = now;
        busy.sort_unstable_by_key(|(more, pid, _)| (std::cmp::Reverse(*more), *pid));
        busy.truncate(MAX_BUSY);
        self.ask(tick, &busy);
    }

    /// Asks processes where they write.
    fn ask(&mut self, tick: &Tick<'_>, busy: &[(u64, u32, u64)]) {
        let questions = busy
            .iter()
            .map(|(_, pid, start_ns)| {
                let pid = *pid;
                (Question::WritesTo(pid, *start_ns), move || devices_written(pid))
            })
            .collect::<Vec<_>>();
        for ((_, pid, _), answer) in busy.iter().zip(tick.resolver.ask_all(questions)) {
            for device in answer.unwrap_or_default() {
                self.note(tick, *pid, Some(device));
            }
        }
    }

    fn note(&mut self, tick: &Tick<'_>, pid: u32, device: Option<Dev>) -> &mut Writer {
        let writer = self.known.entry((pid, device)).or_default();
        if let Some(process) = tick.tasks.process(pid) {
            writer.comm = process.row.comm.to_str_lossy().into_owned();
            writer.dirtied = process.used.write_bytes;
        }
        writer
    }

    /// Those that were held back most, and those that made most dirty. Where anybody was held back, those who made little dirty are asked,
    /// too: they may have been between two looks.
    pub(super) fn finish(&mut self, tick: &Tick<'_>) -> Vec<DiskWriter> {
        if self.known.values().any(|writer| writer.held_back > 0) {
            let mut all: Vec<_> = writing(tick).map(|p| (p.used.write_bytes, p.row.pid, p.row.start_ns)).collect();
            all.sort_unstable_by_key(|(bytes, pid, _)| (std::cmp::Reverse(*bytes), *pid));
            all.truncate(MAX_ASKED);
            self.ask(tick, &all);
        }
        let mut all: Vec<_> = self.known.drain().collect();
        all.sort_by_key(|((pid, dev), writer)| (std::cmp::Reverse((writer.held_back, writer.dirtied)), *pid, *dev));
        all.truncate(MAX_TOLD);
        let looks = self.looks;
        all.into_iter()
            .map(|((pid, dev), writer)| DiskWriter {
                pid,
                comm: writer.comm,
                dev: dev.map(number).unwrap_or_default(),
                held_back: writer.held_back,
                looks,
            })
            .collect()
    }
}

/// Processes that made anything dirty in the window.
fn writing<'a>(tick: &Tick<'a>) -> impl Iterator<Item = &'a ProcessAccount> {
    let users = tick.tasks.processes().filter(|process| process.alive && !process.row.is_kernel_thread());
    users.filter(|process| process.used.write_bytes > 0)
}

/// Whether a thread sleeps because too much is dirty, and on which devices what it writes is; none if that cannot be told.
fn held_back(pid: u32, tid: u32) -> Option<Vec<Dev>> {
    let is_it = asleep::wait_channel(pid, tid).is_some_and(|place| place.starts_with(HELD_BACK))
        || asleep::stack(pid, tid).iter().take(4).any(|frame| frame.starts_with(HELD_BACK));
    if !is_it {
        return None;
    }
    let to = match asleep::doing(pid, tid) {
        Ok(Doing::Writes(fd) | Doing::Moves { to: fd, .. }) => Some(fd),
        // A page fault, or a call that changes a directory.
        _ => None,
    };
    Some(to.map(|fd| devices_of(pid, fd)).unwrap_or_default())
}

/// The devices of all that a process has open for writing.
fn devices_written(pid: u32) -> Vec<Dev> {
    let mut devices = Vec::new();
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    for entry in entries.take(MAX_DESCRIPTORS) {
        // The link itself tells how the file was opened.
        let link = entry.path();
        let for_writing = link.symlink_metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o200 != 0);
        let fd = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        // What a program says of its own troubles is seldom much, and often goes elsewhere.
        let (true, Some(fd)) = (for_writing, fd.filter(|fd| *fd != 2)) else { continue };
        for device in devices_of(pid, fd) {
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
    }
    devices
}

/// The disk of a file that a process has open, and those that this is made of; none if it is not on one.
fn devices_of(pid: u32, fd: u32) -> Vec<Dev> {
    let link = format!("/proc/{pid}/fd/{fd}");
    // Not to ask a server that may not answer.
    let Ok(stat) = statx(CWD, &link, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE | StatxFlags::INO) else {
        return Vec::new();
    };
    let dev = match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::BlockDevice => Some((stat.stx_rdev_major, stat.stx_rdev_minor)),
        FileType::RegularFile if stat.stx_dev_major != 0 => Some((stat.stx_dev_major, stat.stx_dev_minor)),
        FileType::RegularFile => device_of_mount(pid, fd),
        _ => None,
    };
    dev.map(layers).unwrap_or_default()
}

/// The device below a file system that has no device number of its own (btrfs, overlayfs): the one that it is named after, or that of the
/// directory that takes what is written.
fn device_of_mount(pid: u32, fd: u32) -> Option<Dev> {
    let id = mount_id(Holder { pid, fd })?.to_string();
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(&*id))?;
    let metadata = fs::metadata(place_of_device(line)?).ok()?;
    let dev = if metadata.rdev() != 0 { metadata.rdev() } else { metadata.dev() };
    Some((rustix::fs::major(dev), rustix::fs::minor(dev))).filter(|dev| dev.0 != 0)
}

/// What a line of `mountinfo` names as the place of the data: a node in `/dev`, or the upper directory of an overlay.
fn place_of_device(line: &str) -> Option<String> {
    let mut fields = line.split_once(" - ")?.1.split(' ');
    let (kind, source, options) = (fields.next()?, fields.next()?, fields.next()?);
    if kind == "overlay" {
        return options.split(',').find_map(|option| option.strip_prefix("upperdir=")).map(unescape_mount);
    }
    source.starts_with("/dev/").then(|| unescape_mount(source))
}

/// A disk, and the devices that it is made of: of dm and md, only those have requests.
fn layers(dev: Dev) -> Vec<Dev> {
    let mut found = vec![whole_disk(dev)];
    let mut next = 0;
    while let Some(above) = found.get(next).copied().filter(|_| next < MAX_LAYERS) {
        let entries = fs::read_dir(format!("/sys/dev/block/{}/slaves", number(above))).into_iter().flatten().flatten();
        for entry in entries.take(MAX_LAYERS) {
            let below = fs::read_to_string(entry.path().join("dev")).ok();
            if let Some(below) = below.and_then(|text| parse_number(&text)).map(whole_disk)
                && !found.contains(&below)
            {
                found.push(below);
            }
        }
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn a_mount_leads_to_its_device() {
        let overlay = "76 64 0:50 / / rw - overlay overlay rw,lowerdir=/l1:/l2,upperdir=/var/up\\040per,workdir=/w";
        assert_eq!(place_of_device(overlay).as_deref(), Some("/var/up per"));
        let btrfs = "30 27 0:25 /@ / rw shared:1 - btrfs /dev/sda2 rw,subvol=/@";
        assert_eq!(place_of_device(btrfs).as_deref(), Some("/dev/sda2"));
        assert_eq!(place_of_device("25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw"), None);
        assert_eq!(place_of_device("nonsense"), None);
    }

    #[test]
    fn own_open_files_lead_to_devices() {
        let dir = std::env::current_dir().unwrap();
        let path = dir.join(format!(".device-writers-{}", std::process::id()));
        let file = fs::File::create(&path).unwrap();
        let fd = u32::try_from(file.as_raw_fd()).unwrap();
        let devices = devices_of(std::process::id(), fd);
        let all = devices_written(std::process::id());
        fs::remove_file(&path).unwrap();
        let dev = fs::metadata(&dir).unwrap().dev();
        if rustix::fs::major(dev) != 0 {
            assert_eq!(devices.first(), Some(&whole_disk((rustix::fs::major(dev), rustix::fs::minor(dev)))));
        }
        assert!(devices.iter().all(|device| all.contains(device)), "{all:?}");
        let null = fs::File::create("/dev/null").unwrap();
        assert!(devices_of(std::process::id(), u32::try_from(null.as_raw_fd()).unwrap()).is_empty());
    }

    #[test]
    fn a_thread_that_sleeps_elsewhere_is_not_held_back() {
        assert_eq!(held_back(std::process::id(), std::process::id()), None);
    }
}
