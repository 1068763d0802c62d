//! What is shipped for Prometheus and Grafana names only numbers and labels that there are.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::{find, metrics};
use super::ROOT;
use crate::metric::{Kind, Metric, Values};

/// Labels that Prometheus adds, or that classic histograms have.
const ADDED: [&str; 4] = ["instance", "job", "le", "__name__"];

/// The words of PromQL, and functions of it, that are no labels.
const WORDS: [&str; 6] = ["by", "on", "or", "group_left", "and", "without"];

fn read(file: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/deploy/{file}")).unwrap()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The number that a name in an expression is of: a series of a histogram has the histogram's name with an ending.
fn number(name: &str) -> Option<&'static Metric> {
    let is_histogram = |metric: &&Metric| matches!(metric.kind, Kind::Histogram(_));
    let of_histogram = || {
        let without = ["_bucket", "_sum", "_count"].iter().find_map(|ending| name.strip_suffix(ending))?;
        find(without).filter(is_histogram)
    };
    let largest =
        || metrics().into_iter().find(|metric| metric.largest_beside().is_some_and(|(_, beside)| beside == name));
    // A classic histogram alone has no series of its own name, but a native one has.
    find(name).filter(|metric| metric.prometheus() == name).or_else(of_histogram).or_else(largest)
}

/// The labels that an expression names: in braces and in `by (...)` and the like, with the values that must be equal.
fn labels(expression: &str) -> Vec<(String, Option<String>)> {
    let mut labels = Vec::new();
    for part in expression.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        for matcher in part.split(", ") {
            let name = words(matcher).next().unwrap_or_default();
            let equal = matcher.split_once("=\"").filter(|(label, _)| *label == name).map(|(_, value)| value);
            labels.push((name.to_owned(), equal.map(|value| value.trim_end_matches('"').to_owned())));
        }
    }
    for word in WORDS {
        for rest in expression.split(&format!("{word} (")).skip(1) {
            labels.extend(words(rest.split(')').next().unwrap_or_default()).map(|name| (name.to_owned(), None)));
        }
    }
    labels
}

fn check(expression: &str, legend: &str) {
    let names: BTreeSet<_> = words(expression).filter(|word| word.starts_with("kerno_")).collect();
    assert!(!names.is_empty(), "{expression}");
    let numbers: Vec<_> = names
        .iter()
        .map(|name| number(name).unwrap_or_else(|| panic!("{name} is not in the catalogue: {expression}")))
        .collect();
    let of_legend =
        legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()).map(|name| (name.to_owned(), None));
    for (label, value) in labels(expression).into_iter().chain(of_legend) {
        if ADDED.contains(&label.as_str()) {
            continue;
        }
        let known = numbers.iter().flat_map(|metric| metric.labels).find(|known| known.name == label);
        let known = known.unwrap_or_else(|| panic!("no number has the label {label}: {expression} {legend}"));
        if let (Some(value), Values::Of(values)) = (value, known.values) {
            assert!(values.contains(&value.as_str()), "{label} is never {value}: {expression}");
        }
    }
}

#[test]
fn the_dashboard_names_what_there_is() {
    let dashboard: Value = serde_json::from_str(&read("grafana/kerno.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut expressions = 0;
    for panel in panels {
        for target in panel["targets"].as_array().unwrap_or(&Vec::new()) {
            check(target["expr"].as_str().unwrap(), target["legendFormat"].as_str().unwrap());
            assert_eq!(target["datasource"]["uid"], "${datasource}");
            expressions += 1;
        }
    }
    assert!(expressions > 60, "{expressions}");
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        check(annotation["expr"].as_str().unwrap(), annotation["titleFormat"].as_str().unwrap());
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(definition) = variable["definition"].as_str() {
            check(definition, "");
        }
    }
    // Each panel has a place of its own and an id of its own.
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let edges = |panel: &Value| {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|edge| panel["gridPos"][edge].as_u64().unwrap());
        (x..x + w, y..y + h)
    };
    for (place, panel) in panels.iter().enumerate() {
        let (columns, rows) = edges(panel);
        assert!(columns.end <= 24, "{}", panel["title"]);
        for other in &panels[..place] {
            let (others, theirs) = edges(other);
            let apart = columns.end <= others.start
                || others.end <= columns.start
                || rows.end <= theirs.start
                || theirs.end <= rows.start;
            assert!(apart, "{} lies on {}", panel["title"], other["title"]);
        }
    }
}

#[test]
fn the_alert_rules_name_what_there_is() {
    let rules = read("prometheus/kerno.rules.yml");
    let expressions: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(expressions.len() >= 4, "{expressions:?}");
    expressions
        .into_iter()
        .filter(|expression| expression.contains("kerno_"))
        .for_each(|expression| check(expression, ""));
}

#[test]
#[should_panic(expected = "kerno_nothing_total is not in the catalogue")]
fn an_unknown_number_is_noticed() {
    check("rate(kerno_nothing_total[1m])", "");
}

#[test]
#[should_panic(expected = "no number has the label moed")]
fn an_unknown_label_is_noticed() {
    check("sum by (moed) (kerno_cpu_time_seconds_total)", "");
}

#[test]
#[should_panic(expected = "mode is never idel")]
fn an_unknown_value_is_noticed() {
    check("rate(kerno_cpu_time_seconds_total{instance=~\"$instance\", mode=\"idel\"}[1m])", "");
}
