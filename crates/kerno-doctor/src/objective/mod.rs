//! Objectives: a number of the catalogue ([`kerno_model::catalogue`]), a bound, and the share of the time for which it has to hold.
//!
//! Each window is good, bad, or without data. What is bad uses up the error budget, which is the rest of the share over a period: 99.9 % of 30
//! days leaves 43 minutes. If it is used so fast that it will not last, and still is, that is a finding of the rule `objective_burn`.

mod budget;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use kerno_model::amount::quantity;
use kerno_model::metric::{BaseUnit, Kind, Metric, Sample, Values};
use kerno_model::{Histogram, Unit, Verdict, Window, catalogue};

pub use budget::{Budget, Speed};
pub(crate) use budget::{TOLD, least};

/// How long the period of an objective may be.
pub const PERIODS: RangeInclusive<Duration> = Duration::from_secs(3600)..=Duration::from_secs(90 * 86_400);

/// The shares that an objective may have. What is above leaves no budget that a window would not use up.
pub const SHARES: RangeInclusive<f64> = 0.5..=0.99999;

/// The longest name.
const MAX_NAME: usize = 32;

/// The longest value of a label, as in the catalogue.
const MAX_LABEL: usize = 128;

/// What of a metric is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Measured {
    /// Of a histogram: the value that this share of all values, 0 to 1, does not exceed.
    Quantile(f64),
    /// Of a histogram: the largest value.
    Largest,
    /// Of a histogram: values a second. Of a counter: what was added a second.
    Rate,
    /// Of a gauge: the value. Of several series, the one that is furthest on the wrong side.
    Value,
}

impl FromStr for Measured {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is none of \"p99\" (any percentile), \"max\", \"rate\" and \"value\"");
        match text {
            "max" => Ok(Self::Largest),
            "rate" => Ok(Self::Rate),
            "value" => Ok(Self::Value),
            _ => {
                let digits = text.strip_prefix('p').filter(|digits| digits.starts_with(|c: char| c.is_ascii_digit()));
                let percent = digits.and_then(|digits| digits.parse::<f64>().ok());
                let percent = percent.filter(|percent| (1.0..100.0).contains(percent));
                percent.map(|percent| Self::Quantile(percent / 100.0)).ok_or_else(expected)
            }
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // What was written, without the error of the division.
            Self::Quantile(share) => write!(f, "p{}", (share * 1e8).round() / 1e6),
            Self::Largest => f.write_str("max"),
            Self::Rate => f.write_str("rate"),
            Self::Value => f.write_str("value"),
        }
    }
}

/// The side of a number that is good, in the base unit of the metric.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Bound {
    /// Less than this.
    Below(f64),
    /// More than this.
    Above(f64),
}

impl Bound {
    /// The number itself.
    pub const fn number(self) -> f64 {
        match self {
            Self::Below(number) | Self::Above(number) => number,
        }
    }

    fn holds(self, value: f64) -> bool {
        match self {
            Self::Below(bound) => value < bound,
            Self::Above(bound) => value > bound,
        }
    }

    /// Of two values, the one that is further on the wrong side.
    fn worse(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Below(_) => a.max(b),
            Self::Above(_) => a.min(b),
        }
    }
}

/// What has to hold, and for which share of the time.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Objective {
    /// Its name.
    pub name: String,
    /// The metric.
    pub metric: &'static Metric,
    /// The values of labels that its series must have. Labels that are not named may have any.
    pub labels: BTreeMap<String, String>,
    /// What of it is compared.
    pub measured: Measured,
    /// With what.
    pub bound: Bound,
    /// The share of the time for which it has to hold; see [`SHARES`].
    pub share: f64,
    /// The period that the share is of; see [`PERIODS`].
    pub over: Duration,
}

/// Why there can be no such objective.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("objective.{setting}: {problem}")]
#[non_exhaustive]
pub struct ObjectiveError {
    /// The setting that is wrong: `name`, `metric`, `labels`, `measure`, `bound`, `share` or `over`.
    pub setting: &'static str,
    /// What is wrong with it, and what is allowed.
    pub problem: String,
}

/// The metrics that there can be an objective of: those that windows have, without those that are no numbers.
pub fn metrics() -> impl Iterator<Item = &'static Metric> {
    let all = catalogue::parts_of_windows().into_iter().flat_map(|part| part.metrics);
    all.filter(|metric| metric.kind != Kind::Info)
}

impl Objective {
    /// Of all series of a metric. Labels are still to be set.
    pub fn new(name: impl Into<String>, metric: &'static Metric, measured: Measured, bound: Bound) -> Self {
        let (labels, over) = (BTreeMap::new(), Duration::from_secs(30 * 86_400));
        Self { name: name.into(), metric, labels, measured, bound, share: 0.999, over }
    }

    /// Checks that it makes sense.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn check(&self) -> Result<(), ObjectiveError> {
        let wrong = |setting, problem: String| Err(ObjectiveError { setting, problem });
        if !is_name(&self.name) {
            return wrong("name", format!("{:?} is not 1 to {MAX_NAME} of a-z, 0-9, - and _", self.name));
        }
        let metric = self.metric.prometheus();
        if !metrics().any(|known| known == self.metric) {
            return wrong("metric", format!("there can be no objective of {metric}: windows do not have it"));
        }
        for (label, value) in &self.labels {
            let Some(known) = self.metric.labels.iter().find(|known| known.name == label) else {
                return wrong("labels", format!("{metric} has no label {label:?}"));
            };
            if let Values::Of(values) = known.values
                && !values.contains(&value.as_str())
            {
                return wrong("labels", format!("{label} cannot be {value:?}; it may be: {}", values.join(", ")));
            }
            if value.is_empty() || value.chars().count() > MAX_LABEL {
                return wrong("labels", format!("{label} is a text of 1 to {MAX_LABEL} characters"));
            }
        }
        let fits = match self.metric.kind {
            Kind::Histogram(_) => !matches!(self.measured, Measured::Value),
            Kind::Counter => matches!(self.measured, Measured::Rate),
            _ => matches!(self.measured, Measured::Value),
        };
        if !fits {
            let allowed = allowed(self.metric);
            return wrong(
                "measure",
                format!("{metric} is a {}: {allowed}; this is {:?}", kind(self.metric), self.measured.to_string()),
            );
        }
        if let Measured::Quantile(quantile) = self.measured
            && !(quantile > 0.0 && quantile < 1.0)
        {
            return wrong("measure", format!("a percentile is above 0 and below 100; this is {}", quantile * 100.0));
        }
        let bound = self.bound.number();
        if !bound.is_finite() || bound < 0.0 {
            return wrong("bound", format!("a bound is a number from 0 on; this is {bound}"));
        }
        if matches!(self.bound, Bound::Below(0.0)) {
            return wrong("bound", "nothing is below 0".to_owned());
        }
        if !SHARES.contains(&self.share) {
            let [low, high] = [SHARES.start(), SHARES.end()].map(|share| percent(*share));
            let why = if self.share >= 1.0 { "; all of the time leaves no error budget" } else { "" };
            return wrong("share", format!("a share is {low} to {high}; this is {}{why}", percent(self.share)));
        }
        if !PERIODS.contains(&self.over) {
            return wrong("over", format!("a period is 1 h to 90 d; this is {:?}", self.over));
        }
        Ok(())
    }

    /// What is compared with what: `kerno_syscall_duration_seconds (syscall="fsync"): p99 below 20 ms`.
    pub fn condition(&self) -> String {
        let labels: Vec<_> = self.labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!(" ({})", labels.join(", ")) };
        let side = match self.bound {
            Bound::Below(_) => "below",
            Bound::Above(_) => "above",
        };
        let bound = quantity(self.bound.number(), self.unit());
        format!("{}{labels}: {} {side} {bound}", self.metric.prometheus(), self.measured)
    }

    /// What is judged, exactly: [`condition`](Self::condition) has rounded numbers. Two with the same one judge each window alike.
    pub(crate) fn judged(&self) -> String {
        format!("{} ({:?}, {:?})", self.condition(), self.measured, self.bound)
    }

    /// The unit of what is compared. Of a rate of seconds, a share: that of the time.
    pub fn unit(&self) -> Unit {
        let rate = self.measured == Measured::Rate;
        let is_histogram = matches!(self.metric.kind, Kind::Histogram(_));
        match self.metric.measure.unit {
            _ if rate && is_histogram => Unit::PerSecond,
            BaseUnit::Seconds if rate => Unit::Ratio,
            BaseUnit::Seconds => Unit::Seconds,
            BaseUnit::Bytes if rate => Unit::BytesPerSecond,
            BaseUnit::Bytes => Unit::Bytes,
            BaseUnit::Ratio => Unit::Ratio,
            _ if rate => Unit::PerSecond,
            _ => Unit::Count,
        }
    }

    /// What a window says, with what was measured. `samples` are those of the window [by name](catalogue::samples_by_name).
    pub fn judge(&self, window: &Window, samples: &[Sample]) -> (Verdict, Option<f64>) {
        let value = self.measure(window, samples).filter(|value| !value.is_nan());
        let verdict = match value {
            Some(value) if self.bound.holds(value) => Verdict::Good,
            Some(_) => Verdict::Bad,
            None => Verdict::NoData,
        };
        (verdict, value)
    }

    #[allow(clippy::cast_precision_loss, reason = "counts, for a rate")]
    fn measure(&self, window: &Window, samples: &[Sample]) -> Option<f64> {
        let has_labels = |sample: &&Sample| {
            self.labels.iter().all(|(label, wanted)| sample.label(label).is_some_and(|value| value == wanted))
        };
        let mut series =
            samples.iter().filter(|sample| sample.metric.name == self.metric.name).filter(has_labels).peekable();
        let is_rate = self.measured == Measured::Rate;
        if series.peek().is_none() {
            // What only counts events has no series before the first. A part that is not observed says nothing.
            return (is_rate && catalogue::observed_whole(window, self.metric)).then_some(0.0);
        }
        let merged = || {
            let mut all = Histogram::new();
            samples.iter().filter(|sample| sample.metric.name == self.metric.name).filter(has_labels).for_each(
                |sample| {
                    if let Some(values) = sample.distribution() {
                        all.merge(&values.histogram);
                    }
                },
            );
            all
        };
        let base = |raw: u64| self.metric.measure.base(raw as f64);
        match (self.metric.kind, self.measured) {
            (Kind::Histogram(_), Measured::Rate) => Some(merged().count() as f64 / window.seconds()),
            (Kind::Histogram(_), Measured::Quantile(quantile)) => merged().quantile(quantile).map(base),
            (Kind::Histogram(_), _) => merged().max().map(base),
            (Kind::Counter, _) => Some(series.map(Sample::value).sum::<f64>() / window.seconds()),
            _ => series.map(Sample::value).reduce(|a, b| self.bound.worse(a, b)),
        }
    }
}

/// A share with all its digits: 99.99 % is another promise than 99.9 %.
pub(crate) fn percent(share: f64) -> String {
    format!("{} %", (share * 1e8).round() / 1e6)
}

/// What kind of metric it is, in a word.
fn kind(metric: &Metric) -> &'static str {
    match metric.kind {
        Kind::Histogram(_) => "histogram",
        Kind::Counter => "counter",
        _ => "gauge",
    }
}

/// What of a metric can be compared.
fn allowed(metric: &Metric) -> &'static str {
    match metric.kind {
        Kind::Histogram(_) => "measure is \"p99\" (any percentile), \"max\" or \"rate\"",
        Kind::Counter => "measure is \"rate\"",
        _ => "measure is \"value\"",
    }
}

fn is_name(name: &str) -> bool {
    let is_letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_letter)
}
