//! Connections on which nothing moves, against what `TCP_INFO` says of them. Each has an address of its own, as if it went to another host.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use kerno_model::TcpStuck;

use crate::support::unless_init_ran;
use crate::tcp_monitor::net::{
    child_in_namespace, connected, drop_large_packets, drop_packets, receive, send, set_option, tcp_info,
};
use crate::tcp_summary::{Seen, done, end, observe};

/// A connection to a server there, on which some data has arrived.
fn connection(address: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((address, 5432)).unwrap();
    // As Ethernet has it: loopback's own packets have room for everything at once.
    set_option(&listener, libc::IPPROTO_TCP, libc::TCP_MAXSEG, &1460i32);
    let (mut client, mut server) = connected(&listener);
    send(&mut client, 100);
    receive(&mut server, 100);
    (client, server)
}

fn stuck<'a>(seen: &'a Seen, remote: &str) -> &'a TcpStuck {
    let all: Vec<_> = seen.tcp().stuck.iter().filter(|stuck| stuck.net_namespace == seen.inode).collect();
    let mut there = all.iter().filter(|stuck| stuck.remote.to_string() == remote && stuck.outgoing);
    there.next().unwrap_or_else(|| panic!("nothing about {remote}: {all:#?}"))
}

#[test]
fn what_is_stuck_and_why() {
    unless_init_ran(look);
}

fn look() {
    const WAIT: Duration = Duration::from_secs(11);
    let mut child = child_in_namespace(|link| {
        let (mut gone, gone_server) = connection("127.0.0.2");
        let (mut large, large_server) = connection("127.0.0.3");
        let (mut full, full_server) = connection("127.0.0.4");
        let (mut forgotten, forgotten_server) = connection("127.0.0.5");
        let (mut beside, mut beside_server) = connection("127.0.0.6");
        drop_packets(&gone_server);
        drop_packets(&forgotten_server);
        drop_large_packets(&large_server, 1000);
        full.set_nonblocking(true).unwrap();
        // Full for good: what was sent may find room at the other end a moment later.
        let mut refused = 0;
        while refused < 5 {
            refused = if full.write(&[7; 4096]).is_ok() { 0 } else { refused + 1 };
            if refused > 0 {
                std::thread::sleep(Duration::from_millis(40));
            }
        }
        let begun = Instant::now();
        for client in [&mut gone, &mut forgotten] {
            client.write_all(&[7; 300]).unwrap();
        }
        large.write_all(&[7; 8000]).unwrap();
        // To the host of the one that is forgotten.
        let listener = TcpListener::bind("127.0.0.5:5433").unwrap();
        let (mut other, mut other_server) = connected(&listener);
        while begun.elapsed() < WAIT {
            for (client, server) in [(&mut other, &mut other_server), (&mut beside, &mut beside_server)] {
                send(client, 10);
                receive(server, 10);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let before = tcp_info(&gone);
        done(link);
        let after = tcp_info(&gone);
        for info in [&before, &after] {
            link.tell(u64::from(info.tcpi_retransmits));
            link.tell(u64::from(info.tcpi_last_ack_recv));
        }
        link.tell(u64::try_from(begun.elapsed().as_millis()).unwrap());
        drop((gone_server, full_server));
    });
    let seen = observe(&mut child);
    let [retransmits, silent_ms, retransmits_after, silent_ms_after, elapsed_ms]: [u64; 5] =
        std::array::from_fn(|_| child.heard());

    let gone = stuck(&seen, "127.0.0.2");
    assert!((retransmits..=retransmits_after).contains(&u64::from(gone.retransmits)), "{gone:?} {retransmits}");
    // A jiffy is at most 10 ms.
    let silent = gone.silent_seconds * 1e3;
    #[allow(clippy::cast_precision_loss, reason = "milliseconds")]
    let (least, most) = (silent_ms as f64 - 11.0, silent_ms_after as f64 + 11.0);
    assert!((least..=most).contains(&silent), "{gone:?} {least} {most}");
    #[allow(clippy::cast_precision_loss, reason = "milliseconds")]
    let range = WAIT.as_secs_f64() - 0.1..=elapsed_ms as f64 / 1e3 + 0.1;
    // From the second sending on, which may be that of a loss probe.
    let outstanding = WAIT.as_secs_f64() - 1.0..=*range.end();
    assert!(outstanding.contains(&gone.outstanding_seconds), "{gone:?} {range:?}");
    assert_eq!((gone.unacknowledged_bytes, gone.acknowledged_bytes, gone.unsent_bytes), (300, 100, 0));
    assert_eq!((gone.pid, gone.peer_pid, gone.others_silent_seconds), (child.pid, child.pid, None));

    let full = stuck(&seen, "127.0.0.4");
    // It was full some time before the others were cut off.
    assert!((*range.start()..=range.end() + 2.0).contains(&full.closed_seconds), "{full:?} {range:?}");
    assert!(full.unsent_bytes > 0 && full.outstanding_seconds == 0.0, "{full:?}");
    let forgotten = stuck(&seen, "127.0.0.5");
    assert!(forgotten.others_silent_seconds.is_some_and(|seconds| seconds < 1.0), "{forgotten:?}");
    assert!(seen.tcp().stuck.iter().all(|stuck| stuck.remote.to_string() != "127.0.0.6"), "{:?}", seen.tcp().stuck);

    let findings = seen.findings("tcp_connection_stuck");
    let mut told: Vec<_> =
        findings.iter().map(|found| (found.culprit.remote.clone().unwrap(), found.title.as_str())).collect();
    told.sort_unstable();
    let says = |remote: &str, words: &str| {
        told.iter().any(|(at, title)| at == &format!("{remote}:5432") && title.contains(words))
    };
    assert!(says("127.0.0.2", "gets no answer from 127.0.0.2:5432 on an open connection"), "{told:#?}");
    assert!(says("127.0.0.3", "do not reach"), "{told:#?} {:#?}", seen.tcp().stuck);
    assert!(says("127.0.0.4", "has no room for what"), "{told:#?}");
    assert!(says("127.0.0.5", "gets no answer on an open connection to"), "{told:#?}");
    assert_eq!(told.len(), 4, "{told:#?}");
    end(child);
}
