//! The rules, by theme. A new one is a file in its theme and a line in [`ALL`].

mod cpu;
mod descriptors;
mod memory;
mod waits;

use crate::Rule;

/// Every rule, in the order of the signals that they need.
pub static ALL: &[Rule] = &[
    memory::kill::OomKilled::RULE,
    memory::imminent::OomImminent::RULE,
    memory::pressure::MemoryPressure::RULE,
    cpu::contention::SchedulerContention::RULE,
    cpu::throttling::CpuThrottling::RULE,
    cpu::steal::CpuSteal::RULE,
    waits::BlockedTasks::RULE,
    descriptors::exhaustion::FdExhaustion::RULE,
    descriptors::leak::FdLeak::RULE,
];
