//! Windows that earlier versions of kerno saved are read and judged as they were.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use kerno_doctor::report::Culprit;
use kerno_doctor::{Thresholds, judge};
use kerno_model::Finding;
use kerno_model::saved::read_window;
use kerno_model::{SCHEMA_VERSION, Window};
use serde::Deserialize;

/// What must be found in a window.
#[derive(Debug, Deserialize)]
struct Expected {
    rule: String,
    pid: Option<u32>,
    process: Option<String>,
    cgroup: Option<String>,
    device: Option<String>,
    remote: Option<String>,
}

impl Expected {
    fn is(&self, finding: &Finding) -> bool {
        let culprit = &Culprit::from(&finding.subject);
        let same = |expected: &Option<String>, found: &Option<String>| expected.is_none() || expected == found;
        finding.rule.as_str() == self.rule
            && (self.pid.is_none() || self.pid == culprit.pid)
            && same(&self.process, &culprit.process)
            && same(&self.cgroup, &culprit.cgroup)
            && same(&self.device, &culprit.device)
            && same(&self.remote, &culprit.remote)
    }
}

fn folder(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../kerno-model/tests/saved/v{version}"))
}

fn windows(version: u32) -> Vec<(String, Window, Vec<Expected>)> {
    let folder = folder(version);
    let text = fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: std::collections::BTreeMap<String, Vec<Expected>> = serde_json::from_str(&text).unwrap();
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<_> = files.filter(|name| name.ends_with(".json") && name != "expected.json").collect();
    files.sort();
    assert_eq!(files, expected.keys().cloned().collect::<Vec<_>>(), "each file, and what must be found in it");
    let read = |(name, expected)| {
        let json = fs::read(folder.join(&name)).unwrap();
        assert!(json.len() < 60_000, "{name}");
        let window = read_window(&json).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, window, expected)
    };
    expected.into_iter().map(read).collect()
}

fn all(findings: Vec<Finding>) -> Vec<Finding> {
    let mut flat = Vec::new();
    for mut finding in findings {
        let consequences = std::mem::take(&mut finding.consequences);
        flat.push(finding);
        flat.extend(all(consequences));
    }
    flat
}

#[test]
fn windows_of_version_1_are_judged_as_they_were() {
    let windows = windows(1);
    assert!(windows.len() >= 8);
    for (name, window, expected) in windows {
        assert_eq!(window.schema_version, SCHEMA_VERSION);
        let found = all(judge(&window, &Thresholds::default()));
        let titles: Vec<_> = found.iter().map(|finding| kerno_doctor::words(finding).title).collect();
        assert_eq!(found.len(), expected.len(), "{name}: {titles:?}");
        for expected in expected {
            assert!(found.iter().any(|finding| expected.is(finding)), "{name}: {expected:?} is not in {titles:?}");
        }
    }
}

/// Each value that was in the file is in the window that was read, under its new name: nothing is dropped on the way.
#[test]
fn nothing_is_lost_in_reading_version_1() {
    for (name, window, _) in windows(1) {
        let old: serde_json::Value = serde_json::from_slice(&fs::read(folder(1).join(&name)).unwrap()).unwrap();
        let new = serde_json::to_value(&window).unwrap();
        let (old, new) = (leaves(&old), leaves(&new));
        for leaf in &old {
            // Limits are taken apart, and versions are told anew.
            if leaf.contains('=') || leaf == "\"rbps\"" {
                continue;
            }
            assert!(new.contains(leaf), "{name}: {leaf}");
        }
        // Beside what is added.
        assert!(new.len() >= old.len(), "{name}: {} of {}", new.len(), old.len());
    }
}

/// The values at the ends, sorted.
fn leaves(value: &serde_json::Value) -> Vec<String> {
    let mut found = Vec::new();
    match value {
        serde_json::Value::Object(object) => object.values().for_each(|value| found.extend(leaves(value))),
        serde_json::Value::Array(array) => array.iter().for_each(|value| found.extend(leaves(value))),
        leaf => found.push(leaf.to_string()),
    }
    found
}

#[test]
fn reports_of_version_1_are_read() {
    for file in fs::read_dir(folder(1).join("reports")).unwrap() {
        let path = file.unwrap().path();
        let report: kerno_doctor::report::Report =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert!(!report.healthy && !report.findings.is_empty(), "{path:?}");
        assert!(kerno_doctor::report::markdown(&report).contains(&report.findings[0].title));
    }
}
