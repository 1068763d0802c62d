use super::super::{Mark, Totals, incident_samples};
use super::check;
use crate::metric::{Amount, OTHER};
use crate::{
    Container, Course, Finding, Incident, IncidentId, IncidentState, Moment, NamedProcess, ProcessId, RuleId, Severity,
    Subject, Transition, Window,
};

fn incident(number: u64, severity: Severity, state: IncidentState) -> Incident {
    let id = ProcessId { boot: String::new(), pid: 4711, start_ns: number };
    let mut finding = Finding::new(RuleId::new("fd_leak"), severity);
    finding.subject = Subject {
        process: Some(NamedProcess { id, comm: "leaky".into(), ..NamedProcess::default() }),
        remote: Some("192.0.2.1:443".parse::<std::net::SocketAddr>().unwrap().into()),
        ..Subject::default()
    };
    let opened = Moment { monotonic_ns: 1, unix_ns: number * 1_000_000_000 };
    Incident {
        id: IncidentId::new(finding.fingerprint(), opened),
        fingerprint: finding.fingerprint(),
        rule: finding.rule.clone(),
        state,
        opened,
        closed: None,
        last_seen: opened,
        severity,
        reopened: 0,
        under: None,
        first: finding.clone(),
        worst: finding.clone(),
        last: finding,
    }
}

#[test]
fn open_incidents_have_series_without_ids_of_processes() {
    let open: Vec<_> = (1..=40)
        .map(|number| {
            let severity = if number <= 3 { Severity::Critical } else { Severity::Warning };
            incident(number, severity, IncidentState::Open)
        })
        .chain([incident(99, Severity::Critical, IncidentState::Closed)])
        .collect();
    let samples = incident_samples(&open);
    samples.iter().for_each(|sample| check(sample, "incidents"));
    let of = |name: &'static str| samples.iter().filter(move |sample| sample.metric.name == name);
    let open: Vec<_> = of("kerno.incidents.open").map(|sample| (sample.labels[1].as_str(), sample.value())).collect();
    assert_eq!(open, [("critical", 3.0), ("warning", 37.0)]);
    let told: Vec<_> = of("kerno.incident.info").collect();
    assert_eq!(told.len(), told[0].metric.max_combinations());
    assert_eq!(told.iter().filter(|sample| sample.labels[3] == "critical").count(), 3, "the worst are among them");
    for sample in &told {
        assert_eq!(sample.labels[2], "leaky");
        assert!(sample.labels.iter().all(|label| !label.contains("4711") && !label.contains("192.0.2.1")));
        assert!(!sample.labels.iter().any(|label| label == OTHER), "nothing stands for others");
    }
}

#[test]
fn a_container_stands_for_its_process() {
    let mut one = incident(1, Severity::Info, IncidentState::Open);
    let container = Container { runtime: "docker".into(), id: "0123456789abcdef".into(), ..Container::default() };
    one.last.subject.container = Some(container);
    let samples = incident_samples(&[one]);
    let told = samples.iter().find(|sample| sample.metric.name == "kerno.incident.info").unwrap();
    assert_eq!(told.labels[2], "docker:0123456789ab");
}

#[test]
fn changes_add_up_and_what_is_over_goes() {
    let open = incident(5, Severity::Warning, IncidentState::Open);
    let change = |course| Transition {
        course,
        id: open.id.clone(),
        at: open.opened,
        was: None,
        severity: Severity::Warning,
        was_excess: 0.0,
        finding: open.last.clone(),
    };
    let mut totals = Totals::new();
    totals.add_incidents(std::slice::from_ref(&open), &[change(Course::Opened)], 7);
    totals.add(&Window::default());
    let names = |totals: &Totals| -> Vec<&str> {
        totals.read(Mark::default()).iter().map(|sample| sample.metric.name).collect()
    };
    assert!(names(&totals).contains(&"kerno.incident.info"), "a window does not end an incident");
    totals.add_incidents(&[], &[change(Course::Closed), change(Course::Opened)], 8);
    assert!(!names(&totals).contains(&"kerno.incident.info"));
    let read = totals.read(Mark::default());
    let count = |course: &str| {
        let one = read.iter().find(|sample| {
            sample.metric.name == "kerno.incident.changes" && sample.labels == [course.to_owned(), "warning".to_owned()]
        });
        one.map(|sample| (sample.amount.clone(), sample.created_unix_ns))
    };
    assert_eq!(count("opened"), Some((Amount::Counter(2), 7)));
    assert_eq!(count("closed"), Some((Amount::Counter(1), 7)));
    assert_eq!(count("worse"), Some((Amount::Counter(0), 7)), "0 is told, so that a first one is seen as growth");
}

#[test]
fn objectives_count_windows_and_go_with_the_configuration() {
    let status = |name: &str, latest| crate::ObjectiveStatus {
        name: name.into(),
        latest,
        budget_remaining: -0.5,
        burn: vec![crate::BurnRate { window: "5m".into(), rate: 2.0 }],
        ..crate::ObjectiveStatus::default()
    };
    let mut totals = Totals::new();
    let (good, bad) = (Some(crate::Verdict::Good), Some(crate::Verdict::Bad));
    totals.add_objectives(&[status("a", good), status("b", None)], 7);
    totals.add_objectives(&[status("a", bad), status("b", bad)], 8);
    totals.add_objectives(&[status("a", bad)], 9);
    totals.add(&Window::default());
    let read = totals.read(Mark::default());
    let of = |name: &str, labels: &[&str]| {
        let is_it = |sample: &&crate::metric::Sample| sample.metric.name == name && sample.labels == labels;
        read.iter().find(is_it).map(|sample| (sample.value(), sample.created_unix_ns))
    };
    assert_eq!(of("kerno.objective.windows", &["a", "bad"]), Some((2.0, 7)));
    assert_eq!(of("kerno.objective.windows", &["a", "no_data"]), Some((0.0, 7)), "0 is told");
    assert_eq!(of("kerno.objective.budget.remaining", &["a"]).map(|(value, _)| value), Some(-0.5));
    assert_eq!(of("kerno.objective.burn.rate", &["a", "5m"]).map(|(value, _)| value), Some(2.0));
    assert!(!read.iter().any(|sample| sample.labels.first().is_some_and(|name| name == "b")));
}
