//! How many namespaces there may be.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::linux::fs::MetadataExt as _;

use kerno_model::{LimitScope, LimitUse, Resource};

use crate::waits::namespaces::{Kind, initial, inode, path, read_within};

use super::View;

/// `NS_GET_USERNS`, `NS_GET_PARENT` and `NS_GET_OWNER_UID` (linux/nsfs.h).
const GET_USER_NAMESPACE: libc::c_ulong = 0xb701;
const GET_PARENT: libc::c_ulong = 0xb702;
const GET_OWNER: libc::c_ulong = 0xb704;

fn related(namespace: &File, request: libc::c_ulong) -> Option<File> {
    // SAFETY: these take no argument.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), request as _) };
    // SAFETY: nobody else knows the descriptor that was just made.
    (fd >= 0).then(|| unsafe { File::from_raw_fd(fd) })
}

fn owner(namespace: &File) -> Option<u32> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: this one writes a uid.
    (unsafe { libc::ioctl(namespace.as_raw_fd(), GET_OWNER as _, &raw mut uid) } == 0).then_some(uid)
}

/// How many user namespaces may be inside each other.
const MAX_DEPTH: usize = 33;

/// Who made the outermost user namespace that this one is in: the kernel charges all that is in it to that user. `None` for the machine's own.
fn outermost_owner(namespace: File) -> Option<u32> {
    let initial = initial(Kind::User)?;
    let mut at = namespace;
    for _ in 0..MAX_DEPTH {
        if at.metadata().ok()?.st_ino() == initial {
            return None;
        }
        let above = related(&at, GET_PARENT)?;
        if above.metadata().ok()?.st_ino() == initial {
            return owner(&at);
        }
        at = above;
    }
    None
}

/// The user of the machine's own user namespace to whom the kernel charges what a process makes.
pub(super) fn charged_user(pid: u32, effective: u32) -> u32 {
    File::open(path(pid, Kind::User)).ok().and_then(outermost_owner).unwrap_or(effective)
}

const COUNTED: [(Resource, Kind, &str); 7] = [
    (Resource::UserNamespaces, Kind::User, "/proc/sys/user/max_user_namespaces"),
    (Resource::MountNamespaces, Kind::Mount, "/proc/sys/user/max_mnt_namespaces"),
    (Resource::NetNamespaces, Kind::Net, "/proc/sys/user/max_net_namespaces"),
    (Resource::PidNamespaces, Kind::Pid, "/proc/sys/user/max_pid_namespaces"),
    (Resource::IpcNamespaces, Kind::Ipc, "/proc/sys/user/max_ipc_namespaces"),
    (Resource::UtsNamespaces, Kind::Uts, "/proc/sys/user/max_uts_namespaces"),
    (Resource::CgroupNamespaces, Kind::Cgroup, "/proc/sys/user/max_cgroup_namespaces"),
];

/// Each level of user namespaces has limits of its own. Those of the process's own and of the machine's are read; those of namespaces between
/// them are hardly ever set. Namespaces without a process are not seen, so there may be more.
pub(super) fn read(view: &View, wants: &dyn Fn(&[Resource]) -> bool, found: &mut Vec<LimitUse>) {
    let wanted: Vec<_> = COUNTED.into_iter().filter(|(resource, ..)| wants(&[*resource])).collect();
    if wanted.is_empty() {
        return;
    }
    let (Some(own), Some(initial)) = (inode(view.pid, Kind::User), initial(Kind::User)) else { return };
    let files: Vec<&str> = wanted.iter().map(|(.., file)| *file).collect();
    let of = |text: Option<String>| text?.trim().parse::<u64>().ok();
    let machine: Vec<_> = files.iter().map(|file| of(std::fs::read_to_string(file).ok())).collect();
    let inside: Vec<_> = if own == initial {
        Vec::new()
    } else {
        read_within(view.pid, &[Kind::User], &files).unwrap_or_default().into_iter().map(of).collect()
    };
    for (index, (resource, kind, _)) in wanted.iter().enumerate() {
        let counts = count(view, *kind, own);
        if let Some(limit) = machine.get(index).copied().flatten() {
            let mut entry = LimitUse::new(*resource, LimitScope::UserNamespace, counts.machine, limit);
            entry.holders = view.processes().holders(&counts.first, counts.machine);
            found.push(entry);
        }
        if let Some(limit) = inside.get(index).copied().flatten() {
            let mut entry = LimitUse::new(*resource, LimitScope::UserNamespace, counts.own, limit).at(own.to_string());
            entry.holders = view.processes().holders(&counts.first_inside, counts.own);
            found.push(entry);
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// Beside the machine's own one.
    machine: u64,
    /// Made in the user namespace of the process.
    own: u64,
    /// A process in each, and in each of the latter.
    first: Vec<(u32, u64)>,
    first_inside: Vec<(u32, u64)>,
}

fn count(view: &View, kind: Kind, own: u64) -> Counts {
    let initial = initial(kind);
    let (mut seen, mut counts) = (BTreeSet::new(), Counts::default());
    for process in &view.processes().all {
        let Ok(file) = File::open(path(process.pid, kind)) else { continue };
        let Ok(inode) = file.metadata().map(|metadata| metadata.st_ino()) else { continue };
        if Some(inode) == initial || !seen.insert(inode) {
            continue;
        }
        counts.machine += 1;
        counts.first.push((process.pid, 1));
        let request = if kind == Kind::User { GET_PARENT } else { GET_USER_NAMESPACE };
        if related(&file, request).and_then(|above| above.metadata().ok()).is_some_and(|above| above.st_ino() == own) {
            counts.own += 1;
            counts.first_inside.push((process.pid, 1));
        }
    }
    counts
}
