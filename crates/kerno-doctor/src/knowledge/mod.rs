//! Facts about Linux that do not depend on what was observed.

pub mod kernel_log;
pub mod limits;
pub mod normal;
pub(crate) mod starters;
pub(crate) mod wait_channels;
