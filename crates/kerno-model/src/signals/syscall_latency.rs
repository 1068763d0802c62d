mod merge;
mod metrics;

use serde::{Deserialize, Serialize};

use crate::{ErrnoCount, Histogram};

/// System calls in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct SyscallSummary {
    /// Calls that returned, all together.
    pub calls: u64,
    /// Each system call that was made.
    pub syscalls: Vec<SyscallStat>,
    /// Processes with calls that were slow or failed in a way that is not normal life, the worst first. Bounded.
    pub offenders: Vec<SyscallOffender>,
    /// Processes that asked for their data to be on storage (fsync, fdatasync, msync, sync, ...), by time spent. Bounded.
    pub syncs: Vec<SyncStat>,
}

/// One system call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct SyscallStat {
    /// Its name, or `syscall_N`.
    pub name: String,
    /// Its number.
    pub nr: u32,
    /// Made through the 32-bit table.
    pub compat: bool,
    /// It waits by design (epoll_wait, futex, nanosleep, ...), so that a long one is no symptom.
    pub waits: bool,
    /// How many returned.
    pub calls: u64,
    /// How many failed, by error.
    pub errors: Vec<ErrnoCount>,
    /// How long they took, in nanoseconds.
    pub latency: Histogram,
}

/// What one process had of one system call that was slow, or failed abnormally.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct SyscallOffender {
    /// The process.
    pub pid: u32,
    /// The name of the task that was last seen making it.
    pub comm: String,
    /// The call's name.
    pub name: String,
    /// The call's number.
    pub nr: u32,
    /// Made through the 32-bit table.
    pub compat: bool,
    /// How many took longer than `slow_ns`.
    pub slow: u64,
    /// What counted as slow, in nanoseconds.
    pub slow_ns: u64,
    /// Time in those, in nanoseconds.
    pub slow_total_ns: u64,
    /// The longest of them, in nanoseconds.
    pub max_ns: u64,
    /// When the first one that was slow or failed returned: `CLOCK_MONOTONIC`, in nanoseconds; 0 when not known.
    pub first_ns: u64,
    /// Failures that are not normal life, by error.
    pub errors: Vec<ErrnoCount>,
    /// The worst calls themselves. Bounded.
    pub exemplars: Vec<SyscallExemplar>,
}

/// A system call kept as evidence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct SyscallExemplar {
    /// When it returned: `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// The thread.
    pub tid: u32,
    /// How long it took, in nanoseconds.
    pub latency_ns: u64,
    /// What it returned: a negative errno on failure.
    pub ret: i64,
}

/// A process's calls to put data on storage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct SyncStat {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// How many calls.
    pub calls: u64,
    /// Time in them, in nanoseconds.
    pub total_ns: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
    /// When the first of the window returned: `CLOCK_MONOTONIC`, in nanoseconds.
    pub first_ns: u64,
}

impl SyscallSummary {
    /// The processes that it names; some more than once.
    pub fn pids(&self) -> Vec<u32> {
        let offenders = self.offenders.iter().map(|offender| offender.pid);
        offenders.chain(self.syncs.iter().map(|sync| sync.pid)).collect()
    }

    /// The counts of a call by its name, both tables together.
    pub fn by_name<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a SyscallStat> + 'a {
        self.syscalls.iter().filter(move |stat| stat.name == name)
    }
}
