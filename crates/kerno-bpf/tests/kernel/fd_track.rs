//! Every family of calls that gives a process descriptors or takes them away.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{c_int, c_long};

use kerno_bpf::{FdEvent, FdTrackLoader, Loader};
use kerno_bpf::{FdOp, FdSource};

use crate::support::{Child, Link, Run, monotonic_ns, options, pid, take_skipped};

/// Repetitions of most calls.
pub const TIMES: usize = 13;

/// What the child did, as it knows from return values: the order of events to expect.
#[derive(Default)]
pub struct Log(Vec<(FdOp, c_int, &'static str)>);

impl Log {
    /// A descriptor that a call gave.
    pub fn opened(&mut self, call: &'static str, fd: c_int) -> c_int {
        assert!(fd >= 0, "{call}: {}", std::io::Error::last_os_error());
        self.0.push((FdOp::Open, fd, call));
        fd
    }

    /// As [`opened`](Self::opened), of a call that not every kernel has.
    pub fn opened_if_known(&mut self, call: &'static str, fd: c_int) {
        if fd >= 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS) {
            self.opened(call, fd);
        }
    }

    /// Two that a call stored.
    pub fn opened_all(&mut self, call: &'static str, fds: [c_int; 2]) {
        for fd in fds {
            self.opened(call, fd);
        }
    }

    pub fn closed(&mut self, call: &'static str, fd: c_int) {
        self.0.push((FdOp::Close, fd, call));
    }

    pub fn close(&mut self, fd: c_int) {
        assert_eq!(call(libc::SYS_close, &[fd.into()]), 0);
        self.closed("close", fd);
    }

    fn tell(&self, link: &mut Link) {
        link.tell(self.0.len() as u64);
        for (op, fd, call) in &self.0 {
            link.tell(u64::from(*op == FdOp::Open));
            link.tell(fd.cast_unsigned().into());
            let mut name = [0; 24];
            name[..call.len()].copy_from_slice(call.as_bytes());
            name.chunks(8).for_each(|word| link.tell(u64::from_ne_bytes(word.try_into().unwrap())));
        }
    }
}

fn hear(child: &mut Child) -> Vec<(FdOp, i32, String)> {
    (0..child.heard())
        .map(|_| {
            let op = if child.heard() == 1 { FdOp::Open } else { FdOp::Close };
            let fd = i32::try_from(child.heard()).unwrap();
            let name: Vec<u8> = (0..3).flat_map(|_| child.heard().to_ne_bytes()).filter(|byte| *byte != 0).collect();
            (op, fd, String::from_utf8(name).unwrap())
        })
        .collect()
}

/// A system call by number; libc's wrappers may use another.
pub fn call(nr: c_long, args: &[c_long]) -> c_int {
    let arg = |i: usize| args.get(i).copied().unwrap_or(0);
    // SAFETY: the callers pass pointers that are valid for the call.
    let ret = unsafe { libc::syscall(nr, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    c_int::try_from(ret).unwrap()
}

pub fn address<T: ?Sized>(value: &T) -> c_long {
    std::ptr::from_ref(value).cast::<u8>().addr() as c_long
}

pub fn open_fds(pid: u32) -> BTreeSet<i32> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect()
}

pub fn decode(run: Run<impl Loader>) -> Vec<FdEvent> {
    let (raw, counters) = run.finish_with_counters();
    assert_eq!((counters.lost, counters.untracked), (0, 0));
    take_skipped(&counters);
    raw.iter().map(|raw| *raw.as_raw().decode_as::<FdEvent>().unwrap()).collect()
}

/// Runs the work in a child and requires: exactly the logged events, in order; opens minus closes is what /proc/PID/fd gained; and at
/// the end one close for each descriptor that was left.
pub fn expect_exactly(work: impl FnOnce(&mut Log)) -> Vec<FdEvent> {
    let mut child = Child::new(|link| {
        let mut log = Log::default();
        link.close_inherited();
        link.tell(0);
        link.wait();
        work(&mut log);
        log.tell(link);
        link.wait();
    });
    child.go();
    assert_eq!(child.heard(), 0, "it is ready");
    let run = Run::start(FdTrackLoader::new(options(pid(child.pid))));
    let (start, before) = (monotonic_ns(), open_fds(child.pid));
    child.go();
    let expected = hear(&mut child);
    let after = open_fds(child.pid);
    child.run();
    let events = decode(run);
    let end = monotonic_ns();

    let (at_exit, made): (Vec<&FdEvent>, Vec<_>) = events.iter().partition(|event| event.source == FdSource::Exit);
    let seen: Vec<_> = made.iter().map(|e| (e.op, e.fd, e.call().unwrap().to_owned())).collect();
    assert_eq!(seen, expected);
    let opens = seen.iter().filter(|(op, ..)| *op == FdOp::Open).count();
    assert_eq!(
        before.len() + opens,
        after.len() + (seen.len() - opens),
        "opens minus closes is what /proc/PID/fd gained"
    );
    assert!(at_exit.iter().all(|e| e.op == FdOp::Close && e.call() == Some("exit") && e.syscall_nr == -1));
    assert_eq!(at_exit.iter().map(|e| e.fd).collect::<Vec<_>>(), after.iter().copied().collect::<Vec<_>>());
    let mut last = start;
    for event in &events {
        assert_eq!(event.pid, child.pid);
        assert!((last..=end).contains(&event.timestamp_ns), "in order of time");
        last = event.timestamp_ns;
    }
    events
}

#[test]
fn opens_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = std::ffi::CString::new(folder.path().join("file").to_str().unwrap()).unwrap();
    let missing = c"/no/such/file";
    expect_exactly(|log| {
        let (at, rw) = (libc::c_long::from(libc::AT_FDCWD), libc::c_long::from(libc::O_RDWR));
        for _ in 0..TIMES {
            #[cfg(target_arch = "x86_64")]
            {
                let fd = log.opened("creat", call(libc::SYS_creat, &[address(path.as_c_str()), 0o600]));
                log.close(fd);
                log.opened("open", call(libc::SYS_open, &[address(path.as_c_str()), rw]));
                assert_eq!(call(libc::SYS_open, &[address(missing), rw]), -1);
            }
            log.opened("openat", call(libc::SYS_openat, &[at, address(path.as_c_str()), rw | 0o100, 0o600]));
            assert_eq!(call(libc::SYS_openat, &[at, address(missing), rw]), -1);
            // struct open_how: flags, mode, resolve.
            let how = [rw.cast_unsigned(), 0u64, 0];
            log.opened("openat2", call(libc::SYS_openat2, &[at, address(path.as_c_str()), address(&how), 24]));
            // struct file_handle: bytes, type, handle.
            let (mut handle, mut mount) = ([0u32; 34], 0);
            handle[0] = 128;
            let named = [at, address(path.as_c_str()), address(&handle), address(&mount), 0];
            assert_eq!(call(libc::SYS_name_to_handle_at, &named), 0);
            mount = at;
            log.opened("open_by_handle_at", call(libc::SYS_open_by_handle_at, &[mount, address(&handle), rw]));
            // Closing what is not open is no event.
            assert_eq!(call(libc::SYS_close, &[900]), -1);
            assert_eq!(call(libc::SYS_close, &[-1]), -1);
        }
    });
}

#[test]
fn duplicates() {
    expect_exactly(|log| {
        for i in 0..TIMES as c_long {
            let fd = log.opened("dup", call(libc::SYS_dup, &[0]));
            let high = 100 + i;
            #[cfg(target_arch = "x86_64")]
            {
                // The target is free, then taken, then the same.
                log.opened("dup2", call(libc::SYS_dup2, &[0, high]));
                log.closed("dup2", high as c_int);
                log.opened("dup2", call(libc::SYS_dup2, &[fd.into(), high]));
                assert_eq!(call(libc::SYS_dup2, &[high, high]), high as c_int);
                assert_eq!(call(libc::SYS_dup2, &[999, high]), -1);
            }
            let higher = 300 + i;
            log.opened("dup3", call(libc::SYS_dup3, &[0, higher, libc::O_CLOEXEC.into()]));
            log.closed("dup3", higher as c_int);
            log.opened("dup3", call(libc::SYS_dup3, &[0, higher, 0]));
            assert_eq!(call(libc::SYS_dup3, &[higher, higher, 0]), -1);
            log.opened("fcntl", call(libc::SYS_fcntl, &[0, libc::F_DUPFD.into(), 500]));
            log.opened("fcntl", call(libc::SYS_fcntl, &[0, libc::F_DUPFD_CLOEXEC.into(), 600]));
            // Not one: fcntl with other commands returns numbers too.
            assert!(call(libc::SYS_fcntl, &[0, libc::F_GETFL.into()]) >= 0);
            log.close(fd);
        }
    });
}

#[test]
fn sockets() {
    expect_exactly(|log| {
        // An abstract name that nobody else uses.
        let mut name = [0u8; 110];
        name[0] = libc::AF_UNIX as u8;
        name[3..11].copy_from_slice(&monotonic_ns().to_ne_bytes());
        let stream = libc::c_long::from(libc::SOCK_STREAM);
        let unix = libc::c_long::from(libc::AF_UNIX);
        let listener = log.opened("socket", call(libc::SYS_socket, &[unix, stream, 0])).into();
        assert_eq!(call(libc::SYS_bind, &[listener, address(&name), 11]), 0);
        assert_eq!(call(libc::SYS_listen, &[listener, 50]), 0);
        for _ in 0..TIMES {
            for accept in [(libc::SYS_accept4, "accept4"), (libc::SYS_accept, "accept")] {
                let client = log.opened("socket", call(libc::SYS_socket, &[unix, stream, 0]));
                assert_eq!(call(libc::SYS_connect, &[client.into(), address(&name), 11]), 0);
                let server = log.opened(accept.1, call(accept.0, &[listener, 0, 0, 0]));
                // SO_PEERPIDFD puts a descriptor where the option's value goes.
                let (peer, size) = (Cell::new(-1 as c_int), 4u32);
                let option = [server.into(), libc::SOL_SOCKET.into(), 77, address(&peer), address(&size)];
                // Linux 6.5
                if call(libc::SYS_getsockopt, &option) == 0 {
                    log.opened("getsockopt", peer.get());
                }
                let option =
                    [server.into(), libc::SOL_SOCKET.into(), libc::SO_ERROR.into(), address(&peer), address(&size)];
                assert_eq!(call(libc::SYS_getsockopt, &option), 0);
                log.close(server);
                log.close(client);
            }
            let pair = Cell::new([0 as c_int; 2]);
            assert_eq!(call(libc::SYS_socketpair, &[unix, stream, 0, address(&pair)]), 0);
            let pair = pair.get();
            log.opened_all("socketpair", pair);
            assert_eq!(call(libc::SYS_socket, &[unix, 77, 0]), -1);
        }
    });
}

#[test]
fn things_behind_descriptors() {
    expect_exactly(|log| {
        for _ in 0..TIMES {
            let pair = Cell::new([0 as c_int; 2]);
            let at = address(&pair);
            assert_eq!(call(libc::SYS_pipe2, &[at, libc::O_CLOEXEC.into()]), 0);
            log.opened_all("pipe2", pair.get());
            assert_eq!(call(libc::SYS_pipe2, &[at, -1]), -1);
            let mask = [0u64; 1];
            #[cfg(target_arch = "x86_64")]
            {
                assert_eq!(call(libc::SYS_pipe, &[at]), 0);
                log.opened_all("pipe", pair.get());
                log.opened("eventfd", call(libc::SYS_eventfd, &[0]));
                log.opened("epoll_create", call(libc::SYS_epoll_create, &[1]));
                log.opened("inotify_init", call(libc::SYS_inotify_init, &[]));
                log.opened("signalfd", call(libc::SYS_signalfd, &[-1, address(&mask), 8]));
            }
            log.opened("eventfd2", call(libc::SYS_eventfd2, &[0, 0]));
            log.opened("epoll_create1", call(libc::SYS_epoll_create1, &[0]));
            log.opened("inotify_init1", call(libc::SYS_inotify_init1, &[0]));
            let signals = log.opened("signalfd4", call(libc::SYS_signalfd4, &[-1, address(&mask), 8, 0]));
            // Changes the one there is and returns it.
            assert_eq!(call(libc::SYS_signalfd4, &[signals.into(), address(&mask), 8, 0]), signals);
            log.opened("timerfd_create", call(libc::SYS_timerfd_create, &[1, 0]));
            log.opened("memfd_create", call(libc::SYS_memfd_create, &[address(c"kerno"), 0]));
            log.opened_if_known("memfd_secret", call(libc::SYS_memfd_secret, &[0]));
            // Linux 5.11
            let user_mode_only = 1;
            match call(libc::SYS_userfaultfd, &[user_mode_only]) {
                -1 => log.opened("userfaultfd", call(libc::SYS_userfaultfd, &[0])),
                fd => log.opened("userfaultfd", fd),
            };
            // Closed again: queues count against a small limit of the user's.
            let queue = log.opened("mq_open", call(libc::SYS_mq_open, &[address(c"kerno-fd"), 0o102, 0o600, 0]));
            assert_eq!(call(libc::SYS_mq_unlink, &[address(c"kerno-fd")]), 0);
            log.close(queue);
        }
    });
}

#[test]
fn observers() {
    expect_exactly(|log| {
        for _ in 0..TIMES {
            log.opened("fanotify_init", call(libc::SYS_fanotify_init, &[0, 0]));
            // struct io_uring_params, 120 bytes.
            let params = [0u32; 30];
            log.opened("io_uring_setup", call(libc::SYS_io_uring_setup, &[1, address(&params)]));
            // struct perf_event_attr: a software event (type 1) that counts nothing (config 9), of 64 bytes.
            let attr = [1 | 64 << 32, 9u64, 0, 0, 0, 0, 0, 0];
            log.opened("perf_event_open", call(libc::SYS_perf_event_open, &[address(&attr), 0, -1, -1, 0]));
            // union bpf_attr: map type (2, array), key size, value size, entries.
            let mut attr = [2u32, 4, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let map = log.opened("bpf", call(libc::SYS_bpf, &[0, address(&attr), 72]));
            let (key, value) = (0u32, 7u64);
            attr = [0; 18];
            attr[0] = map.cast_unsigned();
            for (at, pointer) in [(2, address(&key)), (4, address(&value))] {
                (attr[at], attr[at + 1]) = (pointer as u32, (pointer >> 32) as u32);
            }
            let update = 2;
            assert_eq!(call(libc::SYS_bpf, &[update, address(&attr), 72]), 0);
            let attr = [1u64];
            log.opened_if_known(
                "landlock_create_ruleset",
                call(libc::SYS_landlock_create_ruleset, &[address(&attr), 8, 0]),
            );
            // The version, where there is one.
            assert_ne!(call(libc::SYS_landlock_create_ruleset, &[0, 0, 1]), 0);
        }
    });
}

#[test]
fn processes() {
    expect_exactly(|log| {
        for _ in 0..TIMES {
            let me = c_long::from(std::process::id());
            let own = log.opened("pidfd_open", call(libc::SYS_pidfd_open, &[me, 0]));
            log.opened("pidfd_getfd", call(libc::SYS_pidfd_getfd, &[own.into(), 0, 0]));
            let pidfd = Cell::new(-1 as c_int);
            let flags = c_long::from(libc::CLONE_PIDFD | libc::SIGCHLD);
            // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, ...
            let args = [
                u64::from(libc::CLONE_PIDFD.cast_unsigned()),
                address(&pidfd) as u64,
                0,
                0,
                libc::SIGCHLD as u64,
                0,
                0,
                0,
            ];
            for three in [false, true] {
                let pid = if three {
                    call(libc::SYS_clone3, &[address(&args), 64])
                } else {
                    call(libc::SYS_clone, &[flags, 0, address(&pidfd), 0, 0])
                };
                if pid == 0 {
                    // SAFETY: ends the copy at once.
                    unsafe { libc::_exit(0) };
                }
                log.opened(if three { "clone3" } else { "clone" }, pidfd.get());
                // SAFETY: waits for our own child.
                assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
            }
            // Without the flag the same place holds nothing of interest.
            let pid = call(libc::SYS_clone, &[libc::SIGCHLD.into(), 0, 0, 0, 0]);
            if pid == 0 {
                // SAFETY: ends the copy at once.
                unsafe { libc::_exit(0) };
            }
            // SAFETY: waits for our own child.
            assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
        }
    });
}

#[test]
fn mounts() {
    expect_exactly(|log| {
        let at = libc::c_long::from(libc::AT_FDCWD);
        for _ in 0..TIMES {
            let fs = log.opened("fsopen", call(libc::SYS_fsopen, &[address(c"tmpfs"), 0])).into();
            let create = 6;
            assert_eq!(call(libc::SYS_fsconfig, &[fs, create, 0, 0, 0]), 0);
            log.opened("fsmount", call(libc::SYS_fsmount, &[fs, 0, 0]));
            log.opened("fspick", call(libc::SYS_fspick, &[at, address(c"/proc"), 0]));
            log.opened("open_tree", call(libc::SYS_open_tree, &[at, address(c"/"), 0]));
        }
    });
}

#[test]
fn a_seccomp_listener() {
    for _ in 0..3 {
        expect_exactly(|log| {
            // struct sock_filter: return SECCOMP_RET_ALLOW; struct sock_fprog: how many, where.
            let allow = [0x06u64 | 0x7fff_0000 << 32];
            let program = [1u64, address(&allow) as u64];
            let mode_filter = 1;
            assert_eq!(call(libc::SYS_seccomp, &[mode_filter, 0, address(&program)]), 0);
            log.opened("seccomp", call(libc::SYS_seccomp, &[mode_filter, 1 << 3, address(&program)]));
        });
    }
}

#[test]
fn ioctls_that_make_descriptors() {
    let user_namespace = 0xb701;
    let kind = 0xb703;
    expect_exactly(|log| {
        let at = libc::c_long::from(libc::AT_FDCWD);
        for _ in 0..TIMES {
            let open = [at, address(c"/proc/self/ns/net"), 0];
            let ns = log.opened("openat", call(libc::SYS_openat, &open)).into();
            log.opened("ioctl", call(libc::SYS_ioctl, &[ns, user_namespace]));
            // A positive number that is no descriptor.
            assert_eq!(call(libc::SYS_ioctl, &[ns, kind]), libc::CLONE_NEWNET);
            let open = [at, address(c"/dev/ptmx"), libc::c_long::from(libc::O_RDWR | libc::O_NOCTTY)];
            let terminal = log.opened("openat", call(libc::SYS_openat, &open)).into();
            let unlocked = 0 as c_int;
            assert_eq!(call(libc::SYS_ioctl, &[terminal, libc::TIOCSPTLCK as c_long, address(&unlocked)]), 0);
            let peer = [terminal, libc::TIOCGPTPEER as c_long, c_long::from(libc::O_RDWR | libc::O_NOCTTY)];
            log.opened("ioctl", call(libc::SYS_ioctl, &peer));
            assert_eq!(call(libc::SYS_ioctl, &[999, user_namespace]), -1);
        }
    });
}

#[test]
fn closes_of_ranges() {
    expect_exactly(|log| {
        for round in 0..TIMES {
            // Two words of the bitmap and holes in both.
            let fds = [40, 41, 63, 64, 90, 127, 128, 130 + round as c_int];
            for fd in fds {
                log.opened("dup3", call(libc::SYS_dup3, &[0, fd.into(), 0]));
            }
            // Refused, and one that only marks.
            assert_eq!(call(libc::SYS_close_range, &[50, 40, 0]), -1);
            assert_eq!(call(libc::SYS_close_range, &[40, 41, 1 << 8]), -1);
            // Linux 5.11
            call(libc::SYS_close_range, &[40, 500, libc::CLOSE_RANGE_CLOEXEC.into()]);
            let unshare = if round % 2 == 0 { 0 } else { libc::CLOSE_RANGE_UNSHARE };
            assert_eq!(call(libc::SYS_close_range, &[41, 127, unshare.into()]), 0);
            for fd in &fds[1..6] {
                log.closed("close_range", *fd);
            }
            assert_eq!(call(libc::SYS_close_range, &[40, c_long::from(u32::MAX), 0]), 0);
            for fd in [fds[0], fds[6], fds[7]] {
                log.closed("close_range", fd);
            }
        }
    });
}

/// Sends `fds` through a socket in one message.
pub fn send(socket: c_int, fds: &[c_int]) {
    let mut control = [0u64; 160];
    let bytes = size_of_val(fds);
    control[0] = 16 + bytes as u64;
    control[1] = libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32;
    for (i, fd) in fds.iter().enumerate() {
        control[2 + i / 2] |= u64::from(fd.cast_unsigned()) << (32 * (i % 2));
    }
    let data = libc::iovec { iov_base: c"x".as_ptr().cast_mut().cast(), iov_len: 1 };
    // struct msghdr: name, its length, vectors, their count, control, its length, flags.
    let header =
        [0u64, 0, address(&data) as u64, 1, address(&control) as u64, 16 + bytes.next_multiple_of(8) as u64, 0];
    assert_eq!(call(libc::SYS_sendmsg, &[socket.into(), address(&header), 0]), 1);
}

/// A header to receive one message of one byte with, and the buffers that it points to.
pub struct Received {
    pub control: Box<[u64; 160]>,
    _data: Box<libc::iovec>,
    _byte: Box<u8>,
    pub header: [u64; 8],
}

impl Received {
    pub fn new() -> Self {
        let (control, mut byte) = (Box::new([0u64; 160]), Box::new(0u8));
        let data = Box::new(libc::iovec { iov_base: (&raw mut *byte).cast(), iov_len: 1 });
        let header = [0u64, 0, address(&*data) as u64, 1, address(&*control) as u64, 1280, 0, 0];
        Self { control, _data: data, _byte: byte, header }
    }

    /// The descriptors of the message with this type at this word of the control buffer.
    pub fn rights(&self, word: usize) -> Vec<c_int> {
        assert_eq!(self.control[word + 1], libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32);
        let count = (self.control[word] as usize - 16) / 4;
        (0..count).map(|i| (self.control[word + 2 + i / 2] >> (32 * (i % 2))) as c_int).collect()
    }
}

#[test]
fn descriptors_sent_through_sockets() {
    expect_exactly(|log| {
        let pair = Cell::new([0 as c_int; 2]);
        let seqpacket = [libc::AF_UNIX.into(), libc::SOCK_SEQPACKET.into(), 0, address(&pair)];
        assert_eq!(call(libc::SYS_socketpair, &seqpacket), 0);
        let pair = pair.get();
        log.opened_all("socketpair", pair);
        for count in [1, 2, 3, 253] {
            send(pair[0], &vec![0; count]);
            let message = Received::new();
            assert_eq!(call(libc::SYS_recvmsg, &[pair[1].into(), address(&message.header), 0]), 1);
            let fds = message.rights(0);
            assert_eq!(fds.len(), count);
            for fd in fds {
                log.opened("recvmsg", fd);
            }
        }
        // Credentials come before the descriptors in the control buffer.
        let on = 1 as c_int;
        let option = [pair[1].into(), libc::SOL_SOCKET.into(), libc::SO_PASSCRED.into(), address(&on), 4];
        assert_eq!(call(libc::SYS_setsockopt, &option), 0);
        for _ in 0..TIMES {
            send(pair[0], &[0, 1]);
            let message = Received::new();
            assert_eq!(call(libc::SYS_recvmsg, &[pair[1].into(), address(&message.header), 0]), 1);
            for fd in message.rights(4) {
                log.opened("recvmsg", fd);
            }
        }
        // A buffer with room for two of three: the third is not received.
        send(pair[0], &[0, 1, 2]);
        let mut message = Received::new();
        message.header[5] = 32 + 24;
        assert_eq!(call(libc::SYS_recvmsg, &[pair[1].into(), address(&message.header), 0]), 1);
        for fd in message.rights(4) {
            log.opened("recvmsg", fd);
        }
        // Nothing to receive, and a message without any.
        assert_eq!(call(libc::SYS_recvmsg, &[pair[1].into(), address(&message.header), libc::MSG_DONTWAIT.into()]), -1);
        let messages: Vec<_> = (0..5).map(|_| Received::new()).collect();
        let headers: Vec<_> = messages.iter().map(|message| message.header).collect();
        for i in 0..messages.len() {
            send(pair[0], &vec![0; i]);
        }
        let received = call(libc::SYS_recvmmsg, &[pair[1].into(), address(&*headers), 5, 0, 0]);
        assert_eq!(received, 5);
        for message in &messages[1..] {
            for fd in message.rights(4) {
                log.opened("recvmmsg", fd);
            }
        }
    });
}

beside_all! {
    opens_of_files
    duplicates
    sockets
    things_behind_descriptors
    ioctls_that_make_descriptors
    closes_of_ranges
    descriptors_sent_through_sockets
}
