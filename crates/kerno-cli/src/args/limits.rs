use std::time::Duration;

use clap::Args;

use super::ReportOutput;
use crate::values;

pub(super) const LIMITS_EXAMPLES: &str = "\
Examples:
  sudo kerno limits                       what can run out on this machine, the fullest first
  sudo kerno limits --pid 4711            the same for a process: in its namespaces and its cgroup
  sudo kerno limits --duration 30s        watch growth for longer, for a better guess at the time left
  sudo kerno limits --output json --once  one reading, for programs

Each line says how much is used, of how much, how much is left, who has most, and, if it grows, how long that lasts. Without --pid, limits \
of users, cgroups and namespaces are those of whoever calls it, and every cgroup with a limit of processes of its own is listed.

Privileges: none, but without root it sees only what processes of the same user have.";

#[derive(Args, Debug)]
pub(crate) struct LimitsArgs {
    /// The limits of this process
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pid: Option<u32>,

    /// Read them twice, so long after each other, to see how they grow
    #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = values::positive_duration)]
    pub(crate) duration: Duration,

    /// Read them once, without a trend
    #[arg(long, conflicts_with = "duration")]
    pub(crate) once: bool,

    /// Write text, a JSON object, or Markdown
    #[arg(short, long, value_enum, default_value_t = ReportOutput::Text, value_name = "FORMAT")]
    pub(crate) output: ReportOutput,
}
