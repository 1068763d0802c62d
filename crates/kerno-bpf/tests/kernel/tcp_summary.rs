//! The TCP summary against the kernel's own counters, in network namespaces of the tests' own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use kerno_bpf::engine::Observer;
use kerno_doctor::report::Diagnosis;
use kerno_model::Window;
use kerno_model::{ConnectionOwner, TcpFailureReason, TcpNamespace, TcpSummary};

use crate::support::{self, Child, Link, compare, set_comm, unless_init_ran};
use crate::tcp_monitor::net::{
    child_in_namespace, counter, drop_packets, enter, expect_end, receive, send, set_option, settle, tcp_info,
};
use crate::tcp_monitor::start_connect;

/// Only this signal.
fn observer() -> Observer {
    support::observer(&["tcp_monitor"])
}

/// What was seen of the child's namespace.
pub(crate) struct Seen {
    signals: Window,
    pub(crate) inode: u32,
}

impl Seen {
    pub(crate) fn tcp(&self) -> &TcpSummary {
        self.signals.tcp_monitor.as_ref().unwrap()
    }

    fn namespace(&self) -> &TcpNamespace {
        self.tcp().namespaces.iter().find(|namespace| namespace.inode == self.inode).unwrap()
    }

    /// What a rule finds when there is nothing else on this machine.
    pub(crate) fn findings(&self, rule: &str) -> Vec<Diagnosis> {
        let mut signals = self.signals.clone();
        let tcp = signals.tcp_monitor.as_mut().unwrap();
        let inode = self.inode;
        tcp.peers.retain(|peer| peer.net_namespace == inode);
        tcp.failures.retain(|failure| failure.net_namespace == inode);
        tcp.listeners.retain(|listener| listener.net_namespace == inode);
        tcp.stuck.retain(|stuck| stuck.net_namespace == inode);
        tcp.namespaces.retain(|namespace| namespace.inode == inode);
        tcp.datagram_sockets.retain(|socket| socket.net_namespace == inode);
        tcp.interfaces.retain(|interface| interface.net_namespace == inode);
        crate::support::diagnose(&signals).into_iter().filter(|finding| finding.id == rule).collect()
    }
}

/// Observes while the child does its work up to its last [`Link::wait`]: so its sockets are there at the end.
pub(crate) fn observe(child: &mut Child) -> Seen {
    let namespace = enter(child);
    let mut observer = observer();
    child.go();
    // The last thing that it tells before it waits.
    assert_eq!(child.heard(), DONE);
    let signals = observer.finish().unwrap();
    let inode = u32::try_from(namespace.inode()).unwrap();
    child.go();
    Seen { signals, inode }
}

const DONE: u64 = 0x0d01e;

pub(crate) fn done(link: &mut Link) {
    link.tell(DONE);
    link.wait();
}

pub(crate) fn end(mut child: Child) {
    assert_eq!(child.wait(), 0, "the child's work failed");
}

#[test]
fn connections_are_counted_exactly() {
    unless_init_ran(count_connections);
}

fn count_connections() {
    const CONNECTIONS: usize = 43;
    const RESET: usize = 5;
    let work = |link: &mut Link| {
        let listener = TcpListener::bind("127.0.0.1:5000").unwrap();
        let mut kept = Vec::new();
        for i in 0..CONNECTIONS {
            let mut client = TcpStream::connect("127.0.0.1:5000").unwrap();
            let (mut server, _) = listener.accept().unwrap();
            send(&mut client, 100);
            receive(&mut server, 100);
            if i < RESET {
                crate::tcp_monitor::net::reset_on_close(&client);
                drop(client);
            } else if i < 2 * RESET {
                kept.push((client, server));
            } else {
                drop(client);
                expect_end(&mut server);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
        done(link);
    };
    let mut child = child_in_namespace(work);
    let seen = observe(&mut child);
    let peers: Vec<_> = seen.tcp().peers.iter().filter(|peer| peer.net_namespace == seen.inode).collect();
    let [a, b] = peers[..] else { panic!("{peers:#?}") };
    let (ours, theirs) = if a.outgoing { (a, b) } else { (b, a) };
    assert!(ours.outgoing && !theirs.outgoing);
    for peer in [ours, theirs] {
        assert_eq!((peer.port, peer.connections, peer.remote.to_string().as_str()), (5000, 43, "127.0.0.1"));
        assert_eq!(
            (peer.retransmitted_segments, peer.open, &peer.owners[..]),
            (
                0,
                Some(RESET as u64),
                &[ConnectionOwner { pid: child.pid, connections: 43, open: Some(RESET as u64) }][..]
            )
        );
    }
    // One segment of data each, of the clients.
    assert_eq!((ours.sent_segments, theirs.sent_segments), (43, 0));
    let process = seen.tcp().processes.iter().find(|process| process.pid == child.pid).unwrap();
    assert_eq!((process.connections, process.sent_segments), (86, 43));
    // Others open connections meanwhile.
    let tcp = seen.tcp();
    assert!(tcp.opened >= 43 && tcp.accepted >= 43, "{} {}", tcp.opened, tcp.accepted);
    assert!(tcp.closed >= 2 * (43 - RESET as u64) && tcp.reset >= 2 * RESET as u64, "{} {}", tcp.closed, tcp.reset);
    assert!(tcp.rtt_us.count() >= 43);
    for rule in ["tcp_retransmit_storm", "tcp_rtt_inflation", "tcp_connect_failures", "tcp_accept_queue_overflow"] {
        assert!(seen.findings(rule).is_empty(), "{:#?}", seen.findings(rule));
    }
    end(child);
}

#[test]
fn of_a_connection_from_before_only_the_windows_part_counts() {
    unless_init_ran(follow_connections_from_before);
}

fn follow_connections_from_before() {
    let mut child = child_in_namespace(|link| {
        let listener = TcpListener::bind("127.0.0.1:5005").unwrap();
        let mut pairs: Vec<_> = (0..3)
            .map(|_| {
                let client = TcpStream::connect("127.0.0.1:5005").unwrap();
                (client, listener.accept().unwrap().0)
            })
            .collect();
        // Each write is one segment: the next waits until it has arrived.
        let write = |pairs: &mut Vec<(TcpStream, TcpStream)>, segments: usize| {
            for (client, server) in pairs {
                for _ in 0..segments {
                    send(client, 100);
                    receive(server, 100);
                }
            }
        };
        write(&mut pairs, 50);
        link.tell(0);
        link.wait();
        write(&mut pairs, 20);
        let (client, mut server) = pairs.remove(0);
        drop(client);
        expect_end(&mut server);
        drop(server);
        link.tell(u64::from(tcp_info(&pairs[1].0).tcpi_rtt));
        done(link);
        write(&mut pairs, 7);
        link.tell(DONE);
        link.wait();
    });
    let namespace = enter(&mut child);
    let inode = u32::try_from(namespace.inode()).unwrap();
    child.go();
    assert_eq!(child.heard(), 0);
    let mut observer = observer();
    child.go();
    let rtt = u32::try_from(child.heard()).unwrap();
    assert_eq!(child.heard(), DONE);
    let ours = |signals: &Window| {
        let peers = &signals.tcp_monitor.as_ref().unwrap().peers;
        peers.iter().find(|peer| peer.net_namespace == inode && peer.outgoing).unwrap().clone()
    };
    observer.sample().unwrap();
    let pulse = observer.pulse();
    assert!(pulse[0].0 == "tcp" && pulse[0].1.contains(" conns"), "{pulse:?}");
    let mut whole = observer.finish().unwrap();
    let first = ours(&whole);
    assert_eq!((first.connections, first.sent_segments, first.port), (3, 60, 5005));
    assert_eq!(first.owners, [ConnectionOwner { pid: child.pid, connections: 3, open: first.open }]);
    let (srtt, lowest) = (first.srtt_us.unwrap(), first.min_rtt_us.unwrap());
    assert!(lowest <= rtt && srtt >= lowest, "{srtt} {lowest}, TCP_INFO {rtt}");
    child.go();
    assert_eq!(child.heard(), DONE);
    let later = observer.finish().unwrap();
    let second = ours(&later);
    assert_eq!((second.connections, second.sent_segments), (2, 14));
    // Those that were open in both are counted once.
    whole.merge(&later).unwrap();
    let merged = ours(&whole);
    assert_eq!((merged.connections, merged.sent_segments, merged.owners[0].connections), (3, 74, 3));
    assert_eq!(whole.merged.as_ref().map(|merged| (merged.windows, whole.span.unwatched_seconds)), Some((2, 0.0)));
    child.go();
    end(child);
}

#[test]
fn failed_connects_tell_who_tried_where_to_and_why() {
    unless_init_ran(fail_to_connect);
}

fn fail_to_connect() {
    const REFUSED: u64 = 23;
    let mut child = child_in_namespace(|link| {
        set_comm("kerno client");
        for _ in 0..REFUSED {
            TcpStream::connect("127.0.0.1:5001").unwrap_err();
        }
        let listener = TcpListener::bind("127.0.0.1:5002").unwrap();
        drop_packets(&listener);
        let target = listener.local_addr().unwrap();
        let mut waiting = [0; 3].map(|_| Some(start_connect(target, 6)));
        std::thread::sleep(Duration::from_millis(1300));
        drop(start_connect(target, 6));
        waiting[0] = None;
        done(link);
    });
    let seen = observe(&mut child);
    let failures: Vec<_> = seen.tcp().failures.iter().filter(|f| f.net_namespace == seen.inode).collect();
    let [refused, unanswered] = failures[..] else { panic!("{failures:#?}") };
    assert_eq!((refused.reason, refused.count, refused.port), (TcpFailureReason::Refused, REFUSED, 5001));
    assert_eq!((refused.error.name.as_str(), refused.remote.to_string().as_str()), ("ECONNREFUSED", "127.0.0.1"));
    assert!(refused.first_ns > seen.signals.span.started_ns);
    // One was given up, and two wait; the last one was given up before its SYN was sent again.
    assert_eq!((unanswered.reason, unanswered.count, unanswered.port), (TcpFailureReason::TimedOut, 3, 5002));
    assert_eq!((refused.waiting, unanswered.waiting), (0, 2));
    for failure in [refused, unanswered] {
        assert_eq!((failure.pid, failure.comm.as_str()), (child.pid, "kerno client"));
    }
    let findings = seen.findings("tcp_connect_failures");
    let remotes: Vec<_> = findings.iter().filter_map(|finding| finding.culprit.remote.as_deref()).collect();
    assert_eq!(remotes.len(), 2, "{findings:#?}");
    assert!(remotes.contains(&"127.0.0.1:5001") && remotes.contains(&"127.0.0.1:5002"), "{remotes:?}");
    assert!(findings.iter().all(|finding| finding.culprit.pid == Some(child.pid)));
    end(child);
}

#[test]
fn a_syn_that_waits_for_its_answer_shows() {
    unless_init_ran(wait_for_an_answer);
}

fn wait_for_an_answer() {
    let mut child = child_in_namespace(|link| {
        let listener = TcpListener::bind("127.0.0.1:5003").unwrap();
        drop_packets(&listener);
        let waiting = [0; 2].map(|_| start_connect(listener.local_addr().unwrap(), 6));
        std::thread::sleep(Duration::from_millis(1300));
        done(link);
        drop(waiting);
    });
    let seen = observe(&mut child);
    let failures: Vec<_> = seen.tcp().failures.iter().filter(|f| f.net_namespace == seen.inode).collect();
    let [failure] = failures[..] else { panic!("{failures:#?}") };
    assert_eq!((failure.reason, failure.count, failure.waiting), (TcpFailureReason::TimedOut, 2, 2));
    assert_eq!((failure.pid, failure.port), (child.pid, 5003));
    assert_eq!(seen.findings("tcp_connect_failures").len(), 1);
    assert!(seen.findings("tcp_retransmit_storm").is_empty(), "no data was lost");
    end(child);
}

/// Drops a share of what comes in for this socket: a classic filter that throws dice for each segment.
fn lose(stream: &TcpStream, per_cent: u32) {
    let code = |code: u32, k: u32, jf: u8| libc::sock_filter { code: u16::try_from(code).unwrap(), jt: 0, jf, k };
    let random = libc::SKF_AD_OFF.cast_unsigned().wrapping_add(libc::SKF_AD_RANDOM.cast_unsigned());
    let filter = [
        code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, random, 0),
        code(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 100, 0),
        code(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, per_cent, 1),
        code(libc::BPF_RET | libc::BPF_K, u32::MAX, 0),
        code(libc::BPF_RET | libc::BPF_K, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    set_option(stream, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program);
}

/// Sends on two connections until that many segments were sent again on the lossy one.
fn send_on_two_paths(per_cent: u32, again: u64) {
    let streams = [("127.0.0.2", true), ("127.0.0.3", false)].map(|(address, lossy)| {
        let listener = TcpListener::bind((address, 5000)).unwrap();
        let client = TcpStream::connect((address, 5000)).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        if lossy {
            lose(&stream, per_cent);
        }
        let server = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while stream.read(&mut buffer).unwrap() > 0 {}
        });
        // Small segments, so that there are many.
        client.set_nodelay(true).unwrap();
        (client, server)
    });
    let before = counter("snmp", "Tcp:", "RetransSegs");
    let begun = Instant::now();
    let [(mut lossy, first), (mut sound, second)] = streams;
    while counter("snmp", "Tcp:", "RetransSegs") < before + again && begun.elapsed() < Duration::from_secs(30) {
        for _ in 0..20 {
            lossy.write_all(&[0x5a; 1000]).unwrap();
            sound.write_all(&[0x5a; 1000]).unwrap();
        }
    }
    drop((lossy, sound));
    first.join().unwrap();
    second.join().unwrap();
    settle();
}

fn one_of_two_paths_is_lossy(per_cent: u32) {
    unless_init_ran(|| {
        let mut child = child_in_namespace(|link| {
            let fails = counter("netstat", "TcpExt:", "TCPRetransFail");
            send_on_two_paths(per_cent, 25);
            done(link);
            link.tell(counter("snmp", "Tcp:", "RetransSegs"));
            link.tell(counter("netstat", "TcpExt:", "TCPRetransFail") - fails);
        });
        let seen = observe(&mut child);
        let (again, failed) = (child.heard(), child.heard());
        let peers = seen.tcp().peers.iter().filter(|peer| peer.net_namespace == seen.inode);
        let of = |remote: &str| -> Vec<_> {
            peers.clone().filter(|peer| peer.remote.to_string() == remote && peer.outgoing).collect()
        };
        // The servers' ends have the clients' address.
        let theirs: u64 = peers.clone().filter(|peer| !peer.outgoing).map(|peer| peer.retransmitted_segments).sum();
        let (lossy, sound) = (of("127.0.0.2"), of("127.0.0.3"));
        let sound: u64 = sound.iter().map(|peer| peer.retransmitted_segments).sum();
        let seen_again = lossy[0].retransmitted_segments + sound + theirs;
        compare(
            "tcp_monitor",
            "segments sent again, summary",
            seen_again,
            again - failed,
            "/proc/net/snmp, /proc/net/netstat",
        );
        assert_eq!(seen.namespace().retransmitted_segments, again);
        assert!(lossy[0].retransmitted_segments > sound, "{lossy:#?}");
        assert!(lossy[0].first_retransmit_ns > seen.signals.span.started_ns);
        let findings = seen.findings("tcp_retransmit_storm");
        let [finding] = &findings[..] else { panic!("{per_cent} %: {findings:#?} {:#?}", seen.tcp().peers) };
        assert_eq!(finding.culprit.remote.as_deref(), Some("127.0.0.2:5000"));
        assert_eq!(finding.culprit.pid, Some(child.pid));
        end(child);
    });
}

#[test]
fn of_two_paths_only_the_one_that_loses_a_tenth_is_named() {
    one_of_two_paths_is_lossy(10);
}

#[test]
fn of_two_paths_only_the_one_that_loses_a_hundredth_is_named() {
    one_of_two_paths_is_lossy(1);
}

/// Lets this namespace's loopback device carry so many bytes a second, and queue so many: a token bucket (tc-tbf(8)), asked for by
/// netlink(7).
fn limit_loopback(bytes_per_second: u32, burst: u32, queue: u32) {
    const RTM_NEWQDISC: u16 = 36;
    const TCA_TBF_PARMS: u16 = 1;
    const TCA_TBF_BURST: u16 = 6;
    const TC_H_ROOT: u32 = u32::MAX;
    let attribute = |kind: u16, value: &[u8]| {
        let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    // struct tc_tbf_qopt: rate and peak rate, 12 bytes each (cell, link layer Ethernet, overhead, align, mpu, rate), limit, burst, mtu.
    let mut parameters = vec![0, 1, 0, 0, 0, 0, 0, 0];
    parameters.extend(bytes_per_second.to_ne_bytes());
    parameters.extend([0; 12]);
    parameters.extend([queue, 1, 0].map(u32::to_ne_bytes).concat());
    let options = [attribute(TCA_TBF_PARMS, &parameters), attribute(TCA_TBF_BURST, &burst.to_ne_bytes())].concat();
    // struct tcmsg: family, interface 1 (loopback is the first), handle, parent, info.
    let mut body = vec![0; 4];
    body.extend([1, 0, TC_H_ROOT, 0].map(u32::to_ne_bytes).concat());
    body.extend(attribute(1, b"tbf\0"));
    body.extend(attribute(2, &options));
    let mut message = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
    message.extend(RTM_NEWQDISC.to_ne_bytes());
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    message.extend(u16::try_from(flags).unwrap().to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    let mut answer = [0u8; 4096];
    // SAFETY: the descriptor is our own, and both buffers are as long as is said.
    let got = unsafe {
        let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        assert!(socket >= 0);
        assert_eq!(libc::send(socket, message.as_ptr().cast(), message.len(), 0), message.len() as isize);
        let got = libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0);
        libc::close(socket);
        got
    };
    let error = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
    assert!(got >= 20 && error == 0, "tbf: {}", std::io::Error::from_raw_os_error(-error));
}

#[test]
fn a_queue_on_the_way_shows_in_the_round_trips() {
    let mut child = child_in_namespace(|link| {
        let listener = TcpListener::bind("127.0.0.1:5006").unwrap();
        let mut client = TcpStream::connect("127.0.0.1:5006").unwrap();
        let mut server = listener.accept().unwrap().0;
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while server.read(&mut buffer).unwrap() > 0 {}
        });
        // What the path takes with an empty queue.
        for _ in 0..20 {
            send(&mut client, 100);
            std::thread::sleep(Duration::from_millis(2));
        }
        limit_loopback(1_000_000, 70 << 10, 400 << 10);
        let begun = Instant::now();
        client.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        while begun.elapsed() < Duration::from_millis(1500) {
            client.write_all(&[0x5a; 1 << 14]).unwrap();
        }
        link.tell(u64::from(tcp_info(&client).tcpi_rtt));
        done(link);
        drop(client);
        // What waits in the queue goes on at that pace.
        reader.join().unwrap();
    });
    let namespace = enter(&mut child);
    let inode = u32::try_from(namespace.inode()).unwrap();
    let mut observer = observer();
    child.go();
    let rtt = child.heard();
    assert_eq!(child.heard(), DONE);
    let seen = Seen { signals: observer.finish().unwrap(), inode };
    child.go();
    let findings = seen.findings("tcp_rtt_inflation");
    let [finding] = &findings[..] else { panic!("{rtt} us by TCP_INFO: {findings:#?} {:#?}", seen.tcp().peers) };
    assert_eq!(finding.culprit.pid, Some(child.pid));
    assert_eq!(finding.culprit.remote.as_deref(), Some("127.0.0.1"));
    end(child);
}

#[test]
fn a_full_accept_queue_names_the_listener_in_its_namespace() {
    let mut child = child_in_namespace(|link| {
        set_comm("kerno server");
        let listener = TcpListener::bind("127.0.0.1:5004").unwrap();
        // SAFETY: no memory is involved.
        assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 2) }, 0);
        let target: SocketAddr = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..12)
            .map(|_| {
                let client = start_connect(target, 6);
                std::thread::sleep(Duration::from_millis(5));
                client
            })
            .collect();
        // Those without a place try again after a second.
        std::thread::sleep(Duration::from_millis(1500));
        link.tell(DONE);
        link.wait();
        link.tell(counter("netstat", "TcpExt:", "ListenOverflows"));
        link.tell(counter("netstat", "TcpExt:", "ListenDrops"));
        drop(clients);
    });
    let seen = observe(&mut child);
    let (overflows, drops) = (child.heard(), child.heard());
    let listeners: Vec<_> = seen.tcp().listeners.iter().filter(|l| l.net_namespace == seen.inode).collect();
    let [listener] = listeners[..] else { panic!("{listeners:#?}") };
    assert_eq!((listener.port, listener.local.to_string().as_str()), (5004, "127.0.0.1"));
    assert_eq!((listener.pid, listener.comm.as_str()), (child.pid, "kerno server"));
    assert_eq!((listener.queued, listener.backlog), (3, 2));
    assert!(overflows >= 9, "{overflows}");
    // A SYN may come between the look and the child's own.
    assert!(listener.drops <= drops && listener.drops >= 9, "{} of {drops}, {overflows} overflows", listener.drops);
    let namespace = seen.namespace();
    assert!(namespace.listen_overflows >= 9 && namespace.listen_overflows <= overflows);
    let findings = seen.findings("tcp_accept_queue_overflow");
    let [finding] = &findings[..] else { panic!("{findings:#?}") };
    assert_eq!(finding.culprit.pid, Some(child.pid));
    assert_eq!(finding.culprit.local.as_deref(), Some("127.0.0.1:5004"));
    assert!(finding.fixes[0].command.contains("ss -ltn 'sport = :5004'"), "{:?}", finding.fixes[0]);
    end(child);
}
