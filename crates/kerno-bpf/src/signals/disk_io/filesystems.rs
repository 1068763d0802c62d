//! Mounted file systems and how full they are.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::devices::{Dev, number, parse_number, whole_disk};
use crate::probe::unescape_mount;
use kerno_model::Missing;
use kerno_model::{Filesystem, fill};

/// The most that are looked at.
const MAX_FILESYSTEMS: usize = 128;

/// Without a device below, and yet with room that can run out.
const IN_MEMORY_OR_POOLS: [&str; 5] = ["tmpfs", "devtmpfs", "zfs", "btrfs", "bcachefs"];

/// Where asking may wait for a server or a process that does not answer; they have a device or none.
const MAY_HANG: [&str; 13] =
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "afs", "9p", "glusterfs", "lustre", "autofs", "fuse", "fuseblk"];

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
struct MountLine {
    dev: Dev,
    mount: String,
    read_only: bool,
    kind: String,
    source: String,
}

fn parse_line(line: &str) -> Option<MountLine> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<_> = left.split(' ').collect();
    let right: Vec<_> = right.split(' ').collect();
    let ([_, _, dev, _, mount, options, ..], [kind, source, super_options, ..]) = (&left[..], &right[..]) else {
        return None;
    };
    let read_only = |options: &str| options.split(',').any(|option| option == "ro");
    Some(MountLine {
        dev: parse_number(dev)?,
        mount: unescape_mount(mount),
        read_only: read_only(options) || read_only(super_options),
        kind: (*kind).to_owned(),
        source: unescape_mount(source),
    })
}

fn may_hang(kind: &str) -> bool {
    MAY_HANG.contains(&kind) || kind.starts_with("fuse.")
}

/// Kinds of file systems that have no device below (`nodev`).
fn kinds_without_device() -> HashSet<String> {
    let text = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("nodev")).map(|kind| kind.trim().to_owned()).collect()
}

/// Those worth looking at, each once, however often it is mounted.
fn choose(lines: &[MountLine], nodev: &HashSet<String>) -> Vec<MountLine> {
    let hanging: Vec<_> = lines.iter().filter(|line| may_hang(&line.kind)).map(|line| line.mount.as_str()).collect();
    // To look there, the kernel would have to ask the file system above.
    let below_hanging = |mount: &str| {
        hanging.iter().any(|above| mount.strip_prefix(above).is_some_and(|rest| rest.starts_with('/') || *above == "/"))
    };
    let has_room = |line: &MountLine| {
        IN_MEMORY_OR_POOLS.contains(&line.kind.as_str())
            || !nodev.contains(&line.kind)
            // The root of a container: its figures are those of the file system below.
            || (line.kind == "overlay" && line.mount == "/")
    };
    let mut chosen: Vec<MountLine> = Vec::new();
    for line in lines.iter().filter(|line| !may_hang(&line.kind) && has_room(line) && !below_hanging(&line.mount)) {
        // What is mounted over another one hides it.
        chosen.retain(|earlier| earlier.mount != line.mount || earlier.dev == line.dev);
        match chosen.iter_mut().find(|earlier| earlier.dev == line.dev) {
            // Of the places that one is mounted at, the shortest says most; it can be written to when one of them can.
            Some(earlier) => {
                let read_only = earlier.read_only && line.read_only;
                if line.mount.len() < earlier.mount.len() {
                    *earlier = line.clone();
                }
                earlier.read_only = read_only;
            }
            None => chosen.push(line.clone()),
        }
    }
    // Storage before memory.
    chosen.sort_by_key(|line| line.kind.ends_with("tmpfs"));
    chosen.truncate(MAX_FILESYSTEMS);
    chosen
}

/// The file systems of the window.
#[derive(Debug, Default)]
pub(super) struct Filesystems {
    list: Vec<Filesystem>,
    /// Mount points by whole disk.
    mounts: HashMap<Dev, Vec<String>>,
    /// Readable, in poll(2)'s sense, as long as nothing is mounted or unmounted.
    watch: Option<File>,
}

impl Filesystems {
    pub(super) fn begin(&mut self) {
        self.list.clear();
        self.find();
        self.read(0.0);
    }

    pub(super) fn sample(&mut self, seconds: f64) {
        if self.mounts_changed() {
            self.find();
        }
        self.read(seconds);
    }

    pub(super) fn list(&self) -> &[Filesystem] {
        &self.list
    }

    pub(super) const fn mounts(&self) -> &HashMap<Dev, Vec<String>> {
        &self.mounts
    }

    fn mounts_changed(&self) -> bool {
        let Some(watch) = &self.watch else { return true };
        let mut fds = [PollFd::new(watch, PollFlags::PRI)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Reads what is mounted; keeps what is known of a file system that still is.
    fn find(&mut self) {
        // Opened anew: a change is told once to each open file.
        self.watch = File::open("/proc/self/mountinfo").ok();
        // Names of mount points may be any bytes.
        let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().filter_map(parse_line).collect();
        self.mounts = HashMap::new();
        for line in &lines {
            if let Some(disk) = disk_of(line) {
                let mounts = self.mounts.entry(disk).or_default();
                if mounts.len() < MAX_FILESYSTEMS && !mounts.contains(&line.mount) {
                    mounts.push(line.mount.clone());
                }
            }
        }
        let mut known = std::mem::take(&mut self.list);
        for line in choose(&lines, &kinds_without_device()) {
            let dev = number(line.dev);
            let at = known.iter().position(|fs| fs.dev == dev && fs.mount == line.mount);
            let mut filesystem = at.map(|at| known.swap_remove(at)).unwrap_or_default();
            filesystem.read_only = line.read_only;
            filesystem.mount = line.mount;
            filesystem.source = line.source;
            filesystem.kind = line.kind;
            filesystem.dev = dev;
            self.list.push(filesystem);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "sizes")]
    fn read(&mut self, seconds: f64) {
        for filesystem in &mut self.list {
            let Ok(stat) = rustix::fs::statvfs(filesystem.mount.as_str()) else { continue };
            let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize.max(1));
            let used = stat.f_blocks.saturating_sub(stat.f_bfree);
            filesystem.total_bytes = bytes(used.saturating_add(stat.f_bavail));
            filesystem.available_bytes.push(seconds, bytes(stat.f_bavail) as f64);
            // Some that make inodes as they need them give no number, others one that follows the free space.
            filesystem.total_inodes = if has_fixed_inodes(&filesystem.kind) { stat.f_files } else { 0 };
            if filesystem.total_inodes > 0 {
                filesystem.free_inodes.push(seconds, stat.f_ffree as f64);
            }
        }
    }
}

/// Those that could not be asked for their room, such as those below a directory that is not ours to enter.
pub(super) fn unread(filesystems: &[Filesystem]) -> Option<Missing> {
    let mut unread = filesystems.iter().filter(|fs| fs.available_bytes.points().is_empty());
    let first = unread.next()?;
    // Gone by now, if it can be asked.
    let error = rustix::fs::statvfs(first.mount.as_str()).err()?;
    let others = match unread.count() {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    let what = format!("room on the file system at {}{others}", first.mount);
    Some(fill!(Missing { signal: "disk_io".into(), what, reason: std::io::Error::from(error).to_string() }))
}

/// Others make inodes as long as there is room.
fn has_fixed_inodes(kind: &str) -> bool {
    kind.starts_with("ext") || kind.ends_with("tmpfs") || kind == "overlay"
}

/// The disk of a mount's device; of a file system that spans several (btrfs), the disk it is named after.
fn disk_of(line: &MountLine) -> Option<Dev> {
    if line.dev.0 != 0 {
        return Some(whole_disk(line.dev));
    }
    if !line.source.starts_with("/dev/") {
        return None;
    }
    let rdev = fs::metadata(&line.source).ok()?.rdev();
    let dev = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    (dev.0 != 0).then(|| whole_disk(dev))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<MountLine> {
        text.lines().filter_map(parse_line).collect()
    }

    fn chosen(text: &str) -> Vec<(String, bool)> {
        let nodev = ["proc", "tmpfs", "overlay", "nfs", "fuse", "cgroup2", "btrfs"].map(str::to_owned).into();
        choose(&lines(text), &nodev).into_iter().map(|line| (line.mount, line.read_only)).collect()
    }

    #[test]
    fn a_file_system_that_cannot_be_asked_is_missed() {
        let mut filesystems = vec![Filesystem { mount: "/".into(), ..Filesystem::default() }];
        assert_eq!(unread(&filesystems), None, "it came just now");
        filesystems[0].mount = "/no/such\n".into();
        filesystems.push(Filesystem { mount: "/no/such/either".into(), ..Filesystem::default() });
        let missing = unread(&filesystems).unwrap();
        assert_eq!(missing.what, "room on the file system at /no/such\n and 1 more");
        assert!(missing.reason.contains("No such file"), "{missing:?}");
        filesystems.iter_mut().for_each(|fs| fs.available_bytes.push(0.0, 1.0));
        assert_eq!(unread(&filesystems), None);
    }

    #[test]
    fn only_what_can_run_full_and_cannot_hang_is_looked_at() {
        let found = chosen(
            "22 27 0:21 / /proc rw - proc proc rw\n\
             25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw\n\
             27 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n\
             28 27 8:2 /var /srv/a ro - ext4 /dev/sda2 rw\n\
             30 27 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro\n\
             31 27 0:40 / /net rw - nfs4 server:/x rw\n\
             32 31 8:3 / /net/local rw - ext4 /dev/sda3 rw\n\
             33 27 0:50 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw\n\
             34 27 8:33 / /media/a\\040b rw - fuseblk /dev/sdc1 rw\n\
             35 27 8:17 / /network rw - xfs /dev/sdb1 rw",
        );
        let names: Vec<_> = found.iter().map(|(mount, ro)| (mount.as_str(), *ro)).collect();
        assert_eq!(names, [("/", false), ("/snap/core/1", true), ("/network", false), ("/dev/shm", false)]);
    }

    #[test]
    fn what_hides_another_takes_its_place() {
        let found = chosen(
            "25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw\n\
             30 25 0:27 / /dev/shm rw - tmpfs tmpfs rw\n\
             31 24 0:28 / /a\\040b rw - tmpfs tmpfs rw",
        );
        assert_eq!(found, [("/dev/shm".to_owned(), false), ("/a b".to_owned(), false)]);
    }

    #[test]
    fn this_machines_root_is_found_as_statvfs_has_it() {
        let mut filesystems = Filesystems::default();
        filesystems.begin();
        let root = filesystems.list().iter().find(|fs| fs.mount == "/").unwrap();
        let stat = rustix::fs::statvfs("/").unwrap();
        assert!(root.total_bytes > 0 && root.total_bytes <= stat.f_blocks * stat.f_frsize);
    }
}
