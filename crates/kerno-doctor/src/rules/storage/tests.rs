//! The rules of storage on signals made by hand: found where it is wrong, silent where it is merely busy.

use crate::{Effect, Finding, Severity, Thresholds};
use kerno_model::errno;
use kerno_model::{
    CgroupIo, DiskDevice, DiskFailure, DiskOpStat, DiskSubmitter, DiskSummary, FileProcess, FileSummary, Filesystem,
    FilesystemWriter, SyncStat, SyscallOffender, SyscallSummary,
};
use kerno_model::{ErrnoCount, Histogram, Process, Series, Span, TaskUse, Window};
use kerno_model::{IoLimit, IoLimitKind, RequestKind};

const MS: u64 = 1_000_000;
const SECONDS: f64 = 10.0;

fn histogram(values: &[(u64, u64)]) -> Histogram {
    let mut histogram = Histogram::new();
    values.iter().for_each(|(value, count)| (0..*count).for_each(|_| histogram.record(*value)));
    histogram
}

/// `count` requests of `bytes`, each so long in the queue and at the device.
fn op(name: &str, count: u64, bytes: u64, queue_ns: u64, device_ns: u64) -> DiskOpStat {
    DiskOpStat {
        op: RequestKind::from_name(name),
        count,
        bytes: count * bytes,
        errors: Vec::new(),
        queue_ns: histogram(&[(queue_ns, count)]),
        device_ns: histogram(&[(device_ns, count)]),
    }
}

fn steady(value: f64) -> Series {
    (0..=20).map(|i| (f64::from(i) * SECONDS / 20.0, value)).collect()
}

fn device(ops: Vec<DiskOpStat>, utilisation: f64, in_flight: f64) -> DiskDevice {
    DiskDevice {
        dev: "259:0".into(),
        name: "nvme0n1".into(),
        ops,
        utilisation,
        in_flight: steady(in_flight),
        mounts: vec!["/data".into()],
        ..DiskDevice::default()
    }
}

fn submitter(pid: u32, comm: &str, requests: u64, read_bytes: u64, mean_ns: u64) -> DiskSubmitter {
    let total_ns = requests * mean_ns;
    DiskSubmitter {
        pid,
        comm: comm.into(),
        dev: "259:0".into(),
        requests,
        read_bytes,
        total_ns,
        ..DiskSubmitter::default()
    }
}

fn process(pid: u32, comm: &str, write_bytes: u64) -> (u32, Process) {
    let used = TaskUse { write_bytes, ..TaskUse::default() };
    (pid, Process { pid, comm: comm.into(), used, alive: true, ..Process::default() })
}

fn sync(pid: u32, comm: &str, calls: u64, mean_ns: u64) -> SyncStat {
    SyncStat { pid, comm: comm.into(), calls, total_ns: calls * mean_ns, max_ns: mean_ns * 2, first_ns: 1 }
}

fn observed(disk: DiskSummary, syncs: Vec<SyncStat>, processes: Vec<(u32, Process)>) -> Window {
    Window {
        span: Span { seconds: SECONDS, ..Span::default() },
        disk_io: Some(disk),
        syscall_latency: Some(SyscallSummary { syncs, ..SyscallSummary::default() }),
        processes: processes.into_iter().collect(),
        ..Window::default()
    }
}

fn judge(window: &Window) -> Vec<Finding> {
    crate::judge(window, &Thresholds::default()).into_iter().filter(|finding| finding.signal == "disk_io").collect()
}

fn the_only(window: &Window) -> Finding {
    let mut findings = judge(window);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    findings.remove(0)
}

fn has_fix(finding: &Finding, effect: Effect, command: &str) -> bool {
    finding.fixes.iter().any(|fix| fix.effect == effect && fix.command.contains(command))
}

#[test]
fn a_saturated_device_names_the_process_that_asks_most() {
    // 4,000 reads a second of which each waits 30 ms; the victim makes few.
    let disk = DiskSummary {
        devices: vec![device(vec![op("read", 40_000, 16_384, 30 * MS, 2 * MS)], 0.99, 128.0)],
        submitters: vec![
            submitter(10, "hog", 39_000, 39_000 * 16_384, 32 * MS),
            submitter(20, "postgres", 1_000, 1_000 * 16_384, 32 * MS),
        ],
        ..DiskSummary::default()
    };
    let all = observed(disk, vec![], vec![process(10, "hog", 0), process(20, "postgres", 0)]);
    let finding = the_only(&all);
    assert_eq!((finding.id.as_str(), finding.severity), ("disk_io_bottleneck", Severity::Warning));
    assert_eq!((finding.culprit.pid, finding.culprit.device.as_deref()), (Some(10), Some("nvme0n1")));
    assert_eq!(finding.victims.iter().map(|victim| victim.pid).collect::<Vec<_>>(), [Some(20)]);
    assert!(finding.title.contains("hog (10) saturates nvme0n1"), "{}", finding.title);
    assert!(has_fix(&finding, Effect::ReadOnly, "iostat -x nvme0n1 1 5"));
    assert!(has_fix(&finding, Effect::Changing, "ionice -c3 -p 10"));
}

#[test]
fn buffered_writes_are_put_down_to_who_wrote() {
    let mut kernel = submitter(3, "kworker/u8:1", 20_000, 0, 60 * MS);
    kernel.write_bytes = 1_000_000_000;
    let disk = DiskSummary {
        devices: vec![device(
            vec![op("read", 200, 4096, 80 * MS, 2 * MS), op("write", 20_000, 50_000, 50 * MS, 10 * MS)],
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
    assert_eq!(finding.culprit.pid, Some(10), "{}", finding.title);
    assert_eq!(finding.victims[0].pid, Some(20));
}

#[test]
fn a_slow_device_is_itself_the_culprit() {
    let slow = |ns| DiskSummary {
        devices: vec![device(vec![op("read", 200, 4096, 0, ns)], 0.95, 1.0)],
        submitters: vec![submitter(20, "postgres", 200, 819_200, ns)],
        ..DiskSummary::default()
    };
    let finding = the_only(&observed(slow(45 * MS), vec![], vec![process(20, "postgres", 0)]));
    assert_eq!(finding.culprit.device.as_deref(), Some("nvme0n1"));
    assert_eq!((finding.culprit.pid, finding.victims[0].pid), (None, Some(20)));
    assert!(finding.title.contains("nvme0n1 is slow"), "{}", finding.title);
    assert!(has_fix(&finding, Effect::ReadOnly, "smartctl -a /dev/nvme0n1"));
    assert_eq!(judge(&observed(slow(15 * MS), vec![], vec![])), []);
    // With moving parts that is normal.
    let mut disk = slow(45 * MS);
    disk.devices[0].rotational = true;
    assert_eq!(judge(&observed(disk, vec![], vec![])), []);
    // Some at once, then none for a while.
    let mut bursts = slow(MS);
    bursts.devices[0].ops[0].device_ns = histogram(&[(MS / 10, 140), (95 * MS, 60)]);
    assert_eq!(the_only(&observed(bursts, vec![], vec![])).culprit.device.as_deref(), Some("nvme0n1"));
    // Slow flushes alone are enough.
    let disk = DiskSummary {
        devices: vec![device(vec![op("flush", 60, 0, 0, 150 * MS)], 0.9, 1.0)],
        ..DiskSummary::default()
    };
    assert!(the_only(&observed(disk, vec![], vec![])).title.contains("flushes take 15"));
}

#[test]
fn a_device_that_holds_the_queue_itself_is_not_slow_for_that() {
    // Each takes 80 ms, and sixteen do at a time: 200 a second, so one alone would take 5 ms.
    let disk = DiskSummary {
        devices: vec![device(vec![op("read", 2000, 4096, 1000, 80 * MS)], 0.99, 16.0)],
        submitters: vec![
            submitter(10, "hog", 1900, 1900 * 4096, 80 * MS),
            submitter(20, "postgres", 100, 409_600, 80 * MS),
        ],
        ..DiskSummary::default()
    };
    let finding = the_only(&observed(disk, vec![], vec![process(10, "hog", 0), process(20, "postgres", 0)]));
    assert_eq!(finding.culprit.pid, Some(10), "{}", finding.title);
    assert_eq!(finding.victims.iter().map(|victim| victim.pid).collect::<Vec<_>>(), [Some(20)]);
}

#[test]
fn slow_background_writes_that_nobody_waits_for_are_no_warning() {
    let disk = DiskSummary {
        devices: vec![device(vec![op("write", 100, 65_536, 0, 300 * MS)], 1.0, 3.0)],
        ..DiskSummary::default()
    };
    assert!(judge(&observed(disk, vec![], vec![])).iter().all(|finding| finding.severity == Severity::Info));
}

#[test]
fn a_cgroup_at_its_limit_is_the_culprit_and_not_the_device() {
    let limited = |used| DiskSummary {
        devices: vec![device(vec![op("read", 300, 65_536, 0, MS / 5)], 0.01, 0.0)],
        submitters: vec![submitter(30, "backup", 300, 300 * 65_536, MS / 5)],
        throttled: vec![CgroupIo {
            path: "/system.slice/backup.service".into(),
            dev: "259:0".into(),
            limits: vec![IoLimit { kind: IoLimitKind::ReadBytes, per_second: 2_097_152 }],
            limit_used: used,
            tightest: IoLimitKind::ReadBytes,
            pids: vec![30],
            v2: true,
            ..CgroupIo::default()
        }],
        ..DiskSummary::default()
    };
    let finding = the_only(&observed(limited(0.98), vec![], vec![process(30, "backup", 0)]));
    assert_eq!(finding.culprit.cgroup.as_deref(), Some("/system.slice/backup.service"));
    assert_eq!(finding.culprit.pid, Some(30));
    assert!(has_fix(&finding, Effect::ReadOnly, "cat /sys/fs/cgroup/system.slice/backup.service/io.max"));
    assert!(has_fix(&finding, Effect::Changing, "echo '259:0 rbps=max'"));
    assert_eq!(judge(&observed(limited(0.7), vec![], vec![process(30, "backup", 0)])), []);
}

/// `storm` flushes a thousand times a second; the fsyncs of the other take so long.
fn storm(other: &str, other_ns: u64) -> Window {
    let mut flusher = submitter(40, "storm", 30_000, 0, MS);
    flusher.flushes = 10_000;
    let disk = DiskSummary {
        devices: vec![device(vec![op("flush", 10_000, 0, 0, MS), op("write", 20_000, 4096, 0, MS / 2)], 0.95, 2.0)],
        submitters: vec![flusher, submitter(50, other, 40, 0, MS)],
        ..DiskSummary::default()
    };
    let syncs = vec![sync(40, "storm", 10_000, MS), sync(50, other, 60, other_ns)];
    observed(disk, syncs, vec![process(40, "storm", 1), process(50, other, 1)])
}

#[test]
fn a_flood_of_flushes_is_the_flushers_fault() {
    let finding = the_only(&storm("etcd", 40 * MS));
    assert_eq!(finding.culprit.pid, Some(40));
    assert_eq!(finding.victims.iter().map(|victim| victim.pid).collect::<Vec<_>>(), [Some(50)]);
    assert!(finding.title.contains("storm (40) floods nvme0n1"), "{}", finding.title);
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
        devices: vec![device(vec![op("read", 5_000, 1 << 20, MS, 7 * MS)], 1.0, 4.0)],
        submitters: vec![submitter(60, "dd", 5_000, 5_000 << 20, 8 * MS)],
        ..DiskSummary::default()
    };
    assert_eq!(judge(&observed(disk, vec![], vec![process(60, "dd", 0)])), []);
    // Deep queues with short waits neither.
    let disk = DiskSummary {
        devices: vec![device(vec![op("read", 200_000, 4096, 4 * MS, 2 * MS)], 1.0, 120.0)],
        submitters: vec![submitter(61, "fio", 200_000, 200_000 * 4096, 6 * MS)],
        ..DiskSummary::default()
    };
    assert_eq!(judge(&observed(disk, vec![], vec![process(61, "fio", 0)])), []);
}

#[test]
fn failed_requests_are_found_and_harmless_ones_are_not() {
    let failing = |name: &str, errno| {
        let mut stat = op(name, 100, 4096, 0, MS);
        stat.errors = vec![ErrnoCount::new(errno, 7)];
        let failure = DiskFailure {
            dev: "259:0".into(),
            op: RequestKind::from_name(name),
            errno,
            error: stat.errors[0].name.clone(),
            pid: 70,
            comm: "cp".into(),
            timestamp_ns: 3_000_000_000,
            count: 7,
            ..DiskFailure::default()
        };
        DiskSummary { devices: vec![device(vec![stat], 0.1, 0.0)], failures: vec![failure], ..DiskSummary::default() }
    };
    let finding = the_only(&observed(failing("read", errno::EIO), vec![], vec![]));
    assert_eq!((finding.id.as_str(), finding.severity), ("disk_errors", Severity::Critical));
    assert_eq!((finding.culprit.device.as_deref(), finding.since), (Some("nvme0n1"), Some(3.0)));
    assert_eq!((finding.victims[0].pid, finding.exemplars.len()), (Some(70), 1));
    assert!(has_fix(&finding, Effect::ReadOnly, "dmesg | grep nvme0n1"));
    for (name, errno) in
        [("discard", errno::EOPNOTSUPP), ("discard", errno::EREMOTEIO), ("other", errno::EIO), ("read", errno::EAGAIN)]
    {
        assert_eq!(judge(&observed(failing(name, errno), vec![], vec![])), [], "{name} {errno}");
    }
}

#[test]
fn what_stands_on_a_failing_device_is_not_told_of_twice() {
    let mut stat = op("write", 100, 4096, 0, MS);
    stat.errors = vec![ErrnoCount::new(errno::EIO, 1)];
    let below = device(vec![stat.clone()], 0.1, 0.0);
    let above =
        DiskDevice { dev: "253:0".into(), name: "dm-0".into(), backing: vec!["nvme0n1".into()], ..below.clone() };
    let disk = DiskSummary { devices: vec![above, below], ..DiskSummary::default() };
    assert_eq!(the_only(&observed(disk, vec![], vec![])).culprit.device.as_deref(), Some("nvme0n1"));
}

/// A file system of 10 GB with so much left at each of the samples.
fn filesystem(left: impl Fn(f64) -> f64) -> Filesystem {
    Filesystem {
        mount: "/data".into(),
        source: "/dev/nvme0n1p1".into(),
        kind: "ext4".into(),
        dev: "259:1".into(),
        total_bytes: 10_000_000_000,
        available_bytes: (0..=20).map(|i| f64::from(i) * SECONDS / 20.0).map(|t| (t, left(t))).collect(),
        total_inodes: 1000,
        free_inodes: steady(900.0),
        ..Filesystem::default()
    }
}

fn with(filesystem: Filesystem) -> Window {
    let disk = DiskSummary { filesystems: vec![filesystem], ..DiskSummary::default() };
    observed(disk, vec![], vec![process(80, "writer", 200_000_000), process(81, "cat", 5000)])
}

#[test]
fn a_full_file_system_is_found_by_bytes_and_by_inodes() {
    assert_eq!(judge(&with(filesystem(|_| 6e8))), [], "94 %");
    let finding = the_only(&with(filesystem(|_| 4e8)));
    assert_eq!((finding.id.as_str(), finding.severity), ("disk_full", Severity::Warning));
    assert_eq!((finding.culprit.mount.as_deref(), finding.culprit.pid), (Some("/data"), None), "nobody writes");
    assert!(finding.eta.is_none());
    assert!(has_fix(&finding, Effect::ReadOnly, "fuser -vm /data"));
    assert!(has_fix(&finding, Effect::ReadOnly, "du -xh /data | sort -h | tail"));
    assert_eq!(the_only(&with(filesystem(|_| 5e7))).severity, Severity::Critical);
    let mut inodes = filesystem(|_| 9e9);
    inodes.free_inodes = steady(3.0);
    let finding = the_only(&with(inodes));
    assert_eq!(finding.severity, Severity::Critical);
    assert_eq!(finding.title, "/data has 99 % of its inodes used");
    assert!(has_fix(&finding, Effect::ReadOnly, "df -i /data"));
}

#[test]
fn what_is_always_full_or_has_much_left_is_no_finding() {
    let mut image = filesystem(|_| 0.0);
    image.read_only = true;
    assert_eq!(judge(&with(image)), [], "read-only");
    let mut large = filesystem(|_| 5e11);
    large.total_bytes = 20_000_000_000_000;
    assert_eq!(judge(&with(large)), [], "97 % of 20 TB");
    let mut tiny = filesystem(|_| 0.0);
    tiny.total_bytes = 4096;
    assert_eq!(judge(&with(tiny)), [], "no place for data");
}

#[test]
fn one_that_fills_up_is_found_before_it_is_full() {
    // 200 MB in ten seconds, 1.5 GB left: 75 s.
    let finding = the_only(&with(filesystem(|t| 1.7e9 - 2e7 * t)));
    assert_eq!((finding.severity, finding.culprit.pid), (Severity::Warning, Some(80)));
    let eta = finding.eta.as_ref().unwrap();
    assert!((eta.seconds - 75.0).abs() < 1.0 && eta.fit > 0.99, "{eta:?}");
    assert!(finding.title.contains("writer (80) fills /data"), "{}", finding.title);
    // It began in the middle of the window.
    let late = filesystem(|t| 1.7e9 - 4e7 * (t - 6.0).max(0.0));
    assert!((the_only(&with(late)).eta.unwrap().seconds - 38.5).abs() < 2.0);
    // Too far ahead, too noisy, stopped, or rising.
    assert_eq!(judge(&with(filesystem(|t| 9e9 - 2e7 * t))), [], "ten windows cannot tell");
    assert_eq!(judge(&with(filesystem(|t| 1.7e9 - 1e8 * ((t * 7.9).sin() + 1.0)))), [], "noise");
    assert_eq!(judge(&with(filesystem(|t| 1.7e9 - 2e7 * t.min(5.0)))), [], "it stopped");
    assert_eq!(judge(&with(filesystem(|t| 1.4e9 + 2e7 * t))), [], "room is made");
}

#[test]
fn files_that_grow_there_tell_more_than_bytes_written_anywhere() {
    let mut memory = filesystem(|t| 1.7e9 - 2e7 * t);
    memory.kind = "tmpfs".into();
    assert_eq!(the_only(&with(memory.clone())).culprit.pid, None, "bytes written do not count in memory");
    let writer =
        |pid, grown_bytes| FilesystemWriter { pid, comm: "cat".into(), files: 1, grown_bytes, path: "/data/x".into() };
    memory.writers = vec![writer(81, 150_000_000)];
    let finding = the_only(&with(memory));
    assert_eq!(finding.culprit.pid, Some(81));
    assert!(has_fix(&finding, Effect::ReadOnly, "ls -lh /data/x"));
    assert!(has_fix(&finding, Effect::Changing, "kill -STOP 81"));
}

#[test]
fn refused_writes_make_a_full_file_system_critical() {
    let mut all = with(filesystem(|_| 1.5e8));
    let offender = SyscallOffender {
        pid: 90,
        comm: "redis".into(),
        name: "write".into(),
        errors: vec![ErrnoCount::new(errno::ENOSPC, 12)],
        ..SyscallOffender::default()
    };
    all.syscall_latency.as_mut().unwrap().offenders = vec![offender.clone()];
    let finding = judge(&all).into_iter().find(|finding| finding.id == "disk_full").unwrap();
    assert_eq!((finding.severity, finding.culprit.pid), (Severity::Critical, Some(90)));
    // Elsewhere there is room: those calls failed for another reason.
    let mut elsewhere = with(filesystem(|_| 5e9));
    elsewhere.syscall_latency.as_mut().unwrap().offenders = vec![offender];
    assert_eq!(judge(&elsewhere), []);
}

#[test]
fn inodes_go_by_who_makes_files() {
    let mut all = with(filesystem(|_| 9e9));
    let opener = |pid, comm: &str, opens| FileProcess { pid, comm: comm.into(), opens, ..FileProcess::default() };
    let processes = vec![opener(91, "rustc", 5000), opener(92, "spool", 130), opener(93, "sh", 20)];
    all.file_audit = Some(FileSummary { processes, ..FileSummary::default() });
    let fs = |all: &mut Window, free: Series| all.disk_io.as_mut().unwrap().filesystems[0].free_inodes = free;
    fs(&mut all, steady(0.0));
    assert_eq!(the_only(&all).culprit.pid, None, "nobody makes any now");
    fs(&mut all, (0..=20).map(|i| (f64::from(i) / 2.0, 120.0 - f64::from(i) * 6.0)).collect());
    let finding = the_only(&all);
    assert_eq!(finding.culprit.pid, Some(92), "{}", finding.title);
    assert_eq!(finding.title, "/data has 100 % of its inodes used; spool (92) makes files");
    // Who is refused is surer.
    all.syscall_latency.as_mut().unwrap().offenders = vec![SyscallOffender {
        pid: 90,
        comm: "maildrop".into(),
        name: "openat".into(),
        errors: vec![ErrnoCount::new(errno::ENOSPC, 12)],
        ..SyscallOffender::default()
    }];
    assert_eq!(the_only(&all).culprit.pid, Some(90));
}

#[test]
fn partitions_for_boot_and_pools_are_what_they_are() {
    let mut boot = filesystem(|_| 5e7);
    boot.mount = "/boot/efi".into();
    assert_eq!(the_only(&with(boot.clone())).severity, Severity::Info);
    let mut filling = with(Filesystem { mount: "/boot".into(), ..filesystem(|t| 1.7e8 - 1e7 * t) });
    assert_eq!(the_only(&filling).severity, Severity::Critical, "somebody fills it");
    let dataset = |name: &str| Filesystem {
        kind: "zfs".into(),
        source: name.into(),
        mount: format!("/{name}"),
        ..filesystem(|_| 5e7)
    };
    filling.disk_io.as_mut().unwrap().filesystems = vec![dataset("tank/a"), dataset("tank/b"), dataset("pool/a")];
    assert_eq!(judge(&filling).len(), 2);
}

#[test]
fn half_empty_ones_have_to_be_full_very_soon() {
    assert_eq!(judge(&with(filesystem(|t| 9e9 - 5e7 * t))), [], "a copy of some gigabytes");
    assert_eq!(the_only(&with(filesystem(|t| 9e9 - 2e8 * t))).severity, Severity::Warning);
}

#[test]
fn arms_that_move_take_their_time() {
    let mut other = storm("etcd", 25 * MS);
    other.disk_io.as_mut().unwrap().devices[0].rotational = true;
    assert_eq!(judge(&other), []);
    let mut spun_down = device(vec![op("read", 1, 4096, 0, 7000 * MS)], 0.7, 1.0);
    spun_down.rotational = true;
    let disk = DiskSummary { devices: vec![spun_down], ..DiskSummary::default() };
    assert_eq!(judge(&observed(disk, vec![], vec![])), []);
}

#[test]
fn who_has_ended_is_not_to_be_stopped() {
    let mut ended = storm("etcd", 40 * MS);
    assert!(has_fix(&the_only(&ended), Effect::Changing, "kill -STOP 40"));
    ended.processes.get_mut(&40).unwrap().alive = false;
    let finding = the_only(&ended);
    assert_eq!(finding.culprit.pid, Some(40));
    assert!(!has_fix(&finding, Effect::Changing, "40") && !has_fix(&finding, Effect::ReadOnly, "/proc/40/"));
}

#[test]
fn errors_name_a_few_places_and_each_process_once() {
    let mut failing = op("read", 100, 4096, 0, MS);
    failing.errors = vec![ErrnoCount::new(errno::EIO, 4)];
    let mut disk = device(vec![failing], 0.1, 0.1);
    disk.mounts = (0..50).map(|i| format!("/var/lib/kubelet/{i}")).chain(["/".to_owned()]).collect();
    let failure = |pid| DiskFailure {
        dev: "259:0".into(),
        pid,
        op: RequestKind::Read,
        errno: errno::EIO,
        count: 1,
        ..DiskFailure::default()
    };
    let failures = vec![failure(7), failure(8), failure(7), failure(0)];
    let finding =
        the_only(&observed(DiskSummary { devices: vec![disk], failures, ..DiskSummary::default() }, vec![], vec![]));
    assert!(
        finding.impact.starts_with("Data of /, /var/lib/kubelet/0, /var/lib/kubelet/1 and 48 more places"),
        "{}",
        finding.impact
    );
    assert_eq!(finding.victims.iter().filter_map(|victim| victim.pid).collect::<Vec<_>>(), [7, 8]);
}

#[test]
fn refused_writes_are_of_the_one_with_least_left() {
    let boot = Filesystem { mount: "/boot".into(), dev: "259:9".into(), ..filesystem(|_| 1.5e8) };
    let mut window = with(filesystem(|_| 0.0));
    window.disk_io.as_mut().unwrap().filesystems.push(boot);
    let errors = vec![ErrnoCount::new(errno::ENOSPC, 50)];
    let call =
        SyscallOffender { pid: 80, comm: "writer".into(), name: "write".into(), errors, ..SyscallOffender::default() };
    window.syscall_latency.as_mut().unwrap().offenders = vec![call];
    let findings = judge(&window);
    let of = |mount: &str| findings.iter().find(|finding| finding.culprit.mount.as_deref() == Some(mount)).unwrap();
    assert_eq!((of("/data").severity, of("/data").culprit.pid), (Severity::Critical, Some(80)));
    assert_eq!((of("/boot").severity, of("/boot").culprit.pid), (Severity::Info, None));
}
