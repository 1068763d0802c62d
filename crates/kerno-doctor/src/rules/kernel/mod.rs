//! The kernel itself.

pub(super) mod message;
