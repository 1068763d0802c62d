//! Every file descriptor that a process gets or gives up, by its number, and the call that did it.
//!
//! | | |
//! |---|---|
//! | hooks | `tp_btf/sys_exit` and `tp_btf/sys_enter`; `sched_prepare_exec` (Linux 6.10) and `sched_process_exec`; `sched_process_exit`; `io_uring_complete` and `io_uring_submit_req` (Linux 6.4) |
//! | minimum kernel | 5.10; `io_uring` from 6.0 |
//! | cost | a look-up in a table for a call that changes no descriptor, beside the kernel's own slow path for traced calls; a look at the process's bitmap for each `ioctl`; a walk of the bitmap at exec, exit and `close_range` |
//! | kernel memory | 1.3 MiB |
//!
//! # What adds up
//!
//! For a process whose table is its own, opens minus closes is what `/proc/PID/fd` gained, whichever way the descriptors came and went:
//!
//! - calls that return one or store one in memory: files, duplicates, sockets, pipes, event, timer, signal, memory, epoll, inotify,
//!   fanotify, process, mount, perf, bpf, ruleset, queue and ring descriptors, `clone` with `CLONE_PIDFD`, `SO_PEERPIDFD`;
//! - descriptors that come in a message (`SCM_RIGHTS`, `SCM_PIDFD`), also through `recvmmsg`;
//! - what an `ioctl` adds, whatever the driver, found by comparing the table before and after;
//! - `dup2` and `dup3` onto an open descriptor: a close and an open. Onto itself: nothing;
//! - `close`, also when it returns an error other than `EBADF` (the descriptor is gone then too), and `close_range`;
//! - close-on-exec at an exec that succeeds, reported with the name the process had before it ([`FdSource::Exec`]);
//! - what is open at the end ([`FdSource::Exit`]), once, when the last task that uses the table ends;
//! - `io_uring` requests that open, accept, make, receive, install or close ([`FdSource::IoUring`]). Slots of a ring's own table are no descriptors.
//!
//! On `x86_64` all of this holds for 32-bit calls too. A fork copies the table and `unshare(CLONE_FILES)` does; that is no event: count from what the
//! new table began with. A copy's closes are reported as any table's.
//!
//! # What is not seen
//!
//! - Descriptors that `read` of a fanotify or userfaultfd descriptor brings, and those that a seccomp supervisor puts into another process.
//! - An `ioctl` in a table that several tasks share, when it tells the descriptor in any other way than by returning it.
//! - `io_uring` requests that post no completion (`IOSQE_CQE_SKIP_SUCCESS`), overflow the completion ring, or receive several messages
//!   into provided buffers. Before Linux 6.4, a request that accepts many connections shows its last one only.
//! - Descriptors above 65,535 at exit and `close_range`, and above 16,383 at exec. Each table that is longer adds one to
//!   [`Counters::untracked`](crate::Counters::untracked), which also counts memory that could not be read.
//! - A call that seccomp or a tracer answers in the kernel's place with success is taken for one that took place.
//!
//! When processes share a table (`clone` with `CLONE_FILES`) each open is reported for the process that made it, the final closes for the last one.
//! Events of threads that run at the same time may come in another order than their changes: the numbers add up, the order need not.
//!
//! # Filters
//!
//! With a list of system calls, exec, exit and `io_uring` are reported only when `execve` or `execveat`, `exit` or `exit_group`, `io_uring_enter` are in it.
//!
//! # Compared with bpftrace
//!
//! Counting `sys_exit_openat`, `dup`, `socket`, `pipe2`, `eventfd2` and `close` with bpftrace gives the same numbers on the same work
//! (a loop of 1,009 rounds that opens six descriptors and closes them). It sees one call where `pipe2` makes two descriptors, and nothing of what exec and exit close.
//!
//! # Summary
//!
//! [`FdSummary`](kerno_model::FdSummary) needs none of the hooks above, so it costs nothing between two samples: an iterator counts the bits of every process's
//! table (a leader that has exited leaves its table to its threads). What the descriptors are is read from `/proc/PID/fd` only
//! of processes whose number keeps growing, at most 16, once when that shows and once at the end. kcmp(2) tells copies of one
//! open file from files that were opened again.

mod event;
mod kinds;
mod loader;
mod sampler;

pub use event::{FdEvent, FdOp, FdSource};
pub use loader::FdTrackLoader;
pub(crate) use sampler::sampler;
