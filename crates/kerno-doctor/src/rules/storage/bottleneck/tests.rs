//! Found where storage holds somebody up, silent where it is merely busy.

use kerno_model::{
    CgroupIo, DiskDevice, DiskSummary, Fact, IoLimit, IoLimitKind, Limit, RequestKind, Safety, Scope, Severity,
    SyscallOffender, Window,
};

use crate::rules::storage::testing::*;

#[test]
fn a_saturated_device_names_the_process_that_asks_most() {
    // 4,000 reads a second of which each waits 30 ms; the victim makes few.
    let disk = DiskSummary {
        devices: vec![device(vec![op(RequestKind::Read, 40_000, 16_384, 30 * MS, 2 * MS)], 0.99, 128.0)],
        submitters: vec![
            submitter(10, "hog", 39_000, 39_000 * 16_384, 32 * MS),
            submitter(20, "postgres", 1_000, 1_000 * 16_384, 32 * MS),
        ],
        ..DiskSummary::default()
    };
    let all = observed(disk, vec![], vec![process(10, "hog", 0), process(20, "postgres", 0)]);
    let finding = the_only(&all);
    assert_eq!((finding.rule.as_str(), finding.severity), ("disk_io_bottleneck", Severity::Warning));
    assert_eq!((finding.pid(), finding.subject.device_name()), (Some(10), Some("nvme0n1")));
    assert_eq!(pids(&finding.victims), [Some(20)]);
    assert!(title(&finding).contains("hog (10) saturates nvme0n1"), "{}", title(&finding));
    assert!(has_fix(&finding, Safety::ReadOnly, "iostat -x nvme0n1 1 5"));
    assert!(has_fix(&finding, Safety::Changing, "ionice -c3 -p 10"));
}

#[test]
fn buffered_writes_are_put_down_to_who_wrote() {
    let mut kernel = submitter(3, "kworker/u8:1", 20_000, 0, 60 * MS);
    kernel.write_bytes = 1_000_000_000;
    let disk = DiskSummary {
        devices: vec![device(
            vec![
                op(RequestKind::Read, 200, 4096, 80 * MS, 2 * MS),
                op(RequestKind::Write, 20_000, 50_000, 50 * MS, 10 * MS),
            ],
            1.0,
            150.0,
        )],
        submitters: vec![kernel, submitter(20, "mysqld", 200, 819_200, 82 * MS)],
        ..DiskSummary::default()
    };
    let mut worker = process(3, "kworker/u8:1", 0);
    worker.1.kernel_thread = true;
    let all = observed(disk, vec![], vec![process(10, "tar", 900_000_000), process(20, "mysqld", 1_000_000), worker]);
    let finding = the_only(&all);
    assert_eq!(finding.pid(), Some(10), "{}", title(&finding));
    assert_eq!(finding.victims[0].pid(), Some(20));
}

#[test]
fn a_slow_device_is_itself_the_culprit() {
    let slow = |ns| DiskSummary {
        devices: vec![device(vec![op(RequestKind::Read, 200, 4096, 0, ns)], 0.95, 1.0)],
        submitters: vec![submitter(20, "postgres", 200, 819_200, ns)],
        ..DiskSummary::default()
    };
    let finding = the_only(&observed(slow(45 * MS), vec![], vec![process(20, "postgres", 0)]));
    assert_eq!(finding.subject.device_name(), Some("nvme0n1"));
    assert_eq!((finding.pid(), finding.victims[0].pid()), (None, Some(20)));
    assert!(title(&finding).contains("nvme0n1 is slow"), "{}", title(&finding));
    assert!(has_fix(&finding, Safety::ReadOnly, "smartctl -a /dev/nvme0n1"));
    assert_eq!(judge(&observed(slow(15 * MS), vec![], vec![])), []);
    // With moving parts that is normal.
    let mut disk = slow(45 * MS);
    disk.devices[0].rotational = true;
    assert_eq!(judge(&observed(disk, vec![], vec![])), []);
    // Some at once, then none for a while.
    let mut bursts = slow(MS);
    bursts.devices[0].ops[0].device_ns = histogram(&[(MS / 10, 140), (95 * MS, 60)]);
    assert_eq!(the_only(&observed(bursts, vec![], vec![])).subject.device_name(), Some("nvme0n1"));
    // Slow flushes alone are enough.
    let disk = DiskSummary {
        devices: vec![device(vec![op(RequestKind::Flush, 60, 0, 0, 150 * MS)], 0.9, 1.0)],
        ..DiskSummary::default()
    };
    assert!(title(&the_only(&observed(disk, vec![], vec![]))).contains("flushes take 15"));
}

#[test]
fn a_device_that_holds_the_queue_itself_is_not_slow_for_that() {
    // Each takes 80 ms, and sixteen do at a time: 200 a second, so one alone would take 5 ms.
    let disk = DiskSummary {
        devices: vec![device(vec![op(RequestKind::Read, 2000, 4096, 1000, 80 * MS)], 0.99, 16.0)],
        submitters: vec![
            submitter(10, "hog", 1900, 1900 * 4096, 80 * MS),
            submitter(20, "postgres", 100, 409_600, 80 * MS),
        ],
        ..DiskSummary::default()
    };
    let finding = the_only(&observed(disk, vec![], vec![process(10, "hog", 0), process(20, "postgres", 0)]));
    assert_eq!(finding.pid(), Some(10), "{}", title(&finding));
    assert_eq!(pids(&finding.victims), [Some(20)]);
}

#[test]
fn slow_background_writes_that_nobody_waits_for_are_no_warning() {
    let disk = DiskSummary {
        devices: vec![device(vec![op(RequestKind::Write, 100, 65_536, 0, 300 * MS)], 1.0, 3.0)],
        ..DiskSummary::default()
    };
    assert!(judge(&observed(disk, vec![], vec![])).iter().all(|finding| finding.severity == Severity::Info));
}

#[test]
fn a_cgroup_at_its_limit_is_the_culprit_and_not_the_device() {
    let limited = |used| DiskSummary {
        devices: vec![device(vec![op(RequestKind::Read, 300, 65_536, 0, MS / 5)], 0.01, 0.0)],
        submitters: vec![submitter(30, "backup", 300, 300 * 65_536, MS / 5)],
        throttled: vec![CgroupIo {
            path: "/system.slice/backup.service".into(),
            dev: "259:0".into(),
            limits: vec![IoLimit { kind: IoLimitKind::ReadBytes, per_second: 2097152 }],
            limit_used: used,
            tightest: IoLimitKind::ReadBytes,
            pids: vec![30],
            v2: true,
            ..CgroupIo::default()
        }],
        ..DiskSummary::default()
    };
    let finding = the_only(&observed(limited(0.98), vec![], vec![process(30, "backup", 0)]));
    assert_eq!(finding.subject.cgroup.as_deref(), Some("/system.slice/backup.service"));
    assert_eq!(finding.pid(), Some(30));
    assert!(has_fix(&finding, Safety::ReadOnly, "cat /sys/fs/cgroup/system.slice/backup.service/io.max"));
    assert!(has_fix(&finding, Safety::Changing, "echo '259:0 rbps=max'"));
    assert_eq!(judge(&observed(limited(0.7), vec![], vec![process(30, "backup", 0)])), []);
}

/// `storm` flushes a thousand times a second; the fsyncs of the other take so long.
fn storm(other: &str, other_ns: u64) -> Window {
    let mut flusher = submitter(40, "storm", 30_000, 0, MS);
    flusher.flushes = 10_000;
    let disk = DiskSummary {
        devices: vec![device(
            vec![op(RequestKind::Flush, 10_000, 0, 0, MS), op(RequestKind::Write, 20_000, 4096, 0, MS / 2)],
            0.95,
            2.0,
        )],
        submitters: vec![flusher, submitter(50, other, 40, 0, MS)],
        ..DiskSummary::default()
    };
    let syncs = vec![sync(40, "storm", 10_000, MS), sync(50, other, 60, other_ns)];
    observed(disk, syncs, vec![process(40, "storm", 1), process(50, other, 1)])
}

#[test]
fn a_flood_of_flushes_is_the_flushers_fault() {
    let finding = the_only(&storm("etcd", 40 * MS));
    assert_eq!(finding.pid(), Some(40));
    assert_eq!(pids(&finding.victims), [Some(50)]);
    assert!(title(&finding).contains("storm (40) floods nvme0n1"), "{}", title(&finding));
}

#[test]
fn a_database_that_flushes_and_harms_nobody_is_no_finding() {
    assert_eq!(judge(&storm("etcd", 2 * MS)), [], "the other's fsyncs are short");
    assert_eq!(judge(&storm("storm", 40 * MS)), [], "its own processes are one load");
}

#[test]
fn a_backup_that_reads_as_fast_as_it_can_is_no_finding() {
    // 500 MB a second in requests of 1 MiB, four at a time.
    let disk = DiskSummary {
        devices: vec![device(vec![op(RequestKind::Read, 5_000, 1 << 20, MS, 7 * MS)], 1.0, 4.0)],
        submitters: vec![submitter(60, "dd", 5_000, 5_000 << 20, 8 * MS)],
        ..DiskSummary::default()
    };
    assert_eq!(judge(&observed(disk, vec![], vec![process(60, "dd", 0)])), []);
    // Deep queues with short waits neither.
    let disk = DiskSummary {
        devices: vec![device(vec![op(RequestKind::Read, 200_000, 4096, 4 * MS, 2 * MS)], 1.0, 120.0)],
        submitters: vec![submitter(61, "fio", 200_000, 200_000 * 4096, 6 * MS)],
        ..DiskSummary::default()
    };
    assert_eq!(judge(&observed(disk, vec![], vec![process(61, "fio", 0)])), []);
}

#[test]
fn arms_that_move_take_their_time() {
    let mut other = storm("etcd", 25 * MS);
    other.disk_io.as_mut().unwrap().devices[0].rotational = true;
    assert_eq!(judge(&other), []);
    let mut spun_down = device(vec![op(RequestKind::Read, 1, 4096, 0, 7000 * MS)], 0.7, 1.0);
    spun_down.rotational = true;
    let disk = DiskSummary { devices: vec![spun_down], ..DiskSummary::default() };
    assert_eq!(judge(&observed(disk, vec![], vec![])), []);
}

#[test]
fn who_has_ended_is_not_to_be_stopped() {
    let mut ended = storm("etcd", 40 * MS);
    assert!(has_fix(&the_only(&ended), Safety::Changing, "kill -STOP 40"));
    ended.processes.get_mut(&40).unwrap().alive = false;
    let finding = the_only(&ended);
    assert_eq!(finding.pid(), Some(40));
    assert!(!has_fix(&finding, Safety::Changing, "40") && !has_fix(&finding, Safety::ReadOnly, "/proc/40/"));
}

/// One window for each of the causes that are told apart.
fn one_of_each() -> [(&'static str, Window); 4] {
    let read = |count, queue_ns, device_ns| vec![op(RequestKind::Read, count, 16_384, queue_ns, device_ns)];
    let slow = DiskSummary {
        devices: vec![DiskDevice { backing: vec!["sda".into()], ..device(read(200, 0, 45 * MS), 0.95, 1.0) }],
        submitters: vec![submitter(20, "postgres", 200, 819_200, 45 * MS)],
        ..DiskSummary::default()
    };
    let saturated = DiskSummary {
        devices: vec![device(read(40_000, 30 * MS, 2 * MS), 0.99, 128.0)],
        submitters: vec![
            submitter(10, "hog", 39_000, 39_000 * 16_384, 32 * MS),
            submitter(20, "postgres", 1_000, 1_000 * 16_384, 32 * MS),
        ],
        ..DiskSummary::default()
    };
    let limited = DiskSummary {
        devices: vec![device(read(300, 0, MS / 5), 0.01, 0.0)],
        throttled: vec![CgroupIo {
            path: "/system.slice/backup.service".into(),
            dev: "259:0".into(),
            limits: vec![
                IoLimit { kind: IoLimitKind::ReadBytes, per_second: 2097152 },
                IoLimit { kind: IoLimitKind::WriteRequests, per_second: 100 },
            ],
            limit_used: 0.98,
            tightest: IoLimitKind::ReadBytes,
            some_stalled: Some(0.5),
            pids: vec![30],
            ..CgroupIo::default()
        }],
        ..DiskSummary::default()
    };
    let processes = || vec![process(10, "hog", 0), process(20, "postgres", 0), process(30, "backup", 0)];
    [
        ("slow_device", observed(slow, vec![], processes())),
        ("saturated", observed(saturated, vec![], processes())),
        ("own_limit", observed(limited, vec![], processes())),
        ("flush_storm", storm("etcd", 40 * MS)),
    ]
}

#[test]
fn each_cause_has_what_others_are_tied_to_it_by() {
    let operations = [RequestKind::Read, RequestKind::Read, RequestKind::Read, RequestKind::Flush];
    for ((variant, window), operation) in one_of_each().into_iter().zip(operations) {
        let finding = the_only(&window);
        assert_eq!((finding.variant.as_ref(), finding.operation()), (variant, Some(operation)));
        let device = finding.subject.device.as_ref().unwrap();
        assert_eq!((device.dev.as_str(), device.name.as_str()), ("259:0", "nvme0n1"));
        let limited = variant == "own_limit";
        assert_eq!(finding.is_at(Limit::CgroupIo), limited);
        assert_eq!(finding.has(&Fact::Scope(Scope::Cgroup("/system.slice/backup.service".into()))), limited);
    }
    // A call that is known to be slow is named.
    let mut window = storm("etcd", MS);
    window.syscall_latency.as_mut().unwrap().offenders = vec![SyscallOffender {
        pid: 51,
        comm: "mysqld".into(),
        name: "fdatasync".into(),
        slow: 40,
        slow_total_ns: 4000 * MS,
        max_ns: 200 * MS,
        ..SyscallOffender::default()
    }];
    let finding = the_only(&window);
    assert_eq!(finding.calls().collect::<Vec<_>>(), ["fdatasync"]);
    assert!(title(&finding).ends_with("fdatasync calls of mysqld (51) take 100 ms"), "{}", title(&finding));
}

#[test]
fn words_are_made_of_the_finding() {
    let told: Vec<_> = one_of_each().iter().map(|(_, window)| crate::words(&the_only(window))).collect();
    let expected = [
        [
            "nvme0n1 is slow: reads take 46.1 ms each at only 21.1 requests a second",
            "The device itself takes long for each request. While busy it serves 21.1 requests and 337 KiB a second, which is \
             little for its kind: the load is not the reason. It is made of sda.",
            "On average, requests of postgres (20) take 45 ms.",
        ],
        [
            "hog (10) saturates nvme0n1: 99 % busy, queue depth 128, reads take 32.4 ms",
            "hog (10) causes 97.5 % of the requests and 97.5 % of the bytes. The device serves 4,040 requests and 63.1 MiB \
             a second and can do no more; all other requests wait.",
            "On average, requests of postgres (20) take 32 ms.",
        ],
        [
            "cgroup /system.slice/backup.service (backup 30) is held back by its own I/O limit: reads of nvme0n1 at 2 MiB/s",
            "The cgroup is limited to rbps=2097152 wiops=100 on nvme0n1. It uses 98 % of its rbps limit. Requests wait \
             before they reach the device, so the device's own latency does not show it.",
            "Processes in the cgroup wait for its limit; others do not.",
        ],
        [
            "storm (40) floods nvme0n1 with flushes: 1,000 fsync calls a second, fsync calls of etcd (50) take 40 ms",
            "storm (40) makes 99.4 % of all fsync calls. Each one makes the file system write its journal and the device write out \
             its cache, and the fsync calls of others wait for that.",
            "On average, fsync calls of etcd (50) take 40 ms.",
        ],
    ];
    for (words, expected) in told.iter().zip(expected) {
        assert_eq!([&words.title, &words.cause, &words.impact], expected);
    }
    for (_, window) in one_of_each() {
        words_last(&the_only(&window));
    }
}
