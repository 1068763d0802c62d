//! The command `kerno`: kernel events in a terminal, or as JSON for other programs.

mod args;
mod check;
mod error;
mod output;
mod trace;
mod values;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Trace(args) => trace::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Completions { shell } => completions(shell),
    };
    result.unwrap_or_else(|error| {
        error::print(&error);
        ExitCode::from(error::STATUS)
    })
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kerno", &mut script);
    output::print(&script)?;
    Ok(ExitCode::SUCCESS)
}
