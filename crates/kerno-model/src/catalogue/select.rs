use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::metric::{Amount, Kind, Metric, OTHER, Sample, Weighed};

/// For how many windows a name keeps its series when nothing is heard of it.
const FORGET_AFTER: u32 = 30;

/// How much heavier a name must be than one that has series to take them over: else names of about the same weight would take turns.
const MUCH_HEAVIER: f64 = 2.0;

/// How much of a name's weight is that of the latest window.
const LATEST: f64 = 0.2;

/// The names of labels whose values are names from the machine. All numbers with the same ones have series for the same names.
type Key = Vec<&'static str>;

/// Which names from the machine have series of their own.
#[derive(Clone, Debug, Default)]
pub(super) struct Selections {
    by_labels: BTreeMap<Key, BTreeMap<Vec<String>, Kept>>,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    weight: f64,
    absent: u32,
}

/// What a sample is told apart by.
pub(super) type Identity = (&'static str, Vec<String>);

impl Selections {
    /// Gives each sample the labels of its series, and adds up those that have the same.
    pub(super) fn bound(&mut self, weighed: Vec<Weighed>) -> Vec<Sample> {
        self.choose(&weighed);
        let bounded = weighed.into_iter().filter_map(|Weighed { mut sample, .. }| {
            if !self.has_series(&sample) {
                if sample.metric.kind == Kind::Info {
                    return None;
                }
                for (label, value) in sample.metric.labels.iter().zip(&mut sample.labels) {
                    if label.is_open() {
                        OTHER.clone_into(value);
                    }
                }
            }
            Some(sample)
        });
        added_up(bounded)
    }

    /// Whether a series with these labels is still one of its own, or `other`, or has no names from the machine.
    pub(super) fn keeps(&self, metric: &Metric, labels: &[String]) -> bool {
        let open = open(metric, labels);
        open.is_empty() || open.iter().all(|value| value == OTHER) || self.kept(metric, &open)
    }

    fn has_series(&self, sample: &Sample) -> bool {
        let open = open(sample.metric, &sample.labels);
        open.is_empty() || self.kept(sample.metric, &open)
    }

    fn kept(&self, metric: &Metric, open: &[String]) -> bool {
        self.by_labels.get(&key(metric)).is_some_and(|kept| kept.contains_key(open))
    }

    /// Takes the names of a window into account.
    fn choose(&mut self, weighed: &[Weighed]) {
        let mut seen: BTreeMap<Key, (usize, BTreeMap<Vec<String>, f64>)> = BTreeMap::new();
        for Weighed { sample, weight } in weighed {
            if let Some(top) = sample.metric.top() {
                let (least, names) = seen.entry(key(sample.metric)).or_insert_with(|| (top, BTreeMap::new()));
                *least = top.min(*least);
                let known = names.entry(open(sample.metric, &sample.labels)).or_insert(*weight);
                *known = known.max(*weight);
            }
        }
        for (key, kept) in &mut self.by_labels {
            let now = seen.get(key).map(|(_, names)| names);
            kept.retain(|name, kept| {
                let weight = now.and_then(|names| names.get(name));
                kept.absent = if weight.is_some() { 0 } else { kept.absent + 1 };
                kept.weight += (weight.copied().unwrap_or(0.0) - kept.weight) * LATEST;
                kept.absent <= FORGET_AFTER
            });
        }
        for (key, (top, names)) in seen {
            let kept = self.by_labels.entry(key).or_default();
            let mut new: Vec<_> = names.into_iter().filter(|(name, _)| !kept.contains_key(name)).collect();
            // Those of equal weight stay sorted by name.
            new.sort_by(|a, b| b.1.total_cmp(&a.1));
            for (name, weight) in new {
                if kept.len() >= top {
                    let lightest = kept.iter().min_by(|a, b| a.1.weight.total_cmp(&b.1.weight));
                    let Some((lightest, light)) = lightest.map(|(name, kept)| (name.clone(), kept.weight)) else {
                        break;
                    };
                    if weight <= light * MUCH_HEAVIER {
                        break;
                    }
                    kept.remove(&lightest);
                }
                kept.insert(name, Kept { weight, absent: 0 });
            }
        }
    }
}

/// Adds up samples with the same labels. Numbers stay in the order that they come in.
pub(super) fn added_up(samples: impl Iterator<Item = Sample>) -> Vec<Sample> {
    let mut order: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut known: BTreeMap<(usize, Vec<String>), Sample> = BTreeMap::new();
    for sample in samples {
        let next = order.len();
        let place = *order.entry(sample.metric.name).or_insert(next);
        match known.entry((place, sample.labels.clone())) {
            Entry::Vacant(vacant) => {
                vacant.insert(sample);
            }
            Entry::Occupied(mut known) => known.get_mut().amount.fold(sample.amount, sample.metric.kind),
        }
    }
    known.into_values().collect()
}

/// What a sample is told apart by.
pub(super) fn identity(sample: &Sample) -> Identity {
    (sample.metric.name, sample.labels.clone())
}

fn key(metric: &Metric) -> Key {
    metric.labels.iter().filter(|label| label.is_open()).map(|label| label.name).collect()
}

fn open(metric: &Metric, labels: &[String]) -> Vec<String> {
    let labels = metric.labels.iter().zip(labels);
    labels.filter(|(label, _)| label.is_open()).map(|(_, value)| value.clone()).collect()
}

/// Whether it is a total that goes on from window to window.
pub(super) fn accumulates(amount: &Amount) -> bool {
    matches!(amount, Amount::Counter(_) | Amount::Histogram(_))
}
