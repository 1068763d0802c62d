use serde::{Deserialize, Serialize};

use crate::Series;

/// Descriptors in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FdSummary {
    /// Processes with many descriptors, near their limit, or with a growing number. Bounded.
    pub processes: Vec<FdProcess>,
    /// Descriptors of all processes, at each sample.
    pub open: Series,
    /// Files open in the machine (`fs.file-nr`), at each sample; fewer than descriptors where those are shared.
    pub files: Series,
    /// The most that may be (`fs.file-max`).
    pub files_max: u64,
}

/// A process's descriptors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FdProcess {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Open descriptors, at each sample; exact.
    pub open: Series,
    /// Its own limit (`RLIMIT_NOFILE`, soft).
    pub soft_limit: u64,
    /// How far it may raise that itself.
    pub hard_limit: u64,
    /// What the descriptors are, the kind that grew most first. Only for processes that are suspects.
    pub kinds: Vec<FdKind>,
}

/// Descriptors of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FdKind {
    /// socket, file, pipe, eventfd, epoll, timerfd, ...
    pub kind: String,
    /// How many now.
    pub count: u64,
    /// How many more than when it became a suspect; may be negative.
    pub growth: i64,
    /// Of the newest of them, the share that are duplicates (dup, fork within one table, `SCM_RIGHTS`) of others of them: the same open
    /// file, not just the same path. 0 to 1; 0 where the kernel does not tell (kcmp(2)).
    #[serde(default)]
    pub duplicated: f64,
    /// What some of them are, such as a path or `socket:[1234]`, the most frequent first. Bounded.
    pub examples: Vec<String>,
}

impl FdSummary {
    /// The processes that it names; some more than once.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(|process| process.pid).collect()
    }
}

impl FdProcess {
    /// Open descriptors at the window's end, as a share of the process's own limit.
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    pub fn share(&self) -> f64 {
        self.open.last().unwrap_or(0.0) / self.soft_limit.max(1) as f64
    }
}
