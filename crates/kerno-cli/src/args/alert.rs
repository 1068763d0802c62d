//! The command line of `kerno alert`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::Output;

pub(super) const ALERT_EXAMPLES: &str = "\
Examples:
  kerno alert list                    where alerts go, and how that works
  sudo kerno alert test team-chat     send one that says that it is a test

Sinks are set in the configuration, each in a table of its own. Secrets are never in there: it names files or variables of the environment.

  [[sink]]
  name = \"team-chat\"
  kind = \"slack\"                   # alertmanager, webhook, slack, discord, teams, pagerduty, ntfy, syslog, journald
  url_file = \"/etc/kerno/slack-url\"
  severity = \"warning\"             # at least

Exit status: 0 success; 2 the test was not delivered, or another error.";

#[derive(Args, Clone, Debug)]
pub(crate) struct AlertArgs {
    #[command(subcommand)]
    pub(crate) action: AlertAction,

    /// Read the sinks from this file [default: /etc/kerno/config.toml, if it exists]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, global = true)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum AlertAction {
    /// List the sinks: where alerts go, which ones, and how delivery works
    List {
        /// Write text, or a JSON array
        #[arg(short, long, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
        output: Output,

        /// Ask the kerno that listens on this socket how delivery works [default: /run/kerno/kerno.sock]
        #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
        socket: Option<PathBuf>,
    },
    /// Send an alert that says that it is a test, and print what the receiver answered
    Test {
        /// The name of the sink
        name: String,
    },
}
