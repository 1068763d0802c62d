//! Every request that a disk served: how long it waited and took, who submitted it, how it ended.
//!
//! | | |
//! |---|---|
//! | hooks | `tp_btf/block_io_start` (Linux 6.5), `block_rq_insert`, `block_rq_issue`, `block_rq_requeue`, `block_rq_merge`, `block_rq_complete` |
//! | minimum kernel | 5.10; before 6.5 `block_getrq` stands in for `block_io_start` |
//! | cost | three or four looks into an array of sets a request, 0.1 to 0.2 µs each |
//! | kernel memory | 1.7 MiB: 16,384 requests at once on all disks together, in sets of eight; what finds its set full is counted (`untracked`) |
//!
//! # What is measured
//!
//! [`latency_ns`](DiskEvent::latency_ns) is the time the device had the request: from its last issue to the driver until its last
//! part was completed. [`queue_ns`](DiskEvent::queue_ns) is the time it waited in the I/O scheduler before that, and 0 when it went
//! straight to the driver. A request that a busy device gives back, or completes in part only, goes on waiting. The minimum-latency filter looks at the
//! sum of both, so nothing that was slow for its submitter is hidden.
//!
//! One event is one request. The block layer merges neighbouring bios into one request and splits large ones into several, so
//! events count as `/sys/block/*/stat` does: its reads, discards and flushes are just those events; its writes are the write
//! events, the write-zeroes and, beside those, the empty flushes, which it counts as writes of no sectors.
//!
//! # Who is named
//!
//! The process, thread, cgroup and name are those of the task that submitted the request; the process filters look at it, too.
//! For direct I/O, reads and `fsync` that is the task that wanted it. **Buffered writes** reach the disk from a kernel worker
//! or a file system's journal thread: then that is the submitter, and not the task that dirtied the pages. A cache flush is
//! carried out by a kernel worker for all who wait for one; it is put down to the first of them that passes the filters. Where a
//! bio was merged into another task's request, the request is the other task's.
//!
//! # What is not seen
//!
//! - Time before a bio becomes a request: I/O limits of cgroups (`io.max`, blkio throttling) and waiting for a free request. It
//!   shows in `io.stat`, in pressure stall information and in the task's own block delay.
//! - Bio-based drivers (device mapper, md, zram, multipath): they have no requests. What they send to the disks below is seen there.
//! - Partitions: device and sector are those of the whole disk. Paths of a multipath NVMe disk are hidden disks, numbered 0:0.
//! - Requests that had begun when the programs were attached. Before Linux 6.5 the first sight of a request is its insert
//!   or issue, which may happen in a kernel worker.
//!
//! A request that no room is left for is not reported, and [`Counters::untracked`](crate::Counters::untracked) counts it. So it does
//! for one whose completion the kernel did not show to the program, as soon as the request's memory is used again; on most kernels that
//! is a run missed by recursion, but a kernel may also keep programs from running while certain tasks are current, and a
//! completion is handled on top of whatever task it interrupts.
//!
//! # The summary
//!
//! [`DiskSummary`](kerno_model::DiskSummary) has the same requests added up in the kernel: by device and kind with histograms of both times, by submitter, and
//! failures by error. One more MiB of kernel memory for these. From Linux 6.5 on it needs no hook on insertions: a wait begins when the
//! kernel made the request, by its own note of that. Beside them it has what the kernel counts anyway: how
//! busy devices are (`/proc/diskstats`), how full file systems are (statvfs(2); never of network or FUSE file systems, which may not
//! answer), which of them the kernel has made read-only, and how much of their own I/O limits cgroups use, which no request shows. File
//! systems are those that this process's mount namespace has.
//!
//! Who writes through the page cache to which device is asked of `/proc`, a few processes a sample: those that made most dirty since the one
//! before, by the files that they have open, and each thread in uninterruptible sleep, whether it is in `balance_dirty_pages`. One that came
//! and went between two samples is not asked. Deleted files that are still open are looked for where less than a tenth of a file system is
//! left: by the names of descriptors and mappings, their mounts, and loop devices. Only those found are asked for their size.
//!
//! # Compared with biolatency and bitesize
//!
//! With fio doing 1991 reads, 2007 writes and 242 flushes, `biolatency -F` counts just these, and so does this signal; `bitesize` has the
//! same sum. They put flushes down to the kernel workers that carry them out, this signal to those who called `fsync`.

mod deleted;
mod device_writers;
mod devices;
mod event;
mod filesystems;
mod limits;
mod loader;
mod sampler;
mod writers;

pub use event::{DiskEvent, DiskFlags, DiskOp};
pub use loader::DiskIoLoader;
pub(crate) use sampler::sampler;
#[cfg(test)]
pub(crate) use sampler::summary_plan;
