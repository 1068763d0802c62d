//! Which files were opened, by whom and how, and which could not be.
//!
//! | | |
//! |---|---|
//! | hooks | `tp_btf/sys_exit`; `tp_btf/io_uring_complete` for what `io_uring` opens (Linux 6.0) |
//! | minimum kernel | 5.10 |
//! | cost | an array slot for a call that opens nothing, beside the kernel's own slow path for traced calls; about 1 µs for an open that is reported, two small reads for each part of its path among it |
//! | kernel memory | 10 KiB a CPU |
//!
//! Calls: `open`, `openat`, `openat2`, `creat`, `open_by_handle_at`, native and 32-bit. Cheap filters come first: an open that the
//! process, user, name, cgroup or outcome rules out has no path made for it.
//!
//! # The path
//!
//! [`PathKind`] says what the path of an event is. When a file was opened, it is **that file's** path, read from the descriptor: relative
//! names, symbolic links and `..` are resolved, and a string that another thread changes during the call makes no difference. It starts
//! at the root of the process, so that inside a container or a chroot it is the path that the process sees, just as the link
//! `/proc/PID/fd/N` does. The prefix filter applies to it byte for byte: `/etc` lets `/etcetera` pass, `/etc/` does not.
//!
//! When the open failed, it is what was asked for, with the working directory or the given folder put before it; links and `..` stay as
//! they were written.
//!
//! The first 255 bytes are kept, so that prefixes stay comparable; `truncated` marks longer ones. Of a path with more than 96 names
//! and mount points, or of more than 4095 bytes, only the last names can be found: it is [`PathKind::Relative`].
//!
//! Where it differs from `/proc/PID/fd/N`: pipes and namespace files, opened again through `/proc`, have the requested path, not `pipe:[8]`.
//! A file opened by a handle whose folders the kernel has not looked up yet has its name alone or no path, where `/proc` shows `/`.
//!
//! # What is not seen
//!
//! - Files that the kernel opens by itself: the program and the interpreter of an exec, core dumps, swap files.
//! - Descriptors that come from elsewhere: sockets, pipes, `SCM_RIGHTS`, `pidfd_getfd`, and what was open before it was loaded.
//! - Calls that a tracer cancels, and calls whose caller is killed inside them. (Those that seccomp refuses with an error are seen.)
//! - `io_uring` before Linux 6.0, its opens that ask for no completion (`IOSQE_CQE_SKIP_SUCCESS`), and the paths of its opens that failed.
//!   The paths of those that go into the ring's own table (direct descriptors) are known from Linux 6.13 on.
//! - If another thread closes or replaces the descriptor before the call has returned, the path is the one of the file found there.
//! - A name string that is not in memory when a failed call returns: [`PathKind::Unknown`]. It was read a moment before, so this is rare.
//!   The flags that `openat2` takes from memory are read then as well, except the access mode, which comes from the opened file.
//! - A call that a signal cuts short is told as interrupted, not as failed; when the kernel then makes it again, there are two events.
//!
//! # The summary
//!
//! [`FileSummary`](kerno_model::FileSummary) is kept in the kernel by programs of its own: opens and failures by process, and how many failed on one of the last
//! eight paths that had failed. A process that ends with few of either is forgotten at its exit, so that many short ones do not fill the
//! map; totals have its opens all the same. A call that a signal cuts short is not counted; nor is what `io_uring` opens.
//!
//! # Compared with `opensnoop`
//!
//! The same workload gives the same number of events and the same results as `opensnoop` of the libbpf-tools. `opensnoop` shows the string
//! that was passed, read at entry (`doc`, `/proc/self/status`); here it is the file (`/usr/share/doc`, `/proc/812/status`). It follows
//! neither `creat`, `open_by_handle_at` and 32-bit calls nor `io_uring`.

mod event;
mod loader;
mod open_flags;
mod sampler;

pub use event::{FileEvent, OpenVia, PathKind};
pub use loader::FileAuditLoader;
pub use open_flags::OpenFlags;
pub(crate) use sampler::{sampler, sampler_of, summary_plan};
