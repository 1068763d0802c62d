//! The protocol buffers of Prometheus ([metrics.proto]), each family with its length before it.
//!
//! Histograms are there twice, classic and native; Prometheus takes the native one where it is told to. Its buckets grow by a factor, ours are
//! sixteen equal ones for each power of two, so each of ours goes into the one that its middle is in: counts and sums stay exact, and a value may
//! be one bucket (9 %) off.
//!
//! [metrics.proto]: https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto

use kerno_model::metric::{self, Kind};
use prost::Message;

use super::exemplar_labels;
use crate::exponential::{SCALE, indices};

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(enumeration = "MetricType", optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
    #[prost(string, optional, tag = "5")]
    unit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Gauge>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Counter>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Gauge {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Counter {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    created_timestamp: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    positive_delta: Vec<i64>,
    #[prost(message, optional, tag = "15")]
    created_timestamp: Option<Timestamp>,
    #[prost(message, repeated, tag = "16")]
    exemplars: Vec<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct BucketSpan {
    /// Empty buckets before it; of the first, its index.
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(double, optional, tag = "2")]
    value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    timestamp: Option<Timestamp>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl Timestamp {
    fn of(unix_ns: u64) -> Self {
        const NS: u64 = 1_000_000_000;
        #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "below 10^9")]
        let nanos = (unix_ns % NS) as i32;
        Self { seconds: i64::try_from(unix_ns / NS).unwrap_or(i64::MAX), nanos }
    }
}

/// Up to this number of empty buckets are written rather than left out: a new span takes more.
const GAP: i32 = 2;

pub(super) fn write(samples: &[metric::Sample]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |family: &MetricFamily| out.extend(family.encode_length_delimited_to_vec());
    for samples in samples.chunk_by(|a, b| a.metric.name == b.metric.name) {
        let Some(metric) = samples.first().map(|sample| sample.metric) else { continue };
        let described = |name: String, kind: MetricType, help: &str, metrics| MetricFamily {
            name: Some(name),
            help: Some(help.to_owned()),
            kind: Some(kind as i32),
            metric: metrics,
            unit: Some(metric.measure.suffix()).filter(|unit| !unit.is_empty()).map(str::to_owned),
        };
        let (kind, one): (_, fn(&metric::Sample) -> Metric) = match metric.kind {
            Kind::Counter => (MetricType::Counter, counter),
            Kind::Histogram(_) => (MetricType::Histogram, histogram),
            _ => (MetricType::Gauge, |sample| gauge(sample, sample.value())),
        };
        add(&described(metric.prometheus(), kind, metric.help, samples.iter().map(one).collect()));
        if let Some((_, name)) = metric.largest_beside() {
            let known: Vec<_> = samples.iter().filter_map(|sample| Some(gauge(sample, sample.largest()?))).collect();
            if !known.is_empty() {
                let help = format!("The largest since the last scrape: {}", metric.help);
                add(&described(name, MetricType::Gauge, &help, known));
            }
        }
    }
    out
}

fn labels(sample: &metric::Sample) -> Vec<LabelPair> {
    sample.metric.labels.iter().zip(&sample.labels).map(|(label, value)| pair(label.name, value)).collect()
}

fn pair(name: &str, value: &str) -> LabelPair {
    LabelPair { name: Some(name.to_owned()), value: Some(value.to_owned()) }
}

fn gauge(sample: &metric::Sample, value: f64) -> Metric {
    Metric { label: labels(sample), gauge: Some(Gauge { value: Some(value) }), ..Metric::default() }
}

fn counter(sample: &metric::Sample) -> Metric {
    let created_timestamp = Some(Timestamp::of(sample.created_unix_ns));
    let counter = Counter { value: Some(sample.value()), created_timestamp };
    Metric { label: labels(sample), counter: Some(counter), ..Metric::default() }
}

#[allow(clippy::cast_precision_loss, reason = "those who read metrics take floating point")]
fn histogram(sample: &metric::Sample) -> Metric {
    let values = sample.distribution();
    let (zero_count, positive_span, positive_delta) = native(&sample.buckets());
    let exemplar = values.and_then(|values| values.exemplar.as_ref()).map(|exemplar| Exemplar {
        label: exemplar_labels(exemplar).iter().map(|(name, value)| pair(name, value)).collect(),
        value: Some(sample.metric.measure.base(exemplar.value as f64)),
        timestamp: exemplar.unix_ns.map(Timestamp::of),
    });
    let classic = sample.classic().into_iter();
    let histogram = Histogram {
        sample_count: Some(values.map_or(0, |values| values.histogram.count())),
        sample_sum: Some(sample.value()),
        bucket: classic
            .map(|(bound, count)| Bucket { cumulative_count: Some(count), upper_bound: Some(bound) })
            .collect(),
        schema: Some(SCALE),
        zero_threshold: Some(0.0),
        zero_count: Some(zero_count),
        positive_span,
        positive_delta,
        created_timestamp: Some(Timestamp::of(sample.created_unix_ns)),
        exemplars: exemplar.into_iter().collect(),
    };
    Metric { label: labels(sample), histogram: Some(histogram), ..Metric::default() }
}

/// How many values are 0, and the other buckets as spans and differences.
fn native(buckets: &[(f64, f64, u64)]) -> (u64, Vec<BucketSpan>, Vec<i64>) {
    let (zero, counts) = indices(buckets);
    let (mut spans, mut deltas) = (Vec::<BucketSpan>::new(), Vec::new());
    let (mut next, mut last) = (0, 0i64);
    for (index, count) in counts {
        let gap = index - next;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        match spans.last_mut() {
            Some(span) if gap <= GAP => {
                for _ in 0..gap {
                    deltas.push(-std::mem::take(&mut last));
                }
                span.length = span.length.map(|length| length + gap.unsigned_abs() + 1);
            }
            _ => spans.push(BucketSpan { offset: Some(gap), length: Some(1) }),
        }
        deltas.push(count - last);
        (next, last) = (index + 1, count);
    }
    (zero, spans, deltas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exponential::PER_OCTAVE;

    /// The counts by index, as a reader adds them up.
    fn read(spans: &[BucketSpan], deltas: &[i64]) -> Vec<(i32, i64)> {
        let (mut index, mut count, mut deltas) = (0, 0, deltas.iter());
        let mut read = Vec::new();
        for span in spans {
            index += span.offset();
            for _ in 0..span.length() {
                count += deltas.next().unwrap();
                read.push((index, count));
                index += 1;
            }
        }
        assert!(deltas.next().is_none());
        read.retain(|(_, count)| *count != 0);
        read
    }

    #[test]
    fn native_buckets_hold_what_ours_hold() {
        let ours = [(0.0, 0.0, 3), (0.5, 0.52, 7), (0.55, 0.56, 1), (1.0, 1.06, 5), (40.0, 42.0, 2), (1e-6, 1.1e-6, 9)];
        let (zero, spans, deltas) = native(&ours);
        assert_eq!(zero, 3);
        let read = read(&spans, &deltas);
        assert_eq!(read.iter().map(|(_, count)| count).sum::<i64>(), 24);
        for (low, high, count) in &ours[1..] {
            let middle = f64::midpoint(*low, *high);
            let of = |index: i32| 2f64.powf(f64::from(index) / PER_OCTAVE);
            let (_, found) = read.iter().find(|(index, _)| of(index - 1) < middle && middle <= of(*index)).unwrap();
            assert!(*found >= i64::try_from(*count).unwrap());
        }
        assert!(spans.len() == 4, "{spans:?}");
        assert_eq!(native(&[]), (0, Vec::new(), Vec::new()));
    }
}
