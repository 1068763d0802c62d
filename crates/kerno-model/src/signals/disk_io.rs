mod merge;
mod metrics;
mod state;

use serde::{Deserialize, Serialize};

use crate::vocabulary::vocabulary;
use crate::{ErrnoCount, Histogram, Series};

pub use state::{DeletedFile, DeletedHolder, ForcedState};

vocabulary! {
    /// What a request to a block device does.
    RequestKind {
        /// Reads.
        Read = "read",
        /// Writes.
        Write = "write",
        /// Has the device put on its medium what it has in its cache.
        Flush = "flush",
        /// Tells the device that sectors are no longer needed.
        Discard = "discard",
        ..
        /// Anything else, such as a command that is passed through.
        Other = "other"
    }
}

vocabulary! {
    /// What an I/O limit of a cgroup limits.
    IoLimitKind {
        /// Bytes read a second.
        ReadBytes = "read_bytes",
        /// Bytes written a second.
        WriteBytes = "write_bytes",
        /// Read requests a second.
        ReadRequests = "read_requests",
        /// Write requests a second.
        WriteRequests = "write_requests",
        ..
        /// Anything else.
        Other = "other"
    }
}

impl IoLimitKind {
    /// Its name in the kernel's `io.max`, such as `rbps`.
    pub const fn key(self) -> &'static str {
        match self {
            Self::ReadBytes => "rbps",
            Self::WriteBytes => "wbps",
            Self::ReadRequests => "riops",
            Self::WriteRequests => "wiops",
            Self::Other => "other",
        }
    }

    /// The one of that name in `io.max`.
    pub fn from_key(key: &str) -> Self {
        Self::ALL.iter().copied().find(|kind| kind.key() == key).unwrap_or_default()
    }

    /// It limits bytes, not requests.
    pub const fn is_bytes(self) -> bool {
        matches!(self, Self::ReadBytes | Self::WriteBytes)
    }

    /// It limits reads, not writes.
    pub const fn is_read(self) -> bool {
        matches!(self, Self::ReadBytes | Self::ReadRequests)
    }
}

/// Storage in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DiskSummary {
    /// Each block device that was used.
    pub devices: Vec<DiskDevice>,
    /// Processes by what they submitted themselves to devices. Bounded. Buffered writes are submitted by kernel threads: who caused
    /// those is in each process's `used.write_bytes`.
    pub submitters: Vec<DiskSubmitter>,
    /// On which devices those write that made most pages dirty, and those that the kernel held back because too many were. Bounded.
    pub writers: Vec<DiskWriter>,
    /// Requests that failed, as evidence. Bounded.
    pub failures: Vec<DiskFailure>,
    /// Mounted file systems on storage or in memory.
    pub filesystems: Vec<Filesystem>,
    /// Cgroups whose own limits held back their I/O. Bounded.
    pub throttled: Vec<CgroupIo>,
    /// Share of the window in which some task waited for I/O (PSI), 0 to 1.
    pub some_stalled: Option<f64>,
    /// Share in which all that had work waited for it.
    pub all_stalled: Option<f64>,
    /// Page cache that is to be written, in bytes.
    pub dirty_bytes: Series,
    /// Page cache being written, in bytes.
    pub writeback_bytes: Series,
}

/// A block device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DiskDevice {
    /// `major:minor`
    pub dev: String,
    /// Its name, such as `nvme0n1`.
    pub name: String,
    /// It has moving parts, as far as the kernel knows.
    pub rotational: bool,
    /// Devices or files it is made of (of dm, md, loop).
    pub backing: Vec<String>,
    /// Mount points of file systems on it.
    pub mounts: Vec<String>,
    /// By kind of request.
    pub ops: Vec<DiskOpStat>,
    /// Requests under way, at each sample.
    pub in_flight: Series,
    /// Share of the window in which it had requests under way, 0 to 1. A device that does many at once may be full at 1 or far from it.
    pub utilisation: f64,
    /// How long each request waits and is served, on average, at each sample, in milliseconds.
    pub await_ms: Series,
}

/// One kind of request on one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DiskOpStat {
    /// What the requests do.
    pub op: RequestKind,
    /// Requests that completed.
    pub count: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Failures, by error.
    pub errors: Vec<ErrnoCount>,
    /// From when the kernel made it to its last being given to the device, in nanoseconds: what the I/O scheduler and a busy device kept
    /// it waiting, and the microseconds until it came to them. 0 for a write that had to wait for a flush first, and where the disk
    /// has no I/O scheduler and `queue/iostats` is 0, for the kernel takes no time then.
    pub queue_ns: Histogram,
    /// From then to its completion, in nanoseconds.
    pub device_ns: Histogram,
}

/// What one process submitted to one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DiskSubmitter {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// `major:minor`
    pub dev: String,
    /// Requests.
    pub requests: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Flushes of the device's cache.
    pub flushes: u64,
    /// Time its requests took, queue and device, in nanoseconds.
    pub total_ns: u64,
}

/// A process that writes to files on a device, or to the device itself: through the page cache, so that others submit its requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DiskWriter {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// `major:minor` of the disk, and not of a partition; the lowest one that is known where devices are stacked. Empty if it is not known.
    pub dev: String,
    /// At how many looks a thread of it slept because too much was dirty (`balance_dirty_pages`),
    pub held_back: u32,
    /// of how many.
    pub looks: u32,
}

/// A request that failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct DiskFailure {
    /// When: `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// `major:minor`
    pub dev: String,
    /// What it was to do.
    pub op: RequestKind,
    /// First sector, of 512 bytes.
    pub sector: u64,
    /// Its length.
    pub bytes: u64,
    /// The error.
    pub errno: i32,
    /// The error's name.
    pub error: String,
    /// Who submitted it.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// How many of its requests of this kind failed so; the rest of this is about the first.
    pub count: u64,
}

/// A mounted file system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Filesystem {
    /// Where.
    pub mount: String,
    /// What, such as `/dev/sda1`.
    pub source: String,
    /// ext4, xfs, tmpfs, ...
    pub kind: String,
    /// `major:minor`
    pub dev: String,
    /// Mounted or remounted read-only, or made so by the kernel.
    pub read_only: bool,
    /// Whether the kernel has made it so.
    pub forced: ForcedState,
    /// Of one that the kernel has made so: devices or files that its device is made of,
    pub backing: Vec<String>,
    /// errors that the file system has counted since it was last checked, also before it was mounted (ext4; 0 where it does not tell),
    pub errors: u64,
    /// the latest of them, such as `EIO` (ext4 since 5.7; empty where it does not tell),
    pub last_error: String,
    /// and when that was, in seconds since 1970; 0 where it does not tell.
    pub last_error_unix: u64,
    /// Its size without what is reserved for root, in bytes: what is used and what ordinary users can still write.
    pub total_bytes: u64,
    /// What ordinary users can still write, in bytes.
    pub available_bytes: Series,
    /// Its inodes; 0 where there is no fixed number.
    pub total_inodes: u64,
    /// Inodes not used.
    pub free_inodes: Series,
    /// Processes with files open for writing on it, those whose files grew most first. Only looked for when it is nearly full or
    /// fills up, and only among those that wrote or ran most. Bounded.
    pub writers: Vec<FilesystemWriter>,
    /// Files without a name that processes still have open there, the largest first. Only looked for when it is nearly full. Bounded.
    pub deleted: Vec<DeletedFile>,
    /// What all of them take, those that are not named too, in bytes.
    pub deleted_bytes: u64,
}

/// A process that has files open for writing on a file system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct FilesystemWriter {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Files that it has open for writing there.
    pub files: u32,
    /// How much these grew while they were watched, in bytes.
    pub grown_bytes: u64,
    /// The one that grew most, or the largest; lossy.
    pub path: String,
}

/// A cgroup's own I/O limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct CgroupIo {
    /// Its path in the hierarchy that limits I/O.
    pub path: String,
    /// v1 or v2.
    pub v2: bool,
    /// `major:minor`
    pub dev: String,
    /// Its limits.
    pub limits: Vec<IoLimit>,
    /// Bytes it read in the window.
    pub read_bytes: u64,
    /// Bytes it wrote in the window.
    pub write_bytes: u64,
    /// How much of its tightest limit it used, 0 to 1 and a little over.
    pub limit_used: f64,
    /// Which limit that is.
    pub tightest: IoLimitKind,
    /// Share of the window in which some of its tasks waited for I/O, where the kernel tells.
    pub some_stalled: Option<f64>,
    /// Its processes: those with most I/O. Bounded.
    pub pids: Vec<u32>,
}

/// One of a cgroup's I/O limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct IoLimit {
    /// What is limited.
    pub kind: IoLimitKind,
    /// The most of it a second: bytes or requests.
    pub per_second: u64,
}

impl std::fmt::Display for IoLimit {
    /// As in the kernel's `io.max`: `rbps=1048576`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.kind.key(), self.per_second)
    }
}

impl DiskSummary {
    /// The processes that it names; some more than once.
    pub fn pids(&self) -> Vec<u32> {
        let submitters = self.submitters.iter().map(|submitter| submitter.pid);
        let failures = self.failures.iter().map(|failure| failure.pid);
        let writers = self.filesystems.iter().flat_map(|fs| fs.writers.iter().map(|writer| writer.pid));
        let deleted = self.filesystems.iter().flat_map(|fs| &fs.deleted);
        let holders = deleted.flat_map(|file| file.holders.iter().map(|holder| holder.pid));
        submitters
            .chain(failures)
            .chain(writers)
            .chain(holders)
            .chain(self.writers.iter().map(|writer| writer.pid))
            .chain(self.throttled.iter().flat_map(|cgroup| cgroup.pids.iter().copied()))
            .collect()
    }

    /// A device by its number.
    pub fn device(&self, dev: &str) -> Option<&DiskDevice> {
        self.devices.iter().find(|device| device.dev == dev)
    }
}

impl DiskDevice {
    /// Its name, or its number where it has none.
    pub fn label(&self) -> &str {
        if self.name.is_empty() { &self.dev } else { &self.name }
    }

    /// One kind of its requests.
    pub fn op(&self, op: RequestKind) -> Option<&DiskOpStat> {
        self.ops.iter().find(|stat| stat.op == op)
    }
}

impl Filesystem {
    /// Share of it that is used, 0 to 1, as df(1) has it; `None` when it has not been read.
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    pub fn bytes_used(&self) -> Option<f64> {
        let available = self.available_bytes.last()?;
        (self.total_bytes > 0).then(|| (1.0 - available / self.total_bytes as f64).clamp(0.0, 1.0))
    }

    /// Share of its inodes that is used, 0 to 1; `None` where there is no fixed number of them.
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    pub fn inodes_used(&self) -> Option<f64> {
        let free = self.free_inodes.last()?;
        (self.total_inodes > 0).then(|| (1.0 - free / self.total_inodes as f64).clamp(0.0, 1.0))
    }
}
