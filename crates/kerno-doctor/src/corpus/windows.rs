//! Windows made by hand, each with many things wrong at once: what the lab cannot make side by side. Processes have misleading names.

use kerno_model::{
    BlockedTask, CgroupMemory, CgroupThrottle, CpuGroup, CpuStat, DiskDevice, DiskFailure, DiskOpStat, DiskSubmitter,
    DiskSummary, ErrnoCount, FdProcess, FdSummary, FileProcess, FileSummary, Filesystem, FilesystemWriter, Histogram,
    OomKill, OomSummary, Process, ProcessMemory, SchedSummary, SchedWaiter, Series, Span, SyscallOffender,
    SyscallSummary, TaskUse, TcpFailure, TcpFailureReason, TcpListener, TcpNamespace, TcpPeer, TcpSummary, Window,
    errno, fill,
};

const MS: u64 = 1_000_000;
const SECONDS: u32 = 10;

/// Each with its name and how many findings others explain in it, at least.
pub(super) fn all() -> Vec<(&'static str, Window, usize)> {
    vec![
        ("slow storage", slow_storage(), 3),
        ("stacked devices", stacked(), 4),
        ("failing storage", failing_storage(), 4),
        ("a full file system", full(), 2),
        ("no file descriptors", descriptors(), 4),
        ("memory", memory(), 3),
        ("CPUs", cpus(), 2),
        ("the network", network(), 6),
        ("everything", everything(), 20),
    ]
}

fn series(value: impl Fn(f64) -> f64) -> Series {
    (0..=SECONDS * 2).map(|half| f64::from(half) / 2.0).map(|second| (second, value(second))).collect()
}

fn histogram(value: u64, count: u64) -> Histogram {
    let mut histogram = Histogram::new();
    histogram.add_to_bucket(Histogram::bucket(value), count);
    histogram
}

fn errors(errno: i32, count: u64) -> Vec<ErrnoCount> {
    vec![ErrnoCount::new(errno, count)]
}

fn window(processes: &[(u32, &str)]) -> Window {
    let process = |(pid, comm): &(u32, &str)| {
        let (pid, comm) = (*pid, (*comm).to_owned());
        (pid, Process { pid, comm, alive: true, started_ns: u64::from(pid) * 7, ..Process::default() })
    };
    fill!(Window {
        span: fill!(Span { started_ns: 1_000_000_000, seconds: f64::from(SECONDS) }),
        syscall_latency: Some(SyscallSummary::default()),
        tcp_monitor: Some(TcpSummary::default()),
        oom_track: Some(OomSummary {
            total_bytes: 8 << 30,
            available_bytes: series(|_| f64::from(1 << 30) * 4.0),
            ..OomSummary::default()
        }),
        disk_io: Some(DiskSummary::default()),
        sched_delay: Some(SchedSummary::default()),
        fd_track: Some(FdSummary { files_max: 100_000, ..FdSummary::default() }),
        file_audit: Some(FileSummary::default()),
        processes: processes.iter().map(process).collect(),
    })
}

fn slow_call(window: &mut Window, pid: u32, name: &str) {
    let offender = SyscallOffender {
        pid,
        name: name.into(),
        slow: 50,
        slow_ns: 10 * MS,
        slow_total_ns: 5_000 * MS,
        max_ns: 200 * MS,
        first_ns: 3_000_000_000,
        ..SyscallOffender::default()
    };
    window.syscall_latency.as_mut().unwrap().offenders.push(offender);
}

fn failed_call(window: &mut Window, pid: u32, name: &str, errno: i32, count: u64) {
    let errors = errors(errno, count);
    let offender = SyscallOffender { pid, name: name.into(), errors, ..SyscallOffender::default() };
    window.syscall_latency.as_mut().unwrap().offenders.push(offender);
}

fn failed_opens(window: &mut Window, pid: u32, errno: i32) {
    let opener = FileProcess {
        pid,
        opens: 20_000,
        failed: 20_000,
        errors: errors(errno, 20_000),
        last_failed_path: "/etc/write fsync ENOSPC sda1".into(),
        same_path: 20_000,
        repeated: 20_000,
        first_failed_ns: 1_500_000_000,
        ..FileProcess::default()
    };
    window.file_audit.as_mut().unwrap().processes.push(opener);
}

fn blocked(window: &mut Window, pid: u32, place: &str) {
    let stack = vec![place.to_owned()];
    let task = BlockedTask { pid, tid: pid, seconds: 9.0, at_end: true, stack, ..BlockedTask::default() };
    window.sched_delay.as_mut().unwrap().blocked.push(task);
}

fn busy_device(dev: &str, name: &str) -> DiskDevice {
    let reads = DiskOpStat {
        op: kerno_model::RequestKind::Read,
        count: 40_000,
        bytes: 40_000 * 16_384,
        queue_ns: histogram(30 * MS, 40_000),
        device_ns: histogram(2 * MS, 40_000),
        ..DiskOpStat::default()
    };
    DiskDevice {
        dev: dev.into(),
        name: name.into(),
        ops: vec![reads],
        in_flight: series(|_| 128.0),
        utilisation: 0.99,
        ..DiskDevice::default()
    }
}

fn submits(window: &mut Window, pid: u32, dev: &str, requests: u64) {
    let submitter = DiskSubmitter {
        pid,
        dev: dev.into(),
        requests,
        read_bytes: requests * 16_384,
        total_ns: requests * 32 * MS,
        ..DiskSubmitter::default()
    };
    window.disk_io.as_mut().unwrap().submitters.push(submitter);
}

fn slow_storage() -> Window {
    let mut window = window(&[(10, "reader"), (20, "log-writer"), (30, "sda1 (20)"), (40, "disk full")]);
    window.disk_io.as_mut().unwrap().devices.push(busy_device("8:0", "sda"));
    submits(&mut window, 10, "8:0", 39_000);
    submits(&mut window, 20, "8:0", 1_000);
    slow_call(&mut window, 20, "fsync");
    slow_call(&mut window, 40, "recvmsg");
    blocked(&mut window, 30, "io_schedule");
    window.oom_track.as_mut().unwrap().some_stalled = Some(0.4);
    window
}

fn stacked() -> Window {
    let mut window = slow_storage();
    let disk = window.disk_io.as_mut().unwrap();
    disk.devices[0].ops[0].errors = errors(errno::EIO, 7);
    disk.devices.push(DiskDevice { backing: vec!["sda".into()], ..busy_device("253:0", "dm-0") });
    submits(&mut window, 40, "253:0", 20_000);
    slow_call(&mut window, 40, "read");
    window
}

fn failing_storage() -> Window {
    let mut window = window(&[(50, "EMFILE"), (51, "out of memory")]);
    let mut device = busy_device("8:16", "sdb");
    device.ops[0].errors = errors(errno::EIO, 7);
    let disk = window.disk_io.as_mut().unwrap();
    disk.devices.push(device);
    disk.failures.push(DiskFailure {
        timestamp_ns: 3_000_000_000,
        dev: "8:16".into(),
        op: kerno_model::RequestKind::Read,
        errno: errno::EIO,
        error: "EIO".into(),
        pid: 50,
        count: 7,
        ..DiskFailure::default()
    });
    submits(&mut window, 50, "8:16", 39_000);
    failed_call(&mut window, 50, "read", errno::EIO, 90);
    slow_call(&mut window, 51, "pread64");
    failed_opens(&mut window, 51, errno::EIO);
    window
}

fn full() -> Window {
    let mut window = window(&[(80, "127.0.0.1:5432"), (81, "loses segments")]);
    let writer =
        FilesystemWriter { pid: 80, files: 1, grown_bytes: 500 << 20, path: "/var/x".into(), ..Default::default() };
    window.processes.get_mut(&80).unwrap().used.write_bytes = 500 << 20;
    window.disk_io.as_mut().unwrap().filesystems.push(Filesystem {
        mount: "/var".into(),
        source: "/dev/sda2".into(),
        kind: "ext4".into(),
        dev: "8:2".into(),
        total_bytes: 10_000_000_000,
        available_bytes: series(|second| 6e8 - second * 6e7),
        total_inodes: 1000,
        free_inodes: series(|_| 900.0),
        writers: vec![writer],
        ..Filesystem::default()
    });
    failed_call(&mut window, 80, "write", errno::ENOSPC, 600);
    failed_opens(&mut window, 81, errno::ENOSPC);
    window
}

fn descriptors() -> Window {
    let mut window = window(&[(60, "fsync"), (61, "(60)"), (62, "ended")]);
    let leaking = |pid, kept: f64| FdProcess {
        pid,
        open: series(|second| (kept + 60.0 * second).min(1024.0).floor()),
        soft_limit: 1024,
        hard_limit: 4096,
        ..FdProcess::default()
    };
    let part = window.fd_track.as_mut().unwrap();
    part.processes = vec![leaking(60, 424.0), leaking(62, 100.0)];
    window.processes.get_mut(&62).unwrap().alive = false;
    failed_call(&mut window, 60, "accept4", errno::EMFILE, 300);
    failed_call(&mut window, 60, "openat", errno::EMFILE, 300);
    failed_call(&mut window, 61, "openat", errno::EACCES, 9_000);
    failed_opens(&mut window, 61, errno::EACCES);
    let tcp = window.tcp_monitor.as_mut().unwrap();
    tcp.namespaces = vec![overflown()];
    tcp.listeners = vec![listener(60)];
    window
}

fn overflown() -> TcpNamespace {
    TcpNamespace { inode: 1, pid: 1, initial: true, listen_overflows: 900, ..TcpNamespace::default() }
}

fn listener(pid: u32) -> TcpListener {
    TcpListener {
        local: [0, 0, 0, 0].into(),
        port: 80,
        net_namespace: 1,
        pid,
        comm: String::new(),
        drops: 900,
        queued: 129,
        backlog: 128,
        ..TcpListener::default()
    }
}

fn memory() -> Window {
    let mut window = window(&[(70, "grows"), (71, "waits for sda"), (72, "asleep")]);
    let waits = TaskUse { reclaim_delay_ns: 4_000 * MS, major_faults: 900, ..TaskUse::default() };
    for pid in [71, 72] {
        let process = window.processes.get_mut(&pid).unwrap();
        (process.used, process.cgroup) = (waits, Some("/app".into()));
    }
    let cgroup = |path: &str, oom_kills| CgroupMemory {
        path: path.into(),
        directory: format!("/sys/fs/cgroup{path}"),
        v2: true,
        limit_bytes: 256 << 20,
        used_bytes: series(|second| (100.0 + 10.0 * second) * 1_048_576.0),
        limit_hits: 9,
        oom_kills,
        some_stalled: Some(0.5),
        ..CgroupMemory::default()
    };
    let kill = OomKill {
        timestamp_ns: 2_500_000_000,
        pid: 73,
        cgroup: Some("/app".into()),
        scope: kerno_model::KillScope::Cgroup,
        rss_bytes: 200 << 20,
        ..OomKill::default()
    };
    let part = window.oom_track.as_mut().unwrap();
    part.cgroups = vec![cgroup("/app", 1), cgroup("/batch", 0)];
    (part.kills, part.kills_total) = (vec![kill], 1);
    (part.some_stalled, part.all_stalled) = (Some(0.4), Some(0.1));
    part.processes = vec![ProcessMemory {
        pid: 70,
        cgroup: Some("/batch".into()),
        anon_bytes: series(|second| (50.0 + 10.0 * second) * 1_048_576.0),
        alive: true,
        ..ProcessMemory::default()
    }];
    slow_call(&mut window, 71, "read");
    blocked(&mut window, 72, "do_try_to_free_pages");
    window
}

fn cpus() -> Window {
    let mut window = window(&[(90, "hog"), (91, "steals the CPU"), (92, "fsync on sda")]);
    let waits = TaskUse { wait_ns: 8_000 * MS, run_ns: 100 * MS, ..TaskUse::default() };
    for pid in [91, 92] {
        let process = window.processes.get_mut(&pid).unwrap();
        (process.used, process.cgroup) = (waits, Some("/web".into()));
    }
    let waiter = |pid| SchedWaiter {
        pid,
        slow: 100,
        slow_ns: 5 * MS,
        slow_total_ns: 7_000 * MS,
        max_ns: 600 * MS,
        first_ns: 2_000_000_000,
        ..SchedWaiter::default()
    };
    let group = |comm: &str, pid, run_ms: u64, wait_ms: u64| CpuGroup {
        comm: comm.into(),
        processes: 1,
        threads: 1,
        run_ns: run_ms * MS,
        wait_ns: wait_ms * MS,
        pids: vec![pid],
        ..CpuGroup::default()
    };
    *window.sched_delay.as_mut().unwrap() = SchedSummary {
        cpus: (0..2).map(|cpu| CpuStat { cpu, busy: 1.0, steal: 0.3, ..CpuStat::default() }).collect(),
        preempted_ns: histogram(20 * MS, 5_000),
        waiters: vec![waiter(91), waiter(92)],
        groups: vec![group("hog", 90, 19_000, 150_000)],
        runnable: series(|_| 16.0),
        some_stalled: Some(0.99),
        throttled: vec![CgroupThrottle {
            path: "/web".into(),
            v2: true,
            file: "/sys/fs/cgroup/web/cpu.max".into(),
            quota_us: 50_000,
            period_us: 100_000,
            periods: 100,
            throttled_periods: 90,
            throttled_ns: 8_000 * MS,
            used_ns: 5_000 * MS,
            pids: vec![92],
        }],
        ..SchedSummary::default()
    };
    let tcp = window.tcp_monitor.as_mut().unwrap();
    (tcp.namespaces, tcp.listeners) = (vec![overflown()], vec![listener(92)]);
    window
}

fn network() -> Window {
    let mut window = window(&[(95, "client"), (96, "0 B left"), (97, "leaks sockets")]);
    let failure = |reason, errno, remote: [u8; 4], pid| TcpFailure {
        reason,
        error: ErrnoCount::new(errno, 200),
        remote: remote.into(),
        port: 5432,
        pid,
        comm: String::new(),
        net_namespace: 1,
        count: 200,
        waiting: 0,
        first_ns: 4_000_000_000,
    };
    let tcp = window.tcp_monitor.as_mut().unwrap();
    tcp.namespaces = vec![overflown()];
    tcp.failures = vec![
        failure(TcpFailureReason::TimedOut, errno::ETIMEDOUT, [10, 0, 0, 2], 95),
        failure(TcpFailureReason::Refused, errno::ECONNREFUSED, [10, 0, 0, 3], 96),
        TcpFailure { port: 80, ..failure(TcpFailureReason::TimedOut, errno::ETIMEDOUT, [127, 0, 0, 1], 97) },
    ];
    tcp.listeners = vec![listener(97)];
    tcp.peers = vec![TcpPeer {
        remote: [10, 0, 0, 2].into(),
        port: 443,
        outgoing: true,
        net_namespace: 1,
        connections: 3,
        open: Some(3),
        sent_segments: 10_000,
        retransmitted_segments: 1_000,
        syn_retransmits: 0,
        spurious_retransmits: 0,
        srtt_us: Some(320_000),
        min_rtt_us: Some(2_000),
        owners: Vec::new(),
        first_retransmit_ns: 3_000_000_000,
    }];
    failed_call(&mut window, 96, "connect", errno::ECONNREFUSED, 9_000);
    slow_call(&mut window, 95, "connect");
    slow_call(&mut window, 97, "connect");
    window
}

/// All of the above on one machine.
fn everything() -> Window {
    let parts = [slow_storage(), failing_storage(), full(), descriptors(), memory(), cpus(), network()];
    let mut whole = window(&[]);
    for part in parts {
        whole.processes.extend(part.processes);
        let (into, from) = (whole.syscall_latency.as_mut().unwrap(), part.syscall_latency.unwrap());
        into.offenders.extend(from.offenders);
        let (into, from) = (whole.file_audit.as_mut().unwrap(), part.file_audit.unwrap());
        into.processes.extend(from.processes);
        let (into, from) = (whole.fd_track.as_mut().unwrap(), part.fd_track.unwrap());
        into.processes.extend(from.processes);
        let (into, from) = (whole.disk_io.as_mut().unwrap(), part.disk_io.unwrap());
        into.devices.extend(from.devices);
        into.submitters.extend(from.submitters);
        into.failures.extend(from.failures);
        into.filesystems.extend(from.filesystems);
        let (into, from) = (whole.tcp_monitor.as_mut().unwrap(), part.tcp_monitor.unwrap());
        into.failures.extend(from.failures);
        into.peers.extend(from.peers);
        into.listeners.extend(from.listeners);
        into.namespaces.extend(from.namespaces);
        into.namespaces.truncate(1);
        if part.oom_track.as_ref().is_some_and(|memory| memory.kills_total > 0) {
            whole.oom_track = part.oom_track;
        }
        let (into, from) = (whole.sched_delay.as_mut().unwrap(), part.sched_delay.unwrap());
        let blocked = std::mem::take(&mut into.blocked);
        if !from.cpus.is_empty() {
            *into = from;
            into.blocked = blocked;
        } else {
            into.blocked = blocked.into_iter().chain(from.blocked).collect();
        }
    }
    whole
}
