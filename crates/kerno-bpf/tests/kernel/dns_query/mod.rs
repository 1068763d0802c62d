//! Queries of a child in a network namespace of its own, against what it knows of each of them.

mod net;
mod resolvers;
mod summary;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kerno_bpf::{DnsEvent, DnsOutcome, DnsProtocol, DnsQueryLoader, Event as _, Filter, TcpFamily};

use crate::cgroups::id_of;
use crate::support::{Child, Link, Run, compare, monotonic_ns, observe, options, pid, set_comm};
use crate::tcp_monitor::net::{child_in_namespace, enter, namespace};
use net::{A, AAAA, WAYS, Way, answer_to, ask, connected, query, serve, unconnected};

const QUERIES: usize = 307;
const SERVERS: [&str; 2] = ["127.0.0.1", "::1"];

/// A child in its namespace, where both servers answer.
fn with_servers(work: impl FnOnce(&mut Link)) -> Child {
    child_in_namespace(|link| {
        // Descriptors of 64 and higher are not looked for when a process ends.
        link.close_inherited();
        SERVERS.iter().for_each(|server| serve(server.parse().unwrap()));
        set_comm("kerno asks");
        work(link);
    })
}

fn server(i: usize) -> SocketAddr {
    SocketAddr::new(SERVERS[i % 2].parse().unwrap(), 53)
}

/// The events of a child while it works, in the order of their ends.
fn observed(filter: Filter, child: &mut Child) -> Vec<DnsEvent> {
    enter(child);
    let filter = Filter { pids: vec![child.pid], ..filter };
    observe(DnsQueryLoader::new(options(filter)), || child.run())
}

fn way(i: usize) -> Way {
    WAYS[i / 2 % WAYS.len()]
}

fn name(i: usize) -> String {
    let kinds = ["www", "missing", "failing", "refused", "empty", "slow"];
    // Up to the longest name there is: 255 bytes in the packet.
    let long = "a".repeat(1 + i * 7 % 63);
    let more = if i.is_multiple_of(11) { format!(".{long}.{long}") } else { String::new() };
    format!("{}.Zone{i}{more}.{long}.test", kinds[if i.is_multiple_of(50) { 5 } else { i % 5 }])
}

#[test]
fn a_prime_number_of_queries_of_every_kind_is_found_with_every_field_right() {
    let mut child = with_servers(|link| {
        link.tell(id_of(std::process::id()));
        link.tell(namespace());
        for i in 0..QUERIES {
            let id = u16::try_from(i * 7919 % 65521).unwrap();
            let before = monotonic_ns();
            ask(server(i), way(i), &query(id, &name(i), if i.is_multiple_of(3) { A } else { AAAA }));
            link.tell(before);
            link.tell(monotonic_ns());
        }
    });
    let events = observed(Filter::default(), &mut child);
    let (cgroup, netns) = (child.heard(), child.heard());
    let missing: Vec<_> =
        (0..QUERIES).filter(|i| !events.iter().any(|event| event.name.to_string() == name(*i))).map(way).collect();
    assert!(missing.is_empty(), "{missing:?}");
    compare("dns_query", "queries, events", events.len(), QUERIES, "the caller");
    for (i, event) in events.iter().enumerate() {
        let (before, after) = (child.heard(), child.heard());
        let context = format!("{i}: {:?}: {event:?}", way(i));
        let tcp = matches!(way(i), Way::Tcp | Way::TcpInPieces);
        assert_eq!(event.server(), server(i), "{context}");
        assert_eq!(event.family, if server(i).is_ipv4() { TcpFamily::Ipv4 } else { TcpFamily::Ipv6 });
        assert_eq!(event.protocol, if tcp { DnsProtocol::Tcp } else { DnsProtocol::Udp }, "{context}");
        assert_eq!(event.name.to_string(), name(i));
        assert_eq!(
            (usize::from(event.id), event.qtype),
            (i * 7919 % 65521, if i.is_multiple_of(3) { A } else { AAAA })
        );
        assert_eq!((event.outcome, event.attempt, event.errno()), (DnsOutcome::Answered, 1, None), "{context}");
        assert_eq!(event.rcode().map(|rcode| (rcode, event.answers)), answer_to(&name(i)), "{context}");
        assert_eq!((event.pid, event.tid, event.uid, u64::from(event.netns)), (child.pid, child.pid, 0, netns));
        assert_eq!((event.comm().as_ref(), event.cgroup_id), ("kerno asks", cgroup));
        assert!(event.timestamp_ns >= before && event.timestamp_ns <= after, "{context}");
        assert!(event.latency_ns > 0 && event.latency_ns <= after - before, "{context}");
        assert_eq!(event.elapsed_ns, event.latency_ns);
        // The server sleeps that long; where its answer began to be late, the query may not have returned.
        assert!(!name(i).starts_with("slow") || event.latency_ns > 29_000_000, "{context}");
    }
}

#[test]
fn what_is_not_answered_is_told_when_the_socket_is_closed_asks_again_or_the_process_ends() {
    let mut child = with_servers(|_| {
        let pause = || std::thread::sleep(Duration::from_millis(20));
        let socket = connected(server(0));
        socket.send(&query(1, "mute.closed", A)).unwrap();
        pause();
        drop(socket);
        // Sent thrice, as the C library does it: the same id on the same socket.
        let socket = connected(server(1));
        for _ in 0..3 {
            socket.send(&query(2, "mute.again", AAAA)).unwrap();
            pause();
        }
        drop(socket);
        // Nobody serves at that address.
        let socket = connected("127.0.0.9:53".parse().unwrap());
        socket.send(&query(3, "www.nobody", A)).unwrap();
        pause();
        assert!(socket.recv(&mut [0; 99]).is_err());
        drop(socket);
        // The error is never read: the C library learns of it by poll.
        let socket = connected("127.0.0.9:53".parse().unwrap());
        socket.send(&query(5, "www.unread", A)).unwrap();
        pause();
        drop(socket);
        let socket = unconnected(server(0));
        socket.send_to(&query(4, "mute.exit", A), server(0)).unwrap();
        pause();
        std::mem::forget(socket);
    });
    let events = observed(Filter::default(), &mut child);
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.id, event.name.to_string(), event.outcome, event.attempt, event.error))
        .collect();
    let expected = [
        (1, "mute.closed", DnsOutcome::GivenUp, 1, 0),
        (2, "mute.again", DnsOutcome::AskedAgain, 1, 0),
        (2, "mute.again", DnsOutcome::AskedAgain, 2, 0),
        (2, "mute.again", DnsOutcome::GivenUp, 3, 0),
        (3, "www.nobody", DnsOutcome::Failed, 1, libc::ECONNREFUSED),
        (5, "www.unread", DnsOutcome::Failed, 1, libc::ECONNREFUSED),
        (4, "mute.exit", DnsOutcome::GivenUp, 1, 0),
    ];
    assert_eq!(
        told,
        expected.map(|(id, name, outcome, attempt, error)| (id, name.to_owned(), outcome, attempt, error))
    );
    for (event, attempts) in events.iter().zip([1, 1, 2, 3, 1, 1, 1]) {
        let ms = |ns: u64| ns / 1_000_000;
        assert!(ms(event.latency_ns) >= 19 && ms(event.elapsed_ns) >= 20 * attempts - 1, "{event}");
        assert!(event.failed() && event.rcode().is_none());
    }
}

#[test]
fn what_is_no_query_to_a_server_is_not_counted() {
    let mut child = with_servers(|_| {
        let good = query(7, "www.good", A);
        let edited = |at: usize, value: u8| {
            let mut packet = good.clone();
            packet[at] = value;
            packet
        };
        let mut endless = good[..12].to_vec();
        (0..5).for_each(|_| endless.extend([&[63u8][..], &[b'x'; 63]].concat()));
        endless.extend([0, 0, 1, 0, 1]);
        let bad = [
            Vec::new(),
            vec![1],
            good[..11].to_vec(),
            good[..16].to_vec(),
            edited(2, 0x80),     // an answer
            edited(2, 0x28),     // an update
            edited(5, 2),        // two questions
            edited(5, 0),        // none
            edited(7, 1),        // an answer in it
            edited(12, 0xc0),    // a pointer
            edited(12, 64),      // a label that is too long
            edited(12, 40),      // one that goes beyond the packet
            good[..25].to_vec(), // half a class
            endless,
            vec![0xff; 1232],
        ];
        for i in 0..2 {
            let socket = connected(server(i));
            bad.iter().for_each(|packet| assert_eq!(socket.send(packet).unwrap(), packet.len()));
        }
        // The same by other ports, and what is no socket at all.
        let other = unconnected(server(0));
        let from = unconnected(server(0));
        for _ in 0..100 {
            from.send_to(&good, other.local_addr().unwrap()).unwrap();
            other.recv(&mut [0; 512]).unwrap();
        }
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &good).unwrap();
        // An answer that nobody asked for, in a socket that did ask.
        let socket = connected(server(0));
        socket.send(&query(8, "www.asked", A)).unwrap();
        socket.recv(&mut [0; 512]).unwrap();
    });
    let events = observed(Filter::default(), &mut child);
    let names: Vec<_> = events.iter().map(|event| event.name.to_string()).collect();
    assert_eq!(names, ["www.asked"]);
}

#[test]
fn sockets_that_were_connected_before_are_known() {
    let mut child = with_servers(|link| {
        let sockets = [connected(server(0)), connected(server(1))];
        link.tell(0);
        link.wait();
        for (i, socket) in sockets.iter().enumerate() {
            socket.send(&query(u16::try_from(i).unwrap(), "www.early", A)).unwrap();
            rustix::io::read(socket, &mut [0; 512]).unwrap();
        }
    });
    enter(&mut child);
    child.go();
    child.heard();
    let events: Vec<DnsEvent> = observe(DnsQueryLoader::new(options(pid(child.pid))), || child.run());
    assert_eq!(events.iter().map(DnsEvent::server).collect::<Vec<_>>(), [server(0), server(1)]);
}

#[test]
fn many_at_a_time_are_followed_or_counted() {
    const AT_A_TIME: u16 = 23;
    let mut child = with_servers(|_| {
        let socket = connected(server(0));
        for id in 0..AT_A_TIME {
            socket.send(&query(id, "mute.many", A)).unwrap();
        }
        drop(socket);
        // A datagram socket by turns with several servers, and with the same id.
        let socket = unconnected(server(0));
        let other: SocketAddr = SocketAddr::new(IpAddr::from([127, 0, 0, 9]), 53);
        serve(other.ip());
        for server in [server(0), other] {
            socket.send_to(&query(99, "mute.both", A), server).unwrap();
        }
    });
    enter(&mut child);
    let run = Run::start(DnsQueryLoader::new(options(pid(child.pid))));
    child.run();
    let (raw, counters) = run.finish_with_counters();
    let events: Vec<DnsEvent> = raw.iter().map(|raw| *raw.as_raw().decode_as().unwrap()).collect();
    let of = |name: &str| events.iter().filter(|event| event.name.to_string() == name).count();
    assert_eq!((of("mute.many"), counters.untracked), (16, u64::from(AT_A_TIME) - 16));
    assert_eq!(of("mute.both"), 2);
}

#[test]
fn filters_decide_in_the_kernel() {
    let asks = || {
        with_servers(|_| {
            for (i, name) in ["www.a", "missing.b", "slow.c", "mute.d"].iter().enumerate() {
                let socket = connected(server(i));
                socket.send(&query(1, name, A)).unwrap();
                if !name.starts_with("mute") {
                    socket.recv(&mut [0; 512]).unwrap();
                }
            }
        })
    };
    let names = |filter: Filter| -> Vec<String> {
        observed(filter, &mut asks()).iter().map(|event| event.name.to_string()).collect()
    };
    let slow = Filter { min_latency: Some(Duration::from_millis(20)), ..Filter::default() };
    assert_eq!(names(slow), ["slow.c"]);
    assert_eq!(names(Filter { errors_only: true, ..Filter::default() }), ["missing.b", "mute.d"]);
    assert!(names(Filter { comms: vec!["another".into()], ..Filter::default() }).is_empty());
    assert_eq!(names(Filter { comms: vec!["kerno asks".into()], ..Filter::default() }).len(), 4);
    assert_eq!(names(Filter { uids: vec![12345], ..Filter::default() }), [""; 0]);
}

beside_all! {
    a_prime_number_of_queries_of_every_kind_is_found_with_every_field_right
    what_is_not_answered_is_told_when_the_socket_is_closed_asks_again_or_the_process_ends
    sockets_that_were_connected_before_are_known
}
