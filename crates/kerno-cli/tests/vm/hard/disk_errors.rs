//! A disk that fails one sector, through qemu's blkdebug.

use super::{findings, read_in_child, trace_of};
use crate::guest::watched;
use crate::truth::observer;

/// The sector that qemu was told of.
const BAD: u64 = 2048;

#[test]
fn each_failed_request_is_told_with_its_sector_and_error() {
    watched(|| {
        let mut observer = observer(&["disk_io"]);
        let run = trace_of("vdb");
        let sectors: Vec<u64> = (0..26).map(|number| if number % 2 == 0 { BAD } else { 8 * number }).collect();
        let (pid, reads) = read_in_child("/dev/vdb", &sectors.iter().map(|sector| sector * 512).collect::<Vec<_>>());
        for (read, sector) in reads.iter().zip(&sectors) {
            assert_eq!(read.error, (*sector == BAD).then_some(libc::EIO));
        }
        let failed = sectors.iter().filter(|sector| **sector == BAD).count();
        let events: Vec<kerno::DiskEvent> =
            run.finish().iter().map(|raw| *raw.as_raw().decode_as::<kerno::DiskEvent>().unwrap()).collect();
        assert_eq!(events.len(), 26);
        let bad: Vec<_> = events.iter().filter(|event| event.errno().is_some()).collect();
        assert_eq!(bad.len(), failed);
        for event in bad {
            assert_eq!((event.sector, event.errno(), event.pid), (BAD, Some(libc::EIO), pid));
        }
        let findings = findings(&observer.finish().unwrap());
        let finding = findings.iter().find(|finding| finding.id == "disk_errors");
        let titles: Vec<_> = findings.iter().map(|finding| (&finding.id, &finding.title)).collect();
        let finding = finding.unwrap_or_else(|| panic!("not among {titles:#?}"));
        assert!(finding.title.contains("vdb") && finding.title.contains(&failed.to_string()), "{}", finding.title);
    });
}
