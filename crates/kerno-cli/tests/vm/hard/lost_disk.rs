//! A disk that is taken out of the machine while it is read.

use std::time::{Duration, Instant};

use super::{findings, open_disk, read_directly, trace_of};
use crate::command::kerno;
use crate::guest::{watched, write};
use crate::support::Child;
use crate::truth::{observer, traces_exactly};

#[test]
fn what_it_did_is_told_and_all_goes_on() {
    watched(|| {
        let disk = open_disk("/dev/vdb");
        let mut observer = observer(&["disk_io", "syscall_latency"]);
        let run = trace_of("vdb");
        let mut reader = Child::new(|link| {
            let (mut done, mut failed) = (0, 0);
            while failed < 3 {
                match read_directly(&disk, done % 1000 * 4096).error {
                    None => done += 1,
                    Some(_) => failed += 1,
                }
            }
            link.tell(done);
            link.wait();
        });
        drop(disk);
        reader.go();
        std::thread::sleep(Duration::from_secs(1));
        // It waits for what is on its way to the disk.
        let mut remover = Child::new(|_| write("/sys/block/vdb/device/../remove", "1"));
        remover.go();
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::path::Path::new("/sys/block/vdb").exists() {
            observer.sample().unwrap();
            assert!(Instant::now() < deadline, "the disk does not go");
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(remover.wait(), 0);
        let done = reader.heard();
        assert!(done > 0);
        let events = run.finish();
        let fine = events.iter().filter(|raw| raw.as_raw().decode_as::<kerno::DiskEvent>().unwrap().errno().is_none());
        assert_eq!(fine.count() as u64, done);
        let signals = observer.finish().unwrap();
        assert!(signals.processes.contains_key(&reader.pid), "who read is known");
        let _ = findings(&signals);
        reader.go();
        assert_eq!(reader.wait(), 0);
        traces_exactly(kerno);
    });
}
