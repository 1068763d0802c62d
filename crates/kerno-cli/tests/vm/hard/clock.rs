//! The clock on the wall is set forward and back while programs run.

use std::time::Duration;

use kerno::{Filter, SyscallEvent, SyscallLatencyLoader};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::command::kerno;
use crate::guest::watched;
use crate::support::{Child, Run, monotonic_ns, options, pid};
use crate::truth::{observer, reports};

fn step(seconds: i64) {
    let now = clock_gettime(ClockId::Realtime);
    clock_settime(ClockId::Realtime, Timespec { tv_sec: now.tv_sec + seconds, ..now }).unwrap();
}

const DAY: i64 = 86_400;

#[test]
fn no_latency_and_no_window_is_measured_with_it() {
    const NAP: Duration = Duration::from_millis(200);
    watched(|| {
        let mut child = Child::new(|link| {
            for _ in 0..6 {
                std::thread::sleep(NAP);
            }
            link.tell(0);
            link.wait();
        });
        let filter = Filter { syscalls: vec!["clock_nanosleep".into()], ..pid(child.pid) };
        let mut observer = observer(&["syscall_latency", "sched_delay", "disk_io", "tcp_monitor"]);
        let run = Run::start(SyscallLatencyLoader::new(options(filter)));
        let begun = monotonic_ns();
        child.go();
        for seconds in [DAY, -2 * DAY, 3600, DAY - 3600] {
            std::thread::sleep(NAP);
            step(seconds);
            observer.sample().unwrap();
        }
        child.heard();
        let signals = observer.finish().unwrap();
        let passed_ns = monotonic_ns() - begun;
        let events = run.finish();
        assert_eq!(events.len(), 6);
        let mut slept_ns = 0;
        for raw in &events {
            let event = raw.as_raw().decode_as::<SyscallEvent>().unwrap();
            assert!(event.latency() >= NAP, "{event}");
            slept_ns += event.latency_ns;
        }
        assert!(slept_ns <= passed_ns, "{slept_ns} of {passed_ns}");
        assert!(signals.span.seconds >= 1.2 && signals.span.seconds < 60.0, "{}", signals.span.seconds);
        let summary = signals.syscall_latency.as_ref().unwrap();
        let limit_ns = u64::try_from(Duration::from_secs(60).as_nanos()).unwrap();
        for stat in &summary.syscalls {
            // What began before the window may be as old as the machine, which is young.
            assert!(stat.latency.max() <= Some(limit_ns), "{}: {:?}", stat.name, stat.latency.max());
        }
        child.go();
        assert_eq!(child.wait(), 0);
    });
}

#[test]
fn the_command_goes_on() {
    watched(|| {
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for seconds in [DAY, -DAY].into_iter().cycle() {
                    step(seconds);
                    std::thread::sleep(Duration::from_millis(500));
                    if seconds < 0 && over.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                }
            });
            reports(kerno);
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}
