use std::ops::{AddAssign, Sub};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What became of a signal's events, counted in the kernel since it was loaded.
///
/// `emitted == (records read) + (records waiting) + lost`, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Events that passed the filters.
    pub emitted: u64,
    /// Those of them that did not fit the ring.
    pub lost: u64,
    /// Starts that could not be stored (a full map, a slot taken by another thread) or whose end was not seen; they make no event.
    pub untracked: u64,
    /// How often the kernel skipped a program because it was already running on that CPU: interrupted, or since Linux 7.0 (a46023d5616e)
    /// preempted together with the task it ran for. Always 0 before Linux 5.12.
    pub missed_runs: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.emitted += other.emitted;
        self.lost += other.lost;
        self.untracked += other.untracked;
        self.missed_runs += other.missed_runs;
    }
}

impl Sub for Counters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            emitted: self.emitted.saturating_sub(earlier.emitted),
            lost: self.lost.saturating_sub(earlier.lost),
            untracked: self.untracked.saturating_sub(earlier.untracked),
            missed_runs: self.missed_runs.saturating_sub(earlier.missed_runs),
        }
    }
}

/// Mirror of `struct event_counters` in emit.h.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct WireCounters {
    pub(crate) emitted: u64,
    pub(crate) lost: u64,
    pub(crate) untracked: u64,
    pub(crate) overflow: u64,
}

// SAFETY: four u64 without padding; every bit pattern is valid.
unsafe impl aya::Pod for WireCounters {}
