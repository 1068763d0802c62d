//! The machine's host stops it while programs run, as for a snapshot or a migration.

use std::time::Duration;

use kerno::{Filter, SyscallEvent, SyscallLatencyLoader};

use crate::guest::{ask_qemu, watched};
use crate::support::{Child, Run, monotonic_ns, options, pid};
use crate::truth::{calls_summed_up, observer, rare, traces_exactly};

/// All that a child did is told, and no time in which nothing ran.
#[test]
fn nothing_is_missed_and_nothing_grows() {
    watched(|| {
        const NAPS: usize = 7;
        let mut child = Child::new(|link| {
            for _ in 0..NAPS {
                std::thread::sleep(Duration::from_millis(300));
                rare();
            }
            link.tell(0);
        });
        let filter = Filter { syscalls: vec!["clock_nanosleep".into()], ..pid(child.pid) };
        let mut observer = observer(&["syscall_latency", "sched_delay", "disk_io"]);
        let run = Run::start(SyscallLatencyLoader::new(options(filter)));
        let begun = monotonic_ns();
        child.go();
        std::thread::sleep(Duration::from_millis(500));
        ask_qemu("stop; sleep 4; cont");
        child.heard();
        let passed_ns = monotonic_ns() - begun;
        assert_eq!(child.wait(), 0);
        assert_eq!(calls_summed_up(&mut observer), NAPS as u64);
        let events = run.finish();
        assert_eq!(events.len(), NAPS);
        let slept_ns: u64 = events.iter().map(|raw| raw.as_raw().decode_as::<SyscallEvent>().unwrap().latency_ns).sum();
        assert!(slept_ns <= passed_ns, "{slept_ns} of {passed_ns}");
        traces_exactly(crate::command::kerno);
    });
}
