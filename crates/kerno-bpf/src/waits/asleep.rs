//! The system call that a thread sleeps in, and what its descriptor leads to.

use std::io;

use crate::event::syscall_names;

/// The most frames of a stack.
const MAX_FRAMES: usize = 24;

/// A system call that a thread is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) number: u32,
    /// By the 32-bit table.
    pub(crate) compat: bool,
    pub(crate) args: [u64; 6],
}

/// What a thread is about in its call, as far as others can be the reason that it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Reads from this descriptor.
    Reads(u32),
    /// Writes to this descriptor.
    Writes(u32),
    /// Moves data from one descriptor to another.
    Moves { from: u32, to: u32 },
    /// Connects this socket.
    Connects(u32),
    /// Accepts connections.
    Accepts(u32),
    /// Waits for a lock of the file behind this descriptor.
    LocksFile { fd: u32, kind: FileLock },
    /// Waits at a futex.
    Futex(Futex),
    /// Waits for a child: this one, or any.
    Child(Option<u32>),
    /// Waits until one of many descriptors is ready. The address of the list, and its length, if the call has them.
    Polls { list: u64, count: u64 },
    /// Waits for time to pass, or for a signal.
    Rests,
    /// Something else.
    Other,
}

/// The kinds of locks of files (`/proc/locks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum FileLock {
    /// flock(2): of the open file.
    Flock,
    /// fcntl(2), lockf(3): of the process.
    Posix,
    /// fcntl(2) with `F_OFD_SETLKW`: of the open file.
    Ofd,
    /// A lease that is about to be broken.
    Lease,
}

/// A wait at a futex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Futex {
    pub(crate) address: u64,
    /// The command without its flags.
    pub(crate) command: u32,
    /// Among the threads of one process.
    pub(crate) private: bool,
    /// What the word had to be for the thread to sleep.
    pub(crate) expected: u32,
}

/// What a descriptor leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Pipe {
        inode: u64,
    },
    Fifo {
        path: String,
        inode: u64,
    },
    Socket {
        inode: u64,
    },
    /// A terminal: `/dev/pts/3`, `/dev/ttyS0`, or the master's `/dev/ptmx`.
    Terminal {
        path: String,
    },
    File {
        path: String,
        device: (u32, u32),
        inode: u64,
    },
    /// eventfd, /dev/fuse, epoll and the like, as the link has it.
    Other {
        link: String,
    },
}

/// The call that a thread sleeps in; `None` if it runs, or sleeps outside of any call.
pub(crate) fn call(pid: u32, tid: u32) -> io::Result<Option<Call>> {
    Ok(native_call(pid, tid)?.map(|call| Call { compat: is_compat(pid), ..call }))
}

/// What a thread is about, as [`call`] and [`Call::doing`] tell, at half of the cost where it is nothing that others could be the reason
/// for in either table.
pub(crate) fn doing(pid: u32, tid: u32) -> io::Result<Doing> {
    let Some(native) = native_call(pid, tid)? else { return Ok(Doing::Other) };
    let compat = Call { compat: true, ..native.clone() };
    let idle = |call: &Call| match call.doing() {
        Doing::Rests | Doing::Accepts(_) | Doing::Other => true,
        // An event loop. Of few descriptors it can be told what they are.
        Doing::Polls { count, .. } => !(1..=2).contains(&count),
        _ => false,
    };
    if idle(&native) && idle(&compat) {
        return Ok(Doing::Other);
    }
    Ok(if is_compat(pid) { compat.doing() } else { native.doing() })
}

/// The call of a thread, as if it was by the native table.
fn native_call(pid: u32, tid: u32) -> io::Result<Option<Call>> {
    // The path of the leader is shorter, which is most of the cost.
    let path = if pid == tid { format!("/proc/{pid}/syscall") } else { format!("/proc/{pid}/task/{tid}/syscall") };
    let mut text = [0; 256];
    let length = io::Read::read(&mut std::fs::File::open(path)?, &mut text)?;
    let text = std::str::from_utf8(text.get(..length).unwrap_or_default()).unwrap_or_default();
    Ok(parse_call(text).map(|(number, args)| Call { number, compat: false, args }))
}

fn parse_call(text: &str) -> Option<(u32, [u64; 6])> {
    let mut words = text.split_whitespace();
    // "running", or -1 outside of a call.
    let number = words.next()?.parse().ok()?;
    let mut args = [0; 6];
    for arg in &mut args {
        *arg = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some((number, args))
}

/// Whether a process makes its calls by the 32-bit table. The kernel keeps what it told the program at its start in words of the
/// program's own size: a pair of 32-bit words, read as one of 64 bits, is larger than any key.
fn is_compat(pid: u32) -> bool {
    let mut first = [0; 8];
    let read = std::fs::File::open(format!("/proc/{pid}/auxv"))
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut first).map(|()| u64::from_ne_bytes(first)));
    read.is_ok_and(|key| key > u64::from(u32::MAX))
}

/// The kernel function that a thread sleeps in.
pub(crate) fn wait_channel(pid: u32, tid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/wchan")).ok()?;
    // 0 is "not asleep", or "not to be told".
    let name = name.trim();
    (!name.is_empty() && name != "0").then(|| name.to_owned())
}

/// Where a thread sleeps, the innermost function first.
pub(crate) fn stack(pid: u32, tid: u32) -> Vec<String> {
    parse_stack(&std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stack")).unwrap_or_default())
}

/// Lines such as `[<0>] folio_wait_bit+0x1a/0x30 [xfs]`: the functions' names.
fn parse_stack(text: &str) -> Vec<String> {
    let frame = |line: &str| {
        let function = line.split_once("] ")?.1.split(['+', ' ']).next()?.trim();
        (!function.is_empty()).then(|| function.to_owned())
    };
    text.lines().filter_map(frame).take(MAX_FRAMES).collect()
}

impl Call {
    /// Its name; `None` for one that no table here has.
    pub(crate) fn name(&self) -> Option<&'static str> {
        syscall_names::name(self.number, self.compat)
    }

    /// What the thread is about.
    pub(crate) fn doing(&self) -> Doing {
        let [first, second, third, ..] = self.args;
        let fd = descriptor(first);
        match self.name().unwrap_or_default() {
            "read" | "readv" | "pread64" | "preadv" | "preadv2" | "recvfrom" | "recv" | "recvmsg" | "recvmmsg"
            | "recvmmsg_time64" | "mq_timedreceive" => Doing::Reads(fd),
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" | "sendto" | "send" | "sendmsg" | "sendmmsg"
            | "vmsplice" | "mq_timedsend" => Doing::Writes(fd),
            "sendfile" | "sendfile64" => Doing::Moves { from: descriptor(second), to: fd },
            "splice" | "copy_file_range" => Doing::Moves { from: fd, to: descriptor(third) },
            "tee" => Doing::Moves { from: fd, to: descriptor(second) },
            "connect" => Doing::Connects(fd),
            "accept" | "accept4" => Doing::Accepts(fd),
            "flock" => Doing::LocksFile { fd, kind: FileLock::Flock },
            "fcntl" | "fcntl64" => match low(second) {
                // F_SETLKW, and F_SETLKW64 of 32-bit programs.
                7 | 14 => Doing::LocksFile { fd, kind: FileLock::Posix },
                // F_OFD_SETLKW
                38 => Doing::LocksFile { fd, kind: FileLock::Ofd },
                _ => Doing::Other,
            },
            "futex" | "futex_time64" => Doing::Futex(Futex {
                address: first,
                command: low(second) & 0x7f,
                private: second & 0x80 != 0,
                expected: low(third),
            }),
            "wait4" | "waitpid" => Doing::Child(u32::try_from(low(first).cast_signed()).ok().filter(|pid| *pid > 0)),
            // P_PID
            "waitid" => Doing::Child((first == 1).then_some(low(second))),
            "vfork" => Doing::Child(None),
            "poll" | "ppoll" | "ppoll_time64" => Doing::Polls { list: first, count: second },
            "select" | "pselect6" | "_newselect" | "pselect6_time64" | "epoll_wait" | "epoll_pwait"
            | "epoll_pwait2" | "io_getevents" | "io_uring_enter" => Doing::Polls { list: 0, count: 0 },
            "nanosleep"
            | "clock_nanosleep"
            | "clock_nanosleep_time64"
            | "pause"
            | "rt_sigtimedwait"
            | "rt_sigsuspend"
            | "sigsuspend" => Doing::Rests,
            _ => Doing::Other,
        }
    }
}

/// Arguments of 32 bits: the upper half of the register may hold anything.
#[allow(clippy::cast_possible_truncation, reason = "the kernel looks at these bits only")]
const fn low(arg: u64) -> u32 {
    arg as u32
}

const fn descriptor(arg: u64) -> u32 {
    low(arg)
}

impl Futex {
    /// Whether it may be a lock that somebody holds; else it waits for an event.
    pub(crate) const fn may_be_lock(&self) -> bool {
        // FUTEX_WAIT with what a contended lock of glibc has, or with a thread id and FUTEX_WAITERS; FUTEX_LOCK_PI and FUTEX_LOCK_PI2.
        matches!(self.command, 6 | 13)
            || (matches!(self.command, 0 | 9) && (self.expected == 2 || self.expected >> 31 == 1))
    }
}

/// What a descriptor leads to; `None` when it is closed, or may not be looked at.
pub(crate) fn target(pid: u32, fd: u32) -> Option<Target> {
    let path = format!("/proc/{pid}/fd/{fd}");
    let link = std::fs::read_link(&path).ok()?.to_string_lossy().into_owned();
    Some(match inode_of(&link) {
        Some(("pipe", inode)) => Target::Pipe { inode },
        Some(("socket", inode)) => Target::Socket { inode },
        _ if is_terminal(&link) => Target::Terminal { path: link },
        _ if link.starts_with("/dev/") && !link.starts_with("/dev/shm/") => Target::Other { link },
        _ if link.starts_with('/') => match status(&path) {
            Some(status) if status.fifo => Target::Fifo { path: link, inode: status.inode },
            Some(status) => Target::File { path: link, device: status.device, inode: status.inode },
            None => Target::Other { link },
        },
        _ => Target::Other { link },
    })
}

/// `pipe:[123]` is a pipe with inode 123.
pub(super) fn inode_of(link: &str) -> Option<(&str, u64)> {
    let (kind, rest) = link.split_once(":[")?;
    Some((kind, rest.strip_suffix(']')?.parse().ok()?))
}

fn is_terminal(link: &str) -> bool {
    link.strip_prefix("/dev/")
        .is_some_and(|name| name.starts_with("pts/") || name.starts_with("tty") || name == "ptmx" || name == "console")
}

/// What a file is.
#[derive(Clone, Copy, Debug)]
struct Status {
    fifo: bool,
    device: (u32, u32),
    inode: u64,
}

/// Does not ask the server of a network file system.
fn status(path: &str) -> Option<Status> {
    use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
    let status = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE | StatxFlags::INO).ok()?;
    let fifo = FileType::from_raw_mode(u32::from(status.stx_mode)) == FileType::Fifo;
    Some(Status { fifo, device: (status.stx_dev_major, status.stx_dev_minor), inode: status.stx_ino })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;
    use crate::waits::testing::{Child, alone, eventually};

    #[test]
    fn calls_are_read_as_the_kernel_writes_them() {
        let text = "1 0x1 0x7ffc 0x400 0x0 0x0 0x0 0x7ffd00000000 0x7f00\n";
        assert_eq!(parse_call(text), Some((1, [1, 0x7ffc, 0x400, 0, 0, 0])));
        for text in ["running\n", "-1 0x7ffd 0x7f00\n", "", "1 0x1", "99999999999 0x0"] {
            assert_eq!(parse_call(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_stack_becomes_names() {
        let text = "[<0>] xfs_log_force+0x1b1/0x2f0 [xfs]\n[<0>] do_syscall_64+0x71/0x280\n[<0>] 0xffffffff\n";
        assert_eq!(parse_stack(text), ["xfs_log_force", "do_syscall_64", "0xffffffff"]);
        assert!(parse_stack("").is_empty());
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn numbers_mean_the_same_in_both_tables() {
        let call = |number, compat| Call { number, compat, args: [5, 7, 0, 0, 0, 0] };
        for (native, compat, doing) in [
            (0, 3, Doing::Reads(5)),
            (1, 4, Doing::Writes(5)),
            (72, 221, Doing::LocksFile { fd: 5, kind: FileLock::Posix }),
            (73, 143, Doing::LocksFile { fd: 5, kind: FileLock::Flock }),
            (61, 114, Doing::Child(Some(5))),
            (40, 187, Doing::Moves { from: 7, to: 5 }),
            (230, 267, Doing::Rests),
        ] {
            assert_eq!((call(native, false).doing(), call(compat, true).doing()), (doing, doing));
        }
        assert_eq!(call(9999, false).doing(), Doing::Other);
    }

    #[test]
    fn a_thread_that_sleeps_is_found_in_its_call() {
        let _alone = alone();
        let (read, write) = std::io::pipe().unwrap();
        let mut child = Child::forked(|| {
            let mut byte = [0u8];
            let _ = io::Read::read(&mut &read, &mut byte);
        });
        let pid = child.pid();
        let call = eventually(|| call(pid, pid).ok().flatten().filter(|call| call.name() == Some("read")));
        let fd = read.as_raw_fd().cast_unsigned();
        assert_eq!((call.doing(), call.compat), (Doing::Reads(fd), false));
        let channel = eventually(|| wait_channel(pid, pid).filter(|channel| channel.contains("pipe")));
        assert!(stack(pid, pid).contains(&channel), "{:?}", stack(pid, pid));
        let inode = rustix::fs::fstat(&write).unwrap().st_ino;
        assert_eq!(target(pid, fd), Some(Target::Pipe { inode }));
        drop(write);
        child.kill();
        assert_eq!(target(pid, fd), None);
    }

    #[test]
    fn descriptors_lead_to_what_they_are() {
        let _alone = alone();
        let me = std::process::id();
        let fd = |file: &dyn std::os::fd::AsRawFd| target(me, file.as_raw_fd().cast_unsigned()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let inode = rustix::fs::fstat(file.as_file()).unwrap().st_ino;
        assert!(matches!(fd(file.as_file()), Target::File { inode: found, .. } if found == inode));
        assert!(
            matches!(fd(&std::fs::File::open("/dev/null").unwrap()), Target::Other { link } if link == "/dev/null")
        );
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let inode = rustix::fs::fstat(&a).unwrap().st_ino;
        assert_eq!(fd(&a), Target::Socket { inode });
    }
}
