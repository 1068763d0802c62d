use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Which events to make, and how to hand them over. All of it is applied in the kernel, before an event is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which events.
    pub filter: Filter,
    /// Bytes of the ring buffer: a power of two, a page at least, 1 GiB at most.
    pub ring_bytes: u32,
    /// Omit the activity of this process itself.
    pub exclude_self: bool,
    /// Wake a sleeping reader when this many bytes are waiting; 0 wakes it for every event. `None` is a quarter of the ring for
    /// frequent signals and 0 for rare ones. The reader also wakes by itself ten times a second.
    pub wakeup_bytes: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { filter: Filter::default(), ring_bytes: Self::DEFAULT_RING_BYTES, exclude_self: true, wakeup_bytes: None }
    }
}

impl Options {
    /// 4 MiB: a tenth of a second of 400,000 system calls a second.
    pub const DEFAULT_RING_BYTES: u32 = 4 << 20;
}

/// Which events to make. An event must pass every filter that is set; of a list, one entry is enough. An empty filter passes everything.
/// [`Loader::filters`](crate::Loader::filters) lists the filters that fit a signal; setting another is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Process ids (thread group ids), 64 at most.
    pub pids: Vec<u32>,
    /// Task names, whole, 1 to 15 bytes each, 16 at most.
    pub comms: Vec<String>,
    /// Real user ids, 16 at most.
    pub uids: Vec<u32>,
    /// Cgroups of the v2 hierarchy with all below them, also those created later; a path in `/sys/fs/cgroup` or relative to the
    /// v2 mount. 16 at most. A task 32 levels below one or deeper is not found.
    pub cgroups: Vec<PathBuf>,
    /// Only what took at least this long.
    pub min_latency: Option<Duration>,
    /// Only what failed.
    pub errors_only: bool,
    /// System calls by name. For `fd_track`, calls that open or close file descriptors; others match nothing there.
    pub syscalls: Vec<String>,
    /// TCP ports, at either end; 16 at most.
    pub ports: Vec<u16>,
    /// Block devices as (major, minor); 16 at most.
    pub devices: Vec<(u32, u32)>,
    /// Absolute path that a file's name must start with, 255 bytes at most.
    pub path_prefix: Option<PathBuf>,
}

/// One of the filters of a [`Filter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FilterKind {
    /// [`Filter::pids`]
    Pids,
    /// [`Filter::comms`]
    Comms,
    /// [`Filter::uids`]
    Uids,
    /// [`Filter::cgroups`]
    Cgroups,
    /// [`Filter::min_latency`]
    MinLatency,
    /// [`Filter::errors_only`]
    ErrorsOnly,
    /// [`Filter::syscalls`]
    Syscalls,
    /// [`Filter::ports`]
    Ports,
    /// [`Filter::devices`]
    Devices,
    /// [`Filter::path_prefix`]
    PathPrefix,
}

impl FilterKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Pids,
        Self::Comms,
        Self::Uids,
        Self::Cgroups,
        Self::MinLatency,
        Self::ErrorsOnly,
        Self::Syscalls,
        Self::Ports,
        Self::Devices,
        Self::PathPrefix,
    ];

    /// Its name, as in the command's flags: `pid`, `comm`, `min-latency`, ...
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pids => "pid",
            Self::Comms => "comm",
            Self::Uids => "uid",
            Self::Cgroups => "cgroup",
            Self::MinLatency => "min-latency",
            Self::ErrorsOnly => "errors-only",
            Self::Syscalls => "syscall",
            Self::Ports => "port",
            Self::Devices => "device",
            Self::PathPrefix => "path-prefix",
        }
    }
}

impl fmt::Display for FilterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Filter {
    /// The kinds that are set.
    pub fn kinds(&self) -> impl Iterator<Item = FilterKind> + '_ {
        FilterKind::ALL.into_iter().filter(|kind| self.has(*kind))
    }

    /// This filter without the kinds that are not in `kinds`.
    #[must_use]
    pub fn only(&self, kinds: &[FilterKind]) -> Self {
        let mut filter = self.clone();
        for kind in FilterKind::ALL.into_iter().filter(|kind| !kinds.contains(kind)) {
            match kind {
                FilterKind::Pids => filter.pids.clear(),
                FilterKind::Comms => filter.comms.clear(),
                FilterKind::Uids => filter.uids.clear(),
                FilterKind::Cgroups => filter.cgroups.clear(),
                FilterKind::MinLatency => filter.min_latency = None,
                FilterKind::ErrorsOnly => filter.errors_only = false,
                FilterKind::Syscalls => filter.syscalls.clear(),
                FilterKind::Ports => filter.ports.clear(),
                FilterKind::Devices => filter.devices.clear(),
                FilterKind::PathPrefix => filter.path_prefix = None,
            }
        }
        filter
    }

    fn has(&self, kind: FilterKind) -> bool {
        match kind {
            FilterKind::Pids => !self.pids.is_empty(),
            FilterKind::Comms => !self.comms.is_empty(),
            FilterKind::Uids => !self.uids.is_empty(),
            FilterKind::Cgroups => !self.cgroups.is_empty(),
            FilterKind::MinLatency => self.min_latency.is_some(),
            FilterKind::ErrorsOnly => self.errors_only,
            FilterKind::Syscalls => !self.syscalls.is_empty(),
            FilterKind::Ports => !self.ports.is_empty(),
            FilterKind::Devices => !self.devices.is_empty(),
            FilterKind::PathPrefix => self.path_prefix.is_some(),
        }
    }
}
