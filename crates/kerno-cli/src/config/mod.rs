//! Settings from defaults, the file, the environment and options; later ones override earlier ones.

mod environment;
mod file;
mod objectives;
mod otlp;
mod sinks;
mod suggest;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use kerno::doctor::objective::Objective;
use kerno::doctor::redaction::Redaction;
use kerno::doctor::{self, Rule, ThresholdError, ThresholdInfo, Thresholds};
use kerno::model::Severity;
use kerno::signals;
use kerno_daemon::SinkSettings;

use clap::ValueEnum as _;
use kerno_daemon::Guard;

use crate::args::{ALL, Output, SetThreshold};
use crate::values;

pub(crate) use otlp::OtlpConfig;

/// Read if it exists.
pub(crate) const DEFAULT_FILE: &str = "/etc/kerno/config.toml";

/// Everything that can be set in a file or the environment.
#[derive(Debug, Default)]
pub(crate) struct Config {
    pub(crate) thresholds: Thresholds,
    /// Where each threshold that is set was set last.
    origins: BTreeMap<(&'static str, &'static str), String>,
    pub(crate) doctor: DoctorConfig,
    pub(crate) start: StartConfig,
    pub(crate) otlp: OtlpConfig,
    pub(crate) redaction: RedactionConfig,
    /// What has to hold for most of the time.
    pub(crate) objectives: Vec<Objective>,
    /// Where alerts go, each with where it is in the file.
    sinks: Vec<(String, SinkSettings)>,
}

/// Defaults of the flags of `kerno doctor`.
#[derive(Debug, Default)]
pub(crate) struct DoctorConfig {
    pub(crate) duration: Option<Duration>,
    pub(crate) interval: Option<Duration>,
    pub(crate) fail_on: Option<Severity>,
    pub(crate) signals: Option<Vec<String>>,
    pub(crate) redact: Option<bool>,
}

impl DoctorConfig {
    const KEYS: [&'static str; 5] = ["duration", "interval", "fail_on", "signals", "redact"];
}

/// Settings of `kerno start`.
#[derive(Debug, Default)]
pub(crate) struct StartConfig {
    pub(crate) interval: Option<Duration>,
    pub(crate) signals: Option<Vec<String>>,
    pub(crate) redact: Option<bool>,
    pub(crate) store: Option<PathBuf>,
    pub(crate) store_size: Option<u64>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) http: Option<String>,
    pub(crate) log: Option<Output>,
    pub(crate) health: Option<String>,
    pub(crate) guard: Guard,
    pub(crate) max_kernel_share: Option<f64>,
    pub(crate) max_cpu_share: Option<f64>,
}

impl StartConfig {
    const KEYS: [&'static str; 15] = [
        "interval",
        "signals",
        "redact",
        "store",
        "store_size",
        "socket",
        "http",
        "http_certificate",
        "http_key",
        "http_client_ca",
        "http_token_file",
        "health",
        "log",
        "max_kernel_share",
        "max_cpu_share",
    ];
}

/// What is hidden in text that leaves the machine.
#[derive(Debug, Default)]
pub(crate) struct RedactionConfig {
    enabled: Option<bool>,
    patterns: Vec<String>,
}

impl RedactionConfig {
    const KEYS: [&'static str; 2] = ["enabled", "patterns"];
}

/// The sections of the file besides `rules`, `sink` and `objective`, with their keys. They are also those of the environment.
const SECTIONS: [(&str, &[&str]); 4] = [
    ("doctor", &DoctorConfig::KEYS),
    ("start", &StartConfig::KEYS),
    ("redaction", &RedactionConfig::KEYS),
    ("otlp", &OtlpConfig::KEYS),
];

/// A value as its source has it.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(f64),
    Text(String),
    Bool(bool),
    List(Vec<String>),
    /// Text that may stand for any of these: environment and flags have no types.
    Untyped(String),
    /// A kind of value that no setting has.
    Other(&'static str),
}

/// What is wrong with a setting, and whether with its name or its value.
#[derive(Clone, Debug, PartialEq)]
enum Problem {
    Key(String),
    Value(String),
}

impl Problem {
    fn text(&self) -> &str {
        match self {
            Self::Key(text) | Self::Value(text) => text,
        }
    }
}

impl Config {
    /// Reads the settings from all sources.
    ///
    /// # Errors
    /// For the first setting that is unknown or impossible: says where it is, and what is allowed there.
    pub(crate) fn load(file: Option<&Path>, set: &[SetThreshold]) -> anyhow::Result<Self> {
        let mut config = Self::default();
        let variables: Vec<_> = std::env::vars_os().collect();
        let named = file.map(Path::to_owned).or_else(|| environment::config_file(&variables));
        let must_exist = named.is_some();
        let path = named.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        if let Some(text) = file::read(&path, must_exist)? {
            config.apply_file(&path, &text)?;
        }
        config.apply_environment(&variables)?;
        for SetThreshold { rule, threshold, value } in set {
            let origin = format!("--set {rule}.{threshold}");
            if let Err(problem) = config.set_threshold(rule, threshold, &Value::Untyped(value.clone()), "--set") {
                bail!("{origin}: {}", problem.text());
            }
        }
        Ok(config)
    }

    /// The value in force, and where it was set if it was.
    pub(crate) fn threshold(&self, rule: &'static Rule, info: &'static ThresholdInfo) -> (f64, Option<&str>) {
        let origin = self.origins.get(&(rule.id, info.name)).map(String::as_str);
        (self.thresholds.get(rule.id, info), origin)
    }

    fn set_threshold(&mut self, rule: &str, name: &str, value: &Value, origin: &str) -> Result<(), Problem> {
        let found = doctor::rules().find(|candidate| candidate.id == rule);
        let info = found.and_then(|rule| rule.thresholds.iter().find(|info| info.name == name));
        let (Some(found), Some(info)) = (found, info) else {
            // The error of the library lists what exists.
            let error = self.thresholds.set(rule, name, 0.0).err();
            return Err(Problem::Key(error.map_or_else(String::new, |error| with_suggestion(&error))));
        };
        let number = number(value).map_err(|what| {
            Problem::Value(format!("{rule}.{name} is a number, {} to {}; this is {what}", info.min, info.max))
        })?;
        self.thresholds.set(rule, name, number).map_err(|error| Problem::Value(error.to_string()))?;
        self.origins.insert((found.id, info.name), origin.to_owned());
        Ok(())
    }

    /// Sets a key of one of [`SECTIONS`].
    fn set(&mut self, section: &str, key: &str, value: &Value) -> Result<(), Problem> {
        match section {
            "start" => self.set_start(key, value),
            "otlp" => self.otlp.set(key, value),
            "redaction" => self.set_redaction(key, value),
            _ => self.set_doctor(key, value),
        }
    }

    fn set_start(&mut self, key: &str, value: &Value) -> Result<(), Problem> {
        let start = &mut self.start;
        let wrong = |allowed: &str, what: String| Problem::Value(format!("start.{key} is {allowed}; this is {what}"));
        let words = |allowed: &str| text(value).map_err(|what| wrong(allowed, what));
        let refused = |why: String| Problem::Value(format!("start.{key}: {why}"));
        match key {
            "interval" => {
                start.interval = Some(values::positive_duration(&words("a time such as \"10s\"")?).map_err(refused)?);
            }
            "signals" => start.signals = Some(signal_names(value, &wrong)?),
            "redact" => start.redact = Some(boolean(value).map_err(|what| wrong("true or false", what))?),
            "store" => start.store = Some(words("a directory, or \"off\"")?.into()),
            "store_size" => {
                start.store_size = Some(values::bytes(&words("a size such as \"1GiB\"")?).map_err(refused)?);
            }
            "socket" => start.socket = Some(words("a path, or \"off\"")?.into()),
            "http" => start.http = Some(words("an address such as \"127.0.0.1:7653\", or \"off\"")?),
            "http_certificate" => start.guard.certificate = Some(words("a file")?.into()),
            "http_key" => start.guard.key = Some(words("a file")?.into()),
            "http_client_ca" => start.guard.client_ca = Some(words("a file")?.into()),
            "http_token_file" => start.guard.token_file = Some(words("a file")?.into()),
            "health" => start.health = Some(words("an address such as \"0.0.0.0:7654\", or \"off\"")?),
            "log" => {
                const ALLOWED: &str = "\"text\" or \"json\"";
                let form = words(ALLOWED)?;
                start.log = Some(Output::from_str(&form, false).map_err(|_| wrong(ALLOWED, format!("{form:?}")))?);
            }
            "max_kernel_share" => start.max_kernel_share = Some(share(value, &wrong)?),
            "max_cpu_share" => start.max_cpu_share = Some(share(value, &wrong)?),
            _ => return Err(Problem::Key(suggest::unknown("setting of start", key, &StartConfig::KEYS))),
        }
        Ok(())
    }

    fn set_redaction(&mut self, key: &str, value: &Value) -> Result<(), Problem> {
        let wrong =
            |allowed: &str, what: String| Problem::Value(format!("redaction.{key} is {allowed}; this is {what}"));
        match key {
            "enabled" => {
                self.redaction.enabled = Some(boolean(value).map_err(|what| wrong("true or false", what))?);
            }
            "patterns" => {
                let patterns = match value {
                    // A regular expression may have a comma.
                    Value::Untyped(pattern) => vec![pattern.clone()],
                    value => list(value).map_err(|what| wrong("a list of regular expressions", what))?,
                };
                let checked = Redaction::new(&patterns);
                checked.map_err(|error| Problem::Value(format!("redaction.patterns: {error}")))?;
                self.redaction.patterns = patterns;
            }
            _ => return Err(Problem::Key(suggest::unknown("setting of redaction", key, &RedactionConfig::KEYS))),
        }
        Ok(())
    }

    /// What is hidden in text that leaves the machine.
    pub(crate) fn redaction(&self) -> anyhow::Result<Redaction> {
        if self.redaction.enabled == Some(false) {
            return Ok(Redaction::off());
        }
        Ok(Redaction::new(&self.redaction.patterns)?)
    }

    /// Checks that what sinks need is there: secrets and certificates. Only who sends may be able to read them.
    pub(crate) fn check_sinks(&self) -> anyhow::Result<()> {
        for (origin, sink) in &self.sinks {
            if let Err(why) = sink.check() {
                bail!("{origin}: sink {:?}: {why}", sink.name);
            }
        }
        Ok(())
    }

    /// Where alerts go.
    pub(crate) fn sinks(&self) -> impl Iterator<Item = &SinkSettings> {
        self.sinks.iter().map(|(_, sink)| sink)
    }

    fn set_doctor(&mut self, key: &str, value: &Value) -> Result<(), Problem> {
        let doctor = &mut self.doctor;
        let wrong = |allowed: &str, what: String| Problem::Value(format!("doctor.{key} is {allowed}; this is {what}"));
        let time = |value: &Value| {
            let text = text(value).map_err(|what| wrong("a time such as \"30s\"", what))?;
            values::positive_duration(&text).map_err(|why| Problem::Value(format!("doctor.{key}: {why}")))
        };
        match key {
            "duration" => doctor.duration = Some(time(value)?),
            "interval" => doctor.interval = Some(time(value)?),
            "fail_on" => {
                const ALLOWED: &str = "\"critical\", \"warning\" or \"info\"";
                let text = text(value).map_err(|what| wrong(ALLOWED, what))?;
                doctor.fail_on = Some(severity(&text).ok_or_else(|| wrong(ALLOWED, format!("{text:?}")))?);
            }
            "signals" => doctor.signals = Some(signal_names(value, &wrong)?),
            "redact" => doctor.redact = Some(boolean(value).map_err(|what| wrong("true or false", what))?),
            _ => {
                return Err(Problem::Key(suggest::unknown("setting of doctor", key, &DoctorConfig::KEYS)));
            }
        }
        Ok(())
    }
}

/// A part of the time of CPUs that may be used up; 1 is no limit.
fn share(value: &Value, wrong: &dyn Fn(&str, String) -> Problem) -> Result<f64, Problem> {
    const ALLOWED: &str = "a share of the time, above 0 and up to 1, such as 0.02";
    let share = number(value).map_err(|what| wrong(ALLOWED, what))?;
    if share > 0.0 && share <= 1.0 { Ok(share) } else { Err(wrong(ALLOWED, format!("the number {share}"))) }
}

fn signal_names(value: &Value, wrong: &dyn Fn(&str, String) -> Problem) -> Result<Vec<String>, Problem> {
    let names = list(value).map_err(|what| wrong("a list such as [\"tcp\", \"disk\"]", what))?;
    match names.iter().find(|name| *name != ALL && signals::by_name(name).is_none()) {
        Some(unknown) => Err(Problem::Value(unknown_signal(unknown))),
        None => Ok(names),
    }
}

fn with_suggestion(error: &ThresholdError) -> String {
    let nearest = match error {
        ThresholdError::NoRule { rule, .. } => suggest::nearest(rule, doctor::rules().map(|rule| rule.id)),
        ThresholdError::NoThreshold { rule, name, .. } => {
            let infos = doctor::rules().find(|candidate| candidate.id == rule).map_or(&[][..], |rule| rule.thresholds);
            suggest::nearest(name, infos.iter().map(|info| info.name))
        }
        _ => None,
    };
    nearest.map_or_else(|| error.to_string(), |nearest| format!("{error}; did you mean {nearest:?}?"))
}

fn unknown_signal(name: &str) -> String {
    let aliases: Vec<_> = signals::ALL.iter().map(|signal| signal.alias).chain([ALL]).collect();
    suggest::unknown("signal", name, &aliases)
}

fn severity(text: &str) -> Option<Severity> {
    [Severity::Critical, Severity::Warning, Severity::Info].into_iter().find(|severity| severity.name() == text)
}

fn number(value: &Value) -> Result<f64, String> {
    match value {
        Value::Number(number) => Ok(*number),
        Value::Untyped(text) => text.trim().parse().map_err(|_| format!("{text:?}")),
        other => Err(other.kind()),
    }
}

fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::Text(text) | Value::Untyped(text) => Ok(text.clone()),
        other => Err(other.kind()),
    }
}

fn list(value: &Value) -> Result<Vec<String>, String> {
    let names = match value {
        Value::List(names) => names.clone(),
        Value::Untyped(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
        other => return Err(other.kind()),
    };
    if names.is_empty() { Err("an empty one".to_owned()) } else { Ok(names) }
}

fn boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::Untyped(text) => text.trim().parse().map_err(|_| format!("{text:?}")),
        other => Err(other.kind()),
    }
}

impl Value {
    /// What it is, for an error.
    fn kind(&self) -> String {
        match self {
            Self::Number(number) => format!("the number {number}"),
            Self::Text(text) => format!("the text {text:?}"),
            Self::Untyped(text) => format!("{text:?}"),
            Self::Bool(value) => value.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Other(kind) => (*kind).to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
