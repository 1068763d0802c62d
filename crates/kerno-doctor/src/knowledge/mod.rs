//! What is true of Linux, whatever was observed.

pub mod normal;
pub(crate) mod wait_channels;
