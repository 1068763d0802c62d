//! Namespaces, socket options and counters that the TCP tests share.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use kerno_bpf::TcpEventType;
use kerno_bpf::{Filter, TcpEvent, TcpMonitorLoader};

use crate::support::{Child, Link, Run, options};

/// A child in a network namespace of its own, with its loopback up. It goes there and waits: see [`enter`].
pub(crate) fn child_in_namespace(work: impl FnOnce(&mut Link)) -> Child {
    Child::new(move |link| {
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "unshare needs CAP_SYS_ADMIN");
        bring_loopback_up();
        link.tell(namespace());
        link.wait();
        work(link);
    })
}

/// A child's namespace. Held open, because the kernel gives the inode number of one that ended to the next.
pub(crate) struct Namespace {
    inode: u64,
    _open: std::fs::File,
}

impl Namespace {
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    pub(crate) fn has(&self, event: &TcpEvent) -> bool {
        u64::from(event.netns) == self.inode
    }
}

/// Lets a [`child_in_namespace`] go there. To be done before the probes are loaded.
pub(crate) fn enter(child: &mut Child) -> Namespace {
    child.go();
    let inode = child.heard();
    Namespace { inode, _open: std::fs::File::open(format!("/proc/{}/ns/net", child.pid)).unwrap() }
}

/// Inode of this process's network namespace.
pub(crate) fn namespace() -> u64 {
    let link = std::fs::read_link("/proc/self/ns/net").unwrap();
    link.to_str().unwrap().trim_start_matches("net:[").trim_end_matches(']').parse().unwrap()
}

fn bring_loopback_up() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).unwrap();
    // SAFETY: the request is a whole ifreq that lives during the call.
    assert_eq!(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }, 0);
}

/// The events of the child's namespace while the child works, unknown owners included, in order of time; those of other
/// namespaces are left out.
pub(crate) fn observe_in_namespace(filter: Filter, child: &mut Child) -> Vec<TcpEvent> {
    let namespace = enter(child);
    let run = Run::start(TcpMonitorLoader::new(options(filter)));
    child.run();
    events_of(run, |event| namespace.has(event))
}

/// The events gathered so far that `wanted` keeps, in order of time.
pub(crate) fn events_of(run: Run<TcpMonitorLoader>, wanted: impl Fn(&TcpEvent) -> bool) -> Vec<TcpEvent> {
    let raw = run.finish();
    let mut events: Vec<TcpEvent> = raw.iter().map(|raw| *raw.as_raw().decode_as().unwrap()).filter(wanted).collect();
    events.sort_by_key(|event| event.timestamp_ns);
    events
}

/// The events of one type.
pub(crate) fn of_type(events: &[TcpEvent], event_type: TcpEventType) -> Vec<TcpEvent> {
    events.iter().filter(|event| event.event_type == event_type).copied().collect()
}

/// Waits until the calling thread's namespace has no connection left but those in TIME_WAIT, which are no sockets any more.
pub(crate) fn settle() {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let open = ["tcp", "tcp6"].iter().any(|table| {
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
            text.lines().skip(1).any(|line| !matches!(line.split_whitespace().nth(3), Some("06" | "0A")))
        });
        if !open {
            break;
        }
        assert!(Instant::now() < deadline, "connections do not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    // A socket leaves the tables an instant before it reaches CLOSE.
    std::thread::sleep(Duration::from_millis(5));
}

/// A pair of connected sockets: ours and the one accepted.
pub(crate) fn connected(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap().0;
    // A test that waits for ever should fail instead.
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    }
    (client, server)
}

pub(crate) fn set_option<T>(socket: &impl AsRawFd, level: i32, name: i32, value: &T) {
    let size = libc::socklen_t::try_from(size_of::<T>()).unwrap();
    // SAFETY: value is readable for size bytes; the kernel checks that it is what the option takes.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), size) };
    assert_eq!(result, 0, "setsockopt: {}", std::io::Error::last_os_error());
}

/// Closing the socket sends a RST.
pub(crate) fn reset_on_close(socket: &TcpStream) {
    set_option(socket, libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 });
}

/// From now on the socket sees no packet: each is dropped as if the wire had lost it.
pub(crate) fn drop_packets(socket: &impl AsRawFd) {
    filter_packets(socket, &mut [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }]); // BPF_RET, 0 bytes
}

/// From now on the socket sees no packet of more than so many bytes, the header of TCP included.
pub(crate) fn drop_large_packets(socket: &impl AsRawFd, bytes: u32) {
    let [load_length, is_larger] = [(0x80, 0, 0, 0), (0x25, 0, 1, bytes)]; // BPF_LD | BPF_LEN, BPF_JMP | BPF_JGT
    let [drop, pass] = [(0x06, 0, 0, 0), (0x06, 0, 0, u32::MAX)]; // BPF_RET
    let step = |(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k };
    filter_packets(socket, &mut [load_length, is_larger, drop, pass].map(step));
}

fn filter_packets(socket: &impl AsRawFd, steps: &mut [libc::sock_filter]) {
    let program = libc::sock_fprog { len: u16::try_from(steps.len()).unwrap(), filter: steps.as_mut_ptr() };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program);
}

/// Undoes [`drop_packets`].
pub(crate) fn pass_packets(socket: &impl AsRawFd) {
    set_option(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0i32);
}

/// What the kernel says about a connection.
pub(crate) fn tcp_info(socket: &impl AsRawFd) -> libc::tcp_info {
    // SAFETY: all zeroes is a valid tcp_info.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap();
    // SAFETY: info is writable for size bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut size)
    };
    assert_eq!(result, 0);
    info
}

/// A counter of the calling thread's namespace from `/proc/net/snmp` or `/proc/net/netstat`: two lines a group, names and values.
pub(crate) fn counter(file: &str, group: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split_whitespace().position(|found| found == name).unwrap();
    values.split_whitespace().nth(at).unwrap().parse().unwrap()
}

/// Sends `bytes` bytes.
pub(crate) fn send(stream: &mut TcpStream, bytes: usize) {
    stream.write_all(&vec![0x5a; bytes]).unwrap();
}

/// Receives just so many bytes.
pub(crate) fn receive(stream: &mut TcpStream, bytes: usize) {
    stream.read_exact(&mut vec![0; bytes]).unwrap();
}

/// The peer has closed and sent nothing more.
pub(crate) fn expect_end(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}
