//! The summary plane: watches a machine through sums that the kernel side keeps. No event crosses to user space.
//!
//! An [`Observer`] loads the summary programs of every signal, samples what has to be read repeatedly (sizes, pressure, states), and
//! returns a [`Window`](kerno_model::Window) at the end of each window: everything that rules, reports and other consumers need. An
//! [`Engine`] does so in a thread of its own and hands each window to every consumer that has subscribed.

mod budget;
mod cgroups;
pub(crate) mod cpu_clock;
mod cumulative;
mod engine_thread;
mod error;
mod fast_map;
#[cfg(test)]
mod gap_tests;
mod governing;
mod governor;
mod host_facts;
mod identities;
mod kernel_log;
mod limit_watch;
mod loading;
mod membership;
mod meter;
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

pub use budget::Budget;
pub use engine_thread::Engine;
pub use error::WatchError;
pub use observer::{Observer, ObserverOptions, Spent};
pub use watchdog::Overrun;
pub use windows::{Next, Windows};

pub(crate) use cgroups::{CgroupDir, Hierarchy, WalkAge, read_numbers};
pub(crate) use cumulative::{Cumulative, Delta, Gap, Gaps, is_gone};
pub(crate) use fast_map::FastMap;
pub(crate) use limit_watch::{Failure, may_be_a_limit};
pub(crate) use membership::membership;
pub(crate) use mounts::{MountWatch, host_mounts};
pub(crate) use pace::Pace;
pub(crate) use pressure::PressureMeter;
pub(crate) use proc_file::ProcFile;
pub(crate) use resolver::{Late, Question, Resolver};
pub(crate) use sampler::{Sampler, Tick};
pub(crate) use tasks::{ProcessAccount, TaskRow, Tasks};
pub(crate) use unseen::proc_has_host_pids;
