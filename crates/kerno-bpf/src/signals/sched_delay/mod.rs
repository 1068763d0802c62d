//! How long tasks that could run waited for a CPU, and who held it until then.
//!
//! | | |
//! |---|---|
//! | hooks | `tp_btf/sched_switch`, `tp_btf/sched_wakeup`, `tp_btf/sched_wakeup_new` |
//! | minimum kernel | 5.10 |
//! | cost | a timestamp and an array slot where a wait begins and where it ends; a record for each wait that lasted long enough |
//! | kernel memory | 16 bytes a thread id, 4 MiB at most |
//!
//! A busy machine switches tasks 100,000 times a second: set [`Filter::min_latency`](crate::Filter::min_latency) to see the waits
//! that matter. All filters are about the task that waited.
//!
//! A task that wakes up, is created, or loses the CPU while it could have run on, waits until it runs again, on whichever CPU. The
//! sum of a thread's waits is the second figure of `/proc/PID/task/TID/schedstat`.
//!
//! Not seen: waits that were under way at load; time that a hypervisor, an interrupt or a lock took from a task that had its CPU.
//! A CPU limit of a cgroup (throttling) does show: the throttled task is runnable and gets no CPU. Where two live threads share a
//! start slot (ids that differ by a multiple of 262,144), the earlier wait is not reported and
//! [`Counters::untracked`](crate::Counters::untracked) counts it.
//!
//! # Summary
//!
//! The same waits, added up in the kernel ([`SchedSummary`](kerno_model::SchedSummary)): a histogram a CPU of waits after wake-ups and one of waits after being
//! preempted. A switch and a wake-up take the two timestamps and array look-ups of the table above; measured with two processes that
//! wake each other on one CPU, all of it costs 1.1 to 1.25 times what programs cost that only take the timestamps (about 130 ns a
//! switch and wake-up). Only waits of 5 ms and more after a wake-up are told apart by process, with whoever held the CPU meanwhile.
//!
//! Beside it are looked at: `/proc/stat` (use, interrupts, steal), `/proc/pressure/cpu`, `cpu.stat` of the cgroups with a quota (v1
//! and v2), and the tasks that sleep uninterruptibly, with where they sleep.
//!
//! Of threads that have slept for two seconds, the call they sleep in is read once a sleep (`/proc/PID/syscall`), some hundred in a sample.
//! Where that is a write to a pipe or socket, a lock or a connect, it is looked at the end of the window who has the other end
//! ([`Stall`](kerno_model::Stall)); only then all descriptors are listed. Beside 2,000 idle processes `kerno doctor` used 6 to 10 % more for it.
//! A sleep that ends before the window does is not followed. Unix sockets that listen are looked at four times a window, in Kerno's own network
//! namespace.
//!
//! # Compared with
//!
//! `runqslower` and `runqlat` (libbpf-tools) find the same waits: on the same load with the same limit, 989 and 989; of one process
//! that slept 1,009 times, the same number. Like
//! `runqslower -P`, an event tells who held the CPU before; unlike there, also what made the task wait.
//!
//! `/proc/PID/schedstat` sums up the same waits by the run queue's clock. The kernel does not read that clock again for a switch that a
//! wake-up asked for, so such a wait is shorter there, often 0; here it lasts until the switch.
//!
//! There are virtual machines whose kernel traces no switch away from the threads of process 1, for no tracer. Whoever gets the CPU
//! right after one of these is not seen there.

mod blocked;
mod cpu_times;
mod event;
mod groups;
mod loader;
mod sampler;
mod stalls;
mod throttle;

pub use event::{SchedEvent, WaitReason};
pub use loader::SchedDelayLoader;
pub(crate) use sampler::sampler;
#[cfg(test)]
pub(crate) use sampler::summary_plan;
pub(crate) use stalls::standing_state;
