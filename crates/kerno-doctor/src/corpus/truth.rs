//! What is known to be wrong, and whether findings say so.

use std::collections::BTreeSet;

use kerno_model::Severity;
use serde::{Deserialize, Serialize};

use crate::report::Diagnosis;

/// A root cause to be found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// The id of its rule; where there are more, any of them is right.
    pub rules: Vec<String>,
    /// All of these must hold for the culprit to be right.
    pub marks: Vec<Mark>,
}

/// By what a finding is known to be about the right one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// One of these processes.
    Process(BTreeSet<u32>),
    /// A victim is one of these processes.
    Victim(BTreeSet<u32>),
    /// A cgroup, by the end of its path.
    Cgroup(String),
    /// A device, by the end of its name.
    Device(String),
    /// A mount point.
    Mount(String),
    /// A network interface.
    Interface(String),
    /// The other end: an address, with or without a port.
    Remote(String),
    /// Our end, likewise, or by its end.
    Local(String),
    /// This is in the title or the cause.
    Says(String),
    /// It has an ETA of about so many seconds.
    EtaSeconds(f64),
    /// Any of these.
    Any(Vec<Mark>),
}

impl Mark {
    /// Whether it fits.
    pub fn fits(&self, finding: &Diagnosis) -> bool {
        let culprit = &finding.culprit;
        let address = |given: &Option<String>, wanted: &str| {
            let rest = given.as_deref().unwrap_or_default().strip_prefix(wanted);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let ends = |given: &Option<String>, end: &str| given.as_deref().is_some_and(|given| given.ends_with(end));
        match self {
            Self::Process(pids) => culprit.pid.is_some_and(|pid| pids.contains(&pid)),
            Self::Victim(pids) => finding.victims.iter().filter_map(|victim| victim.pid).any(|pid| pids.contains(&pid)),
            Self::Cgroup(end) => ends(&culprit.cgroup, end),
            Self::Device(end) => ends(&culprit.device, end),
            Self::Mount(path) => culprit.mount.as_ref() == Some(path),
            Self::Interface(name) => culprit.interface.as_ref() == Some(name),
            Self::Remote(wanted) => address(&culprit.remote, wanted),
            Self::Local(wanted) => address(&culprit.local, wanted) || ends(&culprit.local, wanted),
            Self::Says(words) => format!("{} {}", finding.title, finding.cause).to_lowercase().contains(words.as_str()),
            Self::EtaSeconds(truth) => {
                let truth = truth.max(0.1);
                finding.eta.as_ref().is_some_and(|eta| (truth / 2.0 - 1.0..=truth * 2.0 + 1.0).contains(&eta.seconds))
            }
            Self::Any(marks) => marks.iter().any(|mark| mark.fits(finding)),
        }
    }
}

impl Expected {
    /// Whether the rule is right.
    fn is_kind(&self, finding: &Diagnosis) -> bool {
        self.rules.contains(&finding.id)
    }

    /// Where it is among root causes.
    fn look_for(&self, roots: &[Diagnosis]) -> Look {
        let fits = |finding: &Diagnosis| self.marks.iter().all(|mark| mark.fits(finding));
        let mut of_this_kind = roots.iter().enumerate().filter(|(_, finding)| self.is_kind(finding));
        if let Some((at, _)) = of_this_kind.clone().find(|(_, finding)| fits(finding)) {
            return Look::Right(at);
        }
        if let Some((at, _)) = of_this_kind.next() {
            return Look::WrongCulprit(at);
        }
        let below = roots.iter().position(|root| whole(root).into_iter().any(|finding| self.is_kind(finding)));
        below.map_or(Look::Missed, Look::OnlyBelow)
    }
}

/// Where an expected root cause was found: its place among the root causes, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// With the right culprit.
    Right(usize),
    /// Somebody else is blamed.
    WrongCulprit(usize),
    /// Only as a consequence of that one.
    OnlyBelow(usize),
    /// Nowhere.
    Missed,
}

/// How good a judgement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Found, with the right culprit, as the first; or a healthy load that was left in peace.
    Right,
    /// Found, as the first, and something else beside that is not there.
    FalseAlarm,
    /// Found, but not before others.
    NotFirst,
    /// Found, and somebody else blamed.
    WrongCulprit,
    /// Not found.
    Missed,
}

/// What became of each expected root cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assessment {
    /// All in all.
    pub verdict: Verdict,
    /// Of each that was to be found, in their order.
    pub looks: Vec<Look>,
    /// The place of the last of them among the root causes, from 1.
    pub rank: Option<usize>,
    /// The places, from 0, of root causes of warning or more that are not there.
    pub false_roots: Vec<usize>,
}

impl Assessment {
    /// How many of those to be found were, as root causes and with the right culprit.
    pub fn right(&self) -> usize {
        self.looks.iter().filter(|look| matches!(look, Look::Right(_))).count()
    }
}

/// Compares root causes, first to last, with those that are there.
pub fn assess(expected: &[Expected], roots: &[Diagnosis]) -> Assessment {
    let looks: Vec<_> = expected.iter().map(|expected| expected.look_for(roots)).collect();
    let place = |look: &Look| match look {
        Look::Right(at) | Look::WrongCulprit(at) => Some(*at),
        Look::OnlyBelow(_) | Look::Missed => None,
    };
    let places: Vec<usize> = looks.iter().filter_map(place).collect();
    let rank = places.iter().max().map(|at| at + 1);
    let is_false = |(at, root): &(usize, &Diagnosis)| alarms(root) && !places.contains(at);
    let false_roots: Vec<_> = roots.iter().enumerate().filter(is_false).map(|(at, _)| at).collect();
    // Of two faults, either may be the first.
    let is_first = rank.is_some_and(|rank| {
        let quiet = roots.iter().take(rank).filter(|root| !alarms(root)).count();
        rank <= expected.len() + quiet
    });
    let verdict = if places.len() < looks.len() {
        Verdict::Missed
    } else if looks.iter().any(|look| matches!(look, Look::WrongCulprit(_))) {
        Verdict::WrongCulprit
    } else if !looks.is_empty() && !is_first {
        Verdict::NotFirst
    } else if false_roots.is_empty() {
        Verdict::Right
    } else {
        Verdict::FalseAlarm
    };
    Assessment { verdict, looks, rank, false_roots }
}

/// Whether it is more than something worth knowing.
pub fn alarms(finding: &Diagnosis) -> bool {
    finding.severity > Severity::Info
}

/// A root cause and those under it.
pub fn whole(finding: &Diagnosis) -> Vec<&Diagnosis> {
    std::iter::once(finding).chain(finding.consequences.iter().flat_map(whole)).collect()
}
