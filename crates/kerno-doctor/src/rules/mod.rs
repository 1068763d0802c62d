//! The rules, by theme. A new one is a file in its theme and a line in [`ALL`].

mod cpu;
mod waits;

use crate::Rule;

/// Every rule, in the order of the signals that they need.
pub static ALL: &[Rule] = &[
    cpu::contention::SchedulerContention::RULE,
    cpu::throttling::CpuThrottling::RULE,
    cpu::steal::CpuSteal::RULE,
    waits::BlockedTasks::RULE,
];
