//! What each signal's summary says of a window, a part a signal.

mod disk_io;
mod dns_query;
mod fd_track;
mod file_audit;
mod oom_track;
mod process_life;
mod sched_delay;
mod syscall_latency;
mod tcp_monitor;

pub use disk_io::{
    CgroupIo, DeletedFile, DeletedHolder, DiskDevice, DiskFailure, DiskOpStat, DiskSubmitter, DiskSummary, DiskWriter,
    Filesystem, FilesystemWriter, ForcedState, IoLimit, IoLimitKind, RequestKind,
};
pub use dns_query::{DnsNameUse, DnsServer, DnsSummary};
pub use fd_track::{DescriptorKind, FdKind, FdProcess, FdSummary};
pub use file_audit::{FileProcess, FileSummary};
pub use oom_track::{CgroupMemory, KillScope, MemoryHolder, OomKill, OomSummary, ProcessMemory};
pub use process_life::{Ending, ForkStarter, LifeSummary, ProgramLife, StartedProgram, ZombieParent};
pub use sched_delay::{
    Awaited, AwaitedKind, BlockedTask, CgroupThrottle, CpuGroup, CpuHolder, CpuStat, DnsWait, FullListener,
    HeldProcess, ListenerHolder, SchedSummary, SchedWaiter, Stall, StallNeed, StallStep, StandingState,
};
pub use syscall_latency::{SyncStat, SyscallExemplar, SyscallOffender, SyscallStat, SyscallSummary};
pub use tcp_monitor::{
    ConnectionOwner, CpuBacklog, DatagramSocket, NetworkInterface, TcpFailure, TcpFailureReason, TcpListener,
    TcpNamespace, TcpPeer, TcpProcess, TcpStuck, TcpSummary,
};
