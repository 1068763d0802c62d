//! Devices of the device mapper have no requests: what they do to their users shows in the calls, and what they send to the disks below
//! shows there.

use kerno::{DiskEvent, DiskIoLoader, Filter};

use super::read_in_child;
use crate::block::{LoopDevice, MIB};
use crate::guest::{modprobe, watched};
use crate::mapper::{Mapped, Target};
use crate::support::{Run, options};
use crate::truth::observer;

const SECTORS: u64 = 8192;

fn below(device: &LoopDevice) -> Run<DiskIoLoader> {
    Run::start(DiskIoLoader::new(options(Filter { devices: vec![device.dev()], ..Filter::default() })))
}

fn events_of(run: Run<DiskIoLoader>) -> Vec<DiskEvent> {
    run.finish().iter().map(|raw| *raw.as_raw().decode_as::<DiskEvent>().unwrap()).collect()
}

#[test]
fn a_delay_above_the_disk_is_the_calls_and_not_the_disks() {
    const DELAY_NS: u64 = 200_000_000;
    const READS: usize = 7;
    watched(|| {
        modprobe(&["dm-delay"]);
        let disk = LoopDevice::new(4 * MIB);
        let (major, minor) = disk.dev();
        let arguments = format!("{major}:{minor} 0 {}", DELAY_NS / 1_000_000);
        let mapped = Mapped::new("kerno-delay", &[Target { sectors: SECTORS, kind: "delay", arguments: &arguments }]);
        let mut observer = observer(&["syscall_latency"]);
        let run = below(&disk);
        let offsets: Vec<u64> = (0..READS as u64).map(|number| number * 65_536).collect();
        let (pid, reads) = read_in_child(&mapped.path(), &offsets);
        let events = events_of(run);
        // What looks at new disks may read them, too.
        let of_offset = |offset: u64| events.iter().find(move |event| event.sector == offset / 512);
        for (read, offset) in reads.iter().zip(&offsets) {
            let event = of_offset(*offset).expect("the disk below was read");
            assert!(read.error.is_none() && read.ns >= DELAY_NS);
            // The delay comes before the disk has anything to do.
            assert!(event.latency_ns <= read.ns - DELAY_NS, "{event}: its caller waited {} ns", read.ns);
        }
        let signals = observer.finish().unwrap();
        let offenders = &signals.syscall_latency.as_ref().unwrap().offenders;
        let calls = offenders.iter().find(|offender| offender.pid == pid && offender.name == "pread64");
        let calls = calls.unwrap_or_else(|| panic!("not among {offenders:#?}"));
        assert_eq!(calls.slow, READS as u64);
        assert!(calls.max_ns >= DELAY_NS && calls.slow_total_ns <= reads.iter().map(|read| read.ns).sum());
    });
}

#[test]
fn an_error_above_the_disk_is_the_calls_and_not_the_disks() {
    watched(|| {
        modprobe(&["dm-mod"]);
        let disk = LoopDevice::new(4 * MIB);
        let (major, minor) = disk.dev();
        let arguments = format!("{major}:{minor} 0");
        let half = SECTORS / 2;
        let mapped = Mapped::new(
            "kerno-error",
            &[
                Target { sectors: half, kind: "linear", arguments: &arguments },
                Target { sectors: half, kind: "error", arguments: "" },
            ],
        );
        let mut observer = observer(&["syscall_latency"]);
        let run = below(&disk);
        let (good, bad) = (65_536, half * 512 + 65_536);
        let (pid, reads) = read_in_child(&mapped.path(), &[good, bad, good, bad, bad]);
        let errors: Vec<_> = reads.iter().map(|read| read.error).collect();
        let io_error = Some(libc::EIO);
        assert_eq!(errors, [None, io_error, None, io_error, io_error]);
        let events = events_of(run);
        assert!(events.iter().all(|event| event.errno().is_none() && event.sector < half), "{events:#?}");
        assert_eq!(events.iter().filter(|event| event.pid == pid && event.sector == good / 512).count(), 2);
        let signals = observer.finish().unwrap();
        let offenders = &signals.syscall_latency.as_ref().unwrap().offenders;
        let calls = offenders.iter().find(|offender| offender.pid == pid && offender.name == "pread64");
        let calls = calls.unwrap_or_else(|| panic!("not among {offenders:#?}"));
        let failed: Vec<_> = calls.errors.iter().map(|error| (error.errno, error.count)).collect();
        assert_eq!(failed, [(libc::EIO, 3)]);
    });
}
