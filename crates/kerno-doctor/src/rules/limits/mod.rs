//! Limits that are reached.

pub(super) mod reached;
mod words;
