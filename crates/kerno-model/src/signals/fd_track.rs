mod merge;
mod metrics;

use serde::{Deserialize, Serialize};

use crate::Series;

/// What a descriptor leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum DescriptorKind {
    /// A device's file.
    Device,
    /// epoll(7)
    Epoll,
    /// eventfd(2)
    Eventfd,
    /// fanotify(7)
    Fanotify,
    /// A file or directory.
    File,
    /// inotify(7)
    Inotify,
    /// io_uring(7)
    IoUring,
    /// memfd_create(2)
    Memfd,
    /// A namespace.
    Namespace,
    /// pidfd_open(2)
    Pidfd,
    /// A pipe.
    Pipe,
    /// signalfd(2)
    Signalfd,
    /// A socket.
    Socket,
    /// timerfd_create(2)
    Timerfd,
    /// Anything else, by the kernel's name for it, such as `bpf-map`.
    Other(String),
}

impl DescriptorKind {
    /// Those that have a variant of their own.
    const KNOWN: [Self; 14] = [
        Self::Device,
        Self::Epoll,
        Self::Eventfd,
        Self::Fanotify,
        Self::File,
        Self::Inotify,
        Self::IoUring,
        Self::Memfd,
        Self::Namespace,
        Self::Pidfd,
        Self::Pipe,
        Self::Signalfd,
        Self::Socket,
        Self::Timerfd,
    ];

    /// The word, as it is serialised.
    pub fn name(&self) -> &str {
        match self {
            Self::Device => "device",
            Self::Epoll => "epoll",
            Self::Eventfd => "eventfd",
            Self::Fanotify => "fanotify",
            Self::File => "file",
            Self::Inotify => "inotify",
            Self::IoUring => "io_uring",
            Self::Memfd => "memfd",
            Self::Namespace => "namespace",
            Self::Pidfd => "pidfd",
            Self::Pipe => "pipe",
            Self::Signalfd => "signalfd",
            Self::Socket => "socket",
            Self::Timerfd => "timerfd",
            Self::Other(name) => name,
        }
    }
}

impl Default for DescriptorKind {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl From<&str> for DescriptorKind {
    fn from(name: &str) -> Self {
        let known = Self::KNOWN.into_iter().find(|known| known.name() == name);
        known.unwrap_or_else(|| Self::Other(name.to_owned()))
    }
}

impl From<String> for DescriptorKind {
    fn from(name: String) -> Self {
        Self::from(name.as_str())
    }
}

impl From<DescriptorKind> for String {
    fn from(kind: DescriptorKind) -> Self {
        kind.name().to_owned()
    }
}

impl std::fmt::Display for DescriptorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Descriptors in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct FdSummary {
    /// Processes with many descriptors, near their limit, or with a growing number. Bounded.
    pub processes: Vec<FdProcess>,
    /// Descriptors of all processes, at each sample.
    pub open: Series,
    /// Files open in the machine (`fs.file-nr`), at each sample; fewer than descriptors where those are shared.
    pub files: Series,
    /// The most that may be (`fs.file-max`).
    pub files_max: u64,
}

/// A process's descriptors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct FdProcess {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Open descriptors, at each sample; exact.
    pub open: Series,
    /// Its own limit (`RLIMIT_NOFILE`, soft).
    pub soft_limit: u64,
    /// How far it may raise that itself.
    pub hard_limit: u64,
    /// What the descriptors are, the kind that grew most first. Only for processes that are suspects.
    pub kinds: Vec<FdKind>,
}

/// Descriptors of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct FdKind {
    /// Which.
    pub kind: DescriptorKind,
    /// How many now.
    pub count: u64,
    /// How many more than when it became a suspect; may be negative.
    pub growth: i64,
    /// Of the newest of them, the share that are duplicates (dup, fork within one table, `SCM_RIGHTS`) of others of them: the same open
    /// file, not just the same path. 0 to 1; 0 where the kernel does not tell (kcmp(2)).
    pub duplicated: f64,
    /// What some of them are, such as a path or `socket:[1234]`, the most frequent first. Bounded.
    pub examples: Vec<String>,
}

impl FdSummary {
    /// The processes that it names; some more than once.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(|process| process.pid).collect()
    }
}

impl FdProcess {
    /// Open descriptors at the window's end, as a share of the process's own limit.
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    pub fn share(&self) -> f64 {
        self.open.last().unwrap_or(0.0) / self.soft_limit.max(1) as f64
    }
}
