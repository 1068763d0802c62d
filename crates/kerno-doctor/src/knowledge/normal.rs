//! What is normal rather than a symptom, with reasons: calls that wait by design, and errors that programs expect. The kernel side
//! uses it to choose which offenders to keep, and the rules use it to judge.

use kerno_model::errno as e;

/// System calls that wait by design, with the reason. A long one means that nothing happened or that much was requested, not that
/// something is slow.
pub const WAITING_CALLS: &[(&str, &str)] = &[
    ("epoll_wait", "waits for events"),
    ("epoll_pwait", "waits for events"),
    ("epoll_pwait2", "waits for events"),
    ("poll", "waits for events"),
    ("ppoll", "waits for events"),
    ("ppoll_time64", "waits for events"),
    ("select", "waits for events"),
    ("_newselect", "waits for events"),
    ("pselect6", "waits for events"),
    ("pselect6_time64", "waits for events"),
    ("io_getevents", "waits for requests in flight"),
    ("io_pgetevents", "waits for requests in flight"),
    ("io_pgetevents_time64", "waits for requests in flight"),
    ("io_destroy", "waits for requests in flight"),
    ("io_uring_enter", "waits for requests in flight"),
    ("futex", "waits for another thread"),
    ("futex_time64", "waits for another thread"),
    ("futex_wait", "waits for another thread"),
    ("futex_waitv", "waits for another thread"),
    ("semop", "waits for another process"),
    ("semtimedop", "waits for another process"),
    ("semtimedop_time64", "waits for another process"),
    ("ipc", "semaphores and message queues in the 32-bit table"),
    ("msgrcv", "waits for a message"),
    ("msgsnd", "waits for room in the queue"),
    ("mq_timedreceive", "waits for a message"),
    ("mq_timedreceive_time64", "waits for a message"),
    ("mq_timedsend", "waits for room in the queue"),
    ("mq_timedsend_time64", "waits for room in the queue"),
    ("nanosleep", "sleeps as requested"),
    ("clock_nanosleep", "sleeps as requested"),
    ("clock_nanosleep_time64", "sleeps as requested"),
    ("pause", "waits for a signal"),
    ("sigsuspend", "waits for a signal"),
    ("rt_sigsuspend", "waits for a signal"),
    ("rt_sigtimedwait", "waits for a signal"),
    ("rt_sigtimedwait_time64", "waits for a signal"),
    ("wait4", "waits for a child"),
    ("waitid", "waits for a child"),
    ("waitpid", "waits for a child"),
    ("vfork", "waits until the child calls exec or exits"),
    ("clone", "with CLONE_VFORK, waits until the child calls exec or exits"),
    ("clone3", "with CLONE_VFORK, waits until the child calls exec or exits"),
    ("restart_syscall", "resumes a sleep or wait that a signal interrupted"),
    ("accept", "waits for a client"),
    ("accept4", "waits for a client"),
    ("connect", "waits for the other end; tcp_monitor detects slow networks"),
    ("recvfrom", "waits for the other end"),
    ("recvmsg", "waits for the other end"),
    ("recvmmsg", "waits for the other end"),
    ("recvmmsg_time64", "waits for the other end"),
    ("sendto", "waits until the other end can receive"),
    ("sendmsg", "waits until the other end can receive"),
    ("sendmmsg", "waits until the other end can receive"),
    ("socketcall", "socket calls in the 32-bit table"),
    ("shutdown", "may linger until the other end has the data"),
    ("close", "may linger on a socket, and frees the blocks of a deleted file"),
    ("ioctl", "depends on the driver; many wait for an event from a device or a virtual machine"),
    ("flock", "waits for the holder of the lock"),
    ("fcntl", "F_SETLKW waits for the holder of the lock"),
    ("fcntl64", "F_SETLKW waits for the holder of the lock"),
    ("splice", "waits for data at one end or for room at the other"),
    ("tee", "waits for data at one end or for room at the other"),
    ("vmsplice", "waits for room in a pipe"),
    ("sendfile", "waits for room in a socket, and moves as much as requested"),
    ("sendfile64", "waits for room in a socket, and moves as much as requested"),
    ("copy_file_range", "copies as much as requested"),
    ("getrandom", "waits for the random number generator early after boot"),
    ("ptrace", "waits for the traced task"),
    ("userfaultfd", "waits for page faults to serve"),
    ("process_mrelease", "frees any amount of memory"),
    ("munmap", "frees any amount of memory"),
    ("madvise", "frees or reads as much as requested"),
    ("process_madvise", "frees or reads as much as requested"),
    ("mlockall", "reads in any amount of memory"),
    ("mremap", "moves any amount of memory"),
    ("move_pages", "moves as much memory as requested"),
    ("migrate_pages", "moves any amount of memory"),
    ("exit", "never returns"),
    ("exit_group", "never returns"),
    ("bpf", "verifies the programs that it loads"),
    ("membarrier", "waits for every CPU (RCU or IPI)"),
    ("init_module", "runs the initialisation of a driver"),
    ("finit_module", "runs the initialisation of a driver"),
    ("delete_module", "runs the clean-up of a driver"),
    ("reboot", "stops the machine"),
    ("kexec_file_load", "reads and verifies a kernel image"),
    ("syslog", "waits for the next message when it reads the kernel log"),
    ("quotactl", "checks any number of files"),
    ("setns", "waits for every CPU (RCU or IPI)"),
    ("unshare", "waits for every CPU (RCU or IPI)"),
    ("umount2", "writes back all dirty data"),
    ("umount", "writes back all dirty data"),
    ("swapoff", "reads in everything that is swapped out"),
    ("perf_event_open", "waits for every CPU (RCU or IPI)"),
    ("landlock_restrict_self", "waits until all threads are restricted"),
];

/// System calls that wait by design on a pipe, a socket or a terminal, with the reason. On a file or a block device, a long one is slow.
pub const FILE_CALLS: &[(&str, &str)] = &[
    ("read", "waits for the other end of a pipe or socket, or for a terminal"),
    ("readv", "like read"),
    ("pread64", "like read"),
    ("preadv", "like read"),
    ("preadv2", "like read"),
    ("write", "waits for room in a pipe or socket, or for a terminal"),
    ("writev", "like write"),
    ("pwrite64", "like write"),
    ("pwritev", "like write"),
    ("pwritev2", "like write"),
    ("getdents", "reads a directory"),
    ("getdents64", "reads a directory"),
];

/// System calls that open, with the reason for waits: by design on a FIFO or a terminal, but not on a file.
pub const OPEN_CALLS: &[(&str, &str)] = &[
    ("open", "waits for the other end of a FIFO, or for the carrier of a terminal line"),
    ("openat", "like open"),
    ("openat2", "like open"),
    ("creat", "like open"),
    ("open_by_handle_at", "like open"),
];

/// System calls that return once data is on storage.
pub const SYNC_CALLS: &[&str] =
    &["fsync", "fdatasync", "sync", "syncfs", "msync", "sync_file_range", "sync_file_range2", "arm_sync_file_range"];

/// System calls that look up a path.
#[rustfmt::skip]
const PATH_CALLS: &[&str] = &[
    "open", "openat", "openat2", "creat", "stat", "stat64", "lstat", "lstat64", "newfstatat", "fstatat64",
    "oldstat", "oldlstat", "statx", "statfs", "statfs64", "access", "faccessat", "faccessat2", "readlink",
    "readlinkat", "execve", "execveat", "unlink", "unlinkat", "rmdir", "rename", "renameat", "renameat2", "mkdir",
    "mkdirat", "link", "linkat", "symlink", "symlinkat", "chdir", "chmod", "fchmodat", "fchmodat2", "chown",
    "lchown", "fchownat", "utime", "utimes", "futimesat", "utimensat", "utimensat_time64", "truncate", "truncate64",
    "getxattr", "lgetxattr", "getxattrat", "setxattr", "lsetxattr", "listxattr", "llistxattr", "listxattrat",
    "removexattr", "lremovexattr", "inotify_add_watch", "fanotify_mark", "name_to_handle_at", "umount2", "connect",
    "bind", "getcwd", "getdents", "getdents64",
];

/// System calls that only query a path.
#[rustfmt::skip]
const ASKING_CALLS: &[&str] = &[
    "stat", "stat64", "lstat", "lstat64", "newfstatat", "fstatat64", "statx", "access", "faccessat", "faccessat2",
    "readlink", "readlinkat", "getxattr", "lgetxattr", "listxattr", "llistxattr", "name_to_handle_at",
];

/// System calls for extended attributes.
#[rustfmt::skip]
const XATTR_CALLS: &[&str] = &[
    "getxattr", "lgetxattr", "fgetxattr", "getxattrat", "listxattr", "llistxattr", "flistxattr", "listxattrat",
    "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
];

/// System calls that move data through a file descriptor.
#[rustfmt::skip]
const TRANSFER_CALLS: &[&str] = &[
    "read", "readv", "pread64", "write", "writev", "recvfrom", "recvmsg", "recvmmsg", "recvmmsg_time64", "sendto",
    "sendmsg", "sendmmsg", "sendfile", "sendfile64", "splice", "socketcall",
];

/// A group of errors: system calls (`*` for all), error numbers, and the reason why they are normal, or not.
pub type ErrorGroup = (&'static [&'static str], &'static [i32], &'static str);

/// Errors that are normal, with the reason.
pub const NORMAL_ERRORS: &[ErrorGroup] = &[
    (&["*"], &[e::EAGAIN], "nothing to read, no room, or a lock is held: the program tries again later"),
    (&["*"], &[e::EINTR], "a signal arrived first"),
    (&["*"], &[e::ENOSYS], "a program probes for a feature and works without it"),
    (PATH_CALLS, &[e::ENOENT, e::ENOTDIR], "a search: the program tries the next place, or creates the file"),
    (ASKING_CALLS, &[e::EACCES, e::EPERM, e::ELOOP, e::EROFS], "the answer to a query"),
    (
        &["open", "openat", "openat2"],
        &[e::EEXIST, e::EISDIR, e::ELOOP, e::ENXIO, e::EOPNOTSUPP],
        "the answer to O_EXCL, O_NOFOLLOW, O_TMPFILE, an attempt to write, or /dev/tty without a terminal",
    ),
    (
        &["execve", "execveat"],
        &[e::EACCES, e::ENOEXEC, e::ELOOP],
        "a search along PATH; a script without an interpreter line",
    ),
    (
        &["mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat", "mknod", "mknodat", "renameat2"],
        &[e::EEXIST],
        "already exists: programs create lock files and directories this way",
    ),
    (&["mkdir", "mkdirat"], &[e::EROFS, e::EISDIR], "a program creates each directory of a path, from the root on"),
    (
        &["rmdir", "unlink", "unlinkat"],
        &[e::ENOTEMPTY, e::EEXIST, e::EISDIR, e::EBUSY],
        "removes a directory only if it is empty",
    ),
    (
        &["rename", "renameat", "renameat2", "link", "linkat"],
        &[e::EXDEV, e::ENOTEMPTY, e::EINVAL],
        "on another file system: the program copies instead",
    ),
    (&["readlink", "readlinkat"], &[e::EINVAL], "not a link: programs resolve real paths this way"),
    (
        &["read", "readv", "pread64"],
        &[e::EISDIR, e::ECANCELED],
        "a directory is not readable this way; the clock of a timer was set",
    ),
    (&["getcwd"], &[e::ERANGE], "the program tries again with a larger buffer"),
    (XATTR_CALLS, &[e::ENODATA, e::EOPNOTSUPP, e::ERANGE, e::E2BIG], "no such attribute"),
    (
        &["lseek", "_llseek", "pread64", "pwrite64", "fadvise64", "fadvise64_64", "sync_file_range"],
        &[e::ESPIPE, e::ENXIO],
        "a pipe has no position; no data or hole follows",
    ),
    (
        &["ioctl"],
        &[
            e::ENOTTY,
            e::EINVAL,
            e::EOPNOTSUPP,
            e::ENODEV,
            e::ENXIO,
            e::EXDEV,
            e::ENODATA,
            e::EPERM,
            e::EBUSY,
            e::ETIME,
            e::EIO,
        ],
        "probes for a terminal or a driver feature; a terminal was hung up; a wait timed out (graphics)",
    ),
    (
        &["fcntl", "fcntl64", "close", "fstat", "fstat64", "dup", "close_range", "epoll_ctl"],
        &[e::EBADF],
        "a program probes which file descriptors are open, or closes all possible ones",
    ),
    (
        &["fcntl", "fcntl64"],
        &[e::EACCES, e::EINVAL, e::EPERM, e::EBUSY],
        "a lock is held; a program probes for a feature",
    ),
    (&["epoll_ctl"], &[e::EEXIST, e::ENOENT, e::EPERM], "added or removed twice; a regular file cannot be polled"),
    (
        &["fallocate", "copy_file_range", "sendfile", "sendfile64", "splice"],
        &[e::EOPNOTSUPP, e::EINVAL, e::EXDEV],
        "a program tries it first, then falls back to plain reads and writes",
    ),
    (
        &["fsync", "fdatasync", "syncfs", "msync", "sync_file_range"],
        &[e::EINVAL],
        "a pipe or terminal cannot be synced",
    ),
    (&["fchmodat2", "fchmodat", "flock"], &[e::EOPNOTSUPP], "the file system does not support it"),
    (
        &["utimensat", "chmod", "fchmod", "fchmodat", "chown", "lchown", "fchown", "fchownat"],
        &[e::EPERM],
        "a program keeps attributes where it is allowed to",
    ),
    (&["inotify_rm_watch"], &[e::EINVAL], "the watch went away with its file"),
    (
        &[
            "futex",
            "futex_time64",
            "futex_wait",
            "futex_waitv",
            "mq_timedreceive",
            "mq_timedsend",
            "mq_timedreceive_time64",
            "mq_timedsend_time64",
            "io_uring_enter",
        ],
        &[e::ETIMEDOUT, e::ETIME],
        "the timeout of the call expired",
    ),
    (&["io_uring_enter"], &[e::EBUSY], "completions must be reaped first"),
    (&["wait4", "waitid", "waitpid"], &[e::ECHILD], "no more children"),
    (
        &[
            "kill",
            "tkill",
            "tgkill",
            "rt_sigqueueinfo",
            "rt_tgsigqueueinfo",
            "pidfd_open",
            "pidfd_send_signal",
            "getpgid",
            "getsid",
            "getpriority",
            "setpriority",
            "sched_getaffinity",
            "sched_setaffinity",
            "sched_getscheduler",
            "sched_setscheduler",
            "sched_getattr",
            "sched_setattr",
            "prlimit64",
            "ioprio_get",
            "ioprio_set",
            "ptrace",
            "process_vm_readv",
            "process_madvise",
            "process_mrelease",
            "kcmp",
            "get_robust_list",
            "setpgid",
        ],
        &[e::ESRCH],
        "probes whether a process or thread exists, or it has ended meanwhile",
    ),
    (
        &["kill", "tgkill", "setsid", "setpgid"],
        &[e::EPERM, e::EACCES],
        "exists, but belongs to another user; already a leader",
    ),
    (&["ptrace", "process_vm_readv"], &[e::EIO, e::EFAULT], "no memory at that address of the other process"),
    (
        &["connect"],
        &[
            e::EINPROGRESS,
            e::EALREADY,
            e::EISCONN,
            e::ECONNREFUSED,
            e::ECONNRESET,
            e::ETIMEDOUT,
            e::EHOSTUNREACH,
            e::ENETUNREACH,
            e::EAFNOSUPPORT,
        ],
        "does not block; tcp_monitor judges failed connections",
    ),
    (
        TRANSFER_CALLS,
        &[
            e::EPIPE,
            e::ECONNRESET,
            e::ECONNREFUSED,
            e::ETIMEDOUT,
            e::ENOTCONN,
            e::EHOSTUNREACH,
            e::ENETUNREACH,
            e::EMSGSIZE,
        ],
        "the other end or the network went away; tcp_monitor judges that",
    ),
    (
        &["accept", "accept4"],
        &[e::ECONNABORTED, e::EINVAL],
        "the client went away, or the socket was shut down to end the wait",
    ),
    (
        &["shutdown", "getpeername", "getsockname", "socketcall"],
        &[e::ENOTCONN, e::ENOTSOCK, e::EINVAL],
        "probes whether the socket is connected",
    ),
    (
        &["setsockopt", "getsockopt", "socketcall"],
        &[e::ENOPROTOOPT, e::EOPNOTSUPP, e::ENOTSOCK, e::ENOTCONN, e::EINVAL],
        "probes for a socket option",
    ),
    (&["socket", "socketcall"], &[e::EAFNOSUPPORT, e::EPROTONOSUPPORT, e::ESOCKTNOSUPPORT], "probes for a protocol"),
    (&["mincore", "msync", "madvise"], &[e::ENOMEM], "probes whether memory is mapped"),
    (&["msgrcv"], &[e::ENOMSG], "no message: the program tries again later"),
    (
        &["mmap", "mmap2"],
        &[e::EEXIST, e::ENODEV],
        "probes whether an address is free; a file that cannot be mapped is read instead",
    ),
    (
        &["madvise", "process_madvise", "mbind", "set_mempolicy", "get_mempolicy", "move_pages"],
        &[e::EINVAL, e::EPERM, e::ENOENT],
        "advice that this kernel cannot follow",
    ),
    (
        &[
            "prctl",
            "arch_prctl",
            "seccomp",
            "rseq",
            "membarrier",
            "sched_getaffinity",
            "clone3",
            "io_uring_setup",
            "io_uring_register",
        ],
        &[e::EINVAL, e::EFAULT, e::EPERM, e::EBUSY, e::EOPNOTSUPP, e::E2BIG],
        "probes for a kernel feature",
    ),
    (
        &["landlock_create_ruleset", "keyctl", "add_key", "request_key"],
        &[e::EOPNOTSUPP, e::ENOKEY, e::EACCES],
        "probes for a kernel feature",
    ),
    (
        &["bpf", "perf_event_open"],
        &[e::ENOENT, e::EINVAL, e::E2BIG, e::EACCES, e::EPERM, e::EEXIST, e::ENOSPC],
        "no such element; a probe for a kernel feature; a batch or log that is tried again with a larger buffer",
    ),
    (
        &["name_to_handle_at", "open_by_handle_at"],
        &[e::EOPNOTSUPP, e::EOVERFLOW, e::ESTALE],
        "tried again with a larger buffer; a file that is gone",
    ),
];

/// Exceptions to the table above: errors that are not normal for these calls.
pub const NEVER_NORMAL: &[ErrorGroup] = &[
    (&["clone", "clone3", "fork", "vfork"], &[e::EAGAIN], "the limit on processes is reached"),
    (&["connect"], &[e::EAGAIN, e::EADDRNOTAVAIL], "the backlog of a Unix socket is full, or no local port is left"),
    (&["io_setup"], &[e::EAGAIN], "the limit on requests of asynchronous I/O is reached"),
    (&["add_key", "keyctl", "request_key"], &[e::EDQUOT], "the quota of keys is used up"),
    (
        &["timer_create", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"],
        &[e::EAGAIN],
        "the limit on queued signals is reached",
    ),
    (&["execve", "execveat"], &[e::EAGAIN], "the limit on processes of the user was exceeded"),
    (&["mlock", "mlock2", "mlockall", "mmap", "mmap2"], &[e::EAGAIN], "the limit on locked memory is reached"),
];

/// Errors that mean that a resource ran out or something broke. Even a few of them matter.
pub const GRAVE_ERRORS: &[(i32, &str)] = &[
    (e::ENOSPC, "The file system is full, or another limit that gives this error is reached."),
    (e::EDQUOT, "The disk quota is used up."),
    (e::EIO, "The device or the file system fails."),
    (e::EROFS, "The file system is read-only, perhaps because of an earlier error."),
    (e::EMFILE, "The process has reached its limit of open file descriptors."),
    (e::ENFILE, "The machine has reached its limit of open files."),
    (e::ENOMEM, "No memory is left, or the process has as many mappings as it may have."),
];

/// Whether a call waits by design, so that a long one is no symptom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// It never does: a long one is a symptom.
    Never,
    /// It does unless its first argument is a file or a block device.
    UnlessOnFile,
    /// It does unless it opened a file or a block device, or failed.
    UnlessOpensFile,
    /// It always does.
    ByDesign,
}

/// Whether the call of this name waits by design.
pub fn waiting(call: &str) -> Waiting {
    let listed = |table: &[(&str, &str)]| table.iter().any(|(name, _)| *name == call);
    if listed(WAITING_CALLS) {
        Waiting::ByDesign
    } else if listed(FILE_CALLS) {
        Waiting::UnlessOnFile
    } else if listed(OPEN_CALLS) {
        Waiting::UnlessOpensFile
    } else {
        Waiting::Never
    }
}

/// Whether a call waits by design, always or on some file descriptors. Its durations taken together are then no symptom.
pub fn waits(call: &str) -> bool {
    matches!(waiting(call), Waiting::ByDesign | Waiting::UnlessOnFile)
}

/// Whether a call returns only once data is on storage.
pub fn syncs(call: &str) -> bool {
    SYNC_CALLS.contains(&call)
}

/// Whether this error is normal for this call.
pub fn is_normal_error(call: &str, errno: i32) -> bool {
    let listed = |table: &[ErrorGroup]| {
        table
            .iter()
            .any(|(calls, errors, _)| errors.contains(&errno) && (calls.contains(&call) || calls.contains(&"*")))
    };
    listed(NORMAL_ERRORS) && !listed(NEVER_NORMAL)
}

/// The reason why an error is grave, if it is: a resource ran out or something broke.
pub fn grave(errno: i32) -> Option<&'static str> {
    GRAVE_ERRORS.iter().find(|(number, _)| *number == errno).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_listed_twice() {
        let mut names: Vec<_> =
            WAITING_CALLS.iter().chain(FILE_CALLS).chain(OPEN_CALLS).map(|(call, _)| *call).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(SYNC_CALLS.iter().all(|call| !waits(call)));
    }

    #[test]
    fn normal_life_is_told_from_trouble() {
        assert!(is_normal_error("msync", e::ENOMEM) && is_normal_error("msgrcv", e::ENOMSG));
        assert!(is_normal_error("ioctl", e::ETIME) && !is_normal_error("munmap", e::ENOMEM), "too many mappings");
        assert!(is_normal_error("read", e::EAGAIN));
        assert!(!is_normal_error("clone", e::EAGAIN), "no more processes");
        assert!(is_normal_error("openat", e::ENOENT));
        assert!(!is_normal_error("write", e::ENOENT));
        assert!(is_normal_error("ioctl", e::ENOTTY));
        for (errno, _) in GRAVE_ERRORS {
            for call in ["write", "openat", "fsync", "mmap", "socket"] {
                assert!(!is_normal_error(call, *errno), "{call} {errno}");
            }
        }
        assert_eq!(waiting("epoll_wait"), Waiting::ByDesign);
        assert_eq!(waiting("read"), Waiting::UnlessOnFile);
        assert_eq!(waiting("fsync"), Waiting::Never);
    }
}
