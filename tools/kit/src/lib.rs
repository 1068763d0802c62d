//! What the developer commands (`xtask`, `tools/lab`, `tools/bench`) share. It uses no crate of the library, because `cargo xtask bpf`
//! makes the objects that the library is built from.

pub mod cargo;
pub mod clang;
pub mod install;
pub mod workspace;
