//! The signals. A new one is a folder here and a line in `signals!` below.

pub mod disk_io;
pub mod dns_query;
pub mod fd_track;
pub mod file_audit;
pub mod oom_track;
pub mod process_life;
pub mod sched_delay;
pub mod syscall_latency;
pub mod tcp_monitor;

pub use disk_io::{DiskEvent, DiskFlags, DiskIoLoader, DiskOp};
pub use dns_query::{DnsEvent, DnsName, DnsOutcome, DnsProtocol, DnsQueryLoader};
pub use fd_track::{FdEvent, FdOp, FdSource, FdTrackLoader};
pub use file_audit::{FileAuditLoader, FileEvent, OpenFlags, OpenVia, PathKind};
pub use oom_track::{OomEvent, OomScope, OomTrackLoader};
pub use process_life::{Ancestor, LifeEvent, LifeOp, ProcessLifeLoader};
pub use sched_delay::{SchedDelayLoader, SchedEvent, WaitReason};
pub use syscall_latency::{SyscallEvent, SyscallLatencyLoader};
pub use tcp_monitor::{TcpDirection, TcpEvent, TcpEventType, TcpFamily, TcpMonitorLoader, TcpResetBy, TcpState};

use std::fmt;

use crate::engine::Sampler;
use crate::event::{Comm, DecodeError, Event, EventType, RawEvent, RawEventBuf};
use crate::probe::{Host, LoadError, Loader, Options};

/// A signal as the registry knows it.
#[derive(Clone, Copy)]
pub struct SignalInfo {
    /// Its name, such as `tcp_monitor`.
    pub name: &'static str,
    /// The short name, such as `tcp`.
    pub alias: &'static str,
    /// The type of its events.
    pub event_type: EventType,
    /// Makes its loader.
    pub loader: fn(Options) -> Box<dyn Loader>,
    pub(crate) sampler: fn(&Host) -> Result<Box<dyn Sampler>, LoadError>,
}

impl fmt::Debug for SignalInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SignalInfo").field(&self.name).finish()
    }
}

/// Finds the signal of an event type.
pub fn by_event_type(event_type: EventType) -> Option<&'static SignalInfo> {
    ALL.iter().find(|signal| signal.event_type == event_type)
}

/// Finds a signal by its name, its alias or the name of its event type.
pub fn by_name(name: &str) -> Option<&'static SignalInfo> {
    ALL.iter().find(|signal| signal.name == name || signal.alias == name || signal.event_type.name() == name)
}

impl<'a> RawEvent<'a> {
    /// The typed event, in place.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not such an event.
    pub fn decode(self) -> Result<TypedEvent<'a>, DecodeError> {
        TypedEvent::decode(self)
    }
}

impl RawEventBuf {
    /// As [`RawEvent::decode`].
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not such an event.
    pub fn decode(&self) -> Result<TypedEvent<'_>, DecodeError> {
        self.as_raw().decode()
    }
}

/// Registers the signals: module, event type and its name, event, loader, alias.
macro_rules! signals {
    ($($module:ident: $variant:ident = $name:literal, $event:ident, $loader:ident, $alias:literal;)+) => {
        /// Every signal, in the order of the event types' numbers.
        pub const ALL: &[SignalInfo] = &[$(SignalInfo {
            name: stringify!($module),
            alias: $alias,
            event_type: EventType::$variant,
            loader: |options| Box::new($loader::new(options)),
            sampler: $module::sampler,
        },)+];

        /// What each signal's loader loads on a kernel.
        #[cfg(test)]
        pub(crate) fn hook_plans(host: &Host) -> Vec<Result<(crate::probe::Object, crate::probe::Plan), LoadError>> {
            vec![$($loader::hook_plan(host),)+]
        }

        /// A typed event of any signal, borrowed from where it was read.
        ///
        /// Serialises as an object: a field `type` with the event type's name, and the event's own fields.
        #[derive(Clone, Copy, Debug, serde::Serialize)]
        #[serde(tag = "type")]
        #[non_exhaustive]
        pub enum TypedEvent<'a> {
            $(#[doc = concat!("A [`", stringify!($event), "`].")]
            #[serde(rename = $name)]
            $variant(&'a $event),)+
        }

        impl<'a> TypedEvent<'a> {
            pub(crate) fn decode(raw: RawEvent<'a>) -> Result<Self, DecodeError> {
                match raw.event_type {
                    $(EventType::$variant => $event::decode(raw.data).map(Self::$variant),)+
                }
            }

            /// Its type.
            pub const fn event_type(&self) -> EventType {
                match self {
                    $(Self::$variant(_) => EventType::$variant,)+
                }
            }

            /// When it happened: `CLOCK_MONOTONIC`, in nanoseconds.
            pub fn timestamp_ns(&self) -> u64 {
                match self {
                    $(Self::$variant(event) => event.timestamp_ns(),)+
                }
            }

            /// The process concerned, 0 when the kernel could not know.
            pub fn pid(&self) -> u32 {
                match self {
                    $(Self::$variant(event) => event.pid(),)+
                }
            }

            /// The name of the task concerned, empty when the kernel could not know.
            pub fn task_comm(&self) -> &'a Comm {
                match self {
                    $(Self::$variant(event) => event.task_comm(),)+
                }
            }

            /// True when it tells of something that went wrong.
            pub fn failed(&self) -> bool {
                match self {
                    $(Self::$variant(event) => event.failed(),)+
                }
            }
        }

        /// What happened, in words; process and time are left to the caller.
        impl fmt::Display for TypedEvent<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(event) => event.fmt(f),)+
                }
            }
        }
    };
}

signals! {
    syscall_latency: SyscallLatency = "syscall_latency", SyscallEvent, SyscallLatencyLoader, "syscall";
    tcp_monitor: TcpMonitor = "tcp_monitor", TcpEvent, TcpMonitorLoader, "tcp";
    oom_track: OomKill = "oom_kill", OomEvent, OomTrackLoader, "oom";
    disk_io: DiskIo = "disk_io", DiskEvent, DiskIoLoader, "disk";
    sched_delay: SchedDelay = "sched_delay", SchedEvent, SchedDelayLoader, "sched";
    fd_track: FdTrack = "fd_track", FdEvent, FdTrackLoader, "fd";
    file_audit: FileAudit = "file_audit", FileEvent, FileAuditLoader, "file";
    dns_query: DnsQuery = "dns_query", DnsEvent, DnsQueryLoader, "dns";
    process_life: ProcessLife = "process_life", LifeEvent, ProcessLifeLoader, "proc";
}
