//! Whom the kernel killed for want of memory, how large it was, and who needed the memory.
//!
//! | | |
//! |---|---|
//! | hooks | `tp_btf/mark_victim`; for the scope `tp_btf/mm_vmscan_memcg_reclaim_begin` and `tp_btf/mm_vmscan_direct_reclaim_begin`; before Linux 6.9 also `tp_btf/signal_generate` |
//! | minimum kernel | 5.10 |
//! | cost | nothing until memory runs short, then one array store a reclaim; before Linux 6.9 one comparison a signal |
//! | kernel memory | 64 KiB |
//!
//! One event for each victim, also where a cgroup dies as a whole (`memory.oom.group`). All filters are about the victim.
//!
//! The sizes are those of the kernel's own log line. Since Linux 6.2 the kernel keeps them per CPU and adds them up now and then: each
//! CPU may hold back some pages (the larger of 32 and twice the number of CPUs). The log line had the same error until kernels that add
//! up the rest for it.
//!
//! [`OomEvent::scope`] says whose memory ran out: the machine's or a cgroup's. The two have different cures. It is what the task that
//! needed memory tried to reclaim last.
//!
//! Not seen: kills by programs (systemd-oomd, earlyoom); allocations that fail without a kill. A process that is dying already when it
//! is chosen is an event too, though the kernel then sends no signal and logs nothing. Before Linux 6.9 the hook tells only a pid; the
//! victim is then taken from the signal that is sent to it, and where there is none, [`OomEvent::known`] is false and filters other
//! than the one by pid leave the event out.
//!
//! # Summary
//!
//! [`OomSummary`](kerno_model::OomSummary): the kills, taken from a bounded map in the kernel (128 between two samples, about 110 KiB) with the names of
//! the victim's memory cgroups, since those are often gone right after; available memory, PSI and the kernel's own reclaim
//! counts; and the cgroups that have a limit (v1 and v2, up to 256), with what they use at each sample. Page cache does not count as use:
//! it is dropped when memory is needed. Shared memory and tmpfs do.
//!
//! # Compared with
//!
//! The kernel's log (`dmesg`) has one line for each kill, with the same figures, but not the cgroup's id or the score, and who needed the
//! memory only some lines above. `oomkill` (libbpf-tools) hooks the function `oom_kill_process`, so it needs kprobes, and shows one victim of a group
//! kill.

mod event;
mod kills;
mod limits;
mod loader;
mod sampler;

pub use event::{OomEvent, OomScope};
pub use loader::OomTrackLoader;
pub(crate) use sampler::sampler;
#[cfg(test)]
pub(crate) use sampler::summary_plan;
