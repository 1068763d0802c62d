//! What all sinks have in common: what is sent, what comes back, and how they are.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::outbox::{Message, Outbox};

/// Keeps an outbox by the name of its sink. Must not wait.
pub(crate) type Keep = Arc<dyn Fn(&str, Outbox) + Send + Sync>;

/// What a receiver answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Receipt {
    /// For people.
    pub(super) answer: String,
    /// What it calls the message, if it has threads.
    pub(super) handle: Option<String>,
}

/// Why a message was not delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may be tried again, after that time if the receiver said so.
    Later { why: String, after: Option<Duration> },
    /// The receiver will not take it.
    Never { why: String },
}

impl Failure {
    pub(super) fn later(why: String) -> Self {
        Self::Later { why, after: None }
    }

    pub(super) fn never(why: String) -> Self {
        Self::Never { why }
    }

    pub(super) fn why(&self) -> &str {
        match self {
            Self::Later { why, .. } | Self::Never { why } => why,
        }
    }
}

/// Sends messages to a receiver. May take as long as the timeout that is set.
pub(super) trait Deliver: Send {
    fn send(&mut self, messages: &[Message], now_unix_ns: u64) -> Result<Receipt, Failure>;
}

/// How a sink is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// Its kind, such as `slack`.
    pub kind: String,
    /// Incidents of which something is still to be told.
    pub waiting: u64,
    /// Messages that were delivered since the start.
    pub delivered: u64,
    /// Messages that the receiver refused for good.
    pub failed: u64,
    /// Incidents that were not told because too many waited.
    pub dropped: u64,
    /// Attempts that failed and were, or will be, repeated.
    pub retries: u64,
    /// Why the latest attempt failed; `None` if it did not.
    pub failing: Option<String>,
    /// Seconds since the latest delivery; `None` if there was none.
    pub delivered_seconds_ago: Option<f64>,
}

/// Now, in nanoseconds since 1970.
pub(super) fn now_unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
