use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};

use crate::values;

pub(super) const WHY_EXAMPLES: &str = "\
Examples:
  sudo kerno why nginx                        all processes of that name
  sudo kerno why 4711 --duration 30s          one process, for longer
  sudo kerno why --unit postgresql            the processes of a systemd unit
  sudo kerno why --port 8080                  whoever listens there
  sudo kerno why php-fpm --live               refresh until Ctrl-C
  sudo kerno why java --folded > java.folded  for programs that draw flame graphs

All of each thread's time is accounted for: on a CPU, waiting for one, and every sleep by what it waits for. Whoever is waited for most \
is followed in turn, so that the first lines name the root: the process, the disk or the lock that everybody waits for in the end. \
A wait in epoll, poll, select, accept or recv is idle, unless an answer is outstanding.

Privileges: root, or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE.

Press Ctrl-C to stop watching and to get what was seen so far.";

/// How to print the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WhyOutput {
    /// For people: the chain, then each thread's time with bars
    Text,
    /// For programs: JSON
    Json,
    /// For chats and tickets: Markdown
    Markdown,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("whose").required(true))]
pub(crate) struct WhyArgs {
    /// A process id, or the name of a program
    #[arg(value_name = "PID|NAME", group = "whose")]
    pub(crate) target: Option<String>,

    /// The processes of a systemd unit, such as postgresql
    #[arg(long, value_name = "UNIT", group = "whose")]
    pub(crate) unit: Option<String>,

    /// The processes of a cgroup and of those below it
    #[arg(long, value_name = "PATH", group = "whose")]
    pub(crate) cgroup: Option<String>,

    /// The processes of a container or pod: its name, its id or the begin of it, POD, NAMESPACE/POD or NAMESPACE/POD/CONTAINER
    #[arg(long, value_name = "ID", group = "whose")]
    pub(crate) container: Option<String>,

    /// Whoever listens on this TCP port
    #[arg(long, value_name = "PORT", group = "whose", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,

    /// Watch for this long
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = values::positive_duration)]
    pub(crate) duration: Duration,

    /// Follow the chain of waits for at most so many steps
    #[arg(long, value_name = "STEPS", default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=16))]
    pub(crate) depth: u32,

    /// Write text, a JSON object, or Markdown
    #[arg(short, long, value_enum, default_value_t = WhyOutput::Text, value_name = "FORMAT")]
    pub(crate) output: WhyOutput,

    /// Write folded stacks, in microseconds, for flame graphs
    #[arg(long, conflicts_with_all = ["output", "live"])]
    pub(crate) folded: bool,

    /// Show what was seen so far every second, until Ctrl-C or for --duration
    #[arg(long, conflicts_with = "output")]
    pub(crate) live: bool,
}
