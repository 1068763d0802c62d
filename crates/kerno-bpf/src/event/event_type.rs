use std::fmt;
use std::str::FromStr;

/// Which signal an event belongs to. The numbers are stable: they are stored and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum EventType {
    /// A system call returned ([`SyscallEvent`](crate::SyscallEvent)).
    SyscallLatency = 1,
    /// A TCP connection changed ([`TcpEvent`](crate::TcpEvent)).
    TcpMonitor = 2,
    /// The OOM killer chose a victim ([`OomEvent`](crate::OomEvent)).
    OomKill = 3,
    /// A block request completed ([`DiskEvent`](crate::DiskEvent)).
    DiskIo = 4,
    /// A task got a CPU after waiting for one ([`SchedEvent`](crate::SchedEvent)).
    SchedDelay = 5,
    /// A file descriptor was opened or closed ([`FdEvent`](crate::FdEvent)).
    FdTrack = 6,
    /// A file was opened, or failed to ([`FileEvent`](crate::FileEvent)).
    FileAudit = 7,
    /// A DNS query was answered, or was not ([`DnsEvent`](crate::DnsEvent)).
    DnsQuery = 8,
    /// A process began, executed a program or ended ([`LifeEvent`](crate::LifeEvent)).
    ProcessLife = 9,
}

/// A number or name that is no [`EventType`]. Displays as `unknown(N)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownEventType(String);

impl fmt::Display for UnknownEventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown({})", self.0)
    }
}

impl std::error::Error for UnknownEventType {}

impl EventType {
    /// Every type, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::SyscallLatency,
        Self::TcpMonitor,
        Self::OomKill,
        Self::DiskIo,
        Self::SchedDelay,
        Self::FdTrack,
        Self::FileAudit,
        Self::DnsQuery,
        Self::ProcessLife,
    ];

    /// One more than the highest number, for tables by number.
    pub const NUMBERS: usize = 10;

    /// The name, as displayed and parsed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SyscallLatency => "syscall_latency",
            Self::TcpMonitor => "tcp_monitor",
            Self::OomKill => "oom_kill",
            Self::DiskIo => "disk_io",
            Self::SchedDelay => "sched_delay",
            Self::FdTrack => "fd_track",
            Self::FileAudit => "file_audit",
            Self::DnsQuery => "dns_query",
            Self::ProcessLife => "process_life",
        }
    }

    /// The name of a number, `unknown(N)` when it has none.
    pub fn name_of(number: u8) -> String {
        match Self::try_from(number) {
            Ok(known) => known.name().to_owned(),
            Err(unknown) => unknown.to_string(),
        }
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<EventType> for u8 {
    fn from(event_type: EventType) -> Self {
        event_type as Self
    }
}

impl TryFrom<u8> for EventType {
    type Error = UnknownEventType;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        Self::ALL
            .into_iter()
            .find(|event_type| u8::from(*event_type) == number)
            .ok_or_else(|| UnknownEventType(number.to_string()))
    }
}

impl FromStr for EventType {
    type Err = UnknownEventType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|event_type| event_type.name() == name)
            .ok_or_else(|| UnknownEventType(name.to_owned()))
    }
}

impl serde::Serialize for EventType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_stable() {
        let expected = [
            (1, "syscall_latency"),
            (2, "tcp_monitor"),
            (3, "oom_kill"),
            (4, "disk_io"),
            (5, "sched_delay"),
            (6, "fd_track"),
            (7, "file_audit"),
            (8, "dns_query"),
            (9, "process_life"),
        ];
        assert_eq!(expected.len(), EventType::ALL.len());
        assert_eq!(EventType::ALL.map(u8::from).into_iter().max(), Some(u8::try_from(EventType::NUMBERS - 1).unwrap()));
        for (number, name) in expected {
            let event_type = EventType::try_from(number).unwrap();
            assert_eq!(event_type.to_string(), name);
            assert_eq!(name.parse(), Ok(event_type));
            assert_eq!(u8::from(event_type), number);
        }
    }

    #[test]
    fn every_other_number_is_unknown() {
        for number in (0..=u8::MAX).filter(|n| !matches!(n, 1..=9)) {
            assert_eq!(EventType::name_of(number), format!("unknown({number})"));
        }
        assert!("TCP_MONITOR".parse::<EventType>().is_err());
    }
}
