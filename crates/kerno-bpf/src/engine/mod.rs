//! The summary plane: what the kernel side adds up by itself, read once per sample, and judged later.
//!
//! An [`Observer`] loads every signal's summary programs, samples what only shows by looking twice (sizes, pressure, states),
//! and at the end of a window gives a [`Window`](kerno_model::Window): one value with everything that rules, reports and other consumers need. No event
//! crosses to user space for it. An [`Engine`] has an observer in a thread of its own and gives each window to all who subscribed.

mod cgroups;
pub(crate) mod cpu_clock;
mod cumulative;
mod engine_thread;
#[cfg(test)]
mod gap_tests;
mod host_facts;
mod identities;
mod membership;
mod mounts;
mod naming;
mod observer;
mod pace;
mod pacing;
mod pressure;
mod proc_file;
mod resolver;
mod sampler;
mod tasks;
mod track;
mod unseen;
mod watchdog;
mod windows;

/// For keys that the kernel chooses (ids, addresses), where hashing is much of the work.
pub(crate) type FastMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

pub use engine_thread::Engine;
pub use observer::{Observer, ObserverOptions, Spent};
pub use watchdog::Overrun;
pub use windows::{Next, Windows};

pub(crate) use cgroups::{CgroupDir, Hierarchy, WalkAge, read_numbers};
pub(crate) use cumulative::{Cumulative, Delta, Gap, Gaps, is_gone};
pub(crate) use mounts::MountWatch;
pub(crate) use pace::Pace;
pub(crate) use pressure::PressureMeter;
pub(crate) use proc_file::ProcFile;
pub(crate) use resolver::{Late, Question, Resolver};
pub(crate) use sampler::{Sampler, Tick};
pub(crate) use tasks::{ProcessAccount, Tasks};
pub(crate) use unseen::proc_has_host_pids;
