use std::collections::BTreeMap;

use crate::*;

/// How many of each thing: more than any bound.
const MANY: u32 = 50;

/// A window with many of everything that has a name. `seed` shifts the names and which of them are heavy.
pub(super) fn crowded(seed: u32) -> Window {
    let ids = || (0..MANY).map(move |i| (i, i + seed * 29, u64::from((i + seed * 31) % MANY + 1)));
    let histogram = |count: u64| {
        let mut histogram = Histogram::new();
        (0..count).for_each(|value| histogram.record(1_000 << (value % 24)));
        histogram
    };
    let errors = |i: u32| {
        (1..=if i == 0 { 133 } else { 2 }).map(|errno| ErrnoCount::new(errno, errno as u64)).collect::<Vec<_>>()
    };
    let series = |value: u64| Series::from_iter([(0.0, 1.0), (1.0, value as f64)]);
    let mut window = Window {
        kerno_version: "0.1.0".into(),
        host: HostFacts { kernel: "6.18.0".into(), cpus: 256, ..HostFacts::default() },
        span: Span { started_unix: 1e9 + f64::from(seed), started_ns: 1, seconds: 10.0, ..Span::default() },
        ..Window::default()
    };
    window.missing = ids().map(|(_, n, _)| Missing { signal: format!("signal_{n}"), ..Missing::default() }).collect();
    window.cost.kernel_bytes = 40 << 20;
    window.cost.kernel_shares = [("syscall_latency".to_owned(), 0.01), ("sched_delay".to_owned(), 0.002)].into();
    window.cost.loss = ids()
        .map(|(_, n, weight)| (format!("signal_{n}"), SummaryLoss { overflow: weight, untracked: 2, missed_runs: 1 }))
        .collect();
    window.processes = ids()
        .map(|(pid, n, weight)| {
            let used = TaskUse { run_ns: weight * 1_000_000, read_bytes: weight, write_bytes: 2, ..TaskUse::default() };
            let unit = Some(format!("unit-{n}.service"));
            (pid, Process { pid, unit, used, alive: true, anon_bytes: weight, ..Process::default() })
        })
        .collect::<BTreeMap<_, _>>();
    window.syscall_latency = Some(SyscallSummary {
        calls: 0,
        syscalls: ids()
            .map(|(nr, n, weight)| SyscallStat {
                name: format!("syscall_{n}"),
                nr,
                calls: weight,
                errors: errors(nr),
                latency: histogram(weight),
                ..SyscallStat::default()
            })
            .collect(),
        offenders: ids()
            .map(|(pid, _, weight)| SyscallOffender { pid, slow: 1, max_ns: weight, ..SyscallOffender::default() })
            .collect(),
        syncs: ids()
            .map(|(pid, _, weight)| SyncStat { pid, calls: 1, total_ns: weight, max_ns: weight, ..SyncStat::default() })
            .collect(),
    });
    window.tcp_monitor = Some(TcpSummary {
        namespaces: ids()
            .map(|(i, ..)| TcpNamespace { initial: i == 0, sent_segments: 5, ..TcpNamespace::default() })
            .collect(),
        processes: ids().map(|(pid, ..)| TcpProcess { pid, sent_segments: 3, ..TcpProcess::default() }).collect(),
        listeners: ids()
            .map(|(pid, ..)| TcpListener { pid, queued: 1, backlog: 2, ..TcpListener::default() })
            .collect(),
        rtt_us: histogram(100),
        ..TcpSummary::default()
    });
    window.oom_track = Some(OomSummary {
        cgroups: ids()
            .map(|(_, n, weight)| CgroupMemory {
                path: format!("/group-{n}"),
                used_bytes: series(weight),
                limit_bytes: u64::from(MANY),
                limit_hits: weight,
                some_stalled: Some(0.5),
                ..CgroupMemory::default()
            })
            .collect(),
        ..OomSummary::default()
    });
    window.disk_io = Some(DiskSummary {
        devices: ids()
            .map(|(i, n, weight)| DiskDevice {
                name: format!("disk{n}"),
                ops: RequestKind::ALL
                    .iter()
                    .map(|op| DiskOpStat {
                        op: *op,
                        count: weight,
                        bytes: weight << 12,
                        errors: errors(i),
                        queue_ns: histogram(weight),
                        device_ns: histogram(weight),
                    })
                    .collect(),
                in_flight: series(weight),
                utilisation: weight as f64 / f64::from(MANY),
                ..DiskDevice::default()
            })
            .collect(),
        submitters: ids().map(|(pid, ..)| DiskSubmitter { pid, requests: 4, ..DiskSubmitter::default() }).collect(),
        filesystems: ids()
            .map(|(_, n, weight)| Filesystem {
                mount: format!("/mnt/{n}"),
                total_bytes: u64::from(MANY),
                available_bytes: series(weight),
                total_inodes: u64::from(MANY),
                free_inodes: series(weight),
                ..Filesystem::default()
            })
            .collect(),
        throttled: ids()
            .map(|(_, n, weight)| CgroupIo {
                path: format!("/group-{n}"),
                read_bytes: weight,
                limit_used: 0.5,
                some_stalled: Some(0.1),
                ..CgroupIo::default()
            })
            .collect(),
        ..DiskSummary::default()
    });
    window.sched_delay = Some(SchedSummary {
        cpus: ids().map(|(cpu, ..)| CpuStat { cpu, busy: 0.5, switches: 7, ..CpuStat::default() }).collect(),
        wakeup_ns: histogram(100),
        waiters: ids().map(|(pid, ..)| SchedWaiter { pid, slow: 2, max_ns: 9, ..SchedWaiter::default() }).collect(),
        throttled: ids()
            .map(|(_, n, weight)| CgroupThrottle {
                path: format!("/group-{n}"),
                periods: 100,
                throttled_periods: weight / 2,
                ..CgroupThrottle::default()
            })
            .collect(),
        blocked: ids().map(|(pid, ..)| BlockedTask { pid, seconds: 3.0, ..BlockedTask::default() }).collect(),
        ..SchedSummary::default()
    });
    window.fd_track = Some(FdSummary {
        processes: ids()
            .map(|(pid, _, weight)| FdProcess { pid, open: series(weight), soft_limit: 1024, ..FdProcess::default() })
            .collect(),
        ..FdSummary::default()
    });
    window.file_audit = Some(FileSummary {
        opens: 1,
        errors: errors(0),
        processes: ids().map(|(pid, ..)| FileProcess { pid, opens: 1, failed: 1, ..FileProcess::default() }).collect(),
    });
    window
}
