//! Comparing what was found with what was to be found.

use serde::Serialize;

use super::case::{Expected, Staged};
use super::report::{Families, Diagnosis, alarms, blamed};

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

/// A root cause and those under it.
fn whole(finding: &Diagnosis) -> Vec<&Diagnosis> {
    std::iter::once(finding).chain(finding.consequences.iter().flat_map(whole)).collect()
}

/// Where an expected root cause is among `roots`, and whether its culprit is right.
fn look_for(
    expected: &Expected,
    roots: &[Diagnosis],
    families: &Families,
    notes: &mut Vec<String>,
) -> Option<(usize, bool)> {
    let is_of =
        |session: u32, pid: u32| session == pid || families.get(&session).is_some_and(|seen| seen.contains(&pid));
    let fits = |finding: &Diagnosis| expected.marks.iter().all(|mark| mark.fits(finding, &is_of));
    let mut of_this_kind = roots.iter().enumerate().filter(|(_, finding)| expected.ids.contains(&finding.id.as_str()));
    if let Some((at, _)) = of_this_kind.clone().find(|(_, finding)| fits(finding)) {
        return Some((at, true));
    }
    if let Some((at, finding)) = of_this_kind.next() {
        notes.push(format!("{} blames {}: {}", finding.id, blamed(&finding.culprit), finding.title));
        return Some((at, false));
    }
    let below =
        roots.iter().find(|root| whole(root).iter().any(|finding| expected.ids.contains(&finding.id.as_str())))?;
    notes.push(format!("{} is shown only under {}: {}", expected.ids.join("/"), below.id, below.title));
    None
}

/// Judges the judge.
pub(super) fn score(name: &str, staged: &Staged, roots: &[Diagnosis], families: &Families, seconds: f64) -> Score {
    let mut notes = Vec::new();
    let looked: Vec<_> =
        staged.expected.iter().map(|expected| look_for(expected, roots, families, &mut notes)).collect();
    let right = looked.iter().filter(|found| matches!(found, Some((_, true)))).count();
    let places: Vec<usize> = looked.iter().flatten().map(|(at, _)| *at).collect();
    let rank = places.iter().max().map(|at| at + 1);
    let all_ids: Vec<_> = staged.expected.iter().flat_map(|expected| expected.ids).copied().collect();
    let is_false = |(at, finding): &(usize, &Diagnosis)| alarms(finding) && !places.contains(at);
    let false_roots: Vec<_> = roots.iter().enumerate().filter(is_false).collect();
    // Of two faults, either may be the first.
    let is_first =
        rank.is_some_and(|rank| rank <= staged.expected.len() + roots.iter().take(rank).filter(|f| !alarms(f)).count());
    let verdict = if looked.iter().any(Option::is_none) {
        Verdict::Missed
    } else if right < looked.len() {
        Verdict::WrongCulprit
    } else if !looked.is_empty() && !is_first {
        Verdict::NotFirst
    } else if false_roots.is_empty() {
        Verdict::Right
    } else {
        Verdict::FalseAlarm
    };
    notes.extend(
        false_roots.iter().map(|(_, finding)| format!("also {} {}: {}", finding.severity, finding.id, finding.title)),
    );
    let everything: Vec<_> = roots.iter().flat_map(whole).collect();
    let found = all_ids.iter().filter(|id| everything.iter().any(|finding| finding.id == **id));
    Score {
        name: name.to_owned(),
        healthy: staged.expected.is_empty(),
        verdict,
        expected: staged.expected.iter().map(|expected| expected.ids.join("/")).collect(),
        found: found.map(|id| (*id).to_owned()).collect(),
        right,
        rank,
        false_positives: false_roots.iter().map(|(_, finding)| finding.id.clone()).collect(),
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

/// The sum of it all.
#[derive(Serialize)]
pub(super) struct Total {
    /// Of the root causes reported, the share that was there.
    pub(super) precision: f64,
    /// Of the root causes that were there, the share that was reported with the right culprit.
    pub(super) recall: f64,
    pub(super) faults: usize,
    pub(super) faults_right: usize,
    pub(super) healthy: usize,
    pub(super) healthy_right: usize,
    pub(super) not_injected: usize,
}

/// Adds up.
pub(super) fn total(scores: &[Score]) -> Total {
    let counts = |healthy: bool| {
        let of_kind: Vec<_> = scores.iter().filter(|score| score.healthy == healthy).collect();
        (of_kind.len(), of_kind.iter().filter(|score| score.verdict == Verdict::Right).count())
    };
    let judged = || scores.iter().filter(|score| !matches!(score.verdict, Verdict::NotInjected | Verdict::Failed));
    let right: usize = judged().map(|score| score.right).sum();
    let false_positives: usize = judged().map(|score| score.false_positives.len()).sum();
    let wrong = judged().filter(|score| score.verdict == Verdict::WrongCulprit).count();
    let there: usize = judged().map(|score| score.expected.len()).sum();
    let share = |part: usize, whole: usize| if whole == 0 { 1.0 } else { part as f64 / whole as f64 };
    let ((faults, faults_right), (healthy, healthy_right)) = (counts(false), counts(true));
    Total {
        precision: share(right, right + false_positives + wrong),
        recall: share(right, there),
        faults,
        faults_right,
        healthy,
        healthy_right,
        not_injected: scores.len() - judged().count(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::case::Mark;
    use super::super::report::{Culprit, Severity};
    use super::*;

    fn found(id: &'static str, severity: Severity, culprit: Culprit) -> Diagnosis {
        let found = kerno::model::Finding::new(kerno::model::RuleId::new(id), severity);
        let mut finding = Diagnosis::of(&found, &kerno::model::Window::default());
        finding.culprit = culprit;
        finding
    }

    fn leak(pid: u32) -> Diagnosis {
        found("fd_leak", Severity::Warning, Culprit { pid: Some(pid), ..Culprit::default() })
    }

    fn other(severity: Severity) -> Diagnosis {
        found("disk_full", severity, Culprit::default())
    }

    fn judged(staged: &Staged, findings: impl IntoIterator<Item = Diagnosis>) -> Score {
        let families = Families::from([(7, [7, 8].into())]);
        score("test", staged, &findings.into_iter().collect::<Vec<_>>(), &families, 1.0)
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
        both.expected.push(Expected::new(&["disk_full"], []));
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
    fn precision_and_recall_count_root_causes() {
        let scores = [
            judged(&a_leak(), [leak(7)]),
            judged(&a_leak(), []),
            judged(&Staged::healthy(), [other(Severity::Warning)]),
            Score::without_report("never", false, Verdict::NotInjected, String::new(), 0.0),
        ];
        let total = total(&scores);
        assert_eq!((total.precision, total.recall, total.not_injected), (0.5, 0.5, 1));
        assert_eq!((total.faults, total.faults_right, total.healthy, total.healthy_right), (3, 1, 1, 0));
    }

    #[test]
    fn an_address_is_not_the_beginning_of_another() {
        let is = |remote: &str, wanted: &str| {
            let culprit = Culprit { remote: Some(remote.to_owned()), ..Culprit::default() };
            let staged = Staged::fault(&["x"], [Mark::Remote(wanted.to_owned())]);
            judged(&staged, [found("x", Severity::Warning, culprit)]).verdict == Verdict::Right
        };
        assert!(is("10.0.0.1", "10.0.0.1") && is("10.0.0.1:80", "10.0.0.1"));
        assert!(!is("10.0.0.12", "10.0.0.1") && !is("10.0.0.1", "10.0.0.1:80"));
    }
}
