//! Settings of the kernel that have to do with eBPF or with what it tells apart.

use rustix::thread::CapabilitySet;

use crate::command::{Unprivileged, kerno, run, text};
use crate::guest::{read, watched, write};
use crate::support::{Child, Run, options, pid};
use crate::truth::{check, just_enough, refuses, sums_up_exactly, traces_exactly};

#[test]
fn unprivileged_bpf_disabled_is_no_matter() {
    const SETTING: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";
    watched(|| {
        let user = Unprivileged::new();
        // 1 cannot be undone, 2 can; before 5.13 there is no 2.
        for value in ["2", "1"] {
            if std::fs::write(SETTING, value).is_err() {
                assert_eq!(value, "2");
                continue;
            }
            assert_eq!(read(SETTING), value);
            refuses(|args| user.with(CapabilitySet::empty(), args), &["CAP_BPF and CAP_PERFMON", "setcap"]);
        }
        traces_exactly(|args| user.with(just_enough(), args));
    });
}

#[test]
fn without_the_jit_it_is_as_exact_and_says_why_it_is_slow() {
    const SETTING: &str = "/proc/sys/net/core/bpf_jit_enable";
    watched(|| {
        write(SETTING, "0");
        let facts = check(&mut kerno(&["check", "-o", "json"]), 0);
        assert_eq!((&facts["bpf_jit"], &facts["doctor"]["available"]), (&false.into(), &true.into()), "{facts}");
        for signal in facts["signals"].as_array().unwrap() {
            assert_eq!(signal["available"], true, "{signal}");
        }
        let report = run(&mut kerno(&["check"]));
        assert!(text(&report.stdout).contains("sysctl net.core.bpf_jit_enable=1"), "{}", text(&report.stdout));
        traces_exactly(kerno);
        sums_up_exactly();
        write(SETTING, "1");
    });
}

#[test]
fn process_ids_may_be_as_large_as_can_be() {
    const LARGEST: u32 = 4_194_304;
    watched(|| {
        write("/proc/sys/kernel/pid_max", &LARGEST.to_string());
        // Two ids that share their place in a table of 262,144.
        let mut children: Vec<_> = [3_000_000, 3_000_000 + (1 << 18)]
            .into_iter()
            .map(|number: u32| {
                write("/proc/sys/kernel/ns_last_pid", &(number - 1).to_string());
                let child = Child::new(|_| {
                    // SAFETY: no arguments.
                    (0..1009).for_each(|_| unsafe {
                        libc::syscall(libc::SYS_getppid);
                    });
                });
                assert_eq!(child.pid, number);
                child
            })
            .collect();
        let runs: Vec<_> = children
            .iter()
            .map(|child| {
                let filter = kerno::Filter { syscalls: vec!["getppid".into()], ..pid(child.pid) };
                Run::start(kerno::SyscallLatencyLoader::new(options(filter)))
            })
            .collect();
        children.iter_mut().for_each(Child::run);
        for (run, child) in runs.into_iter().zip(&children) {
            let events = run.finish();
            assert_eq!(events.len(), 1009);
            assert!(events.iter().all(|raw| raw.as_raw().decode().unwrap().pid() == child.pid));
        }
        write("/proc/sys/kernel/ns_last_pid", "1000");
        traces_exactly(kerno);
        sums_up_exactly();
    });
}
