//! The programs that run in the virtual machines.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::{succeed, target_directory};

/// Programs that cargo makes, with everything they use inside: the kernels' file systems have no library.
pub(super) fn build_static(arguments: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--message-format", "json-render-diagnostics", "--target", &target])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // Emulated, what is not optimised takes minutes.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "2")
        .env("CARGO_TARGET_DIR", target_directory().join("vm/build"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "cargo {} does not build statically", arguments.join(" "));
    let programs: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .collect();
    ensure!(!programs.is_empty(), "cargo named no program");
    // Their debug information is of no use in there and fills the memory.
    programs.iter().map(|program| stripped(program)).collect()
}

fn stripped(program: &Path) -> anyhow::Result<PathBuf> {
    let name = program.file_name().and_then(|name| name.to_str()).context("a program has a name")?;
    // kernel-0123456789abcdef
    let short = name.split('-').next().unwrap_or(name);
    let to = target_directory().join("vm").join(short);
    succeed(Command::new("strip").arg("-g").arg("-o").arg(&to).arg(program))?;
    Ok(to)
}
