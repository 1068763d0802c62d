//! What was observed of threads: what the accounts are made of. All ids are those of the initial pid namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kerno_model::{Missing, WhyProcess};

/// All that was observed.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// What was asked for, in words.
    pub target: String,
    /// When watching began, in nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// For how long, in seconds.
    pub seconds: f64,
    /// The processes that were asked about.
    pub targets: BTreeSet<u32>,
    /// Threads of these, and of the processes that were followed from them.
    pub threads: Vec<ObservedThread>,
    /// Names of processes.
    pub names: BTreeMap<u32, String>,
    /// Who used which block device.
    pub disks: Vec<DiskUse>,
    /// What could not be seen.
    pub missing: Vec<Missing>,
}

/// A thread while it was watched.
#[derive(Clone, Debug, Default)]
pub struct ObservedThread {
    /// Its process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The process that forked its process while it was watched.
    pub parent: Option<u32>,
    /// Its name.
    pub comm: String,
    /// How long it was watched, in nanoseconds.
    pub wall_ns: u64,
    /// On a CPU in the program, in nanoseconds.
    pub user_ns: u64,
    /// On a CPU in the kernel, in nanoseconds.
    pub system_ns: u64,
    /// Held back by a quota, in nanoseconds.
    pub throttled_ns: u64,
    /// The cgroup that it belongs to, for the quota.
    pub cgroup: String,
    /// Waits for a CPU: the process that left it when the wait ended (0 where it was idle), and nanoseconds.
    pub cpu_waits: Vec<(u32, u64)>,
    /// It is the only thread of its process.
    pub alone: bool,
    /// Connections as a client on which nothing moved while it was watched; of the only thread of a process.
    pub silent: Vec<Object>,
    /// Its sleeps. One that has not ended is among them.
    pub sleeps: Vec<ObservedSleep>,
}

/// Sleeps of a thread that are alike.
#[derive(Clone, Debug, Default)]
pub struct ObservedSleep {
    /// The system call; `None` for a page fault and the like.
    pub call: Option<&'static str>,
    /// What it is about.
    pub object: Object,
    /// Stopped, traced or frozen.
    pub held: Held,
    /// Uninterruptibly.
    pub deeply: bool,
    /// An answer to what it has sent is outstanding.
    pub awaits: bool,
    /// It owes somebody an answer.
    pub owes: bool,
    /// It waits for the end of `other`.
    pub joins: bool,
    /// The thread that holds the lock or that it waits for: process and thread.
    pub other: Option<(u32, u32)>,
    /// Who ended the sleep.
    pub waker: Option<(u32, u32)>,
    /// The functions of the kernel that it slept in, innermost first. Empty where the call says enough.
    pub frames: Arc<[String]>,
    /// How many.
    pub count: u64,
    /// Their length in all, in nanoseconds.
    pub ns: u64,
    /// The longest, in nanoseconds.
    pub longest_ns: u64,
}

/// Kept from running by somebody else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Held {
    /// No.
    #[default]
    No,
    /// Stopped by a signal.
    Stopped,
    /// By a tracer: its process.
    Traced(u32),
    /// In a frozen cgroup: its path, if it is known.
    Frozen(String),
}

/// What a sleep is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Object {
    /// Unknown: the frames tell.
    #[default]
    Unknown,
    /// A file or a directory, by descriptor or by path.
    File {
        /// Its path, or what is known of it.
        path: String,
        /// The block device that it is on; empty if it is on none.
        device: String,
        /// The type of its file system.
        filesystem: String,
        /// Where that is mounted.
        mount: String,
        /// Who serves the file system, if a process does.
        servers: Vec<WhyProcess>,
        /// Who holds a lock of it.
        lock_holders: Vec<WhyProcess>,
    },
    /// A pipe or FIFO.
    Pipe {
        /// Its name.
        name: String,
        /// Who has the other end, without the process itself.
        others: Vec<WhyProcess>,
    },
    /// A socket.
    Socket {
        /// What kind.
        family: Family,
        /// The address of the other end or, where it listens, its own.
        address: String,
        /// The processes that have the other end.
        peers: Vec<WhyProcess>,
    },
    /// A character device, an eventfd and the like.
    Device {
        /// Its name.
        name: String,
    },
    /// A word in the program's memory.
    Futex {
        /// Its address.
        address: u64,
        /// Its value is that of a lock that is taken.
        locked: bool,
    },
    /// Several descriptors at once. Which socket's answer is awaited, if one is.
    Poll(Option<Box<Object>>),
    /// A time.
    Timer,
    /// The end of a child.
    Child {
        /// Its children.
        children: Vec<WhyProcess>,
    },
    /// A signal.
    Signal,
    /// A lock of the kernel.
    Lock,
}

/// The kind of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// TCP.
    Tcp,
    /// UDP and other datagrams over IP.
    Udp,
    /// Unix.
    Unix,
    /// Anything else, such as netlink.
    #[default]
    Other,
}

/// Who used a block device.
#[derive(Clone, Debug, Default)]
pub struct DiskUse {
    /// Its name.
    pub device: String,
    /// Processes and the bytes that they read and wrote, the most first.
    pub users: Vec<(WhyProcess, u64)>,
}
