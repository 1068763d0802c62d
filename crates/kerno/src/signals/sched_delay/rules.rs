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

/// A cgroup is another one or below it.
fn is_within(path: &str, outer: &str) -> bool {
    let outer = outer.trim_end_matches('/');
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[allow(clippy::cast_precision_loss, reason = "times of a window")]
const fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
