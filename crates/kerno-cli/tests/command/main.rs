//! Runs the built command against the running kernel. Needs root: without it these tests fail, they do not skip.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod support;

mod check;
mod errors;
mod terminal;
mod trace;
