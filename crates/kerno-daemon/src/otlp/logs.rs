//! Changes of incidents as log records. Attributes are those of the semantic conventions where there are some, and `kerno.*` otherwise.

use kerno_doctor::redaction::Redaction;
use kerno_doctor::report::{Culprit, Diagnosis, IncidentReport};
use kerno_model::amount::quantity;
use kerno_model::{Course, Finding, IncidentRecord, Safety, Severity, Transition, errno};

use super::message::{Any, ArrayValue, KeyValue, LogRecord, LogsRequest, Resource, ResourceLogs, Scope, ScopeLogs};
use super::shortened;

/// The longest text, in bytes. Most receivers take no more.
const MAX_TEXT: usize = 4096;

/// No more of a text is looked at.
const MAX_READ: usize = 64 << 10;

/// The most entries of a list.
const MAX_LIST: usize = 20;

pub(super) fn request(records: Vec<LogRecord>, (resource, scope): (Resource, Scope)) -> LogsRequest {
    let scope_logs = vec![ScopeLogs { scope: Some(scope), records }];
    LogsRequest { resource_logs: vec![ResourceLogs { resource: Some(resource), scope_logs }] }
}

/// A change of an incident, which `record` has as it is after it.
pub(super) fn record(
    transition: &Transition,
    record: &IncidentRecord,
    observed_unix_ns: u64,
    redaction: &Redaction,
) -> LogRecord {
    let report = IncidentReport::of(record);
    // When it is over, it is told as it was at its worst.
    let (told, finding) = match transition.course {
        Course::Closed => (&report.finding, &record.incident.worst),
        _ => (&report.last, &transition.finding),
    };
    let is_bad = matches!(transition.course, Course::Opened | Course::Reopened | Course::Worse);
    // That something became better is no reason to wake anybody.
    let severity = if is_bad { transition.severity } else { Severity::Info };
    let mut attributes = Attributes { all: Vec::new(), redaction };
    attributes.incident(transition, &report, told);
    attributes.subject(&told.culprit);
    attributes.errors(finding);
    attributes.words(told, &report);
    LogRecord {
        unix_ns: transition.at.unix_ns,
        observed_unix_ns,
        severity_number: severity_number(severity),
        severity_text: severity.name().to_owned(),
        body: Some(Any::Text(outgoing(redaction, &told.title)).into()),
        attributes: attributes.all,
        event_name: format!("kerno.incident.{}", transition.course.name()),
    }
}

/// INFO, WARN and ERROR2, which is that of what syslog calls critical.
const fn severity_number(severity: Severity) -> i32 {
    match severity {
        Severity::Critical => 18,
        Severity::Warning => 13,
        _ => 9,
    }
}

/// Every text that leaves the machine in a record passes here: without secrets, and not too long.
fn outgoing(redaction: &Redaction, text: &str) -> String {
    // A secret that is cut may not look like one any more.
    let hidden = redaction.hide(shortened(text, MAX_READ));
    let short = shortened(&hidden, MAX_TEXT);
    if short.len() < hidden.len() { format!("{short}\u{2026}") } else { hidden.into_owned() }
}

struct Attributes<'a> {
    all: Vec<KeyValue>,
    redaction: &'a Redaction,
}

impl Attributes<'_> {
    fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            let value = outgoing(self.redaction, value);
            self.all.push(KeyValue::text(name, value));
        }
    }

    fn maybe(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn put(&mut self, name: &str, value: Any) {
        self.all.push(KeyValue::new(name, value));
    }

    fn list(&mut self, name: &str, values: impl Iterator<Item = String>) {
        let value = |value: String| Any::Text(outgoing(self.redaction, &value)).into();
        let values: Vec<_> = values.take(MAX_LIST).map(value).collect();
        if !values.is_empty() {
            self.put(name, Any::List(ArrayValue { values }));
        }
    }

    fn incident(&mut self, transition: &Transition, report: &IncidentReport, told: &Diagnosis) {
        self.text("kerno.incident.id", transition.id.as_str());
        self.text("kerno.incident.change", transition.course.name());
        self.text("kerno.incident.root", if report.under.is_none() { "yes" } else { "no" });
        if let Some(under) = report.under {
            self.text("kerno.incident.under", &under.to_string());
        }
        self.text("kerno.incident.fingerprint", &report.fingerprint.to_string());
        self.text("kerno.incident.opened", &report.opened);
        self.maybe("kerno.incident.closed", report.closed.as_deref());
        if report.reopened > 0 {
            self.put("kerno.incident.reopened", Any::Int(i64::from(report.reopened)));
        }
        self.text("kerno.severity", transition.severity.name());
        self.text("kerno.rule", &told.id);
        self.text("kerno.variant", &told.variant);
        self.text("kerno.signal", &told.signal);
        self.put("kerno.excess", Any::Double(told.excess));
        self.put("kerno.confidence", Any::Double(told.confidence));
    }

    fn subject(&mut self, culprit: &Culprit) {
        if let Some(pid) = culprit.pid {
            self.put("process.pid", Any::Int(i64::from(pid)));
        }
        let command = culprit.cmdline.as_deref().and_then(|line| line.split(' ').next());
        self.maybe("process.command", command.filter(|command| !command.is_empty()).or(culprit.process.as_deref()));
        self.maybe("process.command_line", culprit.cmdline.as_deref());
        self.maybe("process.executable.name", culprit.process.as_deref());
        self.maybe("process.owner", culprit.user.as_deref());
        self.maybe("process.linux.cgroup", culprit.cgroup.as_deref());
        if let Some(container) = &culprit.container {
            self.text("container.id", &container.id);
            self.text("container.runtime.name", &container.runtime);
            self.maybe("container.name", container.name.as_deref());
            self.maybe("container.image.name", container.image.as_deref());
            self.maybe("k8s.pod.uid", container.pod_uid.as_deref());
            self.maybe("k8s.pod.name", container.pod.as_deref());
            self.maybe("k8s.namespace.name", container.namespace.as_deref());
            self.text("kerno.unit", &format!("{}:{}", container.runtime, container.id));
        } else {
            self.maybe("kerno.unit", culprit.unit.as_deref());
        }
        self.maybe("system.device", culprit.device.as_deref());
        self.maybe("system.filesystem.mountpoint", culprit.mount.as_deref());
        self.maybe("network.interface.name", culprit.interface.as_deref());
        self.address("network.peer", culprit.remote.as_deref());
        self.address("network.local", culprit.local.as_deref());
    }

    fn address(&mut self, side: &str, address: Option<&str>) {
        let Some(address) = address else { return };
        match address.parse::<std::net::SocketAddr>() {
            Ok(socket) => {
                self.text(&format!("{side}.address"), &socket.ip().to_string());
                self.put(&format!("{side}.port"), Any::Int(i64::from(socket.port())));
            }
            Err(_) => self.text(&format!("{side}.address"), address),
        }
    }

    fn errors(&mut self, finding: &Finding) {
        if let Some(number) = finding.errnos().next() {
            let name = errno::name(number).map_or_else(|| number.to_string(), str::to_owned);
            self.text("error.type", &name);
        }
        self.maybe("kerno.syscall", finding.calls().next());
    }

    fn words(&mut self, told: &Diagnosis, report: &IncidentReport) {
        self.text("kerno.cause", &told.cause);
        self.text("kerno.impact", &told.impact);
        self.list(
            "kerno.evidence",
            told.evidence.iter().map(|evidence| {
                let threshold = evidence.threshold.map(|at| format!(" (threshold {})", quantity(at, evidence.unit)));
                let value = quantity(evidence.value, evidence.unit);
                format!("{}: {value}{}", evidence.what, threshold.unwrap_or_default())
            }),
        );
        self.list("kerno.victims", told.victims.iter().map(name));
        if let Some(eta) = &told.eta {
            self.put("kerno.eta.seconds", Any::Double(eta.seconds));
            self.text("kerno.eta.what", &eta.what);
        }
        let look = told.fixes.iter().filter(|fix| fix.effect == Safety::ReadOnly);
        self.list("kerno.next", look.map(|fix| format!("{}: {}", fix.command, fix.why)));
        self.list("kerno.consequences", told.consequences.iter().map(|finding| finding.title.clone()));
        // The latest are nearest to the onset.
        let latest = report.changes.len().saturating_sub(MAX_LIST);
        let changes = report.changes.iter().skip(latest);
        self.list("kerno.changes", changes.map(|change| format!("{} {}", change.at, change.what)));
    }
}

fn name(culprit: &Culprit) -> String {
    let process = match (&culprit.process, culprit.pid) {
        (Some(comm), Some(pid)) => Some(format!("{comm} ({pid})")),
        (None, Some(pid)) => Some(format!("process {pid}")),
        (comm, None) => comm.clone(),
    };
    let places = [
        &culprit.unit,
        &culprit.device,
        &culprit.mount,
        &culprit.interface,
        &culprit.cgroup,
        &culprit.remote,
        &culprit.local,
    ];
    process.or_else(|| places.into_iter().flatten().next().cloned()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerno_model::{Incident, Moment, NamedProcess, ProcessId, RuleId, Subject, Unit, fill};

    fn incident() -> (Transition, IncidentRecord) {
        let process = NamedProcess {
            id: ProcessId { boot: "b".into(), pid: 4711, start_ns: 5 },
            comm: "leaky".into(),
            cmdline: Some(format!("/usr/bin/leaky --size {}", "x".repeat(2 * MAX_TEXT))),
            user: Some("www".into()),
            ended: false,
        };
        let subject = fill!(Subject { process: Some(process), unit: Some("leaky.service".to_owned()) });
        let finding = Finding::new(RuleId::new("fd_leak"), Severity::Critical)
            .about(subject)
            .measured("min_growth", 400.0, Unit::Count, Some(100.0))
            .look("ls /proc/4711/fd", "shows what they are")
            .change("systemctl restart leaky", "frees them");
        let at = Moment { unix_ns: 1_790_000_000_000_000_000, ..Moment::default() };
        let incident = Incident::new(at, finding);
        (Transition::new(Course::Opened, &incident, at), IncidentRecord::new(incident))
    }

    fn attribute<'a>(record: &'a LogRecord, name: &str) -> Option<&'a Any> {
        record.attributes.iter().find(|attribute| attribute.key == name)?.value.as_ref()?.value.as_ref()
    }

    fn text<'a>(record: &'a LogRecord, name: &str) -> &'a str {
        match attribute(record, name) {
            Some(Any::Text(text)) => text,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn a_record_says_who_what_and_since_when() {
        let (transition, incident) = incident();
        let written = record(&transition, &incident, 7, &Redaction::default());
        assert_eq!(written.event_name, "kerno.incident.opened");
        assert_eq!((written.unix_ns, written.observed_unix_ns), (1_790_000_000_000_000_000, 7));
        assert_eq!((written.severity_number, written.severity_text.as_str()), (18, "critical"));
        let title = match written.body.as_ref().and_then(|body| body.value.as_ref()) {
            Some(Any::Text(title)) => title.clone(),
            other => panic!("{other:?}"),
        };
        assert!(title.contains("leaky"), "{title}");
        assert_eq!(attribute(&written, "process.pid"), Some(&Any::Int(4711)));
        assert_eq!(text(&written, "process.command"), "/usr/bin/leaky");
        assert_eq!(text(&written, "process.executable.name"), "leaky");
        assert_eq!(text(&written, "process.owner"), "www");
        assert_eq!(text(&written, "kerno.unit"), "leaky.service");
        assert_eq!(text(&written, "kerno.rule"), "fd_leak");
        assert_eq!(text(&written, "kerno.incident.id"), incident.incident.id.as_str());
        let line = text(&written, "process.command_line");
        assert!(line.len() <= MAX_TEXT + 3 && line.ends_with('\u{2026}'), "{}", line.len());
        let Some(Any::List(next)) = attribute(&written, "kerno.next") else { panic!() };
        assert_eq!(next.values.len(), 1, "only what is safe: {next:?}");
        let names: std::collections::BTreeSet<_> = written.attributes.iter().map(|attribute| &attribute.key).collect();
        assert_eq!(names.len(), written.attributes.len(), "each attribute once");
        assert!(written.attributes.iter().all(|attribute| attribute.value.is_some()));
    }

    #[test]
    fn what_gets_better_or_ends_alarms_nobody() {
        let (mut transition, mut incident) = incident();
        transition.course = Course::Better;
        let better = record(&transition, &incident, 7, &Redaction::default());
        assert_eq!((better.severity_number, better.event_name.as_str()), (9, "kerno.incident.better"));
        assert_eq!(text(&better, "kerno.severity"), "critical");
        transition.course = Course::Closed;
        incident.incident.closed = Some(Moment { unix_ns: 1_790_000_060_000_000_000, ..Moment::default() });
        let closed = record(&transition, &incident, 7, &Redaction::default());
        assert_eq!((closed.severity_number, closed.severity_text.as_str()), (9, "info"));
        assert!(text(&closed, "kerno.incident.closed").starts_with("2026-"));
    }

    #[test]
    fn secrets_stay_on_the_machine() {
        let (mut transition, mut incident) = incident();
        for finding in [&mut transition.finding, &mut incident.incident.last, &mut incident.incident.worst] {
            let process = finding.subject.process.as_mut().unwrap();
            process.cmdline = Some(format!("db --host h --password=hunter2 {}", "y".repeat(MAX_TEXT)));
        }
        let shown = |redaction: &Redaction| format!("{:?}", record(&transition, &incident, 7, redaction));
        let hidden = shown(&Redaction::default());
        assert!(!hidden.contains("hunter2") && hidden.contains("--password=[hidden]"), "{hidden}");
        assert!(shown(&Redaction::off()).contains("hunter2"));
    }

    #[test]
    fn addresses_have_their_port_apart() {
        let mut attributes = Attributes { all: Vec::new(), redaction: &Redaction::off() };
        attributes.address("network.peer", Some("[::1]:443"));
        attributes.address("network.local", Some("10.0.0.1"));
        let shown: Vec<_> = attributes.all.iter().map(|attribute| attribute.key.as_str()).collect();
        assert_eq!(shown, ["network.peer.address", "network.peer.port", "network.local.address"]);
        assert_eq!(attributes.all[1].value, Some(Any::Int(443).into()));
    }
}
