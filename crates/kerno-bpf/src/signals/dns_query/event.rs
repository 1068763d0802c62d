use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use super::name::DnsName;
use crate::TcpFamily;
use crate::event::{Comm, EnumField, Event, EventType, shared_fields, wire_enum};
use kerno_model::dns;
use kerno_model::text::{Errno, Latency};

/// Where DNS servers listen (RFC 1035, 4.2.1).
pub(crate) const PORT: u16 = 53;

wire_enum! {
    /// What came of a query.
    pub enum DnsOutcome {
        /// An answer was received; [`DnsEvent::rcode`] says whether it is a good one.
        Answered = 1, "answered";
        /// Nothing came before the same socket asked the same server again.
        AskedAgain = 2, "asked_again";
        /// Nothing came before the socket was closed, or used for something else.
        GivenUp = 3, "given_up";
        /// The socket had an error, such as `ECONNREFUSED` where nobody listens; [`DnsEvent::errno`] tells.
        Failed = 4, "failed";
    }
}

wire_enum! {
    /// By what a query was sent.
    pub enum DnsProtocol {
        /// A connection.
        Tcp = 6, "tcp";
        /// A datagram.
        Udp = 17, "udp";
    }
}

/// A DNS query was answered, or it was not. Mirror of `struct dns_event`, 352 bytes.
///
/// There is one event for each time that a query is sent. Process, thread, user, cgroup and name are those of the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DnsEvent {
    /// When the answer was taken, or nothing more was to be expected: `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// The sender's cgroup in the v2 hierarchy.
    pub cgroup_id: u64,
    /// From the end of the call that sent it to the end of the call that took the answer, or to `timestamp_ns`; in nanoseconds.
    pub latency_ns: u64,
    /// The same since the socket asked this for the first time.
    pub elapsed_ns: u64,
    /// Address of the server; IPv4 in the first four bytes.
    pub server: [u8; 16],
    /// Process that asked.
    pub pid: u32,
    /// Thread that asked.
    pub tid: u32,
    /// Its real user id.
    pub uid: u32,
    /// Network namespace of the socket: its inode number, as in `/proc/PID/ns/net`.
    pub netns: u32,
    /// `Failed`: why, as a positive errno; 0 otherwise.
    pub error: i32,
    /// The id of the query.
    pub id: u16,
    /// Type of the record asked for: 1 is A, 28 is AAAA.
    pub qtype: u16,
    /// The flags of the answer's header; 0 when there is none.
    pub flags: u16,
    /// Records in the answer's first section.
    pub answers: u16,
    /// Which of IPv4 and IPv6 the server's address is.
    pub family: TcpFamily,
    /// By what it was sent.
    pub protocol: DnsProtocol,
    /// What came of it.
    pub outcome: DnsOutcome,
    /// How many times this socket has asked this server the same: 1 for the first.
    pub attempt: u8,
    /// Name of the thread that asked.
    pub comm: Comm,
    /// The name asked for.
    pub name: DnsName,
}

impl DnsEvent {
    /// The server that was asked.
    pub const fn server(&self) -> SocketAddr {
        let at = self.server;
        let ip = match self.family {
            TcpFamily::Ipv4 => IpAddr::V4(Ipv4Addr::new(at[0], at[1], at[2], at[3])),
            TcpFamily::Ipv6 => IpAddr::V6(Ipv6Addr::from_bits(u128::from_be_bytes(at))),
        };
        SocketAddr::new(ip, PORT)
    }

    /// How long it took.
    pub const fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency_ns)
    }

    /// The same since the socket asked this for the first time.
    pub const fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.elapsed_ns)
    }

    /// The answer's response code: 0 for success, 3 where there is no such name; `None` without an answer.
    pub fn rcode(&self) -> Option<u8> {
        (self.outcome == DnsOutcome::Answered).then_some(self.flags.to_be_bytes()[1] & 15)
    }

    /// True when the answer did not fit into a datagram.
    pub const fn truncated(&self) -> bool {
        self.flags & 0x0200 != 0
    }

    /// The positive error number of the socket.
    pub fn errno(&self) -> Option<i32> {
        (self.error != 0).then_some(self.error)
    }

    /// Name of the thread that asked, lossy.
    pub fn comm(&self) -> Cow<'_, str> {
        self.comm.to_str_lossy()
    }
}

/// The fields by their names, with the names of type and response code; `rcode` is null without an answer.
impl Serialize for DnsEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("DnsEvent", 22)?;
        fields.serialize_field("timestamp_ns", &self.timestamp_ns)?;
        fields.serialize_field("cgroup_id", &self.cgroup_id)?;
        fields.serialize_field("pid", &self.pid)?;
        fields.serialize_field("tid", &self.tid)?;
        fields.serialize_field("uid", &self.uid)?;
        fields.serialize_field("comm", &self.comm)?;
        fields.serialize_field("netns", &self.netns)?;
        fields.serialize_field("name", &self.name)?;
        fields.serialize_field("qtype", &dns::type_name(self.qtype))?;
        fields.serialize_field("server", &self.server().ip())?;
        fields.serialize_field("port", &PORT)?;
        fields.serialize_field("family", &self.family)?;
        fields.serialize_field("protocol", &self.protocol)?;
        fields.serialize_field("id", &self.id)?;
        fields.serialize_field("outcome", &self.outcome)?;
        fields.serialize_field("rcode", &self.rcode().map(dns::rcode_name))?;
        fields.serialize_field("flags", &self.flags)?;
        fields.serialize_field("answers", &self.answers)?;
        fields.serialize_field("attempt", &self.attempt)?;
        fields.serialize_field("latency_ns", &self.latency_ns)?;
        fields.serialize_field("elapsed_ns", &self.elapsed_ns)?;
        fields.serialize_field("error", &self.error)?;
        fields.end()
    }
}

impl Event for DnsEvent {
    const TYPE: EventType = EventType::DnsQuery;
    const ENUM_FIELDS: &'static [EnumField] = &[
        EnumField { name: "family", offset: std::mem::offset_of!(DnsEvent, family), valid: TcpFamily::valid },
        EnumField { name: "protocol", offset: std::mem::offset_of!(DnsEvent, protocol), valid: DnsProtocol::valid },
        EnumField { name: "outcome", offset: std::mem::offset_of!(DnsEvent, outcome), valid: DnsOutcome::valid },
    ];

    shared_fields!();

    fn failed(&self) -> bool {
        self.rcode() != Some(0)
    }
}

impl fmt::Display for DnsEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = match self.rcode() {
            Some(rcode) => dns::rcode_name(rcode),
            None => self.outcome.to_string(),
        };
        let server = self.server().ip().to_string();
        let qtype = dns::type_name(self.qtype);
        write!(f, "{server:<15}  {qtype:<5}  {result:<11}  {:>7}  {}", Latency(self.latency()).to_string(), self.name)?;
        if self.outcome == DnsOutcome::Answered && self.rcode() == Some(0) {
            let plural = if self.answers == 1 { "" } else { "s" };
            write!(f, "  {} record{plural}", self.answers)?;
        }
        if let Some(errno) = self.errno() {
            write!(f, "  {}", Errno(errno))?;
        }
        if self.truncated() {
            f.write_str("  truncated")?;
        }
        if self.protocol == DnsProtocol::Tcp {
            f.write_str("  tcp")?;
        }
        if self.attempt > 1 {
            write!(f, "  attempt {} after {}", self.attempt, Latency(self.elapsed()))?;
        }
        if self.tid != self.pid {
            write!(f, "  tid {}", self.tid)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::name::named;
    use super::*;
    use crate::event::layout::{assert_matches, fields};
    use crate::{DecodeError, RawEvent};

    const WORDS: usize = size_of::<DnsEvent>() / 8;

    /// A record with no byte out of range.
    fn record() -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words.as_mut_bytes()[76..79].copy_from_slice(&[2, 17, 1]);
        words
    }

    fn answered() -> DnsEvent {
        let mut event = *DnsEvent::decode(record().as_bytes()).unwrap();
        event.server[..4].copy_from_slice(&[127, 0, 0, 53]);
        (event.latency_ns, event.qtype, event.attempt, event.answers, event.flags) = (1_500_000, 28, 1, 2, 0x8180);
        DnsEvent { name: named(b"\x03www\x02de"), ..event }
    }

    #[test]
    fn layout_is_the_kernel_sides() {
        let object = include_bytes!("../../../objects/dns_query.bpf.o");
        let fields = fields!(DnsEvent: timestamp_ns cgroup_id latency_ns elapsed_ns server pid tid uid netns error id qtype flags answers
            family protocol outcome attempt comm name);
        assert_matches(object, "dns_event", size_of::<DnsEvent>(), fields);
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        let event_type = EventType::DnsQuery;
        let decode = |data: &[u8]| RawEvent { event_type, data }.decode().map(|_| ());
        assert_eq!(decode(record().as_bytes()), Ok(()));
        let short = DecodeError::Length { event_type, expected: 352, found: 351 };
        assert_eq!(decode(&record().as_bytes()[..351]), Err(short));
        for (field, at, bad) in [("family", 76, [0, 3]), ("protocol", 77, [0, 18]), ("outcome", 78, [0, 5])] {
            for value in bad {
                let mut words = record();
                words.as_mut_bytes()[at] = value;
                assert_eq!(decode(words.as_bytes()), Err(DecodeError::Value { event_type, field, value }));
            }
        }
    }

    #[test]
    fn reads_as_a_line() {
        let event = answered();
        assert_eq!(event.to_string(), "127.0.0.53       AAAA   NOERROR       1.50ms  www.de  2 records");
        assert!(!event.failed());
        let missing = DnsEvent { flags: 0x8183, answers: 0, ..event };
        assert_eq!(missing.to_string(), "127.0.0.53       AAAA   NXDOMAIN      1.50ms  www.de");
        assert!(missing.failed());
        let none = DnsEvent {
            outcome: DnsOutcome::AskedAgain,
            protocol: DnsProtocol::Tcp,
            flags: 0,
            attempt: 2,
            elapsed_ns: 7_000_000_000,
            tid: 9,
            ..event
        };
        let line = "127.0.0.53       AAAA   asked_again   1.50ms  www.de  tcp  attempt 2 after 7.00s  tid 9";
        assert_eq!(none.to_string(), line);
        assert!(none.failed());
    }

    #[test]
    fn serialises_with_the_documented_names() {
        let json = serde_json::to_value(crate::TypedEvent::DnsQuery(&answered())).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"type": "dns_query", "timestamp_ns": 0, "cgroup_id": 0, "pid": 0, "tid": 0, "uid": 0, "comm": "",
                "netns": 0, "name": "www.de", "qtype": "AAAA", "server": "127.0.0.53", "port": 53, "family": "ipv4",
                "protocol": "udp", "id": 0, "outcome": "answered", "rcode": "NOERROR", "flags": 0x8180, "answers": 2,
                "attempt": 1, "latency_ns": 1_500_000, "elapsed_ns": 0, "error": 0})
        );
    }
}
