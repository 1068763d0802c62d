//! Comparing what was found with what was to be found.

use kerno_doctor::corpus::{self, Expected, Look, assess, whole};
use serde::Serialize;

use super::report::{Diagnosis, blamed};

/// What became of one fault or load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
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
    /// It did not take place: nothing can be said of the doctor.
    NotInjected,
    /// The doctor failed, or the lab did.
    Failed,
}

impl Verdict {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Right => "ok",
            Self::FalseAlarm => "FALSE ALARM",
            Self::NotFirst => "NOT FIRST",
            Self::WrongCulprit => "WRONG CULPRIT",
            Self::Missed => "MISSED",
            Self::NotInjected => "NOT INJECTED",
            Self::Failed => "FAILED",
        }
    }
}

/// A line of the scorecard.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Score {
    pub(super) name: String,
    pub(super) healthy: bool,
    pub(super) verdict: Verdict,
    /// Ids that were to be found.
    pub(super) expected: Vec<String>,
    /// The ids that were found of them, anywhere in the report.
    pub(super) found: Vec<String>,
    /// How many of those to be found were, as root causes and with the right culprit.
    pub(super) right: usize,
    /// The place of the last of them among the root causes, from 1.
    pub(super) rank: Option<usize>,
    /// Root causes of warning or more that are not there.
    pub(super) false_positives: Vec<String>,
    pub(super) seconds: f64,
    /// What else is to be said: what proved it, whom it blamed.
    pub(super) notes: Vec<String>,
}

impl Score {
    /// One that did not get as far as a report.
    pub(super) fn without_report(name: &str, healthy: bool, verdict: Verdict, note: String, seconds: f64) -> Self {
        let (expected, found, false_positives) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            name: name.to_owned(),
            healthy,
            verdict,
            expected,
            found,
            right: 0,
            rank: None,
            false_positives,
            seconds,
            notes: vec![note],
        }
    }
}

impl From<corpus::Verdict> for Verdict {
    fn from(verdict: corpus::Verdict) -> Self {
        match verdict {
            corpus::Verdict::Right => Self::Right,
            corpus::Verdict::FalseAlarm => Self::FalseAlarm,
            corpus::Verdict::NotFirst => Self::NotFirst,
            corpus::Verdict::WrongCulprit => Self::WrongCulprit,
            corpus::Verdict::Missed => Self::Missed,
        }
    }
}

/// Judges the judge.
pub(super) fn score(name: &str, expected: &[Expected], roots: &[Diagnosis], seconds: f64) -> Score {
    let assessment = assess(expected, roots);
    let root = |at: &usize| roots.get(*at);
    let mut notes = Vec::new();
    for (expected, look) in expected.iter().zip(&assessment.looks) {
        notes.extend(match look {
            Look::WrongCulprit(at) => {
                root(at).map(|finding| format!("{} blames {}: {}", finding.id, blamed(&finding.culprit), finding.title))
            }
            Look::OnlyBelow(at) => root(at).map(|finding| {
                format!("{} is shown only under {}: {}", expected.rules.join("/"), finding.id, finding.title)
            }),
            Look::Right(_) | Look::Missed => None,
        });
    }
    let false_roots: Vec<_> = assessment.false_roots.iter().filter_map(root).collect();
    notes.extend(
        false_roots.iter().map(|finding| format!("also {} {}: {}", finding.severity, finding.id, finding.title)),
    );
    let everything: Vec<_> = roots.iter().flat_map(whole).collect();
    let all_ids = expected.iter().flat_map(|expected| &expected.rules);
    let found = all_ids.filter(|id| everything.iter().any(|finding| finding.id == **id));
    Score {
        name: name.to_owned(),
        healthy: expected.is_empty(),
        verdict: assessment.verdict.into(),
        expected: expected.iter().map(|expected| expected.rules.join("/")).collect(),
        found: found.cloned().collect(),
        right: assessment.right(),
        rank: assessment.rank,
        false_positives: false_roots.iter().map(|finding| finding.id.clone()).collect(),
        seconds,
        notes,
    }
}

/// One line of the table.
pub(super) fn line(score: &Score) -> String {
    let rank = score.rank.map_or("-".to_owned(), |rank| rank.to_string());
    let or_dash = |list: &[String]| if list.is_empty() { "-".to_owned() } else { list.join(",") };
    let expected = if score.healthy { "nothing".to_owned() } else { or_dash(&score.expected) };
    let right = if score.healthy { "-".to_owned() } else { format!("{}/{}", score.right, score.expected.len()) };
    format!(
        "{:<26} {:<44} {:<28} {right:>5} {rank:>4} {:>6.1}s  {:<24} {}",
        score.name,
        expected,
        or_dash(&score.found),
        score.seconds,
        or_dash(&score.false_positives),
        score.verdict.name(),
    )
}

/// The table's head.
pub(super) fn head() -> String {
    format!(
        "{:<26} {:<44} {:<28} {:>5} {:>4} {:>7}  {:<24} verdict",
        "fault", "expected", "found", "right", "rank", "took", "false positives"
    )
}

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Share {
    pub(super) of: usize,
    pub(super) right: usize,
    /// 1 of none.
    pub(super) share: f64,
    /// The 95 % confidence interval of the share (Wilson, 1927): what so few cases tell of all others like them.
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Share {
    fn new(right: usize, of: usize) -> Self {
        const Z: f64 = 1.96;
        if of == 0 {
            return Self { of, right, share: 1.0, low: 0.0, high: 1.0 };
        }
        let (n, share) = (of as f64, right as f64 / of as f64);
        let centre = share + Z * Z / (2.0 * n);
        let margin = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        let whole = 1.0 + Z * Z / n;
        Self { of, right, share, low: ((centre - margin) / whole).max(0.0), high: ((centre + margin) / whole).min(1.0) }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} ({}/{}, {:.2} to {:.2})", self.share, self.right, self.of, self.low, self.high)
    }
}

/// The sum of it all.
#[derive(Serialize)]
pub(super) struct Total {
    /// Of the root causes reported, those that were there.
    pub(super) precision: Share,
    /// Of the root causes that were there, those that were reported with the right culprit.
    pub(super) recall: Share,
    /// Of the root causes that were there and reported, those with the right culprit.
    pub(super) culprit: Share,
    /// Faults whose root cause came first with the right culprit, and nothing false beside it.
    pub(super) faults: Share,
    /// Loads that were left in peace.
    pub(super) healthy: Share,
    pub(super) not_injected: usize,
}

/// Adds up.
pub(super) fn total(scores: &[Score]) -> Total {
    let counts = |healthy: bool| {
        let of_kind: Vec<_> = scores.iter().filter(|score| score.healthy == healthy).collect();
        Share::new(of_kind.iter().filter(|score| score.verdict == Verdict::Right).count(), of_kind.len())
    };
    let judged = || scores.iter().filter(|score| !matches!(score.verdict, Verdict::NotInjected | Verdict::Failed));
    let right: usize = judged().map(|score| score.right).sum();
    let false_positives: usize = judged().map(|score| score.false_positives.len()).sum();
    let wrong = judged().filter(|score| score.verdict == Verdict::WrongCulprit).count();
    let there: usize = judged().map(|score| score.expected.len()).sum();
    Total {
        precision: Share::new(right, right + false_positives + wrong),
        recall: Share::new(right, there),
        culprit: Share::new(right, right + wrong),
        faults: counts(false),
        healthy: counts(true),
        not_injected: scores.len() - judged().count(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::case::{Expected as Wanted, Mark, Staged};
    use super::super::report::Culprit;
    use super::super::scene::Families;
    use super::*;
    use kerno::model::{Severity, fill};

    fn found(id: &'static str, severity: Severity, culprit: Culprit) -> Diagnosis {
        let found = kerno::model::Finding::new(kerno::model::RuleId::new(id), severity);
        let mut finding = Diagnosis::of(&found, &kerno::model::Window::default());
        finding.culprit = culprit;
        finding
    }

    fn leak(pid: u32) -> Diagnosis {
        found("fd_leak", Severity::Warning, fill!(Culprit { pid: Some(pid) }))
    }

    fn other(severity: Severity) -> Diagnosis {
        found("disk_full", severity, Culprit::default())
    }

    fn judged(staged: &Staged, findings: impl IntoIterator<Item = Diagnosis>) -> Score {
        let truth = staged.truth(&Families::from([(7, [7, 8].into())]));
        score("test", &truth, &findings.into_iter().collect::<Vec<_>>(), 1.0)
    }

    fn a_leak() -> Staged {
        Staged::fault(&["fd_leak"], [Mark::Process(7)])
    }

    #[test]
    fn a_finding_of_the_process_or_of_one_that_it_started_is_right() {
        for pid in [7, 8] {
            let score = judged(&a_leak(), [leak(pid), other(Severity::Info)]);
            assert_eq!((score.verdict, score.rank, score.right), (Verdict::Right, Some(1), 1));
        }
        assert_eq!(judged(&a_leak(), [other(Severity::Info), leak(7)]).verdict, Verdict::Right);
    }

    #[test]
    fn each_way_to_be_wrong_has_its_name() {
        let verdict = |findings: &[Diagnosis]| judged(&a_leak(), findings.iter().cloned()).verdict;
        assert_eq!(verdict(&[]), Verdict::Missed);
        assert_eq!(verdict(&[leak(9)]), Verdict::WrongCulprit);
        assert_eq!(verdict(&[other(Severity::Critical), leak(7)]), Verdict::NotFirst);
        assert_eq!(verdict(&[leak(7), other(Severity::Warning)]), Verdict::FalseAlarm);
        let mut below = other(Severity::Critical);
        below.consequences = vec![leak(7)];
        assert_eq!(verdict(&[below]), Verdict::Missed);
    }

    #[test]
    fn of_two_faults_either_may_be_the_first() {
        let mut both = a_leak();
        both.expected.push(Wanted::new(&["disk_full"], []));
        for findings in [[leak(7), other(Severity::Warning)], [other(Severity::Critical), leak(7)]] {
            assert_eq!(judged(&both, findings).verdict, Verdict::Right);
        }
        assert_eq!(judged(&both, [leak(7)]).verdict, Verdict::Missed);
    }

    #[test]
    fn a_healthy_load_must_raise_no_alarm() {
        assert_eq!(judged(&Staged::healthy(), [other(Severity::Info)]).verdict, Verdict::Right);
        assert_eq!(judged(&Staged::healthy(), [other(Severity::Warning)]).verdict, Verdict::FalseAlarm);
    }

    #[test]
    fn few_cases_tell_little() {
        // From tables of the Wilson interval.
        let all = Share::new(10, 10);
        assert!((all.low - 0.722).abs() < 0.001 && (all.high - 1.0).abs() < 1e-9, "{all}");
        let most = Share::new(81, 263);
        assert!((most.low - 0.255).abs() < 0.001 && (most.high - 0.366).abs() < 0.001, "{most}");
        assert_eq!((Share::new(0, 0).low, Share::new(0, 0).high), (0.0, 1.0));
    }

    #[test]
    fn precision_and_recall_count_root_causes() {
        let scores = [
            judged(&a_leak(), [leak(7)]),
            judged(&a_leak(), []),
            judged(&Staged::healthy(), [other(Severity::Warning)]),
            Score::without_report("never", false, Verdict::NotInjected, String::new(), 0.0),
        ];
        let total = total(&scores);
        assert_eq!((total.precision.share, total.recall.share, total.not_injected), (0.5, 0.5, 1));
        let right_of = |share: Share| (share.right, share.of);
        assert_eq!((right_of(total.faults), right_of(total.healthy)), ((1, 3), (0, 1)));
    }

    #[test]
    fn an_address_is_not_the_beginning_of_another() {
        let is = |remote: &str, wanted: &str| {
            let culprit = fill!(Culprit { remote: Some(remote.to_owned()) });
            let staged = Staged::fault(&["x"], [Mark::Remote(wanted.to_owned())]);
            judged(&staged, [found("x", Severity::Warning, culprit)]).verdict == Verdict::Right
        };
        assert!(is("10.0.0.1", "10.0.0.1") && is("10.0.0.1:80", "10.0.0.1"));
        assert!(!is("10.0.0.12", "10.0.0.1") && !is("10.0.0.1", "10.0.0.1:80"));
    }
}
