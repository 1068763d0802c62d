use std::time::Duration;

use kerno::{Filter, SyscallEvent, SyscallLatencyLoader};

use crate::support::{Child, monotonic_ns, observe, options, pid};

const CALLS: usize = 1009;

#[test]
fn known_calls_with_known_results_are_all_seen_with_every_field_right() {
    let mut child = Child::new(|_| {
        for _ in 0..CALLS {
            // SAFETY: no arguments.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
    });
    let filter = Filter { syscalls: vec!["getppid".into()], ..pid(child.pid) };
    let before = monotonic_ns();
    let events: Vec<SyscallEvent> = observe(SyscallLatencyLoader::new(options(filter)), || child.run());
    let after = monotonic_ns();
    assert_eq!(events.len(), CALLS);
    let mut last = before;
    for event in events {
        assert_eq!((event.pid, event.tid), (child.pid, child.pid));
        assert_eq!(event.syscall_name(), Some("getppid"));
        assert_eq!(event.ret, i64::from(std::process::id()));
        assert_eq!(event.errno(), None);
        assert!(!event.compat);
        assert!(event.timestamp_ns - event.latency_ns >= last && event.timestamp_ns <= after);
        last = event.timestamp_ns;
    }
}

#[test]
fn sleeps_last_as_long_as_they_did() {
    let mut child = Child::new(|link| {
        for ms in [2, 3, 5, 7, 11] {
            let start = monotonic_ns();
            std::thread::sleep(Duration::from_millis(ms));
            let took = monotonic_ns() - start;
            link.tell(took);
        }
    });
    let filter = Filter { syscalls: vec!["clock_nanosleep".into()], ..pid(child.pid) };
    let events: Vec<SyscallEvent> = observe(SyscallLatencyLoader::new(options(filter)), || child.run());
    assert_eq!(events.len(), 5);
    for (event, ms) in events.iter().zip([2, 3, 5, 7, 11]) {
        let took = Duration::from_nanos(child.heard());
        assert!(event.latency() >= Duration::from_millis(ms), "{event}");
        assert!(event.latency() <= took, "{event}");
    }
}
