//! Threads that wait for an answer of a DNS server. The resolver of the C library asks over a UDP socket that it connects to the server, and
//! sleeps until that one socket is ready; afterwards it closes it. So such a sleep is for one answer, and lasts as long as that is missing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::linux::fs::MetadataExt as _;

use super::asleep::{self, Doing, Target};
use super::locks;
use super::net::{self, InetSocket};

/// Where DNS servers listen (RFC 1035, 4.2.1).
const PORT: u16 = 53;
/// A thread that waits for one of more sockets has other things to wait for.
const MAX_POLLED: u64 = 2;

/// The sockets of processes by which something is asked. The tables are read once for each network namespace.
#[derive(Debug, Default)]
pub(crate) struct Askers {
    by_namespace: HashMap<u64, HashMap<u64, SocketAddr>>,
}

impl Askers {
    /// The server whose answer a thread awaits that is about this; `None` if it awaits none.
    pub(crate) fn asked(&mut self, pid: u32, doing: Doing) -> Option<SocketAddr> {
        let (first, second) = match doing {
            Doing::Reads(fd) => (Some(fd), None),
            Doing::Polls { list, count } if (1..=MAX_POLLED).contains(&count) => {
                // Each has two words: the descriptor, and events.
                let [first, _, second, ..] = locks::memory(pid, list)?;
                (Some(first), (count > 1).then_some(second))
            }
            _ => return None,
        };
        [first, second].into_iter().flatten().find_map(|fd| match asleep::target(pid, fd)? {
            Target::Socket { inode } => self.server(pid, inode),
            _ => None,
        })
    }

    fn server(&mut self, pid: u32, inode: u64) -> Option<SocketAddr> {
        let namespace = std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.st_ino();
        let sockets = self.by_namespace.entry(namespace).or_insert_with(|| {
            let all = net::udp_sockets(pid).unwrap_or_default();
            let asking = all.iter().filter(|socket| socket.established && socket.remote.port() == PORT);
            asking.map(|socket| (socket.inode, socket.remote)).collect()
        });
        sockets.get(&inode).copied()
    }
}

/// The socket of the server, if that is in the network namespace of this process.
pub(crate) fn local_server(pid: u32, server: SocketAddr) -> Option<u64> {
    let serves = |socket: &&InetSocket| {
        let there =
            socket.local.ip() == server.ip() || (server.ip().is_loopback() && socket.local.ip().is_unspecified());
        there && socket.local.port() == server.port() && !socket.established
    };
    net::udp_sockets(pid).ok()?.iter().find(serves).map(|socket| socket.inode)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd as _;

    use super::*;
    use crate::waits::testing::{Child, alone, eventually};

    #[test]
    fn who_waits_for_an_answer_is_told_from_who_waits_for_anything_else() {
        let _alone = alone();
        let own = UdpSocket::bind("127.0.0.1:0").unwrap();
        let asked = UdpSocket::bind("127.0.0.1:0").unwrap();
        asked.connect("127.0.0.1:53").unwrap();
        let of = |first: i32, count: u64| {
            let mut child = Child::forked(|| {
                let mut list = [first, own.as_raw_fd()].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
                // SAFETY: the list is as long as the call is told at most.
                unsafe { libc::poll(list.as_mut_ptr(), count, -1) };
            });
            let pid = child.pid();
            let doing = eventually(|| match asleep::doing(pid, pid) {
                Ok(doing @ Doing::Polls { .. }) => Some(doing),
                _ => None,
            });
            let asked = Askers::default().asked(pid, doing);
            child.kill();
            asked
        };
        let server = Some("127.0.0.1:53".parse().unwrap());
        assert_eq!((of(asked.as_raw_fd(), 1), of(asked.as_raw_fd(), 2)), (server, server));
        assert_eq!(of(own.as_raw_fd(), 2), None);
    }

    #[test]
    fn a_server_of_this_machine_is_found_by_its_socket() {
        let _alone = alone();
        let server = UdpSocket::bind("0.0.0.0:0").unwrap();
        let at = SocketAddr::new("127.0.0.53".parse().unwrap(), server.local_addr().unwrap().port());
        let inode = rustix::fs::fstat(&server).unwrap().st_ino;
        assert_eq!(local_server(std::process::id(), at), Some(inode));
        assert_eq!(local_server(std::process::id(), "10.9.9.9:53".parse().unwrap()), None);
    }
}
