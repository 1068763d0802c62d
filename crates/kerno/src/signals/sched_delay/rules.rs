//! What this signal's summary says is wrong.

mod blocked;
mod contention;
mod steal;
mod throttling;
mod wait_channels;

use crate::doctor::Rule;
use crate::doctor::shell::word as shell_word;

/// The rules of this signal.
pub(crate) const RULES: &[Rule] = &[
    contention::SchedulerContention::RULE,
    throttling::CpuThrottling::RULE,
    steal::CpuSteal::RULE,
    blocked::BlockedTasks::RULE,
];

/// A share as people read it: 0.25 is `25%`.
fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

#[allow(clippy::cast_precision_loss, reason = "times of a window")]
const fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
