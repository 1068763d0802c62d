//! inotify, fanotify and epoll: limits of a user, over all of its processes.

use std::collections::{HashMap, HashSet};

use kerno_model::{LimitScope, LimitUse, Resource};

use crate::waits::namespaces::{self, Kind};

use super::namespaces::charged_user;
use super::{View, number, uids};

/// The most descriptors whose details are read.
const MAX_READ: usize = 1 << 16;

/// A kind of descriptor that users may have so many of.
struct Counted {
    link: &'static str,
    instances: Resource,
    /// The file with the limit of instances.
    instances_max: &'static str,
    watches: Option<Watches>,
}

struct Watches {
    resource: Resource,
    max: &'static str,
    /// How the line of a watch begins in `/proc/PID/fdinfo/FD`.
    line: &'static str,
}

const COUNTED: [Counted; 3] = [
    Counted {
        link: "anon_inode:inotify",
        instances: Resource::InotifyInstances,
        instances_max: "/proc/sys/fs/inotify/max_user_instances",
        watches: Some(Watches {
            resource: Resource::InotifyWatches,
            max: "/proc/sys/fs/inotify/max_user_watches",
            line: "inotify wd:",
        }),
    },
    Counted {
        link: "anon_inode:[fanotify]",
        instances: Resource::FanotifyGroups,
        instances_max: "/proc/sys/fs/fanotify/max_user_groups",
        watches: None,
    },
    Counted {
        link: "anon_inode:[eventpoll]",
        // Of these there may be any number.
        instances: Resource::Other,
        instances_max: "",
        watches: Some(Watches {
            resource: Resource::EpollWatches,
            max: "/proc/sys/fs/epoll/max_user_watches",
            line: "tfd:",
        }),
    },
];

pub(super) fn read(view: &View, wants: &dyn Fn(&[Resource]) -> bool, found: &mut Vec<LimitUse>) {
    for counted in &COUNTED {
        let watches = counted.watches.as_ref().filter(|watches| wants(&[watches.resource]));
        let instances = wants(&[counted.instances]);
        if !instances && watches.is_none() {
            continue;
        }
        let Some(user) = view.uids().map(|(_, uid)| charged_user(view.pid, uid)) else { continue };
        let (instances_of, watches_of) = count(view, counted, user, watches);
        let mut tell = |resource, max: &str, amounts: &HashMap<u32, u64>| {
            let Some(limit) = number(max) else { return };
            let used = amounts.values().sum();
            let mut entry = LimitUse::new(resource, LimitScope::User, used, limit).at(user.to_string());
            let amounts: Vec<_> = amounts.iter().map(|(pid, amount)| (*pid, *amount)).collect();
            entry.holders = view.processes().holders(&amounts, used);
            found.push(entry);
        };
        if instances {
            tell(counted.instances, counted.instances_max, &instances_of);
        }
        if let Some(watches) = watches {
            tell(watches.resource, watches.max, &watches_of);
        }
        of_namespace(view, counted, instances, watches, (&instances_of, &watches_of), found);
    }
}

/// A user namespace may have limits of its own, for each of its users, that are lower than what whoever made it may have.
fn of_namespace(
    view: &View,
    counted: &Counted,
    instances: bool,
    watches: Option<&Watches>,
    (instances_of, watches_of): (&HashMap<u32, u64>, &HashMap<u32, u64>),
    found: &mut Vec<LimitUse>,
) {
    const FILES: [&str; 2] = ["/proc/sys/user/max_inotify_instances", "/proc/sys/user/max_inotify_watches"];
    let namespace = namespaces::inode(view.pid, Kind::User);
    let (true, Some(inode)) = (counted.instances == Resource::InotifyInstances, namespace) else { return };
    if namespace == namespaces::initial(Kind::User) {
        return;
    }
    let Ok(texts) = namespaces::read_within(view.pid, &[Kind::User], &FILES) else { return };
    let limits: Vec<Option<u64>> = texts.into_iter().map(|text| text?.trim().parse().ok()).collect();
    let wanted =
        [instances.then_some((counted.instances, instances_of)), watches.map(|watches| (watches.resource, watches_of))];
    for (limit, wanted) in limits.into_iter().zip(wanted) {
        let (Some(limit), Some((resource, amounts))) = (limit, wanted) else { continue };
        let inside = |pid: &u32| namespaces::inode(*pid, Kind::User) == namespace;
        let amounts: Vec<_> =
            amounts.iter().filter(|(pid, _)| inside(pid)).map(|(pid, amount)| (*pid, *amount)).collect();
        let used = amounts.iter().map(|(_, amount)| amount).sum();
        let mut entry = LimitUse::new(resource, LimitScope::UserNamespace, used, limit).at(inode.to_string());
        entry.holders = view.processes().holders(&amounts, used);
        found.push(entry);
    }
}

/// Instances and watches of each process of the user. What a child has inherited is counted once, with its parent.
fn count(
    view: &View,
    counted: &Counted,
    user: u32,
    watches: Option<&Watches>,
) -> (HashMap<u32, u64>, HashMap<u32, u64>) {
    let (mut instances, mut watched) = (HashMap::<u32, u64>::new(), HashMap::<u32, u64>::new());
    let mut seen: HashSet<(u32, u32)> = HashSet::new();
    let mut users: HashMap<u32, bool> = HashMap::new();
    let mut processes: Vec<_> = view.processes().all.iter().filter(|process| !process.zombie).collect();
    // Parents before children, mostly.
    processes.sort_by_key(|process| process.pid);
    for process in processes {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten();
        for entry in entries {
            if !std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == counted.link) {
                continue;
            }
            let charged = || uids(process.pid).map(|(_, uid)| charged_user(process.pid, uid)) == Some(user);
            if seen.len() >= MAX_READ || !*users.entry(process.pid).or_insert_with(charged) {
                break;
            }
            let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if seen.contains(&(process.parent, fd)) && is_same_file(process.parent, process.pid, fd) {
                seen.insert((process.pid, fd));
                continue;
            }
            seen.insert((process.pid, fd));
            *instances.entry(process.pid).or_default() += 1;
            if let Some(watches) = watches {
                let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", process.pid)).unwrap_or_default();
                let count = info.lines().filter(|line| line.starts_with(watches.line)).count() as u64;
                *watched.entry(process.pid).or_default() += count;
            }
        }
    }
    (instances, watched)
}

/// Whether both have the same file open under this number (`KCMP_FILE`).
fn is_same_file(a: u32, b: u32, fd: u32) -> bool {
    // SAFETY: numbers only.
    unsafe { libc::syscall(libc::SYS_kcmp, a, b, 0, fd, fd) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

    #[test]
    fn instances_and_watches_of_this_user_are_counted() {
        // SAFETY: numbers only; the descriptor is nobody else's.
        let inotify = unsafe { OwnedFd::from_raw_fd(libc::inotify_init1(libc::IN_CLOEXEC)) };
        let folders: Vec<_> = (0..7).map(|_| tempfile::tempdir().unwrap()).collect();
        for folder in &folders {
            let path = std::ffi::CString::new(folder.path().to_str().unwrap()).unwrap();
            // SAFETY: a path that ends with a zero.
            assert!(unsafe { libc::inotify_add_watch(inotify.as_raw_fd(), path.as_ptr(), libc::IN_CREATE) } > 0);
        }
        let own = std::process::id();
        let mut found = Vec::new();
        read(&View::new(own, false, true), &|_| true, &mut found);
        let of = |resource| found.iter().find(|entry| entry.resource == resource).unwrap();
        let mine =
            |resource| of(resource).holders.iter().find(|holder| holder.pid == own).map_or(0, |holder| holder.amount);
        assert!(mine(Resource::InotifyInstances) >= 1 || of(Resource::InotifyInstances).used > 5, "{found:?}");
        assert!(of(Resource::InotifyWatches).used >= 7 && of(Resource::InotifyWatches).limit > 7, "{found:?}");
    }
}
