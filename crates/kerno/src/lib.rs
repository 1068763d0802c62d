//! Why is this Linux machine slow or failing? Kerno asks the kernel: nine signals, each with typed events and with sums kept in the
//! kernel, and a doctor that says what is wrong, who causes it and what to do.
//!
//! This crate is the front of several, for programs that use Kerno as a library: what is here stays.
//!
//! | module | what | crate |
//! |---|---|---|
//! | [`model`] | windows, findings, incidents as data | `kerno-model` |
//! | [`doctor`], [`report`] | from windows to findings to what people read | `kerno-doctor` |
//! | [`engine`], [`probe`], [`event`], [`signals`] | loading programs, events, watching | `kerno-bpf` |
//!
//! # Events
//!
//! A [`Loader`] puts one signal's programs into the kernel and hands out its events; a [`LoaderSet`] does so for several.
//! Events arrive as [`RawEvent`]s that borrow from the kernel's ring buffer; [`RawEvent::decode`] gives the typed event
//! without copying. Filters ([`Options`]) are applied in the kernel, so what is not asked for costs next to nothing.
//!
//! ```no_run
//! use kerno::{CancelToken, Loader, Options, SyscallLatencyLoader};
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
//! # What is wrong
//!
//! An [`engine::Observer`] watches without events: the kernel side adds up, and each window gives one [`model::Window`].
//! [`doctor::judge`] makes ranked findings of it: data, without a word of prose. [`doctor::words`] puts one into words, and [`report`]
//! makes a whole report as text, Markdown or JSON.
//!
//! ```no_run
//! use kerno::CancelToken;
//! use kerno::doctor::{Thresholds, judge, words};
//! use kerno::engine::{Observer, ObserverOptions};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut observer = Observer::start(ObserverOptions::default())?; // unloads when dropped
//! let window = observer.watch(Duration::from_secs(10), &CancelToken::new()?)?;
//! for finding in judge(&window, &Thresholds::default()) {
//!     println!("{}: {}", finding.severity, words(&finding).title);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! That is for one window at a time. An [`engine::Engine`] watches in a thread of its own and gives each window to any number of consumers.
//! Each has a bounded queue: one that is slow loses the oldest windows, which is counted, and delays nobody.
//!
//! ```no_run
//! use kerno::doctor::{Thresholds, judge};
//! use kerno::engine::{Engine, ObserverOptions};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::start(ObserverOptions::default())?; // unloads when dropped
//! let windows = engine.subscribe(8)?;
//! engine.watch(Duration::from_secs(30));
//! for window in windows {
//!     println!("{} findings", judge(&window, &Thresholds::default()).len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it needs
//!
//! Linux 5.10 or newer with BTF (`/sys/kernel/btf/vmlinux`), and `CAP_BPF` with `CAP_PERFMON` (root has both).
//! Process, thread and cgroup ids are the initial namespaces' ones: run it in the host's pid namespace.

pub use kerno_bpf::{engine, event, probe, signals};

/// Where the time of a few processes goes, and whom they wait for.
pub mod why {
    pub use kerno_bpf::why::{Target, WhyError, WhyOptions, WhyWatch};
    pub use kerno_doctor::why::{explain, observed};
}
/// What can run out, how full it is, and how long it lasts.
pub mod limits {
    pub use kerno_bpf::limits::survey;
    pub use kerno_doctor::limits::report;
}
pub use kerno_doctor::report;

/// The kernel's own log: reading it, and what its messages mean.
pub mod kernel_log {
    pub use kerno_bpf::kmsg::{KernelLog, KernelLogError, KernelRecord, NewRecords, read};
    pub use kerno_doctor::kernel_log::{Advice, Entry, Explanation, MAX_MESSAGE_BYTES, entries, explain};
}
pub use kerno_model as model;

/// From windows to findings: the rules, their thresholds, and the life of a finding over windows.
pub mod doctor {
    // Not the tables of what is normal on Linux: they grow with every rule, and are no promise.
    pub use kerno_doctor::{
        Difference, Rule, ThresholdError, ThresholdInfo, Thresholds, Trends, Words, compare, incidents, judge,
        objective, objectives, ranked, redaction, rule_by_id, rules, words,
    };
}

pub use kerno_bpf::{
    Ancestor, Availability, Batch, CancelToken, Comm, Counters, DecodeError, DiskEvent, DiskFlags, DiskIoLoader,
    DiskOp, DnsEvent, DnsName, DnsOutcome, DnsProtocol, DnsQueryLoader, ErrorKind, Event, EventType, Events, FdEvent,
    FdOp, FdSource, FdTrackLoader, FileAuditLoader, FileEvent, Filter, FilterKind, Handle, Host, LifeEvent, LifeOp,
    LoadError, Loader, LoaderSet, MAX_FILENAME_LEN, OomEvent, OomScope, OomTrackLoader, OpenFlags, OpenVia, Options,
    PathKind, Prepared, ProcessLifeLoader, RawEvent, RawEventBuf, SchedDelayLoader, SchedEvent, StreamError,
    SyscallEvent, SyscallLatencyLoader, TASK_COMM_LEN, TcpDirection, TcpEvent, TcpEventType, TcpFamily,
    TcpMonitorLoader, TcpResetBy, TcpState, TypedEvent, Unavailable, WaitReason,
};
