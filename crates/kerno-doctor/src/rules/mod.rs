//! The rules, by theme. A new one is a file in its theme and a line in [`ALL`].

mod descriptors;
mod memory;

use crate::Rule;

/// Every rule, in the order of the signals that they need.
pub static ALL: &[Rule] = &[
    memory::kill::OomKilled::RULE,
    memory::imminent::OomImminent::RULE,
    memory::pressure::MemoryPressure::RULE,
    descriptors::exhaustion::FdExhaustion::RULE,
    descriptors::leak::FdLeak::RULE,
];
