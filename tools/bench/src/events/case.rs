//! Which operation is measured beside which programs.

use std::path::PathBuf;
use std::time::Duration;

use kerno::Filter;

use super::workload::Kind;

/// One operation, and what it is measured beside.
pub(super) struct Case {
    pub(super) kind: Kind,
    /// Where the empty and the timing programs are: what no latency on this path can do without.
    pub(super) hooks: &'static [&'static str],
    /// Where a program has to be that takes no time: what is to be known is known only there.
    pub(super) untimed_hooks: &'static [&'static str],
    /// Where the common design is, a hash map and a ring: none where it has no use.
    pub(super) ring_hooks: &'static [&'static str],
    pub(super) summaries: &'static [Summary],
    pub(super) events: &'static [Events],
    /// What `kerno trace` is asked for.
    pub(super) traces: &'static [&'static str],
    pub(super) peers: &'static [Peer],
    /// How many times as cheap as the common design the first summary has to be.
    pub(super) ring_ratio: f64,
}

/// Sums in the kernel.
pub(super) struct Summary {
    pub(super) name: &'static str,
    /// None stands for all.
    pub(super) signals: &'static [&'static str],
    /// How many times what the timestamps add it may add.
    pub(super) target: Option<f64>,
}

/// Events that a filter leaves out.
pub(super) struct Events {
    pub(super) name: &'static str,
    pub(super) signal: &'static str,
    pub(super) filter: fn() -> Filter,
}

/// Another tool.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) program: &'static str,
    pub(super) args: &'static [&'static str],
}

const fn peer(name: &'static str, program: &'static str, args: &'static [&'static str]) -> Peer {
    Peer { name, program, args }
}

fn slower_than_an_hour() -> Filter {
    Filter { min_latency: Some(Duration::from_secs(3600)), ..Filter::default() }
}

fn another_process() -> Filter {
    Filter { pids: vec![u32::MAX], ..Filter::default() }
}

fn another_call() -> Filter {
    Filter { syscalls: vec!["reboot".to_owned()], ..Filter::default() }
}

fn another_folder() -> Filter {
    Filter { path_prefix: Some(PathBuf::from("/nowhere/")), ..Filter::default() }
}

fn another_port() -> Filter {
    Filter { ports: vec![9], ..Filter::default() }
}

pub(super) const CASES: &[Case] = &[
    Case {
        kind: Kind::Getppid,
        hooks: &["sys_exit", "sys_enter"],
        untimed_hooks: &[],
        ring_hooks: &["sys_exit", "sys_enter"],
        summaries: &[
            Summary { name: "kerno summary: syscall_latency", signals: &["syscall_latency"], target: Some(1.10) },
            Summary { name: "kerno summary: all signals", signals: &[], target: Some(1.15) },
        ],
        events: &[
            Events {
                name: "kerno events: slower than an hour",
                signal: "syscall_latency",
                filter: slower_than_an_hour,
            },
            Events { name: "kerno events: another process", signal: "syscall_latency", filter: another_process },
            Events { name: "kerno events: another call", signal: "syscall_latency", filter: another_call },
        ],
        traces: &["syscall"],
        peers: &[
            peer("syscount -L (libbpf-tools)", "syscount", &["-L"]),
            peer("syscount-bpfcc -L", "syscount-bpfcc", &["-L"]),
            peer(
                "bpftrace: latency histogram",
                "bpftrace",
                &[
                    "-e",
                    "tracepoint:raw_syscalls:sys_enter { @s[tid] = nsecs; } tracepoint:raw_syscalls:sys_exit /@s[tid]/ { \
                     @ns = hist(nsecs - @s[tid]); delete(@s[tid]); }",
                ],
            ),
        ],
        ring_ratio: 2.5,
    },
    Case {
        kind: Kind::PingPong,
        hooks: &["sched_switch", "sched_wakeup", "sched_wakeup_new"],
        untimed_hooks: &[],
        ring_hooks: &["sched_switch", "sched_wakeup", "sched_wakeup_new"],
        summaries: &[Summary { name: "kerno summary: sched_delay", signals: &["sched_delay"], target: Some(1.25) }],
        events: &[
            Events { name: "kerno events: slower than an hour", signal: "sched_delay", filter: slower_than_an_hour },
            Events { name: "kerno events: another process", signal: "sched_delay", filter: another_process },
        ],
        traces: &["sched"],
        peers: &[
            peer("runqlat (libbpf-tools)", "runqlat", &[]),
            peer("runqlat-bpfcc", "runqlat-bpfcc", &[]),
            peer(
                "bpftrace: run queue histogram",
                "bpftrace",
                &[
                    "-e",
                    "tracepoint:sched:sched_wakeup, tracepoint:sched:sched_wakeup_new { @q[args->pid] = nsecs; } \
                     tracepoint:sched:sched_switch { if (args->prev_state == 0) { @q[args->prev_pid] = nsecs; } $s = \
                     @q[args->next_pid]; if ($s) { @us = hist((nsecs - $s) / 1000); delete(@q[args->next_pid]); } }",
                ],
            ),
        ],
        ring_ratio: 1.0,
    },
    Case {
        kind: Kind::DirectReads,
        hooks: &["block_rq_complete", "block_rq_issue"],
        // Who asks: at the other two it may be a worker or anybody's interrupt.
        untimed_hooks: &["block_io_start"],
        ring_hooks: &["block_rq_complete", "block_rq_issue"],
        summaries: &[Summary { name: "kerno summary: disk_io", signals: &["disk_io"], target: Some(1.5) }],
        events: &[
            Events { name: "kerno events: slower than an hour", signal: "disk_io", filter: slower_than_an_hour },
            Events { name: "kerno events: another process", signal: "disk_io", filter: another_process },
        ],
        traces: &["disk"],
        peers: &[
            peer("biolatency (libbpf-tools)", "biolatency", &[]),
            peer("biosnoop (libbpf-tools)", "biosnoop", &[]),
            peer("biolatency-bpfcc", "biolatency-bpfcc", &[]),
            peer(
                "bpftrace: latency histogram",
                "bpftrace",
                &[
                    "-e",
                    "tracepoint:block:block_rq_issue { @s[args->dev, args->sector] = nsecs; } \
                     tracepoint:block:block_rq_complete /@s[args->dev, args->sector]/ { @us = hist((nsecs - @s[args->dev, \
                     args->sector]) / 1000); delete(@s[args->dev, args->sector]); }",
                ],
            ),
        ],
        ring_ratio: 1.0,
    },
    Case {
        kind: Kind::Connections,
        hooks: &["inet_sock_set_state"],
        untimed_hooks: &[],
        ring_hooks: &["inet_sock_set_state"],
        summaries: &[Summary { name: "kerno summary: tcp_monitor", signals: &["tcp_monitor"], target: Some(1.5) }],
        events: &[
            Events { name: "kerno events: another port", signal: "tcp_monitor", filter: another_port },
            Events { name: "kerno events: another process", signal: "tcp_monitor", filter: another_process },
        ],
        traces: &["tcp"],
        peers: &[
            peer("tcplife (libbpf-tools)", "tcplife", &[]),
            peer("tcpconnlat (libbpf-tools)", "tcpconnlat", &[]),
            peer("tcplife-bpfcc", "tcplife-bpfcc", &[]),
            peer(
                "bpftrace: lifetime histogram",
                "bpftrace",
                &[
                    "-e",
                    "tracepoint:sock:inet_sock_set_state { if (args->newstate == 1) { @b[args->skaddr] = nsecs; } if \
                     (args->newstate == 7 && @b[args->skaddr]) { @us = hist((nsecs - @b[args->skaddr]) / 1000); \
                     delete(@b[args->skaddr]); } }",
                ],
            ),
        ],
        ring_ratio: 1.0,
    },
    Case {
        kind: Kind::Messages,
        hooks: &["tcp_probe"],
        untimed_hooks: &[],
        ring_hooks: &[],
        summaries: &[Summary { name: "kerno summary: tcp_monitor", signals: &["tcp_monitor"], target: Some(1.5) }],
        events: &[Events { name: "kerno events: another port", signal: "tcp_monitor", filter: another_port }],
        traces: &["tcp"],
        peers: &[
            peer("tcprtt (libbpf-tools)", "tcprtt", &[]),
            peer("tcprtt-bpfcc", "tcprtt-bpfcc", &[]),
            peer(
                "bpftrace: smoothed round trip histogram",
                "bpftrace",
                &["-e", "tracepoint:tcp:tcp_probe { @us = hist(args->srtt); }"],
            ),
        ],
        ring_ratio: 1.0,
    },
    Case {
        kind: Kind::OpenClose,
        hooks: &["sys_exit"],
        untimed_hooks: &[],
        ring_hooks: &["sys_exit_openat", "sys_enter_openat"],
        summaries: &[
            Summary { name: "kerno summary: file_audit", signals: &["file_audit"], target: Some(1.5) },
            Summary { name: "kerno summary: fd_track", signals: &["fd_track"], target: Some(1.5) },
        ],
        events: &[
            Events { name: "kerno events: opens in another folder", signal: "file_audit", filter: another_folder },
            Events { name: "kerno events: opens of another process", signal: "file_audit", filter: another_process },
            Events {
                name: "kerno events: descriptors of another process",
                signal: "fd_track",
                filter: another_process,
            },
        ],
        traces: &["file", "fd"],
        peers: &[
            peer("opensnoop (libbpf-tools)", "opensnoop", &[]),
            peer("opensnoop-bpfcc", "opensnoop-bpfcc", &[]),
            peer(
                "bpftrace: print opens",
                "bpftrace",
                &[
                    "-e",
                    "tracepoint:syscalls:sys_enter_openat { @f[tid] = args->filename; } tracepoint:syscalls:sys_exit_openat \
                     /@f[tid]/ { printf(\"%d %s %d %s\\n\", pid, comm, args->ret, str(@f[tid])); delete(@f[tid]); }",
                ],
            ),
        ],
        ring_ratio: 1.0,
    },
];
