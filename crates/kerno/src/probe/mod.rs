//! Putting programs into the kernel and reading what they say: host facts, loaders, filters, rings, loss.

mod btf;
mod cancel;
mod cgroup;
mod counters;
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
pub use handle::{Handle, Prepared};
pub use host::{Capability, Host, KernelVersion};
pub(crate) use loader::Signal;
pub use loader::{Availability, LoadError, Loader, SignalLoader, Unavailable};
pub use options::{Filter, FilterKind, Options};
pub(crate) use plan::{Hook, Plan};
pub use set::LoaderSet;
pub use stream::{Batch, Events, StreamError};
