//! Putting programs into the kernel and reading what they say: host facts, loaders, filters, rings, loss.

mod btf;
mod cancel;
mod cgroup;
mod counters;
mod error;
mod handle;
mod host;
mod loader;
mod options;
mod plan;
mod ring;
mod set;
mod stream;
mod sys;

#[cfg(test)]
pub(crate) use btf::Btf;
pub use cancel::CancelToken;
pub use counters::Counters;
pub use error::{LoadError, Unavailable};
pub use handle::{Handle, Prepared};
pub use host::{Capability, Host, KernelVersion};
pub use loader::{Availability, Loader, SignalLoader};
pub use options::{Filter, FilterKind, Options};
pub(crate) use plan::{Hook, Plan, Signal};
pub use set::LoaderSet;
pub use stream::{Batch, Events, StreamError};
