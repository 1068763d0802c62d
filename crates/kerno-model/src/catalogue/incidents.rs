use crate::metric::{Describe, Described, Label, Measure, Metric, Values, container_label};
use crate::{Course, Incident, Severity, Subject, Transition};

const SEVERITIES: &[&str] = &[Severity::Info.name(), Severity::Warning.name(), Severity::Critical.name()];
const COURSES: &[&str] = &[
    Course::Opened.name(),
    Course::Reopened.name(),
    Course::Worse.name(),
    Course::Better.name(),
    Course::Closed.name(),
];

/// The most open incidents with series of their own.
const SHOWN: Values = Values::Top(16);

const INCIDENT: Label =
    Label::new("incident", "kerno.incident.id", SHOWN, "The id of the incident. The most severe that are open.");
const INCIDENT_RULE: Label = Label::new("rule", "kerno.rule", SHOWN, "The rule that found it.");
const SUBJECT: Label = Label::new(
    "subject",
    "kerno.subject",
    SHOWN,
    "Whom or what it is about: the objective, the unit or container, the name of the process, the device, the mount point or the cgroup; never an id of a \
     process or an address.",
);
const RULE: Label = Label::new("rule", "kerno.rule", Values::Top(16), "The rule that found it.");
const SEVERITY: Label = Label::new("severity", "kerno.severity", Values::Of(SEVERITIES), "How bad it is.");
const CHANGE: Label =
    Label::new("change", "kerno.incident.change", Values::Of(COURSES), "What became of the incident.");
const ROOT: Label =
    Label::new("root", "kerno.incident.root", Values::Of(&["yes", "no"]), "Whether no other open finding explains it.");

const INCIDENTS: Measure = Measure::things("incident");

/// Whom or what it is about, without what has no bound.
fn subject(subject: &Subject) -> String {
    if let Some(container) = &subject.container {
        return container_label(container);
    }
    let unit = subject.unit.as_deref().filter(|unit| unit.ends_with(".service"));
    let place =
        [subject.device_name(), subject.mount.as_deref(), subject.interface.as_deref(), subject.cgroup.as_deref()];
    unit.or(subject.comm()).or_else(|| place.into_iter().flatten().next()).unwrap_or_default().to_owned()
}

fn weight(incident: &Incident) -> f64 {
    let severity = match incident.severity {
        Severity::Info => 0.0,
        Severity::Warning => 1.0,
        Severity::Critical => 2.0,
    };
    // Root causes before what follows from them.
    if incident.under.is_none() { severity + 0.5 } else { severity }
}

impl Describe for [Incident] {
    const ABOUT: &'static str = "Incidents that are open";
    const METRICS: &'static [Described<Self>] = &[
        Described {
            metric: Metric::gauge("kerno.incidents.open", INCIDENTS, "Incidents that are open.").by(&[RULE, SEVERITY]),
            give: |incidents, give| {
                for incident in incidents.iter().filter(|incident| incident.is_open()) {
                    give.of(&[incident.rule.as_str(), incident.severity.name()], weight(incident)).set(1.0);
                }
            },
        },
        Described {
            metric: Metric::info("kerno.incident.info", "An incident that is open.").by(&[
                INCIDENT,
                INCIDENT_RULE,
                SUBJECT,
                SEVERITY,
                ROOT,
            ]),
            give: |incidents, give| {
                for incident in incidents.iter().filter(|incident| incident.is_open()) {
                    let root = if incident.under.is_none() { "yes" } else { "no" };
                    // What an objective is about is in its name.
                    let named = incident.last.text("objective").map(str::to_owned);
                    let who = named.unwrap_or_else(|| subject(&incident.last.subject));
                    let labels = [incident.id.as_str(), incident.rule.as_str(), &who, incident.severity.name(), root];
                    give.of(&labels, weight(incident)).tell();
                }
            },
        },
        Described {
            metric: Metric::worst(
                "kerno.incident.opened.timestamp",
                Measure::SECONDS,
                "When an incident that is open began, in seconds since 1970.",
            )
            .by(&[INCIDENT]),
            give: |incidents, give| {
                for incident in incidents.iter().filter(|incident| incident.is_open()) {
                    #[allow(clippy::cast_precision_loss, reason = "a time within microseconds")]
                    let opened = incident.opened.unix_ns as f64 / 1e9;
                    give.of(&[incident.id.as_str()], weight(incident)).set(opened);
                }
            },
        },
    ];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[];
}

impl Describe for [Transition] {
    const ABOUT: &'static str = "What became of incidents";
    const METRICS: &'static [Described<Self>] = &[Described {
        metric: Metric::counter("kerno.incident.changes", INCIDENTS, "Changes of incidents.").by(&[CHANGE, SEVERITY]),
        give: |changes, give| {
            for course in COURSES {
                for severity in SEVERITIES {
                    let alike =
                        |change: &&Transition| change.course.name() == *course && change.severity.name() == *severity;
                    give.of(&[course, severity], 0.0).add(changes.iter().filter(alike).count() as u64);
                }
            }
        },
    }];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[];
}
