//! Each number of a window is in the catalogue, or is listed with the reason why it is not. Nobody says which numbers are in it: a number
//! is, if the samples change with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde::Deserialize;
use serde_json::Value;

use super::super::{find, parts, samples_by_name};
use super::{ROOT, corpus};
use crate::Window;
use crate::metric::{Measure, Sample};

/// The paths of all numbers of a window, from its JSON Schema: `[]` is each element of an array, `*` each value of a map.
fn numbers(schema: &Value, root: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(pointer) = schema["$ref"].as_str() {
        return numbers(root.pointer(pointer.trim_start_matches('#')).unwrap(), root, path, found);
    }
    for choice in schema["anyOf"].as_array().into_iter().flatten() {
        numbers(choice, root, path, found);
    }
    let is = |kind: &str| match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(|known| known == kind),
        known => known == kind,
    };
    if is("integer") || is("number") {
        found.insert(path.to_owned());
    }
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for (name, part) in schema["properties"].as_object().into_iter().flatten() {
        numbers(part, root, &below(name), found);
    }
    let any = schema["patternProperties"].as_object().into_iter().flatten().map(|(_, part)| part);
    for part in any.chain(schema.get("additionalProperties").filter(|part| part.is_object())) {
        numbers(part, root, &below("*"), found);
    }
    let fixed = schema["prefixItems"].as_array().into_iter().flatten();
    for part in fixed.chain(schema.get("items").filter(|part| part.is_object())) {
        numbers(part, root, &format!("{path}[]"), found);
    }
}

/// Changes each number at a path, also one that is not known, and tells whether there was any.
fn change(value: &mut Value, path: &str) -> bool {
    let path = path.strip_prefix('.').unwrap_or(path);
    if path.is_empty() {
        *value = match &*value {
            Value::Null => 1.into(),
            // Half of it, so that it stays a share or fits its type; but not 0.
            whole if whole.as_i64().is_some() || whole.as_u64().is_some() => match whole.as_u64() {
                Some(large @ 3..) => (large / 2).into(),
                Some(small) => (small + 1).into(),
                None => (whole.as_i64().unwrap_or(0) / 2).into(),
            },
            part => part.as_f64().map_or(0.25, |part| if part == 0.0 { 0.25 } else { part / 2.0 }).into(),
        };
        return true;
    }
    if let Some(rest) = path.strip_prefix("[]") {
        return value.as_array_mut().into_iter().flatten().filter_map(|item| change(item, rest).then_some(())).count()
            > 0;
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    let Some(fields) = value.as_object_mut() else { return false };
    if name == "*" {
        return fields.values_mut().filter_map(|item| change(item, rest).then_some(())).count() > 0;
    }
    if rest.is_empty() {
        // One that is not written while it is 0 is there all the same.
        return change(fields.entry(name).or_insert(Value::Null), rest);
    }
    fields.get_mut(name).is_some_and(|part| change(part, rest))
}

fn samples_of(json: Value) -> Vec<Sample> {
    samples_by_name(&Window::deserialize(json).unwrap())
}

fn by(sample: &Sample) -> (&'static str, &[String]) {
    (sample.metric.name, &sample.labels)
}

/// Whether a path is one that a pattern means: `*` stands for anything.
fn means(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((before, after)) => path.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| means(after, &rest[at..]))
        }),
    }
}

/// What is left out, by its path from the window on, and why.
fn left_out() -> Vec<(String, &'static str)> {
    let full = |part: &str, path: &str| if part == "window" { path.to_owned() } else { format!("{part}.{path}") };
    let of = |part: super::super::Part| part.left_out.iter().map(move |(path, why)| (full(part.name, path), *why));
    parts().into_iter().flat_map(of).collect()
}

/// The unit that a field's name says it has, if it says one.
fn measure(path: &str) -> Option<Measure> {
    let name = path.trim_end_matches("[]");
    let known = [("_ns", Measure::NANOSECONDS), ("_us", Measure::MICROSECONDS), ("_bytes", Measure::BYTES)];
    known.into_iter().find_map(|(ending, measure)| name.ends_with(ending).then_some(measure))
}

#[test]
fn every_number_is_in_it_or_left_out_for_a_reason() {
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(format!("{ROOT}/docs/window.schema.json")).unwrap()).unwrap();
    let mut paths = BTreeSet::new();
    numbers(&schema, &schema, "", &mut paths);
    assert!(paths.len() > 200, "{}", paths.len());

    let left_out = left_out();
    let is_left_out = |path: &String| left_out.iter().any(|(pattern, _)| means(pattern, path));
    for (pattern, why) in &left_out {
        assert!(paths.iter().any(|path| means(pattern, path)), "nothing is at {pattern}");
        assert!(why.len() > 5, "{pattern}: {why}");
    }

    let windows: Vec<_> = corpus()
        .into_iter()
        .map(|(name, mut window)| {
            // Each has a unit of its own, so that it shows whom a number is counted for.
            for (pid, process) in &mut window.processes {
                process.unit = Some(format!("unit-{pid}.service"));
            }
            // The corpus is recorded without a budget.
            window.cost.kernel_shares = [("disk_io".to_owned(), 0.001)].into();
            let json = serde_json::to_value(&window).unwrap();
            (name, samples_by_name(&window), json)
        })
        .collect();
    let (out, of_it): (Vec<_>, Vec<_>) = paths.iter().partition(|path| is_left_out(path));
    let mut problems = Vec::new();
    let changed = |path: &str, (_, before, json): &(String, Vec<Sample>, Value)| -> Option<Vec<&'static str>> {
        let mut json = json.clone();
        if !change(&mut json, path) {
            return None;
        }
        let before: BTreeMap<_, _> = before.iter().map(|sample| (by(sample), sample)).collect();
        let after = samples_of(json);
        let new = after.iter().filter(|sample| before.get(&by(sample)).is_none_or(|known| known != sample));
        let names: Vec<_> = new.map(|sample| sample.metric.name).collect();
        (!names.is_empty()).then_some(names)
    };
    for path in of_it {
        match windows.iter().find_map(|window| changed(path, window)) {
            None => problems.push(format!("{path} is neither in the catalogue nor left out")),
            Some(names) => {
                let metrics = names.iter().filter_map(|name| find(name));
                let measures: Vec<_> = metrics.map(|metric| metric.measure).collect();
                // A time by the clock shows in times of exemplars; it is no duration.
                let wanted = measure(path).filter(|_| !path.ends_with("started_ns") && !path.ends_with("timestamp_ns"));
                // A share has no unit.
                if wanted
                    .is_some_and(|wanted| measures.iter().any(|measure| ![wanted, Measure::RATIO].contains(measure)))
                {
                    problems.push(format!("{path} is in {names:?}, which have another unit"));
                }
            }
        }
    }
    // All of them at once: no window may change.
    for window @ (name, before, json) in &windows {
        let mut json = json.clone();
        let there = out.iter().fold(0, |there, path| there + usize::from(change(&mut json, path)));
        assert!(there > 10, "{name}");
        if samples_of(json) != *before {
            let in_it = out.iter().filter(|path| changed(path, window).is_some());
            problems.extend(in_it.map(|path| format!("{name}: {path} is in the catalogue and said to be left out")));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}
