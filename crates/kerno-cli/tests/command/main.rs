//! Runs the built command against the running kernel. Needs root: without it these tests fail, they do not skip.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

mod support;

mod alert;
mod check;
#[cfg(feature = "components")]
mod components;
mod doctor;
mod errors;
mod idle;
#[cfg(feature = "components")]
mod otlp;
mod start;
mod terminal;
mod time_namespace;
mod trace;
