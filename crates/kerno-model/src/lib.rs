//! What Kerno observes and finds, as data: windows, findings and their parts.
//!
//! This crate does no I/O and needs no Linux: it builds on any system, so that data saved on one machine can be read, judged, stored
//! and shown on another. Numbers have their unit in their name (`_ns`, `_us`, `_bytes`, `_pages`).

pub mod amount;
pub mod catalogue;
pub mod dns;
mod ending;
mod entity;
pub mod errno;
mod fact;
mod fill;
mod finding;
mod histogram;
mod host;
mod incident;
mod kernel_message;
mod limits;
mod loss;
mod merge;
mod merged;
pub mod metric;
mod moment;
mod objective;
#[doc(hidden)]
pub mod paths;
mod process;
mod record;
pub mod saved;
mod series;
mod signals;
pub mod text;
mod unit;
mod vocabulary;
mod why;
mod window;

pub use ending::WaitStatus;
pub use entity::{Address, Device, Entity, NamedProcess, ProcessId, Subject};
pub use errno::ErrnoCount;
pub use fact::{Fact, Limit, Scope, Value, WaitsFor};
pub use finding::{Effect, Eta, Evidence, Exemplar, Finding, Fingerprint, Fix, RuleId, Safety, Severity};
pub use histogram::{BUCKETS, Histogram, Percentiles};
pub use host::{HostFacts, KernelVersion};
pub use incident::{Course, Incident, IncidentId, IncidentState, Transition};
pub use kernel_message::KernelMessage;
pub use limits::{LimitFailure, LimitHolder, LimitLine, LimitScope, LimitUnit, LimitUse, LimitsReport, Resource};
pub use loss::SummaryLoss;
pub use merged::{Cut, Gap, Inexact, MergeError, Merged};
pub use moment::Moment;
pub use objective::{BurnRate, ObjectiveStatus, Verdict};
pub use process::{Container, Process, TaskUse};
pub use record::{Change, ChangeKind, IncidentRecord};
pub use series::{Series, Trend};
pub use signals::{
    Awaited, AwaitedKind, BlockedTask, CgroupIo, CgroupMemory, CgroupThrottle, ConnectionOwner, CpuBacklog, CpuGroup,
    CpuHolder, CpuStat, DatagramSocket, DeletedFile, DeletedHolder, DescriptorKind, DiskDevice, DiskFailure,
    DiskOpStat, DiskSubmitter, DiskSummary, DiskWriter, DnsNameUse, DnsServer, DnsSummary, DnsWait, Ending, FdKind,
    FdProcess, FdSummary, FileProcess, FileSummary, Filesystem, FilesystemWriter, ForcedState, ForkStarter,
    FullListener, HeldProcess, IoLimit, IoLimitKind, KillScope, LifeSummary, ListenerHolder, MemoryHolder,
    NetworkInterface, OomKill, OomSummary, ProcessMemory, ProgramLife, RequestKind, SchedSummary, SchedWaiter, Stall,
    StallNeed, StallStep, StandingState, StartedProgram, SyncStat, SyscallExemplar, SyscallOffender, SyscallStat,
    SyscallSummary, TcpFailure, TcpFailureReason, TcpListener, TcpNamespace, TcpPeer, TcpProcess, TcpStuck, TcpSummary,
    ZombieParent,
};
pub use unit::Unit;
pub use why::{Spent, ThreadTime, TimeKind, WaitedFor, WhyLink, WhyProcess, WhyReport};
pub use window::{CostOfObserving, Missing, SCHEMA_VERSION, Span, Window};
