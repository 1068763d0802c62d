//! Judges every recorded window.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use kerno_model::{Finding, Window};

use super::{
    Assessment, BOOT_ID, FOLDER, HOSTNAME, INDEX, MAX_BYTES, Outline, RECORD_SUFFIX, Record, Verdict, assess,
    record_file, window_file,
};
use crate::report::Diagnosis;
use crate::{Thresholds, judge};

/// Cases of the lab that have not been recorded yet. This list may only become shorter: a case that is recorded goes from here.
const NOT_RECORDED: &[&str] = &[];

/// How to record a case.
const HOW: &str = "run `cargo xtask lab --record --only NAME` as root, on a machine with nothing else to do";

/// A case that was recorded.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) window: Window,
    pub(super) record: Record,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(FOLDER)
}

fn read(name: &str) -> String {
    let path = folder().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}; {HOW}", path.display()))
}

/// The names of all of the lab's cases.
fn index() -> Vec<String> {
    read(INDEX).lines().map(str::to_owned).collect()
}

/// The names of the cases that have both files.
fn recorded() -> BTreeSet<String> {
    let files = fs::read_dir(folder()).unwrap_or_else(|error| panic!("{FOLDER}: {error}; {HOW}"));
    let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<_> = files.filter(|name| name != INDEX && name != "README.md").collect();
    let mut names = BTreeSet::new();
    for file in &files {
        let name = file.strip_suffix(RECORD_SUFFIX).or_else(|| file.strip_suffix(".json"));
        let name = name.unwrap_or_else(|| panic!("{file} has no place in {FOLDER}"));
        for other in [window_file(name), record_file(name)] {
            assert!(files.contains(&other), "{FOLDER}/{file} is there without {other}; {HOW}");
        }
        names.insert(name.to_owned());
    }
    names
}

pub(super) fn cases() -> Vec<Case> {
    let cases: Vec<_> = recorded()
        .into_iter()
        .map(|name| {
            let broken = |error: serde_json::Error| -> ! { panic!("{name}: {error}; {HOW}") };
            let window = serde_json::from_str(&read(&window_file(&name))).unwrap_or_else(|error| broken(error));
            let record = serde_json::from_str(&read(&record_file(&name))).unwrap_or_else(|error| broken(error));
            Case { name, window, record }
        })
        .collect();
    assert!(!cases.is_empty(), "nothing is recorded in {FOLDER}; {HOW}");
    cases
}

fn pretty<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

fn outlines(findings: &[Finding]) -> Vec<Outline> {
    findings.iter().map(Outline::of).collect()
}

impl Case {
    fn judged(&self) -> Vec<Finding> {
        judge(&self.window, &Thresholds::default())
    }

    /// What is wrong with the findings, as who made the fault knows. Nothing that is found now can be put in its place.
    fn wrong(&self, findings: &[Finding]) -> Option<String> {
        let roots: Vec<_> = findings.iter().map(|finding| Diagnosis::of(finding, &self.window)).collect();
        let Assessment { verdict, .. } = assess(&self.record.expected, &roots);
        if verdict == Verdict::Right {
            return None;
        }
        let found = pretty(&outlines(findings));
        Some(format!(
            "{} ({}): {verdict:?}\nmust be found:\n{}is found:\n{found}",
            self.name,
            self.record.about,
            pretty(&self.record.expected)
        ))
    }

    /// What differs from what was found before.
    fn changed(&self, findings: &[Finding]) -> Option<String> {
        let found = outlines(findings);
        if found == self.record.found {
            return None;
        }
        let before = pretty(&self.record.found);
        Some(format!(
            "{} ({}): what is found has changed\nbefore:\n{before}now:\n{}",
            self.name,
            self.record.about,
            pretty(&found)
        ))
    }

    /// Puts what is found now in the place of what was found before, and leaves what must be found as it is.
    fn write(&self, findings: &[Finding]) {
        let record = Record { found: outlines(findings), ..self.record.clone() };
        fs::write(folder().join(record_file(&self.name)), pretty(&record)).unwrap();
    }
}

#[test]
fn every_recorded_window_gives_what_was_made() {
    let wrong: Vec<_> = cases().iter().filter_map(|case| case.wrong(&case.judged())).collect();
    assert!(wrong.is_empty(), "{} recorded windows are judged wrongly:\n\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_recorded_window_gives_what_it_gave_before() {
    if std::env::var_os("KERNO_WRITE_DOCS").is_some() {
        for case in cases() {
            let findings = case.judged();
            assert!(case.wrong(&findings).is_none(), "{}: not written, for it is wrong", case.name);
            case.write(&findings);
        }
    }
    let changed: Vec<_> = cases().iter().filter_map(|case| case.changed(&case.judged())).collect();
    assert!(
        changed.is_empty(),
        "{} recorded windows are judged otherwise than before. If that is meant, run `KERNO_WRITE_DOCS=1 cargo test -p kerno-doctor \
         --lib corpus` and commit what it writes.\n\n{}",
        changed.len(),
        changed.join("\n")
    );
}

#[test]
fn every_case_of_the_lab_is_recorded() {
    let (index, recorded) = (index(), recorded());
    let unknown: Vec<_> = recorded.iter().filter(|name| !index.contains(name)).collect();
    assert!(unknown.is_empty(), "the lab has no such case any more; remove their files: {unknown:?}");
    let missing: Vec<_> = index.iter().filter(|name| !recorded.contains(*name)).map(String::as_str).collect();
    // Past the test harness, which shows nothing of a test that passes.
    let names = missing.join(", ");
    writeln!(std::io::stderr(), "{FOLDER}: {} of {} cases have no record: {names}", missing.len(), index.len())
        .unwrap();
    let surprises: Vec<_> = missing.iter().filter(|name| !NOT_RECORDED.contains(name)).collect();
    assert!(surprises.is_empty(), "not recorded: {surprises:?}; {HOW}");
    let stale: Vec<_> = NOT_RECORDED.iter().filter(|name| !missing.contains(name)).collect();
    assert!(stale.is_empty(), "remove from NOT_RECORDED, which may only become shorter: {stale:?}");
}

#[test]
fn recorded_windows_are_small_and_tell_nothing_of_who_recorded_them() {
    for Case { name, window, .. } in cases() {
        let text = read(&window_file(&name));
        assert!(text.len() <= MAX_BYTES, "{name} takes {} bytes; {HOW}", text.len());
        assert_eq!((window.host.hostname.as_str(), window.host.boot_id.as_str()), (HOSTNAME, BOOT_ID), "{name}");
        for process in window.processes.values() {
            assert_eq!(process.cmdline, "", "{name}");
            assert!(matches!(process.user.as_deref(), None | Some("root" | "user")), "{name}: {:?}", process.user);
        }
    }
}

/// That it would fail: a culprit, a rank or a link that is otherwise is told of.
#[test]
fn a_judgement_that_changes_is_told_of() {
    let mut told = 0;
    for case in cases() {
        let findings = case.judged();
        assert_eq!((case.wrong(&findings), case.changed(&findings)), (None, None));
        if case.record.expected.is_empty() {
            continue;
        }
        assert!(case.wrong(&[]).is_some_and(|text| text.contains(&case.name) && text.contains("Missed")));
        // Some are about the machine as a whole.
        let told_by_subject = case.record.expected.iter().all(|expected| !expected.marks.is_empty());
        let mut other = findings.clone();
        other.iter_mut().for_each(|finding| finding.subject = kerno_model::Subject::default());
        let noticed = case.wrong(&other).is_some() && case.changed(&other).is_some();
        assert!(noticed || !told_by_subject, "{}", case.name);
        let mut other = findings.clone();
        other[0].fixes.clear();
        assert!(case.changed(&other).is_some_and(|text| text.contains("before:") && text.contains("now:")));
        told += 1;
    }
    assert!(told > 0, "no fault is recorded");
}
