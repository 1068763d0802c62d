//! Segments sent again and round-trip times, against the kernel's own counters.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use kerno_bpf::{Filter, TcpEvent};
use kerno_bpf::{TcpEventType, TcpFamily, TcpState};

use super::net::{
    child_in_namespace, connected, counter, drop_packets, expect_end, observe_in_namespace, of_type, pass_packets,
    receive, send, set_option, settle, tcp_info,
};
use super::start_connect;
use crate::support::compare;
use crate::support::unless_init_ran;

const SEGMENT: i32 = 1000;

/// A listener whose connections have small segments, so that one skb holds many.
fn small_segments(address: &str) -> TcpListener {
    let listener = TcpListener::bind((address, 0)).unwrap();
    set_option(&listener, libc::IPPROTO_TCP, libc::TCP_MAXSEG, &SEGMENT);
    listener
}

#[test]
fn segments_sent_again_are_as_many_as_the_kernel_counts() {
    unless_init_ran(|| {
        let mut child = child_in_namespace(|link| {
            let listeners = ["127.0.0.1", "::1"].map(small_segments);
            let before = counter("snmp", "Tcp:", "RetransSegs");
            for round in 0..4 {
                let (mut client, mut server) = connected(&listeners[round % 2]);
                // Less than the send buffer holds.
                let bytes = 10_000 * (round + 1);
                drop_packets(&server);
                send(&mut client, bytes);
                std::thread::sleep(Duration::from_millis(700));
                pass_packets(&server);
                receive(&mut server, bytes);
                link.tell(u64::from(client.local_addr().unwrap().port()));
                link.tell(u64::from(tcp_info(&client).tcpi_total_retrans));
                link.tell(bytes as u64);
                drop(client);
                expect_end(&mut server);
            }
            settle();
            link.tell(counter("snmp", "Tcp:", "RetransSegs") - before);
            link.tell(counter("netstat", "TcpExt:", "TCPRetransFail"));
        });
        let events = observe_in_namespace(Filter::default(), &mut child);
        let again = of_type(&events, TcpEventType::Retransmit);
        let segments = |port: u64| -> u32 {
            again.iter().filter(|event| u64::from(event.src_port) == port).map(|event| event.retransmits).sum()
        };
        for round in 0..4 {
            let (port, total, bytes) = (child.heard(), child.heard(), child.heard());
            assert!(total > 0);
            // The last ones may be sent while the program already looks.
            assert!(u64::from(segments(port)) >= total, "{} seen, TCP_INFO had {total}", segments(port));
            let family = [TcpFamily::Ipv4, TcpFamily::Ipv6][round % 2];
            assert!(again.iter().all(|event| u64::from(event.src_port) != port || event.family == family));
            let closes = of_type(&events, TcpEventType::Close);
            let close = closes.iter().find(|event| u64::from(event.src_port) == port).unwrap();
            assert_eq!(close.total_retransmits, segments(port));
            // What was sent again is not counted twice, nor is what the receiver got twice.
            let peer = closes.iter().find(|event| u64::from(event.dst_port) == port).unwrap();
            assert_eq!((close.bytes_sent, peer.bytes_received), (bytes, bytes));
        }
        let (counted, failed) = (child.heard(), child.heard());
        let seen: u32 = again.iter().map(|event| event.retransmits).sum();
        compare("tcp_monitor", "segments sent again, events", u64::from(seen) + failed, counted, "/proc/net/snmp");
        assert!(again.iter().any(|event| event.retransmits > 1), "no event has several segments: {again:#?}");
        assert!(again.iter().all(|event| event.pid == child.pid && event.state == TcpState::Established));
    });
}

#[test]
fn syns_and_their_answers_sent_again_are_counted_too() {
    unless_init_ran(|| {
        let mut child = child_in_namespace(|link| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let target = listener.local_addr().unwrap();
            // The first SYN is lost, then the answers to the next: both sides try again.
            drop_packets(&listener);
            let mut client = start_connect(target, 6);
            drop_packets(&client);
            pass_packets(&listener);
            std::thread::sleep(Duration::from_millis(2300));
            pass_packets(&client);
            client.set_nonblocking(false).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            send(&mut server, 5);
            receive(&mut client, 5);
            drop(server);
            expect_end(&mut client);
            drop(client);
            settle();
            link.tell(counter("snmp", "Tcp:", "RetransSegs"));
            link.tell(u64::from(target.port()));
        });
        let events = observe_in_namespace(Filter::default(), &mut child);
        let (counted, port) = (child.heard(), child.heard());
        let again = of_type(&events, TcpEventType::Retransmit);
        let seen: u32 = again.iter().map(|event| event.retransmits).sum();
        assert_eq!(u64::from(seen), counted, "{again:#?}");
        let (answers, questions): (Vec<TcpEvent>, Vec<TcpEvent>) =
            again.into_iter().partition(|event| u64::from(event.src_port) == port);
        assert!(!questions.is_empty() && questions.iter().all(|e| e.state == TcpState::SynSent && e.pid == child.pid));
        assert!(!answers.is_empty() && answers.iter().all(|e| e.state == TcpState::SynRecv && e.pid == 0));
    });
}

#[test]
fn round_trip_times_are_those_of_tcp_info_at_most_once_a_second() {
    let mut child = child_in_namespace(|link| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut client, mut server) = connected(&listener);
        link.tell(u64::from(client.local_addr().unwrap().port()));
        let end = Instant::now() + Duration::from_millis(2500);
        let mut times = vec![tcp_info(&client).tcpi_rtt, tcp_info(&server).tcpi_rtt];
        while Instant::now() < end {
            send(&mut client, 100);
            receive(&mut server, 100);
            times.push(tcp_info(&server).tcpi_rtt);
            send(&mut server, 100);
            receive(&mut client, 100);
            times.push(tcp_info(&client).tcpi_rtt);
            times.push(tcp_info(&server).tcpi_rtt);
            std::thread::sleep(Duration::from_millis(5));
            times.push(tcp_info(&client).tcpi_rtt);
            times.push(tcp_info(&server).tcpi_rtt);
        }
        times.sort_unstable();
        times.dedup();
        link.tell(times.len() as u64);
        times.iter().for_each(|time| link.tell(u64::from(*time)));
        drop(client);
        expect_end(&mut server);
        drop(server);
        settle();
    });
    let events = observe_in_namespace(Filter::default(), &mut child);
    let port = child.heard();
    let known: Vec<u64> = (0..child.heard()).map(|_| child.heard()).collect();
    let rtts = of_type(&events, TcpEventType::Rtt);
    for ours in [true, false] {
        let of_end: Vec<_> = rtts.iter().filter(|event| (u64::from(event.src_port) == port) == ours).collect();
        assert!((2..=3).contains(&of_end.len()), "{of_end:#?}");
        for pair in of_end.windows(2) {
            assert!(pair[1].timestamp_ns - pair[0].timestamp_ns >= 1_000_000_000);
        }
    }
    for event in rtts {
        assert!(known.contains(&u64::from(event.rtt_us)), "{event} is none of {known:?}");
        assert_eq!((event.pid, event.state), (child.pid, TcpState::Established));
    }
}
