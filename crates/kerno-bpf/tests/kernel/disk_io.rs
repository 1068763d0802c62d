use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use kerno_bpf::DiskOp;
use kerno_bpf::{DiskEvent, DiskIoLoader, Filter};

use crate::block::{Buffer, Group, KIB, LoopDevice, MIB, Stat, discard, file_without_room, memory_file};
use crate::cgroups::id_of;
use crate::support::{Child, Link, monotonic_ns, observe, options, unless_init_ran};

pub(crate) fn on(device: &LoopDevice) -> Filter {
    Filter { devices: vec![device.dev()], ..Filter::default() }
}

/// What the kernel's own counters should have gained. They count an empty flush as a write of no sectors, too.
pub(crate) fn counted(events: &[DiskEvent], empty_flushes: u64) -> Stat {
    let group = |ops: &[u8]| {
        let of: Vec<_> = events.iter().filter(|event| ops.contains(&event.op_code)).collect();
        Group { ios: of.len() as u64, sectors: of.iter().map(|event| u64::from(event.nr_bytes) / 512).sum() }
    };
    let (writes, flushes) = (group(&[1, 9]), group(&[2]));
    assert_eq!(flushes.sectors, 0);
    Stat {
        reads: group(&[0]),
        writes: Group { ios: writes.ios + empty_flushes, ..writes },
        discards: group(&[3]),
        flushes: flushes.ios,
    }
}

/// Events of the device while the child works, and what the kernel counted meanwhile.
pub(crate) fn observe_device(device: &LoopDevice, child: &mut Child) -> (Vec<DiskEvent>, Stat) {
    let before = device.stat();
    let events = observe(DiskIoLoader::new(options(on(device))), || child.run());
    (events, device.stat() - before)
}

fn timed(link: &mut Link, work: impl FnOnce()) {
    let start = monotonic_ns();
    work();
    let end = monotonic_ns();
    link.tell(start);
    link.tell(end);
}

#[test]
fn direct_reads_and_writes_are_all_seen_with_every_field_right() {
    unless_init_ran(|| {
        const REQUESTS: usize = 499;
        let device = LoopDevice::new(16 * MIB);
        // Scattered, of four sizes, none across the end.
        let plan =
            |i: usize| (i.is_multiple_of(3), (i * 7919 % 3001) * 4 * KIB, [512, 4 * KIB, 12 * KIB, 64 * KIB][i % 4]);
        let mut child = Child::new(|link| {
            rustix::thread::set_name(c"disk worker").unwrap();
            let file = device.open_direct();
            let mut buffer = Buffer::new(64 * KIB);
            for (is_write, offset, bytes) in (0..REQUESTS).map(plan) {
                timed(link, || {
                    if is_write {
                        assert_eq!(file.write_at(&buffer[..bytes], offset as u64).unwrap(), bytes);
                    } else {
                        assert_eq!(file.read_at(&mut buffer[..bytes], offset as u64).unwrap(), bytes);
                    }
                });
            }
        });
        let cgroup = id_of(child.pid);
        let (events, stat) = observe_device(&device, &mut child);
        assert_eq!(events.len(), REQUESTS);
        assert_eq!(stat, counted(&events, 0));
        for (i, event) in events.iter().enumerate() {
            let (is_write, offset, bytes) = plan(i);
            let (start, end) = (child.heard(), child.heard());
            assert_eq!(event.op(), if is_write { DiskOp::Write } else { DiskOp::Read });
            assert_eq!(event.op_code, u8::from(is_write));
            assert_eq!((event.sector, event.nr_bytes), (offset as u64 / 512, u32::try_from(bytes).unwrap()));
            assert_eq!(event.dev(), device.dev());
            assert_eq!((event.pid, event.tid, event.cgroup_id), (child.pid, child.pid, cgroup));
            assert_eq!(event.comm(), "disk worker");
            assert_eq!(event.errno(), None);
            // Reads are waited for without being marked so on older kernels (5.10 is one).
            let flags: Vec<_> = event.flags.names().collect();
            assert!(flags == ["sync"] || (flags.is_empty() && !is_write), "{event}");
            assert!(event.latency_ns > 0 && event.timestamp_ns <= end, "{event}");
            assert!(event.timestamp_ns - event.latency_ns - event.queue_ns >= start, "{event}");
        }
    });
}

#[test]
fn a_flush_is_put_down_to_the_one_who_called_fsync() {
    unless_init_ran(|| {
        const FLUSHES: u64 = 31;
        let device = LoopDevice::new(MIB);
        let mut child = Child::new(|link| {
            let file = device.open_direct();
            for _ in 0..FLUSHES {
                timed(link, || file.sync_data().unwrap());
            }
        });
        let (events, stat) = observe_device(&device, &mut child);
        assert_eq!(events.len() as u64, FLUSHES);
        assert_eq!(stat, counted(&events, FLUSHES));
        for event in events {
            let (start, end) = (child.heard(), child.heard());
            assert_eq!((event.op(), event.sector, event.nr_bytes), (DiskOp::Flush, 0, 0));
            assert_eq!((event.pid, event.tid), (child.pid, child.pid));
            assert!(event.flags.is_preflush());
            assert!(event.timestamp_ns - event.latency_ns >= start && event.timestamp_ns <= end, "{event}");
        }
    });
}

#[test]
fn a_forced_write_is_followed_by_a_flush_of_the_same_submitter() {
    unless_init_ran(|| {
        const WRITES: u64 = 17;
        let device = LoopDevice::new(MIB);
        let mut child = Child::new(|_| {
            let file = device.open(libc::O_DIRECT | libc::O_DSYNC);
            let buffer = Buffer::new(4 * KIB);
            for i in 0..WRITES {
                assert_eq!(file.write_at(&buffer, i * 8192).unwrap(), buffer.len());
            }
        });
        let (events, stat) = observe_device(&device, &mut child);
        let writes: Vec<_> = events.iter().filter(|event| event.op() == DiskOp::Write).collect();
        let flushes = events.iter().filter(|event| event.op() == DiskOp::Flush).count() as u64;
        assert_eq!(writes.len() as u64, WRITES);
        assert_eq!(writes.len() as u64 + flushes, events.len() as u64);
        // A loop device knows no FUA: each write needs a flush after it. Then comes the one of the fsync that O_DSYNC implies.
        assert_eq!(flushes, 2 * WRITES);
        assert_eq!(stat, counted(&events, WRITES));
        assert!(events.iter().all(|event| event.pid == child.pid && event.errno().is_none()));
        for (i, write) in writes.iter().enumerate() {
            assert_eq!((write.sector, write.nr_bytes), (i as u64 * 16, 4096));
            assert!(write.flags.is_fua() && write.flags.is_sync(), "{write}");
        }
    });
}

#[test]
fn discards_are_exact() {
    unless_init_ran(|| {
        const DISCARDS: u64 = 13;
        let device = LoopDevice::new(16 * MIB);
        let mut child = Child::new(|_| {
            let file = device.open_direct();
            for i in 0..DISCARDS {
                discard(&file, i * MIB as u64, (i + 1) * 4096);
            }
        });
        let (events, stat) = observe_device(&device, &mut child);
        assert_eq!(events.len() as u64, DISCARDS);
        assert_eq!(stat, counted(&events, 0));
        for (i, event) in (0..DISCARDS).zip(events) {
            assert_eq!((event.op(), event.pid), (DiskOp::Discard, child.pid));
            assert_eq!((event.sector, u64::from(event.nr_bytes)), (i * MIB as u64 / 512, (i + 1) * 4096));
        }
    });
}

#[test]
fn a_large_read_is_several_requests_without_gap_or_overlap() {
    unless_init_ran(|| {
        let device = LoopDevice::new(64 * MIB);
        let mut child = Child::new(|_| {
            let file = device.open_direct();
            let mut buffer = Buffer::new(33 * MIB);
            assert_eq!(file.read_at(&mut buffer, MIB as u64).unwrap(), buffer.len());
        });
        let (mut events, stat) = observe_device(&device, &mut child);
        let most = device.attribute("queue/max_sectors_kb") * 1024;
        assert!(events.len() > 33 * MIB / usize::try_from(most).unwrap(), "{} requests of {most} bytes", events.len());
        assert_eq!(stat, counted(&events, 0));
        events.sort_by_key(|event| event.sector);
        let mut sector = MIB as u64 / 512;
        for event in events {
            assert_eq!((event.sector, event.op(), event.pid), (sector, DiskOp::Read, child.pid));
            assert!(u64::from(event.nr_bytes) <= most);
            sector += u64::from(event.nr_bytes) / 512;
        }
        assert_eq!(sector, 34 * MIB as u64 / 512);
    });
}

#[test]
fn two_devices_are_never_mixed() {
    unless_init_ran(|| {
        const EACH: u64 = 307;
        let devices = [LoopDevice::new(4 * MIB), LoopDevice::new(4 * MIB)];
        // The same sectors on both, with lengths that tell which.
        let lengths = [4 * KIB, 8 * KIB];
        let mut children: Vec<_> = devices
            .iter()
            .zip(lengths)
            .map(|(device, length)| {
                Child::new(move |_| {
                    let file = device.open_direct();
                    let mut buffer = Buffer::new(length);
                    for i in 0..EACH {
                        assert_eq!(file.read_at(&mut buffer, i * 8192).unwrap(), length);
                    }
                })
            })
            .collect();
        let before = devices.each_ref().map(LoopDevice::stat);
        let filter = Filter { devices: devices.iter().map(LoopDevice::dev).collect(), ..Filter::default() };
        let events: Vec<DiskEvent> = observe(DiskIoLoader::new(options(filter)), || {
            children.iter_mut().for_each(Child::go);
            for child in &mut children {
                assert_eq!(child.wait(), 0);
            }
        });
        assert_eq!(events.len() as u64, 2 * EACH);
        for (i, device) in devices.iter().enumerate() {
            let own: Vec<_> = events.iter().filter(|event| event.dev() == device.dev()).copied().collect();
            assert_eq!(own.len() as u64, EACH);
            assert_eq!(device.stat() - before[i], counted(&own, 0));
            assert!(own.iter().all(|event| event.pid == children[i].pid && event.nr_bytes as usize == lengths[i]));
            assert!(own.iter().zip(0..).all(|(event, at): (_, u64)| event.sector == at * 16));
        }
    });
}

#[test]
fn a_failed_write_tells_the_errno_that_its_caller_got() {
    unless_init_ran(|| {
        // One file may not grow beyond its first half; the other has no room for more than that.
        let sealed = LoopDevice::over(memory_file(2 * MIB));
        sealed.backing().set_len(MIB as u64).unwrap();
        // SAFETY: adds a seal to our own file.
        let result = unsafe { libc::fcntl(sealed.backing().as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_GROW) };
        assert_eq!(result, 0);
        let full = LoopDevice::over(file_without_room(2 * MIB, MIB));
        for (device, expected) in [(&sealed, libc::EIO), (&full, libc::ENOSPC)] {
            let mut child = Child::new(|link| {
                let file = device.open_direct();
                let buffer = Buffer::new(64 * KIB);
                for i in 0..29 {
                    let result = file.write_at(&buffer, i * 64 * KIB as u64);
                    link.tell(result.err().map_or(0, |error| u64::try_from(error.raw_os_error().unwrap()).unwrap()));
                }
            });
            let (events, stat) = observe_device(device, &mut child);
            assert_eq!(events.len(), 29);
            assert_eq!(stat, counted(&events, 0));
            let mut failures = 0;
            for (i, event) in (0..29).zip(events) {
                let errno = i32::try_from(child.heard()).unwrap();
                assert_eq!(event.errno().unwrap_or(0), errno, "{event}");
                assert_eq!((event.sector, event.nr_bytes as usize, event.pid), (i * 128, 64 * KIB, child.pid));
                assert!(event.latency_ns > 0);
                if errno != 0 {
                    // Loop devices of older kernels make this of any error.
                    assert!(errno == expected || errno == libc::EIO, "{errno}");
                    failures += 1;
                }
            }
            assert!((13..=29).contains(&failures), "{failures} writes failed");
        }
    });
}

again! { before_6_5, without "block_io_start":
    direct_reads_and_writes_are_all_seen_with_every_field_right
    a_flush_is_put_down_to_the_one_who_called_fsync
    a_forced_write_is_followed_by_a_flush_of_the_same_submitter
    discards_are_exact
    a_large_read_is_several_requests_without_gap_or_overlap
    two_devices_are_never_mixed
    a_failed_write_tells_the_errno_that_its_caller_got
}
