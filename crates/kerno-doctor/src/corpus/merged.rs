//! A recorded window, merged with one in which the same goes on, is judged as by itself: the same rules, the same culprits.

use std::collections::BTreeSet;

use kerno_model::{Finding, Severity, Window};
use serde_json::Value;

use super::{Expected, Mark, Verdict, assess, recorded};
use crate::report::Diagnosis;
use crate::{Thresholds, judge};

/// Times of the kernel's clock, but for those that tell a process or a sleep from another.
const TIMES: [&str; 4] = ["first_ns", "first_failed_ns", "first_retransmit_ns", "timestamp_ns"];

/// What is used up, or uses something up: it goes on from where it was, if it still changed at the end.
const LEVELS: [&str; 7] =
    ["open", "files", "available_bytes", "free_inodes", "used_bytes", "anon_bytes", "swap_free_bytes"];

/// Moves all times by so many nanoseconds, and each level by its change, as often as said.
fn go_on(value: &mut Value, later_ns: u64, times: f64) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| go_on(value, later_ns, times)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Number(at) if TIMES.contains(&name.as_str()) && at.as_u64() > Some(0) => {
                        *value = (at.as_u64().unwrap() + later_ns).into();
                    }
                    Value::Array(points) if LEVELS.contains(&name.as_str()) => raise(points, times),
                    value => go_on(value, later_ns, times),
                }
            }
        }
        _ => {}
    }
}

fn raise(points: &mut [Value], times: f64) {
    let level = |point: &Value| point[1].as_f64().unwrap();
    let Some((first, last)) = points.first().map(level).zip(points.last().map(level)) else { return };
    let third = points.get(points.len() * 2 / 3).map_or(last, level);
    // What has settled stays as it is.
    let settled = (last - third).abs() < (last - first).abs() / 6.0;
    for point in points {
        let goes_on = (level(point) + times * (last - first)).max(0.0);
        point[1] = if settled { last } else { goes_on }.into();
    }
}

/// What it would have been later, if all went on as it did, after so long without being watched.
fn later(window: &Window, gap_seconds: f64) -> Window {
    let shift = window.span.seconds + gap_seconds;
    let shift_ns = (shift * 1e9).round() as u64;
    let mut later = serde_json::to_value(window).unwrap();
    go_on(&mut later, shift_ns, shift / window.span.seconds);
    let mut later: Window = serde_json::from_value(later).unwrap();
    later.span.started_ns += shift_ns;
    later.span.started_unix += shift;
    later
}

fn merged(window: &Window, gap_seconds: f64) -> Window {
    let mut merged = window.clone();
    merged.merge(&later(window, gap_seconds)).unwrap();
    merged
}

/// Root causes of warning or more: rule, variant, whom or what it is about.
fn roots(findings: &[Finding]) -> BTreeSet<(String, String, String)> {
    let serious = findings.iter().filter(|finding| finding.worst() >= Severity::Warning);
    let outlines = serious.map(super::Outline::of);
    outlines.map(|outline| (outline.rule, outline.variant, outline.who)).collect()
}

/// What is to be found after so long.
fn expected(mut expected: Vec<Expected>, seconds: f64) -> Vec<Expected> {
    for mark in expected.iter_mut().flat_map(|expected| &mut expected.marks) {
        if let Mark::EtaSeconds(eta) = mark {
            *eta = (*eta - seconds).max(0.0);
        }
    }
    expected
}

fn check(gap_seconds: f64) {
    let mut wrong = Vec::new();
    for case in recorded::cases() {
        let before = judge(&case.window, &Thresholds::default());
        let merged = merged(&case.window, gap_seconds);
        let after = judge(&merged, &Thresholds::default());
        let told: Vec<_> = after.iter().map(|finding| Diagnosis::of(finding, &merged)).collect();
        let shift = case.window.span.seconds + gap_seconds;
        let verdict = assess(&expected(case.record.expected, shift), &told).verdict;
        let (before, after) = (roots(&before), roots(&after));
        if verdict != Verdict::Right || before != after {
            wrong.push(format!("{}: {verdict:?}\n  alone:  {before:?}\n  merged: {after:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} merged windows are judged otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_goes_on_is_found_in_merged_windows_too() {
    check(0.0);
}

#[test]
fn what_goes_on_is_found_across_a_gap_too() {
    check(2.0);
}
