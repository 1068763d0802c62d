use std::fmt::Write as _;
use std::time::Duration;

use crate::output::alias;
use kerno::model::KernelVersion;
use kerno::{Counters, EventType, Handle};

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By the event type's number.
    written: [u64; EventType::NUMBERS],
    total: u64,
    undecodable: u64,
}

impl Tally {
    pub(super) fn add(&mut self, event_type: EventType) {
        self.total += 1;
        self.written[usize::from(u8::from(event_type))] += 1;
    }

    pub(super) fn add_undecodable(&mut self) {
        self.undecodable += 1;
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The line at the end.
    pub(super) fn summary(&self, handles: &[Handle], elapsed: Duration) -> String {
        let each: Vec<_> = handles.iter().map(|handle| (handle.event_type(), handle.counters())).collect();
        self.line(&each, elapsed, kerno::probe::running_kernel())
    }

    fn line(&self, each: &[(EventType, Counters)], elapsed: Duration, kernel: KernelVersion) -> String {
        let mut sum = Counters::default();
        for (_, counters) in each {
            sum += *counters;
        }
        let mut line = format!("{} events seen, {} lost", self.total, sum.lost);
        rare(&mut line, self.undecodable, "undecodable");
        rare(&mut line, sum.untracked, "untracked");
        rare(&mut line, sum.missed_runs, "missed");
        let _ = write!(line, ", {:.2} seconds", elapsed.as_secs_f64());
        if each.len() > 1 {
            let parts = each.iter().map(|(event_type, counters)| {
                let mut part = format!("{} {}", alias(*event_type), self.written[usize::from(u8::from(*event_type))]);
                if counters.lost > 0 {
                    let _ = write!(part, " ({} lost)", counters.lost);
                }
                part
            });
            let _ = write!(line, ": {}", parts.collect::<Vec<_>>().join(", "));
        }
        if sum.lost > 0 {
            line.push_str("; use a filter or a larger --ring-size to lose less");
        }
        if sum.missed_runs > 0 && kernel.preempts_programs() {
            line.push_str(
                "; missed: the kernel skips a program while another task is preempted inside it (since Linux 7.0)",
            );
        }
        line
    }
}

fn rare(line: &mut String, count: u64, what: &str) {
    if count > 0 {
        let _ = write!(line, ", {count} {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_what_is_not_zero() {
        let mut tally = Tally::default();
        tally.add(EventType::SyscallLatency);
        let clean = [(EventType::SyscallLatency, Counters { emitted: 1, ..Counters::default() })];
        let second = Duration::from_millis(1250);
        let old = KernelVersion::new(6, 18);
        assert_eq!(tally.line(&clean, second, old), "1 events seen, 0 lost, 1.25 seconds");
        let lossy = Counters { emitted: 9, lost: 2, untracked: 3, missed_runs: 4 };
        let both = [clean[0], (EventType::DiskIo, lossy)];
        tally.add_undecodable();
        let line = tally.line(&both, second, old);
        assert!(
            line.starts_with("1 events seen, 2 lost, 1 undecodable, 3 untracked, 4 missed, 1.25 seconds: "),
            "{line}"
        );
        assert!(line.contains("syscall 1, ") && line.contains(" 0 (2 lost)"), "{line}");
        assert!(!line.contains("7.0"), "{line}");
        assert!(tally.line(&both, second, KernelVersion::new(7, 0)).contains("; missed: the kernel skips"));
    }
}
