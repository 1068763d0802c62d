//! How a part of a window describes its numbers: each once, with its name, unit, kind, help and labels, beside the function that takes it
//! out of the window.
//!
//! The [catalogue](crate::catalogue) has all of them. Names are written as OpenTelemetry writes them (`kerno.disk.io`). Those of Prometheus
//! follow from them by the rules that OpenTelemetry and Prometheus share (`kerno_disk_io_bytes_total`), so a number has the same name
//! whichever way it travels.
//!
//! Numbers are taken as the window has them, in whole nanoseconds, microseconds or bytes, and become base units (seconds, bytes) only when
//! they are read. So sums are exact however many windows are added.

mod give;
mod sample;
mod unit;

pub(crate) use give::{Describe, Described, Give, Weighed, of_share};
pub use sample::{Amount, Distribution, Exemplar, Sample};
pub use unit::unit_of;
pub(crate) use unit::{container_label, weight_of};

/// A number that a part of a window describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, in the form of OpenTelemetry, such as `kerno.disk.io`. Stable.
    pub name: &'static str,
    /// Its unit, and how the window counts it.
    pub measure: Measure,
    /// How it behaves.
    pub kind: Kind,
    /// What it is, in one sentence.
    pub help: &'static str,
    /// Its labels.
    pub labels: &'static [Label],
}

/// How a number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// It only grows. A window has what was added.
    Counter,
    /// It goes up and down. A window has its value at the end.
    Gauge(Rest),
    /// The largest value since it was last read. A window has the largest in it.
    Largest,
    /// Always 1: the labels are what it says.
    Info,
    /// How values are distributed. A window has those that were added.
    Histogram(Bounds),
}

/// What `other` is of a gauge: the series that stands for all that have none of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Their sum.
    Sum,
    /// The largest of them.
    Largest,
}

/// The upper bounds of a classic histogram: one below each power of two from `2^first` to `2^last`, in the unit that the window counts in.
/// [`Histogram`](crate::Histogram) has a bucket that ends there, so counts up to a bound are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The exponent of the first.
    pub first: u32,
    /// The exponent of the last.
    pub last: u32,
    /// From one exponent to the next.
    pub step: u32,
}

impl Bounds {
    /// The bounds, in the unit that the window counts in. A value that equals one is below it.
    pub fn raw(self) -> impl Iterator<Item = u64> {
        let last = self.last.min(63);
        (self.first..=last).step_by(self.step.max(1) as usize).map(|exponent| (1 << exponent) - 1)
    }
}

/// A base unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BaseUnit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A share, 0 to 1.
    Ratio,
    /// A number of things, in the singular, such as `request`.
    Things(&'static str),
}

/// A unit, and how many of what the window counts make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// The base unit.
    pub unit: BaseUnit,
    /// How many of what the window counts make one: 1,000,000,000 for nanoseconds.
    pub per_unit: u32,
}

impl Measure {
    /// Nanoseconds in the window.
    pub const NANOSECONDS: Self = Self { unit: BaseUnit::Seconds, per_unit: 1_000_000_000 };
    /// Microseconds in the window.
    pub const MICROSECONDS: Self = Self { unit: BaseUnit::Seconds, per_unit: 1_000_000 };
    /// Seconds in the window.
    pub const SECONDS: Self = Self { unit: BaseUnit::Seconds, per_unit: 1 };
    /// Bytes.
    pub const BYTES: Self = Self { unit: BaseUnit::Bytes, per_unit: 1 };
    /// A share, 0 to 1.
    pub const RATIO: Self = Self { unit: BaseUnit::Ratio, per_unit: 1 };

    /// A number of things, in the singular.
    pub const fn things(thing: &'static str) -> Self {
        Self { unit: BaseUnit::Things(thing), per_unit: 1 }
    }

    /// In the base unit.
    pub fn base(self, raw: f64) -> f64 {
        raw / f64::from(self.per_unit)
    }

    /// The unit as OpenTelemetry writes it (UCUM): `s`, `By`, `1`, `{request}`.
    pub fn ucum(self) -> String {
        match self.unit {
            BaseUnit::Seconds => "s".to_owned(),
            BaseUnit::Bytes => "By".to_owned(),
            BaseUnit::Ratio => "1".to_owned(),
            BaseUnit::Things(thing) => format!("{{{thing}}}"),
        }
    }

    /// The unit as Prometheus and OpenMetrics write it, which is also what a name ends with; empty for things.
    pub const fn suffix(self) -> &'static str {
        match self.unit {
            BaseUnit::Seconds => "seconds",
            BaseUnit::Bytes => "bytes",
            BaseUnit::Ratio => "ratio",
            BaseUnit::Things(_) => "",
        }
    }
}

/// A label: what the series of one number are told apart by. There is none of process ids, addresses or ports, which have no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// The attribute of OpenTelemetry; one of its semantic conventions where there is one.
    pub attribute: &'static str,
    /// The values that it can have.
    pub values: Values,
    /// What it says.
    pub about: &'static str,
}

/// The values of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// One of these.
    Of(&'static [&'static str]),
    /// Names from the machine: so many with a series of their own, and [`OTHER`], which has the rest. If a number has several such labels,
    /// the bound is one for all of them together.
    Top(usize),
}

/// The value of a label that stands for all that have no series of their own.
pub const OTHER: &str = "other";

/// The most series that a node has by default, whatever runs on it.
pub const MAX_SERIES: usize = 2_000;

impl Label {
    pub(crate) const fn new(name: &'static str, attribute: &'static str, values: Values, about: &'static str) -> Self {
        Self { name, attribute, values, about }
    }

    /// Whether its values are names from the machine.
    pub const fn is_open(&self) -> bool {
        matches!(self.values, Values::Top(_))
    }
}

impl Metric {
    const fn new(name: &'static str, measure: Measure, kind: Kind, help: &'static str) -> Self {
        Self { name, measure, kind, help, labels: &[] }
    }

    pub(crate) const fn counter(name: &'static str, measure: Measure, help: &'static str) -> Self {
        Self::new(name, measure, Kind::Counter, help)
    }

    /// A gauge; `other` has the sum of the rest.
    pub(crate) const fn gauge(name: &'static str, measure: Measure, help: &'static str) -> Self {
        Self::new(name, measure, Kind::Gauge(Rest::Sum), help)
    }

    /// A gauge that cannot be summed up; `other` has the largest of the rest.
    pub(crate) const fn worst(name: &'static str, measure: Measure, help: &'static str) -> Self {
        Self::new(name, measure, Kind::Gauge(Rest::Largest), help)
    }

    pub(crate) const fn largest(name: &'static str, measure: Measure, help: &'static str) -> Self {
        Self::new(name, measure, Kind::Largest, help)
    }

    pub(crate) const fn info(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Measure::things("thing"), Kind::Info, help)
    }

    pub(crate) const fn histogram(name: &'static str, measure: Measure, bounds: Bounds, help: &'static str) -> Self {
        Self::new(name, measure, Kind::Histogram(bounds), help)
    }

    pub(crate) const fn by(mut self, labels: &'static [Label]) -> Self {
        self.labels = labels;
        self
    }

    /// The name of the family of metrics of Prometheus and OpenMetrics: with the unit, without `_total` or `_info`.
    pub fn family(&self) -> String {
        with_unit(
            self.name.strip_suffix(".info").filter(|_| self.kind == Kind::Info).unwrap_or(self.name),
            self.measure,
        )
    }

    /// The name of its samples in Prometheus; of a histogram, without `_bucket`, `_sum` or `_count`.
    pub fn prometheus(&self) -> String {
        let ending = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            _ => "",
        };
        self.family() + ending
    }

    /// The name of the gauge beside a histogram that has the largest value since the last reading: for OpenTelemetry and for Prometheus.
    /// `None` for other kinds.
    pub fn largest_beside(&self) -> Option<(String, String)> {
        let name = format!("{}.max", self.name);
        matches!(self.kind, Kind::Histogram(_)).then(|| (name.clone(), with_unit(&name, self.measure)))
    }

    /// The most combinations of values of its labels.
    pub fn max_combinations(&self) -> usize {
        if self.kind == Kind::Info {
            // Each has its labels once, and nothing stands for the rest.
            return self.top().unwrap_or(1);
        }
        let closed = self.labels.iter().map(|label| match label.values {
            Values::Of(values) => values.len(),
            Values::Top(_) => 1,
        });
        closed.product::<usize>() * self.top().map_or(1, |top| top + 1)
    }

    /// How many combinations of names from the machine have series of their own; `None` without such labels.
    pub fn top(&self) -> Option<usize> {
        let bounds = self.labels.iter().filter_map(|label| match label.values {
            Values::Of(_) => None,
            Values::Top(top) => Some(top),
        });
        bounds.min()
    }

    /// The most series that it takes in Prometheus: classic buckets, sum, count, largest value, and the time of creation, which is a
    /// series in some versions.
    pub fn max_series(&self) -> usize {
        let each = match self.kind {
            Kind::Counter => 2,
            Kind::Gauge(_) | Kind::Largest | Kind::Info => 1,
            // Infinity, sum, count, creation, largest.
            Kind::Histogram(bounds) => bounds.raw().count() + 5,
        };
        self.max_combinations() * each
    }
}

fn with_unit(name: &str, measure: Measure) -> String {
    let name = name.replace('.', "_");
    match measure.suffix() {
        "" => name,
        suffix => format!("{name}_{suffix}"),
    }
}

/// The labels that several parts use.
pub(crate) mod labels {
    use super::{Label, Values};

    /// Resources of processes are told by it.
    pub(crate) const UNIT: Label = Label::new(
        "unit",
        "kerno.unit",
        Values::Top(8),
        "Who: the container (`docker:shop-web-1`, or by its id), the service (`nginx.service`), the slice of a login or scope (`user-1000.slice`), `kernel`, \
         or `unknown`. Those that use most CPU time, waits and I/O.",
    );
    /// A control group with a limit.
    pub(crate) const CGROUP: Label = Label::new(
        "cgroup",
        "process.linux.cgroup",
        Values::Top(6),
        "The path of a cgroup with a limit, in the hierarchy of that limit. Those nearest to their limit.",
    );
    /// An error.
    pub(crate) const ERRNO: Label =
        Label::new("errno", "error.type", Values::Top(12), "The error, such as `ENOSPC`. The most frequent.");
    /// Reads or writes.
    pub(crate) const DIRECTION: Label =
        Label::new("direction", "disk.io.direction", Values::Of(&["read", "write"]), "Read or written.");
    /// Of pressure.
    pub(crate) const STALLED: Label = Label::new(
        "stalled",
        "kerno.stalled",
        Values::Of(&["some", "all"]),
        "Whether at least one task waited, or all that had work.",
    );
}

/// Bounds for durations in nanoseconds: from 1 us to 17 s.
pub(crate) const FAST: Bounds = Bounds { first: 10, last: 34, step: 2 };
/// Bounds for durations of I/O in nanoseconds: from 16 us to 17 s.
pub(crate) const SLOW: Bounds = Bounds { first: 14, last: 34, step: 2 };
/// Bounds for round-trip times in microseconds: from 64 us to 4 s.
pub(crate) const ROUND_TRIP: Bounds = Bounds { first: 6, last: 22, step: 2 };
