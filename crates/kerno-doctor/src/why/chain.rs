//! From the target to the root: each waits for the next.

use kerno_model::{Spent, ThreadTime, TimeKind, WaitedFor, WhyLink, fill};

use super::observed::{DiskUse, Observation};

/// The longest chain.
const MAX_LINKS: usize = 16;
/// What takes less of a thread's time than this is not followed.
const MIN_SHARE: f64 = 0.01;
/// From here on a wait is more worth following than a sleep that was asked for.
const NOTEWORTHY: f64 = 0.1;

/// Where the next step goes: a thread where one is known, else a process.
type Place = (u32, Option<u32>);

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
fn busiest<'a>(
    accounts: impl Iterator<Item = &'a ThreadTime>,
) -> Option<(&'a ThreadTime, (TimeKind, f64, WaitedFor))> {
    let at_ease =
        |of: &(&ThreadTime, (TimeKind, f64, WaitedFor))| of.1.0 == TimeKind::Timer || share(of.1.1, of.0) < NOTEWORTHY;
    accounts.filter_map(|account| Some((account, heaviest(account)?))).max_by(|a, b| {
        at_ease(b)
            .cmp(&at_ease(a))
            .then(share(a.1.1, a.0).total_cmp(&share(b.1.1, b.0)))
            .then(b.0.tid.cmp(&a.0.tid))
    })
}

pub(super) fn chain(accounts: &[ThreadTime], seen: &Observation) -> Chain {
    let mut chain = Chain::default();
    let mut visited: Vec<(u32, u32)> = Vec::new();
    let targets = accounts.iter().filter(|account| seen.targets.contains(&account.pid));
    let mut next = busiest(targets);
    while let Some((account, (kind, seconds, on))) = next {
        if share(seconds, account) < MIN_SHARE && chain.links.is_empty() {
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
            share: share(seconds, account),
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
            _ if kind.on_cpu() || matches!(kind, TimeKind::Timer | TimeKind::Throttled | TimeKind::Memory) => return chain,
            _ => {
                let places = on.processes.iter().map(|process| (process.pid, on.tid)).collect::<Vec<_>>();
                let followed = follow(accounts, &places);
                if followed.is_none() {
                    chain.links.extend(unfollowed(&on, kind));
                }
                followed
            }
        };
    }
    chain
}

/// The thread that does most of what is waited for, among the processes that could.
fn follow<'a>(
    accounts: &'a [ThreadTime],
    places: &[Place],
) -> Option<(&'a ThreadTime, (TimeKind, f64, WaitedFor))> {
    let thread = |account: &&ThreadTime| {
        places.iter().any(|(pid, tid)| *tid == Some(account.tid) && *pid == account.pid)
    };
    if let Some(account) = accounts.iter().find(thread) {
        let idle = (TimeKind::Idle, 0.0, WaitedFor::default());
        return Some((account, heaviest(account).unwrap_or(idle)));
    }
    let of_process = accounts.iter().filter(|account| places.iter().any(|(pid, _)| *pid == account.pid));
    busiest(of_process)
}

/// The end of the chain where that could not be followed: a process without an account, an address elsewhere.
fn unfollowed(on: &WaitedFor, kind: TimeKind) -> Option<WhyLink> {
    match on.processes.as_slice() {
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
