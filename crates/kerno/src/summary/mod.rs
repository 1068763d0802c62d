//! The summary plane: what the kernel side adds up by itself, read once per sample, and judged later.
//!
//! An [`Observer`] loads every signal's summary programs, samples what only shows by looking twice (sizes, pressure, states),
//! and at the end of a window gives a [`Signals`]: one value with everything that rules, reports and other consumers need. No event
//! crosses to user space for it.

mod cgroups;
mod histogram;
mod host_facts;
mod identities;
mod membership;
mod observer;
mod pace;
mod pressure;
mod proc_file;
mod process;
mod series;
mod signals;
mod tasks;
mod track;
mod unseen;

/// For keys that the kernel chooses (ids, addresses), where hashing is much of the work.
pub(crate) type FastMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

pub(crate) use histogram::BUCKETS;
pub use histogram::{Histogram, Percentiles};
pub use observer::{Observer, ObserverOptions, Spent};
pub use process::{Container, Process};
pub use series::{Series, Trend};
pub use signals::{CostOfObserving, ErrnoCount, HostFacts, Missing, SCHEMA_VERSION, Signals, Window};
pub use tasks::TaskUse;

pub(crate) use cgroups::{CgroupDir, Hierarchy, WalkAge, read_numbers};
use host_facts::host_facts;
pub(crate) use observer::{Sampler, Tick};
pub(crate) use pace::Pace;
pub(crate) use pressure::PressureMeter;
pub(crate) use proc_file::ProcFile;
pub(crate) use tasks::{ProcessAccount, Tasks};
pub(crate) use unseen::proc_has_host_pids;
