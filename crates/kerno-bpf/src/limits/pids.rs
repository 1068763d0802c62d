//! Processes and threads.

use std::collections::HashMap;
use std::path::Path;

use kerno_model::paths::is_within;
use kerno_model::{LimitScope, LimitUse, Resource};

use crate::engine::{Hierarchy, read_numbers};
use crate::waits::namespaces::{self, Kind};
use crate::waits::places::cgroup_path;
use crate::waits::state::ancestors;

use super::status::{field, limit, real_uid};
use super::{View, number};

pub(super) fn read(view: &View, wants: &dyn Fn(&[Resource]) -> bool, found: &mut Vec<LimitUse>) {
    if wants(&[Resource::Pids]) {
        of_cgroups(view, found);
    }
    if wants(&[Resource::Threads]) {
        found.extend(of_machine(view));
    }
    if wants(&[Resource::ProcessIds]) {
        found.extend(of_namespace(view));
    }
    if wants(&[Resource::UserProcesses]) {
        found.extend(of_user(view));
    }
    if wants(&[Resource::CgroupMemory]) {
        of_memory(view, found);
    }
}

fn of_cgroups(view: &View, found: &mut Vec<LimitUse>) {
    let Some(hierarchy) = Hierarchy::of_controller("pids") else { return };
    // It may have been removed since.
    let there = |path: &String| hierarchy.mount.join(path.trim_start_matches('/')).is_dir();
    let seen = view.cgroup.clone().filter(there);
    let Some(path) = seen.or_else(|| cgroup_path(view.pid, "pids", hierarchy.v2)) else { return };
    let mut paths = None;
    for level in ancestors(&path) {
        let dir = hierarchy.mount.join(level.trim_start_matches('/'));
        let Some(mut entry) = of_cgroup(&dir, level) else { continue };
        if view.cgroup.is_some() {
            // The one that has ended was one of them.
            entry.used = entry.used.saturating_add(1).min(entry.limit.max(entry.used));
        }
        let paths = paths.get_or_insert_with(|| cgroups_of_all(view, hierarchy.v2));
        found.push(with_holders(view, paths, entry));
    }
}

/// The most cgroups that are told of.
const MAX_CGROUPS: usize = 16;

/// Each cgroup that has a limit; of many the fullest.
pub(super) fn of_every_cgroup(view: &View, found: &mut Vec<LimitUse>) {
    let Some(hierarchy) = Hierarchy::of_controller("pids") else { return };
    let walk = hierarchy.walk();
    let mut all: Vec<_> = walk.cgroups.iter().filter_map(|cgroup| of_cgroup(&cgroup.dir, &cgroup.path)).collect();
    all.sort_by(|a, b| b.share().total_cmp(&a.share()));
    all.truncate(MAX_CGROUPS);
    let paths = cgroups_of_all(view, hierarchy.v2);
    found.extend(all.into_iter().map(|entry| with_holders(view, &paths, entry)));
}

fn of_cgroup(dir: &Path, path: &str) -> Option<LimitUse> {
    let read = |file: &str| number(&dir.join(file).to_string_lossy());
    // Without a limit it says "max".
    let (limit, used) = (read("pids.max")?, read("pids.current")?);
    let mut entry = LimitUse::new(Resource::Pids, LimitScope::Cgroup, used, limit).at(path);
    entry.file = dir.join("pids.max").to_string_lossy().into_owned();
    entry.refused =
        read_numbers(&dir.join("pids.events")).ok().and_then(|events| events.get("max").copied()).unwrap_or(0);
    Some(entry)
}

fn with_holders(view: &View, paths: &HashMap<u32, String>, mut entry: LimitUse) -> LimitUse {
    let all = view.processes();
    let inside = |pid: u32| paths.get(&pid).is_some_and(|path| is_within(path, &entry.place));
    let amounts: Vec<_> =
        all.all.iter().filter(|process| inside(process.pid)).map(|process| (process.pid, process.threads)).collect();
    entry.holders = all.holders(&amounts, entry.used);
    entry.idle = zombies(view, &amounts);
    entry
}

fn zombies(view: &View, amounts: &[(u32, u64)]) -> u64 {
    amounts.iter().filter(|(pid, _)| view.processes().get(*pid).is_some_and(|process| process.zombie)).count() as u64
}

/// Where each process is. A cgroup of v1 does not tell of zombies, though they still count: they were where their parent is.
fn cgroups_of_all(view: &View, v2: bool) -> HashMap<u32, String> {
    let all = view.processes();
    let path = |pid| cgroup_path(pid, "pids", v2);
    let mut paths: HashMap<u32, String> =
        all.all.iter().filter_map(|process| Some((process.pid, path(process.pid)?))).collect();
    if !v2 {
        for zombie in all.all.iter().filter(|process| process.zombie) {
            if let Some(parent) = paths.get(&zombie.parent).cloned() {
                paths.insert(zombie.pid, parent);
            }
        }
    }
    paths
}

fn of_machine(view: &View) -> Option<LimitUse> {
    let limit = number("/proc/sys/kernel/threads-max")?;
    // The number of threads, behind the slash of the fourth field.
    let loads = std::fs::read_to_string("/proc/loadavg").ok()?;
    let used = loads.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    let mut entry = LimitUse::new(Resource::Threads, LimitScope::Machine, used, limit);
    if entry.is_full() || view.all {
        let amounts: Vec<_> = view.processes().all.iter().map(|process| (process.pid, process.threads)).collect();
        entry.holders = view.processes().holders(&amounts, used);
        entry.idle = zombies(view, &amounts);
    }
    Some(entry)
}

/// Ids are those of the process's pid namespace; since Linux 6.14 each such namespace has a limit of its own.
fn of_namespace(view: &View) -> Option<LimitUse> {
    const FILE: &str = "/proc/sys/kernel/pid_max";
    let own = namespaces::inode(view.pid, Kind::Pid)?;
    let machine = namespaces::initial(Kind::Pid) == Some(own);
    let limit = if machine {
        number(FILE)
    } else {
        namespaces::read_within(view.pid, &[Kind::Pid], &[FILE]).ok()?.into_iter().next()??.trim().parse().ok()
    };
    let inside = |pid: u32| machine || namespaces::inode(pid, Kind::Pid) == Some(own);
    let all = view.processes();
    // Each process of a namespace inside has an id here, too; those of its own children are few.
    let amounts: Vec<_> =
        all.all.iter().filter(|process| inside(process.pid)).map(|process| (process.pid, process.threads)).collect();
    let used = amounts.iter().map(|(_, threads)| threads).sum();
    let mut entry = LimitUse::new(Resource::ProcessIds, LimitScope::PidNamespace, used, limit?);
    if !machine {
        entry.place = own.to_string();
    }
    entry.holders = all.holders(&amounts, used);
    entry.idle = zombies(view, &amounts);
    Some(entry)
}

/// Root, and whoever has `CAP_SYS_RESOURCE` or `CAP_SYS_ADMIN`, may exceed it.
fn of_user(view: &View) -> Option<LimitUse> {
    const MAY: u64 = 1 << 24 | 1 << 21;
    let status = view.text("status")?;
    let (uid, _) = view.uids()?;
    let namespace = namespaces::inode(view.pid, Kind::User);
    // One that is hidden is mostly the machine's own.
    let initial = namespace.is_none() || namespace == namespaces::initial(Kind::User);
    let capable = initial
        && !view.stands_in
        && field(&status, "CapEff:")
            .and_then(|caps| u64::from_str_radix(caps, 16).ok())
            .is_some_and(|caps| caps & MAY != 0);
    if (uid == 0 && initial) || capable {
        return None;
    }
    let limit = limit(view, "Max processes")?;
    let same = |pid: u32| {
        let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
        (real_uid(&String::from_utf8_lossy(&status))? == uid && namespaces::inode(pid, Kind::User) == namespace)
            .then_some(())
    };
    // The namespace of a zombie cannot be read any more: it is taken for that of its parent.
    let of_user = |pid: u32, zombie: bool, parent: u32| same(pid).is_some() || (zombie && same(parent).is_some());
    let all = view.processes();
    let inside = all.all.iter().filter(|process| of_user(process.pid, process.zombie, process.parent));
    let amounts: Vec<_> = inside.map(|process| (process.pid, process.threads)).collect();
    let used = amounts.iter().map(|(_, threads)| threads).sum();
    let mut entry = LimitUse::new(Resource::UserProcesses, LimitScope::User, used, limit).at(uid.to_string());
    entry.holders = all.holders(&amounts, used);
    entry.idle = zombies(view, &amounts);
    Some(entry)
}

fn of_memory(view: &View, found: &mut Vec<LimitUse>) {
    let Some(hierarchy) = Hierarchy::of_controller("memory") else { return };
    let Some(path) = cgroup_path(view.pid, "memory", hierarchy.v2) else { return };
    let (max, current) = if hierarchy.v2 {
        ("memory.max", "memory.current")
    } else {
        ("memory.limit_in_bytes", "memory.usage_in_bytes")
    };
    for level in ancestors(&path) {
        let dir = hierarchy.mount.join(level.trim_start_matches('/'));
        let read = |file: &str| number(&dir.join(file).to_string_lossy());
        if let (Some(limit), Some(used)) = (read(max), read(current)) {
            // That of v1 without a limit.
            if limit < 1 << 62 {
                let mut entry =
                    LimitUse::new(Resource::CgroupMemory, LimitScope::Cgroup, used, limit).bytes().at(level);
                entry.file = dir.join(max).to_string_lossy().into_owned();
                found.push(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_threads_are_counted() {
        let view = View::new(std::process::id(), false, true);
        let threads = of_machine(&view).unwrap();
        assert!(threads.used > 1 && threads.used < threads.limit && !threads.holders.is_empty());
        let ids = of_namespace(&view).unwrap();
        assert!(ids.used > 0 && ids.used <= ids.limit);
        assert!(of_user(&View::new(1, false, true)).is_none(), "root has no such limit");
    }
}
