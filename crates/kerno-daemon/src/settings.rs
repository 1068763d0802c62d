use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use kerno_bpf::engine::Budget;
use kerno_doctor::Thresholds;
use kerno_doctor::objective::Objective;
use kerno_doctor::redaction::Redaction;

use crate::sinks::settings::SinkSettings;

use crate::otlp::settings::OtlpSettings;

use crate::api::Guard;

/// Where windows and incidents are kept unless set otherwise.
pub const DEFAULT_STORE: &str = "/var/lib/kerno";
/// The Unix socket for the command unless set otherwise.
pub const DEFAULT_SOCKET: &str = "/run/kerno/kerno.sock";
/// Where HTTP is served unless set otherwise: on this machine only.
pub const DEFAULT_HTTP: &str = "127.0.0.1:7653";
/// How long a window may be.
pub const INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);

/// How the daemon watches, and where it keeps and tells what it sees.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The length of each window; see [`INTERVALS`].
    pub interval: Duration,
    /// The signals, by name; all that can run here if empty.
    pub signals: Vec<String>,
    /// Whether to leave out command lines, which may contain secrets.
    pub redact: bool,
    /// The directory of the store; `None` keeps nothing.
    pub store: Option<PathBuf>,
    /// The store's size and for how long it keeps what.
    pub keep: kerno_store::Settings,
    /// The Unix socket; `None` for none.
    pub socket: Option<PathBuf>,
    /// The address for HTTP; `None` for none.
    pub http: Option<SocketAddr>,
    /// Who may ask there.
    pub guard: Guard,
    /// An address for nothing but `/healthz` and `/readyz`, for everybody; `None` for none.
    pub health: Option<SocketAddr>,
    /// What watching may cost.
    pub budget: Budget,
    /// Where metrics and incidents are sent to by the protocol of OpenTelemetry; `None` for nowhere.
    pub otlp: Option<OtlpSettings>,
    /// What counts as wrong.
    pub thresholds: Thresholds,
    /// What has to hold for most of the time; at most [`MAX_OBJECTIVES`](kerno_model::catalogue::MAX_OBJECTIVES), each with a name of its own.
    pub objectives: Vec<Objective>,
    /// Where alerts go; at most [`MAX_SINKS`](crate::MAX_SINKS), each with a name of its own.
    pub sinks: Vec<SinkSettings>,
    /// What is hidden in text that leaves the machine.
    pub redaction: Redaction,
    /// Give up what is not needed any more when all is loaded: of capabilities, of system calls, and of the file system. This is for the thread that
    /// [starts](crate::Daemon::start) the daemon, too. [`confine::process`](crate::confine::process) comes first.
    pub confine: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            signals: Vec::new(),
            redact: false,
            store: Some(DEFAULT_STORE.into()),
            keep: kerno_store::Settings::default(),
            socket: Some(DEFAULT_SOCKET.into()),
            http: DEFAULT_HTTP.parse().ok(),
            guard: Guard::default(),
            health: None,
            budget: Budget::default(),
            otlp: None,
            thresholds: Thresholds::default(),
            objectives: Vec::new(),
            sinks: Vec::new(),
            redaction: Redaction::default(),
            confine: false,
        }
    }
}
