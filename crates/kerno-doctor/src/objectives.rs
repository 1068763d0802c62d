//! Objectives over windows: the state of those who follow them.

use std::time::Duration;

use kerno_model::{BurnRate, Finding, ObjectiveStatus, Verdict, Window, catalogue, fill};
use serde::{Deserialize, Serialize};

use crate::Thresholds;
use crate::objective::{Budget, Objective, TOLD};
use crate::rules::objectives::{ObjectiveBurn, finding};

/// An objective with what is known of it.
#[derive(Clone, Debug)]
struct Tracked {
    objective: Objective,
    budget: Budget,
    latest: Option<(Verdict, Option<f64>)>,
}

/// What is kept of objectives over a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kept(Vec<KeptObjective>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptObjective {
    name: String,
    /// What was judged. If that is another by now, what was counted says nothing about it.
    judged: String,
    budget: Budget,
}

/// Objectives over windows: their budgets, and what is to be told of them.
#[derive(Clone, Debug, Default)]
pub struct Objectives {
    tracked: Vec<Tracked>,
}

impl Objectives {
    /// These, with what was kept of them.
    pub fn new(objectives: Vec<Objective>, kept: Kept) -> Self {
        let tracked = objectives.into_iter().map(|objective| {
            let judged = objective.judged();
            let is_it = |kept: &&KeptObjective| kept.name == objective.name && kept.judged == judged;
            let kept = kept.0.iter().find(is_it);
            let budget = kept.map_or_else(|| Budget::new(objective.over), |kept| kept.budget.over(objective.over));
            Tracked { objective, budget, latest: None }
        });
        Self { tracked: tracked.collect() }
    }

    /// Takes other ones in their place. Those that judge what they judged keep what they know, with another share or period too.
    pub fn replace(&mut self, objectives: Vec<Objective>) {
        let mut new = Self::new(objectives, self.kept());
        for tracked in &mut new.tracked {
            let same = |old: &&Tracked| {
                old.objective.name == tracked.objective.name && old.objective.judged() == tracked.objective.judged()
            };
            tracked.latest = self.tracked.iter().find(same).and_then(|old| old.latest);
        }
        *self = new;
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tracked.is_empty()
    }

    /// Judges a window: findings of those whose budget is used too fast. Windows must come in their order; one that came before is not
    /// counted again.
    pub fn judge(&mut self, window: &Window, thresholds: &Thresholds) -> Vec<Finding> {
        if self.tracked.is_empty() {
            return Vec::new();
        }
        self.take(window, thresholds, |_| true)
    }

    /// Counts a window that was kept by whoever watched before a restart, if it came after what was kept of an objective.
    pub fn catch_up(&mut self, window: &Window, thresholds: &Thresholds) {
        let end = window.span.end();
        if self.tracked.iter().any(|tracked| tracked.budget.is_before(end)) {
            self.take(window, thresholds, |budget| budget.is_before(end));
        }
    }

    fn take(&mut self, window: &Window, thresholds: &Thresholds, is_wanted: impl Fn(&Budget) -> bool) -> Vec<Finding> {
        let rule = ObjectiveBurn::with(thresholds);
        let samples = catalogue::samples_by_name(window);
        let mut findings = Vec::new();
        let wanted = self.tracked.iter_mut().filter(|tracked| is_wanted(&tracked.budget));
        for Tracked { objective, budget, latest } in wanted {
            let (verdict, value) = objective.judge(window, &samples);
            if budget.add(&window.host.boot_id, window.span.end(), window.span.seconds, verdict) {
                *latest = Some((verdict, value));
                budget.judge(objective.share, rule.fast, rule.slow);
            }
            findings.extend(finding(objective, budget, value, window, &rule));
        }
        findings
    }

    /// How they are doing.
    pub fn status(&self) -> Vec<ObjectiveStatus> {
        self.tracked.iter().map(status).collect()
    }

    /// What is to be kept over a restart.
    pub fn kept(&self) -> Kept {
        let kept = self.tracked.iter().map(|Tracked { objective, budget, .. }| KeptObjective {
            name: objective.name.clone(),
            judged: objective.judged(),
            budget: budget.clone(),
        });
        Kept(kept.collect())
    }
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds")]
fn status(Tracked { objective, budget, latest }: &Tracked) -> ObjectiveStatus {
    let share = objective.share;
    let times = budget.in_period();
    fill!(ObjectiveStatus {
        name: objective.name.clone(),
        condition: objective.condition(),
        share,
        over_seconds: objective.over.as_secs_f64(),
        latest: latest.map(|(verdict, _)| verdict),
        latest_value: latest.and_then(|(_, value)| value),
        budget_remaining: budget.remaining(share),
        burn: TOLD
            .iter()
            .map(|(name, span)| fill!(BurnRate { window: (*name).to_owned(), rate: budget.burn(*span, share) }))
            .collect(),
        alert: budget.alert().map(|speed| speed.name().to_owned()),
        good_seconds: times.good / 1e3,
        bad_seconds: times.bad / 1e3,
        no_data_seconds: times.none / 1e3,
        known_seconds: Duration::from_millis(budget.known_ms()).as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use kerno_model::{Course, Filesystem, HostFacts, Series, Severity, Span};

    use super::*;
    use crate::incidents::{Incidents, step};
    use crate::objective::{Bound, Measured};
    use crate::rules::testing::words_hold;

    fn objective(share: f64) -> Objective {
        let metric = catalogue::find("kerno_filesystem_available_bytes").unwrap();
        let mut objective = Objective::new("room", metric, Measured::Value, Bound::Above(1024.0));
        objective.labels.insert("mount".into(), "/srv".into());
        objective.share = share;
        objective.check().unwrap();
        objective
    }

    fn window(number: u64, available: f64) -> Window {
        let filesystem = fill!(Filesystem {
            mount: "/srv".to_owned(),
            total_bytes: 4096,
            available_bytes: Series::from_iter([(0.0, available)]),
        });
        fill!(Window {
            host: fill!(HostFacts { boot_id: "boot".to_owned() }),
            span: fill!(Span {
                started_unix: 1e9 + 10.0 * number as f64,
                started_ns: number * 10_000_000_000,
                seconds: 10.0
            }),
            disk_io: Some(fill!(kerno_model::DiskSummary { filesystems: vec![filesystem] })),
        })
    }

    #[test]
    fn a_budget_that_will_not_last_is_an_incident() {
        let mut objectives = Objectives::new(vec![objective(0.999)], Kept::default());
        let (mut incidents, mut told) = (Incidents::default(), Vec::new());
        let mut last = None;
        for number in 0..600 {
            let window = window(number, if (10..40).contains(&number) { 100.0 } else { 2000.0 });
            let findings = objectives.judge(&window, &Thresholds::default());
            last = findings.first().cloned().or(last);
            let (after, transitions) = step(incidents, &window, &findings);
            incidents = after;
            told.extend(transitions.into_iter().map(|one| (number, one)));
        }
        let courses: Vec<_> = told.iter().map(|(_, one)| (one.course, one.severity)).collect();
        let (first, opened) = &told[0];
        assert_eq!((opened.course, opened.severity, *first), (Course::Opened, Severity::Critical, 15));
        words_hold(&opened.finding);
        let words = crate::words(&opened.finding);
        assert_eq!(
            words.title,
            "objective room is missed too often: error budget used 16.7x as fast as it lasts, 97.7 % left"
        );
        assert_eq!(
            words.cause,
            "This has to hold for 99.9 % of 30 d: kerno_filesystem_available_bytes (mount=\"/srv\"): value above 1 KiB. \
             It did not hold for 1 min of the last 1 h."
        );
        assert_eq!(courses.last().map(|(course, _)| *course), Some(Course::Closed), "{courses:?}");
        assert!(courses.iter().all(|(course, _)| *course != Course::Reopened), "{courses:?}");
        assert_eq!(opened.finding.variant, "room");
        words_hold(&last.unwrap());
        let status = objectives.status().remove(0);
        assert_eq!((status.latest, status.latest_value, status.alert), (Some(Verdict::Good), Some(2000.0), None));
        assert!((status.bad_seconds - 300.0).abs() < 1e-6 && (status.good_seconds - 5700.0).abs() < 1e-6);
    }

    #[test]
    fn two_objectives_are_two_incidents() {
        let mut other = objective(0.99);
        other.name = "other".into();
        let mut objectives = Objectives::new(vec![objective(0.999), other], Kept::default());
        let mut findings = Vec::new();
        for number in 0..120 {
            findings = objectives.judge(&window(number, 0.0), &Thresholds::default());
        }
        assert_eq!(findings.len(), 2);
        assert_ne!(findings[0].fingerprint(), findings[1].fingerprint());
    }

    #[test]
    fn what_is_kept_outlives_a_restart_and_other_shares_but_no_other_condition() {
        let mut objectives = Objectives::new(vec![objective(0.999)], Kept::default());
        (0..30).for_each(|number| drop(objectives.judge(&window(number, 0.0), &Thresholds::default())));
        let used = objectives.status()[0].budget_remaining;
        let json = serde_json::to_string(&objectives.kept()).unwrap();
        let kept: Kept = serde_json::from_str(&json).unwrap();
        let mut again = Objectives::new(vec![objective(0.999)], kept.clone());
        assert!((again.status()[0].budget_remaining - used).abs() < 1e-12);
        // What came after is caught up with, once; nobody knows what was before a new one.
        again.catch_up(&window(30, 0.0), &Thresholds::default());
        again.catch_up(&window(30, 0.0), &Thresholds::default());
        again.catch_up(&window(12, 0.0), &Thresholds::default());
        assert!((again.status()[0].bad_seconds - 310.0).abs() < 1e-6);
        let mut new = Objectives::new(vec![objective(0.999)], Kept::default());
        new.catch_up(&window(30, 0.0), &Thresholds::default());
        assert_eq!(new.status()[0].bad_seconds, 0.0);
        let mut again = Objectives::new(vec![objective(0.999)], kept.clone());
        // What was counted before it stopped is not counted again.
        assert_eq!(again.judge(&window(29, 0.0), &Thresholds::default()).len(), 1, "the alert goes on");
        assert!((again.status()[0].budget_remaining - used).abs() < 1e-12);
        let looser = Objectives::new(vec![objective(0.99)], kept.clone());
        assert!((looser.status()[0].bad_seconds - 300.0).abs() < 1e-6);
        let mut other = objective(0.999);
        // However little it differs: in words it is the same.
        other.bound = Bound::Above(1024.1);
        assert_eq!(other.condition(), objective(0.999).condition());
        assert_eq!(Objectives::new(vec![other.clone()], kept).status()[0].bad_seconds, 0.0);
        again.replace(vec![other]);
        assert_eq!((again.status()[0].bad_seconds, again.status()[0].latest), (0.0, None));
    }
}
