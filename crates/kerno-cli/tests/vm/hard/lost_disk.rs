//! A disk that is taken out of the machine while it is read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Disk, findings, trace_of};
use crate::guest::{ask_qemu, watched};
use crate::truth::{observer, traces_exactly};

#[test]
fn what_it_did_is_told_and_all_goes_on() {
    watched(|| {
        let disk = Disk::open("/dev/vdb");
        let mut observer = observer(&["disk_io", "syscall_latency"]);
        let run = trace_of("vdb");
        let gone = AtomicBool::new(false);
        let (done, failed) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut done, mut failed) = (0, 0);
                while !gone.load(Ordering::Relaxed) {
                    match disk.read(done % 1000 * 4096).error {
                        None => done += 1,
                        Some(_) => failed += 1,
                    }
                    std::thread::sleep(Duration::from_millis(if failed > 0 { 50 } else { 0 }));
                }
                (done, failed)
            });
            std::thread::sleep(Duration::from_secs(1));
            ask_qemu("device_del second");
            let deadline = Instant::now() + Duration::from_secs(60);
            while std::path::Path::new("/sys/block/vdb").exists() {
                observer.sample().unwrap();
                assert!(Instant::now() < deadline, "the disk does not go");
                std::thread::sleep(Duration::from_millis(200));
            }
            std::thread::sleep(Duration::from_secs(1));
            gone.store(true, Ordering::Relaxed);
            reader.join().unwrap()
        });
        assert!(done > 0 && failed > 0, "{done} reads, {failed} failed");
        let events = run.finish();
        let fine = events.iter().filter(|raw| {
            let event = raw.as_raw().decode_as::<kerno::DiskEvent>().unwrap();
            event.errno().is_none()
        });
        assert_eq!(fine.count() as u64, done);
        let _ = findings(&observer.finish().unwrap());
        drop(observer);
        drop(disk);
        traces_exactly(crate::command::kerno);
    });
}
