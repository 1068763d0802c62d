use std::collections::BTreeMap;

use super::sample::{Amount, Distribution, Exemplar, Sample};
use super::{Metric, unit_of, weight_of};
use crate::{Histogram, Process};

/// The longest value of a label, in characters. What is longer is cut at its front: paths differ at their end.
const MAX_LABEL: usize = 128;

/// A part of a window that describes its numbers.
pub(crate) trait Describe: 'static {
    /// What it is about, in a few words.
    const ABOUT: &'static str;
    /// Its numbers, each with the function that takes it out.
    const METRICS: &'static [Described<Self>];
    /// What has a number and is no metric, by its path, and why. `*` stands for any name.
    const LEFT_OUT: &'static [(&'static str, &'static str)];
}

/// A number, and the function that takes it out of its part.
pub(crate) struct Described<P: ?Sized> {
    pub(crate) metric: Metric,
    pub(crate) give: fn(&P, &mut Give<'_>),
}

/// A sample with how much it matters that it has a series of its own.
pub(crate) struct Weighed {
    pub(crate) sample: Sample,
    pub(crate) weight: f64,
}

/// Takes the samples of a part, and knows what they need of the rest of the window.
pub(crate) struct Give<'a> {
    /// The number that is taken; `None` before the first.
    metric: Option<&'static Metric>,
    seconds: f64,
    /// What to add to `CLOCK_MONOTONIC` for the wall clock.
    to_unix_ns: i128,
    started_unix_ns: u64,
    units: BTreeMap<u32, String>,
    weights: BTreeMap<String, f64>,
    given: &'a mut Vec<Weighed>,
}

/// Where a sample goes.
pub(crate) struct Spot<'g, 'a> {
    give: &'g mut Give<'a>,
    labels: Vec<String>,
    weight: f64,
}

impl<'a> Give<'a> {
    /// For a window of this length that began at this time by both clocks.
    pub(crate) fn new(
        seconds: f64,
        (started_unix_ns, started_ns): (u64, u64),
        processes: &BTreeMap<u32, Process>,
        given: &'a mut Vec<Weighed>,
    ) -> Self {
        let units: BTreeMap<_, _> = processes.iter().map(|(pid, process)| (*pid, unit_of(process))).collect();
        let mut weights = BTreeMap::new();
        for (pid, process) in processes {
            if let Some(unit) = units.get(pid) {
                *weights.entry(unit.clone()).or_default() += weight_of(process);
            }
        }
        let to_unix_ns = i128::from(started_unix_ns) - i128::from(started_ns);
        Self { metric: None, seconds, to_unix_ns, started_unix_ns, units, weights, given }
    }

    /// Takes all numbers of a part.
    pub(crate) fn part<P: Describe + ?Sized>(&mut self, part: &P) {
        for described in P::METRICS {
            self.metric = Some(&described.metric);
            (described.give)(part, self);
        }
    }

    /// The window's length in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        self.seconds
    }

    /// The one sample of a number without labels.
    pub(crate) fn all(&mut self) -> Spot<'_, 'a> {
        self.of(&[], 0.0)
    }

    /// The sample with these values of its labels. `weight` ranks the names from the machine among them: it must be the same measure wherever
    /// the same labels are used.
    pub(crate) fn of(&mut self, labels: &[&str], weight: f64) -> Spot<'_, 'a> {
        let labels = labels.iter().map(|value| bounded(value)).collect();
        Spot { give: self, labels, weight }
    }

    /// The sample of the unit of a process.
    pub(crate) fn unit(&mut self, pid: u32) -> Spot<'_, 'a> {
        self.unit_and(pid, &[])
    }

    /// The sample of the unit of a process, and these values of further labels.
    pub(crate) fn unit_and(&mut self, pid: u32, more: &[&str]) -> Spot<'_, 'a> {
        let unit = match self.units.get(&pid) {
            Some(unit) => unit.clone(),
            None => "unknown".to_owned(),
        };
        let weight = self.weights.get(&unit).copied().unwrap_or(0.0);
        let labels: Vec<&str> = std::iter::once(unit.as_str()).chain(more.iter().copied()).collect();
        self.of(&labels, weight)
    }

    /// A value that is known by itself, at this time by `CLOCK_MONOTONIC`.
    pub(crate) fn exemplar(&self, value: u64, at_ns: Option<u64>, pid: u32, comm: &str) -> Exemplar {
        let unix = |at: u64| u64::try_from(i128::from(at) + self.to_unix_ns).ok();
        Exemplar { value, unix_ns: at_ns.and_then(unix), pid, comm: comm.to_owned() }
    }
}

impl Spot<'_, '_> {
    /// Adds to a counter.
    pub(crate) fn add(self, raw: u64) {
        self.give(Amount::Counter(raw));
    }

    /// Sets a gauge.
    pub(crate) fn set(self, raw: f64) {
        self.give(Amount::Gauge(raw));
    }

    /// Sets a gauge to a number of things or bytes.
    #[allow(clippy::cast_precision_loss, reason = "those who read metrics take floating point")]
    pub(crate) fn count(self, raw: u64) {
        self.set(raw as f64);
    }

    /// Sets a gauge, if the value is known.
    pub(crate) fn set_known(self, raw: Option<f64>) {
        if let Some(raw) = raw {
            self.set(raw);
        }
    }

    /// Tells the largest value, if there is one.
    pub(crate) fn largest(self, raw: Option<f64>) {
        if let Some(raw) = raw {
            self.give(Amount::Largest(raw));
        }
    }

    /// Tells the information that the labels are.
    pub(crate) fn tell(self) {
        self.give(Amount::Info);
    }

    /// Adds values to a histogram.
    pub(crate) fn values(self, histogram: &Histogram, exemplar: Option<Exemplar>) {
        self.give(Amount::Histogram(Box::new(Distribution::of(histogram, exemplar))));
    }

    fn give(self, amount: Amount) {
        let Self { give, labels, weight } = self;
        let created_unix_ns = give.started_unix_ns;
        let sample = give.metric.map(|metric| Sample { metric, labels, amount, created_unix_ns });
        give.given.extend(sample.map(|sample| Weighed { sample, weight }));
    }
}

/// A share of a span, in nanoseconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "negative ones become 0")]
pub(crate) fn of_share(share: f64, seconds: f64) -> u64 {
    (share * seconds * 1e9).round() as u64
}

fn bounded(value: &str) -> String {
    let length = value.chars().count();
    match length {
        0 => "unknown".to_owned(),
        1..=MAX_LABEL => value.to_owned(),
        _ => std::iter::once('\u{2026}').chain(value.chars().skip(length + 1 - MAX_LABEL)).collect(),
    }
}
