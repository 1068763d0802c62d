mod merge;
mod metrics;

use serde::{Deserialize, Serialize};

use crate::ErrnoCount;

/// File opens in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct FileSummary {
    /// Opens, failed ones too.
    pub opens: u64,
    /// Of these, failed, by error.
    pub errors: Vec<ErrnoCount>,
    /// Processes by opens and by failed opens. Bounded.
    pub processes: Vec<FileProcess>,
}

/// A process's opens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct FileProcess {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Opens, failed ones too.
    pub opens: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Of these, by error.
    pub errors: Vec<ErrnoCount>,
    /// The path of its last failed open as the process gave it, lossy and possibly cut; empty when there is none.
    pub last_failed_path: String,
    /// The error of that; 0 when there is none.
    pub last_errno: i32,
    /// The error's name.
    pub last_error: String,
    /// How many failed in a row on that same path, as far as counted: a retry storm has many.
    pub same_path: u64,
    /// How many failed on one of the last eight paths that had failed before: one that tries a few paths by turns has many, a search
    /// through many folders none.
    pub repeated: u64,
    /// When the first of the window failed: `CLOCK_MONOTONIC`, in nanoseconds; 0 when none did.
    pub first_failed_ns: u64,
}

impl FileSummary {
    /// The processes that it names; some more than once.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(|process| process.pid).collect()
    }
}
