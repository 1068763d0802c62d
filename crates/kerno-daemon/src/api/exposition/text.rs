//! The [text format] of Prometheus and [OpenMetrics 1.0].
//!
//! [text format]: https://prometheus.io/docs/instrumenting/exposition_formats/
//! [OpenMetrics 1.0]: https://prometheus.io/docs/specs/om/open_metrics_spec/

use std::fmt::Write as _;

use kerno_model::metric::{Exemplar, Kind, Sample};

use super::exemplar_labels;

/// All samples, which must be sorted by name.
pub(super) fn write(samples: &[Sample], open: bool) -> String {
    let mut out = Writer { out: String::new(), open };
    for family in samples.chunk_by(|a, b| a.metric.name == b.metric.name) {
        out.family(family);
    }
    if open {
        out.out.push_str("# EOF\n");
    }
    out.out
}

struct Writer {
    out: String,
    /// Whether it is OpenMetrics.
    open: bool,
}

impl Writer {
    fn family(&mut self, samples: &[Sample]) {
        let Some(metric) = samples.first().map(|sample| sample.metric) else { return };
        let (family, name) = (metric.family(), metric.prometheus());
        let kind = match (metric.kind, self.open) {
            (Kind::Counter, _) => "counter",
            (Kind::Histogram(_), _) => "histogram",
            (Kind::Info, true) => "info",
            _ => "gauge",
        };
        // The text format names what its samples are called; OpenMetrics leaves the endings out.
        let described = if self.open { &family } else { &name };
        self.describe(described, kind, metric.measure.suffix(), metric.help);
        for sample in samples {
            match metric.kind {
                Kind::Histogram(_) => self.histogram(&family, sample),
                Kind::Counter => {
                    self.line(&name, sample, None, sample.value());
                    self.created(&family, sample);
                }
                _ => self.line(&name, sample, None, sample.value()),
            }
        }
        if let Some((_, largest)) = metric.largest_beside() {
            let known: Vec<_> = samples.iter().filter_map(|sample| Some((sample, sample.largest()?))).collect();
            if !known.is_empty() {
                let help = format!("The largest since the last scrape: {}", metric.help);
                self.describe(&largest, "gauge", metric.measure.suffix(), &help);
                known.into_iter().for_each(|(sample, value)| self.line(&largest, sample, None, value));
            }
        }
    }

    fn describe(&mut self, family: &str, kind: &str, unit: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP {family} {}", escaped(help, self.open));
        let _ = writeln!(self.out, "# TYPE {family} {kind}");
        if self.open && !unit.is_empty() {
            let _ = writeln!(self.out, "# UNIT {family} {unit}");
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "those who read metrics take floating point")]
    fn histogram(&mut self, family: &str, sample: &Sample) {
        let all = sample.distribution().map_or(0, |values| values.histogram.count());
        let mut exemplar = sample.distribution().and_then(|values| values.exemplar.as_ref());
        let name = format!("{family}_bucket");
        for (bound, count) in sample.classic().into_iter().chain([(f64::INFINITY, all)]) {
            let le = if bound.is_finite() { format!("{bound:?}") } else { "+Inf".to_owned() };
            self.start(&name, sample, Some(&le));
            let _ = write!(self.out, " {count}");
            // On the first bucket that has it.
            let value = |exemplar: &Exemplar| sample.metric.measure.base(exemplar.value as f64);
            if let Some(known) = exemplar.take_if(|exemplar| value(exemplar) <= bound) {
                self.exemplar(known, value(known));
            }
            self.out.push('\n');
        }
        self.line(&format!("{family}_sum"), sample, None, sample.value());
        self.line(&format!("{family}_count"), sample, None, all as f64);
        self.created(family, sample);
    }

    #[allow(clippy::cast_precision_loss, reason = "a time within microseconds")]
    fn exemplar(&mut self, exemplar: &Exemplar, value: f64) {
        if !self.open {
            return;
        }
        let [(_, pid), (_, comm)] = exemplar_labels(exemplar);
        let _ = write!(self.out, " # {{pid=\"{pid}\",comm=\"{}\"}} {value:?}", escaped(&comm, true));
        if let Some(unix_ns) = exemplar.unix_ns {
            let _ = write!(self.out, " {:.3}", unix_ns as f64 / 1e9);
        }
    }

    /// The text format has no such thing: there it would be a number of its own.
    #[allow(clippy::cast_precision_loss, reason = "a time within microseconds")]
    fn created(&mut self, family: &str, sample: &Sample) {
        if self.open {
            self.line(&format!("{family}_created"), sample, None, (sample.created_unix_ns / 1_000_000) as f64 / 1e3);
        }
    }

    fn line(&mut self, name: &str, sample: &Sample, le: Option<&str>, value: f64) {
        self.start(name, sample, le);
        let _ = writeln!(self.out, " {}", number(value));
    }

    fn start(&mut self, name: &str, sample: &Sample, le: Option<&str>) {
        self.out.push_str(name);
        let labels = sample.metric.labels.iter().zip(&sample.labels).map(|(label, value)| (label.name, value.as_str()));
        let mut open = '{';
        for (label, value) in labels.chain(le.map(|le| ("le", le))) {
            let _ = write!(self.out, "{open}{label}=\"{}\"", escaped(value, true));
            open = ',';
        }
        if open == ',' {
            self.out.push('}');
        }
    }
}

/// Whole numbers without a point, others as short as they can be read back.
fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else {
        format!("{value}")
    }
}

fn escaped(text: &str, quotes: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if quotes => escaped.push_str("\\\""),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_are_written_so_that_they_are_read_back() {
        assert_eq!(number(3.0), "3");
        assert_eq!(number(0.000_001_023), "0.000001023");
        assert_eq!(number(f64::INFINITY), "+Inf");
        assert_eq!(escaped("a\\b\"c\nd", true), "a\\\\b\\\"c\\nd");
        assert_eq!(escaped("a\"b", false), "a\"b");
    }
}
