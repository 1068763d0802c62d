//! Disks and file systems.

pub(super) mod bottleneck;
pub(super) mod errors;
pub(super) mod full;
mod load;
mod storm;
#[cfg(test)]
mod tests;
