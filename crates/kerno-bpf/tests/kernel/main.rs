//! Loads every probe into the running kernel and checks what it tells against an independent truth. Needs root (CAP_BPF,
//! CAP_PERFMON and, for namespaces, cgroups and loop devices, CAP_SYS_ADMIN): without it these tests fail, they do not skip.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

/// Repeats tests of the module above with [`support::without`], in a module of their own.
macro_rules! again {
    ($module:ident, without $hook:literal: $($test:ident)+) => {
        mod $module {
            $(#[test]
            fn $test() {
                crate::support::without(&[$hook], super::$test);
            })+
        }
    };
}

/// Repeats tests of the module above with [`support::beside_all`], in a module of their own.
macro_rules! beside_all {
    ($($test:ident)+) => {
        mod beside_all {
            $(#[test]
            fn $test() {
                crate::support::beside_all(super::$test);
            })+
        }
    };
}

mod support;

mod block;
mod cgroups;
mod disk_io;
mod disk_io_summary;
mod disk_io_traffic;
mod dns_query;
mod fd_summary;
mod fd_track;
mod fd_track_ends;
mod fd_track_filters;
mod fd_track_uring;
mod file_audit;
mod file_summary;
mod fuse;
mod hanging;
mod histogram;
mod hooks;
mod in_flight;
mod kernel_log;
mod merging;
mod network_drops;
mod oom_summary;
mod oom_track;
mod process_life;
mod process_life_summary;
mod sched_account;
mod sched_delay;
mod sched_summary;
mod stalls;
mod syscall_latency;
mod syscall_summary;
mod task_summary;
mod tcp_monitor;
mod tcp_parts;
mod tcp_stuck;
mod tcp_summary;
#[cfg(target_arch = "x86_64")]
mod verifier;
mod why;
