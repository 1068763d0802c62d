use std::collections::BTreeMap;

use super::super::{Mark, Totals, metrics, samples, weighed};
use super::{check, corpus, crowded, sums};
use crate::metric::{Amount, MAX_SERIES, Sample};
use crate::{Histogram, SchedSummary, Span, Window};

/// By name and labels: since when, and what.
type Read = BTreeMap<(&'static str, Vec<String>), (u64, u64)>;

fn totals_of(samples: &[Sample]) -> Read {
    let total = |amount: &Amount| match amount {
        Amount::Counter(raw) => Some(*raw),
        Amount::Histogram(values) => Some(values.histogram.count()),
        _ => None,
    };
    let read = samples.iter().filter_map(|sample| {
        let key = (sample.metric.name, sample.labels.clone());
        Some((key, (sample.created_unix_ns, total(&sample.amount)?)))
    });
    read.collect()
}

#[test]
fn windows_add_up() {
    for (name, window) in corpus() {
        let mut totals = Totals::new();
        (0..3).for_each(|_| totals.add(&window));
        let (once, read) = (samples(&window), totals.read(Mark::default()));
        assert_eq!(read.len(), once.len(), "{name}");
        for sample in &read {
            check(sample, &name);
            let alike = |one: &&Sample| one.metric == sample.metric && one.labels == sample.labels;
            let one = once.iter().find(alike).unwrap();
            match (&sample.amount, &one.amount) {
                (Amount::Counter(total), Amount::Counter(once)) => assert_eq!(*total, once * 3),
                (Amount::Histogram(total), Amount::Histogram(once)) => {
                    assert_eq!(total.histogram.count(), once.histogram.count() * 3);
                    assert_eq!((total.largest, &total.exemplar), (once.largest, &once.exemplar));
                }
                (total, once) => assert_eq!(total, once),
            }
        }
    }
}

/// However names come and go, each series only grows, and what they gain together is what the windows have.
#[test]
fn nothing_is_lost_or_counted_twice_while_names_come_and_go() {
    let mut totals = Totals::new();
    let mut before = Read::new();
    let (mut ended, mut begun) = (0, 0);
    for round in 0..24 {
        let mut window = crowded(round / 3);
        window.span.started_unix = 1e9 + f64::from(round) * 10.0;
        totals.add(&window);
        let read = totals.read(Mark::default());
        let now = totals_of(&read);
        let mut gained: BTreeMap<&str, u64> = BTreeMap::new();
        for (key, (created, total)) in &now {
            let earlier = before.get(key).filter(|(since, _)| since == created).map_or(0, |(_, total)| *total);
            assert!(*total >= earlier, "{key:?}: {total} after {earlier}");
            *gained.entry(key.0).or_default() += total - earlier;
        }
        let given = weighed(&window);
        assert_eq!(gained, sums(given.iter().map(|weighed| &weighed.sample)), "round {round}");
        ended += before.keys().filter(|key| !now.contains_key(*key)).count();
        begun += now.keys().filter(|key| !before.contains_key(*key)).count();
        before = now;
        // And no more of them than in one window.
        let mut series = 0;
        for metric in metrics() {
            let there = read.iter().filter(|sample| sample.metric.name == metric.name).count();
            assert!(there <= metric.max_combinations(), "{}: {there}", metric.name);
            series += there * metric.max_series() / metric.max_combinations();
        }
        assert!(series <= MAX_SERIES, "{series}");
    }
    assert!(ended > 100 && begun > 100, "{ended} {begun}");
}

fn waits(seconds: u32, value: u64) -> Window {
    let mut wakeup_ns = Histogram::new();
    wakeup_ns.record(value);
    let sched = SchedSummary { wakeup_ns, runnable: [(0.0, value as f64)].into_iter().collect(), ..Default::default() };
    let span = Span { started_unix: f64::from(seconds), seconds: 1.0, ..Span::default() };
    Window { span, sched_delay: Some(sched), ..Window::default() }
}

/// The largest value of the histogram, and that of its own kind.
fn largest(totals: &Totals, mark: Mark) -> (Option<u64>, Option<f64>) {
    let read = totals.read(mark);
    let find = |name: &str| read.iter().find(|s| s.metric.name == name && s.labels.iter().all(|l| l == "wakeup"));
    let beside = find("kerno.cpu.wait.duration").and_then(|sample| match &sample.amount {
        Amount::Histogram(values) => values.largest,
        _ => None,
    });
    (beside, find("kerno.task.runnable.max").map(Sample::value))
}

#[test]
fn each_reader_gets_the_largest_since_it_last_read() {
    let mut totals = Totals::new();
    // Values below 16 are exact.
    [3, 15, 4].iter().for_each(|value| totals.add(&waits(1, *value)));
    assert_eq!(largest(&totals, Mark::default()), (Some(15), Some(15.0)));
    let fast = totals.mark();
    assert_eq!(largest(&totals, fast), (None, None), "nothing came since");
    totals.add(&waits(2, 7));
    assert_eq!(largest(&totals, fast), (Some(7), Some(7.0)));
    assert_eq!(largest(&totals, Mark::default()), (Some(15), Some(15.0)), "the other reader still gets its own");
    // However long a reader stays away, little is kept, and the largest is not forgotten.
    (0..1000).rev().for_each(|step| totals.add(&waits(3, step)));
    assert_eq!(largest(&totals, fast).1, Some(999.0));
}

#[test]
fn gauges_are_those_of_the_latest_window() {
    let mut totals = Totals::new();
    totals.add(&waits(1, 5));
    let runnable = |totals: &Totals| {
        let read = totals.read(totals.mark());
        read.iter().find(|sample| sample.metric.name == "kerno.task.runnable").map(Sample::value)
    };
    assert_eq!(runnable(&totals), Some(5.0));
    // The signal is gone: its gauges are, and its counters stay.
    totals.add(&Window::default());
    assert_eq!(runnable(&totals), None);
    let read = totals.read(totals.mark());
    assert!(read.iter().any(|sample| sample.metric.name == "kerno.cpu.wait.duration"));
}
