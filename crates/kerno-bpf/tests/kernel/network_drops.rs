//! What is dropped outside of TCP, and half-open connections, against the kernel's own counters of a namespace of the test's own.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use crate::support::{Link, compare, unless_init_ran};
use crate::tcp_monitor::net::{child_in_namespace, counter, drop_packets, set_option};
use crate::tcp_monitor::start_connect_with;
use crate::tcp_summary::{done, end, observe};

const DATAGRAMS: u64 = 4_001;

/// Sends so many datagrams to a socket that has room for few.
fn overfill(address: &str) -> UdpSocket {
    let full = UdpSocket::bind(address).unwrap();
    set_option(&full, libc::SOL_SOCKET, libc::SO_RCVBUF, &4096i32);
    let sender = UdpSocket::bind(SocketAddr::new(full.local_addr().unwrap().ip(), 0)).unwrap();
    for _ in 0..DATAGRAMS {
        sender.send_to(&[7; 100], full.local_addr().unwrap()).unwrap();
    }
    full
}

/// How many datagrams wait in a socket.
fn waiting(socket: &UdpSocket) -> u64 {
    socket.set_nonblocking(true).unwrap();
    let mut count = 0;
    loop {
        match socket.recv(&mut [0; 200]) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_socket_without_room_drops_what_the_kernel_counts() {
    unless_init_ran(drop_datagrams);
}

fn drop_datagrams() {
    let mut child = child_in_namespace(|link| {
        // From before, and not of this window.
        let before = overfill("127.0.0.1:5300");
        link.wait();
        let full = [overfill("127.0.0.1:5301"), overfill("[::1]:5302")];
        // Reads all that it gets.
        let reader = UdpSocket::bind("127.0.0.1:5303").unwrap();
        for _ in 0..100 {
            reader.send_to(b"x", "127.0.0.1:5303").unwrap();
            assert_eq!(reader.recv(&mut [0; 9]).unwrap(), 1);
        }
        done(link);
        full.iter().for_each(|full| link.tell(DATAGRAMS - waiting(full)));
        let snmp6 = std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap();
        let of_udp6 = snmp6.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors")?.trim().parse::<u64>().ok());
        link.tell(counter("snmp", "Udp:", "RcvbufErrors") - (DATAGRAMS - waiting(&before)));
        link.tell(of_udp6.unwrap());
    });
    child.go();
    let seen = observe(&mut child);
    let sockets: Vec<_> =
        seen.tcp().datagram_sockets.iter().filter(|socket| socket.net_namespace == seen.inode).collect();
    let of = |port: u16| sockets.iter().find(|socket| socket.port == port).unwrap_or_else(|| panic!("{sockets:#?}"));
    assert_eq!(sockets.len(), 2, "{sockets:#?}");
    for (port, local) in [(5301, "127.0.0.1"), (5302, "::1")] {
        let socket = of(port);
        let dropped = child.heard();
        compare("tcp_monitor", "datagrams dropped", socket.drops, dropped, "what was sent and cannot be read");
        assert_eq!((socket.local.to_string().as_str(), socket.pid, socket.holders), (local, child.pid, 1));
        assert!(socket.queued_bytes > 0, "{socket:?}");
    }
    for port in [5301, 5302] {
        compare("tcp_monitor", "receive errors of UDP", of(port).drops, child.heard(), "snmp, snmp6");
    }
    let findings = seen.findings("udp_receive_buffer_full");
    assert_eq!(findings.len(), 2, "{findings:#?}");
    assert!(findings.iter().all(|finding| finding.culprit.pid == Some(child.pid)), "{findings:#?}");
    end(child);
}

#[test]
fn half_open_connections_are_counted_at_their_listener() {
    unless_init_ran(half_open);
}

fn half_open() {
    const CLIENTS: usize = 61;
    const BACKLOG: i32 = 7;
    let mut child = child_in_namespace(|link| {
        // What finds no room is dropped.
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:5443").unwrap();
        // SAFETY: a shorter queue for the listener.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) }, 0);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                // It hears nothing, so it answers nothing.
                start_connect_with(listener.local_addr().unwrap(), 6, drop_packets)
            })
            .collect();
        std::thread::sleep(Duration::from_millis(20));
        done(link);
        link.tell(counter("netstat", "TcpExt:", "TCPReqQFullDrop"));
        drop(clients);
    });
    let seen = observe(&mut child);
    let namespace = seen.tcp().namespaces.iter().find(|namespace| namespace.inode == seen.inode).unwrap();
    let dropped = child.heard();
    assert!(namespace.syn_drops > 0 && namespace.syn_drops <= dropped, "{namespace:?}, {dropped}");
    assert_eq!((namespace.listen_overflows, namespace.syn_cookies), (0, 0));
    let listener = seen.tcp().listeners.iter().find(|listener| listener.port == 5443).unwrap();
    assert_eq!((listener.pid, listener.half_open_addresses), (child.pid, 1), "{listener:?}");
    assert_eq!(listener.half_open_from.map(|from| from.to_string()).as_deref(), Some("127.0.0.1"));
    assert!((1..=u64::from(BACKLOG.unsigned_abs()) + 1).contains(&listener.half_open), "{listener:?}");
    let findings = seen.findings("tcp_half_open_flood");
    let [finding] = &findings[..] else { panic!("{findings:#?}") };
    assert_eq!(finding.victims[0].pid, Some(child.pid));
    assert!(seen.findings("tcp_accept_queue_overflow").is_empty());
    end(child);
}

/// A tun device with this address, up.
fn tun(name: &str, address: [u8; 4]) -> OwnedFd {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const IFF_TUN: i16 = 1;
    const IFF_NO_PI: i16 = 0x1000;
    // SAFETY: a path; and requests of the size and kind that each call takes.
    unsafe {
        let tun = libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        assert!(tun >= 0, "/dev/net/tun: {}", std::io::Error::last_os_error());
        let tun = OwnedFd::from_raw_fd(tun);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = IFF_TUN | IFF_NO_PI;
        assert_eq!(libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &raw mut request), 0);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut set = |call: libc::c_ulong, address: [u8; 4]| {
            let ip = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address) },
                sin_zero: [0; 8],
            };
            request.ifr_ifru.ifru_addr = std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(ip);
            assert_eq!(libc::ioctl(socket.as_raw_fd(), call as _, &raw mut request), 0);
        };
        set(libc::SIOCSIFADDR as _, address);
        set(libc::SIOCSIFNETMASK as _, [255, 255, 255, 0]);
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        assert_eq!(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request), 0);
        tun
    }
}

fn sent_dropped(interface: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':')).unwrap();
    line.split_whitespace().nth(11).unwrap().parse().unwrap()
}

#[test]
fn a_tun_device_that_nobody_reads_drops_what_it_should_send() {
    unless_init_ran(drop_in_tun);
}

fn drop_in_tun() {
    let mut child = child_in_namespace(|link: &mut Link| {
        let device = tun("kernotun", [10, 99, 0, 1]);
        let socket = UdpSocket::bind("10.99.0.1:0").unwrap();
        // Its queue is full from the begin on.
        (0..1_000).for_each(|_| drop(socket.send_to(&[7; 100], "10.99.0.2:9")));
        let before = sent_dropped("kernotun");
        link.wait();
        // The kernel looks for routers on it by itself, at any time.
        let begun = sent_dropped("kernotun");
        (0..1_009).for_each(|_| drop(socket.send_to(&[7; 100], "10.99.0.2:9")));
        let at_least = sent_dropped("kernotun") - begun;
        done(link);
        link.tell(at_least);
        link.tell(sent_dropped("kernotun") - before);
        drop(device);
    });
    child.go();
    let seen = observe(&mut child);
    let interfaces: Vec<_> = seen.tcp().interfaces.iter().filter(|found| found.net_namespace == seen.inode).collect();
    let [interface] = interfaces[..] else { panic!("{interfaces:#?}") };
    assert_eq!((interface.name.as_str(), interface.driver.as_str()), ("kernotun", "tun"));
    assert_eq!(interface.reader_pid, child.pid);
    let dropped = child.heard()..=child.heard();
    assert!(*dropped.start() >= 1_009 && dropped.contains(&interface.sent_dropped), "{interface:?}, {dropped:?}");
    let findings = seen.findings("interface_dropping");
    let [finding] = &findings[..] else { panic!("{findings:#?}") };
    assert_eq!((finding.culprit.pid, finding.culprit.interface.as_deref()), (Some(child.pid), Some("kernotun")));
    end(child);
}
