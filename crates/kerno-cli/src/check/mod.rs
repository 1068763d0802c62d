//! `kerno check`: what works on this machine, and what does not.

mod facts;
mod privileges;
mod report;

use std::process::ExitCode;

use crate::args::{CheckArgs, Output};
use crate::output::{self, Style};
use facts::Facts;

pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    if args.explain_privileges {
        let text = match args.output {
            Output::Json => privileges::json()?,
            Output::Text => privileges::text(Style::of_stdout()),
        };
        output::print(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let facts = Facts::gather();
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&facts)? + "\n",
        Output::Text => report::text(&facts, Style::of_stdout()),
    };
    output::print(text.as_bytes())?;
    let any = facts.signals.iter().any(|signal| signal.available);
    Ok(if any { ExitCode::SUCCESS } else { ExitCode::from(crate::error::STATUS) })
}
