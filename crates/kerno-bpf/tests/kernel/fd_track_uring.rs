//! What `io_uring` opens, accepts, receives and closes for a process.

use std::cell::Cell;
use std::ffi::{c_int, c_long};

use crate::fd_track::{Log, Received, TIMES, address, call, expect_exactly, send};
use crate::support::{monotonic_ns, without};
use kerno_bpf::Host;
use kerno_model::KernelVersion;

const RECVMSG: u8 = 10;
const ACCEPT: u8 = 13;
const OPENAT: u8 = 18;
const CLOSE: u8 = 19;
const OPENAT2: u8 = 28;
const SOCKET: u8 = 45;
const FIXED_FD_INSTALL: u8 = 54;
const PIPE: u8 = 62;

const FIXED_FILE: u8 = 1;
/// Run by a worker thread.
const ASYNC: u8 = 1 << 4;

/// `struct io_uring_sqe`
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Request {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    op_flags: u32,
    user_data: u64,
    buf_index: u16,
    personality: u16,
    file_index: u32,
    rest: [u64; 2],
}

/// A ring as the kernel's manual has it, one request at a time.
struct Ring {
    fd: c_int,
    params: [u32; 30],
    rings: *mut u32,
    requests: *mut Request,
}

impl Ring {
    fn new(log: &mut Log) -> Self {
        let mut params = [0u32; 30];
        let setup = [8, params.as_mut_ptr().addr() as c_long];
        let fd = log.opened("io_uring_setup", call(libc::SYS_io_uring_setup, &setup));
        let map = |offset| {
            // SAFETY: a new mapping of the ring; it stays for the life of the process.
            let at = unsafe {
                let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
                libc::mmap(std::ptr::null_mut(), 4096, access, flags, fd, offset)
            };
            assert_ne!(at, libc::MAP_FAILED);
            at
        };
        Self { fd, params, rings: map(0).cast(), requests: map(0x1000_0000).cast() }
    }

    /// Whether this kernel knows a request (`IORING_REGISTER_PROBE`: flags of each operation after a head of 16 bytes).
    fn knows(&self, opcode: u8) -> bool {
        let (register_probe, operations, supported) = (8, 256, 1);
        let probe = Cell::new([[0u16; 4]; 2 + 256]);
        let arguments = [self.fd.into(), register_probe, address(&probe), operations];
        assert_eq!(call(libc::SYS_io_uring_register, &arguments), 0);
        probe.get()[2 + usize::from(opcode)][1] & supported != 0
    }

    /// A word of the rings, by the offset that this word of the parameters holds.
    fn word(&self, param: usize) -> *mut u32 {
        self.rings.wrapping_byte_add(self.params[param] as usize)
    }

    fn submit(&self, request: Request) {
        // SAFETY: within the mappings, at the offsets that the kernel gave; nobody else uses this ring.
        unsafe {
            let (tail, mask) = (self.word(11).read_volatile(), self.word(12).read_volatile());
            self.requests.add((tail & mask) as usize).write_volatile(request);
            self.word(16).add((tail & mask) as usize).write_volatile(tail & mask);
            self.word(11).write_volatile(tail + 1);
        }
        assert_eq!(call(libc::SYS_io_uring_enter, &[self.fd.into(), 1, 0, 0, 0, 0]), 1);
    }

    /// The result of the next completion.
    fn complete(&self) -> c_int {
        let get_events = 1;
        assert_eq!(call(libc::SYS_io_uring_enter, &[self.fd.into(), 0, 1, get_events, 0, 0]), 0);
        // SAFETY: as above; a completion is there and is four words long: user data (two), result, flags.
        unsafe {
            let (head, mask) = (self.word(20).read_volatile(), self.word(22).read_volatile());
            assert_ne!(head, self.word(21).read_volatile());
            let result = self.word(25).add(4 * (head & mask) as usize + 2).read_volatile();
            self.word(20).write_volatile(head + 1);
            result.cast_signed()
        }
    }

    fn run(&self, request: Request) -> c_int {
        self.submit(request);
        self.complete()
    }
}

fn open(flags: u8) -> Request {
    let (path, how) = (c"/dev/null".as_ptr().addr() as u64, libc::O_RDWR.cast_unsigned());
    Request { opcode: OPENAT, flags, fd: libc::AT_FDCWD, addr: path, op_flags: how, ..Request::default() }
}

/// Before Linux 6.0 the rings are not followed; the last test here has what is told then.
fn followed() -> bool {
    Host::detect().version >= KernelVersion::new(6, 0)
}

#[test]
fn files() {
    if !followed() {
        return;
    }
    expect_exactly(|log| {
        let ring = Ring::new(log);
        let slots = [-1 as c_int; 2];
        let register_files = 2;
        assert_eq!(call(libc::SYS_io_uring_register, &[ring.fd.into(), register_files, address(&slots), 2]), 0);
        for flags in [0, ASYNC] {
            for _ in 0..TIMES {
                let fd = log.opened("io_uring", ring.run(open(flags)));
                // struct open_how: flags, mode, resolve.
                let how = [libc::O_RDONLY as u64, 0, 0];
                let open2 = Request { opcode: OPENAT2, off: address(&how) as u64, len: 24, op_flags: 0, ..open(flags) };
                log.opened("io_uring", ring.run(open2));
                let missing = c"/no/such/file".as_ptr().addr() as u64;
                assert_eq!(ring.run(Request { addr: missing, ..open(flags) }), -libc::ENOENT);
                assert_eq!(ring.run(Request { opcode: CLOSE, flags, fd, ..Request::default() }), 0);
                log.closed("io_uring", fd);
                assert_eq!(ring.run(Request { opcode: CLOSE, flags, fd, ..Request::default() }), -libc::EBADF);
                // Into the ring's own table and out of it: no descriptor of the process, until it is made one.
                assert_eq!(ring.run(Request { file_index: 1, ..open(flags) }), 0);
                // Linux 6.8
                if ring.knows(FIXED_FD_INSTALL) {
                    let install = Request { opcode: FIXED_FD_INSTALL, flags: FIXED_FILE, ..Request::default() };
                    log.opened("io_uring", ring.run(install));
                }
                assert_eq!(ring.run(Request { opcode: CLOSE, flags, file_index: 1, ..Request::default() }), 0);
            }
        }
        let pair = Cell::new([-1 as c_int; 2]);
        // Linux 6.16
        if ring.run(Request { opcode: PIPE, addr: address(&pair) as u64, ..Request::default() }) == 0 {
            log.opened_all("io_uring", pair.get());
        }
    });
}

#[test]
fn connections() {
    if !followed() {
        return;
    }
    let each_is_told = Host::detect().version >= KernelVersion::new(6, 4);
    expect_exactly(|log| {
        let ring = Ring::new(log);
        let mut name = [0u8; 110];
        name[0] = libc::AF_UNIX as u8;
        name[3..11].copy_from_slice(&monotonic_ns().to_ne_bytes());
        let make =
            |flags, kind| Request { opcode: SOCKET, flags, fd: libc::AF_UNIX, off: kind as u64, ..Request::default() };
        let listener = log.opened("io_uring", ring.run(make(0, libc::SOCK_STREAM)));
        assert_eq!(call(libc::SYS_bind, &[listener.into(), address(&name), 11]), 0);
        assert_eq!(call(libc::SYS_listen, &[listener.into(), 50]), 0);
        let accept = |flags| Request { opcode: ACCEPT, flags, fd: listener, ..Request::default() };
        let connect = |fd: c_int| assert_eq!(call(libc::SYS_connect, &[fd.into(), address(&name), 11]), 0);
        for flags in [0, ASYNC] {
            for _ in 0..TIMES {
                let client = log.opened("io_uring", ring.run(make(flags, libc::SOCK_STREAM)));
                connect(client);
                log.opened("io_uring", ring.run(accept(flags)));
            }
        }
        // One request, many connections: each is told since 6.4, before only the end of the request.
        if !each_is_told {
            return;
        }
        ring.submit(Request { ioprio: 1, user_data: 77, ..accept(0) });
        for _ in 0..TIMES {
            let client =
                log.opened("socket", call(libc::SYS_socket, &[libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0]));
            connect(client);
            log.opened("io_uring", ring.complete());
        }
    });
}

#[test]
fn descriptors_in_messages() {
    if !followed() {
        return;
    }
    expect_exactly(|log| {
        let ring = Ring::new(log);
        let pair = Cell::new([0 as c_int; 2]);
        let (unix, seqpacket) = (c_long::from(libc::AF_UNIX), c_long::from(libc::SOCK_SEQPACKET));
        assert_eq!(call(libc::SYS_socketpair, &[unix, seqpacket, 0, address(&pair)]), 0);
        let pair = pair.get();
        log.opened_all("socketpair", pair);
        for flags in [0, ASYNC] {
            for count in [1, 2, 3, 5, 7] {
                send(pair[0], &vec![0; count]);
                let message = Received::new();
                let addr = address(&message.header) as u64;
                assert_eq!(
                    ring.run(Request { opcode: RECVMSG, flags, fd: pair[1], addr, len: 1, ..Request::default() }),
                    1
                );
                for fd in message.rights(0) {
                    log.opened("io_uring", fd);
                }
            }
        }
    });
}

#[test]
fn without_its_hook_only_io_uring_is_missing() {
    without(&["io_uring_complete"], || {
        expect_exactly(|log| {
            let ring = Ring::new(log);
            for _ in 0..TIMES {
                let untold = ring.run(open(0));
                assert!(untold >= 0);
                log.opened("socket", call(libc::SYS_socket, &[libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0]));
                assert_eq!(ring.run(Request { opcode: CLOSE, fd: untold, ..Request::default() }), 0);
            }
        });
    });
}

// Without that hook, connections that one request accepts again and again are not told of.
again! { before_6_4, without "io_uring_submit_req":
    files
    descriptors_in_messages
}

beside_all! {
    files
    connections
    descriptors_in_messages
    without_its_hook_only_io_uring_is_missing
}
