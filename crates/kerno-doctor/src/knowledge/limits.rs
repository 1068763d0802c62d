//! What can run out here: the one table of limits, with the calls that fail when one is reached, and how to see and to raise it.

use kerno_model::{LimitScope, LimitUse, Resource, errno as e};

use crate::shell::word;

/// Calls, and the errors that they give when a limit is reached.
pub type Fails = &'static [(&'static [&'static str], &'static [i32])];

/// A limit.
#[derive(Clone, Copy, Debug)]
pub struct LimitEntry {
    /// What is limited.
    pub resource: Resource,
    /// Its name, as manuals have it.
    pub name: &'static str,
    /// What there are so many of; reads after a number.
    pub what: &'static str,
    /// For whom it is.
    pub scope: LimitScope,
    /// The calls that fail when it is reached, and with which error. Empty if no call does: then it is only listed.
    pub fails: Fails,
    /// These errors of these calls have no other reason than this limit, and those with the same calls and errors: a request may ask for more than is left.
    pub only: bool,
    /// A command that shows it. `{pid}` stands for the process that fails, `{place}` for [`LimitUse::place`],
    /// `{file}` for [`LimitUse::file`].
    pub look: &'static str,
    /// A command that raises it, or says where that is done; `{more}` stands for twice the limit.
    pub raise: &'static str,
}

const FORK: &[&str] = &["clone", "clone3", "fork", "vfork"];
const MAP: &[&str] = &["mmap", "mmap2", "mremap", "mprotect", "munmap", "madvise", "brk", "shmat"];
const WRITES: &[&str] = &[
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "fallocate",
    "ftruncate",
    "ftruncate64",
    "truncate",
    "truncate64",
    "copy_file_range",
    "sendfile",
    "sendfile64",
    "splice",
    "io_uring_enter",
];
/// Calls that may add to a directory.
const CREATES: &[&str] = &[
    "open",
    "openat",
    "openat2",
    "creat",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "symlink",
    "symlinkat",
    "link",
    "linkat",
    "rename",
    "renameat",
    "renameat2",
    "bind",
];
const SENDS: &[&str] = &["sendto", "sendmsg", "sendmmsg", "write", "writev", "connect"];
const NEW_NAMESPACE: &[&str] = &["unshare", "clone", "clone3"];

/// All of them.
#[rustfmt::skip]
pub const LIMITS: &[LimitEntry] = &[
    LimitEntry {
        resource: Resource::Pids, name: "pids.max", what: "processes and threads of the cgroup", scope: LimitScope::Cgroup,
        fails: &[(FORK, &[e::EAGAIN])], only: false,
        look: "cat {file}; cat /proc/{pid}/cgroup", raise: "echo {more} > {file}   # of a unit: TasksMax=; of a container: --pids-limit, podPidsLimit",
    },
    LimitEntry {
        resource: Resource::Threads, name: "kernel.threads-max", what: "threads of the machine", scope: LimitScope::Machine,
        fails: &[(FORK, &[e::EAGAIN])], only: false,
        look: "cat /proc/sys/kernel/threads-max /proc/loadavg", raise: "sysctl -w kernel.threads-max={more}",
    },
    LimitEntry {
        resource: Resource::ProcessIds, name: "kernel.pid_max", what: "process and thread ids", scope: LimitScope::PidNamespace,
        fails: &[(FORK, &[e::EAGAIN])], only: false,
        look: "nsenter -t {pid} -p sysctl kernel.pid_max", raise: "sysctl -w kernel.pid_max={more}",
    },
    LimitEntry {
        resource: Resource::UserProcesses, name: "RLIMIT_NPROC", what: "processes and threads of the user", scope: LimitScope::User,
        fails: &[(FORK, &[e::EAGAIN]), (&["execve", "execveat"], &[e::EAGAIN])], only: false,
        look: "grep 'Max processes' /proc/{pid}/limits; ps -eLo ruid= | sort | uniq -c",
        raise: "prlimit --pid {pid} --nproc={more}",
    },
    LimitEntry {
        resource: Resource::Descriptors, name: "RLIMIT_NOFILE", what: "file descriptors", scope: LimitScope::Process,
        fails: &[(&["*"], &[e::EMFILE])], only: false,
        look: "grep 'open files' /proc/{pid}/limits; ls /proc/{pid}/fd | wc -l", raise: "prlimit --pid {pid} --nofile={more}",
    },
    LimitEntry {
        resource: Resource::OpenFiles, name: "fs.file-max", what: "open files of the machine", scope: LimitScope::Machine,
        fails: &[(&["*"], &[e::ENFILE])], only: false,
        look: "cat /proc/sys/fs/file-nr", raise: "sysctl -w fs.file-max={more}",
    },
    LimitEntry {
        resource: Resource::AddressSpace, name: "RLIMIT_AS", what: "of address space", scope: LimitScope::Process,
        fails: &[(MAP, &[e::ENOMEM]), (FORK, &[e::ENOMEM]), (&["execve"], &[e::ENOMEM])], only: false,
        look: "grep 'address space' /proc/{pid}/limits; grep VmSize /proc/{pid}/status", raise: "prlimit --pid {pid} --as={more}",
    },
    LimitEntry {
        resource: Resource::Data, name: "RLIMIT_DATA", what: "of private writable memory", scope: LimitScope::Process,
        fails: &[(MAP, &[e::ENOMEM])], only: false,
        look: "grep 'data size' /proc/{pid}/limits; grep VmData /proc/{pid}/status", raise: "prlimit --pid {pid} --data={more}",
    },
    LimitEntry {
        resource: Resource::Stack, name: "RLIMIT_STACK", what: "of stack", scope: LimitScope::Process,
        fails: &[], only: false,
        look: "grep 'stack size' /proc/{pid}/limits; grep VmStk /proc/{pid}/status", raise: "prlimit --pid {pid} --stack={more}",
    },
    LimitEntry {
        resource: Resource::LockedMemory, name: "RLIMIT_MEMLOCK", what: "of locked memory", scope: LimitScope::Process,
        fails: &[
            (&["mlock", "mlock2", "mlockall"], &[e::ENOMEM, e::EAGAIN, e::EPERM]), (&["mmap", "mmap2", "mremap"], &[e::EAGAIN]),
            (&["io_uring_setup", "io_uring_register"], &[e::ENOMEM]), (&["bpf"], &[e::EPERM]),
        ], only: false,
        look: "grep 'locked memory' /proc/{pid}/limits; grep -E 'VmLck|VmPin' /proc/{pid}/status",
        raise: "prlimit --pid {pid} --memlock={more}",
    },
    LimitEntry {
        resource: Resource::FileSize, name: "RLIMIT_FSIZE", what: "of the file that it writes", scope: LimitScope::Process,
        fails: &[(WRITES, &[e::EFBIG])], only: false,
        look: "grep 'file size' /proc/{pid}/limits; ls -lL /proc/{pid}/fd", raise: "prlimit --pid {pid} --fsize={more}",
    },
    LimitEntry {
        resource: Resource::CpuTime, name: "RLIMIT_CPU", what: "of CPU time", scope: LimitScope::Process,
        fails: &[], only: false,
        look: "grep 'cpu time' /proc/{pid}/limits; ps -o cputimes= -p {pid}", raise: "prlimit --pid {pid} --cpu={more}",
    },
    LimitEntry {
        resource: Resource::PendingSignals, name: "RLIMIT_SIGPENDING", what: "queued signals and timers of the user", scope: LimitScope::User,
        fails: &[(&["timer_create", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"], &[e::EAGAIN])], only: true,
        look: "grep SigQ /proc/{pid}/status", raise: "prlimit --pid {pid} --sigpending={more}",
    },
    LimitEntry {
        resource: Resource::MessageBytes, name: "RLIMIT_MSGQUEUE", what: "in POSIX message queues of the user", scope: LimitScope::User,
        fails: &[(&["mq_open"], &[e::EMFILE])], only: true,
        look: "grep msgqueue /proc/{pid}/limits; ls -l /dev/mqueue", raise: "prlimit --pid {pid} --msgqueue={more}",
    },
    LimitEntry {
        resource: Resource::Mappings, name: "vm.max_map_count", what: "memory mappings", scope: LimitScope::Process,
        fails: &[(MAP, &[e::ENOMEM])], only: false,
        look: "wc -l /proc/{pid}/maps; sysctl vm.max_map_count", raise: "sysctl -w vm.max_map_count={more}",
    },
    LimitEntry {
        resource: Resource::CommittedMemory, name: "CommitLimit (vm.overcommit_memory=2)", what: "promised to programs", scope: LimitScope::Machine,
        fails: &[(MAP, &[e::ENOMEM]), (FORK, &[e::ENOMEM])], only: false,
        look: "grep Commit /proc/meminfo; sysctl vm.overcommit_memory vm.overcommit_ratio",
        raise: "sysctl -w vm.overcommit_memory=0   # or a higher vm.overcommit_ratio",
    },
    LimitEntry {
        resource: Resource::CgroupMemory, name: "memory.max", what: "of memory of the cgroup", scope: LimitScope::Cgroup,
        fails: &[], only: false,
        look: "cat {file}", raise: "echo {more} > {file}   # of a unit: MemoryMax=; of a container: --memory, resources.limits",
    },
    LimitEntry {
        resource: Resource::InotifyInstances, name: "fs.inotify.max_user_instances", what: "inotify instances of the user", scope: LimitScope::User,
        fails: &[(&["inotify_init", "inotify_init1"], &[e::EMFILE])], only: false,
        look: "find /proc/[0-9]*/fd -lname anon_inode:inotify 2>/dev/null | cut -d/ -f3 | sort | uniq -c | sort -rn | head",
        raise: "sysctl -w fs.inotify.max_user_instances={more}",
    },
    LimitEntry {
        resource: Resource::InotifyWatches, name: "fs.inotify.max_user_watches", what: "inotify watches of the user", scope: LimitScope::User,
        fails: &[(&["inotify_add_watch"], &[e::ENOSPC])], only: true,
        look: "grep -c '^inotify' /proc/[0-9]*/fdinfo/* 2>/dev/null | grep -v ':0$' | sort -t: -k2 -rn | head",
        raise: "sysctl -w fs.inotify.max_user_watches={more}",
    },
    LimitEntry {
        resource: Resource::FanotifyGroups, name: "fs.fanotify.max_user_groups", what: "fanotify groups of the user", scope: LimitScope::User,
        fails: &[(&["fanotify_init"], &[e::EMFILE])], only: false,
        look: "find /proc/[0-9]*/fd -lname 'anon_inode:[[]fanotify]' 2>/dev/null", raise: "sysctl -w fs.fanotify.max_user_groups={more}",
    },
    LimitEntry {
        resource: Resource::EpollWatches, name: "fs.epoll.max_user_watches", what: "epoll watches of the user", scope: LimitScope::User,
        fails: &[(&["epoll_ctl"], &[e::ENOSPC])], only: true,
        look: "grep -c '^tfd' /proc/[0-9]*/fdinfo/* 2>/dev/null | grep -v ':0$' | sort -t: -k2 -rn | head",
        raise: "sysctl -w fs.epoll.max_user_watches={more}",
    },
    LimitEntry {
        resource: Resource::AioRequests, name: "fs.aio-max-nr", what: "requests of asynchronous I/O of the machine", scope: LimitScope::Machine,
        fails: &[(&["io_setup"], &[e::EAGAIN])], only: true,
        look: "cat /proc/sys/fs/aio-nr /proc/sys/fs/aio-max-nr; grep -c '/\\[aio\\]' /proc/[0-9]*/maps | grep -v ':0$'",
        raise: "sysctl -w fs.aio-max-nr={more}",
    },
    LimitEntry {
        resource: Resource::Keys, name: "kernel.keys.maxkeys", what: "keys of the user", scope: LimitScope::User,
        fails: &[(&["add_key", "keyctl", "request_key"], &[e::EDQUOT])], only: true,
        look: "cat /proc/key-users; sysctl kernel.keys", raise: "sysctl -w kernel.keys.maxkeys={more}   # of root: kernel.keys.root_maxkeys",
    },
    LimitEntry {
        resource: Resource::KeyBytes, name: "kernel.keys.maxbytes", what: "in keys of the user", scope: LimitScope::User,
        fails: &[(&["add_key", "keyctl", "request_key"], &[e::EDQUOT])], only: true,
        look: "cat /proc/key-users; sysctl kernel.keys", raise: "sysctl -w kernel.keys.maxbytes={more}   # of root: kernel.keys.root_maxbytes",
    },
    LimitEntry {
        resource: Resource::Terminals, name: "kernel.pty.max", what: "pseudoterminals", scope: LimitScope::Machine,
        fails: &[(&["open", "openat", "openat2"], &[e::ENOSPC])], only: false,
        look: "sysctl kernel.pty; findmnt -t devpts; ls /dev/pts", raise: "sysctl -w kernel.pty.max={more}",
    },
    LimitEntry {
        resource: Resource::SharedSegments, name: "kernel.shmmni", what: "System V shared memory segments", scope: LimitScope::IpcNamespace,
        fails: &[(&["shmget"], &[e::ENOSPC])], only: true,
        look: "nsenter -t {pid} -i ipcs -m -p; ipcs -lm", raise: "sysctl -w kernel.shmmni={more}   # in that IPC namespace",
    },
    LimitEntry {
        resource: Resource::SharedMemory, name: "kernel.shmall", what: "of System V shared memory", scope: LimitScope::IpcNamespace,
        fails: &[(&["shmget"], &[e::ENOSPC])], only: true,
        look: "nsenter -t {pid} -i ipcs -m -p; ipcs -lm", raise: "sysctl kernel.shmall   # in pages; in that IPC namespace",
    },
    LimitEntry {
        resource: Resource::SemaphoreSets, name: "kernel.sem (SEMMNI)", what: "System V semaphore sets", scope: LimitScope::IpcNamespace,
        fails: &[(&["semget"], &[e::ENOSPC])], only: true,
        look: "nsenter -t {pid} -i ipcs -s -p; ipcs -ls", raise: "sysctl kernel.sem   # the fourth number; in that IPC namespace",
    },
    LimitEntry {
        resource: Resource::Semaphores, name: "kernel.sem (SEMMNS)", what: "System V semaphores", scope: LimitScope::IpcNamespace,
        fails: &[(&["semget"], &[e::ENOSPC])], only: true,
        look: "nsenter -t {pid} -i ipcs -s; ipcs -ls", raise: "sysctl kernel.sem   # the second number; in that IPC namespace",
    },
    LimitEntry {
        resource: Resource::MessageQueues, name: "kernel.msgmni", what: "System V message queues", scope: LimitScope::IpcNamespace,
        fails: &[(&["msgget"], &[e::ENOSPC])], only: true,
        look: "nsenter -t {pid} -i ipcs -q -p; ipcs -lq", raise: "sysctl -w kernel.msgmni={more}   # in that IPC namespace",
    },
    LimitEntry {
        resource: Resource::PosixQueues, name: "fs.mqueue.queues_max", what: "POSIX message queues", scope: LimitScope::IpcNamespace,
        fails: &[(&["mq_open"], &[e::ENOSPC])], only: true,
        look: "ls -l /dev/mqueue; nsenter -t {pid} -i sysctl fs.mqueue", raise: "sysctl -w fs.mqueue.queues_max={more}   # in that IPC namespace",
    },
    namespaces(Resource::UserNamespaces, "user.max_user_namespaces", "user namespaces"),
    namespaces(Resource::MountNamespaces, "user.max_mnt_namespaces", "mount namespaces"),
    namespaces(Resource::NetNamespaces, "user.max_net_namespaces", "network namespaces"),
    namespaces(Resource::PidNamespaces, "user.max_pid_namespaces", "pid namespaces"),
    namespaces(Resource::IpcNamespaces, "user.max_ipc_namespaces", "IPC namespaces"),
    namespaces(Resource::UtsNamespaces, "user.max_uts_namespaces", "UTS namespaces"),
    namespaces(Resource::CgroupNamespaces, "user.max_cgroup_namespaces", "cgroup namespaces"),
    LimitEntry {
        resource: Resource::Mounts, name: "fs.mount-max", what: "mounts", scope: LimitScope::MountNamespace,
        fails: &[(&["mount", "move_mount", "open_tree", "fsmount", "unshare", "clone", "clone3"], &[e::ENOSPC])], only: false,
        look: "wc -l /proc/{pid}/mountinfo; sysctl fs.mount-max", raise: "sysctl -w fs.mount-max={more}",
    },
    LimitEntry {
        resource: Resource::FileSystemBytes, name: "size of the file system", what: "of the file system", scope: LimitScope::FileSystem,
        fails: &[(WRITES, &[e::ENOSPC]), (CREATES, &[e::ENOSPC])], only: false,
        look: "nsenter -t {pid} -m df -h {place}", raise: "nsenter -t {pid} -m mount -o remount,size={more} {place}   # a tmpfs; of a container: --shm-size, sizeLimit",
    },
    LimitEntry {
        resource: Resource::FileSystemInodes, name: "inodes of the file system", what: "inodes of the file system", scope: LimitScope::FileSystem,
        fails: &[(CREATES, &[e::ENOSPC])], only: false,
        look: "nsenter -t {pid} -m df -i {place}", raise: "nsenter -t {pid} -m mount -o remount,nr_inodes={more} {place}   # a tmpfs",
    },
    LimitEntry {
        resource: Resource::QuotaBytes, name: "disk quota", what: "of the user's quota", scope: LimitScope::User,
        fails: &[(WRITES, &[e::EDQUOT]), (CREATES, &[e::EDQUOT])], only: false,
        look: "repquota {place}", raise: "edquota -u USER",
    },
    LimitEntry {
        resource: Resource::QuotaFiles, name: "disk quota of files", what: "files of the user's quota", scope: LimitScope::User,
        fails: &[(CREATES, &[e::EDQUOT])], only: false,
        look: "repquota {place}", raise: "edquota -u USER",
    },
    LimitEntry {
        resource: Resource::EphemeralPorts, name: "net.ipv4.ip_local_port_range", what: "local ports towards it", scope: LimitScope::Destination,
        fails: &[(&["connect", "sendto", "sendmsg"], &[e::EADDRNOTAVAIL]), (&["bind", "listen"], &[e::EADDRINUSE])], only: false,
        look: "nsenter -t {pid} -n ss -tan dst {place} | awk '{print $1}' | sort | uniq -c",
        raise: "nsenter -t {pid} -n sysctl -w net.ipv4.ip_local_port_range='1024 65535' net.ipv4.tcp_tw_reuse=1   # better: keep connections open",
    },
    LimitEntry {
        resource: Resource::UdpPorts, name: "net.ipv4.ip_local_port_range", what: "local ports of UDP", scope: LimitScope::NetNamespace,
        fails: &[(&["connect"], &[e::EAGAIN]), (&["bind"], &[e::EADDRINUSE])], only: false,
        look: "nsenter -t {pid} -n ss -uanp", raise: "nsenter -t {pid} -n sysctl -w net.ipv4.ip_local_port_range='1024 65535'",
    },
    LimitEntry {
        resource: Resource::TimeWait, name: "net.ipv4.tcp_max_tw_buckets", what: "connections in TIME_WAIT", scope: LimitScope::NetNamespace,
        fails: &[], only: false,
        look: "nsenter -t {pid} -n ss -s", raise: "nsenter -t {pid} -n sysctl -w net.ipv4.tcp_max_tw_buckets={more}",
    },
    LimitEntry {
        resource: Resource::Orphans, name: "net.ipv4.tcp_max_orphans", what: "connections that no process has open", scope: LimitScope::Machine,
        fails: &[], only: false,
        look: "grep TCP: /proc/net/sockstat", raise: "sysctl -w net.ipv4.tcp_max_orphans={more}",
    },
    LimitEntry {
        resource: Resource::TrackedConnections, name: "net.netfilter.nf_conntrack_max", what: "tracked connections", scope: LimitScope::NetNamespace,
        fails: &[(&["sendto", "sendmsg", "sendmmsg"], &[e::EPERM]), (&["connect"], &[e::ETIMEDOUT, e::EPERM])], only: false,
        look: "nsenter -t {pid} -n sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max; nsenter -t {pid} -n cat /proc/net/stat/nf_conntrack",
        raise: "sysctl -w net.netfilter.nf_conntrack_max={more}   # for all network namespaces",
    },
    LimitEntry {
        resource: Resource::Neighbours, name: "net.ipv4.neigh.default.gc_thresh3", what: "neighbours (IPv4)", scope: LimitScope::Machine,
        fails: &[(SENDS, &[e::ENOBUFS])], only: false,
        look: "ip -4 neigh | wc -l; sysctl net.ipv4.neigh.default.gc_thresh3", raise: "sysctl -w net.ipv4.neigh.default.gc_thresh3={more}",
    },
    LimitEntry {
        resource: Resource::Neighbours6, name: "net.ipv6.neigh.default.gc_thresh3", what: "neighbours (IPv6)", scope: LimitScope::Machine,
        fails: &[(SENDS, &[e::ENOBUFS])], only: false,
        look: "ip -6 neigh | wc -l; sysctl net.ipv6.neigh.default.gc_thresh3", raise: "sysctl -w net.ipv6.neigh.default.gc_thresh3={more}",
    },
    LimitEntry {
        resource: Resource::TcpMemory, name: "net.ipv4.tcp_mem", what: "of memory of TCP", scope: LimitScope::Machine,
        fails: &[(SENDS, &[e::ENOBUFS, e::ENOMEM]), (&["accept", "accept4", "socket"], &[e::ENOBUFS, e::ENOMEM])], only: false,
        look: "grep TCP: /proc/net/sockstat; sysctl net.ipv4.tcp_mem", raise: "sysctl net.ipv4.tcp_mem   # in pages; the third number",
    },
    LimitEntry {
        resource: Resource::UdpMemory, name: "net.ipv4.udp_mem", what: "of memory of UDP", scope: LimitScope::Machine,
        fails: &[(&["sendto", "sendmsg", "sendmmsg"], &[e::ENOBUFS])], only: false,
        look: "grep UDP: /proc/net/sockstat; sysctl net.ipv4.udp_mem", raise: "sysctl net.ipv4.udp_mem   # in pages; the third number",
    },
    LimitEntry {
        resource: Resource::UnixBacklog, name: "backlog of a Unix socket", what: "connections that wait to be accepted", scope: LimitScope::Listener,
        fails: &[(&["connect"], &[e::EAGAIN])], only: false,
        look: "ss -xlp", raise: "sysctl -w net.core.somaxconn={more}   # and the program must ask for more in listen()",
    },
    LimitEntry {
        resource: Resource::TcpBacklog, name: "backlog of a TCP socket", what: "connections that wait to be accepted", scope: LimitScope::Listener,
        fails: &[], only: false,
        look: "ss -ltnp", raise: "sysctl -w net.core.somaxconn={more}   # and the program must ask for more in listen()",
    },
];

const fn namespaces(resource: Resource, name: &'static str, what: &'static str) -> LimitEntry {
    LimitEntry {
        resource,
        name,
        what,
        scope: LimitScope::UserNamespace,
        fails: &[(NEW_NAMESPACE, &[e::ENOSPC])],
        only: false,
        look: "nsenter -t {pid} -U sysctl -a -r '^user.max_'; lsns",
        raise: "sysctl -a -r '^user.max_'   # in the user namespace that has the limit",
    }
}

/// The entry of a limit.
pub fn entry(resource: Resource) -> Option<&'static LimitEntry> {
    LIMITS.iter().find(|entry| entry.resource == resource)
}

impl LimitEntry {
    /// Whether this call fails with this error when the limit is reached.
    pub fn gives(&self, call: &str, errno: i32) -> bool {
        let listed = |(calls, errnos): &(&[&str], &[i32])| {
            errnos.contains(&errno) && (calls.contains(&call) || calls.contains(&"*"))
        };
        self.fails.iter().any(listed)
    }
}

/// The name of a limit, as it is where it was read: a user namespace has some of a user's limits under a name of its own.
pub fn name(limit: &LimitUse) -> &'static str {
    match (limit.resource, limit.scope) {
        (Resource::InotifyInstances, LimitScope::UserNamespace) => "user.max_inotify_instances",
        (Resource::InotifyWatches, LimitScope::UserNamespace) => "user.max_inotify_watches",
        _ => entry(limit.resource).map_or_else(|| limit.resource.name(), |entry| entry.name),
    }
}

/// A command of the table for one limit, as it is for a process.
pub fn filled_in(command: &str, limit: &LimitUse, pid: u32) -> String {
    let more = limit.limit.saturating_mul(2).max(1);
    let place = if limit.place.is_empty() { String::new() } else { word(&limit.place) };
    let file = if limit.file.is_empty() { entry(limit.resource).map_or("", |entry| entry.name) } else { &limit.file };
    let command = command.replace("{pid}", &pid.to_string()).replace("{more}", &more.to_string());
    let command = command.replace("{file}", &word(file)).replace("{place}", &place);
    match (entry(limit.resource), name(limit)) {
        (Some(entry), own) if own != entry.name => {
            command.replace(&format!("sysctl -w {}", entry.name), &format!("nsenter -t {pid} -U sysctl -w {own}"))
        }
        _ => command,
    }
}

/// The limits that make this call fail with this error.
pub fn behind(call: &str, errno: i32) -> impl Iterator<Item = &'static LimitEntry> {
    LIMITS.iter().filter(move |entry| entry.gives(call, errno))
}

/// Whether a limit is why this call failed with this error: there is no room for it, or, where the error has no other reason, too little room.
pub fn explains(limit: &LimitUse, call: &str, errno: i32) -> bool {
    /// How full it is at least if a request may ask for any amount.
    const ROOM: f64 = 0.5;
    let Some(entry) = entry(limit.resource).filter(|entry| entry.gives(call, errno)) else { return false };
    limit.is_full() || (entry.only && limit.share() >= ROOM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_resource_has_one_entry() {
        let all: BTreeSet<_> = LIMITS.iter().map(|entry| entry.resource).collect();
        assert_eq!(all.len(), LIMITS.len());
        let lacking: Vec<_> =
            Resource::ALL.iter().filter(|known| **known != Resource::Other && !all.contains(known)).collect();
        assert!(lacking.is_empty(), "{lacking:?}");
    }

    #[test]
    fn errors_of_limits_are_kept_by_the_kernel_side() {
        use crate::knowledge::normal::is_normal_error;
        for (call, errno) in [
            ("connect", e::EAGAIN),
            ("connect", e::EADDRNOTAVAIL),
            ("io_setup", e::EAGAIN),
            ("add_key", e::EDQUOT),
            ("keyctl", e::EDQUOT),
            ("request_key", e::EDQUOT),
            ("timer_create", e::EAGAIN),
            ("rt_sigqueueinfo", e::EAGAIN),
            ("fork", e::EAGAIN),
            ("inotify_add_watch", e::ENOSPC),
            ("execve", e::EAGAIN),
        ] {
            assert!(!is_normal_error(call, errno), "{call} {errno}");
            assert!(behind(call, errno).next().is_some(), "{call} {errno}");
        }
        assert!(is_normal_error("read", e::EAGAIN) && is_normal_error("close", e::EBADF));
    }

    #[test]
    fn a_user_namespace_has_names_of_its_own() {
        let limit = LimitUse::new(Resource::InotifyWatches, LimitScope::UserNamespace, 9, 9).at("4026532177");
        assert_eq!(name(&limit), "user.max_inotify_watches");
        let raise = entry(limit.resource).unwrap().raise;
        assert_eq!(filled_in(raise, &limit, 7), "nsenter -t 7 -U sysctl -w user.max_inotify_watches=18");
    }

    #[test]
    fn with_none_full_nothing_is_explained() {
        let pids = |used| LimitUse::new(Resource::Pids, LimitScope::Cgroup, used, 60);
        assert!(explains(&pids(60), "clone", e::EAGAIN) && !explains(&pids(40), "clone", e::EAGAIN));
        assert!(!explains(&pids(60), "clone", e::ENOMEM) && !explains(&pids(60), "read", e::EAGAIN));
        // An amount that is asked for at once.
        let aio = |used| LimitUse::new(Resource::AioRequests, LimitScope::Machine, used, 65536);
        assert!(explains(&aio(40000), "io_setup", e::EAGAIN) && !explains(&aio(10), "io_setup", e::EAGAIN));
    }

    #[test]
    fn the_documentation_has_the_table() {
        const MARK: &str = "<!-- written by a test; see crates/kerno-doctor/src/knowledge/limits.rs -->\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/limits.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (head, _) = text.split_once(MARK).unwrap();
        let mut table = String::from(
            "| limit | of | for | calls that fail | how to see | how to raise |\n|---|---|---|---|---|---|\n",
        );
        let cell = |text: &str| text.replace('|', "\\|");
        for entry in LIMITS {
            let fails: Vec<_> = entry
                .fails
                .iter()
                .map(|(calls, errnos)| {
                    let errnos: Vec<_> = errnos.iter().filter_map(|errno| e::name(*errno)).collect();
                    let calls = if calls == &["*"] { "any".to_owned() } else { calls.join(", ") };
                    format!("{calls}: {}", errnos.join(", "))
                })
                .collect();
            let scope = entry.scope.name().replace('_', " ");
            table += &format!(
                "| {} | {} | {scope} | {} | `{}` | `{}` |\n",
                entry.name,
                entry.what,
                fails.join("; "),
                cell(entry.look),
                cell(entry.raise)
            );
        }
        let wanted = format!("{head}{MARK}\n{table}");
        if std::env::var_os("KERNO_WRITE_DOCS").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        assert!(
            text == wanted || std::env::var_os("KERNO_WRITE_DOCS").is_some(),
            "docs/limits.md is stale: set KERNO_WRITE_DOCS"
        );
    }
}
