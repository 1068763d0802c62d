use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    Device, DiskSummary, DnsSummary, FdSummary, FileSummary, HostFacts, KernelMessage, LifeSummary, LimitFailure,
    Merged, Moment, NamedProcess, OomSummary, Process, ProcessId, SchedSummary, Subject, SummaryLoss, SyscallSummary,
    TcpSummary,
};

/// Version of the serialised form of [`Window`] and of reports. Grows when a field changes its meaning or form, or is removed. See
/// [`saved`](crate::saved).
pub const SCHEMA_VERSION: u32 = 2;

/// Everything that was observed in one window. Rules judge nothing else, and this is what is saved. Counts are those of the window.
///
/// A part is `None` if its signal was not requested or could not run; [`missing`](Self::missing) then tells why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct Window {
    /// [`SCHEMA_VERSION`]
    pub schema_version: u32,
    /// The version of kerno that observed it; empty if it is not known.
    pub kerno_version: String,
    /// The machine.
    pub host: HostFacts,
    /// When and how long it was observed.
    pub span: Span,
    /// What could not be observed, and why.
    pub missing: Vec<Missing>,
    /// The cost of observing.
    pub cost: CostOfObserving,
    /// System calls.
    pub syscall_latency: Option<SyscallSummary>,
    /// TCP.
    pub tcp_monitor: Option<TcpSummary>,
    /// Memory.
    pub oom_track: Option<OomSummary>,
    /// Disks and file systems.
    pub disk_io: Option<DiskSummary>,
    /// CPUs, and tasks that wait for them.
    pub sched_delay: Option<SchedSummary>,
    /// File descriptors.
    pub fd_track: Option<FdSummary>,
    /// File opens.
    pub file_audit: Option<FileSummary>,
    /// DNS queries.
    pub dns_query: Option<DnsSummary>,
    /// Processes that begin and end.
    pub process_life: Option<LifeSummary>,
    /// Calls that failed with an error that a limit gives, and how full the limits were. Bounded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitFailure>,
    /// What the kernel wrote to its log, of the kinds that are known. Bounded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernel_messages: Vec<KernelMessage>,
    /// The processes that other parts name, and those that used the most.
    pub processes: BTreeMap<u32, Process>,
    /// Of a window that was [merged](Self::merge) of others: what of it is not exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merged: Option<Merged>,
}

impl Window {
    /// The names of the signals that were observed.
    pub fn observed(&self) -> Vec<&'static str> {
        let parts = [
            (self.syscall_latency.is_some(), "syscall_latency"),
            (self.tcp_monitor.is_some(), "tcp_monitor"),
            (self.oom_track.is_some(), "oom_track"),
            (self.disk_io.is_some(), "disk_io"),
            (self.sched_delay.is_some(), "sched_delay"),
            (self.fd_track.is_some(), "fd_track"),
            (self.file_audit.is_some(), "file_audit"),
            (self.dns_query.is_some(), "dns_query"),
            (self.process_life.is_some(), "process_life"),
        ];
        parts.into_iter().filter_map(|(there, name)| there.then_some(name)).collect()
    }

    /// A process by its id, if it is known.
    pub fn process(&self, pid: u32) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// The identity of a process.
    pub fn process_id(&self, pid: u32) -> ProcessId {
        let start_ns = self.process(pid).map_or(0, |process| process.started_ns);
        ProcessId { boot: self.host.boot_id.clone(), pid, start_ns }
    }

    /// A moment, from seconds since the start of the window.
    pub fn moment(&self, seconds: f64) -> Moment {
        self.span.moment(seconds)
    }

    /// A moment, from the clock of the kernel (`CLOCK_MONOTONIC`, in nanoseconds).
    pub fn moment_ns(&self, monotonic_ns: u64) -> Moment {
        self.span.moment_ns(monotonic_ns)
    }

    /// A process by its id, if that is the one that was seen by this name: in [merged](Self::merge) windows the id may be another process's
    /// by now.
    pub fn process_seen(&self, pid: u32, seen: &str) -> Option<&Process> {
        let reused = self.merged.as_ref().is_some_and(|merged| merged.reused_pids.contains(&pid));
        self.process(pid).filter(|process| !reused || seen.is_empty() || process.comm == seen)
    }

    /// The name of a process; `seen`, the name of the thread that was seen, if the process is not known.
    pub fn name_of<'a>(&'a self, pid: u32, seen: &'a str) -> &'a str {
        self.process_seen(pid, seen)
            .map(|process| process.comm.as_str())
            .filter(|comm| !comm.is_empty())
            .unwrap_or(seen)
    }

    /// How long was watched, in seconds: what rates are computed with. Never 0.
    pub fn seconds(&self) -> f64 {
        self.span.seconds.max(1e-3)
    }
}

/// What a window knows about those whom a finding names.
impl Subject {
    /// A process, with what the window knows about it. `comm`, the name that was seen, takes precedence unless it is empty.
    pub fn process(window: &Window, pid: u32, comm: &str) -> Self {
        let known = window.process_seen(pid, comm);
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        // Another process has its id by now: it has ended, and when it started is not known.
        let is_other = known.is_none() && window.process(pid).is_some();
        let id = window.process_id(pid);
        let named = NamedProcess {
            id: if is_other { ProcessId { start_ns: 0, ..id } } else { id },
            comm: text(comm).or_else(|| known.map(|process| process.comm.clone())).unwrap_or_default(),
            cmdline: known.and_then(|process| text(&process.cmdline)),
            user: known.and_then(|process| process.user.clone()),
            ended: is_other || known.is_some_and(|process| !process.alive),
        };
        Self {
            process: Some(named),
            cgroup: known.and_then(|process| process.cgroup.clone()),
            container: known.and_then(|process| process.container.clone()),
            unit: known.and_then(|process| process.unit.clone()),
            ..Self::default()
        }
    }

    /// A device, by `major:minor` or name.
    pub fn device(window: &Window, device: &str) -> Self {
        Self::default().on_device(window, device)
    }

    /// Adds a device, by `major:minor` or name.
    #[must_use]
    pub fn on_device(mut self, window: &Window, device: &str) -> Self {
        let known = window.disk_io.iter().flat_map(|disk| &disk.devices);
        let known = known.into_iter().find(|known| known.dev == device || known.name == device);
        self.device = Some(match known {
            Some(known) => Device { dev: known.dev.clone(), name: known.label().to_owned() },
            None => Device { dev: String::new(), name: device.to_owned() },
        });
        self
    }
}

/// When a window began and how long it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct Span {
    /// Its start, in seconds since 1970.
    pub started_unix: f64,
    /// Its start by `CLOCK_MONOTONIC`, in nanoseconds, as in events.
    pub started_ns: u64,
    /// For how long it was watched, in seconds.
    pub seconds: f64,
    /// Of merged windows: the time between them that was not watched, in seconds. Times in the window, such as those of series, go on
    /// through it; rates and shares are not of it.
    #[serde(skip_serializing_if = "is_zero")]
    pub unwatched_seconds: f64,
    /// The number of samples taken of what cannot be traced.
    pub samples: u32,
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times of a window, accurate to some hundred nanoseconds; negative ones become 0"
)]
impl Span {
    /// From its start to its end, in seconds, with what was not watched.
    pub const fn covered_seconds(&self) -> f64 {
        self.seconds + self.unwatched_seconds
    }

    /// The moment it ends.
    pub fn end(&self) -> Moment {
        self.moment(self.covered_seconds())
    }

    /// A moment, from seconds since the start of the window.
    pub fn moment(&self, seconds: f64) -> Moment {
        let monotonic_ns = (self.started_ns as f64 + seconds * 1e9) as u64;
        Moment { monotonic_ns, unix_ns: ((self.started_unix + seconds) * 1e9) as u64 }
    }

    /// A moment, from the clock of the kernel (`CLOCK_MONOTONIC`, in nanoseconds).
    pub fn moment_ns(&self, monotonic_ns: u64) -> Moment {
        let seconds = (monotonic_ns as f64 - self.started_ns as f64) / 1e9;
        Moment { monotonic_ns, unix_ns: ((self.started_unix + seconds) * 1e9) as u64 }
    }

    /// Seconds from the start of the window to a moment; negative before it.
    pub fn seconds_at(&self, moment: Moment) -> f64 {
        (moment.monotonic_ns as f64 - self.started_ns as f64) / 1e9
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn no_bytes(bytes: &u64) -> bool {
    *bytes == 0
}

/// Something that could not be observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct Missing {
    /// The signal, or "all" if it concerns every one.
    pub signal: String,
    /// The part of the signal, such as "direct reclaim per process", or "all".
    pub what: String,
    /// Why.
    pub reason: String,
}

/// What observing cost the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct CostOfObserving {
    /// CPU time of watching in this window, in seconds: of the thread that watches and of the threads that work for it.
    pub cpu_seconds: f64,
    /// Resident memory of this process at the end of the window.
    pub resident_bytes: u64,
    /// Kernel memory of the maps of all programs, in bytes; 0 if it is not measured, as below.
    #[serde(skip_serializing_if = "no_bytes")]
    pub kernel_bytes: u64,
    /// The time that each signal's programs took when that was last measured, as a share of all CPUs' time. Of programs that several signals
    /// share, the first has it all. Empty if it is not measured: only what watches within a budget does.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kernel_shares: BTreeMap<String, f64>,
    /// The signals that were not watched because their programs cost too much.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub detached: BTreeSet<String>,
    /// What the kernel side lost, by signal. Totals are correct nevertheless, but some sources are unknown.
    pub loss: BTreeMap<String, SummaryLoss>,
}
