//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum, ValueHint};
use kerno::model::Severity;
use kerno::signals::{self, SignalInfo};
use kerno::{FilterKind, Options};

use crate::values;

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
  sudo kerno doctor                              what is wrong, who causes it, and what to do
  kerno check                                    what works on this machine, and what does not
  sudo kerno trace all --errors-only             everything that fails, as it happens
  sudo kerno trace syscall --min-latency 100ms   system calls that take long
  kerno completions bash > ~/.local/share/bash-completion/completions/kerno

Exit status: 0 fine, 2 error; 1 findings, with doctor --exit-code.";

const DOCTOR_EXAMPLES: &str = "\
Examples:
  sudo kerno doctor                                   watch for 30 seconds, then tell
  sudo kerno doctor --duration 5s --signals tcp,disk  shorter, and only these
  sudo kerno doctor --output markdown                 to paste where an incident is discussed
  sudo kerno doctor --continuous --interval 1m        what is new, worse, better, resolved
  sudo kerno doctor --exit-code --fail-on warning     for scripts
  sudo kerno doctor --save snapshot.json              keep what was observed ...
  kerno doctor --from snapshot.json                   ... and judge it again, anywhere
  sudo kerno doctor --set fd_leak.min_growth=50       another threshold, this once

Thresholds and defaults of these flags are read from /etc/kerno/config.toml, or from --config FILE or the file that \
KERNO_CONFIG names instead; then from the environment (KERNO_FD_LEAK__MIN_GROWTH=50, KERNO_DOCTOR__DURATION=10s); then from \
flags. The later wins. `kerno doctor --list-rules` has every rule with its thresholds.

Privileges: root. With CAP_BPF and CAP_PERFMON alone it runs too, sees less of other users' processes, and says what.

Ctrl-C ends the watching and reports what was seen by then; a second Ctrl-C ends at once.

Exit status: 0 fine; 1 with --exit-code, when a finding is as severe as --fail-on; 2 error.";

const TRACE_EXAMPLES: &str = "\
Examples:
  sudo kerno trace all --errors-only
  sudo kerno trace syscall --pid 4711 --min-latency 10ms
  sudo kerno trace syscall --comm nginx --syscall openat,connect --errors-only
  sudo kerno trace all --cgroup system.slice/nginx.service --duration 30s
  sudo kerno trace syscall --output json --count 1000 > events.ndjson

Filters are applied in the kernel: what they leave out costs next to nothing. Values of one filter are \
alternatives; different filters must all be met. Each says in brackets which signals have it: one that only some of the \
chosen signals have is applied to those, and one that none of them has is an error.

Privileges: root, or CAP_BPF and CAP_PERFMON and nothing else (before Linux 5.11 CAP_SYS_RESOURCE too). To trace as an \
ordinary user:
  sudo setcap cap_bpf,cap_perfmon+ep $(command -v kerno)

Ctrl-C detaches the programs, prints what they had seen by then, and ends with a summary line on standard error; a second \
Ctrl-C ends at once.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch the machine, then tell what is wrong: who causes it, who suffers, the evidence, and what to type next
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(Box<DoctorArgs>),
    /// Print kernel events as they happen
    #[command(after_help = TRACE_EXAMPLES)]
    Trace(Box<TraceArgs>),
    /// Say what works on this machine: kernel, privileges, and each signal
    ///
    /// With the privileges it loads and unloads each signal, so that the answer is true; without, it says what is missing. Exit
    /// status 2 when no signal can run.
    Check(CheckArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people: aligned lines, coloured on a terminal
    Text,
    /// For programs: JSON
    Json,
}

/// How to print a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportOutput {
    /// For people: as wide as the terminal, coloured on one
    Text,
    /// For programs: a JSON object; with --continuous one a line
    Json,
    /// For people elsewhere: Markdown
    Markdown,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// How long to watch, such as 5s, 2m [default: 30s]
    #[arg(short, long, value_name = "TIME", value_parser = values::positive_duration)]
    pub(crate) duration: Option<Duration>,

    /// Text, a JSON object, or Markdown
    #[arg(short, long, value_enum, default_value_t = ReportOutput::Text, value_name = "FORMAT")]
    pub(crate) output: ReportOutput,

    /// Watch only these [default: all]
    #[arg(short, long, value_name = "SIGNAL[,SIGNAL...]", value_delimiter = ',', value_parser = signal_parser())]
    pub(crate) signals: Vec<String>,

    /// Report again and again until Ctrl-C: what is new, worse, better, resolved
    #[arg(short, long, conflicts_with = "duration")]
    pub(crate) continuous: bool,

    /// With --continuous: how long each window is [default: 30s]
    #[arg(short, long, value_name = "TIME", requires = "continuous", value_parser = values::positive_duration)]
    pub(crate) interval: Option<Duration>,

    /// Write what was observed to this file, for --from; with --continuous the latest window
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) save: Option<PathBuf>,

    /// Judge what --save wrote instead of watching; needs no privileges
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath,
          conflicts_with_all = ["duration", "signals", "continuous", "interval", "save"])]
    pub(crate) from: Option<PathBuf>,

    /// End with status 1 when a finding is as severe as --fail-on
    #[arg(long)]
    pub(crate) exit_code: bool,

    /// From which severity on --exit-code gives 1: critical, warning or info [default: critical]
    #[arg(long, value_name = "SEVERITY", requires = "exit_code", value_parser = severity_parser(), hide_possible_values = true)]
    pub(crate) fail_on: Option<Severity>,

    /// Leave out command lines, which may hold secrets
    #[arg(long)]
    pub(crate) redact: bool,

    /// No progress on standard error
    #[arg(short, long)]
    pub(crate) quiet: bool,

    /// Read thresholds and defaults from this file [default: /etc/kerno/config.toml, if there]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,

    /// Set a threshold, such as fd_leak.min_growth=50; repeat for more
    #[arg(long, value_name = "RULE.THRESHOLD=VALUE", value_parser = set_threshold)]
    pub(crate) set: Vec<SetThreshold>,

    /// Print every rule with its thresholds and its reasoning, and end
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
        _ => Err("expected RULE.THRESHOLD=VALUE, such as fd_leak.min_growth=50; --list-rules has them".to_owned()),
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
    /// Text, or one JSON object
    #[arg(short, long, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct TraceArgs {
    /// What to trace; "all" is whatever can be loaded here
    #[arg(required = true, value_name = "SIGNAL[,SIGNAL...]|all", value_delimiter = ',', value_parser = signal_parser())]
    pub(crate) signals: Vec<String>,

    /// Aligned text, or one JSON object a line
    #[arg(short, long, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub(crate) output: Output,

    /// End after this time, such as 500ms, 10s, 2m
    #[arg(short, long, value_name = "TIME", value_parser = values::positive_duration)]
    pub(crate) duration: Option<Duration>,

    /// End after this many events
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// Ring buffer of each signal, a power of two: a larger one loses less in bursts [default: 4MiB; 1MiB with all]
    #[arg(long, value_name = "BYTES", value_parser = values::size)]
    pub(crate) ring_size: Option<u32>,

    /// Also this command's own activity
    #[arg(long)]
    pub(crate) include_self: bool,

    /// With "all": fail unless every signal can be loaded
    #[arg(long)]
    pub(crate) all_or_nothing: bool,

    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// Bytes of each signal's ring when so many are loaded: 8 MiB together, and 4 MiB at most. Rings are mapped twice, so that this is
/// half of what shows as resident.
pub(crate) fn default_ring_bytes(signals: usize) -> u32 {
    let share = (8 << 20) / u32::try_from(signals.max(1)).unwrap_or(u32::MAX);
    // The power of two at or below the share.
    (1u32 << share.max(1 << 16).ilog2()).min(Options::DEFAULT_RING_BYTES)
}

/// The flags are named as [`kerno::FilterKind::name`] says; a test compares them.
#[derive(Args, Debug)]
#[command(
    next_help_heading = "Filters (repeat for alternatives; numbers, system calls and devices also as lists: 1,2,3)"
)]
pub(crate) struct FilterArgs {
    /// Only these processes
    #[arg(short, long, value_name = "PID", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pid: Vec<u32>,

    /// Only tasks of this name, as in /proc/PID/comm
    #[arg(long, value_name = "NAME")]
    comm: Vec<String>,

    /// Only these users (real user id)
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    uid: Vec<u32>,

    /// Only this cgroup (v2) and all below it: a path, absolute or from the hierarchy's root
    #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath)]
    cgroup: Vec<PathBuf>,

    /// Only what took at least this long, such as 100us, 20ms
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
    pub(crate) fn filter(&self) -> kerno::Filter {
        kerno::Filter {
            pids: self.pid.clone(),
            comms: self.comm.clone(),
            uids: self.uid.clone(),
            cgroups: self.cgroup.clone(),
            min_latency: self.min_latency,
            errors_only: self.errors_only,
            syscalls: self.syscall.clone(),
            ports: self.port.clone(),
            devices: self.device.clone(),
            path_prefix: self.path_prefix.clone(),
        }
    }
}

/// The command line as it is parsed, shown and completed: each filter's help names the signals that have it.
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
            .help(format!("{} events", signal.name))
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
        let filter = args.filter.filter();
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
