//! Adds a thread's time up by what it was spent in.

use kerno_model::{Spent, ThreadTime, TimeKind, WaitedFor, WhyProcess, fill};

use super::kind::judge;
use super::observed::{Object, Observation, ObservedThread};

/// The most processes that one part names.
const MAX_PROCESSES: usize = 16;

#[allow(clippy::cast_precision_loss, reason = "nanoseconds of minutes")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The accounts of all threads that were observed.
pub(super) fn accounts(seen: &Observation) -> Vec<ThreadTime> {
    let mut accounts: Vec<_> = seen.threads.iter().map(|thread| account(thread, seen)).collect();
    waits_for_work(&mut accounts);
    waits_in_silence(&mut accounts, seen);
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
pub(super) fn join(spent: &mut Vec<Spent>) {
    spent.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let mut joined: Vec<Spent> = Vec::new();
    for part in spent.drain(..) {
        match joined.iter_mut().find(|known| same(known, &part)) {
            Some(known) => {
                known.seconds += part.seconds;
                known.count += part.count;
                known.longest_seconds = known.longest_seconds.max(part.longest_seconds);
                for process in part.on.processes {
                    if !known.on.processes.contains(&process) && known.on.processes.len() < MAX_PROCESSES {
                        known.on.processes.push(process);
                    }
                }
            }
            None => joined.push(part),
        }
    }
    joined.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    *spent = joined;
}

fn same(a: &Spent, b: &Spent) -> bool {
    let (x, y) = (&a.on, &b.on);
    if a.kind == TimeKind::CpuWait && b.kind == TimeKind::CpuWait {
        return true;
    }
    let peers = matches!(a.kind, TimeKind::Tcp | TimeKind::UnixSocket);
    // A server may have a process for each connection.
    let same_server = |x: &WaitedFor, y: &WaitedFor| {
        let name = |on: &WaitedFor| on.processes.first().map(|process| process.comm.clone());
        x.processes == y.processes || (peers && name(x) == name(y))
    };
    a.kind == b.kind
        && same_server(x, y)
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

/// The least time that somebody must have been watched for his silence to say something, in seconds.
const SILENCE: f64 = 0.5;

/// A request that was sent before anybody watched: the thread waits for events, nothing moves on a connection of its, and whoever serves
/// that is busy with, or waits for, something else. A connection that merely rests has a server that rests, too.
fn waits_in_silence(accounts: &mut [ThreadTime], seen: &Observation) {
    let idle = |account: &ThreadTime| -> f64 {
        account.spent.iter().filter(|spent| spent.kind == TimeKind::Idle).map(|spent| spent.seconds).sum()
    };
    let alone = |pid: u32| seen.threads.iter().any(|thread| thread.pid == pid && thread.alone);
    let never_idle = |accounts: &[ThreadTime], pid: u32| {
        let mut of_it = accounts.iter().filter(|account| account.pid == pid && account.wall_seconds >= SILENCE);
        of_it.next().is_some_and(|account| idle(account) < 0.02 * account.wall_seconds) && alone(pid)
    };
    for thread in seen.threads.iter().filter(|thread| !thread.silent.is_empty()) {
        let mut on: Option<WaitedFor> = None;
        for silent in &thread.silent {
            let Object::Socket { address, peers, .. } = silent else { continue };
            let [peer] = peers.as_slice() else { continue };
            if never_idle(accounts, peer.pid) {
                on.get_or_insert_with(|| fill!(WaitedFor { object: address.clone() })).processes.push(peer.clone());
            }
        }
        let (Some(on), Some(account)) = (on, accounts.iter_mut().find(|account| account.tid == thread.tid)) else {
            continue;
        };
        let unknown = |spent: &&mut Spent| {
            let waits =
                spent.kind == TimeKind::Idle || (spent.kind == TimeKind::Event && spent.on.processes.is_empty());
            waits && polls(&spent.on.call)
        };
        for spent in account.spent.iter_mut().filter(unknown) {
            spent.kind = TimeKind::UnixSocket;
            spent.on = fill!(WaitedFor { call: spent.on.call.clone(), ..on.clone() });
        }
    }
}

fn polls(call: &str) -> bool {
    call.starts_with("epoll") || call.contains("poll") || call.contains("select")
}

/// Whoever waits until a thread that waits for work gives it some, or hands on the lock with which it does, waits for work, too.
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
        if matches!(spent.kind, TimeKind::Thread | TimeKind::Lock)
            && spent.on.detail.is_empty()
            && spent.on.tid.is_some_and(|tid| idle.contains(&tid))
        {
            spent.kind = TimeKind::Idle;
        }
    }
}
