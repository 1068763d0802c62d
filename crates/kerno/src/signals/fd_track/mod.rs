//! Every file descriptor that a process gets or gives up, by its number.
mod event;
mod loader;

pub use event::{FdEvent, FdOp, FdSource};
pub use loader::FdTrackLoader;
