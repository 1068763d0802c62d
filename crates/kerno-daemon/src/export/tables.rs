//! The columns of each table, and what is in them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use kerno_doctor::redaction::Redaction;
use kerno_doctor::report::IncidentReport;
use kerno_model::catalogue::{parts_of_windows, samples};
use kerno_model::metric::{Amount, BaseUnit, Kind, Sample};
use kerno_model::{IncidentState, Window};
use serde_json::{Map, Value};

use super::Table;
use crate::hiding::Hiding;

/// What a column holds. Any may be missing in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ColumnKind {
    /// A time: microseconds since 1970, UTC. In JSON RFC 3339.
    Time,
    /// A number.
    Number,
    /// A whole number.
    Count,
    /// Text in UTF-8.
    Text,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: ColumnKind,
    /// What that means.
    pub about: String,
}

impl Column {
    fn new(name: &str, kind: ColumnKind, about: &str) -> Self {
        Self { name: name.to_owned(), kind, about: about.to_owned() }
    }

    #[cfg(test)]
    pub(super) fn of_test(name: &str, kind: ColumnKind) -> Self {
        Self::new(name, kind, "of a test")
    }
}

/// A value of a row, as its column holds it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    None,
    /// In nanoseconds since 1970.
    Time(u64),
    Number(f64),
    Count(u64),
    Text(String),
}

pub(super) type Row = Vec<Cell>;

/// What labels are called in the columns.
const LABEL: &str = "label_";

/// The percentiles of histograms, with their columns.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

/// The names of all labels, with what they say.
fn labels() -> &'static BTreeMap<&'static str, &'static str> {
    static LABELS: OnceLock<BTreeMap<&str, &str>> = OnceLock::new();
    LABELS.get_or_init(|| {
        let all = parts_of_windows().into_iter().flat_map(|part| part.metrics);
        let of_windows = all.filter(|metric| !matches!(metric.kind, Kind::Info));
        of_windows.flat_map(|metric| metric.labels).map(|label| (label.name, label.about)).collect()
    })
}

/// The columns of a table, in their order; none of whole windows.
pub fn columns(table: Table) -> Vec<Column> {
    use ColumnKind::{Count, Number, Text, Time};
    let column = Column::new;
    match table {
        Table::Windows => Vec::new(),
        Table::Incidents => vec![
            column("id", Text, "Its id, the same after a restart of kerno."),
            column("rule", Text, "The rule that found it."),
            column("severity", Text, "How bad it is, or was at its worst: info, warning or critical."),
            column("state", Text, "open or closed."),
            column("opened", Time, "The end of the first window that showed it."),
            column("closed", Time, "When it was considered over."),
            column("last_seen", Time, "The end of the latest window that showed it."),
            column("reopened", Count, "How often it came back after it had been considered over."),
            column("unit", Text, "The service or container that it is about."),
            column("title", Text, "What is wrong, as it was at its worst."),
            column("finding", Text, "All of the finding at its worst, as JSON."),
            column("changes", Text, "What changed on the machine shortly before it opened, as JSON."),
        ],
        Table::Samples => {
            let mut all = vec![
                column("time", Time, "When the window ended."),
                column("seconds", Number, "How long it was, without what was not watched."),
                column("host", Text, "The machine's name."),
                column("boot_id", Text, "The boot of the machine."),
                column("metric", Text, "What it is, as in metrics.md, without what Prometheus adds to names."),
                column(
                    "kind",
                    Text,
                    "counter: what was added in the window; gauge: the value at its end; largest: the \
                                      largest value in it; histogram: the distribution of the values in it.",
                ),
                column("measure", Text, "The unit: seconds, bytes, ratio, or the things that are counted."),
                column("value", Number, "How much; of a histogram the sum of its values."),
                column("count", Count, "How many values a histogram has."),
            ];
            all.extend(QUANTILES.map(|(name, quantile)| {
                column(name, Number, &format!("The value that {} % of a histogram's are not above.", quantile * 100.0))
            }));
            all.push(column("max", Number, "The largest value of a histogram."));
            all.extend(labels().iter().map(|(name, about)| column(&format!("{LABEL}{name}"), Text, about)));
            all
        }
    }
}

/// The numbers of a window.
pub(super) fn sample_rows(window: &Window) -> Vec<Row> {
    samples(window)
        .iter()
        .filter(|sample| !matches!(sample.amount, Amount::Info))
        .map(|sample| sample_row(window, sample))
        .collect()
}

fn sample_row(window: &Window, sample: &Sample) -> Row {
    let distribution = sample.distribution();
    let measure = match sample.metric.measure.unit {
        BaseUnit::Things(thing) => thing,
        _ => sample.metric.measure.suffix(),
    };
    let kind = match sample.amount {
        Amount::Counter(_) => "counter",
        Amount::Largest(_) => "largest",
        Amount::Histogram(_) => "histogram",
        _ => "gauge",
    };
    let text = |text: &str| Cell::Text(text.to_owned());
    let number = |number: Option<f64>| number.map_or(Cell::None, Cell::Number);
    let mut row = vec![
        Cell::Time(window.span.end().unix_ns),
        Cell::Number(window.span.covered_seconds()),
        text(&window.host.hostname),
        text(&window.host.boot_id),
        text(sample.metric.name),
        text(kind),
        text(measure),
        Cell::Number(sample.value()),
        distribution.map_or(Cell::None, |values| Cell::Count(values.histogram.count())),
    ];
    row.extend(QUANTILES.map(|(_, quantile)| number(sample.quantile(quantile))));
    let largest = distribution.and_then(|_| sample.quantile(1.0));
    row.push(number(largest));
    row.extend(labels().keys().map(|name| sample.label(name).map_or(Cell::None, text)));
    row
}

pub(super) fn incident_row(incident: &IncidentReport, redaction: &Redaction, hiding: &mut Hiding<'_>) -> Row {
    let text = |text: &str| Cell::Text(redaction.hide(text).into_owned());
    vec![
        text(incident.id.as_str()),
        text(&incident.rule),
        text(incident.severity.name()),
        text(if incident.state == IncidentState::Open { "open" } else { "closed" }),
        Cell::Time(incident.opened_unix_ns),
        incident.closed_unix_ns.map_or(Cell::None, Cell::Time),
        Cell::Time(incident.last_seen_unix_ns),
        Cell::Count(u64::from(incident.reopened)),
        incident.unit.as_deref().map_or(Cell::None, text),
        text(&incident.title),
        Cell::Text(hiding.json(&incident.finding).to_string()),
        Cell::Text(hiding.json(&incident.changes).to_string()),
    ]
}

/// A row as a JSON object. What is missing is left out.
pub(super) fn object(columns: &[Column], row: Row) -> Map<String, Value> {
    let field = |(column, cell): (&Column, Cell)| {
        let value = match cell {
            Cell::None => return None,
            Cell::Time(ns) => jiff::Timestamp::from_nanosecond(ns.into()).ok()?.to_string().into(),
            Cell::Number(number) => serde_json::Number::from_f64(number)?.into(),
            Cell::Count(count) => count.into(),
            Cell::Text(text) => text.into(),
        };
        Some((column.name.clone(), value))
    };
    columns.iter().zip(row).filter_map(field).collect()
}
