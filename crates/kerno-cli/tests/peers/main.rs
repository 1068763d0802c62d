//! What real programs of others make of what kerno sends, serves and writes. Needs root, and tests/components, which fetches them: without
//! either these tests fail, they do not skip.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

mod component;
#[path = "../command/daemon.rs"]
#[allow(dead_code, reason = "shared with the tests of the command")]
mod daemon;
#[path = "../command/support.rs"]
#[allow(dead_code, reason = "shared with the tests of the command")]
mod support;
#[path = "../command/webhook.rs"]
mod webhook;

mod alert;
mod dashboard;
mod duckdb;
mod names;
mod openapi;
mod otlp;
mod prometheus;
