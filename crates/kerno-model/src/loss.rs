use serde::{Deserialize, Serialize};

/// What a summary could not hold or follow, counted in the kernel since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct SummaryLoss {
    /// Values that found no room in a bounded map: who caused them is not known, totals have them all the same.
    pub overflow: u64,
    /// Starts that could not be remembered, so that their duration is not known.
    pub untracked: u64,
    /// Times the kernel skipped a program on a CPU because it was in the middle of it there: it had interrupted itself or, since Linux 7.0
    /// (a46023d5616e), been preempted with the task it ran for.
    pub missed_runs: u64,
}

impl std::ops::Sub for SummaryLoss {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            overflow: self.overflow.saturating_sub(earlier.overflow),
            untracked: self.untracked.saturating_sub(earlier.untracked),
            missed_runs: self.missed_runs.saturating_sub(earlier.missed_runs),
        }
    }
}
