use serde::{Deserialize, Serialize};

/// What a summary lost, counted in the kernel since the programs were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct SummaryLoss {
    /// Values that did not fit in a bounded map. Their source is not known, but totals include them.
    pub overflow: u64,
    /// Starts that could not be tracked, so that the durations are not known.
    pub untracked: u64,
    /// Runs that the kernel skipped because the program was already active on that CPU: it had interrupted itself or, since Linux 7.0
    /// (a46023d5616e), had been preempted.
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
