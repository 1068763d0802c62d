//! How long each system call took, and what it returned.
//!
//! | | |
//! |---|---|
//! | hooks | `tp_btf/sys_enter`, `tp_btf/sys_exit`; `sched_process_exit` and `sched_process_exec` keep entry and exit paired |
//! | minimum kernel | 5.10 |
//! | cost | two timestamps and an array slot a call, beside the kernel's own slow path for traced calls |
//! | kernel memory | 16 bytes a thread id, 4 MiB at most |
//!
//! Not seen: calls in progress at load; calls that never return (`exit`, a kill inside the call); calls that seccomp refuses; what
//! `io_uring` does for a thread. Where two live threads share a start slot (ids that differ by a multiple of 262,144), the
//! earlier call is not reported and [`Counters::untracked`](crate::Counters::untracked) counts it.
//!
//! # Compared with syscount
//!
//! The same process watched by both (libbpf-tools `syscount -L -p`): the ten calls that it prints had the same counts here, 2,207 of
//! 2,207. Sums of short calls are lower here (`getppid` 510 us against 714 us for 1,018 calls): the time that a tool's own entry
//! hook takes after it read the clock is part of what it measures.

mod event;
mod kept;
mod loader;
mod rules;
mod sampler;
mod summary;

pub use event::SyscallEvent;
pub use loader::SyscallLatencyLoader;
pub(crate) use rules::RULES;
pub(crate) use sampler::sampler;
pub use summary::{SyscallExemplar, SyscallOffender, SyscallStat, SyscallSummary, SyncStat};
