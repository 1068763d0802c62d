//! Recorded windows with what is to be found in them: `tests/corpus` of the workspace.
//!
//! The fault lab records them, from faults and loads that it makes for real: `CASE.json` is the window, as `kerno doctor --save` writes
//! it, and `CASE.found.json` a [`Record`]. What is [`Expected`] comes from the lab, which knows what it made; what was [`found`](Record::found)
//! is kept beside it, so that each change of a judgement shows in a diff.

mod outline;
mod truth;

#[cfg(test)]
mod blanked;
#[cfg(test)]
mod merged;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod windows;

pub use outline::Outline;
pub use truth::{Assessment, Expected, Look, Mark, Verdict, alarms, assess, whole};

use serde::{Deserialize, Serialize};

/// The folder of the corpus, from the workspace's.
pub const FOLDER: &str = "tests/corpus";

/// The file in it that names each of the lab's cases, one a line.
pub const INDEX: &str = "INDEX";

/// The most that a recorded window takes, in bytes.
pub const MAX_BYTES: usize = 96 << 10;

/// The name of the machine of all recorded windows.
pub const HOSTNAME: &str = "lab";

/// The boot of all recorded windows.
pub const BOOT_ID: &str = "00000000-0000-4000-8000-000000000000";

/// The file of a case's window.
pub fn window_file(case: &str) -> String {
    format!("{case}.json")
}

/// The file of a case's [`Record`].
pub fn record_file(case: &str) -> String {
    format!("{case}{RECORD_SUFFIX}")
}

/// What the names of files of [`Record`]s end with.
pub const RECORD_SUFFIX: &str = ".found.json";

/// What is to be found in a window, and what is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What was made, in a few words.
    pub about: String,
    /// The root causes that are there, as who made them knows. None for a load that nothing is wrong with: then there is to be no
    /// root cause of warning or more.
    pub expected: Vec<Expected>,
    /// What the rules found, root causes first to last, with what follows from each.
    pub found: Vec<Outline>,
}
