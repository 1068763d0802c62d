//! Mounted file systems and how full they are.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::devices::{Dev, backing, number, parse_number, whole_disk};
use crate::engine::{MountWatch, Question, Resolver, host_mounts};
use crate::probe::unescape_mount;
use kerno_model::Missing;
use kerno_model::{ErrnoCount, Filesystem, ForcedState, fill};

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
    /// What of the file system is mounted there.
    root: String,
    mount: String,
    read_only: bool,
    /// All of it is mounted there, and read-only.
    asked_read_only: bool,
    forced: ForcedState,
    kind: String,
    source: String,
}

/// What is written to as long as nothing else is said; others (squashfs, erofs, isofs) are read-only by nature, whatever the mount says.
const WRITABLE: [&str; 17] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "f2fs", "jfs", "reiserfs", "nilfs2", "gfs2", "ocfs2", "vfat",
    "msdos", "exfat", "ntfs3", "hfsplus",
];

/// Whether the kernel has made a file system read-only. Whoever asks for that himself, has it at the mount, too; when a file system does it
/// after an error, only its own options change.
fn forced(kind: &str, options: &str, super_options: &str) -> ForcedState {
    let has = |options: &str, wanted: &str| options.split(',').any(|option| option == wanted);
    if has(super_options, "shutdown") {
        ForcedState::Shutdown
    } else if has(super_options, "emergency_ro") {
        ForcedState::EmergencyReadOnly
    } else if has(super_options, "ro") && has(options, "rw") && WRITABLE.contains(&kind) {
        ForcedState::ReadOnly
    } else {
        ForcedState::None
    }
}

fn parse_line(line: &str) -> Option<MountLine> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<_> = left.split(' ').collect();
    let right: Vec<_> = right.split(' ').collect();
    let ([_, _, dev, root, mount, options, ..], [kind, source, super_options, ..]) = (&left[..], &right[..]) else {
        return None;
    };
    let read_only = |options: &str| options.split(',').any(|option| option == "ro");
    let forced = forced(kind, options, super_options);
    Some(MountLine {
        dev: parse_number(dev)?,
        root: (*root).to_owned(),
        mount: unescape_mount(mount),
        read_only: read_only(options) || read_only(super_options) || forced != ForcedState::None,
        asked_read_only: *root == "/" && read_only(options),
        forced,
        kind: (*kind).to_owned(),
        source: unescape_mount(source),
    })
}

/// Takes from the mounts of the host how each of these is mounted there. A service manager mounts read-only for a service what the machine can write
/// to; only the host's own mounts say what is so for all.
fn as_on_host(lines: &mut [MountLine], host: &[MountLine]) {
    // Of those at one place, the last hides the others.
    let at: HashMap<_, _> = host.iter().map(|line| ((line.dev, &line.root, &line.mount), line)).collect();
    for line in lines {
        if let Some(host) = at.get(&(line.dev, &line.root, &line.mount)) {
            *line = (*host).clone();
        }
    }
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
                // Where it is mounted read-only, that does not show.
                let forced = if earlier.forced == ForcedState::None { line.forced } else { earlier.forced };
                if line.mount.len() < earlier.mount.len() {
                    *earlier = line.clone();
                }
                earlier.read_only = read_only;
                earlier.forced = forced;
            }
            None => chosen.push(line.clone()),
        }
    }
    for line in chosen.iter_mut().filter(|line| line.forced == ForcedState::ReadOnly) {
        // One that was mounted read-only may also be bound somewhere as if it could be written to.
        if lines.iter().any(|other| other.dev == line.dev && other.asked_read_only) {
            line.forced = ForcedState::None;
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
    watch: MountWatch,
    /// Why the room of one could not be read at the latest sample, by mount point.
    failed: HashMap<String, String>,
}

impl Filesystems {
    pub(super) fn begin(&mut self, resolver: &Resolver) {
        self.list.clear();
        self.failed.clear();
        self.find(resolver);
        self.read(0.0, resolver);
    }

    pub(super) fn sample(&mut self, seconds: f64, resolver: &Resolver) {
        if self.watch.changed() {
            self.find(resolver);
        }
        self.read(seconds, resolver);
    }

    /// Ends a window. That a file system has become read-only is no change of what is mounted, so it has to be looked for.
    pub(super) fn finish(&mut self, resolver: &Resolver) {
        self.find(resolver);
        let forced = self.list.iter_mut().filter(|filesystem| filesystem.forced != ForcedState::None);
        let forced: Vec<_> = forced.filter_map(|fs| Some((parse_number(&fs.dev)?, fs))).collect();
        let answers = resolver.ask_all(forced.iter().map(|(dev, _)| {
            let dev = *dev;
            (Question::Errors(dev.0, dev.1), move || (backing(whole_disk(dev)), Errors::read(dev)))
        }));
        for ((_, filesystem), answer) in forced.into_iter().zip(answers) {
            let Ok((backing, errors)) = answer else { continue };
            filesystem.backing = backing;
            filesystem.errors = errors.count;
            filesystem.last_error = errors.latest;
            filesystem.last_error_unix = errors.unix_seconds;
        }
    }

    pub(super) fn list(&self) -> &[Filesystem] {
        &self.list
    }

    /// The file systems whose room the latest sample could not read: below a directory that this process may not enter, or on a disk that
    /// does not answer.
    pub(super) fn unread(&self) -> Option<Missing> {
        let mut unread = self.list.iter().filter_map(|fs| Some((fs, self.failed.get(&fs.mount)?)));
        let (first, reason) = unread.next()?;
        let others = match unread.count() {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        let what = format!("room on the file system at {}{others}", first.mount);
        Some(fill!(Missing { signal: "disk_io".into(), what, reason: reason.clone() }))
    }

    pub(super) const fn mounts(&self) -> &HashMap<Dev, Vec<String>> {
        &self.mounts
    }

    /// Reads what is mounted; keeps what is known of a file system that still is.
    fn find(&mut self, resolver: &Resolver) {
        // Names of mount points may be any bytes.
        let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<_> = text.lines().filter_map(parse_line).collect();
        if let Some(host) = host_mounts() {
            let host: Vec<_> = host.lines().filter_map(parse_line).collect();
            as_on_host(&mut lines, &host);
        }
        self.mounts = HashMap::new();
        let sources = devices_of_sources(&lines, resolver);
        for line in &lines {
            if let Some(disk) = disk_of(line, &sources) {
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
            filesystem.forced = line.forced;
            filesystem.mount = line.mount;
            filesystem.source = line.source;
            filesystem.kind = line.kind;
            filesystem.dev = dev;
            self.list.push(filesystem);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "sizes")]
    fn read(&mut self, seconds: f64, resolver: &Resolver) {
        let questions = self.list.iter().map(|filesystem| {
            let mount = filesystem.mount.clone();
            (Question::Room(mount.clone()), move || rustix::fs::statvfs(mount.as_str()))
        });
        let answers = resolver.ask_all(questions);
        for (filesystem, answer) in self.list.iter_mut().zip(answers) {
            let stat = match answer {
                Ok(Ok(stat)) => stat,
                Ok(Err(error)) => {
                    self.failed.insert(filesystem.mount.clone(), std::io::Error::from(error).to_string());
                    continue;
                }
                Err(late) => {
                    self.failed.insert(filesystem.mount.clone(), late.to_string());
                    continue;
                }
            };
            self.failed.remove(&filesystem.mount);
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

/// What an ext4 says of its errors (`/sys/fs/ext4/NAME`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Errors {
    count: u64,
    latest: String,
    unix_seconds: u64,
}

impl Errors {
    fn read(dev: Dev) -> Self {
        let link = fs::read_link(format!("/sys/dev/block/{}", number(dev))).unwrap_or_default();
        let dir = std::path::Path::new("/sys/fs/ext4").join(link.file_name().unwrap_or_default());
        let number = |name: &str| fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u64>().ok();
        let latest = number("last_error_errcode").and_then(errno_of).map(|errno| ErrnoCount::new(errno, 0).name);
        Self {
            count: number("errors_count").unwrap_or(0),
            latest: latest.unwrap_or_default(),
            unix_seconds: number("last_error_time").unwrap_or(0),
        }
    }
}

/// The error that a code of ext4 stands for (`EXT4_ERR_*`, fs/ext4/ext4.h), as far as it says something.
const fn errno_of(code: u64) -> Option<i32> {
    Some(match code {
        2 => libc::EIO,
        3 => libc::ENOMEM,
        4 => libc::EBADMSG,
        5 => libc::EUCLEAN,
        6 => libc::ENOSPC,
        8 => libc::EROFS,
        16 => libc::ESHUTDOWN,
        _ => return None,
    })
}

/// Others make inodes as long as there is room.
fn has_fixed_inodes(kind: &str) -> bool {
    kind.starts_with("ext") || kind.ends_with("tmpfs") || kind == "overlay"
}

/// The devices that file systems without one of their own (btrfs) are named after, by the name.
fn devices_of_sources(lines: &[MountLine], resolver: &Resolver) -> HashMap<String, Dev> {
    let names = lines.iter().filter(|line| line.dev.0 == 0 && line.source.starts_with("/dev/"));
    let names: HashSet<_> = names.map(|line| line.source.clone()).collect();
    if names.is_empty() {
        return HashMap::new();
    }
    let look = move || {
        let device = |name: String| {
            let rdev = fs::metadata(&name).ok()?.rdev();
            Some((name, (rustix::fs::major(rdev), rustix::fs::minor(rdev))))
        };
        names.into_iter().filter_map(device).collect()
    };
    resolver.ask(Question::Sources, look).unwrap_or_default()
}

/// The disk of a mount's device; of a file system that spans several (btrfs), the disk it is named after.
fn disk_of(line: &MountLine, sources: &HashMap<String, Dev>) -> Option<Dev> {
    if line.dev.0 != 0 {
        return Some(whole_disk(line.dev));
    }
    let dev = *sources.get(&line.source)?;
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
        let resolver = Resolver::new(std::sync::Arc::default());
        let at = |mount: &str| Filesystem { mount: mount.into(), ..Filesystem::default() };
        let mut filesystems = Filesystems { list: vec![at("/")], ..Filesystems::default() };
        filesystems.read(0.0, &resolver);
        assert_eq!((filesystems.unread(), filesystems.list[0].available_bytes.points().len()), (None, 1));
        filesystems.list.extend([at("/no/such\n"), at("/no/such/either")]);
        filesystems.read(1.0, &resolver);
        let missing = filesystems.unread().unwrap();
        assert_eq!(missing.what, "room on the file system at /no/such\n and 1 more");
        assert!(missing.reason.contains("No such file"), "{missing:?}");
        filesystems.list.truncate(1);
        assert_eq!(filesystems.unread(), None, "they have gone");
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
    fn what_the_kernel_made_read_only_is_told_from_what_was_mounted_so() {
        let state = |line: &str| parse_line(line).map(|line| (line.read_only, line.forced)).unwrap();
        let since_6_15 = "50 29 7:0 / /m rw,relatime - ext4 /dev/loop0 rw,errors=remount-ro,emergency_ro";
        assert_eq!(state(since_6_15), (true, ForcedState::EmergencyReadOnly));
        let before = "50 29 7:0 / /m rw,relatime - ext4 /dev/loop0 ro,errors=remount-ro";
        assert_eq!(state(before), (true, ForcedState::ReadOnly));
        assert_eq!(state("50 29 7:0 / /m rw - ext4 /dev/loop0 rw,shutdown"), (true, ForcedState::Shutdown));
        assert_eq!(state("50 29 7:0 / /m ro,relatime - ext4 /dev/loop0 ro"), (true, ForcedState::None));
        assert_eq!(state("50 29 7:0 / /m ro,relatime - ext4 /dev/loop0 rw"), (true, ForcedState::None), "bind");
        assert_eq!(state("50 29 7:0 / /s rw - squashfs /dev/loop0 ro"), (true, ForcedState::None), "by nature");
        assert_eq!(state("50 29 7:0 / /m rw - ext4 /dev/loop0 rw,errors=remount-ro"), (false, ForcedState::None));
    }

    #[test]
    fn a_bind_mount_that_says_rw_does_not_make_a_read_only_file_system_a_broken_one() {
        let forced = |text: &str| choose(&lines(text), &HashSet::new()).into_iter().map(|line| line.forced).next();
        let mounted = "50 29 7:0 / /m ro - ext4 /dev/loop0 ro\n51 29 7:0 / /again rw - ext4 /dev/loop0 ro";
        assert_eq!(forced(mounted), Some(ForcedState::None));
        let broken = "50 29 7:0 / /m rw - ext4 /dev/loop0 ro\n51 29 7:0 /etc/hosts /pod/hosts ro - ext4 /dev/loop0 ro";
        assert_eq!(forced(broken), Some(ForcedState::ReadOnly), "a part of it is bound read-only, as in containers");
    }

    #[test]
    fn what_is_read_only_for_this_service_alone_is_not_for_the_machine() {
        let host = "20 1 8:2 / / rw shared:1 - ext4 /dev/sda2 rw\n21 20 8:3 / /srv rw - xfs /dev/sdb rw\n22 20 8:4 / /ro ro - ext4 /dev/sdc ro";
        let service = host.replace(" rw shared:1", " ro shared:1").replace("/srv rw", "/srv ro");
        let mut lines = lines(&service);
        assert!(lines.iter().all(|line| line.read_only), "{lines:?}");
        as_on_host(&mut lines, &super::tests::lines(host));
        let read_only: Vec<_> = lines.iter().map(|line| line.read_only).collect();
        assert_eq!(read_only, [false, false, true]);
        // What an error made read-only shows again.
        as_on_host(&mut lines, &super::tests::lines(&host.replace("/dev/sdb rw", "/dev/sdb ro")));
        assert_eq!(lines[1].forced, ForcedState::ReadOnly);
        // In a container, other places have the same file system.
        let mut container = super::tests::lines("30 1 8:2 /var/lib/c/etc /etc/hosts ro - ext4 /dev/sda2 rw");
        as_on_host(&mut container, &super::tests::lines(host));
        assert!(container[0].read_only);
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
        filesystems.begin(&Resolver::new(std::sync::Arc::default()));
        let root = filesystems.list().iter().find(|fs| fs.mount == "/").unwrap();
        let stat = rustix::fs::statvfs("/").unwrap();
        assert!(root.total_bytes > 0 && root.total_bytes <= stat.f_blocks * stat.f_frsize);
    }
}
