//! Limits of the machine that belong to no other theme.

use std::collections::HashMap;

use kerno_model::{LimitScope, LimitUse, Resource};

use crate::probe::meminfo;
use crate::waits::namespaces::{self, Kind};

use super::{View, number};

pub(super) fn read(view: &View, wants: &dyn Fn(&[Resource]) -> bool, found: &mut Vec<LimitUse>) {
    use Resource as R;
    if wants(&[R::OpenFiles]) {
        found.extend(open_files());
    }
    if wants(&[R::AioRequests]) {
        found.extend(aio(view));
    }
    if wants(&[R::Keys, R::KeyBytes]) {
        keys(view, wants, found);
    }
    if wants(&[R::Terminals]) {
        found.extend(terminals(view));
    }
    if wants(&[R::CommittedMemory]) {
        found.extend(committed());
    }
}

fn open_files() -> Option<LimitUse> {
    let text = std::fs::read_to_string("/proc/sys/fs/file-nr").ok()?;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [used, _, limit] = numbers[..] else { return None };
    Some(LimitUse::new(Resource::OpenFiles, LimitScope::Machine, used, limit))
}

fn aio(view: &View) -> Option<LimitUse> {
    let (used, limit) = (number("/proc/sys/fs/aio-nr")?, number("/proc/sys/fs/aio-max-nr")?);
    let mut entry = LimitUse::new(Resource::AioRequests, LimitScope::Machine, used, limit);
    if used > 0 {
        // The rings of all are mapped; their sizes stand for how much each has.
        let mut bytes: Vec<(u32, u64)> = Vec::new();
        for process in &view.processes().all {
            let maps = std::fs::read(format!("/proc/{}/maps", process.pid)).unwrap_or_default();
            let maps = String::from_utf8_lossy(&maps);
            let rings = maps.lines().filter(|line| line.contains("/[aio]")).filter_map(length).sum();
            if rings > 0 {
                bytes.push((process.pid, rings));
            }
        }
        let all: u64 = bytes.iter().map(|(_, bytes)| bytes).sum();
        let amounts: Vec<_> =
            bytes.iter().map(|(pid, bytes)| (*pid, bytes.saturating_mul(used) / all.max(1))).collect();
        entry.holders = view.processes().holders(&amounts, used);
    }
    Some(entry)
}

/// The length of a mapping, from its line in `/proc/PID/maps`.
pub(super) fn length(line: &str) -> Option<u64> {
    let (from, to) = line.split_once(' ')?.0.split_once('-')?;
    u64::from_str_radix(to, 16).ok()?.checked_sub(u64::from_str_radix(from, 16).ok()?)
}

/// `/proc/key-users`: `UID: usage keys/instantiated keys/limit bytes/limit`. Keys are charged to the user in the machine's own namespace.
fn keys(view: &View, wants: &dyn Fn(&[Resource]) -> bool, found: &mut Vec<LimitUse>) {
    let Some((_, uid)) = view.uids() else { return };
    let Ok(text) = std::fs::read_to_string("/proc/key-users") else { return };
    let Some((_, rest)) =
        text.lines().filter_map(|line| line.split_once(':')).find(|(user, _)| user.trim().parse() == Ok(uid))
    else {
        return;
    };
    let pairs: Vec<(u64, u64)> = rest
        .split_whitespace()
        .filter_map(|word| word.split_once('/'))
        .filter_map(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
        .collect();
    let [_, (keys, max_keys), (bytes, max_bytes)] = pairs[..] else { return };
    let of = |resource, used, limit| LimitUse::new(resource, LimitScope::User, used, limit).at(uid.to_string());
    if wants(&[Resource::Keys]) {
        found.push(of(Resource::Keys, keys, max_keys));
    }
    if wants(&[Resource::KeyBytes]) {
        found.push(of(Resource::KeyBytes, bytes, max_bytes).bytes());
    }
}

/// All instances of devpts together have a limit, of which some are kept for the machine's own; each may have one of its own.
fn terminals(view: &View) -> Option<LimitUse> {
    const DIRECTORY: &str = "/proc/sys/kernel/pty";
    let read = |name: &str| number(&format!("{DIRECTORY}/{name}"));
    let (used, max, reserve) = (read("nr")?, read("max")?, read("reserve").unwrap_or(0));
    let outside = namespaces::inode(view.pid, Kind::Mount) != namespaces::initial(Kind::Mount);
    let mut limit = LimitUse::new(
        Resource::Terminals,
        LimitScope::Machine,
        used,
        if outside { max.saturating_sub(reserve) } else { max },
    );
    let mounts = view.text("mountinfo").unwrap_or_default();
    // A file of it may be mounted, too: /dev/ptmx.
    let devpts = mounts.lines().rfind(|line| line.contains(" - devpts ") && line.split(' ').nth(3) == Some("/"));
    let own = devpts.and_then(|line| {
        let mount = line.split(' ').nth(4)?;
        let max: u64 =
            line.rsplit(' ').next()?.split(',').find_map(|option| option.strip_prefix("max="))?.parse().ok()?;
        let entries = std::fs::read_dir(format!("/proc/{}/root{mount}", view.pid)).ok()?;
        let used = entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()))
            .count() as u64;
        Some(LimitUse::new(Resource::Terminals, LimitScope::MountNamespace, used, max).at(mount))
    });
    if let Some(own) = own.filter(|own| own.share() > limit.share()) {
        limit = own;
    }
    let mut amounts: HashMap<u32, u64> = HashMap::new();
    for process in &view.processes().all {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten();
        let masters = entries
            .filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| link.ends_with("ptmx")))
            .count() as u64;
        if masters > 0 {
            amounts.insert(process.pid, masters);
        }
    }
    let amounts: Vec<_> = amounts.into_iter().collect();
    limit.holders = view.processes().holders(&amounts, limit.used);
    Some(limit)
}

/// Only where the kernel refuses what it has not got.
fn committed() -> Option<LimitUse> {
    if number("/proc/sys/vm/overcommit_memory")? != 2 {
        return None;
    }
    let text = meminfo::read();
    let (used, limit) = (meminfo::bytes_of(&text, "Committed_AS")?, meminfo::bytes_of(&text, "CommitLimit")?);
    Some(LimitUse::new(Resource::CommittedMemory, LimitScope::Machine, used, limit).bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_has_is_read() {
        let mut found = Vec::new();
        read(&View::new(std::process::id(), false, true), &|_| true, &mut found);
        let of = |resource| found.iter().find(|entry| entry.resource == resource);
        assert!(of(Resource::OpenFiles).is_some_and(|files| files.used > 0 && files.used < files.limit));
        assert!(of(Resource::AioRequests).is_some_and(|aio| aio.limit > 0));
        assert!(of(Resource::Terminals).is_some_and(|terminals| terminals.limit > 0));
    }

    #[test]
    fn lengths_of_mappings() {
        assert_eq!(length("7f00-8f00 rw-s 0 00:10 1 /[aio] (deleted)"), Some(0x1000));
        assert_eq!(length("nonsense"), None);
    }
}
