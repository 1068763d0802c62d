//! Processes: where they come from, which programs they execute, how they end.
//!
//! | | |
//! |---|---|
//! | hooks | `tp_btf/sched_process_fork`, `sched_process_exec`, `sched_process_exit`; the summary also `sched_process_free` |
//! | minimum kernel | 5.10 |
//! | cost | about 1 µs for each of these; nothing for anything else |
//! | kernel memory | 2 MiB for the summary |
//!
//! What `execsnoop` and `exitsnoop` tell, in one stream: [`LifeOp::Fork`], [`LifeOp::Exec`] with the file and the arguments, and
//! [`LifeOp::Exit`] with how long the process lived and how it ended. Each has the user, the cgroup and the [ancestors](Ancestor).
//!
//! # What an event is about
//!
//! A process, not a thread. It ends once, when its last thread ends; what wait(2) will tell its parent is [`LifeEvent::status`]. A thread
//! that executes a program ends the others of its process, which is no end of the process.
//!
//! Filters on process, user, name and cgroup apply to the process; for a fork, to the one that forks. `--errors-only` leaves the ends that
//! have another status than 0.
//!
//! # What is not seen
//!
//! - An exec that fails. [`LifeEvent::no_exec`] of the end tells that a child never executed anything: with exit code 127 or 126 of a shell's
//!   child, 203 of systemd's or 111 of runsv's, the program could not be started.
//! - More than the first 256 bytes of the arguments. [`LifeEvent::args_bytes`] says how many there are.
//! - Arguments that are not in memory any more when the exec is over. They were written a moment before, so this is rare.
//! - Until Linux 6.15, the status of a process whose last two threads end at the same moment, by themselves and not by exit(3), may be that
//!   of the wrong one.
//!
//! # The summary
//!
//! [`LifeSummary`](kerno_model::LifeSummary) is kept in the kernel by programs of its own. A program is told apart by who started it, the name
//! of its cgroup, and its name. *Who started it* is the process that forked, as seen at the fork: a process whose parent has ended is adopted by
//! another one, which has not started it. Of processes that are older than the summary nobody knows it.
//!
//! What starts many processes is the nearest ancestor that had lived for a second: of a script that runs for hours and all that it is made of,
//! the script. The CPU time of processes is complete when their parents have waited for them; that of children whose parent ignores SIGCHLD
//! as well.
//!
//! The maps keep what is used: where a build starts thousands of programs from scripts that end at once, those go first.
//! [`LifeSummary::ends_not_told`](kerno_model::LifeSummary::ends_not_told) says how many ends no program has.

mod event;
mod loader;
mod sampler;
mod zombies;

pub use event::{Ancestor, LifeEvent, LifeOp};
pub use loader::ProcessLifeLoader;
pub(crate) use sampler::{sampler, sampler_of, summary_plan};
