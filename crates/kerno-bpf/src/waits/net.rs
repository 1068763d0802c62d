//! Sockets and their other ends on this machine: Unix sockets by sock_diag(7), TCP and UDP by `/proc/PID/net`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use super::namespaces::{Kind, within};

/// The most sockets that are kept of one network namespace.
const MAX_SOCKETS: usize = 1 << 16;

/// `TCP_LISTEN` and `TCP_ESTABLISHED`, which Unix sockets have too.
const LISTEN: u8 = 10;
const ESTABLISHED: u8 = 1;
/// `TCP_SYN_RECV`: what `/proc/net/tcp` shows of half-open connections, too.
const SYN_RECV: u8 = 3;
/// `TCP_TIME_WAIT`
const TIME_WAIT: u8 = 6;

/// A Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnixSocket {
    pub(crate) inode: u32,
    /// `SOCK_STREAM` (1), `SOCK_DGRAM` (2), `SOCK_SEQPACKET` (5).
    pub(crate) kind: u8,
    pub(crate) listens: bool,
    /// The inode of the other end; 0 without one, or when nobody has accepted it yet.
    pub(crate) peer: u32,
    /// Where it is bound: a path, or `@name` in the abstract namespace.
    pub(crate) name: Option<String>,
    /// Of a listener: connections that wait to be accepted. Else: bytes that wait to be read; of datagrams, of the first.
    pub(crate) received: u32,
    /// Of a listener: its backlog. Else: bytes that the other end has not read.
    pub(crate) sent: u32,
    /// Of a listener: the inodes of the clients whose connections wait.
    pub(crate) waiting: Vec<u32>,
}

impl UnixSocket {
    /// A listener whose queue is full: the next client waits, or gets EAGAIN. The kernel lets one more in than the backlog says.
    pub(crate) const fn is_full(&self) -> bool {
        self.listens && self.received > self.sent
    }
}

/// The Unix sockets of one network namespace.
#[derive(Debug, Default)]
pub(crate) struct UnixSockets {
    pub(crate) all: Vec<UnixSocket>,
    /// There were more than are kept.
    pub(crate) cut: bool,
}

impl UnixSockets {
    /// All, or only the listening ones, in the network namespace of a process.
    pub(crate) fn of(pid: u32, listening: bool) -> io::Result<Self> {
        within(pid, Kind::Net, move || dump(if listening { 1 << LISTEN } else { u32::MAX }))
    }

    pub(crate) fn by_inode(&self, inode: u64) -> Option<&UnixSocket> {
        self.all.iter().find(|socket| u64::from(socket.inode) == inode)
    }

    /// The listener that has not accepted this client yet.
    pub(crate) fn listener_of(&self, client: u64) -> Option<&UnixSocket> {
        self.all.iter().find(|socket| socket.waiting.iter().any(|waiting| u64::from(*waiting) == client))
    }

    /// The socket bound to this path or name.
    pub(crate) fn by_name(&self, name: &str) -> Option<&UnixSocket> {
        let named = |socket: &&UnixSocket| socket.name.as_deref() == Some(name);
        self.all.iter().filter(named).max_by_key(|socket| socket.listens)
    }
}

const NLMSG_HEADER: usize = 16;
const UNIX_DIAG_MSG: usize = 16;
/// `UDIAG_SHOW_NAME`, `UDIAG_SHOW_PEER`, `UDIAG_SHOW_ICONS`, `UDIAG_SHOW_RQLEN`
const SHOW: u32 = 0x01 | 0x04 | 0x08 | 0x10;

/// Asks the kernel for all Unix sockets in these states.
fn dump(states: u32) -> io::Result<UnixSockets> {
    let socket = netlink()?;
    let mut request = Vec::with_capacity(40);
    // struct nlmsghdr: length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, sequence, port.
    request.extend(40u32.to_ne_bytes());
    request.extend(20u16.to_ne_bytes());
    request.extend(0x301u16.to_ne_bytes());
    request.extend([0; 8]);
    // struct unix_diag_req: family, protocol, padding, states, inode, what to show, cookie.
    request.extend([1, 0, 0, 0]);
    request.extend(states.to_ne_bytes());
    request.extend(0u32.to_ne_bytes());
    request.extend(SHOW.to_ne_bytes());
    request.extend([0; 8]);
    // SAFETY: the buffer is as long as is said.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let (mut found, mut buffer) = (UnixSockets::default(), vec![0; 64 << 10]);
    loop {
        // SAFETY: as above.
        let received = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let Ok(length) = usize::try_from(received) else { return Err(io::Error::last_os_error()) };
        let mut rest = buffer.get(..length).unwrap_or_default();
        if rest.is_empty() {
            return Ok(found);
        }
        while let (Some(size), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
            let size = size as usize;
            let Some(message) = rest.get(NLMSG_HEADER..size) else { break };
            match kind {
                // NLMSG_DONE
                3 => return Ok(found),
                // NLMSG_ERROR
                2 => {
                    let error = u32_at(message, 0).map_or(0, u32::cast_signed);
                    return Err(io::Error::from_raw_os_error(error.wrapping_neg()));
                }
                _ if found.all.len() >= MAX_SOCKETS => found.cut = true,
                _ => found.all.extend(parse(message)),
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// A socket to talk with sock_diag, which gives up after a second.
fn netlink() -> io::Result<OwnedFd> {
    // SAFETY: numbers only. NETLINK_SOCK_DIAG is 4.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 4) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else knows the descriptor that was just opened.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let patience = libc::timeval { tv_sec: 1, tv_usec: 0 };
    let size = u32::try_from(size_of::<libc::timeval>()).unwrap_or(0);
    // SAFETY: the value is a timeval, as the option wants it.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const patience).cast(), size) };
    Ok(socket)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// `struct unix_diag_msg` and its attributes.
fn parse(message: &[u8]) -> Option<UnixSocket> {
    let mut socket = UnixSocket {
        kind: *message.get(1)?,
        listens: *message.get(2)? == LISTEN,
        inode: u32_at(message, 4)?,
        ..UnixSocket::default()
    };
    let mut rest = message.get(UNIX_DIAG_MSG..)?;
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        let Some(value) = rest.get(4..length) else { break };
        match kind {
            0 => socket.name = name(value),
            2 => socket.peer = u32_at(value, 0).unwrap_or(0),
            3 => socket.waiting = (0..value.len() / 4).filter_map(|place| u32_at(value, place * 4)).collect(),
            4 => (socket.received, socket.sent) = (u32_at(value, 0).unwrap_or(0), u32_at(value, 4).unwrap_or(0)),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(socket)
}

/// A path, perhaps with zeros behind it; or a name in the abstract namespace, which begins with a zero.
fn name(bytes: &[u8]) -> Option<String> {
    let (at, bytes) = match bytes.split_first()? {
        (0, rest) => ("@", rest),
        _ => ("", bytes.split(|byte| *byte == 0).next().unwrap_or_default()),
    };
    (!bytes.is_empty()).then(|| format!("{at}{}", String::from_utf8_lossy(bytes)))
}

/// A TCP or UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InetSocket {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) listens: bool,
    pub(crate) established: bool,
    /// Half-open: a SYN was answered, and the answer not yet.
    pub(crate) half_open: bool,
    /// Closed here first: nobody's any more, its port is not given to another connection to the same address for a minute.
    pub(crate) time_wait: bool,
    /// Bytes that the other end has not acknowledged. Of a listener: 0.
    pub(crate) sent: u64,
    /// Bytes that wait to be read. Of a listener: connections that wait to be accepted.
    pub(crate) received: u64,
    /// The segments are held back because the other end has no room (the timer of window probes runs).
    pub(crate) probes: bool,
    /// 0 when nobody has accepted it yet.
    pub(crate) inode: u64,
    /// Of UDP: datagrams dropped since the socket was made.
    pub(crate) drops: u64,
}

/// The TCP sockets in the network namespace of a process.
pub(crate) fn tcp_sockets(pid: u32) -> io::Result<Vec<InetSocket>> {
    inet_sockets(pid, ["tcp", "tcp6"])
}

/// The UDP sockets there. One that is connected counts as established.
pub(crate) fn udp_sockets(pid: u32) -> io::Result<Vec<InetSocket>> {
    inet_sockets(pid, ["udp", "udp6"])
}

fn inet_sockets(pid: u32, files: [&str; 2]) -> io::Result<Vec<InetSocket>> {
    let mut all = Vec::new();
    for file in files {
        match std::fs::read_to_string(format!("/proc/{pid}/net/{file}")) {
            Ok(text) => all.extend(text.lines().skip(1).filter_map(parse_inet).take(MAX_SOCKETS)),
            // A kernel without IPv6.
            Err(error) if file.ends_with('6') && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// The other end of a connection, among the sockets of this machine.
pub(crate) fn tcp_peer<'a>(sockets: &'a [InetSocket], of: &InetSocket) -> Option<&'a InetSocket> {
    sockets.iter().find(|socket| !socket.listens && socket.local == of.remote && socket.remote == of.local)
}

/// The listener that has not accepted this connection yet, if it is one of these sockets.
pub(crate) fn tcp_listener(sockets: &[InetSocket], at: SocketAddr) -> Option<&InetSocket> {
    let listens = |socket: &&InetSocket| {
        let any = socket.local.ip().is_unspecified() || socket.local.ip() == at.ip();
        socket.listens && socket.local.port() == at.port() && any
    };
    sockets.iter().find(listens)
}

/// A line of `/proc/net/tcp` or `/proc/net/udp`.
fn parse_inet(line: &str) -> Option<InetSocket> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [_, local, remote, state, queues, timer, ..] = fields[..] else { return None };
    let state = u8::from_str_radix(state, 16).ok()?;
    let (sent, received) = queues.split_once(':')?;
    Some(InetSocket {
        local: address(local)?,
        remote: address(remote)?,
        listens: state == LISTEN,
        established: state == ESTABLISHED,
        half_open: state == SYN_RECV,
        time_wait: state == TIME_WAIT,
        sent: u64::from_str_radix(sent, 16).ok()?,
        received: u64::from_str_radix(received, 16).ok()?,
        probes: timer.starts_with("04:"),
        inode: fields.get(9)?.parse().ok()?,
        // Lines of TCP have something else there.
        drops: fields.get(12).filter(|_| fields.len() == 13).and_then(|drops| drops.parse().ok()).unwrap_or(0),
    })
}

/// `0100007F:1F90`: words of the address in the machine's order, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |place: usize| Some(u32::from_str_radix(ip.get(place..place + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for (place, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(place * 8)?);
            }
            IpAddr::from(bytes)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;
    use crate::waits::testing::alone;

    fn inode(socket: &impl std::os::fd::AsFd) -> u64 {
        rustix::fs::fstat(socket).unwrap().st_ino
    }

    fn unix() -> UnixSockets {
        UnixSockets::of(std::process::id(), false).unwrap()
    }

    #[test]
    fn the_other_end_of_a_unix_socket_is_told_with_what_waits_in_it() {
        let _alone = alone();
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&[7; 1000]).unwrap();
        let all = unix();
        let (from, to) = (all.by_inode(inode(&a)).unwrap(), all.by_inode(inode(&b)).unwrap());
        assert_eq!((u64::from(from.peer), u64::from(to.peer)), (inode(&b), inode(&a)));
        assert_eq!((to.received, from.received), (1000, 0));
        assert!(from.sent >= 1000 && from.kind == 1);
    }

    #[test]
    fn a_full_listener_is_told_with_its_clients() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket = UnixListener::bind(&path).unwrap();
        // SAFETY: a smaller backlog for the listener.
        assert_eq!(unsafe { libc::listen(socket.as_raw_fd(), 1) }, 0);
        let first = UnixStream::connect(&path).unwrap();
        let (name, known) = (path.to_str().unwrap(), u64::from);
        let all = unix();
        let found = all.by_name(name).unwrap();
        assert_eq!((found.listens, found.received, found.sent, found.is_full()), (true, 1, 1, false));
        assert_eq!(all.listener_of(inode(&first)).map(|found| known(found.inode)), Some(inode(&socket)));
        let _second = UnixStream::connect(&path).unwrap();
        let all = UnixSockets::of(std::process::id(), true).unwrap();
        assert!(all.by_name(name).unwrap().is_full());
        assert!(all.all.iter().all(|socket| socket.listens));
    }

    #[test]
    fn datagrams_have_a_receiver() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (server, client) = (UnixDatagram::bind(&path).unwrap(), UnixDatagram::unbound().unwrap());
        client.connect(&path).unwrap();
        let all = unix();
        let from = all.by_inode(inode(&client)).unwrap();
        assert_eq!((from.kind, u64::from(from.peer)), (2, inode(&server)));
        assert_eq!(all.by_inode(inode(&server)).unwrap().name.as_deref(), path.to_str());
    }

    #[test]
    fn names_are_read_as_they_were_bound() {
        assert_eq!(name(b"/run/x\0"), Some("/run/x".into()));
        assert_eq!(name(b"\0abstract"), Some("@abstract".into()));
        assert_eq!((name(b""), name(b"\0")), (None, None));
    }

    #[test]
    fn the_other_end_of_a_connection_is_found_in_both_families() {
        let _alone = alone();
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let address = listener.local_addr().unwrap();
            let mut client = TcpStream::connect(address).unwrap();
            let sockets = || tcp_sockets(std::process::id()).unwrap();
            let all = sockets();
            let of = |all: &[InetSocket], inode: u64| *all.iter().find(|socket| socket.inode == inode).unwrap();
            let mine = of(&all, inode(&client));
            // Not accepted: nobody's yet.
            assert_eq!(tcp_peer(&all, &mine).map(|peer| peer.inode), Some(0));
            let waits = tcp_listener(&all, mine.remote).unwrap();
            assert_eq!((waits.inode, waits.received), (inode(&listener), 1));
            let (server, _) = listener.accept().unwrap();
            client.write_all(&[1; 500]).unwrap();
            let all = sockets();
            let peer = tcp_peer(&all, &mine).unwrap();
            assert_eq!((peer.inode, peer.received, peer.established), (inode(&server), 500, true));
        }
    }

    #[test]
    fn lines_that_are_not_as_they_should_be_are_left_out() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 123 1";
        let socket = parse_inet(line).unwrap();
        assert_eq!((socket.local.to_string(), socket.listens, socket.received), ("127.0.0.1:8080".into(), true, 3));
        assert!(parse_inet("0: 01:1 2").is_none() && parse_inet("").is_none() && address("zz:1").is_none());
    }
}
