use super::{Kind, Metric, Rest};
use crate::Histogram;

/// A number with its labels.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// What it is.
    pub metric: &'static Metric,
    /// The values of its labels, in the order of [`Metric::labels`]. May contain any character.
    pub labels: Vec<String>,
    /// How much.
    pub amount: Amount,
    /// Since when it has been counted, in nanoseconds since 1970, for counters and histograms.
    pub created_unix_ns: u64,
}

/// A number, in the unit that the window counts in. [`Sample::value`] has the base unit.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Amount {
    /// What was added.
    Counter(u64),
    /// The value at the end.
    Gauge(f64),
    /// The largest value.
    Largest(f64),
    /// Always 1.
    Info,
    /// The values.
    Histogram(Box<Distribution>),
}

/// Values, in the unit that the window counts in.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Distribution {
    /// How many there were of which size: exact counts.
    pub histogram: Histogram,
    /// The largest since the last reading, at most 6.25 % too high; `None` if there was none.
    pub largest: Option<u64>,
    /// The slowest that is known by itself.
    pub exemplar: Option<Exemplar>,
}

/// One of the values of a histogram, with who caused it. It is no series, so it may name a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exemplar {
    /// The value, in the unit that the window counts in.
    pub value: u64,
    /// When it was measured, in nanoseconds since 1970; `None` if that is not known.
    pub unix_ns: Option<u64>,
    /// The process.
    pub pid: u32,
    /// Its name; may contain control characters.
    pub comm: String,
}

impl Sample {
    /// The value in its base unit; of a histogram, the sum of its values, within 3.2 %.
    #[allow(clippy::cast_precision_loss, reason = "those who read metrics take floating point")]
    pub fn value(&self) -> f64 {
        match &self.amount {
            Amount::Counter(raw) => self.metric.measure.base(*raw as f64),
            Amount::Gauge(raw) | Amount::Largest(raw) => self.metric.measure.base(*raw),
            Amount::Info => 1.0,
            Amount::Histogram(values) => self.metric.measure.base(values.histogram.sum()),
        }
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        let place = self.metric.labels.iter().position(|label| label.name == name)?;
        self.labels.get(place).map(String::as_str)
    }

    /// Of a histogram, its values.
    pub fn distribution(&self) -> Option<&Distribution> {
        match &self.amount {
            Amount::Histogram(values) => Some(values),
            _ => None,
        }
    }

    /// Of a histogram: the value that a share of `quantile` (0 to 1) of all values does not exceed, in the base unit, at most 6.25 % too
    /// high; `None` without values.
    #[allow(clippy::cast_precision_loss, reason = "a bound of a bucket")]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        Some(self.metric.measure.base(self.distribution()?.histogram.quantile(quantile)? as f64))
    }

    /// Of a histogram: the largest value since the last reading, in the base unit, at most 6.25 % too high; `None` without values.
    #[allow(clippy::cast_precision_loss, reason = "a bound of a bucket")]
    pub fn largest(&self) -> Option<f64> {
        Some(self.metric.measure.base(self.distribution()?.largest? as f64))
    }

    /// Of a histogram: each classic bucket's upper bound in the base unit, and the exact number of values up to it. The last one, without
    /// bound, is not among them: it has all values.
    pub fn classic(&self) -> Vec<(f64, u64)> {
        let (Kind::Histogram(bounds), Some(values)) = (self.metric.kind, self.distribution()) else {
            return Vec::new();
        };
        let mut buckets = values.histogram.buckets().peekable();
        let mut count = 0u64;
        let up_to = |bound: u64| {
            while let Some((_, _, more)) = buckets.next_if(|(_, high, _)| *high <= bound) {
                count = count.saturating_add(more);
            }
            #[allow(clippy::cast_precision_loss, reason = "below 2^53")]
            (self.metric.measure.base(bound as f64), count)
        };
        bounds.raw().map(up_to).collect()
    }

    /// Of a histogram: the lowest and the highest value of each bucket that is not empty, in the base unit, and how many values it has. There
    /// are 16 buckets for each power of two of what the window counts.
    #[allow(clippy::cast_precision_loss, reason = "bounds of buckets")]
    pub fn buckets(&self) -> Vec<(f64, f64, u64)> {
        let Some(values) = self.distribution() else { return Vec::new() };
        let base = |raw: u64| self.metric.measure.base(raw as f64);
        values.histogram.buckets().map(|(low, high, count)| (base(low), base(high), count)).collect()
    }
}

impl Amount {
    /// Takes another of the same number and labels into it. Both must be of the kind that `kind` says; others are ignored.
    pub(crate) fn fold(&mut self, other: Self, kind: Kind) {
        match (self, other) {
            (Self::Counter(sum), Self::Counter(more)) => *sum = sum.saturating_add(more),
            (Self::Gauge(sum), Self::Gauge(more)) if kind == Kind::Gauge(Rest::Sum) => *sum += more,
            (Self::Gauge(most), Self::Gauge(other)) | (Self::Largest(most), Self::Largest(other)) => {
                *most = most.max(other);
            }
            (Self::Histogram(values), Self::Histogram(more)) => values.add(*more),
            _ => {}
        }
    }
}

impl Distribution {
    pub(crate) fn of(histogram: &Histogram, exemplar: Option<Exemplar>) -> Self {
        Self { histogram: histogram.clone(), largest: histogram.max(), exemplar }
    }

    fn add(&mut self, more: Self) {
        self.histogram.merge(&more.histogram);
        self.largest = self.largest.max(more.largest);
        let worse = |new: &Exemplar| self.exemplar.as_ref().is_none_or(|known| known.value < new.value);
        if let Some(new) = more.exemplar.filter(worse) {
            self.exemplar = Some(new);
        }
    }
}
