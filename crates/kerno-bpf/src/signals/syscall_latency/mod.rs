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
//! # The summary
//!
//! [`SyscallSummary`](kerno_model::SyscallSummary) is kept in the kernel by programs of its own on the same hooks: a histogram for each call and CPU, errors by call
//! and number, and the processes whose calls were slow or failed in a way that is not normal life ([`kerno_doctor::knowledge::normal`]). A call
//! costs 1.1 times what two timestamps on these hooks cost. Memory is bounded: 16 MiB of histograms for all CPUs together (a CPU that
//! has no histogram left counts a further call without its duration), and hash maps of fixed size. Slow is 10 ms; a read or write of a
//! file has 8 ns more for each byte.
//!
//! # Compared with syscount
//!
//! The same process watched by both (libbpf-tools `syscount -L -p`): the ten calls that it prints had the same counts here, 2,207 of
//! 2,207. Sums of short calls are lower here (`getppid` 510 us against 714 us for 1,018 calls): the time that a tool's own entry
//! hook takes after it read the clock is part of what it measures.

mod event;
mod kept;
mod loader;
mod sampler;

pub use event::SyscallEvent;
pub use loader::SyscallLatencyLoader;
pub(crate) use sampler::{sampler, sampler_of, summary_plan};
