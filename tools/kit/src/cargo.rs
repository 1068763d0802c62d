//! Running cargo.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::workspace;

/// The cargo that built this program, in the workspace's folder.
pub fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(workspace::root());
    command
}

/// Builds with `cargo ARGUMENTS`, and gives the programs it made. `adjust` may add to the command.
///
/// # Errors
///
/// When cargo cannot be run, the build fails, or it makes no program.
pub fn build(arguments: &[&str], adjust: impl FnOnce(&mut Command) -> &mut Command) -> Result<Vec<PathBuf>> {
    let mut command = cargo();
    command.args(arguments).args(["--message-format", "json-render-diagnostics"]).stdin(Stdio::null());
    let output = adjust(&mut command).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "cargo {} failed", arguments.join(" "));
    let programs: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .collect();
    ensure!(!programs.is_empty(), "cargo {} made no program", arguments.join(" "));
    Ok(programs)
}

/// Builds a crate of the developers', optimised, and gives its program. Where it needs the command, that is built too: in one go, they share
/// what both use.
///
/// # Errors
///
/// As [`build`].
pub fn build_program(package: &str, with_command: bool) -> Result<PathBuf> {
    let mut arguments = vec!["build", "--quiet", "--release", "--package", package];
    if with_command {
        arguments.extend(["--package", "kerno-cli"]);
    }
    let programs = build(&arguments, |command| command)?;
    programs.into_iter().find(|program| program.ends_with(package)).with_context(|| format!("cargo made no {package}"))
}

/// The `kerno` that [`build_program`] built beside this program.
///
/// # Errors
///
/// When it is not there.
pub fn command_beside() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("kerno");
    ensure!(path.exists(), "{} is not built", path.display());
    Ok(path)
}
