//! Windows and incidents on disk: what happened yesterday, and for months, within a bound.
//!
//! A [`Store`] is the one writer of a directory. It appends [windows](kerno_model::Window), merges older ones into coarser ones, and keeps
//! incidents and small named values. [`Reader`]s need no lock: they work beside a writer in another process, on a copy from another machine,
//! and on a file system that is read-only.
//!
//! - What was appended is on the disk when [`Store::append`] returns: it survives `kill -9` and power failures.
//! - The store never takes more than its cap, or than a share of its file system. When there is no room, the oldest goes first.
//! - A full disk stops writing only. [`Store::status`] says since when and why; each further window tries again.
//! - Damaged parts of files are skipped, and told of. Everything else is read.
//! - Windows are ordered as they were observed, whatever the wall clock said. Windows of different boots are never merged.
//!
//! Everything is synchronous. Times are nanoseconds since 1970 ([`Timestamp`]), by the wall clock as it was when a window was observed.
//!
//! ```
//! use kerno_model::Window;
//! use kerno_store::{Reader, Settings, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let (mut store, notes) = Store::open(dir, Settings::default())?;
//! notes.iter().for_each(|note| eprintln!("{note}"));
//! let mut window = Window::default();
//! (window.schema_version, window.span.started_unix, window.span.seconds) = (2, 1_784_563_200.0, 10.0);
//! store.append(&window)?;
//!
//! let reader = Reader::open(dir)?;
//! let found = reader.at(1_784_563_205_000_000_000, std::time::Duration::from_secs(60))?;
//! assert_eq!(found.map(|found| found.windows), Some(1));
//! # Ok(())
//! # }
//! ```

mod catalog;
mod codec;
mod cover;
mod error;
mod file;
mod format;
mod found;
mod incidents;
mod lock;
mod mend;
mod pack;
mod reader;
#[cfg(test)]
mod sample;
mod scan;
mod settings;
mod state;
mod status;
mod store;
mod tier;
mod window_files;

pub use error::{Note, StoreError, StoreErrorKind};
pub use found::{Found, Interval, Stretch};
pub use reader::{Coverage, Damage, Reader, Windows};
pub use settings::{Settings, Tier};
pub use status::{Aside, Failing, Status, TierStatus};
pub use store::Store;

/// Nanoseconds since 1970.
pub type Timestamp = u64;
