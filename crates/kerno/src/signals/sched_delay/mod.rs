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

mod event;
mod loader;

pub use event::{SchedEvent, WaitReason};
pub use loader::SchedDelayLoader;
