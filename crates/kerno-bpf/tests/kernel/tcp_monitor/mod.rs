//! Connections from first SYN to last close, on both sides.

mod filters;
mod loss;
pub(crate) mod net;
mod owners;
mod uring;

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;

use kerno_bpf::{Filter, Host, TcpEvent, TcpMonitorLoader};
use kerno_bpf::{TcpDirection, TcpEventType, TcpFamily, TcpResetBy, TcpState};
use kerno_model::KernelVersion;

use crate::cgroups::id_of;
use crate::support::{Child, Run, monotonic_ns, options, pid, set_comm};
use net::{
    child_in_namespace, connected, counter, drop_packets, events_of, expect_end, observe_in_namespace, of_type,
    receive, reset_on_close, send, set_option, settle,
};

const CONNECTIONS: usize = 43;

/// Payload of connection `i` to the server and back; both empty now and then, or longer than a segment.
fn payload(i: usize) -> (usize, usize) {
    (i * 7919 % 200_000 * (i % 5).min(1), i * i * 31 % 3000)
}

/// What a client knows of one connection.
struct Known {
    port: u16,
    start_ns: u64,
    connect_ns: u64,
}

/// Makes the connections to a worker process that accepts; every second one is closed by the worker first. Tells the worker's
/// pid, the server's port, and of each connection the client's port, when it called connect() and how long that took.
fn make_connections(link: &mut crate::support::Link, listen: &str, connect: IpAddr) {
    set_comm("kerno client");
    let listener = TcpListener::bind(listen).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut worker = Child::new(|_| {
        set_comm("kerno worker");
        for i in 0..CONNECTIONS {
            let (mut stream, _) = listener.accept().unwrap();
            receive(&mut stream, payload(i).0);
            send(&mut stream, payload(i).1);
            if i.is_multiple_of(2) {
                expect_end(&mut stream);
            }
        }
    });
    link.tell(u64::from(worker.pid));
    link.tell(u64::from(port));
    worker.go();
    for i in 0..CONNECTIONS {
        let before = monotonic_ns();
        let mut stream = TcpStream::connect((connect, port)).unwrap();
        let connected = monotonic_ns();
        link.tell(u64::from(stream.local_addr().unwrap().port()));
        link.tell(before);
        link.tell(connected - before);
        send(&mut stream, payload(i).0);
        receive(&mut stream, payload(i).1);
        if i % 2 == 1 {
            expect_end(&mut stream);
        }
    }
    assert_eq!(worker.wait(), 0);
}

/// Checks one connection's events: a connect, an accept and a close at either end, with every field right.
fn check_connection(
    events: &[TcpEvent],
    i: usize,
    known: &Known,
    pids: (u32, u32),
    client: SocketAddr,
    server: SocketAddr,
) {
    let (client_pid, worker_pid) = pids;
    let of_port = |port: u16| events.iter().filter(move |event| event.src_port == port || event.dst_port == port);
    let one = |event_type, source: SocketAddr| -> TcpEvent {
        let found: Vec<_> =
            of_port(known.port).filter(|event| event.event_type == event_type && event.src() == source).collect();
        assert_eq!(found.len(), 1, "{event_type} from {source}: {found:#?}");
        *found[0]
    };
    let connect = one(TcpEventType::Connect, client);
    let accept = one(TcpEventType::Accept, server);
    let closes = [one(TcpEventType::Close, client), one(TcpEventType::Close, server)];
    let family = if client.is_ipv4() { TcpFamily::Ipv4 } else { TcpFamily::Ipv6 };
    for event in [connect, accept, closes[0], closes[1]] {
        let ours = event.src() == client;
        assert_eq!(event.dst(), if ours { server } else { client });
        assert_eq!(event.pid, if ours { client_pid } else { worker_pid }, "{event}");
        assert_eq!(event.comm(), if ours { "kerno client" } else { "kerno worker" });
        assert_eq!(event.direction, if ours { TcpDirection::Outgoing } else { TcpDirection::Incoming });
        assert_eq!((event.family, event.uid(), event.error), (family, Some(0), 0));
        assert_eq!((event.retransmits, event.reset_by), (0, TcpResetBy::Nobody));
        assert!((event.rtt_us > 0 || event.state == TcpState::SynRecv) && event.rtt_us < 1_000_000, "{event}");
    }
    assert_eq!((connect.state, connect.duration_ns), (TcpState::Established, 0));
    assert!(connect.latency_ns > 0 && connect.latency_ns <= known.connect_ns, "{connect}, known {}", known.connect_ns);
    // Another CPU may accept while the handshake's last segment is still worked on.
    assert!(accept.latency_ns > 0 || accept.state == TcpState::SynRecv, "{accept}");
    assert!(accept.timestamp_ns - accept.latency_ns > known.start_ns, "{accept}");
    let (to_server, to_client) = payload(i);
    assert_eq!((closes[0].bytes_sent, closes[0].bytes_received), (to_server as u64, to_client as u64));
    assert_eq!((closes[1].bytes_sent, closes[1].bytes_received), (to_client as u64, to_server as u64));
    // Whoever closes first waits for the other's FIN; the other for the last ACK.
    let (first, last) = if i.is_multiple_of(2) { (closes[0], closes[1]) } else { (closes[1], closes[0]) };
    assert_eq!((first.state, last.state), (TcpState::FinWait2, TcpState::LastAck));
    for close in closes {
        assert!(close.duration_ns > 0 && close.timestamp_ns - close.duration_ns > known.start_ns, "{close}");
    }
}

fn check_connections(events: &[TcpEvent], child: &mut Child, ours: IpAddr) {
    let worker_pid = u32::try_from(child.heard()).unwrap();
    let server = SocketAddr::new(ours, u16::try_from(child.heard()).unwrap());
    for i in 0..CONNECTIONS {
        let mut number = || child.heard();
        let known = Known { port: u16::try_from(number()).unwrap(), start_ns: number(), connect_ns: number() };
        let client = SocketAddr::new(ours, known.port);
        check_connection(events, i, &known, (child.pid, worker_pid), client, server);
    }
    let count = |event_type| of_type(events, event_type).len();
    let counts = [TcpEventType::Connect, TcpEventType::Accept, TcpEventType::Close].map(count);
    assert_eq!(counts, [CONNECTIONS, CONNECTIONS, 2 * CONNECTIONS]);
    assert_eq!(count(TcpEventType::ConnectFailed), 0);
    // None, where the machine is quick enough for the kernel's patience.
    let again = of_type(events, TcpEventType::Retransmit).iter().map(|event| u64::from(event.retransmits)).sum::<u64>();
    assert_eq!(again, child.heard(), "segments sent again");
    // None either; one is told at both its ends.
    let resets = child.heard();
    assert!(count(TcpEventType::Reset) as u64 <= 2 * resets, "{resets} resets: {events:#?}");
    // An answer to a SYN that is sent again is nobody's yet.
    let nobodys = |event: &TcpEvent| event.pid == 0 && event.event_type == TcpEventType::Retransmit;
    let ours = |event: &TcpEvent| event.pid == child.pid || event.pid == worker_pid || nobodys(event);
    assert!(events.iter().all(ours), "{events:#?}");
}

fn every_connection_in_a_namespace(listen: &'static str, connect: IpAddr, shown: IpAddr) {
    let mut child = child_in_namespace(|link| {
        make_connections(link, listen, connect);
        settle();
        link.tell(counter("snmp", "Tcp:", "RetransSegs") - counter("netstat", "TcpExt:", "TCPRetransFail"));
        link.tell(counter("snmp", "Tcp:", "OutRsts"));
    });
    let cgroup = id_of(child.pid);
    let events = observe_in_namespace(Filter::default(), &mut child);
    check_connections(&events, &mut child, shown);
    assert!(events.iter().all(|event| event.cgroup_id == cgroup));
}

#[test]
fn every_connection_is_seen_on_both_sides_over_ipv4() {
    every_connection_in_a_namespace("127.0.0.1:0", Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into());
}

#[test]
fn every_connection_is_seen_on_both_sides_over_ipv6() {
    every_connection_in_a_namespace("[::1]:0", Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
}

#[test]
fn ipv4_over_v6_sockets_is_shown_as_ipv4() {
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    every_connection_in_a_namespace("[::]:0", mapped, Ipv4Addr::LOCALHOST.into());
}

#[test]
fn every_connection_is_seen_over_the_hosts_loopback() {
    let mut child = Child::new(|link| {
        make_connections(link, "127.0.0.1:0", Ipv4Addr::LOCALHOST.into());
        std::thread::sleep(Duration::from_millis(100));
    });
    // Children are not in the filter, so the worker's side is left out: client events only, exactly.
    let run = Run::start(TcpMonitorLoader::new(options(pid(child.pid))));
    child.run();
    let events = events_of(run, |event| !matches!(event.event_type, TcpEventType::Rtt | TcpEventType::Retransmit));
    assert_eq!(events.len(), 2 * CONNECTIONS);
    assert!(events.iter().all(|event| event.pid == child.pid && event.direction == TcpDirection::Outgoing));
    assert_eq!(of_type(&events, TcpEventType::Connect).len(), CONNECTIONS);
}

#[test]
fn the_wait_in_the_accept_queue_is_measured() {
    const WAIT: Duration = Duration::from_millis(60);
    let mut child = child_in_namespace(|link| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let before = monotonic_ns();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        std::thread::sleep(WAIT);
        let (server, _) = listener.accept().unwrap();
        link.tell(monotonic_ns() - before);
        std::thread::sleep(WAIT);
        drop(server);
        expect_end(&mut client);
        link.tell(monotonic_ns() - before);
        drop(client);
        settle();
    });
    let events = observe_in_namespace(Filter::default(), &mut child);
    let (queued_at_most, open_at_most) = (child.heard(), child.heard());
    let accepts = of_type(&events, TcpEventType::Accept);
    assert_eq!(accepts.len(), 1);
    assert!(accepts[0].latency() >= WAIT && accepts[0].latency_ns <= queued_at_most, "{}", accepts[0]);
    let closes = of_type(&events, TcpEventType::Close);
    assert_eq!(closes.len(), 2);
    for close in closes {
        assert!(close.duration() >= 2 * WAIT && close.duration_ns <= open_at_most + 100_000_000, "{close}");
    }
}

#[test]
fn bytes_are_exact_when_one_side_closes_before_it_got_the_others_fin() {
    let mut child = child_in_namespace(|link| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        link.tell(u64::from(listener.local_addr().unwrap().port()));
        for _ in 0..3 {
            let (mut client, mut server) = connected(&listener);
            send(&mut client, 100);
            client.shutdown(std::net::Shutdown::Write).unwrap();
            receive(&mut server, 100);
            expect_end(&mut server);
            send(&mut server, 53);
            receive(&mut client, 53);
            drop(client);
            drop(server);
        }
        settle();
    });
    let events = observe_in_namespace(Filter::default(), &mut child);
    let port = child.heard();
    let closes = of_type(&events, TcpEventType::Close);
    assert_eq!(closes.len(), 6);
    for close in closes {
        let server = u64::from(close.src_port) == port;
        let expected = if server { (53, 100, TcpState::LastAck) } else { (100, 53, TcpState::FinWait2) };
        assert_eq!((close.bytes_sent, close.bytes_received, close.state), expected);
    }
}

/// A port of the loopback that nobody listens on.
fn closed_port(address: &str) -> SocketAddr {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap()
}

#[test]
fn refused_connects_tell_why_and_to_whom() {
    let mut child = child_in_namespace(|link| {
        for address in ["127.0.0.1", "::1"] {
            let closed = closed_port(address);
            link.tell(u64::from(closed.port()));
            for _ in 0..7 {
                let error = TcpStream::connect(closed).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
            }
        }
        settle();
    });
    let events = observe_in_namespace(Filter::default(), &mut child);
    // Before, the kernel told only of resets that a socket sent.
    let told = Host::detect().version >= KernelVersion::new(6, 10);
    for loopback in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let port = u16::try_from(child.heard()).unwrap();
        let target = SocketAddr::new(loopback, port);
        let failed: Vec<_> = events.iter().filter(|event| event.dst() == target).collect();
        assert_eq!(failed.len(), 7);
        for event in &failed {
            assert_eq!(event.event_type, TcpEventType::ConnectFailed);
            assert_eq!((event.pid, event.errno()), (child.pid, Some(libc::ECONNREFUSED)));
            assert_eq!((event.direction, event.state), (TcpDirection::Outgoing, TcpState::SynSent));
            assert_eq!(event.src_addr(), loopback);
            assert!(event.src_port != 0 && event.latency_ns > 0);
        }
        // The other side of the same: the host answers a closed port with a RST that no process sent.
        let resets: Vec<_> = events.iter().filter(|event| event.src() == target).collect();
        assert_eq!(resets.len(), if told { 7 } else { 0 });
        for (reset, failed) in resets.iter().zip(&failed) {
            assert_eq!((reset.event_type, reset.reset_by), (TcpEventType::Reset, TcpResetBy::Us));
            assert_eq!((reset.pid, reset.uid(), reset.cgroup_id), (0, None, 0));
            assert_eq!(reset.dst(), failed.src());
        }
    }
    assert_eq!(events.len(), if told { 28 } else { 14 });
}

/// Starts to connect and does not wait.
pub(crate) fn start_connect(target: SocketAddr, attempts: i32) -> TcpStream {
    start_connect_with(target, attempts, |_| {})
}

/// As [`start_connect`], with something to be done to the socket before.
pub(crate) fn start_connect_with(target: SocketAddr, attempts: i32, prepare: impl FnOnce(&TcpStream)) -> TcpStream {
    // SAFETY: no memory is involved; the descriptor is ours.
    let stream = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0);
        TcpStream::from_raw_fd(fd)
    };
    set_option(&stream, libc::IPPROTO_TCP, libc::TCP_SYNCNT, &attempts);
    prepare(&stream);
    let SocketAddr::V4(target) = target else { panic!("IPv4 only") };
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET.cast_unsigned().try_into().unwrap(),
        sin_port: target.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(target.ip().octets()) },
        sin_zero: [0; 8],
    };
    let size = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).unwrap();
    // SAFETY: the address is a sockaddr_in of that size.
    let result = unsafe { libc::connect(stream.as_raw_fd(), (&raw const address).cast(), size) };
    assert_eq!((result, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EINPROGRESS)));
    stream
}

#[test]
fn connects_that_nobody_answers_end_by_the_programs_or_the_kernels_patience() {
    const PATIENCE: Duration = Duration::from_millis(50);
    let mut child = child_in_namespace(|link| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        drop_packets(&listener);
        // Linux 6.5: a few more SYNs before the interval begins to double. The setting is the namespace's own.
        let _ = std::fs::write("/proc/sys/net/ipv4/tcp_syn_linear_timeouts", "0");
        let before = monotonic_ns();
        let given_up = start_connect(target, 6);
        link.tell(u64::from(given_up.local_addr().unwrap().port()));
        std::thread::sleep(PATIENCE);
        drop(given_up);
        link.tell(monotonic_ns() - before);
        // One more SYN, then the kernel gives up.
        let mut timed_out = start_connect(target, 1);
        link.tell(u64::from(timed_out.local_addr().unwrap().port()));
        timed_out.set_nonblocking(false).unwrap();
        let before = monotonic_ns();
        let error = timed_out.read(&mut [0]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
        link.tell(monotonic_ns() - before);
        drop(timed_out);
        settle();
        link.tell(counter("snmp", "Tcp:", "RetransSegs"));
    });
    let events = observe_in_namespace(Filter::default(), &mut child);
    let failed = of_type(&events, TcpEventType::ConnectFailed);
    assert_eq!(failed.len(), 2, "{events:#?}");
    for (event, errno, at_least) in
        [(failed[0], None, PATIENCE), (failed[1], Some(libc::ETIMEDOUT), Duration::from_secs(1))]
    {
        assert_eq!(u64::from(event.src_port), child.heard());
        assert_eq!((event.pid, event.errno()), (child.pid, errno));
        let at_most = child.heard() + 50_000_000;
        assert!(event.latency() >= at_least && event.latency_ns <= at_most, "{event}");
    }
    let again = of_type(&events, TcpEventType::Retransmit);
    let counted = child.heard();
    assert!(counted > 0);
    assert_eq!(again.iter().map(|event| u64::from(event.retransmits)).sum::<u64>(), counted);
    assert!(again.iter().all(|event| (event.state, event.pid) == (TcpState::SynSent, child.pid)));
    assert_eq!(u64::from(failed[1].total_retransmits), counted);
    assert_eq!(events.len(), 2 + again.len(), "{events:#?}");
}

#[test]
fn resets_tell_who_sent_them() {
    let mut child = child_in_namespace(|link| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for _ in 0..5 {
            let (mut client, mut server) = connected(&listener);
            link.tell(u64::from(client.local_addr().unwrap().port()));
            send(&mut client, 11);
            receive(&mut server, 11);
            reset_on_close(&client);
            drop(client);
            assert_eq!(server.read(&mut [0]).unwrap_err().raw_os_error(), Some(libc::ECONNRESET));
        }
        settle();
    });
    let events = observe_in_namespace(Filter::default(), &mut child);
    assert_eq!(of_type(&events, TcpEventType::Reset).len(), 10);
    for _ in 0..5 {
        let port = u16::try_from(child.heard()).unwrap();
        let one = |event_type, ours: bool| -> TcpEvent {
            let mut found = events.iter().filter(|event| {
                event.event_type == event_type && port == if ours { event.src_port } else { event.dst_port }
            });
            let event = *found.next().unwrap();
            assert!(found.next().is_none());
            assert_eq!(event.pid, child.pid);
            event
        };
        let sent = one(TcpEventType::Reset, true);
        assert_eq!((sent.reset_by, sent.direction), (TcpResetBy::Us, TcpDirection::Outgoing));
        let received = one(TcpEventType::Reset, false);
        assert_eq!((received.reset_by, received.state), (TcpResetBy::Peer, TcpState::Established));
        let (ours, theirs) = (one(TcpEventType::Close, true), one(TcpEventType::Close, false));
        assert_eq!((ours.errno(), ours.bytes_sent), (None, 11));
        assert_eq!((theirs.errno(), theirs.bytes_received), (Some(libc::ECONNRESET), 11));
        assert_eq!((ours.state, theirs.state), (TcpState::Established, TcpState::Established));
    }
}

again! { by_system_calls, without "inet_csk_accept":
    every_connection_is_seen_on_both_sides_over_ipv4
    every_connection_is_seen_on_both_sides_over_ipv6
    ipv4_over_v6_sockets_is_shown_as_ipv4
    the_wait_in_the_accept_queue_is_measured
}

beside_all! {
    every_connection_is_seen_on_both_sides_over_ipv4
    the_wait_in_the_accept_queue_is_measured
    resets_tell_who_sent_them
}
