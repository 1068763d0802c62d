//! What differs between two windows, the largest first.

use std::collections::BTreeMap;

use kerno_model::Window;
use kerno_model::catalogue::{parts, samples_by_name};
use kerno_model::metric::{Amount, BaseUnit, Kind, Metric, Sample};
use serde::Serialize;

/// Differences by a smaller factor are noise.
const MIN_FACTOR: f64 = 1.5;

/// A counter of which fewer were counted in both windows together says little: few are sometimes none.
const MIN_COUNTED: f64 = 20.0;

/// A time in which less than this share of a CPU or of the window went is nothing.
const MIN_SHARE: f64 = 0.005;

/// Parts of a window that are there whatever is observed.
const OF_ALL: [&str; 2] = ["processes", "window"];

/// Numbers about watching.
const OF_ITSELF: [&str; 4] = ["kerno.build", "kerno.cost", "kerno.signal", "kerno.window"];

/// A number in two windows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// The metric, by its name for OpenTelemetry.
    pub metric: &'static str,
    /// What it is, in one sentence.
    pub help: &'static str,
    /// Whom it is of, as label and value.
    pub labels: Vec<(&'static str, String)>,
    /// What is compared: `rate`, `value`, or a quantile such as `p99`.
    pub what: &'static str,
    /// The unit of both values: seconds, bytes, a ratio, or a number of things; of a rate, per second.
    pub unit: String,
    /// The value in the first window.
    pub before: f64,
    /// The value in the second window.
    pub after: f64,
    /// By which factor it changed: above 1 if it grew, below 1 if it fell. 0 and `null` (infinite) if one of them is 0.
    pub factor: f64,
}

impl Difference {
    /// How much it matters: the logarithm of the factor, which of something that was not there at all is that of a large one.
    fn weight(&self) -> f64 {
        const LARGE: f64 = 1000.0;
        let factor = if self.factor > 1.0 { self.factor } else { 1.0 / self.factor };
        factor.min(LARGE).ln()
    }
}

/// What differs between two windows of any lengths: rates, values, and the median and 99th percentile of distributions, by service where they are
/// known by service. The largest difference first.
pub fn compare(before: &Window, after: &Window) -> Vec<Difference> {
    let taken = |window: &Window| -> Taken {
        let samples = samples_by_name(window);
        samples.iter().map(|sample| (key(sample), (sample.metric, numbers(sample, window.seconds())))).collect()
    };
    let (was, is) = (taken(before), taken(after));
    let parts: BTreeMap<&str, &str> =
        parts().iter().flat_map(|part| part.metrics.iter().map(|metric| (metric.name, part.name))).collect();
    // Whether a number was observed in a window.
    let is_observed = |window: &Window, metric: &Metric| {
        let part = parts.get(metric.name);
        part.is_some_and(|part| OF_ALL.contains(part) || window.observed().contains(part))
    };
    let mut found = Vec::new();
    for (key, (metric, _)) in was.iter().chain(is.iter().filter(|(key, _)| !was.contains_key(*key))) {
        let labels = &key.1;
        // A signal that was not observed in one of them is no difference, and neither is what kerno says of itself.
        let of_itself = OF_ITSELF.iter().any(|prefix| metric.name.starts_with(prefix));
        if of_itself || !is_observed(before, metric) || !is_observed(after, metric) {
            continue;
        }
        let (was, is) = (numbers_of(&was, key), numbers_of(&is, key));
        let longer = if was.len() >= is.len() { was } else { is };
        for (place, number) in longer.iter().enumerate() {
            let of = |numbers: &[Number]| {
                numbers.get(place).copied().unwrap_or(Number { value: 0.0, counted: 0.0, ..*number })
            };
            found.extend(difference(metric, labels, of(was), of(is)));
        }
    }
    found.sort_by(|a, b| {
        b.weight().total_cmp(&a.weight()).then_with(|| a.metric.cmp(b.metric)).then_with(|| a.labels.cmp(&b.labels))
    });
    found
}

type Key = (&'static str, Vec<String>);

/// The numbers of a window, each with its metric.
type Taken = BTreeMap<Key, (&'static Metric, Vec<Number>)>;

fn numbers_of<'a>(taken: &'a Taken, key: &Key) -> &'a [Number] {
    taken.get(key).map_or(&[], |(_, numbers)| numbers)
}

/// One number of a sample.
#[derive(Clone, Copy, Debug)]
struct Number {
    what: &'static str,
    value: f64,
    /// How much was counted for it, where that says whether it means something.
    counted: f64,
}

fn key(sample: &Sample) -> Key {
    (sample.metric.name, sample.labels.clone())
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn numbers(sample: &Sample, seconds: f64) -> Vec<Number> {
    let value = sample.value();
    match (&sample.amount, sample.metric.kind) {
        (Amount::Counter(_), _) => {
            let counted = match sample.metric.measure.unit {
                BaseUnit::Things(_) => value,
                // Times and bytes are judged by their rate.
                _ => f64::INFINITY,
            };
            vec![Number { what: "rate", value: value / seconds, counted }]
        }
        (Amount::Gauge(_), Kind::Gauge(_)) if !sample.metric.name.ends_with("timestamp") => {
            vec![Number { what: "value", value, counted: f64::INFINITY }]
        }
        (Amount::Histogram(values), _) => {
            let counted = values.histogram.count() as f64;
            let of = |what, quantile| Number { what, value: sample.quantile(quantile).unwrap_or(0.0), counted };
            vec![of("p50", 0.5), of("p99", 0.99)]
        }
        _ => Vec::new(),
    }
}

fn difference(metric: &'static Metric, labels: &[String], was: Number, is: Number) -> Option<Difference> {
    let factor = is.value / was.value;
    let of_values = metric.kind != Kind::Counter && was.what != "value";
    let counted = if of_values { was.counted.min(is.counted) } else { was.counted + is.counted };
    let small = match metric.measure.unit {
        BaseUnit::Seconds if metric.kind == Kind::Counter => MIN_SHARE,
        BaseUnit::Ratio => MIN_SHARE,
        BaseUnit::Bytes => 65_536.0,
        _ => 0.0,
    };
    let differs = factor.is_nan() || (factor < MIN_FACTOR && factor > 1.0 / MIN_FACTOR);
    if differs || counted < MIN_COUNTED || was.value.max(is.value) <= small {
        return None;
    }
    let unit = match metric.measure.unit {
        BaseUnit::Things(thing) => thing.to_owned(),
        _ => metric.measure.suffix().to_owned(),
    };
    Some(Difference {
        metric: metric.name,
        help: metric.help,
        labels: metric.labels.iter().map(|label| label.name).zip(labels.iter().cloned()).collect(),
        what: was.what,
        unit: if metric.kind == Kind::Counter { format!("{unit}/s") } else { unit },
        before: was.value,
        after: is.value,
        factor,
    })
}

#[cfg(test)]
mod tests {
    use kerno_model::{Process, Span, TaskUse, fill};

    use super::*;

    fn window(seconds: f64, cpu_ns: u64) -> Window {
        let used = TaskUse { run_ns: cpu_ns, ..TaskUse::default() };
        let process =
            Process { comm: "app".into(), unit: Some("app.service".into()), alive: true, used, ..Process::default() };
        fill!(Window { span: fill!(Span { seconds, samples: 8 }), processes: [(7, process)].into() })
    }

    #[test]
    fn rates_are_compared_whatever_the_lengths() {
        assert_eq!(compare(&window(10.0, 1_000_000_000), &window(60.0, 6_000_000_000)), []);
        let found = compare(&window(10.0, 1_000_000_000), &window(60.0, 30_000_000_000));
        assert_eq!(found.len(), 1, "{found:#?}");
        let cpu = &found[0];
        assert_eq!((cpu.metric, cpu.what, cpu.unit.as_str()), ("kerno.unit.cpu.time", "rate", "seconds/s"));
        assert_eq!(cpu.labels, [("unit", "app.service".to_owned())]);
        assert!((cpu.before - 0.1).abs() < 1e-9 && (cpu.after - 0.5).abs() < 1e-9 && (cpu.factor - 5.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_new_comes_first_and_trifles_not_at_all() {
        let found = compare(&window(10.0, 0), &window(10.0, 1_000_000_000));
        assert!(found[0].factor.is_infinite() && found[0].before == 0.0);
        assert_eq!(compare(&window(10.0, 0), &window(10.0, 1_000_000)), []);
    }

    #[test]
    fn recorded_windows_can_be_compared_with_each_other() {
        let read = |name: &str| {
            let path =
                format!("{}/../../tests/corpus/{}", env!("CARGO_MANIFEST_DIR"), crate::corpus::window_file(name));
            kerno_model::saved::read_window(&std::fs::read(path).unwrap()).unwrap()
        };
        let windows = ["backup", "accept_queue_overflow", "find", "many_connections"].map(read);
        for pair in windows.windows(2) {
            assert_eq!(compare(&pair[0], &pair[0]), []);
            let (there, back) = (compare(&pair[0], &pair[1]), compare(&pair[1], &pair[0]));
            assert_eq!(there.len(), back.len());
            assert!(there.iter().all(|difference| !difference.factor.is_nan()));
        }
    }
}
