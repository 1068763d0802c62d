//! The catalogue beside recorded windows, and beside windows that hold more names than any bound.

mod complete;
mod crowded;
mod incidents;
mod names;
mod page;
mod shipped;
mod totals;

use std::collections::BTreeMap;
use std::fs;

use super::{find, metrics, samples, samples_by_name, weighed};
use crate::metric::{Amount, BaseUnit, Kind, MAX_SERIES, Metric, OTHER, Sample, Values};
use crate::saved::read_window;
use crate::{Window, amount};
use crowded::crowded;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The series that are left for what runs without windows: a daemon's own loop, store and senders.
const OF_OTHERS: usize = 74;

/// The recorded windows, by name.
fn corpus() -> Vec<(String, Window)> {
    let names = fs::read_to_string(format!("{ROOT}/tests/corpus/INDEX")).unwrap();
    let mut windows = Vec::new();
    for name in names.lines() {
        if let Ok(json) = fs::read(format!("{ROOT}/tests/corpus/{name}.json")) {
            windows.push((name.to_owned(), read_window(&json).unwrap()));
        }
    }
    assert!(windows.len() > 30, "{}", windows.len());
    windows
}

/// What all samples of each counter and histogram have together: what was added, or the number of values.
fn sums<'a>(samples: impl Iterator<Item = &'a Sample>) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for sample in samples {
        match &sample.amount {
            Amount::Counter(raw) => *sums.entry(sample.metric.name).or_default() += raw,
            Amount::Histogram(values) => *sums.entry(sample.metric.name).or_default() += values.histogram.count(),
            _ => {}
        }
    }
    sums
}

/// Checks a sample beside its description.
fn check(sample: &Sample, window: &str) {
    let metric = sample.metric;
    let place = format!("{window}: {} {:?}", metric.name, sample.labels);
    assert_eq!(sample.labels.len(), metric.labels.len(), "{place}");
    for (label, value) in metric.labels.iter().zip(&sample.labels) {
        assert!(!value.is_empty() && value.chars().count() <= 128, "{place}");
        if let Values::Of(values) = label.values {
            assert!(values.contains(&value.as_str()), "{place}: {} is none of {values:?}", label.name);
        }
    }
    let fits = match (&sample.amount, metric.kind) {
        (Amount::Counter(_), Kind::Counter)
        | (Amount::Info, Kind::Info)
        | (Amount::Gauge(_), Kind::Gauge(_))
        | (Amount::Largest(_), Kind::Largest) => true,
        (Amount::Histogram(values), Kind::Histogram(_)) => {
            let (count, classic) = (values.histogram.count(), sample.classic());
            assert!(classic.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1), "{place}: {classic:?}");
            assert!(classic.iter().all(|(_, up_to)| *up_to <= count), "{place}");
            assert_eq!(values.largest, values.histogram.max(), "{place}");
            let exemplar = values.exemplar.as_ref().map_or(0, |exemplar| exemplar.value);
            assert!(exemplar <= values.largest.unwrap_or(0), "{place}: {values:?}");
            true
        }
        _ => false,
    };
    assert!(fits, "{place}: {:?} is no {:?}", sample.amount, metric.kind);
    let value = sample.value();
    assert!(value.is_finite() && value >= 0.0, "{place}: {value}");
}

#[test]
fn samples_are_as_described() {
    let mut seen = BTreeMap::new();
    for (name, window) in corpus().into_iter().chain([("crowded".to_owned(), crowded(0))]) {
        let samples = samples(&window);
        for sample in &samples {
            check(sample, &name);
            *seen.entry(sample.metric.name).or_insert(0) += 1;
        }
        assert_eq!(
            samples,
            super::samples(&window),
            "{name}: the same window gives the same samples, in the same order"
        );
    }
    let never: Vec<_> =
        metrics().into_iter().map(|metric| metric.name).filter(|name| !seen.contains_key(name)).collect();
    // Incidents and the daemon are not of windows.
    let elsewhere =
        ["kerno.alert.", "kerno.incident", "kerno.daemon.", "kerno.store.", "kerno.otlp.", "kerno.objective."];
    assert!(never.iter().all(|name| elsewhere.iter().any(|of| name.starts_with(of))), "no window has {never:?}");
}

#[test]
fn durations_and_sizes_are_those_of_a_machine() {
    for (name, window) in corpus() {
        let samples = samples(&window);
        for sample in &samples {
            let (value, metric) = (sample.value(), sample.metric);
            let most = match metric.measure.unit {
                // A year, but for times since 1970. Threads may wait beside each other.
                BaseUnit::Seconds if metric.name.ends_with("timestamp") => f64::INFINITY,
                BaseUnit::Seconds if matches!(metric.kind, Kind::Counter) => window.seconds() * 10_000.0,
                BaseUnit::Seconds => 31_557_600.0,
                // A limit may be passed by a little.
                BaseUnit::Ratio => 1.5,
                _ => f64::INFINITY,
            };
            assert!(value <= most, "{name}: {} {:?}: {value}", metric.name, sample.labels);
        }
        let all = |wanted: &str| samples.iter().filter(|s| s.metric.name == wanted).map(Sample::value).sum::<f64>();
        if let Some(sched) = &window.sched_delay {
            #[allow(clippy::cast_precision_loss, reason = "CPUs")]
            let there = sched.cpus.len() as f64 * window.span.seconds;
            let used = all("kerno.cpu.time");
            assert!((used / there - 1.0).abs() < 0.01, "{name}: {}", amount::span(used));
        }
        assert!((all("kerno.window.time") - window.span.seconds).abs() < 1e-6, "{name}");
    }
}

#[test]
fn the_rest_is_in_other_exactly() {
    let crowded = [("crowded".to_owned(), crowded(0)), ("crowded, others".to_owned(), crowded(7))];
    let mut folded = 0;
    for (name, window) in corpus().into_iter().chain(crowded) {
        let (given, bounded) = (weighed(&window), samples(&window));
        assert_eq!(sums(given.iter().map(|weighed| &weighed.sample)), sums(bounded.iter()), "{name}");
        folded += bounded.iter().filter(|sample| sample.labels.iter().any(|label| label == OTHER)).count();
    }
    assert!(folded > 50, "{folded}");
}

#[test]
fn a_node_has_at_most_2000_series() {
    // Objectives are of the configuration, not of the machine.
    let of_objectives = |metric: &&Metric| metric.name.starts_with("kerno.objective.");
    let metrics: Vec<_> = metrics().into_iter().filter(|metric| !of_objectives(metric)).collect();
    let worst: usize = metrics.iter().map(|metric| metric.max_series()).sum();
    let mut each: Vec<_> = metrics.iter().map(|metric| (metric.max_series(), metric.prometheus())).collect();
    each.sort_unstable();
    assert!(worst + OF_OTHERS <= MAX_SERIES, "{worst} and {OF_OTHERS} of others: {each:#?}");
    // What is computed is what comes.
    let samples = samples(&crowded(0));
    for metric in metrics.iter().filter(|metric| !metric.name.starts_with("kerno.incident")) {
        let there = samples.iter().filter(|sample| sample.metric.name == metric.name).count();
        let most = metric.max_combinations();
        assert!(there <= most, "{}: {there} of {most}", metric.name);
        // The crowd has all: nothing is bounded by want of names.
        // Only signals are few: those that there are.
        let few = metric.top().is_none() || metric.name.starts_with("kerno.signal");
        assert!(few || there == most, "{}: {there} of {most}", metric.name);
    }
}

#[test]
fn an_objective_finds_its_number() {
    let metric = find("kerno_syscall_duration_seconds").unwrap();
    let mut by_name = 0;
    for (name, window) in corpus() {
        let all = samples_by_name(&window);
        all.iter().for_each(|sample| check(sample, &name));
        assert_eq!(sums(all.iter()), sums(samples(&window).iter()), "{name}");
        for stat in window.syscall_latency.iter().flat_map(|part| &part.syscalls) {
            let one = |sample: &&Sample| sample.metric == metric && sample.label("syscall") == Some(&stat.name);
            let sample = all.iter().find(one).unwrap();
            let values = &sample.distribution().unwrap().histogram;
            // Calls through both tables are together.
            if *values == stat.latency && !values.is_empty() {
                let nanoseconds = |quantile| stat.latency.quantile(quantile).unwrap() as f64;
                assert_eq!(sample.quantile(0.99), Some(nanoseconds(0.99) / 1e9), "{name}: {}", stat.name);
                assert_eq!(sample.largest(), Some(nanoseconds(1.0) / 1e9), "{name}: {}", stat.name);
                by_name += 1;
            }
        }
    }
    assert!(by_name > 500, "{by_name}");
}
