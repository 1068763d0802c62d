//! Runs the built command against the running kernel. Needs root: without it these tests fail, they do not skip.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

mod daemon;
mod support;
mod webhook;

mod alert;
mod check;
mod confined;
mod doctor;
mod errors;
mod explain;
mod idle;
mod limits;
mod mounts;
mod objectives;
mod start;
mod start_guard;
mod terminal;
mod time_namespace;
mod trace;
mod why;
