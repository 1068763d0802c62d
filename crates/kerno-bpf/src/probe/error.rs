use std::fmt::{self, Write as _};

use super::options::FilterKind;

/// A signal that cannot run, and why. This is a value and no failure: the other signals run.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Unavailable {
    /// The signal's name.
    pub signal: &'static str,
    /// What is missing.
    pub reason: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.signal, self.reason)
    }
}

/// What kind of error it is, for programs that decide by it.
///
/// [`LoadError::kind`] and [`WatchError::kind`](crate::engine::WatchError::kind) give it. The text of an error is for people and may
/// change; its kind does not.
///
/// ```no_run
/// use kerno_bpf::engine::{Observer, ObserverOptions};
/// use kerno_bpf::probe::ErrorKind;
///
/// match Observer::start(ObserverOptions::default()) {
///     Ok(observer) => println!("{observer:?}"),
///     Err(error) => match error.kind() {
///         ErrorKind::Privileges => println!("run this as root"),
///         ErrorKind::Kernel => println!("this kernel cannot do it"),
///         _ => println!("{}", error.reason()),
///     },
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// This process lacks capabilities. As root it works.
    Privileges,
    /// The kernel lacks something, or forbids it to everyone (lockdown). Only another kernel, or another configuration of it, helps.
    Kernel,
    /// An option, a filter or a name has a value that cannot be. The caller has to change it.
    Options,
    /// There is not enough memory. Smaller rings and fewer signals take less.
    Memory,
    /// It is loaded already.
    AlreadyLoaded,
    /// The kernel refused a program or map for another reason; the text has its words.
    Refused,
    /// A file descriptor, a mapping or a read failed.
    Io,
}

impl ErrorKind {
    /// What an error of the system comes to.
    pub(crate) fn of(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::OutOfMemory => Self::Memory,
            std::io::ErrorKind::PermissionDenied => Self::Privileges,
            _ => Self::Io,
        }
    }
}

/// Why a signal could not be loaded. [`kind`](Self::kind) sorts them into few.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// One of several loaders failed; those loaded before it have been unloaded.
    #[error("{loader} cannot be loaded")]
    Loader {
        /// The name of the one that failed.
        loader: &'static str,
        /// Why.
        #[source]
        source: Box<LoadError>,
    },
    /// It is loaded already.
    #[error("already loaded; close its handle first")]
    AlreadyLoaded,
    /// This process lacks capabilities.
    #[error("{0}")]
    Privileges(String),
    /// This kernel lacks something.
    #[error("{0}")]
    Kernel(String),
    /// A filter or option has an impossible value.
    #[error("{0}")]
    Filter(String),
    /// A filter is set that this signal does not have.
    #[error("filter {filter} does not fit {signal}; it has: {has}")]
    FilterMisfit {
        /// The filter that is set.
        filter: FilterKind,
        /// The signal's name.
        signal: &'static str,
        /// The filters it has.
        has: String,
    },
    /// There is no memory for a map, in the machine or in the cgroup of this process.
    #[error(
        "{what}: no memory is left for it in the machine, or in the cgroup of this process; smaller rings (--ring-size) and fewer \
         signals take less"
    )]
    Memory {
        /// The map, and whose it is.
        what: String,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused an object, a map or a program.
    #[error("{what}: {detail}")]
    Refused {
        /// Which.
        what: String,
        /// The kernel's words.
        detail: String,
    },
    /// A file descriptor or mapping could not be had.
    #[error("{0}")]
    Io(&'static str, #[source] std::io::Error),
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some name their cause themselves, before the verifier's log.
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl LoadError {
    /// What kind of error it is. Of several loaders, that of the one that failed.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Loader { source, .. } => source.kind(),
            Self::AlreadyLoaded => ErrorKind::AlreadyLoaded,
            Self::Privileges(_) => ErrorKind::Privileges,
            Self::Kernel(_) => ErrorKind::Kernel,
            Self::Filter(_) | Self::FilterMisfit { .. } => ErrorKind::Options,
            Self::Memory { .. } => ErrorKind::Memory,
            Self::Refused { .. } => ErrorKind::Refused,
            Self::Io(_, source) => ErrorKind::of(source),
        }
    }

    /// The error with its causes, in one line.
    pub fn reason(&self) -> String {
        chain(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Told(&'static str, #[source] Option<Box<Told>>);

    #[test]
    fn causes_are_told_once() {
        let cause = || Some(Box::new(Told("Invalid argument", None)));
        assert_eq!(chain(&Told("refused", cause())), "refused: Invalid argument");
        // The verifier's log ends what it is part of: what comes behind it would be taken for the verifier's last word.
        let log = "returned Invalid argument. Verifier output: 0: R1=ctx()\ncannot use helper\n";
        assert_eq!(chain(&Told(log, cause())), log);
    }

    fn out_of_memory() -> std::io::Error {
        std::io::Error::from_raw_os_error(libc::ENOMEM)
    }

    #[test]
    fn each_error_has_its_kind() {
        let io = |errno| LoadError::Io("cannot map the ring buffer", std::io::Error::from_raw_os_error(errno));
        let misfit = LoadError::FilterMisfit { filter: FilterKind::Ports, signal: "disk_io", has: String::new() };
        for (error, kind) in [
            (LoadError::AlreadyLoaded, ErrorKind::AlreadyLoaded),
            (LoadError::Privileges("needs CAP_BPF".into()), ErrorKind::Privileges),
            (LoadError::Kernel("no BTF".into()), ErrorKind::Kernel),
            (LoadError::Filter("too long".into()), ErrorKind::Options),
            (misfit, ErrorKind::Options),
            (LoadError::Memory { what: "map events".into(), source: out_of_memory() }, ErrorKind::Memory),
            (LoadError::Refused { what: "program".into(), detail: String::new() }, ErrorKind::Refused),
            (io(libc::EMFILE), ErrorKind::Io),
            (io(libc::ENOMEM), ErrorKind::Memory),
            (io(libc::EPERM), ErrorKind::Privileges),
        ] {
            assert_eq!(error.kind(), kind, "{error:?}");
            let of_several = LoadError::Loader { loader: "disk_io", source: Box::new(error) };
            assert_eq!(of_several.kind(), kind, "{of_several:?}");
        }
    }

    #[test]
    fn the_source_is_told_once_and_last() {
        let error = LoadError::Memory { what: "map events of disk_io".into(), source: out_of_memory() };
        let of_several = LoadError::Loader { loader: "disk_io", source: Box::new(error) };
        assert_eq!(
            of_several.reason(),
            "disk_io cannot be loaded: map events of disk_io: no memory is left for it in the machine, or in the cgroup of this \
             process; smaller rings (--ring-size) and fewer signals take less: Cannot allocate memory (os error 12)"
        );
    }
}
