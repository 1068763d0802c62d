use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use super::select::{Identity, Selections, accumulates, identity};
use super::{Daemon, given, weighed};
use crate::metric::{Amount, Sample};
use crate::{Incident, ObjectiveStatus, Transition, Window};

/// The most steps that the largest values of one series are kept in.
const MAX_STEPS: usize = 32;

/// Running totals of windows: counters and histograms since each series began, gauges as they were in the latest window, and the largest
/// values since a reader last looked. Bounded as the catalogue is.
///
/// A series ends when its name from the machine is not heard of any more, or when one that is much heavier takes its place. What it counts
/// from then on is in `other`, and if it comes back, it begins at 0 with a new time of creation. So each value is counted in exactly one
/// series. Take rates of series first and sums of these after, as is usual with Prometheus.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    selections: Selections,
    series: BTreeMap<Identity, Held>,
    latest: u64,
}

/// How far a reader of [`Totals`] has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// What a total was taken from, for what the latest replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Window,
    Incidents,
    Daemon,
    Objectives,
}

#[derive(Clone, Debug)]
struct Held {
    sample: Sample,
    source: Source,
    /// The window that it was last in.
    seen: u64,
    largest: Steps,
}

/// The largest value since any window: each step is larger than those after it.
#[derive(Clone, Debug, Default)]
struct Steps(VecDeque<(u64, f64)>);

impl Steps {
    fn add(&mut self, window: u64, value: f64) {
        while self.0.back().is_some_and(|(_, last)| *last <= value) {
            self.0.pop_back();
        }
        self.0.push_back((window, value));
        if self.0.len() > MAX_STEPS {
            // The largest is said to be a little later than it was, rather than forgotten.
            if let (Some((_, largest)), Some(second)) = (self.0.pop_front(), self.0.front_mut()) {
                second.1 = largest;
            }
        }
    }

    fn since(&self, mark: Mark) -> Option<f64> {
        self.0.iter().find(|(window, _)| *window > mark.0).map(|(_, value)| *value)
    }
}

impl Totals {
    /// Without anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a window. Each must be added once.
    pub fn add(&mut self, window: &Window) {
        self.latest += 1;
        let samples = self.selections.bound(weighed(window));
        self.take(samples, Source::Window);
        let (selections, latest) = (&self.selections, self.latest);
        self.series.retain(|(_, labels), held| {
            let current = held.seen == latest || accumulates(&held.sample.amount) || !held.largest.0.is_empty();
            held.source != Source::Window || (current && selections.keeps(held.sample.metric, labels))
        });
    }

    /// Tells which incidents are open now, and how incidents changed since the last time. `now_unix_ns` is the time, in nanoseconds since
    /// 1970.
    pub fn add_incidents(&mut self, open: &[Incident], changes: &[Transition], now_unix_ns: u64) {
        self.series.retain(|_, held| held.source != Source::Incidents || accumulates(&held.sample.amount));
        let mut samples = super::incident_samples(open);
        samples.extend(Selections::default().bound(given(changes)));
        for sample in &mut samples {
            sample.created_unix_ns = now_unix_ns;
        }
        self.take(samples, Source::Incidents);
    }

    /// Tells how the daemon is, and what it counted since the last time. `now_unix_ns` is the time, in nanoseconds since 1970.
    pub fn add_daemon(&mut self, daemon: &Daemon, now_unix_ns: u64) {
        self.series.retain(|_, held| held.source != Source::Daemon || accumulates(&held.sample.amount));
        let mut samples = Selections::default().bound(given(daemon));
        for sample in &mut samples {
            sample.created_unix_ns = now_unix_ns;
        }
        self.take(samples, Source::Daemon);
    }

    /// Tells how objectives are after a window, each window once. `now_unix_ns` is the time, in nanoseconds since 1970.
    pub fn add_objectives(&mut self, objectives: &[ObjectiveStatus], now_unix_ns: u64) {
        self.series.retain(|(_, labels), held| {
            let is_set = |name: &String| objectives.iter().any(|objective| objective.name == *name);
            held.source != Source::Objectives
                || (accumulates(&held.sample.amount) && labels.first().is_some_and(is_set))
        });
        let mut samples = Selections::default().bound(given(objectives));
        for sample in &mut samples {
            sample.created_unix_ns = now_unix_ns;
        }
        self.take(samples, Source::Objectives);
    }

    /// Where a reader is that reads now, for its next [`read`](Self::read).
    pub fn mark(&self) -> Mark {
        Mark(self.latest)
    }

    /// All series, sorted by name and labels. The largest values are those of the windows since `mark`: keep one for each reader, so that one
    /// reader takes nothing from another. [`Mark::default`] asks for those of all windows.
    pub fn read(&self, mark: Mark) -> Vec<Sample> {
        self.series.values().filter_map(|held| held.since(mark)).collect()
    }

    fn take(&mut self, samples: Vec<Sample>, source: Source) {
        for sample in samples {
            let largest = largest(&sample);
            let kind = sample.metric.kind;
            let latest = self.latest;
            let new = |sample| Held { sample, source, seen: latest, largest: Steps::default() };
            let held = match self.series.entry(identity(&sample)) {
                Entry::Vacant(vacant) => vacant.insert(new(sample)),
                Entry::Occupied(known) => {
                    let held = known.into_mut();
                    match sample.amount {
                        amount @ (Amount::Counter(_) | Amount::Histogram(_)) => {
                            if let (Amount::Histogram(total), Amount::Histogram(_)) = (&mut held.sample.amount, &amount)
                            {
                                // The latest is of use, not the slowest of all time.
                                total.exemplar = None;
                            }
                            held.sample.amount.fold(amount, kind);
                        }
                        replaced => held.sample.amount = replaced,
                    }
                    held.seen = latest;
                    held
                }
            };
            if let Some(largest) = largest {
                held.largest.add(latest, largest);
            }
        }
    }
}

impl Held {
    /// The sample with the largest value since a mark; `None` if that is all that it has, and there is none.
    fn since(&self, mark: Mark) -> Option<Sample> {
        let largest = self.largest.since(mark);
        let mut sample = self.sample.clone();
        match &mut sample.amount {
            Amount::Largest(value) => *value = largest?,
            Amount::Histogram(values) => {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a whole number")]
                let whole = largest.map(|largest| largest as u64);
                values.largest = whole;
            }
            _ => {}
        }
        Some(sample)
    }
}

/// The largest value that a sample tells.
#[allow(clippy::cast_precision_loss, reason = "bounds of buckets")]
fn largest(sample: &Sample) -> Option<f64> {
    match &sample.amount {
        Amount::Largest(value) => Some(*value),
        Amount::Histogram(values) => values.largest.map(|largest| largest as f64),
        _ => None,
    }
}
