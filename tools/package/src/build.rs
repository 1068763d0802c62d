//! The program that is packaged.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use kerno_kit::cargo::{build as cargo_build, cargo};
use kerno_kit::workspace;

/// Builds `kerno`, optimised and static: it runs on every distribution, and in an empty image.
pub(crate) fn build() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    // Where it was built is nobody's business, and makes other bytes.
    flags.push(format!("--remap-path-prefix={}=/kerno", workspace::root().display()));
    if let Some(home) = home {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    let arguments = ["build", "--release", "--locked", "--package", "kerno-cli", "--target", &target];
    let programs = cargo_build(&arguments, |command| command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")))?;
    programs.into_iter().find(|program| program.ends_with("kerno")).context("cargo made no kerno")
}

/// A program that needs an interpreter would not start in an empty image.
pub(crate) fn ensure_static(program: &Path) -> Result<()> {
    const PT_INTERP: u32 = 3;
    let bytes = std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let u16_at = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let u32_at = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    // elf(5): a 64-bit, little-endian file, as all processors that kerno runs on have.
    ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "{} is no program of this kind of machine", program.display());
    let headers = || {
        let start = usize::try_from(u32_at(32)?).ok()?;
        let (size, count) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
        (0..count).map(|index| u32_at(start + index * size)).collect::<Option<Vec<_>>>()
    };
    let Some(kinds) = headers() else { bail!("{} is damaged", program.display()) };
    ensure!(!kinds.contains(&PT_INTERP), "{} is not static", program.display());
    Ok(())
}

/// The time that packages and what is in them get: `SOURCE_DATE_EPOCH`, else that of the last commit.
pub(crate) fn epoch() -> Result<u32> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return given.parse().context("SOURCE_DATE_EPOCH is no number of seconds");
    }
    let mut git = std::process::Command::new("git");
    let output = git.current_dir(workspace::root()).args(["log", "-1", "--format=%ct"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().context("git does not say when the last commit was; set SOURCE_DATE_EPOCH")
}

/// What cargo says of all crates that a kerno for this machine can be made of.
pub(crate) fn metadata() -> Result<serde_json::Value> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = cargo()
        .args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", &target])
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    serde_json::from_slice(&output.stdout).context("cargo metadata")
}
