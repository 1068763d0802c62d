//! A network that delays, loses and reorders, by the kernel's netem.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use kerno::{Filter, TcpEventType, TcpMonitorLoader};

use crate::guest::{modprobe, watched};
use crate::net::{child_in_namespace, connected, enter, events_of, of_type, settle, tcp_info};
use crate::netem::Netem;
use crate::support::{Run, monotonic_ns, options};

/// What a child saw of its own transfer.
#[derive(Debug)]
struct Seen {
    connect_ns: u64,
    retransmits: u64,
    rtt_us: u64,
}

/// Sends a megabyte through a namespace's loopback; what the kernel's own counters say of it, and what was traced.
fn transfer(netem: Netem) -> (Seen, Vec<kerno::TcpEvent>) {
    const BYTES: usize = 1 << 20;
    let mut child = child_in_namespace(move |link| {
        netem.apply("lo");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let begun = monotonic_ns();
        let (mut client, mut server) = connected(&listener);
        link.tell(monotonic_ns() - begun);
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            server.read_to_end(&mut received).unwrap();
            assert_eq!(received.len(), BYTES);
            // Its side has nothing to send again but the answer.
            server.write_all(b"done").unwrap();
            u64::from(tcp_info(&server).tcpi_total_retrans)
        });
        client.write_all(&vec![1; BYTES]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        let info = tcp_info(&client);
        let server_retransmits = reader.join().unwrap();
        link.tell(u64::from(info.tcpi_total_retrans) + server_retransmits);
        link.tell(u64::from(info.tcpi_rtt));
        drop(client);
        settle();
        link.wait();
    });
    let namespace = enter(&mut child);
    let run = Run::start(TcpMonitorLoader::new(options(Filter::default())));
    child.go();
    let seen = Seen { connect_ns: child.heard(), retransmits: child.heard(), rtt_us: child.heard() };
    child.go();
    assert_eq!(child.wait(), 0);
    (seen, events_of(run, |event| namespace.has(event)))
}

fn retransmitted(events: &[kerno::TcpEvent]) -> u64 {
    of_type(events, TcpEventType::Retransmit).iter().map(|event| u64::from(event.retransmits)).sum()
}

#[test]
fn delay_shows_in_connects_and_round_trips() {
    watched(|| {
        modprobe(&["sch_netem"]);
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
        modprobe(&["sch_netem"]);
        let (seen, events) = transfer(Netem { loss_percent: 5, ..Netem::default() });
        assert!(seen.retransmits > 0, "nothing was lost");
        assert_eq!(retransmitted(&events), seen.retransmits, "{seen:?}");
        let (seen, events) = transfer(Netem { delay_ms: 20, reorder_percent: 30, ..Netem::default() });
        assert_eq!(retransmitted(&events), seen.retransmits, "{seen:?}");
    });
}
