use serde::{Deserialize, Serialize};

use crate::{Container, Process, Window};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing suffers from it.
    Info,
    /// Something suffers, or will soon.
    Warning,
    /// Something fails or stands still, or is about to.
    Critical,
}

impl Severity {
    /// Its name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What a number is a number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// How many.
    Count,
    /// How many a second.
    PerSecond,
    /// A share, 0 to 1.
    Ratio,
    /// So many times as much.
    Times,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Bytes.
    Bytes,
    /// Bytes a second.
    BytesPerSecond,
}

/// Something that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Evidence {
    /// What, in words: "write requests waited for the device (p99)".
    pub what: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
    /// From where on it is a symptom, where there is such a line.
    pub threshold: Option<f64>,
}

/// Something that happened, as an example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Exemplar {
    /// When: seconds since the window began.
    pub seconds: f64,
    /// What, in words.
    pub what: String,
}

/// Who or what is behind it, or suffers from it: whichever of these applies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Culprit {
    /// A process's id.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<u32>,
    /// Its name; lossy, may hold control characters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub process: Option<String>,
    /// Its command line.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cmdline: Option<String>,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    /// A cgroup's path.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cgroup: Option<String>,
    /// A container.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container: Option<Container>,
    /// A systemd unit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unit: Option<String>,
    /// A block device's name, or `major:minor`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device: Option<String>,
    /// A mount point.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mount: Option<String>,
    /// The other end of connections: an address, or address and port.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remote: Option<String>,
    /// Our end of connections, or where a process listens.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub local: Option<String>,
}

impl Culprit {
    /// A process, with what is known of it.
    pub fn process(signals: &Window, pid: u32, comm: &str) -> Self {
        let known = signals.process(pid);
        let text = |pick: fn(&Process) -> &str| known.map(|process| pick(process).to_owned()).filter(|s| !s.is_empty());
        Self {
            pid: Some(pid),
            process: Some(if comm.is_empty() { text(|p| &p.comm).unwrap_or_default() } else { comm.to_owned() }),
            cmdline: text(|p| &p.cmdline),
            user: known.and_then(|process| process.user.clone()),
            cgroup: known.and_then(|process| process.cgroup.clone()),
            container: known.and_then(|process| process.container.clone()),
            unit: known.and_then(|process| process.unit.clone()),
            ..Self::default()
        }
    }

    /// A device.
    pub fn device(name: &str) -> Self {
        Self { device: Some(name.to_owned()), ..Self::default() }
    }

    /// A cgroup.
    pub fn cgroup(path: &str) -> Self {
        Self { cgroup: Some(path.to_owned()), ..Self::default() }
    }

    /// The other end of connections.
    pub fn remote(address: impl std::fmt::Display) -> Self {
        Self { remote: Some(address.to_string()), ..Self::default() }
    }

    /// The same with a device added.
    #[must_use]
    pub fn on_device(mut self, name: &str) -> Self {
        self.device = Some(name.to_owned());
        self
    }
}

/// What typing a command would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It only looks.
    ReadOnly,
    /// It changes something.
    Changing,
}

/// Something to type next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Fix {
    /// The command, with the real process, device or address in it.
    pub command: String,
    /// Whether it changes anything.
    pub effect: Effect,
    /// What it is good for.
    pub why: String,
}

/// When something will happen if all goes on as it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Eta {
    /// In how many seconds, counted from the window's end.
    pub seconds: f64,
    /// What will happen then.
    pub what: String,
    /// How well the trend fits what was seen (R squared), 0 to 1.
    pub fit: f64,
}

/// One step of how one thing led to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Step {
    /// When it began: seconds since the window began; 0 when it was so from the start.
    pub seconds: f64,
    /// What, in words.
    pub what: String,
}

/// Something that is wrong, with who is behind it and what to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// The rule that found it, such as `fd_leak`. Stable.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line that names the culprit.
    pub title: String,
    /// The signal that shows it.
    pub signal: String,
    /// Why it is so.
    pub cause: String,
    /// What it does to those who suffer.
    pub impact: String,
    /// What was measured.
    pub evidence: Vec<Evidence>,
    /// Examples of what happened.
    pub exemplars: Vec<Exemplar>,
    /// Who or what is behind it; empty when that cannot be told.
    pub culprit: Culprit,
    /// Who suffers. Bounded.
    pub victims: Vec<Culprit>,
    /// What to type next.
    pub fixes: Vec<Fix>,
    /// When it began: seconds since the window began; `None` when it was so from the start.
    pub since: Option<f64>,
    /// When it will get worse.
    pub eta: Option<Eta>,
    /// How far past its threshold it is: 1 is just there.
    pub excess: f64,
    /// How sure this is, 0 to 1.
    pub confidence: f64,
    /// How it came about, where one thing led to another.
    pub chain: Vec<Step>,
    /// What follows from it: findings that would go if this one did.
    pub consequences: Vec<Finding>,
}

impl Finding {
    /// A finding of a rule, with everything else still to be said.
    pub fn new(id: &str, signal: &str, severity: Severity, title: String) -> Self {
        Self {
            id: id.to_owned(),
            severity,
            title,
            signal: signal.to_owned(),
            cause: String::new(),
            impact: String::new(),
            evidence: Vec::new(),
            exemplars: Vec::new(),
            culprit: Culprit::default(),
            victims: Vec::new(),
            fixes: Vec::new(),
            since: None,
            eta: None,
            excess: 1.0,
            confidence: 0.9,
            chain: Vec::new(),
            consequences: Vec::new(),
        }
    }

    /// Adds what was measured and the line that it crossed.
    #[must_use]
    pub fn measured(mut self, what: impl Into<String>, value: f64, unit: Unit, threshold: Option<f64>) -> Self {
        self.evidence.push(Evidence { what: what.into(), value, unit, threshold });
        self
    }

    /// Adds a command that only looks.
    #[must_use]
    pub fn look(mut self, command: impl Into<String>, why: impl Into<String>) -> Self {
        self.fixes.push(Fix { command: command.into(), effect: Effect::ReadOnly, why: why.into() });
        self
    }

    /// Adds a command that changes something.
    #[must_use]
    pub fn change(mut self, command: impl Into<String>, why: impl Into<String>) -> Self {
        self.fixes.push(Fix { command: command.into(), effect: Effect::Changing, why: why.into() });
        self
    }
}
