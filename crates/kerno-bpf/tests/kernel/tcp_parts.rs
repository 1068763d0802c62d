//! With very many sockets the walk over them is done in parts, with the samples of a window. Connections end before, while and after theirs
//! are looked at; whatever came when, the sums over all windows are what the child did.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use kerno_bpf::CancelToken;
use kerno_model::{KernelVersion, TcpPeer, Window};

use crate::fd_summary::{fd_hard_limit, set_fd_limit};
use crate::support::{self, preempts_programs, unless_init_ran};
use crate::tcp_monitor::net::{
    child_in_namespace, connected, counter, enter, expect_end, receive, reset_on_close, send,
};

/// Two sockets each: enough for three parts.
const CONNECTIONS: usize = 6500;
const WINDOWS: usize = 4;
const WINDOW: Duration = Duration::from_secs(1);
/// For longer than the windows take together.
const WORK: Duration = Duration::from_millis(4300);
const PORT: u16 = 5018;

/// What the child did.
#[derive(Default)]
struct Done {
    sent: u64,
    answered: u64,
    opened: u64,
    closed: u64,
}

/// Numbers without an end that look like chance (xorshift).
fn any(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 11) as usize
}

/// A connection that waits for no acknowledgement to send.
fn connect(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let (client, server) = connected(listener);
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    (client, server)
}

/// Sends, receives, opens and closes on connections that are taken by chance.
fn churn(listener: &TcpListener, pairs: &mut Vec<(TcpStream, TcpStream)>) -> Done {
    let (mut done, mut state, begun) = (Done::default(), 0x9e37_79b9_7f4a_7c15, Instant::now());
    while begun.elapsed() < WORK {
        let at = any(&mut state) % pairs.len();
        // Each write is one segment: the next waits until it has arrived.
        for _ in 0..any(&mut state) % 4 {
            let (client, server) = &mut pairs[at];
            send(client, 100);
            receive(server, 100);
            done.sent += 1;
        }
        if any(&mut state).is_multiple_of(3) {
            let (client, server) = &mut pairs[at];
            send(server, 100);
            receive(client, 100);
            done.answered += 1;
        }
        if any(&mut state).is_multiple_of(4) {
            let (client, mut server) = pairs.swap_remove(at);
            if any(&mut state).is_multiple_of(2) {
                reset_on_close(&client);
                drop(client);
            } else {
                drop(client);
                expect_end(&mut server);
            }
            drop(server);
            done.closed += 1;
            if !any(&mut state).is_multiple_of(5) {
                pairs.push(connect(listener));
                done.opened += 1;
            }
        }
        // Other tests want to work, too.
        std::thread::sleep(Duration::from_micros(500));
    }
    done
}

#[test]
fn sums_are_exact_whenever_a_connection_ends() {
    unless_init_ran(watch_in_parts);
}

fn watch_in_parts() {
    let mut child = child_in_namespace(|link| {
        // Within the hard limit where that will do: raising it takes a capability that containers lack.
        let needed = 2 * CONNECTIONS as u64 + 100;
        set_fd_limit(needed, needed.max(fd_hard_limit()));
        // All ports that there are: those of connections that ended are kept for a minute.
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65000").unwrap();
        let listener = TcpListener::bind(("127.0.0.1", PORT)).unwrap();
        let mut pairs: Vec<_> = (0..CONNECTIONS).map(|_| connect(&listener)).collect();
        for (client, server) in pairs.iter_mut().step_by(3) {
            send(client, 100);
            receive(server, 100);
        }
        link.tell(0);
        link.wait();
        let before = counter("snmp", "Tcp:", "RetransSegs");
        let done = churn(&listener, &mut pairs);
        let again = counter("snmp", "Tcp:", "RetransSegs") - before;
        for count in [done.sent, done.answered, done.opened, done.closed, again] {
            link.tell(count);
        }
        link.wait();
    });
    let namespace = enter(&mut child);
    let inode = u32::try_from(namespace.inode()).unwrap();
    child.go();
    assert_eq!(child.heard(), 0);
    let mut observer = support::observer(&["tcp_monitor"]);
    child.go();
    let cancel = CancelToken::new().unwrap();
    let mut windows: Vec<Window> = (0..WINDOWS).map(|_| observer.watch(WINDOW, &cancel).unwrap()).collect();
    let [sent, answered, opened, closed, again] = [0; 5].map(|_| child.heard());
    // What came after the last look.
    windows.push(observer.finish().unwrap());
    child.go();
    assert_eq!(child.wait(), 0);

    let missed: u64 = windows.iter().flat_map(|window| window.cost.loss.values()).map(|loss| loss.missed_runs).sum();
    assert!(missed == 0 || preempts_programs(), "{missed} runs of programs were missed");
    let spent = observer.spent()["tcp_monitor"];
    // On older kernels it is not done in parts.
    let in_parts = kerno_bpf::probe::running_kernel() >= KernelVersion::new(6, 12);
    assert!(!in_parts || spent.sampling > spent.windows / 8.0, "the walk is not done in parts: {spent:?}");
    let sum = |outgoing: bool| {
        let peers = windows.iter().flat_map(|window| &window.tcp_monitor.as_ref().unwrap().peers);
        peers
            .filter(|peer| peer.net_namespace == inode && peer.outgoing == outgoing)
            .map(|peer| peer.sent_segments)
            .sum()
    };
    let counts: [u64; 2] = [sum(true), sum(false)];
    let mut windows = windows.into_iter();
    let mut whole = windows.next().unwrap();
    windows.for_each(|window| whole.merge(&window).unwrap());
    let peers = &whole.tcp_monitor.as_ref().unwrap().peers;
    let of = |outgoing: bool| -> &TcpPeer {
        let mut ours = peers.iter().filter(|peer| peer.net_namespace == inode && peer.outgoing == outgoing);
        let peer = ours.next().unwrap();
        assert!(ours.next().is_none(), "{peers:#?}");
        peer
    };
    let connections = CONNECTIONS as u64 + opened;
    for (outgoing, count, truth) in [(true, counts[0], sent), (false, counts[1], answered)] {
        let peer = of(outgoing);
        println!(
            "compared: tcp_monitor | segments of connections looked at in parts | {count} | {truth}, {again} again | the child"
        );
        println!(
            "{outgoing}: {} of {connections} connections, {:?} open, {closed} closed",
            peer.connections, peer.open
        );
        if missed == 0 {
            // On a machine that stands still for a moment a segment may be sent again.
            assert!((truth..=truth + again).contains(&count), "{count}, {truth} and {again} again");
            assert_eq!(peer.sent_segments, count);
            assert_eq!((peer.connections, peer.open), (connections, Some(connections - closed)));
        }
    }
}
