//! From the target to the root: each waits for the next.

use std::collections::BTreeMap;

use kerno_model::{Spent, ThreadTime, TimeKind, WaitedFor, WhyLink, fill};

use super::account::join;
use super::observed::{DiskUse, Observation};

/// The longest chain.
const MAX_LINKS: usize = 16;
/// What takes less of a thread's time than this is not followed.
const MIN_SHARE: f64 = 0.01;
/// Processes that lived for less than this share of the time are looked at together.
const BRIEF: f64 = 0.2;
/// From here on a wait is more worth following than a sleep that was asked for.
const NOTEWORTHY: f64 = 0.1;

/// Where the next step goes: a thread where one is known, else a process.
type Place = (u32, Option<u32>);

/// A thread's account, and what most of its time went into.
type Followed = (ThreadTime, (TimeKind, f64, WaitedFor));

#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) links: Vec<WhyLink>,
    pub(super) cycle: bool,
}

/// What most of a thread's time went into that was not idle.
fn heaviest(account: &ThreadTime) -> Option<(TimeKind, f64, WaitedFor)> {
    let cpu: f64 = account.spent.iter().filter(|spent| spent.kind.on_cpu()).map(|spent| spent.seconds).sum();
    let wait: f64 = of_kind(account, TimeKind::CpuWait).map(|spent| spent.seconds).sum();
    let other = account
        .spent
        .iter()
        .filter(|spent| !spent.kind.on_cpu() && !matches!(spent.kind, TimeKind::Idle | TimeKind::CpuWait))
        .max_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let user: f64 = of_kind(account, TimeKind::CpuUser).map(|spent| spent.seconds).sum();
    let on_cpu = if user >= cpu / 2.0 { TimeKind::CpuUser } else { TimeKind::CpuSystem };
    let holder = of_kind(account, TimeKind::CpuWait).max_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let mut candidates = vec![(on_cpu, cpu, WaitedFor::default())];
    candidates.push((TimeKind::CpuWait, wait, holder.map(|spent| spent.on.clone()).unwrap_or_default()));
    candidates.extend(other.map(|spent| (spent.kind, spent.seconds, spent.on.clone())));
    candidates.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, seconds, _)| *seconds > 0.0)
}

fn of_kind(account: &ThreadTime, kind: TimeKind) -> impl Iterator<Item = &Spent> {
    account.spent.iter().filter(move |spent| spent.kind == kind)
}

fn share(seconds: f64, account: &ThreadTime) -> f64 {
    if account.wall_seconds > 0.0 { (seconds / account.wall_seconds).min(1.0) } else { 0.0 }
}

/// The thread of these that was kept waiting most; one that sleeps because it asked to, only where nobody else does anything.
fn busiest<'a>(accounts: impl Iterator<Item = &'a ThreadTime>) -> Option<Followed> {
    let at_ease =
        |of: &(&ThreadTime, (TimeKind, f64, WaitedFor))| of.1.0 == TimeKind::Timer || share(of.1.1, of.0) < NOTEWORTHY;
    let found = accounts.filter_map(|account| Some((account, heaviest(account)?))).max_by(|a, b| {
        at_ease(b).cmp(&at_ease(a)).then(share(a.1.1, a.0).total_cmp(&share(b.1.1, b.0))).then(b.0.tid.cmp(&a.0.tid))
    });
    found.map(|(account, heaviest)| (account.clone(), heaviest))
}

pub(super) fn chain(accounts: &[ThreadTime], seen: &Observation) -> Chain {
    let mut chain = Chain::default();
    let mut visited: Vec<(u32, u32)> = Vec::new();
    let targets = accounts.iter().filter(|account| seen.targets.contains(&account.pid));
    let mut next = busiest(targets);
    while let Some((account, (kind, seconds, on))) = next {
        if share(seconds, &account) < MIN_SHARE && chain.links.is_empty() {
            return chain;
        }
        if visited.contains(&(account.pid, account.tid)) {
            chain.cycle = true;
            return chain;
        }
        visited.push((account.pid, account.tid));
        let comm = seen.names.get(&account.pid).cloned().unwrap_or_else(|| account.comm.clone());
        chain.links.push(fill!(WhyLink {
            pid: Some(account.pid),
            tid: Some(account.tid),
            comm,
            kind,
            share: share(seconds, &account),
            seconds,
            on: on.clone(),
        }));
        if chain.links.len() >= MAX_LINKS {
            return chain;
        }
        next = match kind {
            TimeKind::Disk => {
                chain.links.extend(tenant(&on, account.pid, seen));
                return chain;
            }
            _ if kind.on_cpu()
                || matches!(kind, TimeKind::CpuWait | TimeKind::Timer | TimeKind::Throttled | TimeKind::Memory) =>
            {
                return chain;
            }
            _ => {
                let places = on.processes.iter().map(|process| (process.pid, on.tid)).collect::<Vec<_>>();
                let followed = follow(accounts, &places, seen);
                if followed.is_none() {
                    chain.links.extend(unfollowed(&on, kind, accounts));
                }
                followed
            }
        };
    }
    chain
}

/// What does most of what is waited for, among the threads of the processes that could, and of their children.
fn follow(accounts: &[ThreadTime], places: &[Place], seen: &Observation) -> Option<Followed> {
    let named =
        |account: &&ThreadTime| places.iter().any(|(pid, tid)| *tid == Some(account.tid) && *pid == account.pid);
    if let Some(account) = accounts.iter().find(named) {
        let idle = (TimeKind::Idle, 0.0, WaitedFor::default());
        return Some((account.clone(), heaviest(account).unwrap_or(idle)));
    }
    let is_one = |pid: u32| places.iter().any(|(place, _)| *place == pid);
    let parents: BTreeMap<u32, u32> =
        seen.threads.iter().filter_map(|thread| Some((thread.pid, thread.parent?))).collect();
    let could =
        |account: &&ThreadTime| is_one(account.pid) || parents.get(&account.pid).is_some_and(|parent| is_one(*parent));
    let (brief, lasting): (Vec<&ThreadTime>, Vec<&ThreadTime>) =
        accounts.iter().filter(could).partition(|account| account.wall_seconds < BRIEF * seen.seconds);
    let together = together(&brief);
    busiest(lasting.into_iter().chain(together.as_ref()))
}

/// Processes that live for one request each, as if they were one.
fn together(brief: &[&ThreadTime]) -> Option<ThreadTime> {
    let longest = brief.iter().max_by(|a, b| a.wall_seconds.total_cmp(&b.wall_seconds))?;
    let mut spent: Vec<Spent> = brief.iter().flat_map(|account| account.spent.iter().cloned()).collect();
    join(&mut spent);
    Some(fill!(ThreadTime {
        wall_seconds: brief.iter().map(|account| account.wall_seconds).sum(),
        spent,
        ..(*longest).clone()
    }))
}

/// The end of the chain where that could not be followed: a process without an account, an address elsewhere.
fn unfollowed(on: &WaitedFor, kind: TimeKind, accounts: &[ThreadTime]) -> Option<WhyLink> {
    let of = |pid: u32| accounts.iter().find(move |account| account.pid == pid);
    match on.processes.as_slice() {
        // It was followed, and nothing but waiting for events was seen: for which, only the program knows.
        [process, ..] if of(process.pid).is_some() => {
            let call = of(process.pid).and_then(|account| account.spent.first()).map(|spent| spent.on.call.clone());
            Some(fill!(WhyLink {
                pid: Some(process.pid),
                comm: process.comm.clone(),
                kind: TimeKind::Event,
                share: 1.0,
                on: fill!(WaitedFor { call: call.unwrap_or_default() }),
            }))
        }
        [process, ..] => Some(fill!(WhyLink {
            pid: Some(process.pid),
            comm: process.comm.clone(),
            kind: TimeKind::Other,
            on: fill!(WaitedFor { detail: "was not followed".into() }),
        })),
        [] if matches!(kind, TimeKind::Tcp | TimeKind::Udp) && !on.object.is_empty() => Some(fill!(WhyLink {
            comm: on.object.clone(),
            kind: TimeKind::Other,
            on: fill!(WaitedFor { object: on.object.clone(), detail: "not on this machine".into() }),
        })),
        [] => None,
    }
}

/// Who else used the device most, if that was more than the process itself did.
fn tenant(on: &WaitedFor, pid: u32, seen: &Observation) -> Option<WhyLink> {
    let DiskUse { device, users } = seen.disks.iter().find(|disk| disk.device == on.device)?;
    let own = users.iter().find(|(process, _)| process.pid == pid).map_or(0, |(_, bytes)| *bytes);
    let (process, bytes) = users.iter().find(|(process, _)| process.pid != pid && process.pid != 0)?;
    let total: u64 = users.iter().map(|(_, bytes)| *bytes).sum();
    if *bytes <= own.saturating_mul(2) || seen.seconds <= 0.0 {
        return None;
    }
    #[allow(clippy::cast_precision_loss, reason = "bytes of seconds")]
    let (rate, of_all) = (*bytes as f64 / seen.seconds, *bytes as f64 / total.max(1) as f64);
    Some(fill!(WhyLink {
        pid: Some(process.pid),
        comm: process.comm.clone(),
        kind: TimeKind::Disk,
        share: of_all,
        on: fill!(WaitedFor {
            device: device.clone(),
            detail: format!("reads and writes {}/s there", kerno_model::amount::bytes(rate)),
        }),
    }))
}
