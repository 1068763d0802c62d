//! What is normal life and no symptom: calls that wait by design, and errors that programs live with. One place, with reasons; used
//! by the kernel side (what to keep as an offender) and by the rules.

use kerno_model::errno as e;

/// System calls that wait by design: a long one says that nothing happened, or that much was asked for, not that something is slow.
/// With the reason.
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
    ("ipc", "the semaphores and message queues of the 32-bit table"),
    ("msgrcv", "waits for a message"),
    ("msgsnd", "waits for room in the queue"),
    ("mq_timedreceive", "waits for a message"),
    ("mq_timedreceive_time64", "waits for a message"),
    ("mq_timedsend", "waits for room in the queue"),
    ("mq_timedsend_time64", "waits for room in the queue"),
    ("nanosleep", "asked to sleep"),
    ("clock_nanosleep", "asked to sleep"),
    ("clock_nanosleep_time64", "asked to sleep"),
    ("pause", "waits for a signal"),
    ("sigsuspend", "waits for a signal"),
    ("rt_sigsuspend", "waits for a signal"),
    ("rt_sigtimedwait", "waits for a signal"),
    ("rt_sigtimedwait_time64", "waits for a signal"),
    ("wait4", "waits for a child"),
    ("waitid", "waits for a child"),
    ("waitpid", "waits for a child"),
    ("vfork", "waits until the child runs a program of its own"),
    ("clone", "with CLONE_VFORK waits until the child runs a program of its own"),
    ("clone3", "with CLONE_VFORK waits until the child runs a program of its own"),
    ("restart_syscall", "goes on with a sleep or a wait that a signal cut short"),
    ("accept", "waits for a client"),
    ("accept4", "waits for a client"),
    ("connect", "waits for the other end; slow networks are tcp_monitor's to tell"),
    ("recvfrom", "waits for the other end"),
    ("recvmsg", "waits for the other end"),
    ("recvmmsg", "waits for the other end"),
    ("recvmmsg_time64", "waits for the other end"),
    ("sendto", "waits until the other end has room"),
    ("sendmsg", "waits until the other end has room"),
    ("sendmmsg", "waits until the other end has room"),
    ("socketcall", "the socket calls of the 32-bit table"),
    ("shutdown", "may linger for the other end"),
    ("close", "may linger for the other end of a socket, and gives a deleted file's blocks back"),
    ("ioctl", "whatever the driver makes it: many wait for an event of a device or a virtual machine"),
    ("flock", "waits for whoever holds the lock"),
    ("fcntl", "F_SETLKW waits for whoever holds the lock"),
    ("fcntl64", "F_SETLKW waits for whoever holds the lock"),
    ("splice", "moves data between ends that may have none or no room"),
    ("tee", "moves data between ends that may have none or no room"),
    ("vmsplice", "waits for room in a pipe"),
    ("sendfile", "waits for room in a socket, and moves as much as it was asked to"),
    ("sendfile64", "waits for room in a socket, and moves as much as it was asked to"),
    ("copy_file_range", "copies as much as it was asked to"),
    ("getrandom", "early after the start waits for the random generator"),
    ("ptrace", "waits for the task that is traced"),
    ("userfaultfd", "serves faults as they come"),
    ("process_mrelease", "frees as much memory as there is"),
    ("munmap", "frees as much memory as there is"),
    ("madvise", "frees or reads as much as it was asked to"),
    ("process_madvise", "frees or reads as much as it was asked to"),
    ("mlockall", "brings in as much memory as there is"),
    ("mremap", "moves as much memory as there is"),
    ("move_pages", "moves as much memory as it was asked to"),
    ("migrate_pages", "moves as much memory as there is"),
    ("exit", "does not return"),
    ("exit_group", "does not return"),
    ("bpf", "loading a program lasts as long as proving it safe"),
    ("membarrier", "waits until every CPU has passed a point"),
    ("init_module", "runs the start of a driver"),
    ("finit_module", "runs the start of a driver"),
    ("delete_module", "runs the end of a driver"),
    ("reboot", "ends the machine"),
    ("kexec_file_load", "reads and checks a kernel"),
    ("syslog", "reading the kernel log waits for the next message"),
    ("quotactl", "checks as much as there is"),
    ("setns", "waits until every CPU has passed a point"),
    ("unshare", "waits until every CPU has passed a point"),
    ("umount2", "writes back as much as there is"),
    ("umount", "writes back as much as there is"),
    ("swapoff", "brings in as much memory as is swapped out"),
    ("perf_event_open", "waits until every CPU has passed a point"),
    ("landlock_restrict_self", "waits until all threads have it"),
];

/// System calls that wait by design on a pipe, a socket or a terminal, and do not on a file or a block device: there a long one is slow.
pub const FILE_CALLS: &[(&str, &str)] = &[
    ("read", "waits for the other end of a pipe or socket, or for a terminal"),
    ("readv", "as read"),
    ("pread64", "as read"),
    ("preadv", "as read"),
    ("preadv2", "as read"),
    ("write", "waits for room in a pipe or socket, or for a terminal"),
    ("writev", "as write"),
    ("pwrite64", "as write"),
    ("pwritev", "as write"),
    ("pwritev2", "as write"),
    ("getdents", "reads a folder"),
    ("getdents64", "reads a folder"),
];

/// System calls that open: of a FIFO or a terminal they wait by design, of a file not.
pub const OPEN_CALLS: &[(&str, &str)] = &[
    ("open", "waits for the other end of a FIFO, or for a modem"),
    ("openat", "as open"),
    ("openat2", "as open"),
    ("creat", "as open"),
    ("open_by_handle_at", "as open"),
];

/// System calls that return when data is on storage.
pub const SYNC_CALLS: &[&str] =
    &["fsync", "fdatasync", "sync", "syncfs", "msync", "sync_file_range", "sync_file_range2", "arm_sync_file_range"];

/// System calls that look a path up.
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

/// System calls that ask about a path without using it.
#[rustfmt::skip]
const ASKING_CALLS: &[&str] = &[
    "stat", "stat64", "lstat", "lstat64", "newfstatat", "fstatat64", "statx", "access", "faccessat", "faccessat2",
    "readlink", "readlinkat", "getxattr", "lgetxattr", "listxattr", "llistxattr", "name_to_handle_at",
];

/// System calls of extended attributes.
#[rustfmt::skip]
const XATTR_CALLS: &[&str] = &[
    "getxattr", "lgetxattr", "fgetxattr", "getxattrat", "listxattr", "llistxattr", "flistxattr", "listxattrat",
    "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
];

/// System calls that move data through a descriptor.
#[rustfmt::skip]
const TRANSFER_CALLS: &[&str] = &[
    "read", "readv", "pread64", "write", "writev", "recvfrom", "recvmsg", "recvmmsg", "recvmmsg_time64", "sendto",
    "sendmsg", "sendmmsg", "sendfile", "sendfile64", "splice", "socketcall",
];

/// A group of errors that are normal life: system calls (`*` for all), errors, and why.
pub type ErrorGroup = (&'static [&'static str], &'static [i32], &'static str);

/// Errors that are normal life.
pub const NORMAL_ERRORS: &[ErrorGroup] = &[
    (&["*"], &[e::EAGAIN], "nothing to read, no room, or a lock that another holds: asked again later"),
    (&["*"], &[e::EINTR], "a signal came first"),
    (&["*"], &[e::ENOSYS], "a program finds out what this kernel has, and does without"),
    (PATH_CALLS, &[e::ENOENT, e::ENOTDIR], "a search: the next place is tried, or the file is made"),
    (ASKING_CALLS, &[e::EACCES, e::EPERM, e::ELOOP, e::EROFS], "the answer to the question"),
    (
        &["open", "openat", "openat2"],
        &[e::EEXIST, e::EISDIR, e::ELOOP, e::ENXIO, e::EOPNOTSUPP],
        "the answer to O_EXCL, O_NOFOLLOW, O_TMPFILE, a try for writing, or /dev/tty without a terminal",
    ),
    (&["execve", "execveat"], &[e::EACCES, e::ENOEXEC, e::ELOOP], "a search along PATH; a script without a first line"),
    (
        &["mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat", "mknod", "mknodat", "renameat2"],
        &[e::EEXIST],
        "made before, perhaps by another: that is how locks and folders are made",
    ),
    (&["mkdir", "mkdirat"], &[e::EROFS, e::EISDIR], "each folder of a path is tried from the root on"),
    (&["rmdir", "unlink", "unlinkat"], &[e::ENOTEMPTY, e::EEXIST, e::EISDIR, e::EBUSY], "removed if nothing is in it"),
    (
        &["rename", "renameat", "renameat2", "link", "linkat"],
        &[e::EXDEV, e::ENOTEMPTY, e::EINVAL],
        "another file system: it is copied instead",
    ),
    (&["readlink", "readlinkat"], &[e::EINVAL], "not a link: that is how real paths are found"),
    (&["read", "readv", "pread64"], &[e::EISDIR, e::ECANCELED], "a folder is not read so; a timer's clock was set"),
    (&["getcwd"], &[e::ERANGE], "asked again with more room"),
    (XATTR_CALLS, &[e::ENODATA, e::EOPNOTSUPP, e::ERANGE, e::E2BIG], "no such attribute here"),
    (
        &["lseek", "_llseek", "pread64", "pwrite64", "fadvise64", "fadvise64_64", "sync_file_range"],
        &[e::ESPIPE, e::ENXIO],
        "a pipe has no position; no more data or hole behind it",
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
        "asks whether it is a terminal, or whether the driver can or may do it; one that was hung up; a wait with an end (graphics)",
    ),
    (
        &["fcntl", "fcntl64", "close", "fstat", "fstat64", "dup", "close_range", "epoll_ctl"],
        &[e::EBADF],
        "finds out which descriptors there are, or closes all that could be",
    ),
    (
        &["fcntl", "fcntl64"],
        &[e::EACCES, e::EINVAL, e::EPERM, e::EBUSY],
        "a lock that another holds; a feature that is tried",
    ),
    (&["epoll_ctl"], &[e::EEXIST, e::ENOENT, e::EPERM], "added or removed twice; a file needs no waiting for"),
    (
        &["fallocate", "copy_file_range", "sendfile", "sendfile64", "splice"],
        &[e::EOPNOTSUPP, e::EINVAL, e::EXDEV],
        "tried first; without it plain reads and writes do",
    ),
    (
        &["fsync", "fdatasync", "syncfs", "msync", "sync_file_range"],
        &[e::EINVAL],
        "a pipe or terminal cannot be synced",
    ),
    (&["fchmodat2", "fchmodat", "flock"], &[e::EOPNOTSUPP], "the file system has none"),
    (
        &["utimensat", "chmod", "fchmod", "fchmodat", "chown", "lchown", "fchown", "fchownat"],
        &[e::EPERM],
        "kept if allowed",
    ),
    (&["inotify_rm_watch"], &[e::EINVAL], "went with its file"),
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
        "waited as long as it wanted to",
    ),
    (&["io_uring_enter"], &[e::EBUSY], "takes completions first"),
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
        "asks whether a process or thread is there; it ended meanwhile",
    ),
    (&["kill", "tgkill", "setsid", "setpgid"], &[e::EPERM, e::EACCES], "there, but not ours; a leader already"),
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
        "does not wait; what failed connections mean is tcp_monitor's to tell",
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
        "the other end went away, or the network: tcp_monitor's to tell",
    ),
    (
        &["accept", "accept4"],
        &[e::ECONNABORTED, e::EINVAL],
        "the client went away; the socket was shut down to end the wait",
    ),
    (
        &["shutdown", "getpeername", "getsockname", "socketcall"],
        &[e::ENOTCONN, e::ENOTSOCK, e::EINVAL],
        "asks whether it is connected",
    ),
    (
        &["setsockopt", "getsockopt", "socketcall"],
        &[e::ENOPROTOOPT, e::EOPNOTSUPP, e::ENOTSOCK, e::ENOTCONN, e::EINVAL],
        "asks whether there is such an option",
    ),
    (
        &["socket", "socketcall"],
        &[e::EAFNOSUPPORT, e::EPROTONOSUPPORT, e::ESOCKTNOSUPPORT],
        "asks whether there is such a protocol",
    ),
    (&["mincore", "msync", "madvise"], &[e::ENOMEM], "asks whether memory is mapped"),
    (&["msgrcv"], &[e::ENOMSG], "no message: asked again later"),
    (
        &["mmap", "mmap2"],
        &[e::EEXIST, e::ENODEV],
        "asks whether an address is free; a file that cannot be mapped is read",
    ),
    (
        &["madvise", "process_madvise", "mbind", "set_mempolicy", "get_mempolicy", "move_pages"],
        &[e::EINVAL, e::EPERM, e::ENOENT],
        "an advice that this kernel cannot take",
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
        "finds out what this kernel has",
    ),
    (
        &["landlock_create_ruleset", "keyctl", "add_key", "request_key"],
        &[e::EOPNOTSUPP, e::ENOKEY, e::EACCES, e::EDQUOT],
        "finds out what this kernel has",
    ),
    (
        &["bpf", "perf_event_open"],
        &[e::ENOENT, e::EINVAL, e::E2BIG, e::EACCES, e::EPERM, e::EEXIST, e::ENOSPC],
        "no such element; finds out what this kernel has; a batch or a log that needs more room is asked for again",
    ),
    (
        &["name_to_handle_at", "open_by_handle_at"],
        &[e::EOPNOTSUPP, e::EOVERFLOW, e::ESTALE],
        "asked again with more room; a file that is gone",
    ),
];

/// Errors that the table above would let pass for every call and that are no normal life for these.
pub const NEVER_NORMAL: &[ErrorGroup] = &[
    (&["clone", "clone3", "fork", "vfork"], &[e::EAGAIN], "the limit of processes is reached"),
    (&["mlock", "mlock2", "mlockall", "mmap", "mmap2"], &[e::EAGAIN], "the limit of locked memory is reached"),
];

/// Errors that say that something of the machine ran out or broke: a handful matters.
pub const GRAVE_ERRORS: &[(i32, &str)] = &[
    (e::ENOSPC, "The file system is full, or another limit that gives this error is reached."),
    (e::EDQUOT, "The disk quota is used up."),
    (e::EIO, "The device or the file system fails."),
    (e::EROFS, "The file system is read-only, perhaps because of an earlier error."),
    (e::EMFILE, "The process has reached its limit of open file descriptors."),
    (e::ENFILE, "The machine has reached its limit of open files."),
    (e::ENOMEM, "No memory is left, or the process has as many mappings as it may have."),
];

/// When a long call is a symptom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Always.
    Never,
    /// On a file or a block device, its first argument; elsewhere it waits by design.
    UnlessOnFile,
    /// If it opened a file or a block device, or failed; else it waits by design.
    UnlessOpensFile,
    /// Never: it waits by design.
    ByDesign,
}

/// When a long call of this name is a symptom.
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

/// Whether a call waits by design, always or on some descriptors: what all of its durations say together is then no symptom.
pub fn waits(call: &str) -> bool {
    matches!(waiting(call), Waiting::ByDesign | Waiting::UnlessOnFile)
}

/// Whether a call returns when data is on storage.
pub fn syncs(call: &str) -> bool {
    SYNC_CALLS.contains(&call)
}

/// Whether that error of that call is normal life.
pub fn is_normal_error(call: &str, errno: i32) -> bool {
    let listed = |table: &[ErrorGroup]| {
        table
            .iter()
            .any(|(calls, errors, _)| errors.contains(&errno) && (calls.contains(&call) || calls.contains(&"*")))
    };
    listed(NORMAL_ERRORS) && !listed(NEVER_NORMAL)
}

/// Why an error is grave, if it is: something of the machine ran out or broke.
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
