//! eBPF kernel observability for Linux: nine signals, each with typed events and with sums kept in the kernel.
//!
//! A [`Loader`] puts one signal's programs into the kernel and hands out its events; a [`LoaderSet`] does so for several.
//! Events arrive as [`RawEvent`]s that borrow from the kernel's ring buffer; [`RawEvent::decode`] gives the typed event
//! without copying. Filters ([`Options`]) are applied in the kernel, so what is not asked for costs next to nothing.
//!
//! ```no_run
//! use kerno_bpf::{CancelToken, Loader, Options, SyscallLatencyLoader};
//! use std::ops::ControlFlow;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut loader = SyscallLatencyLoader::new(Options::default());
//! let _handle = loader.load()?; // detaches and unloads when dropped
//! loader.events(&CancelToken::new()?)?.for_each_raw(|raw| {
//!     if let Ok(event) = raw.decode() {
//!         println!("{event}");
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! A stream is also an [`Iterator`] of copies, for those who keep events. [`LoaderSet`] loads several signals, all or nothing, and
//! prepares all before it attaches the first, so that they start together. [`signals::ALL`] and [`signals::by_name`] find
//! signals by name.
//!
//! # Without events
//!
//! An [`engine::Observer`] watches without events: the kernel side adds up, and each window gives one [`kerno_model::Window`], which
//! `kerno_doctor` judges. An [`engine::Engine`] does so in a thread of its own, for any number
//! of consumers.
//!
//! # What it needs
//!
//! Linux 5.10 or newer with BTF (`/sys/kernel/btf/vmlinux`), and `CAP_BPF` with `CAP_PERFMON` (root has both).
//! Process, thread and cgroup ids are the initial namespaces' ones: run it in the host's pid namespace.

mod calls;
pub mod engine;
pub mod event;
pub mod kmsg;
pub mod limits;
mod names;
pub mod probe;
pub mod signals;
mod waits;
pub mod why;

pub use event::{Comm, DecodeError, Event, EventType, MAX_FILENAME_LEN, RawEvent, RawEventBuf, TASK_COMM_LEN};
pub use probe::{
    Availability, Batch, CancelToken, Counters, ErrorKind, Events, Filter, FilterKind, Handle, Host, LoadError, Loader,
    LoaderSet, Options, Prepared, StreamError, Unavailable,
};
pub use signals::{
    Ancestor, DiskEvent, DiskFlags, DiskIoLoader, DiskOp, DnsEvent, DnsName, DnsOutcome, DnsProtocol, DnsQueryLoader,
    FdEvent, FdOp, FdSource, FdTrackLoader, FileAuditLoader, FileEvent, LifeEvent, LifeOp, OomEvent, OomScope,
    OomTrackLoader, OpenFlags, OpenVia, PathKind, ProcessLifeLoader, SchedDelayLoader, SchedEvent, SyscallEvent,
    SyscallLatencyLoader, TcpDirection, TcpEvent, TcpEventType, TcpFamily, TcpMonitorLoader, TcpResetBy, TcpState,
    TypedEvent, WaitReason,
};
