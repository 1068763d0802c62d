//! Threads that stand still because others do not do their part.

use serde::{Deserialize, Serialize};

use crate::Address;
use crate::vocabulary::vocabulary;

vocabulary! {
    /// What has to happen for a thread to go on.
    StallNeed {
        /// Somebody has to read: what it writes to is full.
        Room = "room",
        /// Somebody has to write.
        Data = "data",
        /// Somebody has to release a lock.
        Release = "release",
        /// Somebody has to accept connections.
        Accept = "accept",
        /// A process or a thread has to end.
        End = "end",
        ..
        /// Something else.
        Other = "other"
    }
}

vocabulary! {
    /// What lies between a thread that waits and the one that has to act.
    AwaitedKind {
        /// A pipe.
        Pipe = "pipe",
        /// A named pipe.
        Fifo = "fifo",
        /// A Unix socket with a connection.
        UnixSocket = "unix_socket",
        /// A Unix socket for datagrams, such as `/dev/log`.
        UnixDatagrams = "unix_datagrams",
        /// The listener of a Unix socket.
        UnixListener = "unix_listener",
        /// A TCP connection within the machine.
        Tcp = "tcp",
        /// A terminal.
        Terminal = "terminal",
        /// A lock of flock(2).
        Flock = "flock",
        /// A lock of fcntl(2) or lockf(3).
        PosixLock = "posix_lock",
        /// A lock of an open file (`F_OFD_SETLK`).
        OfdLock = "ofd_lock",
        /// A lease that is to be broken.
        Lease = "lease",
        /// A mutex in the memory of a program.
        Mutex = "mutex",
        /// A thread.
        Thread = "thread",
        /// A child process.
        Child = "child",
        ..
        /// Something else.
        Other = "other"
    }
}

vocabulary! {
    /// What a process does while others wait for it.
    StandingState {
        /// It runs.
        Runs = "runs",
        /// It sleeps, and could be woken.
        Sleeps = "sleeps",
        /// It sleeps uninterruptibly (D).
        Blocked = "blocked",
        /// It was stopped by a signal (T).
        Stopped = "stopped",
        /// A debugger or the like holds it (t).
        Traced = "traced",
        /// Its cgroup is frozen.
        Frozen = "frozen",
        /// It has ended, and its parent has not asked for it.
        Zombie = "zombie",
        ..
        /// Not known.
        Unknown = "unknown"
    }
}

impl StandingState {
    /// It cannot go on by itself: somebody has to let it.
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Stopped | Self::Traced | Self::Frozen)
    }
}

/// What a thread waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Awaited {
    /// What has to happen.
    pub need: StallNeed,
    /// What it is.
    pub kind: AwaitedKind,
    /// Its path or name, if it has one: of a file, a named pipe, a terminal, a Unix socket.
    pub name: Option<String>,
    /// Its inode, or the address of a mutex; 0 if it has none.
    pub id: u64,
    /// The ends of a TCP connection: its own,
    pub local: Option<Address>,
    /// and the other one.
    pub remote: Option<Address>,
    /// Of a listener: connections that wait to be accepted.
    pub queued: u32,
    /// Of a listener: its backlog.
    pub backlog: u32,
    /// Of a lock: how many wait for it; 0 if that is not known.
    pub waiters: u32,
    /// How many other processes could act as well.
    pub others: u32,
}

/// A thread that others wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct StallStep {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// What it does.
    pub state: StandingState,
    /// Who traces it; 0 for nobody, or if it is not known.
    pub tracer: u32,
    /// The name of that process.
    pub tracer_comm: String,
    /// The cgroup that is frozen.
    pub cgroup: Option<String>,
    /// The file that thaws it.
    pub thaw_file: Option<String>,
    /// The call that it sleeps in.
    pub call: Option<String>,
    /// The kernel function that it sleeps in.
    pub wait_channel: Option<String>,
    /// Since when it has not run: `CLOCK_MONOTONIC`, in nanoseconds; 0 when it is not known, or it ran in the meantime.
    pub still_since_ns: u64,
    /// It has the terminal that it was started at: a person may be the one who is waited for.
    pub interactive: bool,
    /// What it waits for itself, from the next one.
    pub awaits: Option<Awaited>,
}

/// A thread that has stood still for long, and whom it waits for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Stall {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// For how long at least it has not run, in seconds; may be longer than the window.
    pub seconds: f64,
    /// When it fell asleep: `CLOCK_MONOTONIC`, in nanoseconds.
    pub since_ns: u64,
    /// Still asleep at the window's end.
    pub at_end: bool,
    /// The call that it sleeps in.
    pub call: String,
    /// What it waits for.
    pub awaits: Awaited,
    /// What it writes to got emptier or fuller meanwhile: somebody works on it, however slowly.
    pub moves: bool,
    /// From the one that it waits for to the one that all wait for. Bounded; empty if nobody was found.
    pub chain: Vec<StallStep>,
    /// The last of the chain is the thread itself, or was met before in the chain: a deadlock.
    pub deadlock: bool,
}

/// A process that cannot go on until somebody lets it: stopped, traced, frozen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct HeldProcess {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// How it is held.
    pub state: StandingState,
    /// Who traces it; 0 for nobody, or if it is not known.
    pub tracer: u32,
    /// The name of that process.
    pub tracer_comm: String,
    /// The cgroup that is frozen.
    pub cgroup: Option<String>,
    /// The file that thaws it.
    pub thaw_file: Option<String>,
    /// When it last ran, or was first seen so: `CLOCK_MONOTONIC`, in nanoseconds.
    pub since_ns: u64,
    /// For how long, in seconds.
    pub seconds: f64,
    /// Still so at the window's end.
    pub at_end: bool,
    /// Connections that wait to be accepted by it, at all of its listeners.
    pub queued: u32,
    /// The listener where most of them wait: the path of a Unix socket, or an address.
    pub listener: Option<String>,
}

/// The listener of a Unix socket that had no room for another connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct FullListener {
    /// Its path, or `@name`.
    pub name: String,
    /// Its inode.
    pub inode: u64,
    /// The processes that have it open. Bounded.
    pub holders: Vec<ListenerHolder>,
    /// The most connections that waited.
    pub queued: u32,
    /// Its backlog.
    pub backlog: u32,
    /// At how many looks it was full.
    pub full: u32,
    /// How often it was looked at.
    pub looks: u32,
}

/// A process that has a listener open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ListenerHolder {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
}

/// A thread that waited long for an answer of a DNS server: asleep until a UDP socket is ready that is connected to port 53, and that alone
/// or with one more. So the resolver of the C library asks; programs that ask in an event loop are not seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DnsWait {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The name of the process.
    pub comm: String,
    /// The server.
    pub server: Option<Address>,
    /// Network namespace, by inode number.
    pub net_namespace: u32,
    /// How long it has waited at least, in seconds.
    pub seconds: f64,
    /// When it fell asleep: `CLOCK_MONOTONIC`, in nanoseconds.
    pub since_ns: u64,
    /// Still asleep at the window's end.
    pub at_end: bool,
    /// The process that is the server, if it is in the same network namespace; else 0.
    pub server_pid: u32,
    /// Its name.
    pub server_comm: String,
    /// What it does.
    pub server_state: StandingState,
}

impl Stall {
    /// The one that all wait for.
    pub fn root(&self) -> Option<&StallStep> {
        self.chain.last()
    }
}
