//! The manual pages, made of the one definition of the command line, for packages.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::args;

/// Writes `kerno.1`, and a page for each command and each of its own commands.
pub(crate) fn run(directory: &Path) -> anyhow::Result<ExitCode> {
    clap_mangen::generate_to(args::command(), directory)
        .with_context(|| format!("cannot write to {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
