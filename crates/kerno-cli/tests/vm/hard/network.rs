//! A network that delays, loses and reorders, by the kernel's netem.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::sync::mpsc;
use std::time::Duration;

use kerno::{Filter, TcpEventType, TcpMonitorLoader};

use crate::guest::{modprobe, watched};
use crate::net::{child_in_namespace, counter, enter, events_of, of_type, settle, tcp_info};
use crate::netem::Netem;
use crate::support::{Run, monotonic_ns, options};
use crate::veth;

/// What a child saw of its own transfer.
#[derive(Debug)]
struct Seen {
    connect_ns: u64,
    retransmits: u64,
    rtt_us: u64,
}

/// Sends a megabyte from one network namespace to another, over a cable that is like that in both directions; what the kernel's own
/// counters say of it, and what was traced.
fn transfer(netem: Netem) -> (Seen, Vec<kerno::TcpEvent>) {
    const BYTES: usize = 1 << 20;
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    let mut child = child_in_namespace(move |link| {
        let (namespace_to, namespace_from) = mpsc::channel();
        let (plugged_to, plugged_from) = mpsc::channel::<()>();
        let (address_to, address_from) = mpsc::channel();
        let server = std::thread::spawn(move || {
            // SAFETY: no memory is involved.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
            namespace_to.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
            plugged_from.recv().unwrap();
            veth::bring_up("server", SERVER);
            netem.apply("server");
            let listener = TcpListener::bind((SERVER, 0)).unwrap();
            address_to.send(listener.local_addr().unwrap()).unwrap();
            let mut stream = listener.accept().unwrap().0;
            give_up_some_time(&stream);
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            assert_eq!(received.len(), BYTES);
            stream.write_all(b"done").unwrap();
            drop((stream, listener));
            settle();
            counter("snmp", "Tcp:", "RetransSegs")
        });
        let namespace = namespace_from.recv().unwrap();
        link.tell(namespace.metadata().unwrap().ino());
        veth::connect("client", "server", &namespace);
        veth::bring_up("client", CLIENT);
        netem.apply("client");
        plugged_to.send(()).unwrap();
        let address = address_from.recv().unwrap();
        let begun = monotonic_ns();
        let mut client = TcpStream::connect(address).unwrap();
        link.tell(monotonic_ns() - begun);
        give_up_some_time(&client);
        client.write_all(&vec![1; BYTES]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        let rtt_us = tcp_info(&client).tcpi_rtt;
        drop(client);
        let retransmits_there = server.join().unwrap();
        settle();
        link.tell(retransmits_there + counter("snmp", "Tcp:", "RetransSegs"));
        link.tell(rtt_us.into());
        link.wait();
    });
    let namespace = enter(&mut child);
    let run = Run::start(TcpMonitorLoader::new(options(Filter::default())));
    child.go();
    let other = child.heard();
    let seen = Seen { connect_ns: child.heard(), retransmits: child.heard(), rtt_us: child.heard() };
    child.go();
    assert_eq!(child.wait(), 0);
    (seen, events_of(run, |event| namespace.has(event) || u64::from(event.netns) == other))
}

/// A test that waits for ever should fail instead.
fn give_up_some_time(stream: &TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
}

fn retransmitted(events: &[kerno::TcpEvent]) -> u64 {
    of_type(events, TcpEventType::Retransmit).iter().map(|event| u64::from(event.retransmits)).sum()
}

#[test]
fn delay_shows_in_connects_and_round_trips() {
    watched(|| {
        modprobe(&["-a", "sch_netem", "veth"]);
        let (seen, events) = transfer(Netem { delay_ms: 60, ..Netem::default() });
        let connects = of_type(&events, TcpEventType::Connect);
        let [connect] = &connects[..] else { panic!("{events:#?}") };
        // There and back.
        assert!((120_000_000..=seen.connect_ns).contains(&connect.latency_ns), "{connect}: {seen:?}");
        let closes = of_type(&events, TcpEventType::Close);
        assert!(closes.iter().any(|close| u64::from(close.rtt_us) == seen.rtt_us), "{closes:#?}: {seen:?}");
        assert!(seen.rtt_us >= 120_000);
    });
}

#[test]
fn each_segment_that_loss_or_disorder_sends_again_is_told() {
    watched(|| {
        modprobe(&["-a", "sch_netem", "veth"]);
        let (seen, events) = transfer(Netem { loss_percent: 5, ..Netem::default() });
        assert!(seen.retransmits > 0, "nothing was lost");
        assert_eq!(retransmitted(&events), seen.retransmits, "{seen:?}");
        let (seen, events) = transfer(Netem { delay_ms: 20, reorder_percent: 30, ..Netem::default() });
        assert_eq!(retransmitted(&events), seen.retransmits, "{seen:?}");
    });
}
