//! What watching costs is held within a budget: beside a storm of system calls their programs go, and come back when it is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kerno_bpf::CancelToken;
use kerno_bpf::engine::{Budget, Engine, Next, ObserverOptions, Windows};
use kerno_model::Window;

use super::alone;

/// Processes that make system calls as fast as they can, until they are dropped.
struct Storm(Vec<libc::pid_t>);

impl Storm {
    fn on_all_cpus() -> Self {
        Self::of(std::thread::available_parallelism().map_or(1, usize::from), None)
    }

    /// So many processes, each of which makes so many calls or goes on for ever.
    fn of(processes: usize, calls: Option<usize>) -> Self {
        let start = |_| {
            // SAFETY: the child makes system calls without arguments until it is killed or done.
            let pid = unsafe { libc::fork() };
            assert!(pid >= 0);
            if pid == 0 {
                super::getppids(calls.unwrap_or(usize::MAX));
                // SAFETY: ends the child without running the parent's destructors.
                unsafe { libc::_exit(0) };
            }
            pid
        };
        Self((0..processes).map(start).collect())
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        for pid in &self.0 {
            // SAFETY: our own child, not yet waited for.
            unsafe {
                libc::kill(*pid, libc::SIGKILL);
                libc::waitpid(*pid, std::ptr::null_mut(), 0);
            }
        }
    }
}

const CALLS: &str = "syscall_latency";

fn next(windows: &Windows) -> Arc<Window> {
    match windows.next_within(Duration::from_secs(60), &CancelToken::new().unwrap()) {
        Next::Window(window) => window,
        other => panic!("no window: {other:?}"),
    }
}

/// The first window of which this is true.
fn until(windows: &Windows, what: &str, is_true: impl Fn(&Window) -> bool) -> Arc<Window> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let window = next(windows);
        if is_true(&window) {
            return window;
        }
        assert!(Instant::now() < deadline, "never {what}; the last: {:?} {:?}", window.cost, window.missing);
    }
}

fn total(window: &Window) -> f64 {
    window.cost.kernel_shares.values().sum()
}

fn why_out(window: &Window) -> Option<&str> {
    let all = window.missing.iter().find(|missing| missing.signal == CALLS && missing.what == "all")?;
    Some(&all.reason)
}

#[test]
fn what_costs_too_much_goes_until_it_is_calm() {
    let _alone = alone();
    let engine = Engine::start(ObserverOptions::default()).expect("the engine starts; this test needs root");
    let windows = engine.subscribe(256).unwrap();
    // What it takes depends on the machine: first with a limit that is never reached.
    let patience = Duration::from_secs(3);
    engine.limit(Budget { kernel_share: 1.0, cpu_share: 1.0, patience });
    engine.watch(Duration::from_secs(1));
    until(&windows, "metered", |window| !window.cost.kernel_shares.is_empty());
    let calm = total(&until(&windows, "metered again", |window| total(window) > 0.0));
    let storm = Storm::on_all_cpus();
    let stormy = until(&windows, "dearer", |window| total(window) > calm * 4.0 && total(window) > 0.01);
    let share = |window: &Window, signal: &str| window.cost.kernel_shares.get(signal).copied().unwrap_or(0.0);
    assert!(share(&stormy, CALLS) > 0.8 * total(&stormy), "{:?}", stormy.cost.kernel_shares);
    assert!(total(&stormy) < 1.0 && why_out(&stormy).is_none());
    assert_eq!(stormy.missing.iter().find(|missing| missing.what.contains("CPU time programs")), None);

    let limit = (calm.max(0.001) * total(&stormy)).sqrt();
    engine.limit(Budget { kernel_share: limit, cpu_share: 1.0, patience });
    let out = until(&windows, "out", |window| window.cost.detached.contains(CALLS));
    assert!(out.syscall_latency.is_none(), "it is taken out of the kernel");
    assert!(why_out(&out).unwrap().contains("taken out of the kernel for its cost"), "{:?}", out.missing);
    // The others watch on, but the one that has the same hooks, which may have to go for the same reason.
    assert!(out.sched_delay.is_some() && out.disk_io.is_some() && out.tcp_monitor.is_some(), "{:?}", out.missing);
    let less = until(&windows, "cheaper", |window| total(window) > 0.0 && total(window) < limit);
    assert!(less.syscall_latency.is_none() && !less.processes.is_empty());

    drop(storm);
    let back = until(&windows, "back", |window| window.syscall_latency.is_some() && why_out(window).is_none());
    assert!(back.cost.detached.is_empty() || !back.cost.detached.contains(CALLS));
    // It counts as before, with the signal that shares its programs.
    let whole = until(&windows, "whole", |window| window.cost.detached.is_empty() && window.file_audit.is_some());
    assert!(whole.syscall_latency.is_some());
    // Of another process: our own calls are no news.
    let child = Storm::of(1, Some(20_000));
    let counted = std::cell::Cell::new(0);
    until(&windows, "counted", |window| {
        let calls = window.syscall_latency.iter().flat_map(|part| &part.syscalls);
        // Over the end of a window, perhaps.
        let getppid = calls.filter(|call| call.name == "getppid").map(|call| call.calls);
        counted.set(counted.get() + getppid.sum::<u64>());
        counted.get() >= 20_000
    });
    // None of the storm, which would be millions.
    assert!(counted.get() < 100_000, "{}", counted.get());
    drop(child);
    engine.stop().unwrap();
}
