use std::cmp::{Ordering, Reverse};

use crate::merge::{Entry, Inexact, Joint, Part, earliest, join_list, latest, latest_text};
use crate::{ConnectionOwner, TcpFailure, TcpListener, TcpNamespace, TcpPeer, TcpProcess, TcpSummary};

const MAX_OWNERS: usize = 8;

impl Part for TcpSummary {
    const SIGNAL: &'static str = "tcp_monitor";

    fn merge(&mut self, later: &Self, joint: &mut Joint<'_>) {
        self.opened += later.opened;
        self.accepted += later.accepted;
        self.closed += later.closed;
        self.reset += later.reset;
        if self.peers.iter().any(|peer| peer.open > 0) {
            joint.inexact("tcp_monitor.rtt_us", Inexact::CountedAgain);
        }
        self.rtt_us.merge(&later.rtt_us);
        join_list(&mut self.failures, &later.failures, joint);
        join_list(&mut self.namespaces, &later.namespaces, joint);
        join_list(&mut self.peers, &later.peers, joint);
        join_list(&mut self.processes, &later.processes, joint);
        join_list(&mut self.listeners, &later.listeners, joint);
    }

    fn shift(&mut self, _seconds: f64) {}
}

/// Connections seen in either window: those that were open at the end of the earlier one are seen in both.
fn connections(ours: (u64, u64), later: u64) -> u64 {
    let (seen, open) = ours;
    seen.saturating_sub(open) + later.max(open)
}

impl Entry for TcpFailure {
    const LIST: &'static str = "tcp_monitor.failures";
    const MAX: usize = 256;
    const FULL: usize = 64;

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        let key =
            |failure: &Self| (failure.reason, failure.error.errno, failure.remote, failure.port, failure.net_namespace);
        key(self) == key(later) && joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        if self.waiting > 0 {
            // That of one that waited is when it began, and not when it failed.
            joint.inexact("tcp_monitor.failures.first_ns", Inexact::Other);
        }
        // Those that waited at the end of the earlier window wait still, or have failed or succeeded since: the later one tells.
        self.count = self.count.saturating_sub(self.waiting) + later.count;
        self.waiting = later.waiting;
        self.error.count = self.count;
        self.first_ns = earliest(self.first_ns, later.first_ns);
    }

    fn absent_later(&mut self, _joint: &Joint<'_>, complete: bool) -> bool {
        if complete {
            self.count = self.count.saturating_sub(self.waiting);
            self.waiting = 0;
            self.error.count = self.count;
        }
        self.count > 0
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |f: &Self| (Reverse(f.count), f.remote, f.port, f.pid, f.error.errno);
        key(self).cmp(&key(other))
    }
}

impl Entry for TcpNamespace {
    const LIST: &'static str = "tcp_monitor.namespaces";
    const MAX: usize = 256;
    const FULL: usize = 64;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        self.inode == later.inode
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        self.pid = later.pid;
        self.initial = later.initial;
        self.sent_segments += later.sent_segments;
        self.retransmitted_segments += later.retransmitted_segments;
        self.listen_overflows += later.listen_overflows;
        self.listen_drops += later.listen_drops;
        self.syn_drops += later.syn_drops;
        self.timeouts += later.timeouts;
    }

    fn order(&self, other: &Self) -> Ordering {
        (Reverse(self.initial), self.inode).cmp(&(Reverse(other.initial), other.inode))
    }
}

impl Entry for TcpPeer {
    const LIST: &'static str = "tcp_monitor.peers";
    const MAX: usize = 256;
    const FULL: usize = 32;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        let key = |peer: &Self| (peer.remote, peer.port, peer.outgoing, peer.net_namespace);
        key(self) == key(later)
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        self.connections = connections((self.connections, self.open), later.connections);
        self.open = later.open;
        self.sent_segments += later.sent_segments;
        self.retransmitted_segments += later.retransmitted_segments;
        self.syn_retransmits += later.syn_retransmits;
        self.spurious_retransmits += later.spurious_retransmits;
        self.srtt_us = later.srtt_us.or(self.srtt_us);
        self.min_rtt_us = [self.min_rtt_us, later.min_rtt_us].into_iter().flatten().min();
        self.first_retransmit_ns = earliest(self.first_retransmit_ns, later.first_retransmit_ns);
        self.join_owners(&later.owners, joint);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |p: &Self| {
            (Reverse((p.retransmitted_segments, p.sent_segments)), p.net_namespace, p.remote, p.port, p.outgoing)
        };
        key(self).cmp(&key(other))
    }
}

impl TcpPeer {
    fn join_owners(&mut self, later: &[ConnectionOwner], joint: &mut Joint<'_>) {
        for owner in later {
            match self.owners.iter_mut().find(|known| joint.same_process((known.pid, ""), (owner.pid, ""))) {
                Some(known) => {
                    known.connections = connections((known.connections, known.open), owner.connections);
                    known.open = owner.open;
                }
                None => self.owners.push(*owner),
            }
        }
        self.owners.sort_by_key(|owner| (Reverse(owner.connections), owner.pid));
        if self.owners.len() > MAX_OWNERS {
            *joint.notes.left_out.entry("tcp_monitor.peers.owners".into()).or_default() +=
                (self.owners.len() - MAX_OWNERS) as u64;
            self.owners.truncate(MAX_OWNERS);
        }
    }
}

impl Entry for TcpProcess {
    const LIST: &'static str = "tcp_monitor.processes";
    const MAX: usize = 256;
    const FULL: usize = 64;

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        self.connections = connections((self.connections, self.open), later.connections);
        self.open = later.open;
        self.sent_segments += later.sent_segments;
        self.retransmitted_segments += later.retransmitted_segments;
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |p: &Self| (Reverse(p.retransmitted_segments), Reverse(p.sent_segments), p.pid);
        key(self).cmp(&key(other))
    }
}

impl Entry for TcpListener {
    const LIST: &'static str = "tcp_monitor.listeners";
    const MAX: usize = 256;
    const FULL: usize = 64;

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        (self.local, self.port, self.net_namespace) == (later.local, later.port, later.net_namespace)
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest(&mut self.pid, &later.pid);
        latest_text(&mut self.comm, &later.comm);
        self.drops += later.drops;
        self.queued = self.queued.max(later.queued);
        self.backlog = later.backlog;
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |l: &Self| (Reverse(l.drops), Reverse(l.queued), l.port, l.local, l.net_namespace);
        key(self).cmp(&key(other))
    }
}
