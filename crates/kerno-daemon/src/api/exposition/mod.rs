//! Samples as Prometheus and OpenMetrics read them.
//!
//! Written here because no crate has classic and native histograms, times of creation and exemplars of what a [`Sample`] knows; the formats are
//! small and fixed.

mod protobuf;
mod text;

use kerno_model::metric::{Exemplar, Sample};

/// A form of writing metrics down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// The text format of Prometheus, 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// The protocol buffers of Prometheus: the only form with native histograms.
    Protobuf,
}

/// The most characters of all labels of an exemplar together, by OpenMetrics.
const MAX_EXEMPLAR: usize = 128;

impl Format {
    /// The one that the client likes best, by its `Accept`; of several that it likes as well, the one that says most.
    pub(super) fn of(accept: &str) -> Self {
        let quality = |is_it: &dyn Fn(&str) -> bool| -> f64 {
            let of = accept.split(',').map(str::trim).filter(|part| is_it(part));
            let quality = |part: &str| {
                let q = part.split(';').find_map(|parameter| parameter.trim().strip_prefix("q="));
                q.map_or(1.0, |q| q.parse().unwrap_or(0.0))
            };
            of.map(quality).fold(0.0, f64::max)
        };
        let is_protobuf = |part: &str| {
            let has = |parameter: &str| part.split(';').any(|given| given.trim() == parameter);
            part.starts_with("application/vnd.google.protobuf")
                && has("proto=io.prometheus.client.MetricFamily")
                && has("encoding=delimited")
        };
        let protobuf = quality(&is_protobuf);
        let open = quality(&|part| part.starts_with("application/openmetrics-text"));
        let text = quality(&|part| part.starts_with("text/plain"));
        match () {
            () if protobuf > 0.0 && protobuf >= open && protobuf >= text => Self::Protobuf,
            () if open > 0.0 && open >= text => Self::OpenMetrics,
            () => Self::Text,
        }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// All samples, which must be sorted by name.
pub(super) fn write(samples: &[Sample], format: Format) -> Vec<u8> {
    match format {
        Format::Text => text::write(samples, false).into_bytes(),
        Format::OpenMetrics => text::write(samples, true).into_bytes(),
        Format::Protobuf => protobuf::write(samples),
    }
}

/// The labels of an exemplar, within what they may take.
fn exemplar_labels(exemplar: &Exemplar) -> [(&'static str, String); 2] {
    let pid = exemplar.pid.to_string();
    let room = MAX_EXEMPLAR - "pid".len() - pid.len() - "comm".len();
    [("pid", pid), ("comm", exemplar.comm.chars().take(room).collect())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_the_client_likes_best() {
        assert_eq!(Format::of(""), Format::Text);
        assert_eq!(Format::of("*/*"), Format::Text);
        assert_eq!(Format::of("text/html"), Format::Text);
        let text = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(Format::of(text), Format::OpenMetrics);
        let native = format!(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,{text}"
        );
        assert_eq!(Format::of(&native), Format::Protobuf);
        assert_eq!(Format::of("application/vnd.google.protobuf;proto=other;encoding=delimited"), Format::Text);
        assert_eq!(Format::of("text/plain;q=0.9,application/openmetrics-text;q=0.1"), Format::Text);
        assert_eq!(Format::of("application/openmetrics-text;q=nonsense"), Format::Text);
    }

    #[test]
    fn alert_rules_ask_for_numbers_that_there_are() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/prometheus/kerno.rules.yml");
        let text = std::fs::read_to_string(path).unwrap();
        let expressions = text.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
        let words = expressions.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
        let names: Vec<_> = words.filter(|word| word.starts_with("kerno_")).collect();
        assert!(names.len() >= 4, "{names:?}");
        for name in names {
            assert!(kerno_model::catalogue::find(name).is_some(), "{name}");
        }
    }
}
