//! Where things are in the checkout.

use std::path::{Path, PathBuf};

/// The workspace's folder.
pub fn root() -> PathBuf {
    // The manifest's folder is tools/kit.
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_owned()
}

/// The folder of the crate that has the eBPF programs. Their sources are named relative to it, so that the objects do not depend on
/// where the checkout is.
pub fn library() -> PathBuf {
    root().join("crates/kerno-bpf")
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
