//! The summary plane: what the kernel side adds up by itself, read once per sample, and judged later.
//!
//! An [`Observer`] loads every signal's summary programs, samples what only shows by looking twice (sizes, pressure, states),
//! and at the end of a window gives a [`Window`](kerno_model::Window): one value with everything that rules, reports and other consumers need. No event
//! crosses to user space for it.

mod cgroups;
mod cumulative;
#[cfg(test)]
mod gap_tests;
mod host_facts;
mod identities;
mod membership;
mod observer;
mod pace;
mod pressure;
mod proc_file;
mod tasks;
mod track;
mod unseen;

/// For keys that the kernel chooses (ids, addresses), where hashing is much of the work.
pub(crate) type FastMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

pub use observer::{Observer, ObserverOptions, Spent};

pub(crate) use cgroups::{CgroupDir, Hierarchy, WalkAge, read_numbers};
pub(crate) use cumulative::{Cumulative, Delta, Gap, Gaps, is_gone};
use host_facts::host_facts;
pub(crate) use observer::{Sampler, Tick};
pub(crate) use pace::Pace;
pub(crate) use pressure::PressureMeter;
pub(crate) use proc_file::ProcFile;
pub(crate) use tasks::{ProcessAccount, Tasks};
pub(crate) use unseen::proc_has_host_pids;
