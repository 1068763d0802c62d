use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    DiskSummary, FdSummary, FileSummary, HostFacts, OomSummary, Process, SchedSummary, SummaryLoss, SyscallSummary,
    TcpSummary,
};

/// Version of the serialised form of [`Window`] and of reports; grows when a field changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything that was observed in one window: the only thing that rules judge, and what is saved. Counts are of the window.
///
/// A part is `None` when its signal was not asked for or could not run; [`missing`](Self::missing) then says why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// [`SCHEMA_VERSION`]
    pub schema_version: u32,
    /// The machine.
    pub host: HostFacts,
    /// When, and for how long.
    pub span: Span,
    /// What could not be observed, and why.
    pub missing: Vec<Missing>,
    /// What observing cost.
    pub cost: CostOfObserving,
    /// System calls.
    pub syscall_latency: Option<SyscallSummary>,
    /// TCP.
    pub tcp_monitor: Option<TcpSummary>,
    /// Memory.
    pub oom_track: Option<OomSummary>,
    /// Disks and file systems.
    pub disk_io: Option<DiskSummary>,
    /// CPUs and those that wait for them.
    pub sched_delay: Option<SchedSummary>,
    /// Descriptors.
    pub fd_track: Option<FdSummary>,
    /// Opens.
    pub file_audit: Option<FileSummary>,
    /// Who is who: each process that another part names, and those that used most.
    pub processes: BTreeMap<u32, Process>,
}

impl Window {
    /// The signals that were observed, by name.
    pub fn observed(&self) -> Vec<&'static str> {
        let parts = [
            (self.syscall_latency.is_some(), "syscall_latency"),
            (self.tcp_monitor.is_some(), "tcp_monitor"),
            (self.oom_track.is_some(), "oom_track"),
            (self.disk_io.is_some(), "disk_io"),
            (self.sched_delay.is_some(), "sched_delay"),
            (self.fd_track.is_some(), "fd_track"),
            (self.file_audit.is_some(), "file_audit"),
        ];
        parts.into_iter().filter_map(|(there, name)| there.then_some(name)).collect()
    }

    /// A process by its id, if it is known.
    pub fn process(&self, pid: u32) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// A process's name; `seen`, the name of the thread that was seen, where the process is not known.
    pub fn name_of<'a>(&'a self, pid: u32, seen: &'a str) -> &'a str {
        self.process(pid).map(|process| process.comm.as_str()).filter(|comm| !comm.is_empty()).unwrap_or(seen)
    }

    /// The length of the window in seconds, never 0.
    pub fn seconds(&self) -> f64 {
        self.span.seconds.max(1e-3)
    }
}

/// When a window began and how long it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Span {
    /// Its begin: seconds since 1970.
    pub started_unix: f64,
    /// Its begin: `CLOCK_MONOTONIC`, in nanoseconds, as events have it.
    pub started_ns: u64,
    /// Its length in seconds.
    pub seconds: f64,
    /// Samples taken of what only shows by looking.
    pub samples: u32,
}

/// Something that was to be observed and was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Missing {
    /// The signal, or "all" when it concerns each.
    pub signal: String,
    /// What of it: "all", or a part such as "direct reclaim per process".
    pub what: String,
    /// Why.
    pub reason: String,
}

/// What observing cost this machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CostOfObserving {
    /// CPU time of watching in this window, in seconds: of the thread that watches and of those that look things up for it.
    pub cpu_seconds: f64,
    /// Resident memory of this process at the window's end.
    pub resident_bytes: u64,
    /// What the kernel side could not hold, by signal. Totals are right all the same; who was behind is then partly unknown.
    pub loss: BTreeMap<String, SummaryLoss>,
}
