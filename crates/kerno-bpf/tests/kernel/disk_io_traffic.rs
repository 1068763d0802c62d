//! `disk_io` under load, in the scheduler's queue, in parts, and through its filters.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use kerno_bpf::DiskOp;
use kerno_bpf::{DiskEvent, DiskIoLoader, Filter, Loader, Options};

use crate::block::{Buffer, KIB, LoopDevice, MIB, read_at_once};
use crate::cgroups::{Cgroup, v2_mount};
use crate::disk_io::{counted, observe_device, on};
use crate::support::{
    Child, Run, compare_but_for_skipped, monotonic_ns, observe, options, skipped_runs, unless_init_ran,
};

/// Reads as many blocks of 4 KiB as told, one by one.
fn read_blocks(device: &LoopDevice, count: u64) {
    let file = device.open_direct();
    let mut buffer = Buffer::new(4 * KIB);
    for i in 0..count {
        assert_eq!(file.read_at(&mut buffer, i * 8 * KIB as u64).unwrap(), buffer.len());
    }
}

#[test]
fn heavy_parallel_traffic_counts_as_the_kernel_does() {
    unless_init_ran(|| ["none", "mq-deadline"].into_iter().for_each(heavy_parallel_traffic));
}

fn heavy_parallel_traffic(scheduler: &str) {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 400;
    const FSYNC_EVERY: u64 = 16;
    let device = LoopDevice::new(64 * MIB);
    if !device.set_scheduler(scheduler) {
        return;
    }
    let mut child = Child::new(|_| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let device = &device;
                scope.spawn(move || {
                    let file = device.open_direct();
                    let mut buffer = Buffer::new(32 * KIB);
                    for i in 0..ROUNDS {
                        let at = (thread * 16 + i % 16) * MIB as u64 + i / 16 * 32 * KIB as u64;
                        assert_eq!(file.write_at(&buffer, at).unwrap(), buffer.len());
                        assert_eq!(file.read_at(&mut buffer, at).unwrap(), buffer.len());
                        if i % FSYNC_EVERY == 0 {
                            file.sync_data().unwrap();
                        }
                    }
                });
            }
        });
    });
    let (events, stat) = observe_device(&device, &mut child);
    let fsyncs = THREADS * ROUNDS / FSYNC_EVERY;
    assert_eq!((stat.reads.ios, stat.writes.ios), (THREADS * ROUNDS, THREADS * ROUNDS + fsyncs), "{scheduler}");
    // One flush may serve several who wait for one.
    assert!((1..=fsyncs).contains(&stat.flushes), "{scheduler}: {} flushes", stat.flushes);
    assert!(events.iter().all(|event| event.pid == child.pid && event.errno().is_none()));
    let threads: BTreeSet<_> = events.iter().map(|event| event.tid).collect();
    assert_eq!(threads.len() as u64, THREADS);
    let counted = counted(&events, fsyncs);
    let compare = |figure, ours, truth, each| {
        compare_but_for_skipped("disk_io", figure, ours, truth, each, "/sys/block/DEVICE/stat");
    };
    compare("reads, events", counted.reads.ios, stat.reads.ios, 1);
    compare("sectors written, events", counted.writes.sectors, stat.writes.sectors, 32 * KIB as u64 / 512);
    if skipped_runs() > 0 {
        return;
    }
    assert_eq!(counted, stat, "{scheduler}");
    for tid in threads {
        let ops = |op| events.iter().filter(|event| event.tid == tid && event.op() == op).count() as u64;
        assert_eq!((ops(DiskOp::Read), ops(DiskOp::Write)), (ROUNDS, ROUNDS), "{scheduler}");
    }
}

#[test]
fn buffered_writes_are_merged_and_counted_as_the_kernel_does() {
    unless_init_ran(|| {
        let device = LoopDevice::new(32 * MIB);
        if !device.set_scheduler("mq-deadline") {
            return;
        }
        let mut child = Child::new(|_| {
            let file = device.open(0);
            let page = [7u8; 4096];
            // Every page of the second half, and every other one of the first.
            for i in (0..4096).step_by(2).chain(4096..8192) {
                file.write_all_at(&page, i * 4096).unwrap();
            }
            file.sync_data().unwrap();
        });
        let (events, stat) = observe_device(&device, &mut child);
        assert_eq!(stat, counted(&events, 1));
        assert_eq!(stat.writes.sectors * 512, (2048 + 4096) * 4096);
        assert!(stat.writes.ios < 2048 + 4096, "nothing was merged: {stat:?}");
    });
}

#[test]
fn waiting_in_the_scheduler_is_told_from_time_at_the_device() {
    unless_init_ran(|| {
        const READS: usize = 251;
        const BYTES: usize = 256 * KIB;
        let device = LoopDevice::new(READS * 2 * BYTES);
        if !device.set_scheduler("mq-deadline") {
            return;
        }
        // Every other block, so that no two are merged; many more at once than the device takes.
        let offsets: Vec<u64> = (0..READS as u64).map(|i| i * 2 * BYTES as u64).collect();
        let mut child = Child::new(|link| {
            let file = device.open_direct();
            let buffer = Buffer::new(BYTES);
            link.tell(monotonic_ns());
            read_at_once(&file, &buffer, BYTES, &offsets);
            link.tell(monotonic_ns());
        });
        let before_ms = device.read_ms();
        let (events, stat) = observe_device(&device, &mut child);
        let (start, end) = (child.heard(), child.heard());
        assert_eq!(events.len(), READS);
        assert_eq!(stat, counted(&events, 0));
        let mut sectors: Vec<_> = events.iter().map(|event| event.sector).collect();
        sectors.sort_unstable();
        assert_eq!(sectors, offsets.iter().map(|offset| offset / 512).collect::<Vec<_>>());
        let mut moments = Vec::new();
        for event in &events {
            assert!(event.queue_ns > 0, "it went through the scheduler: {event}");
            let issue = event.timestamp_ns - event.latency_ns;
            assert!(issue - event.queue_ns >= start && event.timestamp_ns <= end, "{event}");
            moments.extend([(issue, 1), (event.timestamp_ns, -1)]);
        }
        // The device has 128 tags. With more to do than that, the rest waits, until another request is done. A tag is given back just
        // before or after the hooks run, so a request or two may overlap.
        moments.sort_unstable();
        let at_the_device = moments.iter().scan(0, |count, (_, change)| {
            *count += change;
            Some(*count)
        });
        let most = at_the_device.max().unwrap();
        assert!((1..=130).contains(&most), "{most} at the device at once");
        // The kernel adds up the same time, and the little between a request's allocation and its insert. (In a plug that would not be
        // little, nor exact: the requests of one plug share a start.)
        let sum_ms = events.iter().map(|event| event.queue_ns + event.latency_ns).sum::<u64>() / 1_000_000;
        let kernels_ms = device.read_ms() - before_ms;
        assert!(sum_ms <= kernels_ms + 1, "{sum_ms} ms, of {kernels_ms} ms that the kernel counts");
        assert!(sum_ms + 20 + kernels_ms / 10 >= kernels_ms, "{sum_ms} ms, of {kernels_ms} ms that the kernel counts");
    });
}

#[test]
fn without_a_scheduler_nothing_waits() {
    unless_init_ran(|| {
        let device = LoopDevice::new(MIB);
        assert!(device.set_scheduler("none"));
        // A queue that was busy lately, as the one of this device's number may have been, holds requests back for a while.
        read_blocks(&device, 101);
        let mut child = Child::new(|_| read_blocks(&device, 101));
        let (events, _) = observe_device(&device, &mut child);
        assert_eq!(events.len(), 101);
        assert!(events.iter().all(|event| event.queue_ns == 0));
    });
}

#[test]
fn a_read_that_is_completed_in_parts_is_one_event() {
    unless_init_ran(|| {
        // A file that was cut in the middle of a request: the driver completes the part there is, requeues the rest and fails it.
        let device = LoopDevice::direct(2 * MIB);
        device.backing().set_len(MIB as u64).unwrap();
        let mut child = Child::new(|link| {
            let file = device.open_direct();
            let mut buffer = Buffer::new(64 * KIB);
            for i in 0..7 {
                // Half of it, or none, is still there.
                let at = MIB - 32 * KIB + i * 64 * KIB;
                let result = file.read_at(&mut buffer, at as u64);
                link.tell(result.err().map_or(0, |error| u64::try_from(error.raw_os_error().unwrap()).unwrap()));
            }
        });
        let (events, stat) = observe_device(&device, &mut child);
        assert_eq!(events.len(), 7);
        assert_eq!(stat, counted(&events, 0));
        assert!(events[0].queue_ns > 0, "it was requeued: {}", events[0]);
        for (i, event) in (0..7).zip(events) {
            let errno = i32::try_from(child.heard()).unwrap();
            assert_eq!(event.errno().unwrap_or(0), errno, "{event}");
            assert_eq!(
                (event.sector, event.nr_bytes as usize),
                ((MIB - 32 * KIB + i * 64 * KIB) as u64 / 512, 64 * KIB)
            );
            assert_eq!(event.pid, child.pid);
        }
    });
}

/// Runs the work in a child and returns the events that pass.
fn filtered(device: &LoopDevice, change: impl FnOnce(&mut Filter, &Child), work: impl FnOnce()) -> Vec<DiskEvent> {
    let mut child = Child::new(|_| work());
    let mut filter = on(device);
    change(&mut filter, &child);
    observe(DiskIoLoader::new(options(filter)), || child.run())
}

#[test]
fn process_filters_look_at_the_submitter() {
    unless_init_ran(|| {
        const READS: u64 = 23;
        let device = LoopDevice::new(MIB);
        let count =
            |change: fn(&mut Filter, &Child)| filtered(&device, change, || read_blocks(&device, READS)).len() as u64;
        assert_eq!(count(|_, _| {}), READS);
        assert_eq!(count(|filter, child| filter.pids = vec![1, child.pid]), READS);
        assert_eq!(count(|filter, _| filter.pids = vec![1, 2]), 0);
        let comm = || std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim().to_owned();
        let own =
            filtered(&device, |filter, _| filter.comms = vec!["x".into(), comm()], || read_blocks(&device, READS));
        assert_eq!(own.len() as u64, READS);
        assert_eq!(own[0].comm(), comm());
        assert_eq!(count(|filter, _| filter.comms = vec!["x".into()]), 0);
        // SAFETY: no arguments.
        let uid = unsafe { libc::getuid() };
        let own = filtered(&device, |filter, _| filter.uids = vec![uid], || read_blocks(&device, READS));
        assert_eq!(own.len() as u64, READS);
        assert_eq!(count(|filter, _| filter.uids = vec![4_242_424]), 0);
    });
}

#[test]
fn the_cgroup_filter_looks_at_the_submitter() {
    unless_init_ran(|| {
        const READS: u64 = 19;
        let device = LoopDevice::new(MIB);
        let (mine, other) = (Cgroup::new(&v2_mount(), "disk-mine"), Cgroup::new(&v2_mount(), "disk-other"));
        for (cgroup, expected) in [(&mine, READS), (&other, 0)] {
            let change = |filter: &mut Filter, child: &Child| {
                mine.add(child.pid);
                filter.cgroups = vec![cgroup.path.clone()];
            };
            let events = filtered(&device, change, || read_blocks(&device, READS));
            assert_eq!(events.len() as u64, expected);
        }
    });
}

#[test]
fn a_flush_passes_for_a_submitter_that_passes() {
    unless_init_ran(|| {
        let device = LoopDevice::new(MIB);
        let fsync = || device.open_direct().sync_data().unwrap();
        assert_eq!(filtered(&device, |filter, child| filter.pids = vec![child.pid], fsync).len(), 1);
        assert_eq!(filtered(&device, |filter, _| filter.pids = vec![1], fsync).len(), 0);
    });
}

#[test]
fn other_devices_are_filtered_out() {
    unless_init_ran(|| {
        let (device, other) = (LoopDevice::new(MIB), LoopDevice::new(MIB));
        let work = || {
            read_blocks(&device, 5);
            read_blocks(&other, 7);
        };
        assert_eq!(filtered(&device, |_, _| {}, work).len(), 5);
        assert_eq!(filtered(&other, |_, _| {}, work).len(), 7);
        assert_eq!(filtered(&device, |filter, _| filter.devices = vec![(4095, 1)], work).len(), 0);
        let refused = DiskIoLoader::new(options(Filter { devices: vec![(4096, 0)], ..Filter::default() })).load();
        assert!(refused.unwrap_err().to_string().contains("device 4096:0"));
    });
}

#[test]
fn errors_only_lets_only_errors_through() {
    unless_init_ran(|| {
        let device = LoopDevice::direct(2 * MIB);
        device.backing().set_len(MIB as u64).unwrap();
        let work = || {
            let file = device.open_direct();
            let mut buffer = Buffer::new(64 * KIB);
            for i in 0..32 {
                assert_eq!(file.read_at(&mut buffer, i * 64 * KIB as u64).is_ok(), i < 16);
            }
        };
        let events = filtered(&device, |filter, _| filter.errors_only = true, work);
        assert_eq!(events.len(), 16);
        assert!(events.iter().all(|event| event.errno() == Some(libc::EIO) && event.sector >= MIB as u64 / 512));
    });
}

#[test]
fn the_minimum_latency_counts_waiting_and_service() {
    unless_init_ran(|| {
        const READS: u64 = 251;
        let device = LoopDevice::new(512 * MIB);
        if !device.set_scheduler("mq-deadline") {
            return;
        }
        // A burst: each request waits for those before it, so the times spread evenly from nothing to that of the whole.
        let offsets: Vec<u64> = (0..READS).map(|i| i * MIB as u64 * 3 / 2).collect();
        let burst = || {
            let buffer = Buffer::new(MIB);
            read_at_once(&device.open_direct(), &buffer, MIB, &offsets);
        };
        let total = |event: &DiskEvent| event.latency_ns + event.queue_ns;
        let mut told_apart = false;
        for _ in 0..10 {
            let mut times: Vec<u64> = filtered(&device, |_, _| {}, burst).iter().map(total).collect();
            times.sort_unstable();
            let least = times[times.len() / 2];
            // Two loaders watch the same requests, one without the filter; each takes its own times.
            let mut child = Child::new(|_| burst());
            let filter = Filter { min_latency: Some(Duration::from_nanos(least)), ..on(&device) };
            let slow = Run::start(DiskIoLoader::new(options(filter)));
            let all: Vec<DiskEvent> = observe(DiskIoLoader::new(options(on(&device))), || child.run());
            let slow: BTreeMap<u64, u64> = slow
                .finish()
                .iter()
                .map(|raw| *raw.as_raw().decode_as::<DiskEvent>().unwrap())
                .map(|event| (event.sector, total(&event)))
                .collect();
            assert!(slow.values().all(|ns| *ns >= least));
            let margin = 1_000_000;
            for event in &all {
                match slow.contains_key(&event.sector) {
                    true => assert!(total(event) + margin >= least, "{event}"),
                    false => assert!(total(event) < least + margin, "{event}"),
                }
            }
            // The second burst may have been much quicker or slower than the first, on a busy machine.
            told_apart = !slow.is_empty() && slow.len() < all.len();
            if told_apart {
                break;
            }
        }
        assert!(told_apart, "in no burst some requests were slow and some were not");
        let reads = || read_blocks(&device, 11);
        let count = |least| filtered(&device, |filter, _| filter.min_latency = Some(least), reads).len();
        assert_eq!(count(Duration::from_nanos(1)), 11);
        assert_eq!(count(Duration::from_secs(3600)), 0);
    });
}

#[test]
fn its_own_requests_are_left_out_unless_asked_for() {
    unless_init_ran(|| {
        const READS: u64 = 17;
        let device = LoopDevice::new(MIB);
        // With a scheduler, a worker may hand to the device what others submitted.
        for (exclude_self, scheduler) in
            [(true, "none"), (true, "mq-deadline"), (false, "none"), (false, "mq-deadline")]
        {
            if !device.set_scheduler(scheduler) {
                continue;
            }
            let loader = DiskIoLoader::new(Options { exclude_self, ..options(on(&device)) });
            let events: Vec<DiskEvent> = observe(loader, || read_blocks(&device, READS));
            assert_eq!(events.len() as u64, if exclude_self { 0 } else { READS });
            assert!(events.iter().all(|event| event.pid == std::process::id()));
        }
    });
}

again! { before_6_5, without "block_io_start":
    heavy_parallel_traffic_counts_as_the_kernel_does
    buffered_writes_are_merged_and_counted_as_the_kernel_does
    waiting_in_the_scheduler_is_told_from_time_at_the_device
    without_a_scheduler_nothing_waits
    a_read_that_is_completed_in_parts_is_one_event
    process_filters_look_at_the_submitter
    the_cgroup_filter_looks_at_the_submitter
    a_flush_passes_for_a_submitter_that_passes
    its_own_requests_are_left_out_unless_asked_for
}
