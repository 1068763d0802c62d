//! The command line of what watches for ever, and of what asks it about the past.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use kerno::model::Severity;

use super::{Output, ReportOutput, SetThreshold, set_threshold, severity_parser, signal_parser};
use crate::values;

pub(super) const START_EXAMPLES: &str = "\
Examples:
  sudo kerno start                               watch in windows of 10 seconds, until it is stopped
  sudo kerno start --interval 30s --http off     longer windows, no HTTP
  sudo kerno start --check-config                read the configuration, say what is wrong with it, and exit
  kerno incidents                                what was wrong
  kerno doctor --at 03:02                        the report of that time
  curl http://127.0.0.1:7653/metrics             for Prometheus
  KERNO_OTLP__ENDPOINT=http://127.0.0.1:4317 sudo -E kerno start   send to a collector of OpenTelemetry

It logs to standard error. SIGHUP reads the configuration again: thresholds and the interval change at once, the rest when it is started \
again. SIGTERM or Ctrl-C stops it. Options override the environment (KERNO_START__INTERVAL=30s), which overrides the file:

  [start]
  interval = \"10s\"              # 1s to 5m
  store = \"/var/lib/kerno\"      # or \"off\"
  store_size = \"1GiB\"           # never more than a tenth of the file system
  socket = \"/run/kerno/kerno.sock\"
  http = \"127.0.0.1:7653\"       # or \"off\"
  log = \"text\"                  # or \"json\"
  signals = [\"all\"]
  redact = false                # true leaves out command lines

  [otlp]                        # metrics and incidents for OpenTelemetry
  endpoint = \"http://127.0.0.1:4317\"
  headers_file = \"/etc/kerno/otlp-headers\"

Privileges: root, or CAP_BPF and CAP_PERFMON. Members of the group kerno may use the socket, if there is such a group.";

pub(super) const COMPARE_EXAMPLES: &str = "\
Examples:
  kerno compare --at 03:02 --with 02:00            the minutes about both times
  kerno compare --at 03:02 --with '2026-11-27 03:02' --for 10m
  kerno compare --at now --with '1h ago' --output json

It compares rates, values, and the median and 99th percentile of distributions, by service where they are known by service. What changed by \
less than half is left out. Both times are asked of the `kerno start` that runs here, or read from a store with --store.";

pub(super) const INCIDENTS_EXAMPLES: &str = "\
Examples:
  kerno incidents                          all that are known, the latest last
  kerno incidents --open                   those that go on
  kerno incidents --since '8h ago' --severity critical
  kerno incidents show fd_leak-1f3a...     one with its evidence and what to do
  kerno incidents follow                   changes as they happen
  kerno incidents --output json            an array, for programs
  kerno incidents --store ./kerno          of a store that was copied here

Incidents are asked of the `kerno start` that runs here, or read from a store with --store.";

pub(super) const EXPORT_EXAMPLES: &str = "\
Examples:
  kerno export --last 1h samples.parquet                   a row for each number of each window
  kerno export --from '2026-11-28 03:00' --to '2026-11-28 04:00' night.parquet
  kerno export --table incidents incidents.parquet         a row for each incident
  kerno export --table windows --last 10m windows.ndjson   whole windows
  kerno export --last 10m - | head                         JSON on standard output
  kerno export --store ./kerno --last 1d samples.parquet   of a store that was copied here

  duckdb -c \"select time, label_device, p99 from 'samples.parquet' where metric = 'kerno.disk.operation.duration' order by p99 desc limit 10\"

docs/export.md has the columns. The past is asked of the `kerno start` that runs here, or read from a store with --store.";

/// A table of what was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportTable {
    /// The numbers of windows, a row each
    Samples,
    /// Incidents, a row each
    Incidents,
    /// Whole windows, as NDJSON
    Windows,
}

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// Apache Parquet
    Parquet,
    /// One JSON object a line
    Ndjson,
}

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Write to this file, or "-" for standard output
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,

    /// What to export
    #[arg(short, long, value_enum, default_value_t = ExportTable::Samples, value_name = "TABLE")]
    pub(crate) table: ExportTable,

    /// How to write it [default: by the file's ending; NDJSON on standard output]
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<ExportFormat>,

    /// Only what was observed after this time: 03:02, "2026-11-28 03:02", "8h ago" [default: all]
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) from: Option<u64>,

    /// Only what was observed before this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) to: Option<u64>,

    /// Only what was observed in this time until now
    #[arg(long, value_name = "TIME", value_parser = values::positive_duration, conflicts_with_all = ["from", "to"])]
    pub(crate) last: Option<Duration>,

    /// Leave secrets in: command lines may have passwords in them, which are hidden otherwise
    #[arg(long)]
    pub(crate) with_secrets: bool,

    /// Read what is hidden, [redaction], from this file [default: /etc/kerno/config.toml, if it exists]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) past: PastArgs,
}

/// Where the past is asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct PastArgs {
    /// Read the past from this store instead of asking the kerno that runs
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, global = true)]
    pub(crate) store: Option<PathBuf>,

    /// Ask the kerno that listens on this socket [default: /run/kerno/kerno.sock]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, conflicts_with = "store", global = true)]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StartArgs {
    /// Length of each window, 1s to 5m [default: 10s]
    #[arg(short, long, value_name = "TIME", value_parser = values::positive_duration)]
    pub(crate) interval: Option<Duration>,

    /// Keep windows and incidents in this directory, or "off" [default: /var/lib/kerno]
    #[arg(long, value_name = "DIR|off", value_hint = ValueHint::DirPath)]
    pub(crate) store: Option<PathBuf>,

    /// Listen on this Unix socket for the other commands, or "off" [default: /run/kerno/kerno.sock]
    #[arg(long, value_name = "PATH|off", value_hint = ValueHint::FilePath)]
    pub(crate) socket: Option<PathBuf>,

    /// Serve HTTP on this address, or "off" [default: 127.0.0.1:7653]. Beyond this machine it needs TLS and a token or client certificates: see
    /// docs/start.md
    #[arg(long, value_name = "ADDR|off")]
    pub(crate) http: Option<String>,

    /// Serve nothing but health checks on this address, for everybody [default: off]
    #[arg(long, value_name = "ADDR|off")]
    pub(crate) health: Option<String>,

    /// Watch only these signals [default: all]
    #[arg(short, long, value_name = "SIGNAL[,SIGNAL...]", value_delimiter = ',', value_parser = signal_parser())]
    pub(crate) signals: Vec<String>,

    /// Leave out command lines, which may contain secrets
    #[arg(long)]
    pub(crate) redact: bool,

    /// Write the log as text or as JSON, one object a line [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log: Option<Output>,

    /// Read the configuration, say what is wrong with it, and exit
    #[arg(long)]
    pub(crate) check_config: bool,

    /// Read settings and thresholds from this file [default: /etc/kerno/config.toml, if it exists]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,

    /// Set a threshold, such as fd_leak.min_growth=50; may be repeated
    #[arg(long, value_name = "RULE.THRESHOLD=VALUE", value_parser = set_threshold)]
    pub(crate) set: Vec<SetThreshold>,
}

#[derive(Args, Debug)]
pub(crate) struct IncidentsArgs {
    #[command(subcommand)]
    pub(crate) action: Option<IncidentsAction>,

    /// Only those that go on
    #[arg(long, conflicts_with = "closed")]
    pub(crate) open: bool,

    /// Only those that are over
    #[arg(long)]
    pub(crate) closed: bool,

    /// Only those at least so severe: critical, warning or info
    #[arg(long, value_name = "SEVERITY", value_parser = severity_parser(), hide_possible_values = true, global = true)]
    pub(crate) severity: Option<Severity>,

    /// Only those that this rule found
    #[arg(long, value_name = "RULE", global = true)]
    pub(crate) rule: Option<String>,

    /// Only those of this service or container
    #[arg(long, value_name = "UNIT", global = true)]
    pub(crate) unit: Option<String>,

    /// Only those that went on after this time: 03:02, "2026-11-28 03:02", "8h ago"
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) since: Option<u64>,

    /// Only those that began before this time
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) until: Option<u64>,

    /// Write text, JSON, or Markdown
    #[arg(short, long, value_enum, default_value_t = ReportOutput::Text, value_name = "FORMAT", global = true)]
    pub(crate) output: ReportOutput,

    #[command(flatten)]
    pub(crate) past: PastArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// The time that is looked at: 03:02, "2026-11-28 03:02", "10 min ago", now
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) at: u64,

    /// The time that it is compared with, when all was well
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) with: u64,

    /// How long about each time is looked at [default: 1m]
    #[arg(long = "for", value_name = "TIME", value_parser = values::positive_duration)]
    pub(crate) length: Option<Duration>,

    /// Show at most this many differences
    #[arg(short = 'n', long, value_name = "N", default_value_t = 30)]
    pub(crate) top: usize,

    /// Write text, or a JSON array of all differences
    #[arg(short, long, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub(crate) output: Output,

    #[command(flatten)]
    pub(crate) past: PastArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IncidentsAction {
    /// List them; this is what happens without a subcommand
    List,
    /// Show one with its evidence and what to do
    Show {
        /// Its id, or enough of its beginning to tell it from others
        id: String,
    },
    /// Print changes as they happen, until Ctrl-C
    Follow,
}
