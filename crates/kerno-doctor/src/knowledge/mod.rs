//! Facts about Linux that do not depend on what was observed.

pub mod kernel_log;
pub mod normal;
pub(crate) mod wait_channels;
