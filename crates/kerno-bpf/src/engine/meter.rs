//! How much of the CPUs' time the programs take, by the kernel's own count. Counting makes each run of a program a little longer, so it is
//! done for the time between two samples, in each window once unless more is asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;

use super::loading::Running;
use crate::probe::sys;

/// Shorter spans say little of a load that comes in bursts.
const SHORTEST_NS: u64 = 150_000_000;

/// Each signal's programs' share of all CPUs' time. Of programs that several signals share, the first of these has it all.
pub(super) type Shares = BTreeMap<&'static str, f64>;

#[derive(Debug, Default)]
pub(super) struct Meter {
    counting: Option<Counting>,
    /// Why the kernel does not count.
    pub(super) refused: Option<String>,
}

#[derive(Debug)]
struct Counting {
    /// The kernel counts while this is open.
    _enabled: OwnedFd,
    began_ns: u64,
    /// What each program had when the span began.
    before: HashMap<u32, u64>,
}

impl Meter {
    /// Begins a span unless there is one.
    pub(super) fn begin(&mut self, now_ns: u64, running: &[Running]) {
        if self.counting.is_some() {
            return;
        }
        match sys::enable_run_time() {
            Ok(enabled) => {
                let before = run_times(running).map(|(_, time)| (time.program, time.ns)).collect();
                self.counting = Some(Counting { _enabled: enabled, began_ns: now_ns, before });
                self.refused = None;
            }
            Err(error) => self.refused = Some(reason(&error)),
        }
    }

    /// Ends the span, if it was long enough, and tells what came of it.
    pub(super) fn end(&mut self, now_ns: u64, running: &[Running]) -> Option<Shares> {
        let counting = self.counting.take_if(|counting| now_ns.saturating_sub(counting.began_ns) >= SHORTEST_NS)?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from).max(online_cpus());
        Some(counting.shares(now_ns, cpus, run_times(running)))
    }

    /// What was loaded changes: what was counted so far is of other programs.
    pub(super) fn forget(&mut self) {
        self.counting = None;
    }
}

impl Counting {
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    fn shares(&self, now_ns: u64, cpus: usize, times: impl Iterator<Item = (&'static str, sys::RunTime)>) -> Shares {
        let all_ns = now_ns.saturating_sub(self.began_ns).max(1) as f64 * cpus as f64;
        let mut told = BTreeSet::new();
        let mut shares = Shares::new();
        for (signal, time) in times {
            let share = shares.entry(signal).or_default();
            if let (true, Some(before)) = (told.insert(time.program), self.before.get(&time.program)) {
                *share += time.ns.saturating_sub(*before) as f64 / all_ns;
            }
        }
        shares
    }
}

fn run_times(running: &[Running]) -> impl Iterator<Item = (&'static str, sys::RunTime)> {
    running.iter().flat_map(|(info, sampler)| {
        let times = sampler.programs().map(crate::probe::SummaryPrograms::run_times).unwrap_or_default();
        times.into_iter().map(|time| (info.name, time))
    })
}

/// This process may be confined to some of them; the programs are not.
fn online_cpus() -> usize {
    // SAFETY: takes a number and returns one.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(online).unwrap_or(1)
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "the kernel counts how long programs run only for CAP_SYS_ADMIN".to_owned(),
        _ => format!("the kernel does not count how long programs run: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_signals_share_counts_once() {
        let enabled = std::fs::File::open("/dev/null").unwrap().into();
        let counting = Counting { _enabled: enabled, began_ns: 1_000, before: [(1, 500), (2, 0), (4, 0)].into() };
        let time = |program, ns| sys::RunTime { program, ns };
        let times = [
            ("calls", time(1, 10_000_500)),
            ("calls", time(2, 30_000_000)),
            ("files", time(2, 30_000_000)),
            // One that was not there when the span began.
            ("files", time(3, 77_000_000)),
            ("disks", time(4, 1_000_000)),
        ];
        let shares = counting.shares(500_001_000, 2, times.into_iter());
        let expected: Shares = [("calls", 0.04), ("files", 0.0), ("disks", 0.001)].into();
        assert_eq!(shares.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        assert!(shares.iter().all(|(signal, share)| (share - expected[signal]).abs() < 1e-9), "{shares:?}");
    }
}
