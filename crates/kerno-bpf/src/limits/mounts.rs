//! File systems in the mount namespace of a process.

use std::collections::{BTreeMap, HashSet};
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;

use kerno_model::{LimitScope, LimitUse, Resource};

use crate::probe::unescape_mount;
use crate::waits::ends::{Holder, mount_id};

use super::machine::length;
use super::{View, number};

/// File systems that answer at once, and that something can be written to.
const LOCAL: &[&str] = &[
    "tmpfs",
    "ramfs",
    "hugetlbfs",
    "ext2",
    "ext3",
    "ext4",
    "xfs",
    "btrfs",
    "f2fs",
    "overlay",
    "zfs",
    "bcachefs",
    "jfs",
    "reiserfs",
    "vfat",
    "exfat",
];
/// The most that are looked at.
const MAX_MOUNTS: usize = 64;

/// A mount, from a line of `/proc/PID/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    device: String,
    at: String,
    kind: String,
    source: String,
    read_only: bool,
}

fn parse(line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let head: Vec<&str> = head.split(' ').collect();
    let [_, _, device, _, at, options, ..] = head[..] else { return None };
    let mut tail = tail.split(' ');
    let (kind, source, super_options) = (tail.next()?, tail.next()?, tail.next().unwrap_or_default());
    let read_only = |options: &str| options.split(',').any(|option| option == "ro");
    Some(Mount {
        device: device.to_owned(),
        at: unescape_mount(at),
        kind: kind.to_owned(),
        source: unescape_mount(source),
        read_only: read_only(options) || read_only(super_options),
    })
}

pub(super) fn read(view: &View, wants: &dyn Fn(&[Resource]) -> bool, found: &mut Vec<LimitUse>) {
    use Resource as R;
    let Some(text) = view.text("mountinfo") else { return };
    if wants(&[R::Mounts])
        && let Some(limit) = number("/proc/sys/fs/mount-max")
    {
        found.push(LimitUse::new(R::Mounts, LimitScope::MountNamespace, text.lines().count() as u64, limit));
    }
    if wants(&[R::FileSystemBytes, R::FileSystemInodes]) {
        file_systems(view, &text, found);
    }
    if wants(&[R::QuotaBytes, R::QuotaFiles]) {
        quotas(view, &text, found);
    }
}

fn mounts(text: &str) -> Vec<Mount> {
    let (mut seen, mut covered) = (HashSet::new(), HashSet::new());
    // Of several at one place the last one is seen.
    let all: Vec<Mount> =
        text.lines().rev().filter_map(parse).filter(|mount| covered.insert(mount.at.clone())).collect();
    let local = all.into_iter().rev().filter(|mount| LOCAL.contains(&mount.kind.as_str()) && !mount.read_only);
    local.filter(|mount| seen.insert(mount.device.clone())).take(MAX_MOUNTS).collect()
}

fn file_systems(view: &View, text: &str, found: &mut Vec<LimitUse>) {
    // Those that are seen from here are looked at all the time, with who fills them.
    let ours = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let known: HashSet<String> =
        if view.all { HashSet::new() } else { ours.lines().filter_map(parse).map(|mount| mount.device).collect() };
    for mount in mounts(text).into_iter().filter(|mount| !known.contains(&mount.device)) {
        let root = format!("/proc/{}/root{}", view.pid, mount.at);
        let Ok(room) = rustix::fs::statvfs(&root) else { continue };
        // One without a size has no limit.
        if room.f_blocks > 0 {
            let block = room.f_frsize.max(1);
            // What only root may use does not count as free.
            let free = if room.f_bavail == 0 { 0 } else { room.f_bfree };
            let (used, limit) = (room.f_blocks.saturating_sub(free), room.f_blocks);
            let mut entry = LimitUse::new(
                Resource::FileSystemBytes,
                LimitScope::FileSystem,
                used.saturating_mul(block),
                limit.saturating_mul(block),
            )
            .bytes()
            .at(&mount.at);
            if entry.is_full() {
                entry.holders = holders(view, &root, entry.used);
            }
            found.push(entry);
        }
        if room.f_files > 0 {
            let used = room.f_files.saturating_sub(room.f_favail);
            found.push(
                LimitUse::new(Resource::FileSystemInodes, LimitScope::FileSystem, used, room.f_files).at(&mount.at),
            );
        }
    }
}

/// Who has the largest files of a file system open or mapped.
fn holders(view: &View, root: &str, used: u64) -> Vec<kerno_model::LimitHolder> {
    let Ok(device) = std::fs::metadata(root).map(|metadata| metadata.st_dev()) else { return Vec::new() };
    let (major, minor) = (libc::major(device), libc::minor(device));
    let mapped = format!(" {major:02x}:{minor:02x} ");
    let mut amounts = Vec::new();
    for process in view.processes().all.iter().filter(|process| !process.zombie) {
        let mut files: BTreeMap<u64, u64> = BTreeMap::new();
        let mut of_device = None;
        for entry in std::fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten() {
            // Asked of the mount id, which never hangs, before the file itself is.
            let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let mut on_it = || {
                let mounts = of_device.get_or_insert_with(|| mounts_of(process.pid, major, minor));
                mount_id(Holder { pid: process.pid, fd }).is_some_and(|id| mounts.contains(&id))
            };
            if std::fs::read_link(entry.path()).is_ok_and(|link| link.is_absolute())
                && on_it()
                && let Ok(file) = std::fs::metadata(entry.path())
            {
                files.insert(file.st_ino(), file.st_blocks().saturating_mul(512));
            }
        }
        let maps = std::fs::read(format!("/proc/{}/maps", process.pid)).unwrap_or_default();
        for line in String::from_utf8_lossy(&maps).lines().filter(|line| line.contains(&mapped)) {
            if let (Some(inode), Some(length)) =
                (line.split_whitespace().nth(4).and_then(|word| word.parse().ok()), length(line))
            {
                files.entry(inode).or_insert(length);
            }
        }
        amounts.push((process.pid, files.values().sum()));
    }
    view.processes().holders(&amounts, used)
}

/// The ids of the mounts of this device in the namespace of a process.
fn mounts_of(pid: u32, major: u32, minor: u32) -> HashSet<u32> {
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let device = format!("{major}:{minor}");
    let on_it = |line: &str| {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        (fields.nth(1) == Some(device.as_str())).then_some(id)
    };
    mounts.lines().filter_map(on_it).collect()
}

/// Quotas of the user of the process, where a file system has them (quotactl(2)).
fn quotas(view: &View, text: &str, found: &mut Vec<LimitUse>) {
    let Some((uid, _)) = view.uids() else { return };
    let mut seen = HashSet::new();
    let devices = text.lines().filter_map(parse).filter(|mount| LOCAL.contains(&mount.kind.as_str()));
    for mount in devices.filter(|mount| seen.insert(mount.device.clone())).take(MAX_MOUNTS) {
        let Some(quota) = quota(&mount, uid) else { continue };
        // Counted in blocks of 1024 bytes, used in bytes.
        let (bytes, files) = (quota.dqb_bhardlimit.saturating_mul(1024), quota.dqb_ihardlimit);
        let place = format!("{} of user {uid}", mount.at);
        if bytes > 0 {
            found.push(
                LimitUse::new(Resource::QuotaBytes, LimitScope::User, quota.dqb_curspace, bytes).bytes().at(&place),
            );
        }
        if files > 0 {
            found.push(LimitUse::new(Resource::QuotaFiles, LimitScope::User, quota.dqb_curinodes, files).at(place));
        }
    }
}

fn quota(mount: &Mount, uid: u32) -> Option<libc::dqblk> {
    if !Path::new(&mount.source).is_absolute() {
        return None;
    }
    let device = std::ffi::CString::new(mount.source.as_str()).ok()?;
    // SAFETY: all zeroes is one.
    let mut quota: libc::dqblk = unsafe { std::mem::zeroed() };
    let (command, user) = (libc::QCMD(libc::Q_GETQUOTA, libc::USRQUOTA), i32::try_from(uid).ok()?);
    // SAFETY: the name of a device, and room for what it says.
    let done = unsafe { libc::quotactl(command, device.as_ptr(), user, (&raw mut quota).cast()) };
    (done == 0).then_some(quota)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let line = r"36 35 0:45 / /dev/shm rw,nosuid shared:5 - tmpfs shm rw,size=65536k";
        let mount = parse(line).unwrap();
        assert_eq!(
            (mount.device.as_str(), mount.at.as_str(), mount.kind.as_str(), mount.read_only),
            ("0:45", "/dev/shm", "tmpfs", false)
        );
        assert!(parse("36 35 0:45 / /x ro - tmpfs t rw").unwrap().read_only && parse("").is_none());
        assert_eq!(mounts(&format!("{line}\n{line}\n1 2 0:3 / /proc rw - proc proc rw")).len(), 1);
    }

    #[test]
    fn file_systems_of_this_process_are_read() {
        let mut found = Vec::new();
        read(&View::new(std::process::id(), false, true), &|_| true, &mut found);
        assert!(
            found.iter().any(|entry| entry.resource == Resource::FileSystemBytes
                && entry.used > 0
                && entry.used <= entry.limit),
            "{found:?}"
        );
        assert!(found.iter().any(|entry| entry.resource == Resource::Mounts && entry.limit >= 1000));
    }
}
