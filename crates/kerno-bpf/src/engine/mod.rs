//! The summary plane: watches a machine through sums that the kernel side keeps. No event crosses to user space.
//!
//! An [`Observer`] loads the summary programs of every signal, samples what has to be read repeatedly (sizes, pressure, states), and
//! returns a [`Window`](kerno_model::Window) at the end of each window: everything that rules, reports and other consumers need.

mod cgroups;
mod cumulative;
mod error;
mod fast_map;
#[cfg(test)]
mod gap_tests;
mod host_facts;
mod identities;
mod membership;
mod observer;
mod pace;
mod pressure;
mod proc_file;
mod sampler;
mod tasks;
mod track;
mod unseen;

pub use error::WatchError;
pub use observer::{Observer, ObserverOptions, Spent};

pub(crate) use cgroups::{CgroupDir, Hierarchy, WalkAge, read_numbers};
pub(crate) use cumulative::{Cumulative, Delta, Gap, Gaps, is_gone};
pub(crate) use fast_map::FastMap;
use host_facts::host_facts;
pub(crate) use pace::Pace;
pub(crate) use pressure::PressureMeter;
pub(crate) use proc_file::ProcFile;
pub(crate) use sampler::{Sampler, Tick};
pub(crate) use tasks::{ProcessAccount, Tasks};
pub(crate) use unseen::proc_has_host_pids;
