//! What a machine in use should be spared. In each: no panic, no complaint of the kernel, every event accounted for, and nothing left in
//! the kernel.

mod clock;
mod disk_errors;
mod lost_disk;
mod memory;
mod network;
mod slow_disk;
mod storm;
mod suspend;

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::time::{Duration, Instant};

use kerno::doctor::{Finding, Thresholds, judge};
use kerno::summary::Signals;
use kerno::{DiskIoLoader, Filter};

use crate::block::Buffer;
use crate::support::{Run, monotonic_ns, options};

fn findings(signals: &Signals) -> Vec<Finding> {
    judge(signals, &Thresholds::default())
}

/// Direct I/O on a disk: each read is one request.
struct Disk(File);

/// A read as its caller sees it.
struct Read {
    ns: u64,
    error: Option<i32>,
}

impl Disk {
    fn open(path: &str) -> Self {
        // The kernel may still be about to make the node.
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path) {
                Ok(file) => return Self(file),
                Err(error) => assert!(Instant::now() < deadline, "{path}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn read(&self, offset: u64) -> Read {
        let mut buffer = Buffer::new(4096);
        let begun = monotonic_ns();
        let result = self.0.read_at(&mut buffer, offset);
        Read { ns: monotonic_ns() - begun, error: result.err().and_then(|error| error.raw_os_error()) }
    }
}

/// A trace of one device, given as `/sys/block` has it.
fn trace_of(device: &str) -> Run<DiskIoLoader> {
    let number = crate::guest::read(&format!("/sys/block/{device}/dev"));
    let (major, minor) = number.split_once(':').unwrap();
    let devices = vec![(major.parse().unwrap(), minor.parse().unwrap())];
    Run::start(DiskIoLoader::new(options(Filter { devices, ..Filter::default() })))
}
