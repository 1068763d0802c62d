//! The store on real files.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test: it fails by panicking"
)]

mod made;

mod clocks;
mod damage;
mod directory;
mod incidents;
mod processes;
mod room;
mod tiers;
