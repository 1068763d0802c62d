//! Limits of the kernel: how full they are, who has most of what they limit, and calls that failed for them.

mod merge;

use serde::{Deserialize, Serialize};

use crate::Unit;
use crate::vocabulary::vocabulary;

vocabulary! {
    /// What there is a limited amount of.
    Resource {
        /// Processes and threads of a cgroup (`pids.max`).
        Pids = "pids_max",
        /// Threads of the machine (`kernel.threads-max`).
        Threads = "threads_max",
        /// Process and thread ids of a pid namespace (`kernel.pid_max`).
        ProcessIds = "pid_max",
        /// Processes and threads of a user (`RLIMIT_NPROC`).
        UserProcesses = "rlimit_nproc",
        /// File descriptors of a process (`RLIMIT_NOFILE`).
        Descriptors = "rlimit_nofile",
        /// Open files of the machine (`fs.file-max`).
        OpenFiles = "file_max",
        /// Address space of a process (`RLIMIT_AS`).
        AddressSpace = "rlimit_as",
        /// Private writable memory of a process (`RLIMIT_DATA`).
        Data = "rlimit_data",
        /// Stack of a process (`RLIMIT_STACK`).
        Stack = "rlimit_stack",
        /// Locked memory of a process (`RLIMIT_MEMLOCK`).
        LockedMemory = "rlimit_memlock",
        /// Size of a file that a process writes (`RLIMIT_FSIZE`).
        FileSize = "rlimit_fsize",
        /// CPU time of a process, in seconds (`RLIMIT_CPU`).
        CpuTime = "rlimit_cpu",
        /// Queued signals of a user (`RLIMIT_SIGPENDING`).
        PendingSignals = "rlimit_sigpending",
        /// Bytes in POSIX message queues of a user (`RLIMIT_MSGQUEUE`).
        MessageBytes = "rlimit_msgqueue",
        /// Memory mappings of a process (`vm.max_map_count`).
        Mappings = "max_map_count",
        /// Memory that programs were promised (`vm.overcommit_memory=2`).
        CommittedMemory = "commit_limit",
        /// Memory of a cgroup (`memory.max`).
        CgroupMemory = "memory_max",
        /// inotify instances of a user (`fs.inotify.max_user_instances`).
        InotifyInstances = "inotify_instances",
        /// inotify watches of a user (`fs.inotify.max_user_watches`).
        InotifyWatches = "inotify_watches",
        /// fanotify groups of a user (`fs.fanotify.max_user_groups`).
        FanotifyGroups = "fanotify_groups",
        /// epoll watches of a user (`fs.epoll.max_user_watches`).
        EpollWatches = "epoll_watches",
        /// Requests of asynchronous I/O (`fs.aio-max-nr`).
        AioRequests = "aio_max_nr",
        /// Keys of a user (`kernel.keys.maxkeys`).
        Keys = "keys",
        /// Bytes in keys of a user (`kernel.keys.maxbytes`).
        KeyBytes = "key_bytes",
        /// Pseudoterminals (`kernel.pty.max`).
        Terminals = "ptys",
        /// System V shared memory segments (`kernel.shmmni`).
        SharedSegments = "shmmni",
        /// System V shared memory (`kernel.shmall`).
        SharedMemory = "shmall",
        /// System V semaphore sets (`kernel.sem`, fourth number).
        SemaphoreSets = "semmni",
        /// System V semaphores (`kernel.sem`, second number).
        Semaphores = "semmns",
        /// System V message queues (`kernel.msgmni`).
        MessageQueues = "msgmni",
        /// POSIX message queues (`fs.mqueue.queues_max`).
        PosixQueues = "mqueue_queues_max",
        /// User namespaces (`user.max_user_namespaces`).
        UserNamespaces = "user_namespaces",
        /// Mount namespaces (`user.max_mnt_namespaces`).
        MountNamespaces = "mount_namespaces",
        /// Network namespaces (`user.max_net_namespaces`).
        NetNamespaces = "net_namespaces",
        /// Pid namespaces (`user.max_pid_namespaces`).
        PidNamespaces = "pid_namespaces",
        /// IPC namespaces (`user.max_ipc_namespaces`).
        IpcNamespaces = "ipc_namespaces",
        /// UTS namespaces (`user.max_uts_namespaces`).
        UtsNamespaces = "uts_namespaces",
        /// Cgroup namespaces (`user.max_cgroup_namespaces`).
        CgroupNamespaces = "cgroup_namespaces",
        /// Mounts of a mount namespace (`fs.mount-max`).
        Mounts = "mount_max",
        /// Bytes of a file system.
        FileSystemBytes = "fs_bytes",
        /// Inodes of a file system.
        FileSystemInodes = "fs_inodes",
        /// Bytes of a user's quota on a file system.
        QuotaBytes = "quota_bytes",
        /// Files of a user's quota on a file system.
        QuotaFiles = "quota_files",
        /// Local ports for connections to one address (`net.ipv4.ip_local_port_range`).
        EphemeralPorts = "ephemeral_ports",
        /// Local ports for UDP (`net.ipv4.ip_local_port_range`).
        UdpPorts = "udp_ports",
        /// Connections in TIME_WAIT (`net.ipv4.tcp_max_tw_buckets`).
        TimeWait = "time_wait",
        /// Connections of nobody (`net.ipv4.tcp_max_orphans`).
        Orphans = "tcp_orphans",
        /// Tracked connections (`net.netfilter.nf_conntrack_max`).
        TrackedConnections = "conntrack",
        /// Neighbours, IPv4 (`net.ipv4.neigh.default.gc_thresh3`).
        Neighbours = "neighbours",
        /// Neighbours, IPv6 (`net.ipv6.neigh.default.gc_thresh3`).
        Neighbours6 = "neighbours_ipv6",
        /// Memory of TCP (`net.ipv4.tcp_mem`).
        TcpMemory = "tcp_mem",
        /// Memory of UDP (`net.ipv4.udp_mem`).
        UdpMemory = "udp_mem",
        /// Connections that wait to be accepted at a Unix socket (its backlog).
        UnixBacklog = "unix_backlog",
        /// Connections that wait to be accepted at a TCP socket (its backlog).
        TcpBacklog = "tcp_backlog",
        ..
        /// Something else.
        Other = "other"
    }
}

vocabulary! {
    /// For whom a limit is.
    LimitScope {
        /// One process.
        Process = "process",
        /// All processes of a user.
        User = "user",
        /// A cgroup and all below it.
        Cgroup = "cgroup",
        /// A network namespace.
        NetNamespace = "net_namespace",
        /// A pid namespace.
        PidNamespace = "pid_namespace",
        /// A user namespace.
        UserNamespace = "user_namespace",
        /// An IPC namespace.
        IpcNamespace = "ipc_namespace",
        /// A mount namespace.
        MountNamespace = "mount_namespace",
        /// A file system.
        FileSystem = "file_system",
        /// Connections to one address from one.
        Destination = "destination",
        /// A listening socket.
        Listener = "listener",
        /// The machine.
        Machine = "machine",
        ..
        /// Not known.
        Unknown = "unknown"
    }
}

/// A process, or all of a name, that has some of what is limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct LimitHolder {
    /// The process; 0 if only a number of processes is known.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// How much it has, in the unit of the limit.
    pub amount: u64,
    /// Of these, its children that have ended and that it has not waited for (zombies).
    pub zombies: u64,
    /// It is the first process of its pid namespace, which orphans are given to, and not the machine's own.
    pub namespace_init: bool,
}

/// A limit, and how much of it is used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct LimitUse {
    /// What is limited.
    pub resource: Resource,
    /// For whom.
    pub scope: LimitScope,
    /// Which one: the path of a cgroup, a user, a mount point, an address, the inode of a namespace. Empty for the machine.
    pub place: String,
    /// The file that says how much may be, if it is one of a cgroup, which may be at different places.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// How much is used.
    pub used: u64,
    /// How much may be.
    pub limit: u64,
    /// In what unit both are: a number of things, or bytes.
    pub unit: LimitUnit,
    /// Of what is used: zombies, or connections in TIME_WAIT, which nobody uses any more.
    pub idle: u64,
    /// How many requests the kernel has refused for it so far, where it counts that: since the cgroup or the namespace was made.
    pub refused: u64,
    /// Who has most of it, the most first. Bounded; empty if that is not known.
    pub holders: Vec<LimitHolder>,
}

vocabulary! {
    /// What a limit is counted in.
    LimitUnit {
        /// Bytes.
        Bytes = "bytes",
        /// Seconds.
        Seconds = "seconds",
        ..
        /// A number of things.
        Count = "count"
    }
}

impl LimitUnit {
    /// The unit of a measurement of it.
    pub const fn unit(self) -> Unit {
        match self {
            Self::Bytes => Unit::Bytes,
            Self::Seconds => Unit::Seconds,
            Self::Count => Unit::Count,
        }
    }
}

impl LimitUse {
    /// A limit of which so much is used.
    pub fn new(resource: Resource, scope: LimitScope, used: u64, limit: u64) -> Self {
        Self { resource, scope, used, limit, ..Self::default() }
    }

    /// Of which one.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = place.into();
        self
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(mut self) -> Self {
        self.unit = LimitUnit::Bytes;
        self
    }

    /// How full it is: 1 when all is used. A limit of nothing is full.
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    pub fn share(&self) -> f64 {
        if self.limit == 0 { 1.0 } else { self.used as f64 / self.limit as f64 }
    }

    /// Whether a further request can find it full: what was used when it was read may be a little less than when the request failed, because others
    /// give back at the same time.
    pub const fn is_full(&self) -> bool {
        let slack = match self.unit {
            LimitUnit::Bytes => self.limit / 32,
            LimitUnit::Seconds => 0,
            LimitUnit::Count => self.limit / 50,
        };
        self.used.saturating_add(slack) >= self.limit
    }

    /// The same limit of the same scope.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.resource, self.scope, &self.place) == (other.resource, other.scope, &other.place)
    }
}

/// Calls of a process that failed with an error that a limit gives, and the limits that give it, as they were for that process: in its namespaces
/// and its cgroup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct LimitFailure {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// The call that failed.
    pub call: String,
    /// With this error.
    pub errno: i32,
    /// How often.
    pub count: u64,
    /// When that was first seen: `CLOCK_MONOTONIC`, in nanoseconds.
    pub first_ns: u64,
    /// It had ended before its limits could be read: those of its parent were, and none of its own.
    pub ended: bool,
    /// The limits, the fullest first. Of each the fullest of all looks. Bounded.
    pub limits: Vec<LimitUse>,
}

impl LimitFailure {
    /// The most limits of one.
    const MAX_LIMITS: usize = 12;

    /// Adds a later look at its limits.
    pub fn looked(&mut self, limits: Vec<LimitUse>) {
        for later in limits {
            match self.limits.iter_mut().find(|known| known.is_same(&later)) {
                Some(known) => {
                    let refused = known.refused.max(later.refused);
                    // A limit that was raised or lowered since counts as it is now.
                    if later.limit != known.limit || later.share() >= known.share() {
                        *known = later;
                    }
                    known.refused = refused;
                }
                None => self.limits.push(later),
            }
        }
        self.limits.sort_by(|a, b| {
            b.share().total_cmp(&a.share()).then_with(|| (a.resource, &a.place).cmp(&(b.resource, &b.place)))
        });
        self.limits.truncate(Self::MAX_LIMITS);
    }
}

/// All limits for one process, or for the machine, the fullest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct LimitsReport {
    /// The process whose limits these are; `None` for the machine and whoever asked.
    pub pid: Option<u32>,
    /// Its name.
    pub comm: String,
    /// The time between the two readings that growth is taken from, in seconds; 0 after one.
    pub seconds: f64,
    /// The limits.
    pub limits: Vec<LimitLine>,
}

/// One limit of a [`LimitsReport`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct LimitLine {
    /// Its name, as manuals have it.
    pub name: String,
    /// How full it is.
    #[serde(flatten)]
    pub limit: LimitUse,
    /// How much is left.
    pub headroom: u64,
    /// How much more is used each second; `None` after one reading.
    pub growth_per_second: Option<f64>,
    /// When it is full if it goes on so, in seconds; `None` where it does not grow.
    pub seconds_left: Option<f64>,
    /// A command that shows it.
    pub look: String,
    /// A command that raises it, or where that is done.
    pub raise: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pids(used: u64, limit: u64) -> LimitUse {
        LimitUse::new(Resource::Pids, LimitScope::Cgroup, used, limit).at("/a")
    }

    #[test]
    fn full_allows_for_what_others_give_back_meanwhile() {
        assert!(pids(60, 60).is_full() && pids(59, 60).is_full() && !pids(58, 60).is_full());
        assert!(pids(980, 1000).is_full() && !pids(979, 1000).is_full());
        assert!(!pids(7, 8).is_full() && pids(0, 0).is_full() && pids(9, 8).is_full());
        let bytes = |used| LimitUse::new(Resource::Data, LimitScope::Process, used, 1 << 20).bytes();
        assert!(bytes((1 << 20) - (1 << 14)).is_full() && !bytes(1 << 19).is_full());
        assert!(!bytes(u64::MAX - 1).share().is_nan());
    }

    #[test]
    fn of_several_looks_the_fullest_is_kept() {
        let mut failure = LimitFailure::default();
        failure.looked(vec![pids(10, 60)]);
        failure.looked(vec![pids(60, 60), LimitUse::new(Resource::Threads, LimitScope::Machine, 1, 9)]);
        failure.looked(vec![pids(20, 60)]);
        assert_eq!((failure.limits[0].used, failure.limits.len()), (60, 2));
        failure.looked(vec![pids(20, 600)]);
        assert_eq!(failure.limits.iter().find(|limit| limit.resource == Resource::Pids).unwrap().limit, 600);
    }
}
