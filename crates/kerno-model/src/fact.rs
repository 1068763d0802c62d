//! What a finding knows beyond numbers, as data: what others may match it by, and what its own words are made of.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{Address, NamedProcess, Unit};

/// What a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitsFor {
    /// A block device, through a file system or not.
    Storage,
    /// The server of a FUSE file system.
    Fuse,
    /// The server of a network file system.
    NetworkFileSystem,
    /// Memory that has to be reclaimed.
    Memory,
    /// A lock in the kernel.
    Lock,
    /// To be thawed: its cgroup is frozen.
    Thaw,
    /// The other end of a connection.
    Network,
    /// A CPU.
    Cpu,
    /// It is not known.
    #[serde(other)]
    Unknown,
}

/// How far a finding reaches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scope {
    /// The machine as a whole.
    Machine,
    /// A cgroup and what is below it, by its path.
    Cgroup(String),
    /// One process.
    Process,
}

/// What is done to storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// Data is read.
    Read,
    /// Data is written.
    Write,
    /// A device writes out its cache.
    Flush,
    /// Blocks are told to be unused.
    Discard,
    /// It is another, or not known which.
    #[serde(other)]
    Other,
}

/// A limit that is reached, or nearly.
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
    /// Another one.
    #[serde(other)]
    Other,
}

/// One thing that a finding knows. Other rules' findings are tied to it by these, never by words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fact {
    /// Calls ended with this error, a positive number.
    Errno(i32),
    /// It is about this system call.
    Call(String),
    /// Somebody waits for this.
    WaitsFor(WaitsFor),
    /// It reaches so far.
    Scope(Scope),
    /// This limit is reached, or so nearly that calls fail or wait.
    AtLimit(Limit),
    /// It is about this operation.
    Operation(Operation),
    /// What only this rule's own words need, by a name of the rule's.
    Detail {
        /// The name.
        name: Cow<'static, str>,
        /// What it is.
        value: Value,
    },
}

/// A detail of a finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Value {
    /// A number.
    Number {
        /// How much.
        value: f64,
        /// Of what.
        unit: Unit,
    },
    /// A name or path from the machine; may hold control characters.
    Text(String),
    /// A process.
    Process(NamedProcess),
    /// An address.
    Address(Address),
    /// It is so, or not.
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
