//! What this signal's summary says is wrong.

mod bottleneck;
mod errors;
mod full;
mod load;
mod storm;
#[cfg(test)]
mod tests;

use crate::doctor::Rule;

/// The rules of this signal.
pub(crate) const RULES: &[Rule] =
    &[bottleneck::DiskBottleneck::RULE, errors::DiskErrors::RULE, full::DiskFull::RULE];
