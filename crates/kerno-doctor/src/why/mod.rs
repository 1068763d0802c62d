//! Where the time of processes went, and whom they wait for: from what was observed of their threads to accounts and the chain of waits.
//! Pure, as the rules are.

mod account;
mod chain;
mod kind;
pub mod observed;
#[cfg(test)]
mod tests;

use kerno_model::{ThreadTime, TimeKind, WhyReport, fill};
use observed::{Object, Observation};

/// Accounts for all time, and follows the largest waits from the target to the root.
pub fn explain(seen: &Observation) -> WhyReport {
    let accounts = account::accounts(seen);
    let chain = chain::chain(&accounts, seen);
    let (mut threads, mut others): (Vec<_>, Vec<_>) =
        accounts.into_iter().partition(|account| seen.targets.contains(&account.pid));
    for list in [&mut threads, &mut others] {
        list.sort_by(|a, b| idle(a).total_cmp(&idle(b)).then(a.tid.cmp(&b.tid)));
    }
    fill!(WhyReport {
        target: seen.target.clone(),
        started_unix_ns: seen.started_unix_ns,
        seconds: seen.seconds,
        threads,
        others,
        root: chain.links.last().cloned(),
        chain: chain.links,
        cycle: chain.cycle,
        missing: seen.missing.clone(),
    })
}

fn peers(object: &Object) -> impl Iterator<Item = u32> + '_ {
    let peers = if let Object::Socket { peers, .. } = object { peers.as_slice() } else { &[] };
    peers.iter().map(|peer| peer.pid)
}

/// The share of its time that it was idle.
fn idle(account: &ThreadTime) -> f64 {
    let idle: f64 = account.spent.iter().filter(|spent| spent.kind == TimeKind::Idle).map(|spent| spent.seconds).sum();
    if account.wall_seconds > 0.0 { idle / account.wall_seconds } else { 1.0 }
}

/// The processes that the target waits for most, by process id: those to be followed next. Only those that are not followed yet.
pub fn next_to_follow(seen: &Observation, most: usize) -> Vec<u32> {
    let followed: std::collections::BTreeSet<u32> = seen.threads.iter().map(|thread| thread.pid).collect();
    let mut waited: std::collections::BTreeMap<u32, f64> = std::collections::BTreeMap::new();
    for account in account::accounts(seen) {
        for spent in account.spent.iter().filter(|spent| !matches!(spent.kind, TimeKind::Idle | TimeKind::CpuWait)) {
            let share = if account.wall_seconds > 0.0 { spent.seconds / account.wall_seconds } else { 0.0 };
            // Briefly waiting for many is no chain.
            if share < 0.05 || spent.on.processes.len() > 64 {
                continue;
            }
            for process in &spent.on.processes {
                if process.pid > 1 && !followed.contains(&process.pid) {
                    let known = waited.entry(process.pid).or_default();
                    *known = known.max(share);
                }
            }
        }
    }
    // Whether an answer is outstanding there only shows in what they do.
    for peer in seen.threads.iter().flat_map(|thread| &thread.silent).flat_map(peers) {
        if peer > 1 && !followed.contains(&peer) {
            waited.entry(peer).or_default();
        }
    }
    let mut pids: Vec<_> = waited.into_iter().collect();
    pids.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    pids.into_iter().take(most).map(|(pid, _)| pid).collect()
}
