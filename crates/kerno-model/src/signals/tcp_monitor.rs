mod drops;
mod merge;
mod metrics;

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

pub use drops::{CpuBacklog, DatagramSocket, NetworkInterface};

use crate::vocabulary::vocabulary;
use crate::{ErrnoCount, Histogram};

/// TCP in a window, in all network namespaces in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TcpSummary {
    /// Connections that we opened and that were established.
    pub opened: u64,
    /// Connections that others opened to us.
    pub accepted: u64,
    /// Connections that were established and ended.
    pub closed: u64,
    /// Of these, ended by a reset, ours or theirs.
    pub reset: u64,
    /// Connections that could not be opened, by whom, where to and why. Bounded.
    pub failures: Vec<TcpFailure>,
    /// The counters of each network namespace.
    pub namespaces: Vec<TcpNamespace>,
    /// Traffic by the other end. Bounded: those with most retransmissions and most segments.
    pub peers: Vec<TcpPeer>,
    /// Traffic by our own processes. Bounded likewise.
    pub processes: Vec<TcpProcess>,
    /// Listening sockets that dropped connections, or whose accept queue is not empty. Bounded.
    pub listeners: Vec<TcpListener>,
    /// Open connections on which nothing moves at the window's end although there is something to send. Bounded: the longest.
    pub stuck: Vec<TcpStuck>,
    /// UDP sockets that dropped datagrams. Bounded: those that dropped most.
    pub datagram_sockets: Vec<DatagramSocket>,
    /// Network interfaces that dropped packets, counted errors, or lost their carrier. Bounded: those with most.
    pub interfaces: Vec<NetworkInterface>,
    /// CPUs whose backlog was full.
    pub backlogs: Vec<CpuBacklog>,
    /// Smoothed round-trip times that segments were acknowledged with, all connections, in microseconds.
    pub rtt_us: Histogram,
}

vocabulary! {
    /// Why a connection could not be opened.
    TcpFailureReason {
        /// Nobody listens there (ECONNREFUSED).
        Refused = "refused",
        /// No answer (ETIMEDOUT).
        TimedOut = "timed_out",
        /// The other end broke it off (ECONNRESET).
        Reset = "reset",
        /// No way there (EHOSTUNREACH, ENETUNREACH).
        Unreachable = "unreachable",
        ..
        /// Anything else; see the error.
        Other = "other"
    }
}

/// Attempts that failed alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TcpFailure {
    /// Why.
    pub reason: TcpFailureReason,
    /// The error.
    pub error: ErrnoCount,
    /// Where to.
    pub remote: IpAddr,
    /// Its port.
    pub port: u16,
    /// Who tried; 0 when the kernel could not tell.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Network namespace, by inode number.
    pub net_namespace: u32,
    /// How many attempts. An attempt that the program gave up after its SYN had been sent again counts as timed out.
    pub count: u64,
    /// Of these, attempts that still wait for an answer to a SYN that has been sent again.
    pub waiting: u64,
    /// When the first of the window failed: `CLOCK_MONOTONIC`, in nanoseconds.
    pub first_ns: u64,
}

/// A network namespace's own counters (`/proc/net/snmp`, `/proc/net/netstat`), over the window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TcpNamespace {
    /// Inode number.
    pub inode: u32,
    /// A process in it.
    pub pid: u32,
    /// It is that of the machine itself.
    pub initial: bool,
    /// Segments sent, retransmitted ones included (OutSegs and RetransSegs).
    pub sent_segments: u64,
    /// Segments retransmitted (RetransSegs).
    pub retransmitted_segments: u64,
    /// Of these, SYNs and answers to SYNs (TCPSynRetrans): no data was lost.
    pub syn_retransmits: u64,
    /// Connections dropped because an accept queue was full (ListenOverflows).
    pub listen_overflows: u64,
    /// Connections dropped by listening sockets for any reason (ListenDrops).
    pub listen_drops: u64,
    /// SYNs dropped or answered with cookies because the SYN queue was full (TCPReqQFullDrop, TCPReqQFullDoCookies).
    pub syn_drops: u64,
    /// Of these, SYNs that were answered with cookies (TCPReqQFullDoCookies): a client that answers in turn gets its connection.
    pub syn_cookies: u64,
    /// Retransmission timeouts (TCPTimeouts).
    pub timeouts: u64,
}

/// Traffic with one other end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TcpPeer {
    /// The other end.
    pub remote: IpAddr,
    /// The port of the service: theirs where we opened the connection, ours where they did.
    pub port: u16,
    /// We opened the connections.
    pub outgoing: bool,
    /// Network namespace, by inode number.
    pub net_namespace: u32,
    /// Connections seen in the window.
    pub connections: u64,
    /// Of these, still open at the window's end; `None` if that was not counted.
    pub open: Option<u64>,
    /// Segments with data sent in the window, retransmitted ones included.
    pub sent_segments: u64,
    /// Segments retransmitted in the window, SYNs and answers to SYNs included; without attempts that failed here.
    pub retransmitted_segments: u64,
    /// Of these, SYNs and answers to SYNs: no data was lost.
    pub syn_retransmits: u64,
    /// Of these, segments that had arrived all the same, as the other end told (DSACK): nothing was lost, only late.
    pub spurious_retransmits: u64,
    /// Smoothed round-trip time now, the median of its connections that sent in the window; `None` when none was measured.
    pub srtt_us: Option<u32>,
    /// The lowest round-trip time that any of its connections has seen.
    pub min_rtt_us: Option<u32>,
    /// Our processes that own the connections: who opened them, has them open, or listens there. Bounded.
    pub owners: Vec<ConnectionOwner>,
    /// When the first retransmission of the window was: `CLOCK_MONOTONIC`, in nanoseconds; 0 when there was none.
    pub first_retransmit_ns: u64,
}

/// A process that owns connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ConnectionOwner {
    /// The process.
    pub pid: u32,
    /// How many connections.
    pub connections: u64,
    /// Of these, still open at the window's end; `None` if that was not counted.
    pub open: Option<u64>,
}

/// Traffic of one of our processes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TcpProcess {
    /// The process; 0 for what could not be told.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Connections seen in the window.
    pub connections: u64,
    /// Of these, still open at the window's end; `None` if that was not counted.
    pub open: Option<u64>,
    /// Segments sent in the window.
    pub sent_segments: u64,
    /// Segments retransmitted in the window.
    pub retransmitted_segments: u64,
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TcpListener {
    /// Its address.
    pub local: IpAddr,
    /// Its port.
    pub port: u16,
    /// Network namespace, by inode number.
    pub net_namespace: u32,
    /// Who listens; 0 when that could not be told.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// What it dropped in the window: connections for which there was no room in its queue, for the most part. A connection can be
    /// dropped more than once, when the other end tries again.
    pub drops: u64,
    /// Connections waiting to be accepted, the most of all samples.
    pub queued: u32,
    /// The most that may wait.
    pub backlog: u32,
    /// Half-open connections at the window's end (`SYN_RECV`); only looked at where the SYN queue was full.
    pub half_open: u64,
    /// From so many addresses.
    pub half_open_addresses: u64,
    /// The address that has most of them.
    pub half_open_from: Option<IpAddr>,
    /// So many.
    pub half_open_from_it: u64,
}

/// An open connection on which nothing moves, at the end of the window: what was sent is not acknowledged although it was sent again, or
/// the other end has no room for more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TcpStuck {
    /// Our address.
    pub local: IpAddr,
    /// Our port.
    pub local_port: u16,
    /// The other end.
    pub remote: IpAddr,
    /// Its port.
    pub remote_port: u16,
    /// We opened the connection.
    pub outgoing: bool,
    /// Network namespace, by inode number.
    pub net_namespace: u32,
    /// Our process that has it open; 0 when that could not be told.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// The process that has the other end, if that is on this machine and known; else 0.
    pub peer_pid: u32,
    /// Its name.
    pub peer_comm: String,
    /// Since the oldest segment that is not acknowledged was sent, or sent again as a loss probe some tenths of a second later; 0 when there
    /// is none, or when that cannot be told.
    pub outstanding_seconds: f64,
    /// How often that segment was sent again since.
    pub retransmits: u32,
    /// Since data was sent last, if the other end has no room for more (a window of zero, or too small for a segment); else 0.
    pub closed_seconds: f64,
    /// Probes of a closed window, or of an idle connection, that were not answered, in a row.
    pub probes: u32,
    /// Since the last acknowledgement came, of whatever.
    pub silent_seconds: f64,
    /// What was sent and is not acknowledged.
    pub unacknowledged_bytes: u64,
    /// In so many segments.
    pub unacknowledged_segments: u64,
    /// Of these, segments that have arrived all the same, behind one that has not (SACK).
    pub arrived_segments: u64,
    /// What the program has handed over and was not sent yet.
    pub unsent_bytes: u64,
    /// What has been acknowledged since the connection began.
    pub acknowledged_bytes: u64,
    /// In so many segments.
    pub acknowledged_segments: u64,
    /// The most data of a segment.
    pub segment_bytes: u32,
    /// Since another connection with the same host got an acknowledgement; `None` if there is no other.
    pub others_silent_seconds: Option<f64>,
    /// Other connections with the same host on which something was sent again in the window.
    pub others_losing: u64,
}

impl TcpSummary {
    /// The processes that it names; some more than once.
    pub fn pids(&self) -> Vec<u32> {
        let failures = self.failures.iter().map(|failure| failure.pid);
        let owners = self.peers.iter().flat_map(|peer| peer.owners.iter().map(|owner| owner.pid));
        let processes = self.processes.iter().map(|process| process.pid);
        let stuck = self.stuck.iter().flat_map(|stuck| [stuck.pid, stuck.peer_pid]).filter(|pid| *pid != 0);
        let listeners = self.listeners.iter().map(|listener| listener.pid);
        let sockets = self.datagram_sockets.iter().map(|socket| socket.pid);
        let readers = self.interfaces.iter().map(|interface| interface.reader_pid).filter(|pid| *pid != 0);
        failures.chain(owners).chain(processes).chain(listeners).chain(stuck).chain(sockets).chain(readers).collect()
    }
}

/// No address.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Default for TcpFailure {
    fn default() -> Self {
        Self {
            reason: TcpFailureReason::default(),
            error: ErrnoCount::default(),
            remote: NOWHERE,
            port: 0,
            pid: 0,
            comm: String::new(),
            net_namespace: 0,
            count: 0,
            waiting: 0,
            first_ns: 0,
        }
    }
}

impl Default for TcpPeer {
    fn default() -> Self {
        Self {
            remote: NOWHERE,
            port: 0,
            outgoing: false,
            net_namespace: 0,
            connections: 0,
            open: None,
            sent_segments: 0,
            retransmitted_segments: 0,
            syn_retransmits: 0,
            spurious_retransmits: 0,
            srtt_us: None,
            min_rtt_us: None,
            owners: Vec::new(),
            first_retransmit_ns: 0,
        }
    }
}

impl Default for TcpListener {
    fn default() -> Self {
        Self {
            local: NOWHERE,
            port: 0,
            net_namespace: 0,
            pid: 0,
            comm: String::new(),
            drops: 0,
            queued: 0,
            backlog: 0,
            half_open: 0,
            half_open_addresses: 0,
            half_open_from: None,
            half_open_from_it: 0,
        }
    }
}

impl Default for TcpStuck {
    fn default() -> Self {
        Self {
            local: NOWHERE,
            local_port: 0,
            remote: NOWHERE,
            remote_port: 0,
            outgoing: false,
            net_namespace: 0,
            pid: 0,
            comm: String::new(),
            peer_pid: 0,
            peer_comm: String::new(),
            outstanding_seconds: 0.0,
            retransmits: 0,
            closed_seconds: 0.0,
            probes: 0,
            silent_seconds: 0.0,
            unacknowledged_bytes: 0,
            unacknowledged_segments: 0,
            arrived_segments: 0,
            unsent_bytes: 0,
            acknowledged_bytes: 0,
            acknowledged_segments: 0,
            segment_bytes: 0,
            others_silent_seconds: None,
            others_losing: 0,
        }
    }
}
