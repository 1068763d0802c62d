use serde::{Deserialize, Serialize};

use super::Report;
use super::{Culprit, Diagnosis};

/// A finding in two reports that follow each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Change {
    /// Which way it went.
    pub course: Course,
    /// The finding as it is now; as it was, when it is resolved.
    pub finding: Diagnosis,
    /// As it was before; `None` when it is new.
    pub before: Option<Diagnosis>,
}

/// Which way a finding went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Course {
    /// It was not there before.
    New,
    /// More severe, or clearly further past its threshold.
    Worse,
    /// Less severe, or clearly nearer to its threshold.
    Better,
    /// About as it was.
    Unchanged,
    /// It is no longer there.
    Resolved,
}

impl Course {
    /// Its name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Worse => "worse",
            Self::Better => "better",
            Self::Unchanged => "unchanged",
            Self::Resolved => "resolved",
        }
    }
}

/// How many times as far past its threshold a finding must be to be worse, or the other way round better: less is noise.
const CLEARLY: f64 = 1.5;

/// What became of each finding from one report to the next, consequences too: in the order of the later report, then those that are
/// resolved. A finding is the same when rule and culprit are.
pub fn compare(before: &Report, now: &Report) -> Vec<Change> {
    let mut gone = flat(&before.findings);
    let mut changes = Vec::new();
    for finding in flat(&now.findings) {
        let same = gone.iter().position(|earlier| identity(earlier) == identity(finding));
        let earlier = same.map(|index| gone.remove(index));
        let course = earlier.map_or(Course::New, |earlier| course(earlier, finding));
        changes.push(Change { course, finding: finding.clone(), before: earlier.cloned() });
    }
    let resolved = |earlier: &Diagnosis| Change {
        course: Course::Resolved,
        finding: earlier.clone(),
        before: Some(earlier.clone()),
    };
    changes.extend(gone.into_iter().map(resolved));
    changes
}

fn course(before: &Diagnosis, now: &Diagnosis) -> Course {
    match now.severity.cmp(&before.severity) {
        std::cmp::Ordering::Greater => Course::Worse,
        std::cmp::Ordering::Less => Course::Better,
        std::cmp::Ordering::Equal if now.excess > before.excess * CLEARLY => Course::Worse,
        std::cmp::Ordering::Equal if before.excess > now.excess * CLEARLY => Course::Better,
        std::cmp::Ordering::Equal => Course::Unchanged,
    }
}

/// What makes two findings the same one. Words and numbers change from window to window; who it is does not.
fn identity(finding: &Diagnosis) -> (&str, Who<'_>) {
    let culprit: &Culprit = &finding.culprit;
    let who = (culprit.pid, &culprit.cgroup, &culprit.device, &culprit.mount, &culprit.remote, &culprit.local);
    (&finding.id, who)
}

type Who<'a> =
    (Option<u32>, &'a Option<String>, &'a Option<String>, &'a Option<String>, &'a Option<String>, &'a Option<String>);

fn flat(findings: &[Diagnosis]) -> Vec<&Diagnosis> {
    findings.iter().flat_map(|finding| [vec![finding], flat(&finding.consequences)]).flatten().collect()
}
