use super::*;
use kerno_model::{Effect, Missing, RuleId, Subject, fill};
use proptest::prelude::*;

fn finding(place: u8, severity: Severity, excess: f64) -> Finding {
    let mut finding = Finding::new(RuleId::new("fd_leak"), severity).about(Subject::cgroup(&format!("/{place}")));
    finding.excess = excess;
    finding
}

/// One window after another, without gaps but for those that are asked for.
struct Watch {
    incidents: Incidents,
    now_seconds: f64,
    told: Vec<Transition>,
}

impl Watch {
    fn new() -> Self {
        Self { incidents: Incidents::default(), now_seconds: 1_000_000.0, told: Vec::new() }
    }

    fn window(&mut self, seconds: f64, findings: &[Finding]) -> Vec<Course> {
        self.window_without(None, seconds, findings)
    }

    /// A window in which this signal was not watched.
    fn window_without(&mut self, signal: Option<&str>, seconds: f64, findings: &[Finding]) -> Vec<Course> {
        let started_ns = (self.now_seconds * 1e9) as u64;
        let span = fill!(Span { started_unix: self.now_seconds, started_ns, seconds, samples: 2 });
        let all = |signal: &str| fill!(Missing { signal: signal.to_owned(), what: "all".to_owned() });
        let window = fill!(Window { span, missing: signal.into_iter().map(all).collect() });
        let (incidents, transitions) = step(std::mem::take(&mut self.incidents), &window, findings);
        self.incidents = incidents;
        self.now_seconds += seconds;
        self.told.extend(transitions.iter().cloned());
        transitions.into_iter().map(|transition| transition.course).collect()
    }

    fn gap(&mut self, seconds: f64) {
        self.now_seconds += seconds;
    }

    fn open(&self) -> usize {
        self.incidents.open().count()
    }
}

#[test]
fn what_is_not_watched_is_not_over() {
    let mut watch = Watch::new();
    let found = [finding(1, Severity::Warning, 2.0)];
    assert_eq!(watch.window(10.0, &found), [Course::Opened]);
    for _ in 0..100 {
        assert_eq!(watch.window_without(Some("fd_track"), 10.0, &[]), []);
    }
    assert_eq!(watch.open(), 1);
    assert_eq!(watch.window(10.0, &found), [], "it went on all the time");
    // That another signal is missing says nothing about this one.
    assert_eq!(watch.window_without(Some("disk_io"), 10.0, &[]), []);
    assert_eq!(watch.window_without(Some("disk_io"), 10.0, &[]), [Course::Closed]);
}

#[test]
fn an_incident_opens_changes_and_closes() {
    let mut watch = Watch::new();
    let with = |severity, excess| [finding(1, severity, excess)];
    assert_eq!(watch.window(10.0, &[]), []);
    assert_eq!(watch.window(10.0, &with(Severity::Warning, 2.0)), [Course::Opened]);
    assert_eq!(watch.window(10.0, &with(Severity::Warning, 2.5)), [], "noise");
    assert_eq!(watch.window(10.0, &with(Severity::Warning, 4.0)), [Course::Worse]);
    assert_eq!(watch.window(10.0, &with(Severity::Critical, 4.0)), [Course::Worse]);
    assert_eq!(watch.window(10.0, &with(Severity::Warning, 4.0)), [], "not for long enough");
    assert_eq!(watch.window(10.0, &with(Severity::Warning, 4.0)), [Course::Better]);
    assert_eq!(watch.window(10.0, &[]), []);
    assert_eq!(watch.window(10.0, &[]), [Course::Closed]);
    assert_eq!(watch.window(10.0, &[]), []);
    assert_eq!(watch.open(), 0);
    let incident = watch.incidents.all().next().unwrap();
    assert_eq!((incident.worst.severity, incident.last.severity), (Severity::Critical, Severity::Warning));
    assert_eq!((incident.first.excess, incident.last_seen < incident.closed.unwrap()), (2.0, true));
}

#[test]
fn what_comes_back_is_the_same_and_has_to_stay_away_longer() {
    let mut watch = Watch::new();
    let there = [finding(1, Severity::Warning, 2.0)];
    watch.window(10.0, &there);
    let id = watch.told[0].id.clone();
    watch.window(10.0, &[]);
    assert_eq!(watch.window(10.0, &[]), [Course::Closed]);
    assert_eq!(watch.window(10.0, &there), [Course::Reopened]);
    let quiet: Vec<_> = (0..4).map(|_| watch.window(10.0, &[])).collect();
    assert_eq!(quiet, [vec![], vec![], vec![], vec![Course::Closed]], "twice as long as before");
    assert!(watch.told.iter().all(|transition| transition.id == id));
    // After an hour it is another one.
    watch.gap(4000.0);
    watch.window(10.0, &[]);
    assert_eq!(watch.window(10.0, &there), [Course::Opened]);
    assert_ne!(watch.told.last().unwrap().id, id);
}

#[test]
fn a_gap_in_watching_closes_nothing() {
    let mut watch = Watch::new();
    watch.window(10.0, &[finding(1, Severity::Critical, 2.0)]);
    watch.window(10.0, &[]);
    watch.gap(100_000.0);
    assert_eq!(watch.open(), 1);
    assert_eq!(watch.window(10.0, &[finding(1, Severity::Critical, 2.0)]), []);
}

#[test]
fn consequences_are_incidents_of_their_own_and_leave_their_cause_alone() {
    let mut watch = Watch::new();
    let mut cause = finding(1, Severity::Warning, 2.0);
    let alone = cause.clone();
    let mut consequence = finding(2, Severity::Critical, 3.0);
    consequence.through = Some(Effect::StorageSlow);
    cause.consequences.push(consequence);
    assert_eq!(watch.window(10.0, std::slice::from_ref(&cause)), [Course::Opened; 2]);
    for _ in 0..10 {
        // The consequence comes and goes; the cause is as it was.
        assert_eq!(watch.window(10.0, std::slice::from_ref(&alone)), []);
        assert_eq!(watch.window(10.0, std::slice::from_ref(&cause)), []);
    }
    let under: Vec<_> = watch.incidents.open().filter_map(|incident| incident.under).collect();
    assert_eq!(under, [cause.fingerprint()]);
}

#[test]
fn what_finds_no_room_is_counted() {
    let mut watch = Watch::new();
    let very_many: Vec<_> = (0..MAX_TRACKED + 7)
        .map(|n| Finding::new(RuleId::new("fd_leak"), Severity::Info).about(Subject::cgroup(&format!("/{n}"))))
        .collect();
    watch.window(10.0, &very_many);
    assert_eq!((watch.open(), watch.incidents.untracked), (MAX_TRACKED, 7));
}

/// A window: how long, the gap before it, and what is found of three places.
type Step = (u8, u16, [Option<(u8, u8)>; 3]);

fn findings(places: &[Option<(u8, u8)>; 3]) -> Vec<Finding> {
    let severities = [Severity::Info, Severity::Warning, Severity::Critical];
    let found = places.iter().zip(1..).filter_map(|(there, place)| there.map(|found| (place, found)));
    found
        .map(|(place, (severity, excess))| {
            finding(place, severities[usize::from(severity) % 3], f64::from(excess) / 4.0 + 1.0)
        })
        .collect()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || prop::option::of((0..3_u8, 0..40_u8));
    let places = (place(), place(), place()).prop_map(|(a, b, c)| [a, b, c]);
    prop::collection::vec((1..40_u8, prop_oneof![3 => Just(0_u16), 1 => 1..5000_u16], places), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn each_one_opens_before_it_changes_and_closes_once(steps in steps()) {
        let mut watch = Watch::new();
        for (seconds, gap, places) in &steps {
            watch.gap(f64::from(*gap));
            watch.window(f64::from(*seconds), &findings(places));
        }
        // Quiet for long enough that even one that came back very often is over.
        for _ in 0..20 {
            watch.window(40.0, &[]);
        }
        prop_assert_eq!(watch.open(), 0);
        let mut open = std::collections::BTreeMap::new();
        for told in &watch.told {
            let was_open = open.get(&told.id).copied();
            let expected = match told.course {
                Course::Opened => was_open.is_none(),
                Course::Reopened => was_open == Some(false),
                _ => was_open == Some(true),
            };
            prop_assert!(expected, "{:?} of {} which was {:?}", told.course, told.id, was_open);
            open.insert(told.id.clone(), told.course != Course::Closed);
        }
        prop_assert!(open.values().all(|open| !open));
    }

    #[test]
    fn nothing_is_told_to_be_over_or_better_below_the_hysteresis(steps in steps()) {
        let mut watch = Watch::new();
        let hysteresis = Hysteresis::default();
        // Watched seconds since each place was last there, and since it was last as bad as was told.
        let (mut away, mut less) = ([0.0; 3], [0.0; 3]);
        let mut told = [(Severity::Info, 0.0); 3];
        for (seconds, gap, places) in &steps {
            let seconds = f64::from(*seconds);
            watch.gap(f64::from(*gap));
            let found = findings(places);
            let of = |place: usize| found.iter().find(|f| f.subject.cgroup == Some(format!("/{}", place + 1)));
            for place in 0..3 {
                match of(place) {
                    Some(f) => {
                        away[place] = 0.0;
                        let as_bad = f.severity >= told[place].0 && f.excess * hysteresis.clearly >= told[place].1;
                        less[place] = if as_bad { 0.0 } else { less[place] + seconds };
                    }
                    None => {
                        away[place] += seconds;
                        less[place] = 0.0;
                    }
                }
            }
            let before = watch.told.len();
            watch.window(seconds, &found);
            for told_now in &watch.told[before..] {
                let cgroup = told_now.finding.subject.cgroup.as_deref().unwrap();
                let place = cgroup[1..].parse::<usize>().unwrap() - 1;
                match told_now.course {
                    Course::Closed => prop_assert!(away[place] >= hysteresis.close_seconds, "{}", away[place]),
                    Course::Better => prop_assert!(less[place] >= hysteresis.better_seconds, "{}", less[place]),
                    _ => {}
                }
                told[place] = (told_now.severity, told_now.finding.excess);
                less[place] = 0.0;
            }
        }
    }

    #[test]
    fn the_order_of_findings_does_not_matter(steps in steps(), turn in 0..3_usize) {
        let (mut a, mut b) = (Watch::new(), Watch::new());
        for (seconds, gap, places) in &steps {
            let mut found = findings(places);
            a.gap(f64::from(*gap));
            b.gap(f64::from(*gap));
            a.window(f64::from(*seconds), &found);
            let turn = turn.min(found.len());
            found.rotate_left(turn);
            b.window(f64::from(*seconds), &found);
        }
        prop_assert_eq!(&a.told, &b.told);
        prop_assert_eq!(&a.incidents, &b.incidents);
    }

    #[test]
    fn gaps_change_nothing_but_times(steps in steps()) {
        let (mut with, mut without) = (Watch::new(), Watch::new());
        for (seconds, gap, places) in &steps {
            // Shorter than what is remembered, all together.
            with.gap(f64::from(*gap % 30));
            with.window(f64::from(*seconds), &findings(places));
            without.window(f64::from(*seconds), &findings(places));
        }
        let story = |watch: &Watch| watch.told.iter().map(|told| (told.course, told.severity)).collect::<Vec<_>>();
        prop_assert_eq!(story(&with), story(&without));
    }

    #[test]
    fn a_restart_in_the_middle_changes_nothing(steps in steps(), at in 0..60_usize) {
        let (mut one, mut two) = (Watch::new(), Watch::new());
        for (index, (seconds, _, places)) in steps.iter().enumerate() {
            if index == at {
                let saved = serde_json::to_string(&two.incidents).unwrap();
                two.incidents = serde_json::from_str(&saved).unwrap();
            }
            one.window(f64::from(*seconds), &findings(places));
            two.window(f64::from(*seconds), &findings(places));
        }
        prop_assert_eq!(&one.told, &two.told);
    }
}
