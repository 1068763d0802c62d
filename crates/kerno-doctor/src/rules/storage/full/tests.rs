//! File systems that fill up.

use kerno_model::{
    DeletedFile, DeletedHolder, DiskSummary, ErrnoCount, Fact, FileProcess, FileSummary, Filesystem, FilesystemWriter,
    Limit, Safety, Series, Severity, SyscallOffender, Window, errno,
};

use crate::rules::storage::testing::*;

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
    assert_eq!((finding.rule.as_str(), finding.severity), ("disk_full", Severity::Warning));
    assert_eq!((finding.subject.mount.as_deref(), finding.pid()), (Some("/data"), None), "nobody writes");
    assert!(finding.eta.is_none());
    assert!(has_fix(&finding, Safety::ReadOnly, "fuser -vm /data"));
    assert!(has_fix(&finding, Safety::ReadOnly, "du -xh /data | sort -h | tail"));
    assert_eq!(the_only(&with(filesystem(|_| 5e7))).severity, Severity::Critical);
    let mut inodes = filesystem(|_| 9e9);
    inodes.free_inodes = steady(3.0);
    let finding = the_only(&with(inodes));
    assert_eq!(finding.severity, Severity::Critical);
    assert_eq!(title(&finding), "/data has few inodes left: 99.7 % used");
    assert!(has_fix(&finding, Safety::ReadOnly, "df -i /data"));
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
    assert_eq!((finding.severity, finding.pid()), (Severity::Warning, Some(80)));
    let eta = finding.eta.as_ref().unwrap();
    assert!((eta.seconds - 75.0).abs() < 1.0 && eta.fit > 0.99, "{eta:?}");
    assert!(title(&finding).contains("writer (80) fills /data"), "{}", title(&finding));
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
    assert_eq!(the_only(&with(memory.clone())).pid(), None, "bytes written do not count in memory");
    let writer =
        |pid, grown_bytes| FilesystemWriter { pid, comm: "cat".into(), files: 1, grown_bytes, path: "/data/x".into() };
    memory.writers = vec![writer(81, 150_000_000)];
    let finding = the_only(&with(memory));
    assert_eq!(finding.pid(), Some(81));
    assert!(has_fix(&finding, Safety::ReadOnly, "ls -lh /data/x"));
    assert!(has_fix(&finding, Safety::Changing, "kill -STOP 81"));
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
    let finding = judge(&all).into_iter().find(|finding| finding.rule == "disk_full").unwrap();
    assert_eq!((finding.severity, finding.pid()), (Severity::Critical, Some(90)));
    // Elsewhere there is room: those calls failed for another reason.
    let mut elsewhere = with(filesystem(|_| 5e9));
    elsewhere.syscall_latency.as_mut().unwrap().offenders = vec![offender];
    assert_eq!(judge(&elsewhere), []);
}

fn deleted(path: &str, bytes: u64, holders: &[(u32, Option<u32>)]) -> DeletedFile {
    let holders = holders.iter().map(|(pid, fd)| DeletedHolder { pid: *pid, comm: "rsyslogd".into(), fd: *fd });
    DeletedFile { path: path.into(), inode: bytes, bytes, holders: holders.collect(), ..DeletedFile::default() }
}

/// A full file system of 10 GB; a program is refused, and files of so many bytes are deleted and still open.
fn full_of_deleted(files: Vec<DeletedFile>) -> Window {
    let mut fs = filesystem(|_| 5e6);
    fs.deleted_bytes = files.iter().map(|file| file.bytes).sum();
    fs.deleted = files;
    let mut window = with(fs);
    window.syscall_latency.as_mut().unwrap().offenders = vec![SyscallOffender {
        pid: 90,
        comm: "redis".into(),
        name: "write".into(),
        errors: vec![ErrnoCount::new(errno::ENOSPC, 12)],
        ..SyscallOffender::default()
    }];
    window
}

fn only_full(window: &Window) -> kerno_model::Finding {
    judge(window).into_iter().find(|finding| finding.rule == "disk_full").unwrap()
}

#[test]
fn whoever_holds_deleted_files_is_named_not_who_is_refused() {
    let finding =
        only_full(&full_of_deleted(vec![deleted("/data/app.log", 9_000_000_000, &[(77, Some(3)), (78, Some(3))])]));
    words_last(&finding);
    assert_eq!(
        (finding.pid(), finding.variant.as_ref(), finding.severity),
        (Some(77), "deleted_files", Severity::Critical)
    );
    assert_eq!(pids(&finding.victims), [Some(90)]);
    assert!(title(&finding).starts_with("rsyslogd (77) keeps a deleted file open on /data: "), "{}", title(&finding));
    let cause = crate::words(&finding).cause;
    assert!(
        cause.contains("still has open /data/app.log") && cause.contains("1 other process has some of it"),
        "{cause}"
    );
    assert!(has_fix(&finding, Safety::Changing, "truncate -s 0 /proc/77/fd/3"));
    assert!(has_fix(&finding, Safety::ReadOnly, "lsof +L1 /data"));
}

#[test]
fn mappings_and_loop_devices_hold_deleted_files_too() {
    let mapped = only_full(&full_of_deleted(vec![deleted("/data/cache", 9_000_000_000, &[(77, None)])]));
    words_last(&mapped);
    assert!(crate::words(&mapped).cause.contains("still has mapped /data/cache"));
    assert!(!mapped.fixes.iter().any(|fix| fix.command.contains("truncate")), "there is no descriptor");
    let mut image = deleted("/data/image", 20_000_000_000, &[]);
    image.loop_device = Some("loop4".into());
    let finding = only_full(&full_of_deleted(vec![image]));
    words_last(&finding);
    assert_eq!(finding.pid(), None);
    assert!(title(&finding).starts_with("loop4 keeps a deleted file open on /data: "), "{}", title(&finding));
    assert!(has_fix(&finding, Safety::Changing, "losetup -d /dev/loop4"));
}

#[test]
fn a_few_deleted_files_are_not_the_reason() {
    let finding = only_full(&full_of_deleted(vec![deleted("/data/tmp", 300_000_000, &[(77, Some(3))])]));
    assert_eq!((finding.pid(), finding.variant.as_ref()), (Some(90), "space"));
    // With room left, they are nobody's trouble.
    let mut fs = filesystem(|_| 5e9);
    fs.deleted = vec![deleted("/data/tmp", 4_000_000_000, &[(77, Some(3))])];
    fs.deleted_bytes = 4_000_000_000;
    assert!(judge(&with(fs)).is_empty());
}

#[test]
fn inodes_go_by_who_makes_files() {
    let mut all = with(filesystem(|_| 9e9));
    let opener = |pid, comm: &str, opens| FileProcess { pid, comm: comm.into(), opens, ..FileProcess::default() };
    let processes = vec![opener(91, "rustc", 5000), opener(92, "spool", 130), opener(93, "sh", 20)];
    all.file_audit = Some(FileSummary { processes, ..FileSummary::default() });
    let fs = |all: &mut Window, free: Series| all.disk_io.as_mut().unwrap().filesystems[0].free_inodes = free;
    fs(&mut all, steady(0.0));
    assert_eq!(the_only(&all).pid(), None, "nobody makes any now");
    fs(&mut all, (0..=20).map(|i| (f64::from(i) / 2.0, 120.0 - f64::from(i) * 6.0)).collect());
    let finding = the_only(&all);
    assert_eq!(finding.pid(), Some(92), "{}", title(&finding));
    assert_eq!(title(&finding), "/data has no inodes left: 100 % used, spool (92) creates files");
    // Who is refused is surer.
    all.syscall_latency.as_mut().unwrap().offenders = vec![SyscallOffender {
        pid: 90,
        comm: "maildrop".into(),
        name: "openat".into(),
        errors: vec![ErrnoCount::new(errno::ENOSPC, 12)],
        ..SyscallOffender::default()
    }];
    assert_eq!(the_only(&all).pid(), Some(90));
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
fn refused_writes_are_of_the_one_with_least_left() {
    let boot = Filesystem { mount: "/boot".into(), dev: "259:9".into(), ..filesystem(|_| 1.5e8) };
    let mut window = with(filesystem(|_| 0.0));
    window.disk_io.as_mut().unwrap().filesystems.push(boot);
    let errors = vec![ErrnoCount::new(errno::ENOSPC, 50)];
    let call =
        SyscallOffender { pid: 80, comm: "writer".into(), name: "write".into(), errors, ..SyscallOffender::default() };
    window.syscall_latency.as_mut().unwrap().offenders = vec![call];
    let findings = judge(&window);
    let of = |mount: &str| findings.iter().find(|finding| finding.subject.mount.as_deref() == Some(mount)).unwrap();
    assert_eq!((of("/data").severity, of("/data").pid()), (Severity::Critical, Some(80)));
    assert_eq!((of("/boot").severity, of("/boot").pid()), (Severity::Info, None));
}

#[test]
fn words_are_made_of_the_finding() {
    let fills = the_only(&with(filesystem(|t| 1.7e9 - 2e7 * t)));
    let words = crate::words(&fills);
    assert_eq!(words.title, "writer (80) fills /data: 85 % used, full in 1 min 15 s");
    assert_eq!(
        words.cause,
        "1.4 GiB of 9.31 GiB is left on /data (/dev/nvme0n1p1, ext4). writer (80) wrote 191 MiB in this time."
    );
    assert_eq!(words.outlook, "/data has no space left");
    assert_eq!((fills.variant.as_ref(), fills.is_at(Limit::FileSystemBytes)), ("space", false));

    let full = the_only(&with(filesystem(|_| 0.0)));
    assert_eq!(title(&full), "/data is full: 100 % used");
    assert!(full.is_at(Limit::FileSystemBytes) && full.errnos().next().is_none());

    let mut window = with(filesystem(|_| 4e8));
    window.disk_io.as_mut().unwrap().filesystems[0].kind = "tmpfs".into();
    let nearly = the_only(&window);
    assert_eq!(title(&nearly), "/data is nearly full: 96 % used");
    assert_eq!(
        crate::words(&nearly).cause,
        "381 MiB of 9.31 GiB is left on /data (/dev/nvme0n1p1, tmpfs). It is kept in memory. No process writes much to it now."
    );

    let mut window = with(filesystem(|_| 1.5e8));
    window.syscall_latency.as_mut().unwrap().offenders = vec![SyscallOffender {
        pid: 90,
        comm: "redis".into(),
        name: "write".into(),
        errors: vec![ErrnoCount::new(errno::ENOSPC, 12)],
        ..SyscallOffender::default()
    }];
    let refused = the_only(&window);
    assert_eq!(title(&refused), "/data is nearly full: 98.5 % used, redis (90) writes most");
    assert!(refused.has(&Fact::Errno(errno::ENOSPC)) && refused.has(&Fact::Call("write".into())));
    assert!(refused.is_at(Limit::FileSystemBytes));
    assert_eq!(crate::words(&refused).impact, "Writes fail with ENOSPC. Programs lose data or stop.");

    let mut inodes = filesystem(|_| 9e9);
    inodes.free_inodes = (0..=20).map(|i| (f64::from(i) / 2.0, 120.0 - f64::from(i) * 2.0)).collect();
    let mut window = with(inodes);
    let opener = FileProcess { pid: 92, comm: "spool".into(), opens: 1130, ..FileProcess::default() };
    window.file_audit = Some(FileSummary { processes: vec![opener], ..FileSummary::default() });
    let inodes = the_only(&window);
    let words = crate::words(&inodes);
    assert_eq!(words.title, "spool (92) fills /data: 92 % of inodes used, none left in 20 s");
    assert_eq!(
        words.cause,
        "80 of 1,000 inodes are left on /data (/dev/nvme0n1p1, ext4). spool (92) opened 1,130 files while 40 inodes were taken."
    );
    assert_eq!((inodes.variant.as_ref(), words.outlook.as_str()), ("inodes", "/data has no inodes left"));

    for finding in [fills, full, nearly, refused, inodes] {
        words_last(&finding);
    }
}
