//! Disks whose slowness is known: one that qemu lets do five requests a second, and one of the kernel's own that completes each after a
//! tenth of a second.

use super::{findings, read_in_child, trace_of};
use crate::guest::{modprobe, watched};
use crate::truth::observer;

/// Each request's latency is what its caller waited, but for the way there and back.
fn assert_latencies(path: &str, least_ns: u64) {
    const READS: u64 = 23;
    let run = trace_of(path.trim_start_matches("/dev/"));
    let (_, reads) = read_in_child(path, &(0..READS).map(|number| number * 4096).collect::<Vec<_>>());
    let events: Vec<kerno::DiskEvent> =
        run.finish().iter().map(|raw| *raw.as_raw().decode_as::<kerno::DiskEvent>().unwrap()).collect();
    assert_eq!(events.len(), reads.len());
    let mut slow = 0;
    for (event, read) in events.iter().zip(&reads) {
        assert!(event.latency_ns <= read.ns, "{event}: its caller waited {} ns", read.ns);
        slow += usize::from(event.latency_ns >= least_ns);
    }
    // A throttle lets the first ones pass.
    assert!(slow >= reads.len() * 3 / 4, "{slow} of {} took {least_ns} ns", reads.len());
    let (told, waited): (u64, u64) = (events.iter().map(|e| e.latency_ns).sum(), reads.iter().map(|r| r.ns).sum());
    assert!(told > waited / 10 * 9, "{told} ns of the {waited} that its caller waited");
}

#[test]
fn a_throttled_disk() {
    watched(|| {
        let mut observer = observer(&["disk_io"]);
        assert_latencies("/dev/vdb", 150_000_000);
        let signals = observer.finish().unwrap();
        let findings = findings(&signals);
        let titles: Vec<_> = findings.iter().map(|finding| (&finding.id, &finding.title)).collect();
        let finding = findings.iter().find(|finding| finding.id.starts_with("disk"));
        assert!(finding.is_some_and(|finding| finding.title.contains("vdb")), "{titles:#?}");
    });
}

#[test]
fn a_disk_of_known_latency() {
    watched(|| {
        // Completed by a timer (irqmode 2).
        modprobe(&["null_blk", "nr_devices=1", "queue_mode=2", "irqmode=2", "completion_nsec=100000000"]);
        assert_latencies("/dev/nullb0", 100_000_000);
    });
}
