use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::event::{Comm, EnumField, Event, EventType, shared_fields, wire_enum};
use kerno_model::text::{Errno, Latency};

wire_enum! {
    /// What happened to a connection.
    pub enum TcpEventType {
        /// We opened one: the peer answered our SYN.
        Connect = 1, "connect";
        /// An established one ended.
        Close = 2, "close";
        /// Segments were sent again.
        Retransmit = 3, "retransmit";
        /// The smoothed round-trip time, at most once a second for each connection that receives.
        Rtt = 4, "rtt";
        /// A process took one that a peer opened.
        Accept = 5, "accept";
        /// A RST was sent or received.
        Reset = 6, "reset";
        /// We tried to open one and did not get it.
        ConnectFailed = 7, "connect_failed";
    }
}

wire_enum! {
    /// Address family.
    pub enum TcpFamily {
        /// IPv4, also when a v6 socket talks it (v4-mapped addresses).
        Ipv4 = 2, "ipv4";
        /// IPv6
        Ipv6 = 10, "ipv6";
    }
}

wire_enum! {
    /// State of a TCP socket, numbered as in the kernel.
    pub enum TcpState {
        /// Data flows.
        Established = 1, "established";
        /// We asked, no answer yet.
        SynSent = 2, "syn_sent";
        /// They asked, we answered.
        SynRecv = 3, "syn_recv";
        /// We closed first, not acknowledged yet.
        FinWait1 = 4, "fin_wait1";
        /// We closed first, the peer has not closed yet.
        FinWait2 = 5, "fin_wait2";
        /// Closed; late packets are waited for.
        TimeWait = 6, "time_wait";
        /// No connection.
        Close = 7, "close";
        /// The peer closed, we have not.
        CloseWait = 8, "close_wait";
        /// The peer closed first, our close is not acknowledged yet.
        LastAck = 9, "last_ack";
        /// Takes connections.
        Listen = 10, "listen";
        /// Both closed at once.
        Closing = 11, "closing";
    }
}

wire_enum! {
    /// Who opened a connection.
    pub enum TcpDirection {
        /// Not known: it began before the signal was loaded and was busy or closing then, or the event is no connection's.
        Unknown = 0, "unknown";
        /// This end.
        Outgoing = 1, "outgoing";
        /// The other end.
        Incoming = 2, "incoming";
    }
}

wire_enum! {
    /// Who sent a RST.
    pub enum TcpResetBy {
        /// Nobody: the event is not a reset.
        Nobody = 0, "none";
        /// This end.
        Us = 1, "us";
        /// The other end.
        Peer = 2, "peer";
    }
}

/// Something that happened to a TCP connection. Mirror of `struct tcp_event`, 136 bytes.
///
/// The source is always the local end, the destination the remote one. Process, name, user and cgroup are those of the socket's
/// owner, the process that opened or accepted it, as they were then; 0, empty and none when that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TcpEvent {
    /// When: `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// The owner's cgroup in the v2 hierarchy.
    pub cgroup_id: u64,
    /// `Connect` and `ConnectFailed`: since the first SYN. `Accept`: how long the established connection waited to be accepted.
    /// In nanoseconds; 0 for other events, when the start was not seen, and for an `Accept` that came before the handshake's last segment
    /// was worked off (its state is then `SynRecv`).
    pub latency_ns: u64,
    /// `Close`: since it was established, in nanoseconds; 0 when that was not seen.
    pub duration_ns: u64,
    /// `Close`: payload bytes sent, not counting those sent again.
    pub bytes_sent: u64,
    /// `Close`: payload bytes received in order.
    pub bytes_received: u64,
    /// Address of the local end; IPv4 in the first four bytes.
    pub src_addr: [u8; 16],
    /// Address of the remote end.
    pub dst_addr: [u8; 16],
    /// Process of the owner.
    pub pid: u32,
    /// Real user id of the owner; `u32::MAX` when not known.
    pub uid: u32,
    /// Network namespace: its inode number, as in `/proc/PID/ns/net`.
    pub netns: u32,
    /// Smoothed round-trip time in microseconds, 0 before the first measurement.
    pub rtt_us: u32,
    /// `Retransmit`: segments sent again by this one.
    pub retransmits: u32,
    /// Segments sent again since the connection began.
    pub total_retransmits: u32,
    /// `Close` and `ConnectFailed`: why, as a positive errno; 0 when closed in order, when the program gave up itself, or when no
    /// SYN could be sent (with no free port, `src_port` is 0 too).
    pub error: i32,
    /// Port of the local end.
    pub src_port: u16,
    /// Port of the remote end.
    pub dst_port: u16,
    /// Which of IPv4 and IPv6 the addresses are.
    pub family: TcpFamily,
    /// What happened.
    pub event_type: TcpEventType,
    /// State of the socket; for `Close` and `ConnectFailed` the state that it left.
    pub state: TcpState,
    /// Who opened the connection.
    pub direction: TcpDirection,
    /// `Reset`: who sent the RST.
    pub reset_by: TcpResetBy,
    pub(crate) pad0: [u8; 3],
    /// Name of the owner's thread that opened or accepted it.
    pub comm: Comm,
}

impl TcpEvent {
    /// Address of the local end.
    pub const fn src_addr(&self) -> IpAddr {
        ip(self.family, self.src_addr)
    }

    /// Address of the remote end.
    pub const fn dst_addr(&self) -> IpAddr {
        ip(self.family, self.dst_addr)
    }

    /// The local end.
    pub const fn src(&self) -> SocketAddr {
        SocketAddr::new(self.src_addr(), self.src_port)
    }

    /// The remote end.
    pub const fn dst(&self) -> SocketAddr {
        SocketAddr::new(self.dst_addr(), self.dst_port)
    }

    /// `Connect` and `ConnectFailed`: since the first SYN; `Accept`: the wait in the queue.
    pub const fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency_ns)
    }

    /// `Close`: since it was established.
    pub const fn duration(&self) -> Duration {
        Duration::from_nanos(self.duration_ns)
    }

    /// Smoothed round-trip time.
    pub const fn rtt(&self) -> Duration {
        Duration::from_micros(self.rtt_us as u64)
    }

    /// Name of the owner's thread, lossy.
    pub fn comm(&self) -> Cow<'_, str> {
        self.comm.to_str_lossy()
    }

    /// Real user id of the owner.
    pub fn uid(&self) -> Option<u32> {
        (self.uid != u32::MAX).then_some(self.uid)
    }

    /// The positive error number of a connection that failed or broke.
    pub fn errno(&self) -> Option<i32> {
        (self.error != 0).then_some(self.error)
    }
}

const fn ip(family: TcpFamily, addr: [u8; 16]) -> IpAddr {
    match family {
        TcpFamily::Ipv4 => IpAddr::V4(Ipv4Addr::new(addr[0], addr[1], addr[2], addr[3])),
        TcpFamily::Ipv6 => IpAddr::V6(Ipv6Addr::from_bits(u128::from_be_bytes(addr))),
    }
}

/// The fields by their names; `uid` is null when not known.
impl Serialize for TcpEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("TcpEvent", 23)?;
        fields.serialize_field("timestamp_ns", &self.timestamp_ns)?;
        fields.serialize_field("event_type", &self.event_type)?;
        fields.serialize_field("cgroup_id", &self.cgroup_id)?;
        fields.serialize_field("pid", &self.pid)?;
        fields.serialize_field("uid", &self.uid())?;
        fields.serialize_field("comm", &self.comm)?;
        fields.serialize_field("family", &self.family)?;
        fields.serialize_field("src_addr", &self.src_addr())?;
        fields.serialize_field("src_port", &self.src_port)?;
        fields.serialize_field("dst_addr", &self.dst_addr())?;
        fields.serialize_field("dst_port", &self.dst_port)?;
        fields.serialize_field("netns", &self.netns)?;
        fields.serialize_field("direction", &self.direction)?;
        fields.serialize_field("state", &self.state)?;
        fields.serialize_field("latency_ns", &self.latency_ns)?;
        fields.serialize_field("duration_ns", &self.duration_ns)?;
        fields.serialize_field("bytes_sent", &self.bytes_sent)?;
        fields.serialize_field("bytes_received", &self.bytes_received)?;
        fields.serialize_field("rtt_us", &self.rtt_us)?;
        fields.serialize_field("retransmits", &self.retransmits)?;
        fields.serialize_field("total_retransmits", &self.total_retransmits)?;
        fields.serialize_field("reset_by", &self.reset_by)?;
        fields.serialize_field("error", &self.error)?;
        fields.end()
    }
}

impl Event for TcpEvent {
    const TYPE: EventType = EventType::TcpMonitor;
    const ENUM_FIELDS: &'static [EnumField] = &[
        EnumField { name: "family", offset: std::mem::offset_of!(TcpEvent, family), valid: TcpFamily::valid },
        EnumField {
            name: "event_type",
            offset: std::mem::offset_of!(TcpEvent, event_type),
            valid: TcpEventType::valid,
        },
        EnumField { name: "state", offset: std::mem::offset_of!(TcpEvent, state), valid: TcpState::valid },
        EnumField { name: "direction", offset: std::mem::offset_of!(TcpEvent, direction), valid: TcpDirection::valid },
        EnumField { name: "reset_by", offset: std::mem::offset_of!(TcpEvent, reset_by), valid: TcpResetBy::valid },
    ];

    shared_fields!();

    fn failed(&self) -> bool {
        use TcpEventType::{ConnectFailed, Reset, Retransmit};
        matches!(self.event_type, Retransmit | Reset | ConnectFailed) || self.error != 0
    }
}

impl fmt::Display for TcpEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = match self.direction {
            TcpDirection::Outgoing => "->",
            TcpDirection::Incoming => "<-",
            TcpDirection::Unknown => "--",
        };
        write!(f, "{:<14} {:>21} {arrow} {:<21}", self.event_type, self.src().to_string(), self.dst().to_string())?;
        match self.event_type {
            TcpEventType::Connect if self.latency_ns > 0 => write!(f, "  {}", Latency(self.latency())),
            TcpEventType::Connect => Ok(()),
            TcpEventType::Accept => write!(f, "  queued {}", Latency(self.latency())),
            TcpEventType::Rtt => write!(f, "  rtt {}", Latency(self.rtt())),
            TcpEventType::Retransmit => {
                let plural = if self.retransmits == 1 { "" } else { "s" };
                write!(f, "  {} segment{plural} again in {}", self.retransmits, self.state)
            }
            TcpEventType::Reset => write!(f, "  by {} in {}", self.reset_by, self.state),
            TcpEventType::ConnectFailed => match self.errno() {
                Some(errno) => write!(f, "  {}  after {}", Errno(errno), Latency(self.latency())),
                None => write!(f, "  given up after {}", Latency(self.latency())),
            },
            TcpEventType::Close => {
                write!(f, "  sent {} received {}", self.bytes_sent, self.bytes_received)?;
                if self.duration_ns > 0 {
                    write!(f, " in {}", Latency(self.duration()))?;
                }
                if self.total_retransmits > 0 {
                    write!(f, "  {} sent again", self.total_retransmits)?;
                }
                self.errno().map_or(Ok(()), |errno| write!(f, "  {}", Errno(errno)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};
    use crate::{DecodeError, RawEvent};

    /// A record with no byte out of range: 17 words.
    fn record() -> [u64; 17] {
        let mut words = [0; 17];
        words.as_mut_bytes()[112..115].copy_from_slice(&[2, 1, 1]);
        words
    }

    fn edited(edit: impl FnOnce(&mut TcpEvent)) -> TcpEvent {
        let mut event = *TcpEvent::decode(record().as_bytes()).unwrap();
        edit(&mut event);
        event
    }

    #[test]
    fn layout_is_the_kernel_sides() {
        let object = include_bytes!("../../../objects/tcp_monitor.bpf.o");
        let fields = fields!(TcpEvent: timestamp_ns cgroup_id latency_ns duration_ns bytes_sent bytes_received src_addr
            dst_addr pid uid netns rtt_us retransmits total_retransmits error src_port dst_port family event_type state
            direction reset_by pad0 comm);
        assert_matches(object, "tcp_event", size_of::<TcpEvent>(), fields);
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let event_type = EventType::TcpMonitor;
        let decode = |data: &[u8]| RawEvent { event_type, data }.decode().map(|_| ());
        let good = record();
        assert_eq!(decode(good.as_bytes()), Ok(()));
        let short = DecodeError::Length { event_type, expected: 136, found: 135 };
        assert_eq!(decode(&good.as_bytes()[..135]), Err(short));
        for (field, at, bad) in [
            ("family", 112, [0, 1, 3, 255]),
            ("event_type", 113, [0, 8, 9, 255]),
            ("state", 114, [0, 12, 13, 255]),
            ("direction", 115, [3, 4, 128, 255]),
            ("reset_by", 116, [3, 4, 128, 255]),
        ] {
            for value in bad {
                let mut words = record();
                words.as_mut_bytes()[at] = value;
                assert_eq!(decode(words.as_bytes()), Err(DecodeError::Value { event_type, field, value }));
            }
        }
    }

    #[test]
    fn serialises_with_the_documented_names() {
        let event = edited(|event| {
            event.src_addr[..4].copy_from_slice(&[127, 0, 0, 1]);
            event.dst_addr[..4].copy_from_slice(&[10, 1, 2, 3]);
            (event.src_port, event.dst_port, event.uid) = (80, 4321, u32::MAX);
        });
        let json = serde_json::to_value(crate::TypedEvent::TcpMonitor(&event)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type": "tcp_monitor", "timestamp_ns": 0, "event_type": "connect", "cgroup_id": 0, "pid": 0,
                "uid": null, "comm": "", "family": "ipv4", "src_addr": "127.0.0.1", "src_port": 80, "dst_addr": "10.1.2.3",
                "dst_port": 4321, "netns": 0, "direction": "unknown", "state": "established", "latency_ns": 0,
                "duration_ns": 0, "bytes_sent": 0, "bytes_received": 0, "rtt_us": 0, "retransmits": 0,
                "total_retransmits": 0, "reset_by": "none", "error": 0})
        );
    }

    #[test]
    fn reads_as_a_line() {
        let event = edited(|event| {
            event.family = TcpFamily::Ipv6;
            event.src_addr[15] = 1;
            event.dst_addr[15] = 1;
            (event.src_port, event.dst_port) = (40000, 443);
            event.event_type = TcpEventType::ConnectFailed;
            event.direction = TcpDirection::Outgoing;
            (event.error, event.latency_ns) = (libc::ECONNREFUSED, 12_300);
        });
        let line = "connect_failed           [::1]:40000 -> [::1]:443              ECONNREFUSED (Connection refused)  after 12.3us";
        assert_eq!(event.to_string(), line);
        assert!(event.failed());
    }
}
