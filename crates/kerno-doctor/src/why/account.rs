//! Adds a thread's time up by what it was spent in.

use kerno_model::{Spent, ThreadTime, TimeKind, WaitedFor, WhyProcess, fill};

use super::kind::judge;
use super::observed::{Observation, ObservedThread};

#[allow(clippy::cast_precision_loss, reason = "nanoseconds of minutes")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The accounts of all threads that were observed.
pub(super) fn accounts(seen: &Observation) -> Vec<ThreadTime> {
    let mut accounts: Vec<_> = seen.threads.iter().map(|thread| account(thread, seen)).collect();
    waits_for_work(&mut accounts);
    for account in &mut accounts {
        join(&mut account.spent);
    }
    accounts
}

fn account(thread: &ObservedThread, seen: &Observation) -> ThreadTime {
    let mut spent = Vec::new();
    let mut add = |kind, ns, on| {
        if ns > 0 {
            spent.push(fill!(Spent { kind, seconds: seconds(ns), on }));
        }
    };
    add(TimeKind::CpuUser, thread.user_ns, WaitedFor::default());
    add(TimeKind::CpuSystem, thread.system_ns, WaitedFor::default());
    add(TimeKind::Throttled, thread.throttled_ns, fill!(WaitedFor { object: thread.cgroup.clone() }));
    for (holder, ns) in &thread.cpu_waits {
        let comm = seen.names.get(holder).cloned().unwrap_or_default();
        let processes = if *holder == 0 { Vec::new() } else { vec![WhyProcess { pid: *holder, comm }] };
        add(TimeKind::CpuWait, *ns, fill!(WaitedFor { processes }));
    }
    for sleep in &thread.sleeps {
        let (kind, on) = judge(sleep, thread, seen);
        spent.push(fill!(Spent {
            kind,
            seconds: seconds(sleep.ns),
            count: sleep.count,
            longest_seconds: seconds(sleep.longest_ns),
            on,
        }));
    }
    fill!(ThreadTime {
        pid: thread.pid,
        tid: thread.tid,
        comm: thread.comm.clone(),
        wall_seconds: seconds(thread.wall_ns),
        spent,
    })
}

/// Takes those together that are about the same, the most first. Of places in the kernel the one with most time stands for all.
fn join(spent: &mut Vec<Spent>) {
    spent.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let mut joined: Vec<Spent> = Vec::new();
    for part in spent.drain(..) {
        match joined.iter_mut().find(|known| same(known, &part)) {
            Some(known) => {
                known.seconds += part.seconds;
                known.count += part.count;
                known.longest_seconds = known.longest_seconds.max(part.longest_seconds);
            }
            None => joined.push(part),
        }
    }
    joined.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    *spent = joined;
}

fn same(a: &Spent, b: &Spent) -> bool {
    let (x, y) = (&a.on, &b.on);
    a.kind == b.kind
        && x.processes == y.processes
        && x.tid == y.tid
        && x.device == y.device
        && match a.kind {
            // Pages, journals and blocks of one file, and the calls that wait for them.
            TimeKind::Disk => x.object == y.object,
            TimeKind::Idle | TimeKind::Timer | TimeKind::Child | TimeKind::Memory => true,
            // Connections to the same server.
            TimeKind::Tcp | TimeKind::UnixSocket | TimeKind::Udp => x.object == y.object,
            TimeKind::Other => x.place == y.place && x.call == y.call,
            _ => x.object == y.object && x.detail == y.detail,
        }
}

/// Whoever waits until a thread that waits for work gives it some waits for work, too.
fn waits_for_work(accounts: &mut [ThreadTime]) {
    let idle: Vec<_> = accounts
        .iter()
        .filter(|account| {
            let idle: f64 = account.spent.iter().filter(|s| s.kind == TimeKind::Idle).map(|s| s.seconds).sum();
            idle >= account.wall_seconds / 2.0
        })
        .map(|account| account.tid)
        .collect();
    for spent in accounts.iter_mut().flat_map(|account| &mut account.spent) {
        if spent.kind == TimeKind::Thread && spent.on.detail.is_empty() && spent.on.tid.is_some_and(|tid| idle.contains(&tid)) {
            spent.kind = TimeKind::Idle;
        }
    }
}
