//! What can go wrong, and what opening a store found.

use std::io;
use std::path::{Path, PathBuf};

use kerno_model::saved::ReadError;

/// Why a store could not be opened, written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process writes to it.
    #[error("{} is in use{}", dir.display(), by(*pid))]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The other process, if it is known.
        pid: Option<u32>,
    },
    /// A later version of kerno wrote it. Nothing in it was touched.
    #[error("{} was written by a newer kerno ({what})", path.display())]
    Newer {
        /// The file that says so.
        path: PathBuf,
        /// What is newer.
        what: String,
    },
    /// The directory has nothing of a store.
    #[error("no kerno store in {}", dir.display())]
    NoStore {
        /// The directory.
        dir: PathBuf,
    },
    /// A file or directory could not be used.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A part of a file is damaged.
    #[error("{}: {bytes} bytes at {offset} are damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, in bytes.
        offset: u64,
        /// How much of it, in bytes.
        bytes: u64,
    },
    /// A window that is not damaged cannot be read.
    #[error("{}: the window at {offset} cannot be read", path.display())]
    Window {
        /// The file.
        path: PathBuf,
        /// Where, in bytes.
        offset: u64,
        /// Why.
        source: ReadError,
    },
    /// A value cannot be written down, or what is stored is of another type.
    #[error("cannot convert {what}")]
    Value {
        /// What it is.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
    /// It is larger than anything that is stored.
    #[error("{what} has {bytes} bytes, more than is stored at once")]
    TooLarge {
        /// What it is.
        what: String,
        /// Its size.
        bytes: u64,
    },
    /// The cap leaves no room, even when everything that may be removed has been.
    #[error("no room for {needed_bytes} bytes: the store may take {limit_bytes} bytes")]
    NoRoom {
        /// What was to be written.
        needed_bytes: u64,
        /// What the store may take.
        limit_bytes: u64,
    },
    /// When a window began, or how long it was, is impossible.
    #[error("a window of {seconds} seconds from {started_unix} on is impossible")]
    Span {
        /// Its start, in seconds since 1970.
        started_unix: f64,
        /// How long it was, in seconds.
        seconds: f64,
    },
    /// The settings are impossible.
    #[error("{what}")]
    Settings {
        /// What is wrong.
        what: String,
    },
    /// A state cannot have this name.
    #[error("{name:?} is no name for a state: use a-z, 0-9, - and _, at most 64 of them")]
    StateName {
        /// The name.
        name: String,
    },
}

fn by(pid: Option<u32>) -> String {
    pid.map_or_else(|| " by another process".to_owned(), |pid| format!(" by process {pid}"))
}

/// A kind of error, for programs to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// Another process writes to it.
    InUse,
    /// A later version of kerno wrote it.
    Newer,
    /// There is no store.
    NoStore,
    /// The disk or the cap is full.
    NoSpace,
    /// The system refuses.
    Io,
    /// What is stored is damaged.
    Damaged,
    /// What was asked for is impossible.
    Usage,
}

impl StoreError {
    /// The kind.
    pub fn kind(&self) -> StoreErrorKind {
        match self {
            Self::InUse { .. } => StoreErrorKind::InUse,
            Self::Newer { .. } => StoreErrorKind::Newer,
            Self::NoStore { .. } => StoreErrorKind::NoStore,
            Self::Io { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                StoreErrorKind::NoSpace
            }
            Self::NoRoom { .. } => StoreErrorKind::NoSpace,
            Self::Io { .. } => StoreErrorKind::Io,
            Self::Damaged { .. } | Self::Window { .. } => StoreErrorKind::Damaged,
            Self::Value { .. }
            | Self::TooLarge { .. }
            | Self::Span { .. }
            | Self::Settings { .. }
            | Self::StateName { .. } => StoreErrorKind::Usage,
        }
    }

    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// With the reason behind it, for a status.
    pub(crate) fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut error: &dyn std::error::Error = self;
        while let Some(source) = error.source() {
            text = format!("{text}: {source}");
            error = source;
        }
        text
    }
}

/// What opening a store found and did about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// A file is damaged. It was set aside, and what could be read of it was copied.
    Damaged {
        /// The file, which now has what could be read.
        path: PathBuf,
        /// The damaged one, for whoever wants to look; `None` if it could not be set aside.
        aside: Option<PathBuf>,
        /// How much could not be read, in bytes.
        lost_bytes: u64,
        /// Why it could not be set aside.
        why: Option<String>,
    },
    /// The end of a file was not written completely when kerno or the machine stopped. It was cut off.
    CutOff {
        /// The file.
        path: PathBuf,
        /// What was cut off, in bytes.
        bytes: u64,
    },
    /// A file has no place in the store and is left alone.
    Ignored {
        /// The file.
        path: PathBuf,
    },
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged { path, aside, lost_bytes, why } => {
                write!(f, "{} was damaged: {lost_bytes} bytes could not be read", path.display())?;
                match (aside, why) {
                    (Some(aside), _) => write!(f, "; the damaged file is now {}", aside.display()),
                    (None, Some(why)) => write!(f, "; it could not be set aside: {why}"),
                    (None, None) => Ok(()),
                }
            }
            Self::CutOff { path, bytes } => {
                write!(f, "{}: cut off {bytes} bytes that were not written completely", path.display())
            }
            Self::Ignored { path } => write!(f, "{} is not part of the store; left alone", path.display()),
        }
    }
}
