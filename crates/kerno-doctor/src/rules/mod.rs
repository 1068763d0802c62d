//! The rules, by theme. A new one is a file in its theme and a line in [`ALL`].

mod storage;

use crate::Rule;

/// Every rule, in the order of the signals that they need.
pub static ALL: &[Rule] =
    &[storage::bottleneck::DiskBottleneck::RULE, storage::errors::DiskErrors::RULE, storage::full::DiskFull::RULE];
