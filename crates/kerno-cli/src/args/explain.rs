use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueHint};

use super::ReportOutput;

pub(super) const EXPLAIN_EXAMPLES: &str = "\
Examples:
  kerno explain 'INFO: task dd:456 blocked for more than 120 seconds.'
  sudo kerno explain --last                   the newest message of this machine that is known
  sudo kerno explain --last 5                 the newest five
  dmesg | kerno explain -                     every line of a log that is known, each kind once
  kerno explain --list                        all kinds of messages that are known

The table is a part of kerno: it needs no network, and no kerno that runs. What dmesg or a log daemon writes before a message (time, level, \
host) may be there. A message that is not in the table is not guessed at.

--last leaves out what programs wrote to the log. If a `kerno start` runs, it also names the incidents about the same that were open at the time.

Exit status: 0 explained; 1 not in the table; 2 error.";

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true))]
pub(crate) struct ExplainArgs {
    /// The message, as one or several words; "-" reads lines from standard input
    #[arg(value_name = "TEXT", group = "what", num_args = 1..)]
    pub(crate) text: Vec<String>,

    /// The newest messages in this machine's kernel log that are known, at most so many
    #[arg(long, value_name = "N", group = "what", num_args = 0..=1, default_missing_value = "1", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) last: Option<u16>,

    /// Show the kinds of messages that are known
    #[arg(long, group = "what")]
    pub(crate) list: bool,

    /// Write text, JSON or Markdown
    #[arg(short, long, value_enum, default_value_t = ReportOutput::Text, value_name = "FORMAT")]
    pub(crate) output: ReportOutput,

    /// With --last: ask the kerno that listens on this socket for incidents [default: /run/kerno/kerno.sock]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, conflicts_with_all = ["text", "list"])]
    pub(crate) socket: Option<PathBuf>,
}
