//! Made-up threads, each with one thing that must or must not be said of it.

use std::sync::Arc;

use kerno_model::{TimeKind, WhyProcess, WhyReport};

use super::observed::{DiskUse, Family, Held, Object, Observation, ObservedSleep, ObservedThread};
use super::{explain, next_to_follow};

const SECOND: u64 = 1_000_000_000;

fn process(pid: u32) -> WhyProcess {
    WhyProcess { pid, comm: format!("p{pid}") }
}

/// A thread of ten seconds: these sleeps, and idle for the rest.
fn thread(pid: u32, tid: u32, sleeps: Vec<ObservedSleep>) -> ObservedThread {
    let slept: u64 = sleeps.iter().map(|sleep| sleep.ns).sum();
    let mut thread = ObservedThread { pid, tid, comm: format!("p{pid}"), wall_ns: 10 * SECOND, ..Default::default() };
    thread.sleeps = sleeps;
    if slept < thread.wall_ns {
        thread.sleeps.push(sleep(thread.wall_ns - slept, "epoll_wait", Object::Poll(None)));
    }
    thread
}

fn sleep(ns: u64, call: &'static str, object: Object) -> ObservedSleep {
    ObservedSleep { call: Some(call), object, ns, count: 1, longest_ns: ns, ..Default::default() }
}

fn tcp(peer: u32) -> Object {
    let peers = if peer == 0 { Vec::new() } else { vec![process(peer)] };
    Object::Socket { family: Family::Tcp, address: "127.0.0.1:5432".into(), peers }
}

fn answer(seconds: u64, peer: u32) -> ObservedSleep {
    ObservedSleep { awaits: true, ..sleep(seconds * SECOND, "recvfrom", tcp(peer)) }
}

fn seen(targets: &[u32], threads: Vec<ObservedThread>) -> Observation {
    Observation {
        seconds: 10.0,
        targets: targets.iter().copied().collect(),
        names: threads.iter().map(|thread| (thread.pid, thread.comm.clone())).collect(),
        threads,
        ..Default::default()
    }
}

fn told(report: &WhyReport) -> Vec<(u32, TimeKind)> {
    report.chain.iter().map(|link| (link.pid.unwrap_or(0), link.kind)).collect()
}

#[test]
fn a_chain_goes_on_to_its_root() {
    let disk = Object::File {
        path: "/data/wal".into(),
        device: "vdb".into(),
        filesystem: "ext4".into(),
        mount: "/data".into(),
        servers: Vec::new(),
        lock_holders: Vec::new(),
    };
    let flush =
        ObservedSleep { deeply: true, frames: frames(&["jbd2_log_wait_commit"]), ..sleep(9 * SECOND, "fsync", disk) };
    let mut observed =
        seen(&[1], vec![thread(1, 1, vec![answer(8, 2)]), thread(2, 2, vec![answer(7, 3)]), thread(3, 3, vec![flush])]);
    observed.disks = vec![DiskUse { device: "vdb".into(), users: vec![(process(9), 2 << 30), (process(3), 1 << 20)] }];
    let report = explain(&observed);
    assert_eq!(told(&report), [(1, TimeKind::Tcp), (2, TimeKind::Tcp), (3, TimeKind::Disk), (9, TimeKind::Disk)]);
    assert!((report.chain[0].share - 0.8).abs() < 1e-9);
    assert!(report.chain[3].on.detail.contains("/s"), "{:?}", report.chain[3]);
    // Whoever moves little is not to blame.
    observed.disks[0].users.reverse();
    observed.disks[0].users[1].1 = 1 << 20;
    assert_eq!(told(&explain(&observed)).len(), 3);
}

fn frames(names: &[&str]) -> Arc<[String]> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn waiting_for_work_is_no_chain() {
    let listens = sleep(10 * SECOND, "accept4", tcp(0));
    let keeps_alive = sleep(10 * SECOND, "recvfrom", tcp(7));
    let parked = sleep(10 * SECOND, "futex", Object::Futex { address: 1, locked: false });
    let own_pipe = sleep(10 * SECOND, "read", Object::Pipe { name: "pipe:[1]".into(), others: Vec::new() });
    for idle in [listens, keeps_alive, parked, own_pipe] {
        let report = explain(&seen(&[1], vec![thread(1, 1, vec![idle.clone()])]));
        assert!(report.chain.is_empty() && report.root.is_none(), "{idle:?}: {:?}", report.chain);
    }
}

#[test]
fn workers_wait_for_work_as_the_one_that_hands_it_out_does() {
    let park = ObservedSleep {
        waker: Some((1, 1)),
        ..sleep(10 * SECOND, "futex", Object::Futex { address: 1, locked: false })
    };
    let idle = explain(&seen(&[1], vec![thread(1, 1, vec![]), thread(1, 2, vec![park.clone()])]));
    assert!(idle.chain.is_empty(), "{:?}", idle.chain);
    // But not as one that waits for somebody.
    let waits = explain(&seen(&[1], vec![thread(1, 1, vec![answer(9, 5)]), thread(1, 2, vec![park])]));
    assert_eq!(told(&waits)[0], (1, TimeKind::Thread));
}

#[test]
fn locks_are_told_from_conditions() {
    let owned =
        ObservedSleep { other: Some((1, 2)), ..sleep(9 * SECOND, "futex", Object::Futex { address: 1, locked: true }) };
    let holder = thread(1, 2, vec![sleep(10 * SECOND, "clock_nanosleep", Object::Timer)]);
    let report = explain(&seen(&[1], vec![thread(1, 1, vec![owned.clone()]), holder]));
    assert_eq!(told(&report), [(1, TimeKind::Lock), (1, TimeKind::Timer)]);
    assert_eq!(report.root.unwrap().tid, Some(2));
    let other_way = ObservedSleep { other: Some((1, 1)), ..owned.clone() };
    let report = explain(&seen(&[1], vec![thread(1, 1, vec![owned]), thread(1, 2, vec![other_way])]));
    assert!(report.cycle);
    assert_eq!(report.chain.len(), 2);
}

#[test]
fn whoever_is_held_is_the_end() {
    for (held, kind) in [
        (Held::Stopped, TimeKind::Stopped),
        (Held::Frozen("/box".into()), TimeKind::Frozen),
        (Held::Traced(8), TimeKind::Traced),
    ] {
        let stuck = ObservedSleep { held, ..sleep(10 * SECOND, "epoll_wait", Object::Unknown) };
        let report = explain(&seen(&[1], vec![thread(1, 1, vec![answer(10, 2)]), thread(2, 2, vec![stuck])]));
        assert_eq!(told(&report)[..2], [(1, TimeKind::Tcp), (2, kind)]);
    }
}

#[test]
fn the_kernels_functions_tell_what_the_call_does_not() {
    let in_kernel = |names: &[&str], call, object| ObservedSleep {
        deeply: true,
        frames: frames(names),
        ..sleep(10 * SECOND, call, object)
    };
    for (names, kind) in [
        (&["schedule", "mem_cgroup_oom_synchronize", "pagefault_out_of_memory"][..], TimeKind::Memory),
        (&["io_schedule_timeout", "balance_dirty_pages_ratelimited_flags"], TimeKind::Disk),
        (&["request_wait_answer", "fuse_simple_request", "fuse_statfs"], TimeKind::Fuse),
        (&["rpc_wait_bit_killable", "nfs_getattr"], TimeKind::NetworkFs),
        (&["rwsem_down_read_slowpath", "do_user_addr_fault"], TimeKind::Lock),
        (&["handle_userfault", "do_anonymous_page"], TimeKind::Userfault),
        (&["some_driver_wait"], TimeKind::Other),
    ] {
        let report = explain(&seen(&[1], vec![thread(1, 1, vec![in_kernel(names, "write", Object::Unknown)])]));
        assert_eq!(report.threads[0].spent[0].kind, kind, "{names:?}");
    }
}

#[test]
fn a_silent_connection_says_something_only_if_its_server_is_busy_with_something_else() {
    let silent = Object::Socket { family: Family::Unix, address: "/run/s".into(), peers: vec![process(2)] };
    let client = |alone| ObservedThread { silent: vec![silent.clone()], alone, ..thread(1, 1, vec![]) };
    let busy = ObservedThread { alone: true, ..thread(2, 2, vec![answer(10, 3)]) };
    let rests = ObservedThread { alone: true, ..thread(2, 2, vec![]) };
    let several = ObservedThread { alone: false, ..busy.clone() };
    assert_eq!(told(&explain(&seen(&[1], vec![client(true), busy])))[0], (1, TimeKind::UnixSocket));
    assert!(explain(&seen(&[1], vec![client(true), rests])).chain.is_empty());
    assert!(explain(&seen(&[1], vec![client(true), several])).chain.is_empty());
}

#[test]
fn those_that_are_waited_for_are_followed_next() {
    let observed = seen(&[1], vec![thread(1, 1, vec![answer(8, 2), answer(1, 3)])]);
    assert_eq!(next_to_follow(&observed, 8), [2, 3]);
    assert_eq!(next_to_follow(&observed, 1), [2]);
    // What takes next to nothing of the time is not worth it, and process 1 never is.
    let brief = ObservedSleep { ns: SECOND / 10, ..answer(1, 2) };
    assert!(next_to_follow(&seen(&[1], vec![thread(1, 1, vec![brief, answer(9, 1)])]), 8).is_empty());
}

#[test]
fn parts_add_up_and_are_joined() {
    let report = explain(&seen(&[1], vec![thread(1, 1, vec![answer(2, 2), answer(3, 2), answer(4, 5)])]));
    let spent = &report.threads[0].spent;
    let all: f64 = spent.iter().map(|spent| spent.seconds).sum();
    assert!((all - 10.0).abs() < 1e-9);
    assert_eq!(spent.iter().filter(|spent| spent.kind == TimeKind::Tcp).count(), 2, "{spent:?}");
    assert_eq!(spent[0].count, 2);
}
