//! What `disk_io` sums up, against what the kernel counts about the same devices and file systems.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kerno_bpf::engine::Observer;
use kerno_doctor::report::Diagnosis;
use kerno_model::Severity;
use kerno_model::Window;
use kerno_model::{DiskDevice, DiskSummary, IoLimit, IoLimitKind, RequestKind};

use crate::block::{Buffer, KIB, LoopDevice, MIB, file_without_room, read_at_once};
use crate::cgroups::Cgroup;
use crate::support::{self, Child, compare, slowness, unless_init_ran};

fn observer() -> Observer {
    support::observer(&["disk_io"])
}

fn number((major, minor): (u32, u32)) -> String {
    format!("{major}:{minor}")
}

fn summary(signals: &Window) -> &DiskSummary {
    signals.disk_io.as_ref().unwrap()
}

fn of_device<'a>(signals: &'a Window, device: &LoopDevice) -> &'a DiskDevice {
    summary(signals).device(&number(device.dev())).expect("the device was used")
}

/// Count, bytes and the counts of both histograms.
fn op(device: &DiskDevice, name: &str) -> (u64, u64) {
    let Some(stat) = device.op(RequestKind::from_name(name)) else { return (0, 0) };
    assert_eq!((stat.queue_ns.count(), stat.device_ns.count()), (stat.count, stat.count), "{name}");
    (stat.count, stat.bytes)
}

fn findings(signals: &Window, rule: &str) -> Vec<Diagnosis> {
    let mut all = crate::support::diagnose(signals);
    let below: Vec<_> = all.iter_mut().flat_map(|finding| std::mem::take(&mut finding.consequences)).collect();
    all.extend(below);
    all.retain(|finding| finding.id == rule);
    all
}

#[test]
fn sums_are_what_the_kernel_counts() {
    unless_init_ran(|| {
        const READS: u64 = 311;
        const WRITES: u64 = 203;
        const FLUSHES: u64 = 29;
        let device = LoopDevice::new(16 * MIB);
        let mut child = Child::new(|link| {
            rustix::thread::set_name(c"disk worker").unwrap();
            let file = device.open_direct();
            let mut buffer = Buffer::new(16 * KIB);
            for i in 0..READS {
                let bytes = [4 * KIB, 16 * KIB][usize::try_from(i % 2).unwrap()];
                assert_eq!(file.read_at(&mut buffer[..bytes], i * 32 * KIB as u64).unwrap(), bytes);
            }
            for i in 0..WRITES {
                assert_eq!(file.write_at(&buffer[..8 * KIB], i * 64 * KIB as u64).unwrap(), 8 * KIB);
            }
            for _ in 0..FLUSHES {
                file.sync_data().unwrap();
            }
            link.tell(1);
            link.wait();
        });
        let mut observer = observer();
        let before = device.stat();
        child.go();
        assert_eq!(child.heard(), 1);
        let stat = device.stat() - before;
        observer.sample().unwrap();
        let signals = observer.finish().unwrap();
        let found = of_device(&signals, &device);
        assert_eq!((stat.reads.ios, stat.writes.ios, stat.flushes), (READS, WRITES + FLUSHES, FLUSHES));
        assert_eq!(op(found, "read"), (READS, stat.reads.sectors * 512));
        assert_eq!(op(found, "write"), (WRITES, stat.writes.sectors * 512));
        assert_eq!(op(found, "flush"), (FLUSHES, 0));
        assert!(found.ops.iter().all(|stat| stat.errors.is_empty()));
        assert_eq!(found.name, device.path.file_name().unwrap().to_str().unwrap());
        assert!(found.backing.iter().any(|file| file.contains("kerno-test")), "{:?}", found.backing);
        assert!(found.utilisation <= 1.0 && found.in_flight.points().len() >= 3);
        let submitters: Vec<_> = summary(&signals).submitters.iter().filter(|s| s.dev == found.dev).collect();
        assert_eq!(submitters.len(), 1, "{submitters:?}");
        let submitter = submitters[0];
        assert_eq!((submitter.pid, submitter.comm.as_str()), (child.pid, "disk worker"));
        assert_eq!(submitter.requests, READS + WRITES + FLUSHES);
        let source = "/sys/block/DEVICE/stat";
        compare("disk_io", "bytes read, summary", submitter.read_bytes, stat.reads.sectors * 512, source);
        assert_eq!((submitter.write_bytes, submitter.flushes), (stat.writes.sectors * 512, FLUSHES));
        assert!(submitter.total_ns > 0);
        assert!(signals.process(child.pid).is_some(), "who it is");
        assert!(findings(&signals, "disk_errors").iter().all(|f| f.culprit.device.as_ref() != Some(&found.name)));
        // The next window has nothing of it.
        child.go();
        assert_eq!(child.wait(), 0);
        let signals = observer.finish().unwrap();
        assert!(summary(&signals).submitters.iter().all(|s| s.pid != child.pid));
        let again = summary(&signals).device(&number(device.dev()));
        assert!(again.is_none_or(|device| device.ops.is_empty()), "{again:?}");
    });
}

#[test]
fn failures_are_counted_and_judged() {
    unless_init_ran(|| {
        const WRITES: u64 = 29;
        let device = LoopDevice::over(file_without_room(2 * MIB, MIB));
        let mut child = Child::new(|link| {
            let file = device.open_direct();
            let buffer = Buffer::new(64 * KIB);
            let errors = (0..WRITES).filter_map(|i| file.write_at(&buffer, i * 64 * KIB as u64).err());
            let errors: Vec<_> = errors.map(|error| error.raw_os_error().unwrap()).collect();
            link.tell(errors.len() as u64);
            // ENOSPC, of which loop devices of older kernels make EIO.
            assert!(errors.iter().all(|errno| *errno == errors[0]));
            link.tell(u64::try_from(errors[0]).unwrap());
        });
        let mut observer = observer();
        child.run();
        let (failed, errno) = (child.heard(), i32::try_from(child.heard()).unwrap());
        let signals = observer.finish().unwrap();
        assert!(failed > 0);
        let found = of_device(&signals, &device);
        assert_eq!(op(found, "write").0, WRITES);
        let errors = &found.op(RequestKind::Write).unwrap().errors;
        assert_eq!(errors.len(), 1);
        assert_eq!((errors[0].errno, errors[0].count), (errno, failed));
        assert_eq!(errors[0].name, if errno == libc::ENOSPC { "ENOSPC" } else { "EIO" });
        let failures: Vec<_> = summary(&signals).failures.iter().filter(|f| f.dev == found.dev).collect();
        assert_eq!(failures.len(), 1, "{failures:?}");
        let failure = failures[0];
        assert_eq!((failure.pid, failure.count, failure.errno), (child.pid, failed, errno));
        assert_eq!((failure.op, failure.bytes as usize), (RequestKind::Write, 64 * KIB));
        let window_end = signals.span.started_ns + 600_000_000_000;
        assert!((signals.span.started_ns..window_end).contains(&failure.timestamp_ns));
        let judged = findings(&signals, "disk_errors");
        let finding = judged.iter().find(|f| f.culprit.device.as_ref() == Some(&found.name)).expect("a finding");
        assert_eq!(finding.severity, Severity::Critical);
        assert!(finding.victims.iter().any(|victim| victim.pid == Some(child.pid)));
        // It is told once.
        let next = observer.finish().unwrap();
        assert!(summary(&next).failures.iter().all(|failure| failure.dev != found.dev));
    });
}

/// A tmpfs of its own size, unmounted when dropped.
struct Memory {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Memory {
    fn mount(bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target = CString::new(dir.path().as_os_str().as_bytes()).unwrap();
        let options = CString::new(format!("size={bytes}")).unwrap();
        // SAFETY: NUL-terminated strings.
        let result = unsafe {
            libc::mount(c"kerno-test".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, options.as_ptr().cast())
        };
        assert_eq!(result, 0, "mount: {}", std::io::Error::last_os_error());
        Self { path: dir.path().to_path_buf(), _dir: dir }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let target = CString::new(self.path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a NUL-terminated string.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn a_file_system_that_fills_up_is_found_with_the_one_who_fills_it() {
    const STEPS: usize = 15;
    let memory = Memory::mount(32 * MIB);
    let path: &Path = &memory.path;
    let mut child = Child::new(|link| {
        let mut file = OpenOptions::new().create_new(true).write(true).open(path.join("log")).unwrap();
        let block = vec![1u8; 2 * MIB];
        for _ in 0..STEPS {
            file.write_all(&block).unwrap();
            link.tell(1);
            link.wait();
        }
    });
    let mut observer = observer();
    for _ in 0..STEPS - 1 {
        child.go();
        child.heard();
        observer.sample().unwrap();
        std::thread::sleep(Duration::from_millis(60));
    }
    child.go();
    child.heard();
    let signals = observer.finish().unwrap();
    child.go();
    assert_eq!(child.wait(), 0);
    let mount = path.to_str().unwrap();
    let found = summary(&signals).filesystems.iter().find(|fs| fs.mount == mount).expect("its file system");
    let stat = rustix::fs::statvfs(path).unwrap();
    assert_eq!((found.kind.as_str(), found.source.as_str(), found.read_only), ("tmpfs", "kerno-test", false));
    assert_eq!(found.total_bytes, 32 * MIB as u64);
    assert_eq!(found.available_bytes.last(), Some((stat.f_bavail * stat.f_frsize) as f64));
    assert_eq!(found.available_bytes.first(), Some((32 * MIB) as f64));
    assert_eq!((found.total_inodes, found.free_inodes.last()), (stat.f_files, Some(stat.f_ffree as f64)));
    assert_eq!(found.writers.len(), 1, "{:?}", found.writers);
    let writer = &found.writers[0];
    assert_eq!((writer.pid, writer.files), (child.pid, 1));
    assert!(writer.grown_bytes > 0 && writer.path.ends_with("/log"), "{writer:?}");
    let judged = findings(&signals, "disk_full");
    let finding = judged.iter().find(|f| f.culprit.mount.as_deref() == Some(mount)).expect("a finding");
    assert_eq!(finding.culprit.pid, Some(child.pid), "{}", finding.title);
    assert!(finding.fixes.iter().any(|fix| fix.command.contains(mount)));
}

#[test]
fn deleted_files_are_found_with_who_has_them_open_or_mapped() {
    let memory = Memory::mount(32 * MIB);
    let path: &Path = &memory.path;
    let file_of = |name: &str, bytes: usize| {
        let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(path.join(name)).unwrap();
        file.write_all(&vec![1u8; bytes]).unwrap();
        std::fs::remove_file(path.join(name)).unwrap();
        file
    };
    let mut child = Child::new(|link| {
        let open = file_of("log", 20 * MIB);
        let mapped = file_of("cache", 11 * MIB);
        // SAFETY: a new mapping of a file that is as long; nobody reads through it.
        let map = unsafe {
            let (access, fd) = (libc::PROT_READ, mapped.as_raw_fd());
            libc::mmap(std::ptr::null_mut(), 11 * MIB, access, libc::MAP_SHARED, fd, 0)
        };
        assert_ne!(map, libc::MAP_FAILED);
        drop(mapped);
        link.tell(open.as_raw_fd() as u64);
        link.wait();
    });
    let mut observer = observer();
    child.go();
    let fd = u32::try_from(child.heard()).unwrap();
    observer.sample().unwrap();
    let signals = observer.finish().unwrap();
    child.go();
    assert_eq!(child.wait(), 0);
    let mount = path.to_str().unwrap();
    let found = summary(&signals).filesystems.iter().find(|fs| fs.mount == mount).expect("its file system");
    let told: Vec<_> = found.deleted.iter().map(|file| (file.bytes, file.path.rsplit('/').next().unwrap())).collect();
    assert_eq!(told, [(20 * MIB as u64, "log"), (11 * MIB as u64, "cache")]);
    assert_eq!(found.deleted_bytes, 31 * MIB as u64);
    let holders: Vec<_> =
        found.deleted.iter().map(|file| file.holders.iter().map(|h| (h.pid, h.fd)).collect::<Vec<_>>()).collect();
    assert_eq!(holders, [vec![(child.pid, Some(fd))], vec![(child.pid, None)]]);
    let judged = findings(&signals, "disk_full");
    let finding = judged.iter().find(|f| f.culprit.mount.as_deref() == Some(mount)).expect("a finding");
    assert_eq!(finding.culprit.pid, Some(child.pid), "{}", finding.title);
}

#[test]
fn a_cgroup_at_its_own_limit_is_told_from_a_slow_device() {
    const READS: u64 = 44;
    let device = LoopDevice::new(8 * MIB);
    let group = Cgroup::with_read_limit(device.dev(), MIB as u64, "limited");
    let mut child = Child::new(|link| {
        let file = device.open_direct();
        let mut buffer = Buffer::new(64 * KIB);
        for i in 0..READS {
            assert_eq!(file.read_at(&mut buffer, i * 64 * KIB as u64).unwrap(), buffer.len());
        }
        link.wait();
    });
    group.add(child.pid);
    let mut observer = observer();
    child.go();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(200));
        observer.sample().unwrap();
    }
    let signals = observer.finish().unwrap();
    child.run();
    let name = group.path.file_name().unwrap().to_str().unwrap();
    let throttled = &summary(&signals).throttled;
    let found = throttled.iter().find(|cgroup| cgroup.path.ends_with(name)).expect("the cgroup is told of");
    assert_eq!((found.dev.clone(), found.tightest), (number(device.dev()), IoLimitKind::ReadBytes));
    assert_eq!(found.limits, [IoLimit { kind: IoLimitKind::ReadBytes, per_second: MIB as u64 }]);
    assert_eq!(found.pids, [child.pid]);
    assert!(
        found.limit_used > 0.8 && found.limit_used < if slowness() == 1 { 1.6 } else { 2.5 },
        "{}",
        found.limit_used
    );
    assert!(found.read_bytes > 0 && found.write_bytes == 0);
    // A read every 62 ms, and the device takes hardly any of that: most are much shorter.
    let read = of_device(&signals, &device).op(RequestKind::Read).unwrap();
    assert!(read.device_ns.quantile(0.5).unwrap() < 30_000_000, "{:?}", read.device_ns);
    let judged = findings(&signals, "disk_io_bottleneck");
    if found.limit_used >= 0.9 {
        let of_group = |f: &&Diagnosis| f.culprit.cgroup.as_ref().is_some_and(|cgroup| cgroup.ends_with(name));
        let finding = judged.iter().find(of_group).expect("a finding");
        assert_eq!(finding.culprit.pid, Some(child.pid));
    }
}

/// Many more reads at once than the device takes: the kernel adds up the same time.
#[test]
fn times_are_the_kernels_own() {
    unless_init_ran(|| {
        const READS: usize = 251;
        const BYTES: usize = 256 * KIB;
        for scheduler in ["none", "mq-deadline"] {
            let device = LoopDevice::new(READS * 2 * BYTES);
            if !device.set_scheduler(scheduler) {
                continue;
            }
            let offsets: Vec<u64> = (0..READS as u64).map(|i| i * 2 * BYTES as u64).collect();
            let mut child = Child::new(|link| {
                read_at_once(&device.open_direct(), &Buffer::new(BYTES), BYTES, &offsets);
                link.tell(1);
                link.wait();
            });
            let mut observer = observer();
            let before_ms = device.read_ms();
            child.go();
            assert_eq!(child.heard(), 1);
            let kernels_ms = device.read_ms() - before_ms;
            let signals = observer.finish().unwrap();
            let reads = of_device(&signals, &device).op(RequestKind::Read).unwrap();
            assert_eq!(
                (reads.count, reads.queue_ns.count(), reads.device_ns.count()),
                (READS as u64, READS as u64, READS as u64)
            );
            let submitter = summary(&signals).submitters.iter().find(|s| s.pid == child.pid).unwrap();
            let ours_ms = submitter.total_ns / 1_000_000;
            println!("disk_io: {scheduler}: {ours_ms} ms of requests, {kernels_ms} by /sys/block/DEVICE/stat");
            // The kernel's ends a little later, with our own programs in between.
            let little = READS as u64 / 50 * slowness() + kernels_ms / 20;
            assert!(ours_ms <= kernels_ms + 1 && ours_ms + little >= kernels_ms, "{ours_ms} ms, {kernels_ms} ms");
            child.go();
            assert_eq!(child.wait(), 0);
        }
    });
}

again! { before_6_5, without "block_io_start":
    sums_are_what_the_kernel_counts
    times_are_the_kernels_own
    failures_are_counted_and_judged
}
