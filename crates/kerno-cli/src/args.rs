//! The command line.

mod alert;
mod explain;
mod limits;
mod past;
mod why;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum, ValueHint};
use kerno::model::Severity;
use kerno::signals::{self, SignalInfo};
use kerno::why::Target;
use kerno::{FilterKind, Options};

use crate::values;
use alert::ALERT_EXAMPLES;
pub(crate) use alert::{AlertAction, AlertArgs};
use explain::EXPLAIN_EXAMPLES;
pub(crate) use explain::ExplainArgs;
use limits::LIMITS_EXAMPLES;
pub(crate) use limits::LimitsArgs;
use past::{COMPARE_EXAMPLES, EXPORT_EXAMPLES, INCIDENTS_EXAMPLES, START_EXAMPLES};
pub(crate) use past::{
    CompareArgs, ExportArgs, ExportFormat, ExportTable, IncidentsAction, IncidentsArgs, PastArgs, StartArgs,
};
use why::WHY_EXAMPLES;
pub(crate) use why::{WhyArgs, WhyOutput};

/// Every signal that can be loaded here.
pub(crate) const ALL: &str = "all";

/// Why is this machine slow or failing right now? Asks the kernel, live, with eBPF.
#[derive(Debug, Parser)]
#[command(name = "kerno", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sudo kerno doctor                              show what is wrong, who causes it, and what to do
  sudo kerno why nginx                           show whom nginx waits for, and whom that one waits for
  sudo kerno limits                              show what can run out, the fullest first
  sudo kerno explain --last                      explain the newest message of the kernel
  sudo kerno start                               watch for ever, and remember
  kerno incidents                                show what was wrong, and when
  kerno doctor --at 03:02                        show what was wrong then
  kerno check                                    show what works on this machine
  sudo kerno trace all --errors-only             print everything that fails, as it happens
  sudo kerno trace syscall --min-latency 100ms   print slow system calls
  kerno completions bash > ~/.local/share/bash-completion/completions/kerno

Exit status: 0 success; 1 findings, with doctor --exit-code, or explain knows no answer; 2 error.";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  sudo kerno doctor                                   watch for 30 seconds, then report
  sudo kerno doctor --duration 5s --signals tcp,disk  watch for 5 seconds, two signals only
  sudo kerno doctor --output markdown                 write a report for a chat or a ticket
  sudo kerno doctor --continuous --interval 1m        report every minute, with what changed
  sudo kerno doctor --exit-code --fail-on warning     exit with status 1 if something is wrong
  sudo kerno doctor --save snapshot.json              save what was observed ...
  kerno doctor --from snapshot.json                   ... and judge it again, on any machine
  sudo kerno doctor --set fd_leak.min_growth=50       use another threshold, this once
  kerno doctor --at 03:02                             what was wrong then, if `kerno start` was running
  kerno doctor --at '2026-11-28 03:02' --for 5m       the same, over five minutes about that time
  kerno doctor --last 10m                             what was wrong in the last ten minutes

The past (--at, --last) is asked of the `kerno start` that runs here, or read from a store with --store, also one that was copied \
from another machine. It is judged with the thresholds of today.

Kerno reads thresholds and defaults of these options from a file: the one that --config names, else the one that KERNO_CONFIG \
names, else /etc/kerno/config.toml. The environment (KERNO_FD_LEAK__MIN_GROWTH=50, KERNO_DOCTOR__DURATION=10s) overrides the \
file, and options override both. `kerno doctor --list-rules` lists all rules with their thresholds.

Privileges: root, or CAP_BPF and CAP_PERFMON. Without root it sees less of other users' processes; the report says what is missing.

Press Ctrl-C to stop watching and to get a report of what was seen so far. Press it again to exit at once.

Exit status: 0 success; 1 with --exit-code, if a finding is at least as severe as --fail-on; 2 error.";

const TRACE_EXAMPLES: &str = "\
Examples:
  sudo kerno trace all --errors-only
  sudo kerno trace syscall --pid 4711 --min-latency 10ms
  sudo kerno trace syscall --comm nginx --syscall openat,connect --errors-only
  sudo kerno trace all --cgroup system.slice/nginx.service --duration 30s
  sudo kerno trace syscall --output json --count 1000 > events.ndjson

Filters are applied in the kernel: what they leave out costs next to nothing. An event must pass all filters; if a filter has \
several values, one of them is enough. The signals that a filter fits are in brackets. If it fits only some of the traced \
signals, it is applied to those; if it fits none of them, that is an error.

Privileges: root, or CAP_BPF and CAP_PERFMON (before Linux 5.11 also CAP_SYS_RESOURCE). To trace as an ordinary user:
  sudo setcap cap_bpf,cap_perfmon+ep $(command -v kerno)

Press Ctrl-C to stop: Kerno detaches its programs, prints the events seen so far, and writes a summary line to standard error. \
Press it again to exit at once.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch the machine, then report what is wrong, who causes it, who suffers, the evidence, and what to type next
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(Box<DoctorArgs>),
    /// Show where the time of a process goes, and whom it waits for, along the whole chain
    #[command(after_help = WHY_EXAMPLES)]
    Why(WhyArgs),
    /// Show what can run out, how full it is, who has most, and how long it lasts
    #[command(after_help = LIMITS_EXAMPLES)]
    Limits(LimitsArgs),
    /// Explain a message of the kernel: what it means, why it comes, and what to do
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(ExplainArgs),
    /// Watch for ever: follow incidents, remember, and serve metrics
    #[command(after_help = START_EXAMPLES)]
    Start(Box<StartArgs>),
    /// Show incidents: what was wrong, from when to when
    #[command(after_help = INCIDENTS_EXAMPLES)]
    Incidents(IncidentsArgs),
    /// Show where alerts go, and send one as a test
    #[command(after_help = ALERT_EXAMPLES)]
    Alert(AlertArgs),
    /// Compare two times: what differs between them, the largest first
    #[command(after_help = COMPARE_EXAMPLES)]
    Compare(CompareArgs),
    /// Write what was observed as a table, for DuckDB, ClickHouse, pandas and the like
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(ExportArgs),
    /// Print kernel events as they happen
    #[command(after_help = TRACE_EXAMPLES)]
    Trace(Box<TraceArgs>),
    /// Show what works on this machine: kernel, privileges, and each signal
    ///
    /// Loads and unloads each signal to find out. Without the privileges for that, shows which ones are missing.
    /// The exit status is 2 if no signal can run.
    Check(CheckArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command, into a directory
    #[command(hide = true)]
    Manual {
        /// The directory
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people: aligned lines, with colours on a terminal
    Text,
    /// For programs: JSON
    Json,
}

/// How to print a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportOutput {
    /// For people: as wide as the terminal, with colours on a terminal
    Text,
    /// For programs: JSON; with --continuous, one object on each line
    Json,
    /// For chats and tickets: Markdown
    Markdown,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Watch for this long, such as 5s or 2m [default: 30s]
    #[arg(short, long, value_name = "TIME", value_parser = values::positive_duration)]
    pub(crate) duration: Option<Duration>,

    /// Write text, a JSON object, or Markdown
    #[arg(short, long, value_enum, default_value_t = ReportOutput::Text, value_name = "FORMAT")]
    pub(crate) output: ReportOutput,

    /// Watch only these signals [default: all]
    #[arg(short, long, value_name = "SIGNAL[,SIGNAL...]", value_delimiter = ',', value_parser = signal_parser())]
    pub(crate) signals: Vec<String>,

    /// Report repeatedly until Ctrl-C, with what is new, worse, better or resolved
    #[arg(short, long, conflicts_with = "duration")]
    pub(crate) continuous: bool,

    /// With --continuous: length of each window [default: 30s]
    #[arg(short, long, value_name = "TIME", requires = "continuous", value_parser = values::positive_duration)]
    pub(crate) interval: Option<Duration>,

    /// Save what was observed to this file, for --from; with --continuous, the latest window
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) save: Option<PathBuf>,

    /// Judge a file that --save wrote, instead of watching; needs no privileges
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath,
          conflicts_with_all = ["duration", "signals", "continuous", "interval", "save"])]
    pub(crate) from: Option<PathBuf>,

    /// Report on that time instead of watching: 03:02, "2026-11-28 03:02", "10 min ago"
    #[arg(long, value_name = "TIME", value_parser = values::moment,
          conflicts_with_all = ["duration", "signals", "continuous", "interval", "from"])]
    pub(crate) at: Option<u64>,

    /// With --at: report on this long about that time [default: 1m]
    #[arg(long = "for", value_name = "TIME", requires = "at", value_parser = values::positive_duration)]
    pub(crate) length: Option<Duration>,

    /// Report on the time until now, such as 10m, instead of watching
    #[arg(long, value_name = "TIME", value_parser = values::positive_duration,
          conflicts_with_all = ["at", "duration", "signals", "continuous", "interval", "from"])]
    pub(crate) last: Option<Duration>,

    #[command(flatten)]
    pub(crate) past: PastArgs,

    /// Exit with status 1 if a finding is at least as severe as --fail-on
    #[arg(long)]
    pub(crate) exit_code: bool,

    /// Lowest severity that matters to --exit-code: critical, warning or info [default: critical]
    #[arg(long, value_name = "SEVERITY", requires = "exit_code", value_parser = severity_parser(), hide_possible_values = true)]
    pub(crate) fail_on: Option<Severity>,

    /// Omit command lines, which may contain secrets
    #[arg(long)]
    pub(crate) redact: bool,

    /// Show no progress on standard error
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Read thresholds and defaults from this file [default: /etc/kerno/config.toml, if it exists]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,

    /// Set a threshold, such as fd_leak.min_growth=50; may be repeated
    #[arg(long, value_name = "RULE.THRESHOLD=VALUE", value_parser = set_threshold)]
    pub(crate) set: Vec<SetThreshold>,

    /// List all rules with their thresholds and reasons, and exit
    #[arg(long, conflicts_with_all = ["duration", "signals", "continuous", "interval", "save", "from", "exit_code", "redact"])]
    pub(crate) list_rules: bool,
}

/// The value of a `--set`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetThreshold {
    pub(crate) rule: String,
    pub(crate) threshold: String,
    pub(crate) value: String,
}

fn set_threshold(text: &str) -> Result<SetThreshold, String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    match name.split_once('.') {
        Some((rule, threshold)) if !rule.is_empty() && !threshold.is_empty() && !value.is_empty() => Ok(SetThreshold {
            rule: rule.trim().to_owned(),
            threshold: threshold.trim().to_owned(),
            value: value.trim().to_owned(),
        }),
        _ => Err("expected RULE.THRESHOLD=VALUE, such as fd_leak.min_growth=50; --list-rules lists them".to_owned()),
    }
}

fn severity_parser() -> impl TypedValueParser<Value = Severity> {
    PossibleValuesParser::new(["critical", "warning", "info"]).map(|name| match name.as_str() {
        "critical" => Severity::Critical,
        "warning" => Severity::Warning,
        _ => Severity::Info,
    })
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Show what each privilege is for, what is lost without it, and which this process has
    #[arg(long)]
    pub(crate) explain_privileges: bool,

    /// Write text, or one JSON object
    #[arg(short, long, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct TraceArgs {
    /// Signals to trace; "all" is every signal that can be loaded here
    #[arg(required = true, value_name = "SIGNAL[,SIGNAL...]|all", value_delimiter = ',', value_parser = signal_parser())]
    pub(crate) signals: Vec<String>,

    /// Write aligned text, or one JSON object on each line
    #[arg(short, long, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub(crate) output: Output,

    /// Stop after this time, such as 500ms, 10s or 2m
    #[arg(short, long, value_name = "TIME", value_parser = values::positive_duration)]
    pub(crate) duration: Option<Duration>,

    /// Stop after this many events
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// Size of the ring buffer of each signal, a power of two; a larger one loses less in bursts [default: 4MiB; 1MiB with all]
    #[arg(long, value_name = "BYTES", value_parser = values::size)]
    pub(crate) ring_size: Option<u32>,

    /// Include the activity of this command itself
    #[arg(long)]
    pub(crate) include_self: bool,

    /// With "all": fail if a signal cannot be loaded
    #[arg(long)]
    pub(crate) all_or_nothing: bool,

    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// Bytes of each signal's ring when this many are loaded: 8 MiB in all, at most 4 MiB each. Rings are mapped twice, so twice as much
/// shows as resident.
pub(crate) fn default_ring_bytes(signals: usize) -> u32 {
    let share = (8 << 20) / u32::try_from(signals.max(1)).unwrap_or(u32::MAX);
    // The power of two at or below the share.
    (1u32 << share.max(1 << 16).ilog2()).min(Options::DEFAULT_RING_BYTES)
}

/// The flags are named as [`kerno::FilterKind::name`] says; a test compares them.
#[derive(Args, Debug)]
#[command(next_help_heading = "Filters (may be repeated; numbers, system calls and devices also as lists: 1,2,3)")]
pub(crate) struct FilterArgs {
    /// Only these processes
    #[arg(short, long, value_name = "PID", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pid: Vec<u32>,

    /// Only tasks with this name, as in /proc/PID/comm
    #[arg(long, value_name = "NAME")]
    comm: Vec<String>,

    /// Only these users (real user id)
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    uid: Vec<u32>,

    /// Only this cgroup (v2) and all below it: a path, absolute or relative to the root of the hierarchy
    #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath)]
    cgroup: Vec<PathBuf>,

    /// Only the processes of this systemd unit, such as nginx: by the cgroup that it has now
    #[arg(long, value_name = "NAME")]
    unit: Vec<String>,

    /// Only the processes of this container, by its name, its id or the begin of it
    #[arg(long, value_name = "NAME")]
    container: Vec<String>,

    /// Only the processes of this pod: POD, NAMESPACE/POD, or NAMESPACE/POD/CONTAINER
    #[arg(long, value_name = "POD")]
    pod: Vec<String>,

    /// Only what took at least this long, such as 100us or 20ms
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    min_latency: Option<Duration>,

    /// Only what failed
    #[arg(short, long)]
    errors_only: bool,

    /// Only these system calls
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    syscall: Vec<String>,

    /// Only TCP connections with one of these ports at either end
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,

    /// Only these block devices
    #[arg(long, value_name = "MAJ:MIN|/dev/NAME", value_delimiter = ',', value_parser = values::device, value_hint = ValueHint::FilePath)]
    device: Vec<(u32, u32)>,

    /// Only files whose absolute path starts with this
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    path_prefix: Option<PathBuf>,
}

impl FilterArgs {
    /// # Errors
    /// If there is no such unit, container or pod now.
    pub(crate) fn filter(&self) -> anyhow::Result<kerno::Filter> {
        let units = self.unit.iter().cloned().map(Target::Unit);
        let containers = self.container.iter().chain(&self.pod).cloned().map(Target::Container);
        let mut cgroups = self.cgroup.clone();
        for target in units.chain(containers) {
            cgroups.extend(target.cgroups()?);
        }
        Ok(kerno::Filter {
            pids: self.pid.clone(),
            comms: self.comm.clone(),
            uids: self.uid.clone(),
            cgroups,
            min_latency: self.min_latency,
            errors_only: self.errors_only,
            syscalls: self.syscall.clone(),
            ports: self.port.clone(),
            devices: self.device.clone(),
            path_prefix: self.path_prefix.clone(),
        })
    }
}

/// The command line as it is parsed, shown and completed. The help of each filter names the signals that it fits.
pub(crate) fn command() -> clap::Command {
    Cli::command().mut_subcommand("trace", |trace| {
        FilterKind::ALL.into_iter().fold(trace, |trace, kind| {
            trace.mut_arg(kind.name().replace('-', "_"), |arg| {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                arg.help(format!("{help} [{}]", fitting(kind)))
            })
        })
    })
}

fn fitting(kind: FilterKind) -> String {
    let has = |signal: &&SignalInfo| (signal.loader)(Options::default()).filters().contains(&kind);
    let signals: Vec<_> = signals::ALL.iter().filter(has).map(|signal| signal.alias).collect();
    match signals.len() {
        0 => "no signal".to_owned(),
        all if all == signals::ALL.len() => ALL.to_owned(),
        _ => signals.join(", "),
    }
}

/// Each signal by its alias, name and event type.
fn signal_parser() -> PossibleValuesParser {
    let signals = signals::ALL.iter().map(|signal| {
        PossibleValue::new(signal.alias)
            .aliases([signal.name, signal.event_type.name()])
            .help(format!("The signal {}", signal.name))
    });
    PossibleValuesParser::new(signals.chain([PossibleValue::new(ALL).help("Every signal that can be loaded here")]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn rings_share_what_there_is() {
        let mebibytes = [1, 2, 3, 4, 5, 7, 8].map(|signals| default_ring_bytes(signals) >> 20);
        assert_eq!(mebibytes, [4, 4, 2, 2, 1, 1, 1]);
        assert_eq!(default_ring_bytes(usize::MAX), 1 << 16);
        assert_eq!(default_ring_bytes(0), 4 << 20);
    }

    #[test]
    fn every_filter_has_a_flag_of_its_name() {
        let command = command();
        let trace = command.find_subcommand("trace").unwrap();
        for kind in FilterKind::ALL {
            let arg = trace.get_arguments().find(|arg| arg.get_long() == Some(kind.name())).unwrap();
            assert!(arg.get_help().unwrap().to_string().ends_with(']'), "--{kind}");
        }
    }

    #[test]
    fn every_flag_reaches_the_filter() {
        let line = "kerno trace all --pid 1,2 --pid 3 --comm a,b --uid 0 --cgroup x --min-latency 1ms --errors-only \
                    --syscall read,write --port 80 --device 8:0,8:16 --path-prefix /etc";
        let Command::Trace(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!("trace")
        };
        let filter = args.filter.filter().unwrap();
        assert_eq!(filter.kinds().count(), FilterKind::ALL.len());
        assert_eq!(filter.pids, [1, 2, 3]);
        assert_eq!(filter.comms, ["a,b"], "a task's name may have a comma");
        assert_eq!(filter.devices, [(8, 0), (8, 16)]);
    }

    #[test]
    fn odd_arguments_are_refused_without_a_panic() {
        let long = "9".repeat(5000);
        let bytes = "\u{1b}[31m\u{7}";
        let weird =
            ["", " ", ",", "-1", "0", "18446744073709551616", bytes, "é漢", "=", "NaN", "all", "1e9", long.as_str()];
        let flags = [
            "--pid",
            "--uid",
            "--port",
            "--device",
            "--min-latency",
            "--duration",
            "--count",
            "--ring-size",
            "--output",
        ];
        for flag in flags {
            for value in weird {
                let parsed = Cli::try_parse_from(["kerno", "trace", "all", &format!("{flag}={value}")]);
                let accepted = flag == "--uid" && value == "0";
                assert_eq!(parsed.is_ok(), accepted, "{flag} {value:?}");
            }
        }
        for value in weird.into_iter().filter(|value| *value != "all") {
            assert!(Cli::try_parse_from(["kerno", "trace", value]).is_err(), "{value:?}");
        }
    }
}
