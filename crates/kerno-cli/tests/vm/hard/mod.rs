//! What a machine in use should be spared. In each: no panic, no complaint of the kernel, every event accounted for, and nothing left in
//! the kernel.

mod clock;
mod device_mapper;
mod disk_errors;
mod lost_disk;
mod memory;
mod network;
mod slow_disk;
mod stopped;
mod storm;

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::time::{Duration, Instant};

use kerno::model::Window;
use kerno::report::Diagnosis;
use kerno::{DiskIoLoader, Filter};

use crate::block::Buffer;
use crate::support::{Child, Run, monotonic_ns, options};

fn findings(signals: &Window) -> Vec<Diagnosis> {
    crate::support::diagnose(signals)
}

/// A disk for direct I/O: each read is one request.
fn open_disk(path: &str) -> File {
    // The kernel may still be about to make the node.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path) {
            Ok(file) => return file,
            Err(error) => assert!(Instant::now() < deadline, "{path}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A read as its caller sees it.
struct DirectRead {
    ns: u64,
    error: Option<i32>,
}

fn read_directly(disk: &File, offset: u64) -> DirectRead {
    let mut buffer = Buffer::new(4096);
    let begun = monotonic_ns();
    let error = match disk.read_at(&mut buffer, offset) {
        // A disk that is gone has no more bytes.
        Ok(bytes) => (bytes < buffer.len()).then_some(libc::ENODATA),
        Err(error) => error.raw_os_error(),
    };
    DirectRead { ns: monotonic_ns() - begun, error }
}

/// Reads one after another, in a child: what this process does itself is no news to programs of ours.
fn read_in_child(path: &str, offsets: &[u64]) -> (u32, Vec<DirectRead>) {
    let disk = open_disk(path);
    let mut child = Child::new(|link| {
        for offset in offsets {
            let read = read_directly(&disk, *offset);
            link.tell(read.ns);
            link.tell(read.error.map_or(0, |error| error.unsigned_abs().into()));
        }
        link.wait();
    });
    child.go();
    let mut heard = || {
        let (ns, error) = (child.heard(), child.heard());
        DirectRead { ns, error: (error > 0).then(|| i32::try_from(error).unwrap()) }
    };
    let reads = offsets.iter().map(|_| heard()).collect();
    child.go();
    assert_eq!(child.wait(), 0);
    (child.pid, reads)
}

/// A trace of one device, given as `/sys/block` has it.
fn trace_of(device: &str) -> Run<DiskIoLoader> {
    let number = crate::guest::read(&format!("/sys/block/{device}/dev"));
    let (major, minor) = number.split_once(':').unwrap();
    let devices = vec![(major.parse().unwrap(), minor.parse().unwrap())];
    Run::start(DiskIoLoader::new(options(Filter { devices, ..Filter::default() })))
}
