//! Where the time of processes went, and whom they wait for: what `kerno why` tells.

use serde::{Deserialize, Serialize};

use crate::Missing;

/// What time was spent in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TimeKind {
    /// On a CPU, in the program.
    CpuUser,
    /// On a CPU, in the kernel.
    CpuSystem,
    /// Could run, and waited for a CPU.
    CpuWait,
    /// Could run, and was held back by the CPU quota of its cgroup.
    Throttled,
    /// Waited for storage: reads, writes, flushes, locks of pages and journals.
    Disk,
    /// Waited for memory: reclaim, swap, a limit.
    Memory,
    /// Waited for a lock: of the program (futex), of a file, of the kernel.
    Lock,
    /// Waited for another thread to wake it, or to end.
    Thread,
    /// Waited at a pipe or FIFO.
    Pipe,
    /// Waited for the other end of a Unix socket.
    UnixSocket,
    /// Waited for the other end of a TCP connection.
    Tcp,
    /// Waited for an answer over UDP.
    Udp,
    /// Waited for an event: an eventfd or the like, while it owed somebody an answer.
    Event,
    /// Waited for a child, or in vfork.
    Child,
    /// Stopped by a signal.
    Stopped,
    /// Stopped by a tracer.
    Traced,
    /// In a frozen cgroup.
    Frozen,
    /// Waited for the server of a FUSE file system.
    Fuse,
    /// Waited for the server of a network file system.
    NetworkFs,
    /// Waited for a fanotify listener to permit an access.
    Fanotify,
    /// Waited for whoever serves its page faults (userfaultfd).
    Userfault,
    /// Slept as long as it asked for.
    Timer,
    /// Waited for work, and there was none.
    Idle,
    /// None of these, or unknown.
    #[default]
    Other,
}

impl TimeKind {
    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CpuUser => "cpu_user",
            Self::CpuSystem => "cpu_system",
            Self::CpuWait => "cpu_wait",
            Self::Throttled => "throttled",
            Self::Disk => "disk",
            Self::Memory => "memory",
            Self::Lock => "lock",
            Self::Thread => "thread",
            Self::Pipe => "pipe",
            Self::UnixSocket => "unix_socket",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Event => "event",
            Self::Child => "child",
            Self::Stopped => "stopped",
            Self::Traced => "traced",
            Self::Frozen => "frozen",
            Self::Fuse => "fuse",
            Self::NetworkFs => "network_fs",
            Self::Fanotify => "fanotify",
            Self::Userfault => "userfault",
            Self::Timer => "timer",
            Self::Idle => "idle",
            Self::Other => "other",
        }
    }

    /// Whether it was on a CPU.
    pub const fn on_cpu(self) -> bool {
        matches!(self, Self::CpuUser | Self::CpuSystem)
    }
}

/// A process, as an answer names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct WhyProcess {
    /// The process.
    pub pid: u32,
    /// Its name; empty if it is not known.
    pub comm: String,
}

/// What is waited for, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct WaitedFor {
    /// The process that could end it; several where any of them could.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<WhyProcess>,
    /// The thread, where one is known: who holds the lock, who woke it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    /// The object: a path, an address, `pipe:[123]`, `futex 0x7f...`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// The system call.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub call: String,
    /// The function of the kernel in which it slept.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// The block device.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// More words: the cgroup of a quota, what a lock is of.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// A part of a thread's time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct Spent {
    /// What in.
    pub kind: TimeKind,
    /// How long, in seconds.
    pub seconds: f64,
    /// How many times; 0 where that is not counted.
    pub count: u64,
    /// The longest one, in seconds; 0 where that is not known.
    pub longest_seconds: f64,
    /// On what.
    pub on: WaitedFor,
}

/// All of a thread's time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct ThreadTime {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The thread's name.
    pub comm: String,
    /// How long it was watched while it lived, in seconds.
    pub wall_seconds: f64,
    /// What that was spent in, the most first. Adds up to `wall_seconds`.
    pub spent: Vec<Spent>,
}

/// A step of the chain from the target to the root.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct WhyLink {
    /// The process; `None` for what is no process of this machine.
    pub pid: Option<u32>,
    /// The thread that waits most.
    pub tid: Option<u32>,
    /// The process's name.
    pub comm: String,
    /// What most of its time went into that was not idle.
    pub kind: TimeKind,
    /// The share of the thread's time, 0 to 1.
    pub share: f64,
    /// The same in seconds.
    pub seconds: f64,
    /// On what.
    pub on: WaitedFor,
}

/// The answer of `kerno why`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct WhyReport {
    /// What was asked for, such as `nginx` or `port 5432`.
    pub target: String,
    /// When watching began, in nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// How long, in seconds.
    pub seconds: f64,
    /// The target's threads, those that waited most first.
    pub threads: Vec<ThreadTime>,
    /// The threads of other processes that were followed because the target waits for them.
    pub others: Vec<ThreadTime>,
    /// From the target to the root: each waits for the next.
    pub chain: Vec<WhyLink>,
    /// Where the chain ends: what has to change for the target to go on. `None` when the target waits for nothing but work.
    pub root: Option<WhyLink>,
    /// Whether the chain comes back to where it was: a deadlock, or two that wait for each other in turn.
    pub cycle: bool,
    /// What could not be seen, and why.
    pub missing: Vec<Missing>,
}
