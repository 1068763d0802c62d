//! CPUs that are offline at the start, and that go and come while programs run.

use std::time::Duration;

use crate::guest::{read, watched, write};
use crate::support::{Child, Run, options, pid};
use crate::truth::{calls_summed_up, observer, rare, works};

fn set_online(cpu: usize, online: bool) {
    write(&format!("/sys/devices/system/cpu/cpu{cpu}/online"), if online { "1" } else { "0" });
}

#[test]
fn offline_from_the_start() {
    watched(|| {
        set_online(2, false);
        assert_eq!(
            (read("/sys/devices/system/cpu/possible"), read("/sys/devices/system/cpu/online")),
            ("0-2".into(), "0-1".into())
        );
        works();
        set_online(2, true);
    });
}

/// Moves the calling thread to a CPU.
fn move_to(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}

#[test]
fn gone_and_back_during_a_run() {
    const ROUNDS: usize = 3;
    const CALLS: usize = 211;
    watched(|| {
        // Works on each CPU while it is there; what it did on one that is gone by now still counts.
        let mut child = Child::new(|link| {
            for _ in 0..ROUNDS {
                for cpu in [0, 1, 2, 2, 1] {
                    move_to(cpu);
                    (0..CALLS).for_each(|_| rare());
                    link.tell(0);
                    link.wait();
                }
            }
        });
        let filter = kerno::Filter { syscalls: vec!["get_mempolicy".into()], ..pid(child.pid) };
        set_online(2, false);
        let mut observer = observer(&["syscall_latency", "sched_delay"]);
        let run = Run::start(kerno::SyscallLatencyLoader::new(options(filter)));
        set_online(2, true);
        let mut summed_up = 0;
        child.go();
        for _ in 0..ROUNDS {
            for gone in [None, Some(0), Some(1), None, Some(2)] {
                child.heard();
                // CPU 0 cannot go on most machines.
                if let Some(cpu) = gone.filter(|cpu| *cpu > 0) {
                    set_online(cpu, false);
                    summed_up += calls_summed_up(&mut observer);
                    std::thread::sleep(Duration::from_millis(100));
                    set_online(cpu, true);
                }
                child.go();
            }
        }
        assert_eq!(child.wait(), 0);
        summed_up += calls_summed_up(&mut observer);
        let made = ROUNDS * 5 * CALLS;
        assert_eq!(summed_up, made as u64);
        assert_eq!(run.finish().len(), made);
    });
}
