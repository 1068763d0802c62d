//! Metrics: the same series, names and numbers as `/metrics` has.
//!
//! The buckets of the catalogue are sixteen equal ones for each power of two of what a window counts. No exponential histogram has such bounds,
//! so histograms are sent with the bounds of the classic ones, where counts are exact. If exponential ones are asked for, each bucket goes into
//! the one that its middle is in, as in the native histograms of `/metrics`: counts and sums stay exact, a value may be one bucket (9 %) off.

use std::collections::BTreeMap;

use kerno_model::metric::{self, Amount, Kind, Sample};

use super::message::{
    Any, Buckets, CUMULATIVE, Data, Exemplar, ExponentialHistogram, ExponentialPoint, Gauge, Histogram, HistogramPoint,
    KeyValue, Metric, MetricsRequest, NO_VALUE, Number, NumberPoint, Resource, ResourceMetrics, Scope, ScopeMetrics,
    Sum,
};
use super::settings::OtlpHistograms;
use crate::exponential::{SCALE, indices};

/// The series that a receiver knows, by name and labels, to tell it when one ends: what comes no more would otherwise be taken for its last
/// value for minutes.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(BTreeMap<(String, Vec<String>), &'static metric::Metric>);

impl Known {
    pub(super) fn of(samples: &[Sample]) -> Self {
        let mut known = BTreeMap::new();
        for sample in samples {
            known.insert((sample.metric.name.to_owned(), sample.labels.clone()), sample.metric);
            if let Some((name, _)) = sample.metric.largest_beside().filter(|_| sample.largest().is_some()) {
                known.insert((name, sample.labels.clone()), sample.metric);
            }
        }
        Self(known)
    }

    /// Points that say of those that are not among these that they have ended, by name.
    fn ended(&self, now: &Self, unix_ns: u64) -> Ended {
        let mut ended = Ended::new();
        for ((name, labels), metric) in self.0.iter().filter(|(series, _)| !now.0.contains_key(series)) {
            let attributes = attributes(metric, labels);
            let point = NumberPoint { attributes, start_unix_ns: 0, unix_ns, value: None, flags: NO_VALUE };
            ended.entry(name.clone()).or_insert_with(|| (metric, Vec::new())).1.push(point);
        }
        ended
    }
}

type Ended = BTreeMap<String, (&'static metric::Metric, Vec<NumberPoint>)>;

/// A request and what is in it.
pub(super) struct Written {
    pub(super) request: MetricsRequest,
    /// How many points.
    pub(super) points: u64,
    /// The series.
    pub(super) known: Known,
}

/// All samples, which must be sorted by name, and the end of the series that the receiver knows and that are not among them.
pub(super) fn request(
    samples: &[Sample],
    known: &Known,
    unix_ns: u64,
    form: OtlpHistograms,
    (resource, scope): (Resource, Scope),
) -> Written {
    let now = Known::of(samples);
    let mut ended = known.ended(&now, unix_ns);
    let mut end = |name: &str| ended.remove(name).map_or_else(Vec::new, |(_, points)| points);
    let mut metrics = Vec::new();
    for samples in samples.chunk_by(|a, b| a.metric.name == b.metric.name) {
        let Some(metric) = samples.first().map(|sample| sample.metric) else { continue };
        metrics.push(described(metric, data(metric, samples, end(metric.name), unix_ns, form)));
        if let Some((name, _)) = metric.largest_beside() {
            let largest = |sample: &Sample| Some(number(sample, 0, unix_ns, Number::Double(sample.largest()?)));
            let points: Vec<_> = samples.iter().filter_map(largest).chain(end(&name)).collect();
            if !points.is_empty() {
                metrics.push(beside(name, metric, points));
            }
        }
    }
    for (name, (metric, points)) in ended {
        let is_beside = name != metric.name;
        metrics.push(match is_beside {
            true => beside(name, metric, points),
            false => described(metric, data(metric, &[], points, unix_ns, form)),
        });
    }
    let points = metrics.iter().map(|metric| points(metric) as u64).sum();
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics }];
    let request =
        MetricsRequest { resource_metrics: vec![ResourceMetrics { resource: Some(resource), scope_metrics }] };
    Written { request, points, known: now }
}

fn described(metric: &metric::Metric, data: Data) -> Metric {
    Metric { name: metric.name.to_owned(), description: metric.help.to_owned(), unit: unit(metric), data: Some(data) }
}

/// The gauge beside a histogram.
fn beside(name: String, metric: &metric::Metric, points: Vec<NumberPoint>) -> Metric {
    let description = format!("The largest since the last reading: {}", metric.help);
    Metric { name, description, unit: unit(metric), data: Some(Data::Gauge(Gauge { points })) }
}

/// Information has none: its number means nothing.
fn unit(metric: &metric::Metric) -> String {
    if metric.kind == Kind::Info { String::new() } else { metric.measure.ucum() }
}

fn points(metric: &Metric) -> usize {
    match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.points.len(),
        Some(Data::Sum(sum)) => sum.points.len(),
        Some(Data::Histogram(histogram)) => histogram.points.len(),
        Some(Data::Exponential(histogram)) => histogram.points.len(),
        None => 0,
    }
}

fn data(
    metric: &metric::Metric,
    samples: &[Sample],
    ended: Vec<NumberPoint>,
    unix_ns: u64,
    form: OtlpHistograms,
) -> Data {
    let samples = samples.iter();
    match (metric.kind, form) {
        (Kind::Counter, _) => {
            let points = samples.map(|sample| number(sample, sample.created_unix_ns, unix_ns, value(sample)));
            Data::Sum(Sum { points: points.chain(ended).collect(), temporality: CUMULATIVE, is_monotonic: true })
        }
        (Kind::Histogram(_), OtlpHistograms::Explicit) => {
            let points = samples.map(|sample| explicit(sample, unix_ns));
            let ended = ended.into_iter().map(|end| HistogramPoint {
                attributes: end.attributes,
                unix_ns: end.unix_ns,
                flags: end.flags,
                ..HistogramPoint::default()
            });
            Data::Histogram(Histogram { points: points.chain(ended).collect(), temporality: CUMULATIVE })
        }
        (Kind::Histogram(_), OtlpHistograms::Exponential) => {
            let points = samples.map(|sample| exponential(sample, unix_ns));
            let ended = ended.into_iter().map(|end| ExponentialPoint {
                attributes: end.attributes,
                unix_ns: end.unix_ns,
                flags: end.flags,
                ..ExponentialPoint::default()
            });
            Data::Exponential(ExponentialHistogram { points: points.chain(ended).collect(), temporality: CUMULATIVE })
        }
        _ => {
            let points = samples.map(|sample| number(sample, 0, unix_ns, value(sample)));
            Data::Gauge(Gauge { points: points.chain(ended).collect() })
        }
    }
}

fn attributes(metric: &metric::Metric, labels: &[String]) -> Vec<KeyValue> {
    metric.labels.iter().zip(labels).map(|(label, value)| KeyValue::text(label.attribute, value.as_str())).collect()
}

/// Bytes and things that are counted are whole numbers, at any size exact.
fn value(sample: &Sample) -> Number {
    match &sample.amount {
        Amount::Counter(raw) if sample.metric.measure.per_unit == 1 => {
            i64::try_from(*raw).map_or_else(|_| Number::Double(sample.value()), Number::Int)
        }
        _ => Number::Double(sample.value()),
    }
}

fn number(sample: &Sample, start_unix_ns: u64, unix_ns: u64, value: Number) -> NumberPoint {
    let attributes = attributes(sample.metric, &sample.labels);
    NumberPoint { attributes, start_unix_ns, unix_ns, value: Some(value), flags: 0 }
}

fn explicit(sample: &Sample, unix_ns: u64) -> HistogramPoint {
    let count = sample.distribution().map_or(0, |values| values.histogram.count());
    let classic = sample.classic();
    let (bounds, up_to): (Vec<_>, Vec<_>) = classic.into_iter().unzip();
    // Each has those that the ones before it have not, the last one those above all bounds.
    let mut before = 0u64;
    let counts = up_to.into_iter().chain([count]).map(|up_to| {
        let counted = up_to.saturating_sub(before);
        before = up_to;
        counted
    });
    HistogramPoint {
        attributes: attributes(sample.metric, &sample.labels),
        start_unix_ns: sample.created_unix_ns,
        unix_ns,
        count,
        sum: Some(sample.value()),
        counts: counts.collect(),
        bounds,
        exemplars: exemplars(sample),
        flags: 0,
    }
}

fn exponential(sample: &Sample, unix_ns: u64) -> ExponentialPoint {
    let (zero_count, counted) = indices(&sample.buckets());
    let positive = counted.first_key_value().zip(counted.last_key_value()).map(|((first, _), (last, _))| Buckets {
        // Prometheus numbers a bucket by its upper bound, OpenTelemetry by its lower one.
        offset: first - 1,
        counts: (*first..=*last).map(|index| counted.get(&index).copied().unwrap_or(0)).collect(),
    });
    ExponentialPoint {
        attributes: attributes(sample.metric, &sample.labels),
        start_unix_ns: sample.created_unix_ns,
        unix_ns,
        count: sample.distribution().map_or(0, |values| values.histogram.count()),
        sum: Some(sample.value()),
        scale: SCALE,
        zero_count,
        positive,
        flags: 0,
        exemplars: exemplars(sample),
    }
}

/// The slowest that is known by itself, with its process. One without a time is none.
#[allow(clippy::cast_precision_loss, reason = "those who read metrics take floating point")]
fn exemplars(sample: &Sample) -> Vec<Exemplar> {
    let known = sample.distribution().and_then(|values| values.exemplar.as_ref());
    let exemplar = known.and_then(|known| {
        Some(Exemplar {
            attributes: vec![
                KeyValue::new("process.pid", Any::Int(i64::from(known.pid))),
                KeyValue::text("process.executable.name", known.comm.as_str()),
            ],
            unix_ns: known.unix_ns?,
            value: Some(sample.metric.measure.base(known.value as f64)),
        })
    });
    exemplar.into_iter().collect()
}
