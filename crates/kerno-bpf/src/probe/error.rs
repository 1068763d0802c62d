use std::fmt::{self, Write as _};

use super::options::FilterKind;

/// A signal that cannot run, and why. A value, not a failure: the other signals do run.
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

/// Why a signal could not be loaded.
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
}
