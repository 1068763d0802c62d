use std::cmp::{Ordering, Reverse};

use crate::merge::{Entry, Joint, Part, Selected, add, cut_lists, earliest, join_list, latest, latest_text};
use crate::merged::{Inexact, Merged};
use crate::{
    ConnectionOwner, CpuBacklog, DatagramSocket, NetworkInterface, TcpFailure, TcpListener, TcpNamespace, TcpPeer,
    TcpProcess, TcpSummary,
};

/// Of one peer, in one window.
const MAX_OWNERS: usize = 8;

/// In one window.
const MAX_NAMESPACES: usize = 64;

impl Part for TcpSummary {
    const SIGNAL: &'static str = "tcp_monitor";

    fn cuts(&self, notes: &mut Merged) {
        cut_lists(notes, [&self.failures]);
        if self.failures.iter().any(|failure| failure.waiting > 0) {
            // That of an attempt that waits is when it began, and not when it failed.
            notes.inexact.insert("tcp_monitor.failures.first_ns".to_owned(), Inexact::Other);
        }
        if self.namespaces.len() >= MAX_NAMESPACES {
            notes.cut(TcpNamespace::LIST, None);
        }
        cut_lists(notes, [&self.peers]);
        cut_lists(notes, self.peers.iter().map(|peer| &peer.owners));
        cut_lists(notes, [&self.processes]);
        cut_lists(notes, [&self.listeners]);
        cut_lists(notes, [&self.datagram_sockets]);
        cut_lists(notes, [&self.interfaces]);
    }

    fn merge(&mut self, later: &Self, joint: &mut Joint<'_>) {
        add(&mut self.opened, later.opened);
        add(&mut self.accepted, later.accepted);
        add(&mut self.closed, later.closed);
        add(&mut self.reset, later.reset);
        if !self.rtt_us.is_empty() && !later.rtt_us.is_empty() {
            joint.inexact("tcp_monitor.rtt_us", Inexact::CountedAgain);
        }
        self.rtt_us.merge(&later.rtt_us);
        join_list(&mut self.failures, &later.failures, joint);
        join_list(&mut self.namespaces, &later.namespaces, joint);
        join_list(&mut self.peers, &later.peers, joint);
        join_list(&mut self.processes, &later.processes, joint);
        join_list(&mut self.listeners, &later.listeners, joint);
        join_list(&mut self.datagram_sockets, &later.datagram_sockets, joint);
        join_list(&mut self.interfaces, &later.interfaces, joint);
        join_list(&mut self.backlogs, &later.backlogs, joint);
        // What is stuck is so at the end.
        self.stuck.clone_from(&later.stuck);
    }

    fn shift(&mut self, _seconds: f64) {}
}

/// Connections seen in either window: those that were open at the end of the earlier one are seen in both.
fn connections(path: &str, ours: (u64, Option<u64>), later: u64, joint: &mut Joint<'_>) -> u64 {
    let (seen, open) = ours;
    if open.is_none() && seen > 0 {
        joint.inexact(path, Inexact::CountedAgain);
    }
    seen.saturating_sub(open.unwrap_or(0)).saturating_add(later)
}

impl Entry for TcpFailure {
    const LIST: &'static str = "tcp_monitor.failures";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::Top { full: 64, top: 64, field: "count" };

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        let key =
            |failure: &Self| (failure.reason, failure.error.errno, failure.remote, failure.port, failure.net_namespace);
        key(self) == key(later) && joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        // Of attempts that all wait, as long as none has failed.
        if self.settle() {
            self.first_ns = later.first_ns;
        } else if later.count > later.waiting {
            self.first_ns = earliest(self.first_ns, later.first_ns);
        }
        add(&mut self.count, later.count);
        self.waiting = later.waiting;
        self.error.count = self.count;
    }

    fn absent_later(&mut self, _joint: &mut Joint<'_>) -> bool {
        !self.settle()
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |f: &Self| (Reverse(f.count), f.remote, f.port, f.pid, f.error.errno);
        key(self).cmp(&key(other))
    }

    fn weight(&self) -> u64 {
        self.count
    }
}

impl TcpFailure {
    /// Leaves out the attempts that waited at the end: they wait still, or have failed or succeeded since, which the later window tells.
    /// True if there were no others.
    fn settle(&mut self) -> bool {
        self.count = self.count.saturating_sub(std::mem::take(&mut self.waiting));
        self.error.count = self.count;
        self.count == 0
    }
}

impl Entry for TcpNamespace {
    const LIST: &'static str = "tcp_monitor.namespaces";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::All;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        self.inode == later.inode
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        self.pid = later.pid;
        self.initial = later.initial;
        add(&mut self.sent_segments, later.sent_segments);
        add(&mut self.retransmitted_segments, later.retransmitted_segments);
        add(&mut self.syn_retransmits, later.syn_retransmits);
        add(&mut self.listen_overflows, later.listen_overflows);
        add(&mut self.listen_drops, later.listen_drops);
        add(&mut self.syn_drops, later.syn_drops);
        add(&mut self.syn_cookies, later.syn_cookies);
        add(&mut self.timeouts, later.timeouts);
    }

    fn order(&self, other: &Self) -> Ordering {
        (Reverse(self.initial), self.inode).cmp(&(Reverse(other.initial), other.inode))
    }
}

impl Entry for TcpPeer {
    const LIST: &'static str = "tcp_monitor.peers";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::Top { full: 32, top: 32, field: "sent_segments" };

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        let key = |peer: &Self| (peer.remote, peer.port, peer.outgoing, peer.net_namespace);
        key(self) == key(later)
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        let ours = (self.connections, self.open);
        self.connections = connections("tcp_monitor.peers.connections", ours, later.connections, joint);
        self.open = later.open;
        add(&mut self.sent_segments, later.sent_segments);
        add(&mut self.retransmitted_segments, later.retransmitted_segments);
        add(&mut self.syn_retransmits, later.syn_retransmits);
        add(&mut self.spurious_retransmits, later.spurious_retransmits);
        joint.inexact("tcp_monitor.peers.srtt_us", Inexact::Latest);
        self.srtt_us = later.srtt_us.or(self.srtt_us);
        self.min_rtt_us = [self.min_rtt_us, later.min_rtt_us].into_iter().flatten().min();
        self.first_retransmit_ns = earliest(self.first_retransmit_ns, later.first_retransmit_ns);
        join_list(&mut self.owners, &later.owners, joint);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |p: &Self| {
            (Reverse((p.retransmitted_segments, p.sent_segments)), p.net_namespace, p.remote, p.port, p.outgoing)
        };
        key(self).cmp(&key(other))
    }

    fn weight(&self) -> u64 {
        self.sent_segments
    }
}

impl Entry for ConnectionOwner {
    const LIST: &'static str = "tcp_monitor.peers.owners";
    const MAX: usize = 16;
    const SELECTED: Selected = Selected::Top { full: MAX_OWNERS, top: MAX_OWNERS, field: "connections" };

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        self.pid == later.pid
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        let ours = (self.connections, self.open);
        self.connections = connections("tcp_monitor.peers.owners.connections", ours, later.connections, joint);
        self.open = later.open;
    }

    fn order(&self, other: &Self) -> Ordering {
        (Reverse(self.connections), self.pid).cmp(&(Reverse(other.connections), other.pid))
    }

    fn weight(&self) -> u64 {
        self.connections
    }
}

impl Entry for TcpProcess {
    const LIST: &'static str = "tcp_monitor.processes";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::Top { full: 64, top: 64, field: "retransmitted_segments" };

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        let ours = (self.connections, self.open);
        self.connections = connections("tcp_monitor.processes.connections", ours, later.connections, joint);
        self.open = later.open;
        add(&mut self.sent_segments, later.sent_segments);
        add(&mut self.retransmitted_segments, later.retransmitted_segments);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |p: &Self| (Reverse(p.retransmitted_segments), Reverse(p.sent_segments), p.pid);
        key(self).cmp(&key(other))
    }

    fn weight(&self) -> u64 {
        self.retransmitted_segments
    }
}

impl Entry for TcpListener {
    const LIST: &'static str = "tcp_monitor.listeners";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::Top { full: 64, top: 64, field: "drops" };

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        (self.local, self.port, self.net_namespace) == (later.local, later.port, later.net_namespace)
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest(&mut self.pid, &later.pid);
        latest_text(&mut self.comm, &later.comm);
        add(&mut self.drops, later.drops);
        self.queued = self.queued.max(later.queued);
        self.backlog = later.backlog;
        if later.half_open > 0 {
            self.half_open = later.half_open;
            self.half_open_addresses = later.half_open_addresses;
            self.half_open_from = later.half_open_from;
            self.half_open_from_it = later.half_open_from_it;
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |l: &Self| (Reverse(l.drops), Reverse(l.queued), l.port, l.local, l.net_namespace);
        key(self).cmp(&key(other))
    }

    fn weight(&self) -> u64 {
        self.drops
    }
}

impl Entry for DatagramSocket {
    const LIST: &'static str = "tcp_monitor.datagram_sockets";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::Top { full: 32, top: 32, field: "drops" };

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        let key = |socket: &Self| (socket.local, socket.port, socket.net_namespace);
        key(self) == key(later) && joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        add(&mut self.drops, later.drops);
        self.holders = later.holders;
        self.state = later.state;
        self.queued_bytes = later.queued_bytes;
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |s: &Self| (Reverse(s.drops), s.net_namespace, s.port, s.local, s.pid);
        key(self).cmp(&key(other))
    }

    fn weight(&self) -> u64 {
        self.drops
    }
}

impl Entry for NetworkInterface {
    const LIST: &'static str = "tcp_monitor.interfaces";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::Top { full: 32, top: 32, field: "received_missed" };

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        (&self.name, self.net_namespace) == (&later.name, later.net_namespace)
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest(&mut self.reader_pid, &later.reader_pid);
        latest_text(&mut self.reader_comm, &later.reader_comm);
        latest_text(&mut self.driver, &later.driver);
        for (sum, later) in [
            (&mut self.received_packets, later.received_packets),
            (&mut self.received_missed, later.received_missed),
            (&mut self.received_dropped, later.received_dropped),
            (&mut self.received_errors, later.received_errors),
            (&mut self.sent_packets, later.sent_packets),
            (&mut self.sent_dropped, later.sent_dropped),
            (&mut self.sent_errors, later.sent_errors),
            (&mut self.carrier_changes, later.carrier_changes),
        ] {
            add(sum, later);
        }
        self.carrier = later.carrier.or(self.carrier);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |i: &Self| (Reverse(i.faults()), i.net_namespace);
        key(self).cmp(&key(other)).then_with(|| self.name.cmp(&other.name))
    }

    fn weight(&self) -> u64 {
        self.faults()
    }
}

impl Entry for CpuBacklog {
    const LIST: &'static str = "tcp_monitor.backlogs";
    const MAX: usize = 4096;
    const SELECTED: Selected = Selected::All;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        self.cpu == later.cpu
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        add(&mut self.packets, later.packets);
        add(&mut self.dropped, later.dropped);
        self.limit = later.limit;
    }

    fn order(&self, other: &Self) -> Ordering {
        self.cpu.cmp(&other.cpu)
    }
}
