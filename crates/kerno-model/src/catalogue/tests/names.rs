//! The rules that Prometheus and OpenMetrics have for names.

use std::collections::BTreeSet;

use super::super::{find, metrics};
use crate::metric::{Kind, Values};

/// Words of which each stands for a kind of sample, so that no other name may end with them.
const RESERVED_ENDINGS: &[&str] = &["total", "count", "sum", "bucket", "created", "info", "gcount", "gsum"];
/// Labels that the formats or Prometheus itself use.
const RESERVED_LABELS: &[&str] = &["le", "quantile", "job", "instance", "exported_job", "exported_instance"];
/// Units that are no base units, and words that say the kind.
const NO_UNITS: &[&str] = &[
    "ns",
    "us",
    "ms",
    "milliseconds",
    "microseconds",
    "nanoseconds",
    "minutes",
    "hours",
    "days",
    "percent",
    "kb",
    "kib",
    "mb",
    "mib",
    "kilobytes",
    "megabytes",
    "bits",
    "celsius",
    "gauge",
    "counter",
    "histogram",
    "summary",
    "info",
];

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_lowercase())
        && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.contains("__")
        && !name.ends_with('_')
}

#[test]
fn names_are_those_of_prometheus_and_openmetrics() {
    for metric in metrics() {
        let (family, name) = (metric.family(), metric.prometheus());
        assert!(family.starts_with("kerno_") && is_name(&family) && is_name(&name), "{family} {name}");
        assert!(metric.name.split('.').all(is_name), "{}", metric.name);
        let unit = metric.measure.suffix();
        assert!(family.ends_with(unit), "{family}: {unit}");
        let words: Vec<_> = family.split('_').collect();
        for (place, word) in words.iter().enumerate() {
            assert!(!NO_UNITS.contains(word), "{family}: {word}");
            // A unit is told once, at the end.
            let unit_word = ["seconds", "bytes", "ratio"].contains(word);
            assert!(!unit_word || (place + 1 == words.len() && *word == unit), "{family}: {word}");
        }
        let ending = words.last().copied().unwrap_or_default();
        assert!(!RESERVED_ENDINGS.contains(&ending), "{family}");
        let wanted = match metric.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            _ => "",
        };
        assert_eq!(name, format!("{family}{wanted}"));
        assert_eq!((find(metric.name), find(&name)), (Some(metric), Some(metric)), "names find it");
    }
}

#[test]
fn no_two_series_have_one_name() {
    let mut taken = BTreeSet::new();
    for metric in metrics() {
        let family = metric.family();
        let mut samples = vec![family.clone()];
        match metric.kind {
            Kind::Counter => samples.extend(["_total", "_created"].map(|ending| family.clone() + ending)),
            Kind::Info => samples.push(metric.prometheus()),
            Kind::Histogram(_) => {
                samples.extend(["_bucket", "_count", "_sum", "_created"].map(|ending| family.clone() + ending));
                samples.extend(metric.largest_beside().map(|(_, name)| name));
            }
            _ => {}
        }
        for sample in samples {
            assert!(taken.insert(sample.clone()), "{sample} is there twice");
        }
    }
    let names: BTreeSet<_> = metrics().into_iter().map(|metric| metric.name).collect();
    for name in &names {
        // A largest value beside a number is named after it. Otherwise a name is no folder of others.
        let inside =
            |other: &&&str| other.strip_prefix(name).is_some_and(|rest| rest.starts_with('.') && rest != ".max");
        assert_eq!(names.iter().find(inside), None, "{name}");
    }
}

#[test]
fn labels_have_names_and_bounds() {
    for metric in metrics() {
        let mut names = BTreeSet::new();
        for label in metric.labels {
            assert!(is_name(label.name) && !RESERVED_LABELS.contains(&label.name), "{}: {}", metric.name, label.name);
            assert!(names.insert(label.name), "{}: {} twice", metric.name, label.name);
            for unbounded in ["pid", "tid", "address", "port", "ip", "inode", "comm", "path"] {
                assert_ne!(label.name, unbounded, "{}", metric.name);
            }
            match label.values {
                Values::Of(values) => {
                    assert!(values.len() > 1 && values.iter().all(|value| !value.is_empty()), "{}", metric.name);
                    assert_eq!(values.iter().collect::<BTreeSet<_>>().len(), values.len(), "{}", label.name);
                }
                Values::Top(top) => assert!((1..=32).contains(&top), "{}", metric.name),
            }
            assert!(label.about.ends_with('.') && !label.attribute.is_empty(), "{}", label.name);
        }
    }
}

#[test]
fn each_has_one_sentence_of_help() {
    for metric in metrics() {
        let help = metric.help;
        assert!(help.ends_with('.') && !help.trim_end_matches('.').contains(". "), "{}: {help}", metric.name);
        assert!(help.starts_with(|c: char| c.is_ascii_uppercase()) && !help.contains("  "), "{}: {help}", metric.name);
    }
}
