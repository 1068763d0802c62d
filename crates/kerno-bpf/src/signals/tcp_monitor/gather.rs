//! From what was read to the summary: what was sent in the window is what live sockets sent since it began, and ended ones in all,
//! less what they had sent before.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::services::Services;
use super::sockets::Sockets;
use super::stuck;
use super::wire::{FailureKey, FailureValue, LISTEN, PeerKey, PeerValue, Row, SYN_SENT, StuckValue};
use crate::engine::FastMap;
use kerno_model::{ConnectionOwner, ErrnoCount, Histogram};
use kerno_model::{TcpFailure, TcpFailureReason, TcpListener, TcpPeer, TcpProcess, TcpSummary};

/// How many of each list are kept.
const MAX_LISTED: usize = 64;
/// Half of the peers are those with most retransmissions, half those with most segments.
const MAX_PEERS_BY: usize = MAX_LISTED / 2;
const MAX_OWNERS: usize = 8;

/// What was read at the window's ends.
#[derive(Debug)]
pub(super) struct Readings<'a> {
    pub(super) before: &'a Sockets,
    pub(super) now: &'a Sockets,
    pub(super) peers: HashMap<PeerKey, PeerValue>,
    pub(super) failures: HashMap<FailureKey, FailureValue>,
    /// By the address of the socket.
    pub(super) stuck: HashMap<u64, StuckValue>,
    /// Listening sockets as they were at the latest sample, with the longest queue of all samples.
    pub(super) queues: &'a FastMap<u64, Row>,
}

#[derive(Debug, Default)]
struct Peer {
    kernel: PeerValue,
    /// Still open.
    open: u64,
    /// With those that ended in the window.
    connections: u64,
    sent: u64,
    spurious: u64,
    /// What ended connections had sent before the window.
    earlier: Sent,
    /// Of connections that sent in the window, and of the others.
    srtt_busy: Vec<u32>,
    srtt_idle: Vec<u32>,
    min_rtt_us: Option<u32>,
    owners: FastMap<u32, ConnectionOwner>,
    /// Of ended connections that were there before the window.
    owners_ended: BTreeMap<u32, u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    segments: u64,
    retransmits: u64,
    spurious: u64,
}

/// Puts the lists together; `name` tells a process's name.
pub(super) fn gather(mut readings: Readings<'_>, name: impl Fn(u32) -> String, summary: &mut TcpSummary) {
    let failures = std::mem::take(&mut readings.failures);
    let mut gathered = Gathered::new(&readings);
    let mut go_on = vec![false; readings.before.rows().len()];
    let mut find = readings.before.alongside();
    for (row, pid) in readings.now.with_owners() {
        let earlier = find(row.sock).filter(|(_, earlier)| row.continues(earlier));
        if let Some(goes_on) = earlier.and_then(|(place, _)| go_on.get_mut(place)) {
            *goes_on = true;
        }
        if row.is_connection() {
            gathered.live(row, pid, earlier.map(|(_, earlier)| earlier), &mut summary.rtt_us);
        }
    }
    for ((row, pid), goes_on) in readings.before.with_owners().zip(go_on) {
        if !goes_on && row.is_connection() {
            let peer = gathered.peers.entry(gathered.services.key(row)).or_default();
            peer.earlier.segments += u64::from(row.data_segments);
            peer.earlier.retransmits += u64::from(row.retransmits);
            peer.earlier.spurious += u64::from(row.spurious);
            if pid != 0 {
                *peer.owners_ended.entry(pid).or_default() += 1;
            }
        }
    }
    for (key, value) in &readings.peers {
        gathered.peers.entry(*key).or_default().kernel = *value;
    }
    gathered.ended();
    summary.failures = failed(failures, &readings, &name);
    summary.processes = gathered.processes(&name);
    let tried: HashSet<_> = summary.failures.iter().map(|f| (f.remote, f.port, f.net_namespace)).collect();
    summary.listeners = gathered.listeners(&name);
    summary.stuck = stuck::told_of(&readings.stuck, (readings.before, readings.now), &gathered.services, &name);
    summary.peers = gathered.peers(&tried);
}

struct Gathered<'a> {
    readings: &'a Readings<'a>,
    services: Services,
    peers: FastMap<PeerKey, Peer>,
    processes: FastMap<u32, TcpProcess>,
}

impl<'a> Gathered<'a> {
    fn new(readings: &'a Readings<'a>) -> Self {
        let services = Services::of(readings.now);
        Self { readings, services, peers: FastMap::default(), processes: FastMap::default() }
    }

    fn process(&mut self, pid: u32, connections: u64, open: u64, sent: Sent) {
        let process = self.processes.entry(pid).or_insert_with(|| TcpProcess { pid, ..TcpProcess::default() });
        process.connections += connections;
        *process.open.get_or_insert_default() += open;
        process.sent_segments += sent.segments;
        process.retransmitted_segments += sent.retransmits;
    }

    fn live(&mut self, row: &Row, pid: u32, earlier: Option<&Row>, rtt_us: &mut Histogram) {
        let sent = Sent {
            segments: u64::from(row.data_segments - earlier.map_or(0, |earlier| earlier.data_segments)),
            retransmits: u64::from(row.retransmits - earlier.map_or(0, |earlier| earlier.retransmits)),
            spurious: u64::from(row.spurious - earlier.map_or(0, |earlier| earlier.spurious)),
        };
        let key = self.services.key(row);
        let pid = if pid == 0 { self.services.listener(&key) } else { pid };
        let peer = self.peers.entry(key).or_default();
        peer.connections += 1;
        peer.open += 1;
        peer.sent += sent.segments;
        peer.spurious += sent.spurious;
        if row.srtt_us > 0 {
            rtt_us.record(u64::from(row.srtt_us));
            if sent.segments > 0 { &mut peer.srtt_busy } else { &mut peer.srtt_idle }.push(row.srtt_us);
        }
        peer.saw_rtt(row.min_rtt_us);
        if pid != 0 {
            peer.owned(pid, 1, 1);
        }
        self.process(pid, 1, 1, sent);
    }

    /// Adds the connections that ended in the window.
    fn ended(&mut self) {
        let mut of_processes = Vec::new();
        for (key, peer) in &mut self.peers {
            let kernel = peer.kernel;
            let sent = Sent {
                segments: kernel.closed_segments.saturating_sub(peer.earlier.segments),
                retransmits: kernel.closed_retransmits.saturating_sub(peer.earlier.retransmits),
                spurious: kernel.closed_spurious.saturating_sub(peer.earlier.spurious),
            };
            let connections = u64::from(kernel.closed);
            peer.connections += connections;
            peer.sent += sent.segments;
            peer.spurious += sent.spurious;
            peer.saw_rtt(kernel.min_rtt_us);
            // Whose those were that began in the window: who opened the last of them, or who listens.
            let mut pid = if key.outgoing != 0 { kernel.pid } else { self.services.listener(key) };
            let mut known = 0;
            for (owner, ended) in std::mem::take(&mut peer.owners_ended) {
                peer.owned(owner, ended, 0);
                known += ended;
                if pid == 0 {
                    pid = owner;
                }
            }
            if pid != 0 && connections > known {
                peer.owned(pid, connections - known, 0);
            }
            if connections > 0 {
                of_processes.push((pid, connections, sent));
            }
        }
        for (pid, connections, sent) in of_processes {
            self.process(pid, connections, 0, sent);
        }
    }

    fn processes(&mut self, name: &impl Fn(u32) -> String) -> Vec<TcpProcess> {
        let mut list: Vec<_> = std::mem::take(&mut self.processes).into_values().collect();
        list.sort_unstable_by_key(|p| (Reverse(p.retransmitted_segments), Reverse(p.sent_segments), p.pid));
        list.truncate(MAX_LISTED);
        for process in &mut list {
            process.comm = name(process.pid);
        }
        list
    }

    fn listeners(&self, name: &impl Fn(u32) -> String) -> Vec<TcpListener> {
        let mut list = Vec::new();
        let Readings { now, queues, .. } = self.readings;
        // Those that are gone since the latest sample are worth telling of too.
        let listens = |sock| now.find(sock).filter(|(now, _)| now.state == LISTEN);
        let gone = queues.values().filter(|row| listens(row.sock).is_none());
        for row in now.rows().chain(gone).filter(|row| row.state == LISTEN) {
            let earlier = self.readings.before.find(row.sock).filter(|(earlier, _)| {
                // One that was opened anew may have the place of the one before, and counts from zero.
                let same_place = earlier.local_port == row.local_port && earlier.netns == row.netns;
                earlier.state == LISTEN && same_place && row.drops >= earlier.drops
            });
            let drops = u64::from(row.drops - earlier.map_or(0, |(earlier, _)| earlier.drops));
            let queued = row.queued.max(queues.get(&row.sock).map_or(0, |queue| queue.queued));
            if drops == 0 && queued == 0 {
                continue;
            }
            // Another socket may have the place of one that is gone.
            let pid = listens(row.sock).or(earlier).map_or(0, |(_, pid)| pid);
            let (local, port, net_namespace) = (row.local(), row.local_port, row.netns);
            let backlog = row.backlog;
            list.push(TcpListener {
                local,
                port,
                net_namespace,
                pid,
                comm: name(pid),
                drops,
                queued,
                backlog,
                ..TcpListener::default()
            });
        }
        list.sort_unstable_by_key(|l| (Reverse(l.drops), Reverse(l.queued), l.port, l.local));
        list.truncate(MAX_LISTED);
        list
    }

    fn peers(self, tried: &HashSet<(std::net::IpAddr, u16, u32)>) -> Vec<TcpPeer> {
        let mut peers: Vec<_> = self.peers.into_iter().map(|(key, peer)| peer.finish(key)).collect();
        peers.retain(|peer| peer.connections > 0 || peer.retransmitted_segments > 0);
        peers.sort_unstable_by_key(|p| (p.net_namespace, p.remote, p.port, p.outgoing));
        // Stable: the same order whatever the hash map's was.
        peers.sort_by_key(|peer| Reverse((peer.retransmitted_segments, peer.sent_segments)));
        let mut kept = Vec::new();
        let mut rest = Vec::new();
        for peer in peers {
            let asked_for = peer.outgoing && tried.contains(&(peer.remote, peer.port, peer.net_namespace));
            if asked_for || (peer.retransmitted_segments > 0 && kept.len() < MAX_PEERS_BY) {
                kept.push(peer);
            } else {
                rest.push(peer);
            }
        }
        rest.sort_by_key(|peer| Reverse(peer.sent_segments));
        kept.extend(rest.into_iter().take(MAX_PEERS_BY));
        kept
    }
}

impl Peer {
    fn saw_rtt(&mut self, min_rtt_us: u32) {
        if min_rtt_us > 0 {
            self.min_rtt_us = Some(self.min_rtt_us.map_or(min_rtt_us, |lowest| lowest.min(min_rtt_us)));
        }
    }

    fn owned(&mut self, pid: u32, connections: u64, open: u64) {
        let owner = self.owners.entry(pid).or_insert_with(|| ConnectionOwner { pid, ..ConnectionOwner::default() });
        owner.connections += connections;
        *owner.open.get_or_insert_default() += open;
    }

    fn finish(self, key: PeerKey) -> TcpPeer {
        let kernel = self.kernel;
        let ended = kernel.srtt_sum_us.checked_div(u64::from(kernel.srtt_count));
        let srtt_us = median(self.srtt_busy)
            .or_else(|| ended.and_then(|mean| u32::try_from(mean).ok()))
            .or_else(|| median(self.srtt_idle));
        let mut owners: Vec<_> = self.owners.into_values().collect();
        owners.sort_unstable_by_key(|owner| (Reverse(owner.connections), owner.pid));
        owners.truncate(MAX_OWNERS);
        TcpPeer {
            remote: key.address(),
            port: key.port,
            outgoing: key.outgoing != 0,
            net_namespace: key.netns,
            connections: self.connections,
            open: Some(self.open),
            sent_segments: self.sent,
            retransmitted_segments: kernel.retransmits,
            syn_retransmits: kernel.syn_retransmits,
            spurious_retransmits: self.spurious,
            srtt_us,
            min_rtt_us: self.min_rtt_us,
            owners,
            first_retransmit_ns: kernel.first_retransmit_ns,
        }
    }
}

fn median(mut values: Vec<u32>) -> Option<u32> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// What failed, and what waits for an answer to a SYN that has been sent again.
fn failed(
    mut failures: HashMap<FailureKey, FailureValue>,
    readings: &Readings<'_>,
    name: &impl Fn(u32) -> String,
) -> Vec<TcpFailure> {
    // Who began to connect before the kernel side looked, and has given up since.
    let mut before = HashMap::new();
    for (row, pid) in readings.before.with_owners().filter(|(row, pid)| row.state == SYN_SENT && *pid != 0) {
        before.insert((row.remote, row.netns, row.remote_port), pid);
    }
    let mut waiting: HashMap<FailureKey, u64> = HashMap::new();
    let waits = |row: &Row| row.state == SYN_SENT && row.retransmits > 0;
    for (row, owner) in readings.now.with_owners().filter(|(row, _)| waits(row)) {
        let pid = if row.pid == 0 { owner } else { row.pid };
        let key = FailureKey {
            remote: row.remote,
            netns: row.netns,
            pid,
            error: libc::ETIMEDOUT,
            port: row.remote_port,
            family: row.family,
            pad0: 0,
            window: 0,
            pad1: 0,
        };
        let value =
            failures.entry(key).or_insert_with(|| FailureValue { first_ns: row.since_ns, ..FailureValue::default() });
        value.count += 1;
        if row.since_ns > 0 {
            value.first_ns = value.first_ns.min(row.since_ns);
        }
        *waiting.entry(key).or_default() += 1;
    }
    let mut list: Vec<_> = failures
        .into_iter()
        .map(|(key, value)| {
            let known = before.get(&(key.remote, key.netns, key.port)).copied().unwrap_or(0);
            let pid = if key.pid == 0 { known } else { key.pid };
            (key, pid, value)
        })
        .map(|(key, pid, value)| TcpFailure {
            reason: reason(key.error),
            error: ErrnoCount::new(key.error, value.count),
            remote: key.address(),
            port: key.port,
            pid,
            comm: if value.comm.as_bytes().is_empty() { name(pid) } else { value.comm.to_str_lossy().into_owned() },
            net_namespace: key.netns,
            count: value.count,
            waiting: waiting.get(&key).copied().unwrap_or(0),
            first_ns: value.first_ns,
        })
        .collect();
    list.sort_unstable_by_key(|f| (Reverse(f.count), f.remote, f.port, f.pid, f.error.errno));
    list.truncate(MAX_LISTED);
    list
}

const fn reason(errno: i32) -> TcpFailureReason {
    match errno {
        libc::ECONNREFUSED => TcpFailureReason::Refused,
        libc::ETIMEDOUT => TcpFailureReason::TimedOut,
        libc::ECONNRESET | libc::EPIPE => TcpFailureReason::Reset,
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN => TcpFailureReason::Unreachable,
        _ => TcpFailureReason::Other,
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::super::sockets::Filling;
    use super::super::wire::{INCOMING, OUTGOING};
    use super::*;

    fn row(sock: u64, remote: u8, segments: u32, edit: impl FnOnce(&mut Row)) -> Row {
        let mut row = Row::new_zeroed();
        row.sock = sock;
        row.netns = 7;
        row.family = 2;
        row.state = 1;
        row.direction = OUTGOING;
        row.remote[..4].copy_from_slice(&[10, 0, 0, remote]);
        (row.local_port, row.remote_port) = (40000, 80);
        row.data_segments = segments;
        edit(&mut row);
        row
    }

    fn table(rows: impl IntoIterator<Item = Row>) -> Sockets {
        let owner =
            |row: &Row| [(1, 100), (2, 200), (9, 900)].iter().find(|(sock, _)| *sock == row.sock).map_or(0, |o| o.1);
        let mut filling = Filling::default();
        filling.add(rows.into_iter().collect(), &Sockets::default());
        filling.with_owners(owner)
    }

    fn key(remote: u8) -> PeerKey {
        Services::default().key(&row(0, remote, 0, |_| {}))
    }

    fn owners(peer: &TcpPeer) -> Vec<(u32, u64)> {
        peer.owners.iter().map(|owner| (owner.pid, owner.connections)).collect()
    }

    fn gathered(before: Sockets, now: Sockets, peers: HashMap<PeerKey, PeerValue>) -> TcpSummary {
        let queue = row(9, 0, 0, |r| (r.state, r.queued) = (LISTEN, 4));
        let (failures, queues) = (HashMap::new(), FastMap::from_iter([(9, queue)]));
        let readings = Readings { before: &before, now: &now, peers, failures, stuck: HashMap::new(), queues: &queues };
        let mut summary = TcpSummary::default();
        gather(readings, |pid| format!("name {pid}"), &mut summary);
        summary
    }

    #[test]
    fn only_what_was_sent_in_the_window_counts() {
        let before = table([row(1, 1, 1000, |_| {}), row(2, 1, 500, |_| {}), row(3, 1, 70, |r| r.local_port = 1)]);
        // The first goes on, the second has ended, the third's place is another's now, the fourth is new.
        let now = table([row(1, 1, 1100, |_| {}), row(3, 1, 9, |r| r.local_port = 2), row(4, 1, 30, |_| {})]);
        let ended = PeerValue { closed: 3, closed_segments: 500 + 20 + 70 + 1 + 6, pid: 300, ..PeerValue::default() };
        let summary = gathered(before, now, HashMap::from([(key(1), ended)]));
        let [peer] = &summary.peers[..] else { panic!("{summary:?}") };
        assert_eq!((peer.connections, peer.open, peer.sent_segments), (6, Some(3), 100 + 9 + 30 + 27));
        let open = |pid| summary.processes.iter().find(|process| process.pid == pid).unwrap().open;
        assert_eq!((open(100), open(300), open(0)), (Some(1), Some(0), Some(2)));
        assert_eq!(peer.owners.iter().map(|owner| owner.open).collect::<Vec<_>>(), [Some(0), Some(1), Some(0)]);
        assert_eq!(owners(peer), [(300, 2), (100, 1), (200, 1)]);
        assert!(peer.outgoing && peer.port == 80 && peer.remote.to_string() == "10.0.0.1");
        let of = |pid| summary.processes.iter().find(|process| process.pid == pid).unwrap().sent_segments;
        assert_eq!((of(100), of(300), of(0)), (100, 27, 39));
    }

    #[test]
    fn a_listener_owns_what_comes_to_its_port() {
        let listener = row(9, 0, 0, |r| {
            (r.state, r.local_port, r.remote_port, r.backlog, r.drops) = (LISTEN, 443, 0, 128, 30);
        });
        let earlier = Row { drops: 20, ..listener };
        let theirs = row(5, 1, 8, |r| (r.direction, r.local_port, r.remote_port) = (INCOMING, 443, 50000));
        let unclear = row(6, 1, 8, |r| (r.direction, r.local_port, r.remote_port) = (0, 443, 80));
        let summary = gathered(table([earlier]), table([listener, theirs, unclear]), HashMap::new());
        let [peer] = &summary.peers[..] else { panic!("{summary:?}") };
        assert_eq!((peer.outgoing, peer.port, owners(peer)), (false, 443, vec![(900, 2)]));
        let [listener] = &summary.listeners[..] else { panic!("{summary:?}") };
        assert_eq!((listener.drops, listener.queued, listener.backlog, listener.pid), (10, 4, 128, 900));
    }

    #[test]
    fn a_syn_sent_again_is_a_failure_that_waits() {
        let syn = |sock, retransmits| {
            row(sock, 9, 0, |r| (r.state, r.retransmits, r.since_ns, r.pid) = (SYN_SENT, retransmits, 50, 77))
        };
        let summary = gathered(Sockets::default(), table([syn(1, 0), syn(2, 1), syn(3, 2)]), HashMap::new());
        let [failure] = &summary.failures[..] else { panic!("{summary:?}") };
        assert_eq!((failure.count, failure.waiting, failure.pid, failure.first_ns), (2, 2, 77, 50));
        assert_eq!(failure.reason, TcpFailureReason::TimedOut);
        assert!(summary.peers.is_empty());
    }

    #[test]
    fn lists_are_bounded_and_keep_the_worst() {
        let mut peers: HashMap<PeerKey, PeerValue> = HashMap::new();
        for i in 0..200u8 {
            let retransmits = if i == 150 { 5 } else { 0 };
            let value = PeerValue { closed: 1, closed_segments: u64::from(i) + 1, retransmits, ..PeerValue::default() };
            peers.insert(key(i), value);
        }
        let summary = gathered(Sockets::default(), Sockets::default(), peers);
        assert_eq!(summary.peers.len(), MAX_PEERS_BY + 1);
        assert_eq!(summary.peers[0].retransmitted_segments, 5);
        assert_eq!(summary.peers[1].sent_segments, 200);
    }

    #[test]
    fn a_listener_that_was_opened_anew_counts_from_zero() {
        let listener = |drops| row(9, 0, 0, |r| (r.state, r.local_port, r.drops, r.queued) = (LISTEN, 443, drops, 1));
        let summary = gathered(table([listener(5000)]), table([listener(2)]), HashMap::new());
        assert_eq!(summary.listeners[0].drops, 2);
    }
}
