//! `docs/metrics.md`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::super::{MAX_OBJECTIVES, Part, metrics, parts};
use super::{OF_OTHERS, ROOT};
use crate::metric::{Bounds, Kind, Label, MAX_SERIES, Metric, Rest, Values};

/// Set `KERNO_WRITE_DOCS=1` to write it anew.
#[test]
fn the_page_is_current() {
    let file = format!("{ROOT}/docs/metrics.md");
    let page = page();
    if std::env::var_os("KERNO_WRITE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(&file).unwrap_or_default() == page,
        "docs/metrics.md: write it anew with `KERNO_WRITE_DOCS=1 cargo test -p kerno-model --lib catalogue`"
    );
}

fn kind(metric: &Metric) -> &'static str {
    match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge(_) => "gauge",
        Kind::Largest => "gauge, largest",
        Kind::Info => "info",
        Kind::Histogram(_) => "histogram",
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn bounds(bounds: Bounds, metric: &Metric) -> String {
    let of = |raw: u64| crate::amount::span(metric.measure.base(raw as f64));
    let (first, last) = (bounds.raw().next().unwrap(), bounds.raw().last().unwrap());
    format!("{} to {}", of(first), of(last))
}

/// The table of one part.
fn table(page: &mut String, part: &Part) {
    writeln!(page, "\n## {}\n", part.about).unwrap();
    let of = match part.name {
        "incidents" | "changes of incidents" => "Not of a window: of the incidents that windows make.".to_owned(),
        "daemon" => "Not of a window.".to_owned(),
        "objectives" => "Not of a window: of what windows say about the objectives in the configuration.".to_owned(),
        "window" | "processes" => "In every window.".to_owned(),
        signal => format!("Signal `{signal}`."),
    };
    writeln!(page, "{of}\n\n| name | kind | labels | what |\n|---|---|---|---|").unwrap();
    for metric in &part.metrics {
        let labels: Vec<_> = metric.labels.iter().map(|label| code(label.name)).collect();
        let rest = match metric.kind {
            Kind::Gauge(Rest::Largest) if metric.top().is_some() => " `other` has the largest of the rest.".to_owned(),
            Kind::Histogram(range) => format!(" Classic buckets: {}.", bounds(range, metric)),
            _ => String::new(),
        };
        writeln!(
            page,
            "| {} | {} | {} | {}{rest} |",
            code(&metric.prometheus()),
            kind(metric),
            labels.join(", "),
            metric.help
        )
        .unwrap();
    }
    if !part.left_out.is_empty() {
        writeln!(page, "\nNot here, though the window has them:\n").unwrap();
        for (path, why) in part.left_out {
            writeln!(page, "- {}: {why}", code(path)).unwrap();
        }
    }
}

/// Each label with its attribute and values.
fn labels(page: &mut String) {
    let mut all: BTreeMap<(&str, &str), (Label, usize)> = BTreeMap::new();
    for label in metrics().into_iter().flat_map(|metric| metric.labels) {
        all.entry((label.name, label.about)).or_insert((*label, 0)).1 += 1;
    }
    writeln!(page, "| label | attribute | values | what |\n|---|---|---|---|").unwrap();
    for (label, _) in all.values() {
        let values = match label.values {
            Values::Of(values) => values.iter().map(|value| code(value)).collect::<Vec<_>>().join(", "),
            Values::Top(1) => "one".to_owned(),
            Values::Top(top) => format!("{top} and `other`"),
        };
        writeln!(page, "| {} | {} | {values} | {} |", code(label.name), code(label.attribute), label.about).unwrap();
    }
}

fn page() -> String {
    let parts = parts();
    let is_of_objectives = |metric: &&Metric| metric.name.starts_with("kerno.objective.");
    let (of_objectives, others): (Vec<&Metric>, Vec<&Metric>) = metrics().into_iter().partition(is_of_objectives);
    let series: usize = others.iter().map(|metric| metric.max_series()).sum();
    // None stands for others: all of them have series.
    let each: usize = of_objectives.iter().map(|metric| metric.max_series() / (MAX_OBJECTIVES + 1)).sum();
    let [series, limit] = [series, MAX_SERIES].map(|count| crate::amount::number(count as f64));
    let mut page = format!(
        "# Metrics

The numbers that Kerno gives to others. Each is described once, beside the part of a window that it is taken from, in
`crates/kerno-model/src/signals/NAME/metrics.rs`. This page is written by
`KERNO_WRITE_DOCS=1 cargo test -p kerno-model --lib catalogue`, and the same test fails if it is stale. In Rust they are in
`kerno_model::catalogue`.

## How to read it

- **Names** are those of Prometheus. Those of OpenTelemetry have dots, and neither unit nor `_total`: `kerno_disk_io_bytes_total` is
  `kerno.disk.io` with the unit `By`. Both follow from one name by the rules that the two projects share.
- **Units** are base units: seconds, bytes, ratios from 0 to 1.
- **Counters** only grow. A window has what was added in it; whoever needs running totals adds up windows (see below).
- **Histograms** have 16 buckets for each power of two, so that each value is known within 6.25 %. Their counts are exact. The sum of the
  values is taken from the middle of each bucket: it is within 3.2 %. Classic histograms have a bucket at every second power of two (of
  nanoseconds or microseconds, less one), where the counts are exact too.
- **Largest** is the largest value since the last reading, so that a spike between two readings is not lost. Each histogram has such a gauge
  beside it, with `max` before the unit: `kerno_disk_operation_duration_max_seconds`. It is at most 6.25 % too high.
- **Gauges** have the value at the end of the latest window. If a signal is not observed, its gauges are absent.
- **`unit`** is whom a process belongs to. Numbers by unit cover the processes that the window names: those that used most of each thing,
  and those that another part names. They do not add up to the whole machine.

## How many series

At most {series} series a node, whatever runs on it, with classic buckets and times of creation counted. {limit} is the limit that a test
holds the catalogue to, with {OF_OTHERS} left for what does not come from windows. There are no labels for process ids, addresses or ports.
Each [objective](objectives.md) in the configuration adds {each}.

A label whose values are names from the machine has a bound. The heaviest names have series of their own. One series with the value `other`
has exactly the rest: sums are the same as without the bound. Of gauges that cannot be summed up, it has the largest. If a number has several
such labels, the bound is one for all of them together.

## How to add up windows

`kerno_model::catalogue::Totals` adds up windows: counters and histograms since each series began, with the time when it began; gauges of the
latest window; and for each reader the largest values since it last read.

- A name that has series keeps them while it is heard of. It loses them after 30 windows of silence, or to a name that is at least twice as
  heavy. What it counts after that is in `other`.
- If it comes back, its series begin at 0 with a new time of creation, which Prometheus and OpenTelemetry take as a reset.
- So each value is counted in one series only. Take rates first and sums after: `sum(rate(...))`.

## Labels

"
    );
    labels(&mut page);
    parts.iter().for_each(|part| table(&mut page, part));
    page
}
