//! Loading, reading, closing: what is left in the kernel, who wakes whom, and that no event is unaccounted for. Needs root, as the
//! kernel tests. A binary of its own with one test at a time, since it counts what this process and its programs hold.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "kernel/support.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the kernel tests")]
mod support;

#[path = "lifecycle/budget.rs"]
mod budget;

use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aya::programs::{loaded_links, loaded_programs};
use kerno_bpf::{
    Batch, CancelToken, Filter, LoadError, Loader, LoaderSet, Options, StreamError, SyscallLatencyLoader, signals,
};
use support::{Child, Run, options, pid, preempts_programs, scaled};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn getppids(count: usize) {
    for _ in 0..count {
        // SAFETY: no arguments.
        unsafe { libc::syscall(libc::SYS_getppid) };
    }
}

fn getppid_of(child: &Child) -> Filter {
    Filter { syscalls: vec!["getppid".into()], ..pid(child.pid) }
}

/// Ids of programs, their maps and their links.
#[derive(Debug, Default, PartialEq, Eq)]
struct KernelObjects {
    programs: Vec<u32>,
    maps: Vec<u32>,
    links: Vec<u32>,
}

/// What the kernel holds now of these programs and maps.
fn in_kernel(programs: &[u32], maps: &[u32]) -> KernelObjects {
    let all_maps = aya::maps::loaded_maps().filter_map(|map| Some(map.ok()?.id()));
    let links = loaded_links().filter_map(Result::ok).filter(|link| programs.contains(&link.program_id()));
    KernelObjects {
        programs: loaded_programs().filter_map(|p| Some(p.ok()?.id())).filter(|id| programs.contains(id)).collect(),
        maps: all_maps.filter(|id| maps.contains(id)).collect(),
        links: links.map(|link| link.id()).collect(),
    }
}

fn maps_of(programs: &[u32]) -> Vec<u32> {
    let mut maps: Vec<u32> = loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| programs.contains(&program.id()))
        .flat_map(|program| program.map_ids().unwrap().unwrap_or_default())
        .collect();
    maps.sort_unstable();
    maps.dedup();
    maps
}

/// The kernel frees programs after a grace period: asks until they are gone.
fn assert_gone(programs: &[u32], maps: &[u32]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while in_kernel(programs, maps) != KernelObjects::default() {
        assert!(Instant::now() < deadline, "left in the kernel: {:?}", in_kernel(programs, maps));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The programs of a set, each once: signals share some.
fn programs_of(set: &LoaderSet) -> Vec<u32> {
    let mut ids: Vec<u32> = set.handles().iter().flat_map(kerno_bpf::Handle::program_ids).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn all_loaders() -> Vec<Box<dyn Loader>> {
    signals::ALL.iter().map(|signal| (signal.loader)(Options::default())).collect()
}

#[test]
fn close_leaves_no_program_map_or_link() {
    let _alone = alone();
    let mut set = LoaderSet::new(all_loaders());
    set.load_all().unwrap();
    let programs = programs_of(&set);
    let maps = maps_of(&programs);
    let before = in_kernel(&programs, &maps);
    assert!(before.programs.len() > set.handles().len() && before.links.len() == programs.len(), "{before:?}");
    assert!(maps.len() >= 2 * set.handles().len(), "{maps:?}");
    let mut events = set.events(&CancelToken::new().unwrap()).unwrap();
    set.close();
    // Also while the stream is still there.
    assert_gone(&programs, &maps);
    assert_eq!(events.next_batch(Duration::ZERO, |_| ControlFlow::Continue(())).unwrap(), Batch::Ended);
    set.close();
}

#[test]
fn a_set_loads_all_or_nothing_and_names_the_loader() {
    let _alone = alone();
    let misfit = Options { filter: Filter { ports: vec![80], ..Filter::default() }, ..Options::default() };
    let before = loaded_programs().count();
    let loaders: Vec<Box<dyn Loader>> = vec![
        Box::new(SyscallLatencyLoader::new(Options::default())),
        Box::new(SyscallLatencyLoader::new(misfit)),
        Box::new(SyscallLatencyLoader::new(Options::default())),
    ];
    let mut set = LoaderSet::new(loaders);
    let error = set.load_all().unwrap_err();
    assert!(matches!(&error, LoadError::Loader { loader: "syscall_latency", .. }), "{error:?}");
    assert!(
        error.reason().contains("syscall_latency cannot be loaded: filter port does not fit"),
        "{}",
        error.reason()
    );
    assert!(set.handles().is_empty());
    let deadline = Instant::now() + Duration::from_secs(10);
    while loaded_programs().count() > before {
        assert!(Instant::now() < deadline, "programs are left in the kernel");
        std::thread::sleep(Duration::from_millis(10));
    }
    let unavailable = set.load_available();
    assert_eq!((unavailable.len(), set.handles().len()), (1, 2));
    // What runs is left alone by a second call.
    assert!(matches!(set.load_all(), Err(LoadError::AlreadyLoaded)));
    assert_eq!((set.load_available().len(), set.handles().len()), (1, 2));
    assert_eq!(unavailable[0].signal, "syscall_latency");
    assert!(unavailable[0].reason.contains("port"), "{}", unavailable[0]);
}

#[test]
fn what_is_prepared_emits_nothing_until_it_is_attached() {
    let _alone = alone();
    let mut child = Child::new(|link| {
        getppids(101);
        link.tell(1);
        link.wait();
        getppids(103);
        link.tell(1);
        link.wait();
    });
    let mut loader = SyscallLatencyLoader::new(options(getppid_of(&child)));
    let prepared = loader.prepare().unwrap();
    assert!(matches!(loader.prepare(), Err(LoadError::AlreadyLoaded)));
    assert!(matches!(loader.events(&CancelToken::new().unwrap()), Err(StreamError::NotLoaded(_))));
    child.go();
    child.heard();
    let run = Run { handle: prepared.attach().unwrap(), loader, _others: Vec::new() };
    assert_eq!(run.handle.counters().emitted, 0);
    child.go();
    child.heard();
    let mut loader = run.loader;
    assert_eq!(run.handle.counters().emitted, 103);
    drop(run.handle);
    drop(loader.prepare().unwrap());
    let _again = loader.prepare().expect("what is dropped is unloaded");
}

#[test]
fn events_need_a_load_and_end_with_it() {
    let _alone = alone();
    let cancel = CancelToken::new().unwrap();
    // Its own calls too: the rest of the machine may be idle.
    let mut loader = SyscallLatencyLoader::new(Options { exclude_self: false, ..Options::default() });
    assert!(matches!(loader.events(&cancel), Err(StreamError::NotLoaded("syscall_latency"))));
    assert!(LoaderSet::new(Vec::new()).events(&cancel).is_err());
    let handle = loader.load().unwrap();
    assert!(matches!(loader.load(), Err(LoadError::AlreadyLoaded)));
    let mut events = loader.events(&cancel).unwrap();
    // Another thread closes while this one sleeps in the stream.
    let closer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        handle.close();
        handle.close();
        handle
    });
    events.for_each_raw(|_| ControlFlow::Continue(())).unwrap();
    let handle = closer.join().unwrap();
    assert!(handle.counters().emitted > 0, "counters outlive the close");
    assert!(matches!(loader.events(&cancel), Err(StreamError::NotLoaded(_))));
    drop(handle);
    // The same loader can be loaded again; a token ends its stream.
    let _handle = loader.load().unwrap();
    let mut events = loader.events(&cancel).unwrap();
    cancel.cancel();
    let start = Instant::now();
    events.for_each_raw(|_| ControlFlow::Continue(())).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_callback_may_ask_and_close() {
    let _alone = alone();
    let mut loader = SyscallLatencyLoader::new(Options { exclude_self: false, ..Options::default() });
    let handle = loader.load().unwrap();
    let programs = handle.program_ids();
    let maps = maps_of(&programs);
    let mut seen = 0;
    loader
        .events(&CancelToken::new().unwrap())
        .unwrap()
        .for_each_raw(|_| {
            seen += 1;
            assert!(handle.counters().emitted > 0);
            handle.close();
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(seen > 0);
    assert_gone(&programs, &maps);
}

#[test]
fn readers_that_close_each_others_handles_do_not_wait_for_each_other() {
    let _alone = alone();
    let load = || {
        let mut loader = SyscallLatencyLoader::new(Options { exclude_self: false, ..Options::default() });
        let handle = loader.load().unwrap();
        (loader, handle)
    };
    let ((a, a_handle), (b, b_handle)) = (load(), load());
    let programs = [a_handle.program_ids(), b_handle.program_ids()].concat();
    let maps = maps_of(&programs);
    let both_inside = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for loader in [&a, &b] {
            scope.spawn(|| {
                let mut first = true;
                let read = |_: kerno_bpf::RawEvent<'_>| {
                    if std::mem::take(&mut first) {
                        both_inside.wait();
                        a_handle.close();
                        b_handle.close();
                    }
                    ControlFlow::Continue(())
                };
                loader.events(&CancelToken::new().unwrap()).unwrap().for_each_raw(read).unwrap();
            });
        }
    });
    assert_gone(&programs, &maps);
}

#[test]
fn a_callback_that_panics_loses_nothing() {
    let _alone = alone();
    let mut child = Child::new(|_| getppids(101));
    let run = Run::start(SyscallLatencyLoader::new(options(getppid_of(&child))));
    child.run();
    let mut stream = run.loader.events(&CancelToken::new().unwrap()).unwrap();
    let mut read = 0;
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = stream.next_batch(Duration::from_secs(1), |_| {
            read += 1;
            if read == 50 {
                // On purpose, and without the words that a panic is told with.
                std::panic::resume_unwind(Box::new(()));
            }
            ControlFlow::Continue(())
        });
    }));
    assert!(unwound.is_err());
    assert_eq!(run.handle.seen(), 49);
    // The record that it failed on is read again.
    assert_eq!(run.finish().len(), 101 - 49);
}

#[test]
fn an_iterator_owns_what_it_yields() {
    let _alone = alone();
    let mut child = Child::new(|_| getppids(101));
    let run = Run::start(SyscallLatencyLoader::new(options(getppid_of(&child))));
    let events = run.loader.events(&CancelToken::new().unwrap()).unwrap();
    child.run();
    run.handle.stop();
    assert_eq!(events.map(|raw| raw.unwrap().decode().unwrap().pid()).filter(|pid| *pid == child.pid).count(), 101);
}

#[test]
fn overfilled_rings_are_accounted_for_exactly() {
    let _alone = alone();
    const RING: usize = 64 << 10;
    /// A record and its header; the ring keeps one byte free (kernel/bpf/ringbuf.c).
    const CAPACITY: usize = (RING - 1) / (64 + 8);
    for count in [0, 1, CAPACITY / 2, CAPACITY - 1, CAPACITY, CAPACITY + 1, 8 * CAPACITY] {
        let mut child = Child::new(|_| getppids(count));
        let mut options = options(getppid_of(&child));
        options.ring_bytes = u32::try_from(RING).unwrap();
        let run = Run::start(SyscallLatencyLoader::new(options));
        child.run();
        let before = run.handle.counters();
        let (events, counters) = run.finish_with_counters();
        assert_eq!(before, counters);
        assert_eq!(counters.emitted, count as u64, "{count} calls");
        assert_eq!(events.len(), count.min(CAPACITY), "{count} calls");
        assert_eq!(counters.lost, count.saturating_sub(CAPACITY) as u64, "{count} calls");
    }
}

#[test]
fn a_ring_read_while_it_is_written_by_all_cpus_is_accounted_for_exactly() {
    let _alone = alone();
    let calls = scaled(200_003);
    let mut children: Vec<Child> = (0..4).map(|_| Child::new(|_| getppids(calls))).collect();
    let filter = Filter {
        pids: children.iter().map(|child| child.pid).collect(),
        syscalls: vec!["getppid".into()],
        ..Filter::default()
    };
    // Small enough that the reader sometimes loses.
    let run = Run::start(SyscallLatencyLoader::new(Options { ring_bytes: 256 << 10, ..options(filter) }));
    let mut stream = run.loader.events(&CancelToken::new().unwrap()).unwrap();
    children.iter_mut().for_each(Child::go);
    let mut per_child = std::collections::HashMap::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut ended = 0;
    while ended < children.len() {
        assert!(Instant::now() < deadline);
        let idle = stream.next_batch(Duration::from_millis(100), |raw| {
            *per_child.entry(raw.decode().unwrap().pid()).or_insert(0u64) += 1;
            ControlFlow::Continue(())
        });
        if idle.unwrap() == Batch::Idle {
            children.iter_mut().for_each(|child| assert_eq!(child.wait(), 0));
            ended = children.len();
        }
    }
    let (rest, counters) = run.finish_with_counters();
    let seen = per_child.values().sum::<u64>() + rest.len() as u64;
    let made = (children.len() * calls) as u64;
    // More tasks than CPUs: where they are preempted in programs, the kernel skips some runs, and tells how many.
    let skipped = if preempts_programs() { counters.missed_runs } else { 0 };
    assert!(counters.emitted <= made && made <= counters.emitted + skipped, "{made}: {counters:?}");
    assert_eq!(seen + counters.lost, counters.emitted);
    assert_eq!(per_child.len(), children.len(), "and nobody else's");
}

#[test]
fn two_instances_run_side_by_side() {
    let _alone = alone();
    let mut child = Child::new(|_| getppids(1009));
    let runs = [(); 2].map(|()| Run::start(SyscallLatencyLoader::new(options(getppid_of(&child)))));
    child.run();
    for run in runs {
        assert_eq!(run.finish().len(), 1009);
    }
}

/// Descriptors and resident memory of this process.
fn held() -> (usize, usize) {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    (fds, statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096)
}

#[test]
fn a_hundred_cycles_leak_nothing() {
    let _alone = alone();
    let cycle = || {
        let mut set = LoaderSet::new(all_loaders());
        set.load_all().unwrap();
        let mut events = set.events(&CancelToken::new().unwrap()).unwrap();
        events.next_batch(Duration::ZERO, |_| ControlFlow::Continue(())).unwrap();
        programs_of(&set)
    };
    // The first ones fill caches that stay.
    let mut programs: Vec<u32> = (0..5).flat_map(|_| cycle()).collect();
    let (fds, memory) = held();
    let mut half = || {
        programs.extend((0..scaled(50)).flat_map(|_| cycle()));
        held()
    };
    let [(_, halfway), (fds_after, memory_after)] = [half(), half()];
    assert_eq!(fds_after, fds, "descriptors");
    // The allocator may come to need more once; what is not given back grows in both halves.
    let grew = halfway.saturating_sub(memory).min(memory_after.saturating_sub(halfway));
    assert!(grew < 2 << 20, "resident memory went from {memory} to {halfway} and {memory_after} bytes");
    assert_gone(&programs, &[]);
}

#[test]
fn a_killed_process_leaves_nothing() {
    let _alone = alone();
    let mut child = Child::new(|link| {
        let mut set = LoaderSet::new(all_loaders());
        set.load_all().unwrap();
        let ids = programs_of(&set);
        link.tell(ids.len() as u64);
        ids.iter().for_each(|id| link.tell(u64::from(*id)));
        link.wait();
    });
    child.go();
    let count = child.heard();
    let programs: Vec<u32> = (0..count).map(|_| u32::try_from(child.heard()).unwrap()).collect();
    let maps = maps_of(&programs);
    assert_eq!(in_kernel(&programs, &maps).programs.len(), programs.len());
    assert!(!programs.is_empty() && !maps.is_empty());
    // SAFETY: our own child.
    unsafe { libc::kill(child.pid.cast_signed(), libc::SIGKILL) };
    child.wait();
    assert_gone(&programs, &maps);
}
