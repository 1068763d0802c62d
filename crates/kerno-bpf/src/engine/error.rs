use std::io;

use crate::probe::{ErrorKind, LoadError, chain};

/// Why a machine cannot be watched, or no longer. [`kind`](Self::kind) sorts them into few.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// A signal is asked for that there is not.
    #[error("no signal {name:?}; there are: {known}")]
    UnknownSignal {
        /// What was asked for.
        name: String,
        /// The names of all signals, with commas between them.
        known: String,
    },
    /// Nothing could be loaded: what all signals need, or not one of those that were asked for.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The kernel's tasks cannot be read, without which no sample says anything.
    #[error("cannot read the tasks")]
    Tasks(#[source] io::Error),
    /// The thread of an [`Engine`](super::Engine) cannot be started.
    #[error("cannot start a thread to watch in")]
    Thread(#[source] io::Error),
    /// The thread of an [`Engine`](super::Engine) panicked: an error in kerno.
    #[error("the thread that watches has failed")]
    Failed,
}

impl WatchError {
    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownSignal { .. } => ErrorKind::Options,
            Self::Load(error) => error.kind(),
            Self::Tasks(source) | Self::Thread(source) => ErrorKind::of(source),
            Self::Failed => ErrorKind::Io,
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

    #[test]
    fn each_error_has_its_kind() {
        let tasks = |errno| WatchError::Tasks(io::Error::from_raw_os_error(errno));
        let unknown = WatchError::UnknownSignal { name: "nope".into(), known: "disk_io".into() };
        for (error, kind) in [
            (unknown, ErrorKind::Options),
            (LoadError::Kernel("no BTF".into()).into(), ErrorKind::Kernel),
            (LoadError::Privileges("needs CAP_BPF".into()).into(), ErrorKind::Privileges),
            (tasks(libc::EIO), ErrorKind::Io),
            (tasks(libc::ENOMEM), ErrorKind::Memory),
            (WatchError::Thread(io::Error::from_raw_os_error(libc::EAGAIN)), ErrorKind::Io),
            (WatchError::Failed, ErrorKind::Io),
        ] {
            assert_eq!(error.kind(), kind, "{error:?}");
        }
    }

    #[test]
    fn what_could_not_be_loaded_is_told_as_if_it_were_loaded_alone() {
        let error = || LoadError::Loader {
            loader: "disk_io",
            source: Box::new(LoadError::Io("cannot create an eventfd", io::Error::from_raw_os_error(libc::EMFILE))),
        };
        let of_watching = WatchError::from(error());
        assert_eq!(of_watching.to_string(), error().to_string());
        assert_eq!(of_watching.reason(), error().reason());
        assert_eq!(
            WatchError::Tasks(io::Error::from_raw_os_error(libc::EIO)).reason(),
            "cannot read the tasks: Input/output error (os error 5)"
        );
    }
}
