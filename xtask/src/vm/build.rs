//! The programs that run in the virtual machines.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use kerno_kit::{cargo, workspace};

use super::succeed;

/// Programs that cargo makes, with everything they use inside: the kernels' file systems have no library.
pub(super) fn build_static(arguments: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let programs = cargo::build(arguments, |command| {
        command
            .args(["--target", &target])
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            // Emulated, what is not optimised takes minutes.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "2")
            .env("CARGO_TARGET_DIR", workspace::target().join("vm/build"))
    })?;
    // Their debug information is of no use in there and fills the memory.
    programs.iter().map(|program| stripped(program)).collect()
}

fn stripped(program: &Path) -> anyhow::Result<PathBuf> {
    let name = program.file_name().and_then(|name| name.to_str()).context("a program has a name")?;
    // kernel-0123456789abcdef
    let short = name.split('-').next().unwrap_or(name);
    let to = workspace::target().join("vm").join(short);
    succeed(Command::new("strip").arg("-g").arg("-o").arg(&to).arg(program))?;
    Ok(to)
}
