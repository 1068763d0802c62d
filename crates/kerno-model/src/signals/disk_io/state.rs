//! What has become of a file system, and what of it is in use though no path leads there.

use serde::{Deserialize, Serialize};

use crate::vocabulary::vocabulary;

vocabulary! {
    /// How the kernel has taken the right to write from a file system that was mounted to be written to.
    ForcedState {
        /// Made read-only by the file system itself (`errors=remount-ro` of ext4 before 6.15, btrfs, f2fs, FAT): the mount still says rw.
        ReadOnly = "read_only",
        /// The same with ext4 since 6.15, where it shows as an option of its own.
        EmergencyReadOnly = "emergency_ro",
        /// Shut down: reads fail, too.
        Shutdown = "shutdown",
        ..
        /// It has not.
        None = "none"
    }
}

/// A file without a name any more that still takes room, because somebody has it open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DeletedFile {
    /// Where it was, as the one who has it open saw it; lossy.
    pub path: String,
    /// Its inode.
    pub inode: u64,
    /// What it takes, in bytes. Of one that only a loop device has, the size of the device: it may take less.
    pub bytes: u64,
    /// The processes that have it open or mapped. Bounded.
    pub holders: Vec<DeletedHolder>,
    /// The loop device that it is behind.
    pub loop_device: Option<String>,
}

/// A process that has a deleted file open or mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DeletedHolder {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// A descriptor of it; `None` if it is only mapped.
    pub fd: Option<u32>,
}
