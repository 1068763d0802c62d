//! What the kernel side of the summary keeps and writes: mirrors of the structs in tcp_monitor_summary.bpf.c, where the fields are
//! explained.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::event::Comm;
use kerno_model::BUCKETS;

const AF_INET6: u8 = 10;
pub(super) const SYN_SENT: u8 = 2;
pub(super) const SYN_RECV: u8 = 3;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
pub(super) const CLOSE: u8 = 7;
const LAST_ACK: u8 = 9;
pub(super) const LISTEN: u8 = 10;
const CLOSING: u8 = 11;
pub(super) const OUTGOING: u8 = 1;
pub(super) const INCOMING: u8 = 2;

#[derive(Clone, Copy, Debug, FromBytes)]
#[repr(C)]
pub(super) struct Block {
    pub(super) rtt_us: [u32; BUCKETS],
    pub(super) counts: Counts,
    pad0: [u64; 4],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub(super) struct Counts {
    pub(super) opened: u64,
    pub(super) accepted: u64,
    pub(super) closed: u64,
    pub(super) reset: u64,
}

impl Counts {
    pub(super) const fn since(self, earlier: Self) -> Self {
        Self {
            opened: self.opened.saturating_sub(earlier.opened),
            accepted: self.accepted.saturating_sub(earlier.accepted),
            closed: self.closed.saturating_sub(earlier.closed),
            reset: self.reset.saturating_sub(earlier.reset),
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.opened += other.opened;
        self.accepted += other.accepted;
        self.closed += other.closed;
        self.reset += other.reset;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct PeerKey {
    pub(super) remote: [u8; 16],
    pub(super) netns: u32,
    pub(super) port: u16,
    pub(super) family: u8,
    pub(super) outgoing: u8,
    /// 0 once it is known.
    pub(super) window: u32,
    pub(super) pad0: u32,
}

impl PeerKey {
    pub(super) const fn address(&self) -> IpAddr {
        address(self.family, self.remote)
    }
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct PeerValue {
    pub(super) first_retransmit_ns: u64,
    pub(super) retransmits: u64,
    pub(super) syn_retransmits: u64,
    pub(super) closed_segments: u64,
    pub(super) closed_retransmits: u64,
    pub(super) closed_spurious: u64,
    pub(super) srtt_sum_us: u64,
    pub(super) srtt_count: u32,
    pub(super) min_rtt_us: u32,
    pub(super) established: u32,
    pub(super) closed: u32,
    pub(super) pid: u32,
    pub(super) pad0: u32,
}

/// The earlier of two moments, 0 for none.
fn earlier(a: u64, b: u64) -> u64 {
    if a == 0 || b == 0 { a.max(b) } else { a.min(b) }
}

impl std::ops::AddAssign for PeerValue {
    fn add_assign(&mut self, other: Self) {
        self.first_retransmit_ns = earlier(self.first_retransmit_ns, other.first_retransmit_ns);
        self.retransmits += other.retransmits;
        self.syn_retransmits += other.syn_retransmits;
        self.closed_segments += other.closed_segments;
        self.closed_retransmits += other.closed_retransmits;
        self.closed_spurious += other.closed_spurious;
        self.srtt_sum_us += other.srtt_sum_us;
        self.srtt_count += other.srtt_count;
        if self.min_rtt_us == 0 || (other.min_rtt_us > 0 && other.min_rtt_us < self.min_rtt_us) {
            self.min_rtt_us = other.min_rtt_us;
        }
        self.established += other.established;
        self.closed += other.closed;
        if other.pid > 0 {
            self.pid = other.pid;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct FailureKey {
    pub(super) remote: [u8; 16],
    pub(super) netns: u32,
    pub(super) pid: u32,
    pub(super) error: i32,
    pub(super) port: u16,
    pub(super) family: u8,
    pub(super) pad0: u8,
    /// 0 once it is known.
    pub(super) window: u32,
    pub(super) pad1: u32,
}

impl FailureKey {
    pub(super) const fn address(&self) -> IpAddr {
        address(self.family, self.remote)
    }
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct FailureValue {
    pub(super) first_ns: u64,
    pub(super) count: u64,
    pub(super) comm: Comm,
}

impl std::ops::AddAssign for FailureValue {
    fn add_assign(&mut self, other: Self) {
        self.first_ns = earlier(self.first_ns, other.first_ns);
        self.count += other.count;
        self.comm = other.comm;
    }
}

/// A socket.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Row {
    pub(super) sock: u64,
    pub(super) since_ns: u64,
    pub(super) local: [u8; 16],
    pub(super) remote: [u8; 16],
    pub(super) netns: u32,
    pub(super) data_segments: u32,
    pub(super) retransmits: u32,
    pub(super) srtt_us: u32,
    pub(super) min_rtt_us: u32,
    pub(super) queued: u32,
    pub(super) backlog: u32,
    pub(super) drops: u32,
    pub(super) pid: u32,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
    pub(super) family: u8,
    pub(super) state: u8,
    pub(super) direction: u8,
    pub(super) pad0: u8,
    pub(super) spurious: u32,
    pub(super) silent_jiffies: u32,
    pub(super) pad1: u32,
}

impl Row {
    pub(super) const fn local(&self) -> IpAddr {
        address(self.family, self.local)
    }

    pub(super) const fn remote(&self) -> IpAddr {
        address(self.family, self.remote)
    }

    /// It is or was a connection: not a listener, and not one that is still to be opened.
    pub(super) const fn is_connection(&self) -> bool {
        !matches!(self.state, LISTEN | SYN_SENT | SYN_RECV | CLOSE)
    }

    /// Without a process now it gets none: its connection ends after it was closed, or it listens, for processes that we do not see. Any
    /// other may be accepted yet.
    pub(super) const fn stays_nobodys(&self) -> bool {
        matches!(self.state, FIN_WAIT1 | FIN_WAIT2 | LAST_ACK | CLOSING | LISTEN)
    }

    /// The same socket as an earlier one at that address, and not another that took its place.
    pub(super) fn continues(&self, earlier: &Self) -> bool {
        self.local_port == earlier.local_port
            && self.remote_port == earlier.remote_port
            && self.remote == earlier.remote
            && self.data_segments >= earlier.data_segments
            && self.retransmits >= earlier.retransmits
            && self.spurious >= earlier.spurious
    }
}

/// A connection on which nothing moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct StuckKey {
    pub(super) sock: u64,
    pub(super) window: u32,
    pub(super) pad0: u32,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct StuckValue {
    pub(super) acked_bytes: u64,
    pub(super) at_ns: u64,
    pub(super) outstanding_ms: u32,
    pub(super) unsent_jiffies: u32,
    pub(super) unacked_bytes: u32,
    pub(super) unsent_bytes: u32,
    pub(super) unacked_segments: u32,
    pub(super) sacked_segments: u32,
    pub(super) delivered_segments: u32,
    pub(super) mss_bytes: u32,
    pub(super) retransmits: u8,
    pub(super) probes: u8,
    pub(super) pad0: [u8; 6],
}

/// A process that has a socket open.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct OwnerRow {
    pub(super) sock: u64,
    pub(super) started_ns: u64,
    pub(super) pid: u32,
    pub(super) pad0: u32,
}

const fn address(family: u8, bytes: [u8; 16]) -> IpAddr {
    if family == AF_INET6 {
        IpAddr::V6(Ipv6Addr::from_bits(u128::from_be_bytes(bytes)))
    } else {
        IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};

    #[test]
    fn mirrors_are_as_the_kernel_side_has_them() {
        let object = aya::include_bytes_aligned!("../../../objects/tcp_monitor_summary.bpf.o");
        let fields = fields!(PeerKey: remote netns port family outgoing window pad0);
        assert_matches(object, "peer_key", size_of::<PeerKey>(), fields);
        let fields = fields!(PeerValue: first_retransmit_ns retransmits syn_retransmits closed_segments closed_retransmits
            closed_spurious srtt_sum_us srtt_count min_rtt_us established closed pid pad0);
        assert_matches(object, "peer_value", size_of::<PeerValue>(), fields);
        let fields = fields!(FailureKey: remote netns pid error port family pad0 window pad1);
        assert_matches(object, "failure_key", size_of::<FailureKey>(), fields);
        let fields = fields!(FailureValue: first_ns count comm);
        assert_matches(object, "failure_value", size_of::<FailureValue>(), fields);
        let fields = fields!(Row: sock since_ns local remote netns data_segments retransmits srtt_us min_rtt_us queued backlog
            drops pid local_port remote_port family state direction pad0 spurious
            silent_jiffies pad1);
        assert_matches(object, "tcp_row", size_of::<Row>(), fields);
        let fields = fields!(StuckKey: sock window pad0);
        assert_matches(object, "stuck_key", size_of::<StuckKey>(), fields);
        let fields = fields!(StuckValue: acked_bytes at_ns outstanding_ms unsent_jiffies unacked_bytes unsent_bytes
            unacked_segments sacked_segments delivered_segments mss_bytes retransmits probes pad0);
        assert_matches(object, "stuck_value", size_of::<StuckValue>(), fields);
        let fields = fields!(OwnerRow: sock started_ns pid pad0);
        assert_matches(object, "owner_row", size_of::<OwnerRow>(), fields);
    }
}
