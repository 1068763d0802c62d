//! What a finding knows besides measurements, as data. Correlation matches findings by facts, and rules make words from them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::vocabulary::vocabulary;
use crate::{Address, NamedProcess, RequestKind, Unit};

vocabulary! {
    /// What a task waits for.
    WaitsFor {
        /// A reply from the server of a FUSE file system.
        Fuse = "fuse",
        /// A reply from an NFS server.
        Nfs = "nfs",
        /// A reply from an SMB server.
        Smb = "smb",
        /// A frozen file system to be thawed.
        Thaw = "thaw",
        /// Memory to be reclaimed.
        Memory = "memory",
        /// A page of a file that another task has locked.
        PageLock = "page_lock",
        /// A block device, through a file system or directly.
        Storage = "storage",
        /// A lock in the kernel.
        Lock = "lock",
        /// The other end of a connection.
        Network = "network",
        /// A CPU.
        Cpu = "cpu",
        ..
        /// Not known.
        Unknown = "unknown"
    }
}

/// How far a finding reaches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scope {
    /// The whole machine.
    Machine,
    /// A cgroup and everything below it, by path.
    Cgroup(String),
    /// One process.
    Process,
}

/// A limit that is reached or nearly reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Limit {
    /// File descriptors of a process (`RLIMIT_NOFILE`).
    Descriptors,
    /// Open files of the machine (`fs.file-max`).
    OpenFiles,
    /// I/O of a cgroup (`io.max`, `blkio.throttle`).
    CgroupIo,
    /// CPU time of a cgroup (`cpu.max`, `cpu.cfs_quota_us`).
    CgroupCpu,
    /// Memory of a cgroup (`memory.max`, `memory.high`, `memory.limit_in_bytes`).
    CgroupMemory,
    /// Memory of the machine.
    Memory,
    /// Bytes of a file system.
    FileSystemBytes,
    /// Inodes of a file system.
    FileSystemInodes,
    /// The queue of a listening socket.
    AcceptQueue,
    /// Another limit.
    #[serde(other)]
    Other,
}

/// Something that a finding knows. Findings of other rules are tied to it by facts, never by words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fact {
    /// Calls failed with this error, a positive number.
    Errno(i32),
    /// It is about this system call.
    Call(String),
    /// A task waits for this.
    WaitsFor(WaitsFor),
    /// How far it reaches.
    Scope(Scope),
    /// This limit is reached, or so nearly that calls fail or wait.
    AtLimit(Limit),
    /// It is about this operation.
    Operation(RequestKind),
    /// Something that only the words of the rule itself need.
    Detail {
        /// Its name within the rule.
        name: Cow<'static, str>,
        /// Its value.
        value: Value,
    },
}

/// The value of a detail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Value {
    /// A number.
    Number {
        /// The number.
        value: f64,
        /// Its unit.
        unit: Unit,
    },
    /// A name or path from the machine; may contain control characters.
    Text(String),
    /// A process.
    Process(NamedProcess),
    /// An address.
    Address(Address),
    /// Whether something is true.
    Flag(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<(f64, Unit)> for Value {
    fn from((value, unit): (f64, Unit)) -> Self {
        Self::Number { value, unit }
    }
}

impl From<Address> for Value {
    fn from(address: Address) -> Self {
        Self::Address(address)
    }
}

impl From<NamedProcess> for Value {
    fn from(process: NamedProcess) -> Self {
        Self::Process(process)
    }
}
