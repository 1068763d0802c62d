//! The command `kerno`: reports what is wrong with this machine, and prints kernel events as they happen.

mod alert;
mod args;
mod check;
mod compare;
mod config;
mod doctor;
mod error;
mod explain;
mod export;
mod incidents;
mod limits;
mod manual;
mod output;
mod past;
mod privileges;
mod start;
mod stop;
mod trace;
mod values;
mod why;

use std::io::Write as _;
use std::process::ExitCode;

use clap::FromArgMatches as _;

use args::{Cli, Command};

fn main() -> ExitCode {
    // Clap's own errors and help end the process here, with its status 2 or 0.
    let cli = Cli::from_arg_matches(&args::command().get_matches()).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        Command::Doctor(args) => doctor::run(&args),
        Command::Why(args) => why::run(&args),
        Command::Limits(args) => limits::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Start(args) => start::run(&args),
        Command::Incidents(args) => incidents::run(&args),
        Command::Alert(args) => alert::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Completions { shell } => completions(shell),
        Command::Manual { directory } => manual::run(&directory),
    };
    result.unwrap_or_else(|error| {
        error::print(&error);
        ExitCode::from(error::STATUS)
    })
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "kerno", &mut script);
    if shell == clap_complete::Shell::Fish {
        // Its generator leaves out the values of positional arguments.
        let signals: Vec<_> = kerno::signals::ALL.iter().map(|signal| signal.alias).chain([args::ALL]).collect();
        let names = signals.join(" ");
        let _ = writeln!(script, "complete -c kerno -n \"__fish_kerno_using_subcommand trace\" -f -a \"{names}\"");
    }
    output::print(&script)?;
    Ok(ExitCode::SUCCESS)
}
