//! Loads programs into the kernel and reads what they send: host facts, loaders, filters, rings, loss.

mod btf;
mod cancel;
mod cgroup;
pub mod clock;
mod counters;
mod error;
pub(crate) mod faults;
mod group;
mod handle;
mod host;
mod kernel_memory;
#[cfg(test)]
mod kernels;
mod loader;
pub(crate) mod meminfo;
mod object;
mod options;
pub(crate) mod parallel;
mod plan;
mod programs;
mod ring;
mod set;
mod signal;
mod stream;
mod summary_plane;
pub(crate) mod sys;

#[cfg(test)]
pub(crate) use btf::Btf;
pub use cancel::CancelToken;
pub(crate) use cgroup::{unescape_mount, v2_mount};
pub use counters::Counters;
pub(crate) use error::chain;
pub use error::{ErrorKind, LoadError, Unavailable};
pub(crate) use group::{Group, Member};
pub use handle::{Handle, Prepared};
pub use host::{Capability, Host, running_kernel};
pub(crate) use host::{in_initial_pid_namespace, possible_cpus};
pub use kernel_memory::kernel_memory_bytes;
pub use loader::{Availability, Loader, SignalLoader};
pub(crate) use object::{Iteration, Object, Stop};
pub use options::{Filter, FilterKind, Options};
pub(crate) use plan::{Hook, Plan};
pub use set::LoaderSet;
#[doc(hidden)]
pub use set::prepare_all;
pub(crate) use signal::Signal;
pub use stream::{Batch, Events, StreamError};
pub(crate) use summary_plane::{KernelHash, MappedBlocks, SummaryPrograms, VolatileBlock};
