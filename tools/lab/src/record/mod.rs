//! Recording what a case showed: the window that the doctor judged, cut down to what matters and without anything that tells of the
//! machine, and what was found in it. `kerno_doctor::corpus` says what becomes of it.

mod layout;
mod redact;
mod trim;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kerno::doctor::{Thresholds, judge};
use kerno::model::{Effect, Entity, Finding, Severity, Window};
use kerno::report::Diagnosis;
use kerno_doctor::corpus::{self, Expected, MAX_BYTES, Mark, Outline, Record, Verdict, assess};
use serde_json::Value;

use super::case::Case;
use super::report::Said;
use super::scene::Scene;

/// The most programs' names that a case's own processes can have.
const MAX_NAMES: usize = 512;

/// Writes the two files of a case that was right.
pub(super) fn write(dir: &Path, case: &Case, expected: Vec<Expected>, said: &Said, scene: &Scene) -> Result<()> {
    let text = std::fs::read_to_string(&said.window).context("the doctor saved no window")?;
    let saved: Value = serde_json::from_str(&text)?;
    let window = read(&saved)?;
    let findings = judge(&window, &Thresholds::default());
    let reported: Vec<_> = said.report.findings.iter().map(|finding| finding.id.as_str()).collect();
    let judged: Vec<_> = findings.iter().map(|finding| finding.rule.as_str()).collect();
    ensure!(
        reported == judged,
        "the kerno that was tried found {reported:?}, and this lab's own rules find {judged:?}: record with the one built beside the lab"
    );
    let started = scene.families().values().flatten().copied().chain([said.pid, std::process::id()]);
    let ours = Ours::new(&saved, &findings, started);
    let (value, window) = smallest(&saved, &ours, &findings)?;
    let value = redact::redacted(value, &ours)?;
    let redacted = read(&value)?;
    let findings_now = judge(&redacted, &Thresholds::default());
    let before = judge(&window, &Thresholds::default());
    ensure!(shapes(&findings_now) == shapes(&before), "with names replaced, other things are found");
    let named = trim::pids(&value);
    let expected: Vec<_> = expected.into_iter().map(|expected| of_window(expected, &named)).collect();
    let roots: Vec<_> = findings_now.iter().map(|finding| Diagnosis::of(finding, &redacted)).collect();
    let verdict = assess(&expected, &roots).verdict;
    ensure!(verdict == Verdict::Right, "judged again, it is {verdict:?}");
    let record =
        Record { about: case.about.to_owned(), expected, found: findings_now.iter().map(Outline::of).collect() };
    std::fs::write(dir.join(corpus::window_file(case.name)), layout::lines(&value))?;
    std::fs::write(dir.join(corpus::record_file(case.name)), serde_json::to_string_pretty(&record)? + "\n")?;
    Ok(())
}

/// The window that was made of a saved one.
fn read(value: &Value) -> Result<Window> {
    // By way of text, as it will be read.
    serde_json::from_str(&value.to_string()).context("no window any more")
}

/// Those whom a case is about: its own processes, and whomever findings name.
pub(super) struct Ours {
    /// Processes that were started for it, and the doctor.
    started: BTreeSet<u32>,
    /// Names of these.
    comms: BTreeSet<String>,
    /// Tasks of the kernel's own.
    kernel: BTreeSet<u32>,
    /// Processes that a finding names.
    found: BTreeSet<u32>,
    /// Other names that a finding has: of cgroups, mount points, devices, addresses, calls.
    names: BTreeSet<String>,
}

impl Ours {
    fn new(window: &Value, findings: &[Finding], started: impl Iterator<Item = u32>) -> Self {
        let number =
            |process: &Value, key: &str| process.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let processes: BTreeMap<u32, &Value> = window
            .get("processes")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(_, process)| Some((number(process, "pid")?, process)))
            .collect();
        let is_kernel = |process: &Value| process.get("kernel_thread").and_then(Value::as_bool) == Some(true);
        let kernel = processes.iter().filter(|(_, process)| is_kernel(process)).map(|(pid, _)| *pid).collect();
        let mut started: BTreeSet<u32> = started.collect();
        // Those that came and went between two looks have a parent that was seen.
        loop {
            let parent =
                |process: &Value| number(process, "parent_pid").is_some_and(|parent| started.contains(&parent));
            let more: Vec<u32> = processes
                .iter()
                .filter(|(pid, process)| !started.contains(*pid) && parent(process))
                .map(|(pid, _)| *pid)
                .collect();
            if more.is_empty() {
                break;
            }
            started.extend(more);
        }
        let mut comms = BTreeSet::new();
        trim::comms(window, &started, &mut comms);
        let mut found = BTreeSet::new();
        let mut names = BTreeSet::new();
        findings.iter().for_each(|finding| note(finding, &mut found, &mut names));
        Self { started, comms: comms.into_iter().take(MAX_NAMES).collect(), kernel, found, names }
    }

    /// Whether it was started for the case, or is the kernel's.
    pub(super) fn is_own(&self, pid: u32) -> bool {
        pid == 0 || self.started.contains(&pid) || self.kernel.contains(&pid)
    }

    /// The same, or a finding names it.
    pub(super) fn matters(&self, pid: u32) -> bool {
        self.is_own(pid) || self.found.contains(&pid)
    }

    /// Whether a finding has it, or it is of the lab's making.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.names.contains(name) || name.contains(super::scene::PREFIX)
    }
}

/// Notes whom and what a finding names.
fn note(finding: &Finding, pids: &mut BTreeSet<u32>, names: &mut BTreeSet<String>) {
    for subject in std::iter::once(&finding.subject).chain(&finding.victims) {
        pids.extend(subject.pid());
        names.extend(subject.cgroup.clone());
        names.extend(subject.mount.clone());
        names.extend(subject.device.iter().flat_map(|device| [device.dev.clone(), device.name.clone()]));
        names.extend([subject.remote, subject.local].into_iter().flatten().map(|address| address.ip.to_string()));
    }
    for fix in &finding.fixes {
        match &fix.acts_on {
            Entity::Process(id) | Entity::Thread { process: id, .. } => drop(pids.insert(id.pid)),
            Entity::Cgroup(name) | Entity::Mount(name) => drop(names.insert(name.clone())),
            _ => {}
        }
    }
    names.extend(finding.calls().map(str::to_owned));
    finding.consequences.iter().for_each(|consequence| note(consequence, pids, names));
}

/// The window with as much left out as can be without another judgement.
fn smallest(saved: &Value, ours: &Ours, findings: &[Finding]) -> Result<(Value, Window)> {
    let wanted: Vec<_> = findings.iter().map(Outline::of).collect();
    let same = |value: &Value| -> Result<Option<Window>> {
        let window = read(value)?;
        let found = judge(&window, &Thresholds::default());
        Ok((found.iter().map(Outline::of).collect::<Vec<_>>() == wanted).then_some(window))
    };
    let mut value = saved.clone();
    let mut window = read(saved)?;
    for step in trim::STEPS {
        if step.only_if_too_large && layout::lines(&value).len() <= MAX_BYTES - MARGIN {
            continue;
        }
        let mut less = value.clone();
        (step.cut)(&mut less, ours);
        if let Some(same) = same(&less)? {
            (value, window) = (less, same);
        } else {
            eprintln!("lab: cannot leave out {}: something else would be found", step.what);
        }
    }
    let bytes = layout::lines(&value).len();
    if bytes > MAX_BYTES - MARGIN {
        bail!(
            "the window takes {bytes} bytes, of which {MAX_BYTES} may be; leave out more in tools/lab/src/record/trim.rs"
        );
    }
    Ok((value, window))
}

/// Names that are put in the place of others may be longer.
const MARGIN: usize = 1 << 10;

/// Of the processes that are right, those that the window has.
fn of_window(expected: Expected, named: &BTreeSet<u32>) -> Expected {
    Expected { marks: expected.marks.into_iter().map(|one| mark(one, named)).collect(), ..expected }
}

fn mark(mark: Mark, named: &BTreeSet<u32>) -> Mark {
    let kept = |pids: BTreeSet<u32>| pids.intersection(named).copied().collect();
    match mark {
        Mark::Process(pids) => Mark::Process(kept(pids)),
        Mark::Victim(pids) => Mark::Victim(kept(pids)),
        Mark::Any(marks) => Mark::Any(marks.into_iter().map(|one| self::mark(one, named)).collect()),
        other => other,
    }
}

/// What findings are, without names.
#[derive(PartialEq)]
struct Shape {
    rule: String,
    variant: String,
    severity: Severity,
    through: Option<Effect>,
    pid: Option<u32>,
    victims: Vec<Option<u32>>,
    fixes: usize,
    consequences: Vec<Shape>,
}

fn shapes(findings: &[Finding]) -> Vec<Shape> {
    let shape = |finding: &Finding| Shape {
        rule: finding.rule.to_string(),
        variant: finding.variant.to_string(),
        severity: finding.severity,
        through: finding.through,
        pid: finding.pid(),
        victims: finding.victims.iter().map(kerno::model::Subject::pid).collect(),
        fixes: finding.fixes.len(),
        consequences: shapes(&finding.consequences),
    };
    findings.iter().map(shape).collect()
}
