//! CPUs: who keeps others off them.

pub(super) mod contention;
pub(super) mod steal;
pub(super) mod throttling;

use crate::shell::word as shell_word;
use kerno_model::paths::is_within;

#[allow(clippy::cast_precision_loss, reason = "times of a window")]
const fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
