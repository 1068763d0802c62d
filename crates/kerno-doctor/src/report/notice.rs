//! An incident as a message tells it: in words, bounded, and without secrets.

use kerno_model::amount::{quantity, span};
use kerno_model::{Container, IncidentState, Safety, Severity, Unit};
use serde::{Deserialize, Serialize};

use super::words::{name, one_line, particulars, rfc3339, verbatim};

use super::{Changed, Culprit, Diagnosis, Evidence, IncidentReport};
use crate::redaction::Redaction;

/// The longest text, in characters. What is longer is cut and says so.
const MAX_TEXT: usize = 600;
/// The longest command line, path or command.
const MAX_COMMAND: usize = 400;
/// The longest lists.
const MAX_EVIDENCE: usize = 8;
const MAX_VICTIMS: usize = 5;
const MAX_CHANGES: usize = 6;
const MAX_COMMANDS: usize = 5;

/// What cut text ends with.
const CUT: &str = "… (cut)";

/// What happened to an incident, as messages tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoticeEvent {
    /// It is new.
    Opened,
    /// It became more severe.
    Worse,
    /// It was over and came back.
    Reopened,
    /// It is over.
    Resolved,
}

impl NoticeEvent {
    /// Its name, such as `opened`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Worse => "worse",
            Self::Reopened => "reopened",
            Self::Resolved => "resolved",
        }
    }
}

/// An incident as messages tell it. Texts are short enough for a chat, have no secrets that are known to be such, and nothing that a
/// terminal would obey.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Notice {
    /// The id of the incident.
    pub id: String,
    /// The rule that found it.
    pub rule: String,
    /// Whether it is open.
    pub state: IncidentState,
    /// How bad it is; of one that is over, how bad it was at its worst.
    pub severity: Severity,
    /// What is wrong, in one line that names the culprit.
    pub title: String,
    /// Why it happens.
    pub cause: String,
    /// What it does to others.
    pub impact: String,
    /// The name of the machine.
    pub host: String,
    /// The service or container that it is about; `None` if there is none.
    pub unit: Option<String>,
    /// Who or what causes it; only the fields that apply are there.
    pub culprit: Culprit,
    /// The same in one line; empty if it is not known.
    pub who: String,
    /// Who suffers, each in one line.
    pub victims: Vec<String>,
    /// The measurements.
    pub evidence: Vec<NoticeEvidence>,
    /// When it began, in words.
    pub since: String,
    /// When it opened, as `2026-11-29T03:02:10Z`.
    pub opened: String,
    /// When it was over; `None` if it is open.
    pub closed: Option<String>,
    /// When it opened, in nanoseconds since 1970.
    pub opened_unix_ns: u64,
    /// When it was over, in nanoseconds since 1970.
    pub closed_unix_ns: Option<u64>,
    /// For how long it was seen, in words.
    pub lasted: String,
    /// How often it came back after it had been over.
    pub reopened: u32,
    /// What will happen, and in what time; `None` if nothing is foreseen, or if it is over.
    pub outlook: Option<NoticeOutlook>,
    /// What changed on the machine shortly before, the latest last. Context, not causes.
    pub changes: Vec<NoticeChange>,
    /// What to type next. These commands change nothing.
    pub commands: Vec<NoticeCommand>,
    /// Whether another incident explains it.
    pub symptom: bool,
    /// Whether it is a test, and nothing is wrong.
    pub test: bool,
}

/// A measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NoticeEvidence {
    /// What was measured.
    pub what: String,
    /// The value with its unit, as people read it.
    pub measured: String,
    /// The threshold with its unit, if there is one.
    pub threshold: Option<String>,
    /// The value, in `unit`.
    pub value: f64,
    /// The unit of `value`.
    pub unit: Unit,
}

/// What will happen if the trend continues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NoticeOutlook {
    /// What will happen.
    pub what: String,
    /// Seconds until then, when the message was made.
    pub seconds: f64,
    /// The same in words.
    pub time_left: String,
    /// When that is, in nanoseconds since 1970; `None` if that is not known.
    pub at_unix_ns: Option<u64>,
}

/// Something that changed on the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NoticeChange {
    /// When, as `2026-11-29T03:02:10Z`.
    pub at: String,
    /// What changed.
    pub what: String,
}

/// A command that changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct NoticeCommand {
    /// The command.
    pub command: String,
    /// What it is for.
    pub why: String,
}

/// A part of a message: a heading and lines.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoticePart {
    /// The heading.
    pub heading: &'static str,
    /// Its lines.
    pub lines: Vec<String>,
    /// Whether the lines are commands, for copying.
    pub commands: bool,
}

impl NoticePart {
    /// A part of these lines.
    pub fn new(heading: &'static str, lines: Vec<String>, commands: bool) -> Self {
        Self { heading, lines, commands }
    }
}

/// The version of [`Notices`]. Grows when a field changes its meaning or is removed; new ones may come at any time.
pub const NOTICES_VERSION: u32 = 1;

/// What happened to incidents of a machine, as programs get it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Notices {
    /// [`NOTICES_VERSION`] of whoever sent it.
    pub version: u32,
    /// The version of kerno that sent it.
    pub kerno_version: String,
    /// When it was sent, as `2026-11-29T03:02:10Z`.
    pub sent: String,
    /// The name of the machine.
    pub host: String,
    /// The name of the sink that sent it.
    pub sink: String,
    /// What happened, in the order in which it did.
    pub events: Vec<IncidentEvent>,
}

/// What happened to an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct IncidentEvent {
    /// What happened.
    pub event: NoticeEvent,
    /// The incident, as it is since.
    pub incident: Notice,
}

impl Notices {
    /// What happened, as sent by that sink at that time.
    pub fn new(sink: &str, now_unix_ns: u64, events: Vec<(NoticeEvent, Notice)>) -> Self {
        Self {
            version: NOTICES_VERSION,
            kerno_version: env!("CARGO_PKG_VERSION").to_owned(),
            sent: rfc3339(now_unix_ns),
            host: events.first().map_or_else(String::new, |(_, notice)| notice.host.clone()),
            sink: sink.to_owned(),
            events: events.into_iter().map(|(event, incident)| IncidentEvent { event, incident }).collect(),
        }
    }
}

impl Notice {
    /// Puts an incident of this machine into a message.
    pub fn of(incident: &IncidentReport, host: &str, redaction: &Redaction) -> Self {
        let text = |text: &str| cut(&verbatim(&redaction.hide(text)), MAX_TEXT);
        let command = |text: &str| cut(&verbatim(&redaction.hide(text)), MAX_COMMAND);
        let finding = &incident.finding;
        let is_open = incident.state == IncidentState::Open;
        let outlook = incident.last.eta.as_ref().filter(|_| is_open).map(|eta| NoticeOutlook {
            what: text(&eta.what),
            seconds: eta.seconds,
            time_left: span(eta.seconds.max(0.0)),
            at_unix_ns: eta.at_unix_ns,
        });
        let safe = finding.fixes.iter().filter(|fix| fix.effect == Safety::ReadOnly);
        let latest = incident.changes.len().saturating_sub(MAX_CHANGES);
        Self {
            id: incident.id.to_string(),
            rule: incident.rule.clone(),
            state: incident.state,
            severity: incident.severity,
            title: text(&finding.title),
            cause: text(&finding.cause),
            impact: text(&finding.impact),
            host: text(host),
            unit: incident.unit.as_deref().map(command),
            culprit: harmless(&finding.culprit, &command),
            who: command(&who(&finding.culprit)),
            victims: finding.victims.iter().take(MAX_VICTIMS).map(|victim| text(&one_line(victim))).collect(),
            evidence: finding.evidence.iter().take(MAX_EVIDENCE).map(|one| NoticeEvidence::of(one, &text)).collect(),
            since: began(finding, incident),
            opened: incident.opened.clone(),
            closed: incident.closed.clone(),
            opened_unix_ns: incident.opened_unix_ns,
            closed_unix_ns: incident.closed_unix_ns,
            lasted: incident.lasted(),
            reopened: incident.reopened,
            outlook,
            changes: incident.changes.iter().skip(latest).map(|change| NoticeChange::of(change, &text)).collect(),
            commands: safe
                .take(MAX_COMMANDS)
                .map(|fix| NoticeCommand { command: command(&fix.command), why: text(&fix.why) })
                .collect(),
            symptom: incident.under.is_some(),
            test: false,
        }
    }

    /// A message that only shows that messages arrive.
    pub fn test(host: &str, now_unix_ns: u64) -> Self {
        Self {
            id: format!("test-{}", now_unix_ns / 1_000_000_000),
            rule: "test".to_owned(),
            state: IncidentState::Open,
            severity: Severity::Info,
            title: format!("Test from kerno on {host}: nothing is wrong"),
            cause: "Somebody ran `kerno alert test` to see whether messages arrive.".to_owned(),
            impact: "None.".to_owned(),
            host: host.to_owned(),
            unit: None,
            culprit: Culprit::default(),
            who: String::new(),
            victims: Vec::new(),
            evidence: vec![NoticeEvidence {
                what: "messages that arrived, if you read this".to_owned(),
                measured: "1".to_owned(),
                threshold: None,
                value: 1.0,
                unit: Unit::Count,
            }],
            since: rfc3339(now_unix_ns),
            opened: rfc3339(now_unix_ns),
            closed: None,
            opened_unix_ns: now_unix_ns,
            closed_unix_ns: None,
            lasted: span(0.0),
            reopened: 0,
            outlook: None,
            changes: Vec::new(),
            commands: vec![NoticeCommand {
                command: "kerno alert list".to_owned(),
                why: "shows where alerts go, and how that works".to_owned(),
            }],
            symptom: false,
            test: true,
        }
    }

    /// The same at another time: less time is left.
    #[must_use]
    pub fn as_of(mut self, now_unix_ns: u64) -> Self {
        if let Some(outlook) = &mut self.outlook
            && let Some(at) = outlook.at_unix_ns
        {
            #[allow(clippy::cast_precision_loss, reason = "a duration")]
            let seconds = at.saturating_sub(now_unix_ns) as f64 / 1e9;
            (outlook.seconds, outlook.time_left) = (seconds, span(seconds.round()));
        }
        self
    }

    /// What it says when that has happened, in one line.
    pub fn headline(&self, event: NoticeEvent) -> String {
        let severity = self.severity.name().to_uppercase();
        let what = match event {
            NoticeEvent::Opened => severity,
            NoticeEvent::Worse => format!("NOW {severity}"),
            NoticeEvent::Reopened => format!("{severity} AGAIN"),
            NoticeEvent::Resolved => "RESOLVED".to_owned(),
        };
        let test = if self.test { "TEST " } else { "" };
        format!("{test}{what} on {}: {}", self.host, self.title)
    }

    /// Where and when, in one line.
    pub fn place(&self) -> String {
        let time = |text: &str| text.replace('T', " ").replace('Z', " UTC");
        let unit = self.unit.as_ref().map(|unit| format!(", {unit}")).unwrap_or_default();
        let end = self.closed.as_deref().map(|closed| format!(", over {} after {}", time(closed), self.lasted));
        format!("{}{unit}, opened {}{}", self.host, time(&self.opened), end.unwrap_or_default())
    }

    /// The parts of a message after its headline, the most important first. When it is over, what was wrong is known by then.
    pub fn parts(&self, event: NoticeEvent) -> Vec<NoticePart> {
        let mut parts = Vec::new();
        let mut add = |heading, lines: Vec<String>, commands| {
            let lines: Vec<_> = lines.into_iter().filter(|line| !line.is_empty()).collect();
            if !lines.is_empty() {
                parts.push(NoticePart { heading, lines, commands });
            }
        };
        if event == NoticeEvent::Resolved {
            add("Over", vec![format!("after {}, {}", self.lasted, self.place())], false);
            return parts;
        }
        let outlook = self.outlook.as_ref().map(|outlook| format!("{} in {}", outlook.what, outlook.time_left));
        add("Time left", outlook.into_iter().collect(), false);
        add("Who", vec![self.who.clone()], false);
        add("Why", vec![self.cause.clone()], false);
        add("Impact", vec![self.impact.clone()], false);
        add("Affected", self.victims.clone(), false);
        let measured = |one: &NoticeEvidence| {
            let threshold = one.threshold.as_ref().map(|at| format!(" (threshold {at})")).unwrap_or_default();
            format!("{}: {}{threshold}", one.what, one.measured)
        };
        add("Evidence", self.evidence.iter().map(measured).collect(), false);
        add("Since", vec![self.since.clone()], false);
        let changed = |change: &NoticeChange| format!("{} {}", change.at, change.what);
        add("Changed before", self.changes.iter().map(changed).collect(), false);
        let commands = self.commands.iter().map(|one| one.command.clone());
        let show = (!self.test).then(|| format!("kerno incidents show {}", self.id));
        add("Look next (changes nothing)", commands.chain(show).collect(), true);
        parts
    }
}

impl NoticeEvidence {
    fn of(evidence: &Evidence, text: &dyn Fn(&str) -> String) -> Self {
        Self {
            what: text(&evidence.what),
            measured: quantity(evidence.value, evidence.unit),
            threshold: evidence.threshold.map(|at| quantity(at, evidence.unit)),
            value: evidence.value,
            unit: evidence.unit,
        }
    }
}

impl NoticeChange {
    fn of(change: &Changed, text: &dyn Fn(&str) -> String) -> Self {
        Self { at: change.at.clone(), what: text(&change.what) }
    }
}

/// When it began, in words.
fn began(finding: &Diagnosis, incident: &IncidentReport) -> String {
    super::words::since(finding, &incident.span())
}

/// Who it is, with what else is known.
fn who(culprit: &Culprit) -> String {
    let rest = particulars(culprit).into_iter().map(|(label, value)| format!("{label} {value}"));
    name(culprit).into_iter().chain(rest).collect::<Vec<_>>().join(", ")
}

/// Every field is named, so that none is forgotten.
fn harmless(culprit: &Culprit, text: &dyn Fn(&str) -> String) -> Culprit {
    let Culprit { pid, process, cmdline, user, cgroup, container, unit, device, mount, interface, remote, local } =
        culprit;
    let some = |value: &Option<String>| value.as_deref().map(text);
    Culprit {
        pid: *pid,
        process: some(process),
        cmdline: some(cmdline),
        user: some(user),
        cgroup: some(cgroup),
        container: container.as_ref().map(|container| Container {
            runtime: text(&container.runtime),
            id: text(&container.id),
            pod_uid: some(&container.pod_uid),
            name: some(&container.name),
            image: some(&container.image),
            pod: some(&container.pod),
            namespace: some(&container.namespace),
            workload: some(&container.workload),
        }),
        unit: some(unit),
        device: some(device),
        mount: some(mount),
        interface: some(interface),
        remote: some(remote),
        local: some(local),
    }
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().nth(most).is_none() {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(CUT.chars().count())).collect();
    kept + CUT
}

#[cfg(test)]
pub(super) mod tests {
    use kerno_model::{
        Change, ChangeKind, Eta, Finding, Incident, IncidentRecord, Moment, NamedProcess, ProcessId, RuleId, Subject,
        fill,
    };

    use super::*;

    fn record(cmdline: &str) -> IncidentRecord {
        let process = fill!(NamedProcess {
            id: ProcessId { boot: "b".into(), pid: 4711, start_ns: 1 },
            comm: "leaky".into(),
            cmdline: Some(cmdline.to_owned()),
        });
        let subject = fill!(Subject { process: Some(process), unit: Some("app.service".into()) });
        let now = Moment { unix_ns: 1_780_000_000_000_000_000, monotonic_ns: 1 };
        let mut finding = Finding::new(RuleId::default(), Severity::Warning)
            .about(subject.clone())
            .measured("x", 40.0, Unit::PerSecond, Some(1.0))
            .look_at_process("lsof -p 4711", "lists its files")
            .change("systemctl restart app.service", "frees them");
        finding.victims = vec![subject; 20];
        finding.eta = Some(Eta::new(now, 60.0, 1.0));
        let mut record = IncidentRecord::new(Incident::new(now, finding));
        let change = |at: u64| {
            let at = Moment { unix_ns: now.unix_ns - at, monotonic_ns: 0 };
            Change::new(at, ChangeKind::ProcessStarted, "app --token abc")
        };
        record.changes = (0..20).rev().map(|at| change(at * 1_000_000_000)).collect();
        record
    }

    pub(in super::super) fn incident() -> IncidentReport {
        IncidentReport::of(&record("leaky --password=x"))
    }

    #[test]
    fn it_has_no_secrets_anywhere_and_is_bounded() {
        let record = record(&format!("leaky --password=hunter2 \u{1b}[31m {}", "x".repeat(10_000)));
        let incident = IncidentReport::of(&record);
        let notice = Notice::of(&incident, "web-1", &Redaction::default());
        let json = serde_json::to_string(&notice).unwrap();
        assert!(!json.contains("hunter2") && !json.contains("token abc"), "{json}");
        assert!(json.contains("[hidden]") && json.contains("(cut)") && !json.contains('\u{1b}'), "{json}");
        assert!(json.len() < 16_000, "{}", json.len());
        assert_eq!((notice.victims.len(), notice.changes.len()), (MAX_VICTIMS, MAX_CHANGES));
        assert_eq!(notice.changes.last().map(|last| last.at.as_str()), Some(incident.opened.as_str()));
        assert!(notice.commands.iter().all(|one| !one.command.contains("restart")), "only what is safe");
        let shown = Notice::of(&incident, "web-1", &Redaction::off());
        assert!(serde_json::to_string(&shown).unwrap().contains("hunter2"), "the test would see it");
        let again: Notice = serde_json::from_str(&json).unwrap();
        assert_eq!(again, notice);
    }

    #[test]
    fn parts_come_in_the_order_in_which_they_matter() {
        let mut incident = IncidentReport::of(&record("leaky"));
        let notice = Notice::of(&incident, "web-1", &Redaction::default());
        let headings: Vec<_> = notice.parts(NoticeEvent::Opened).iter().map(|part| part.heading).collect();
        assert_eq!(headings.first(), Some(&"Time left"), "{headings:?}");
        assert!(headings.contains(&"Evidence") && headings.contains(&"Changed before"), "{headings:?}");
        assert!(notice.headline(NoticeEvent::Opened).starts_with("WARNING on web-1: "));
        incident.state = IncidentState::Closed;
        incident.closed = Some("2026-05-28T20:31:00Z".into());
        let over = Notice::of(&incident, "web-1", &Redaction::default());
        assert_eq!(over.outlook, None);
        assert!(over.headline(NoticeEvent::Resolved).starts_with("RESOLVED on web-1: "));
        assert_eq!(over.parts(NoticeEvent::Resolved).len(), 1);
        assert!(over.place().contains("over 2026-05-28 20:31:00 UTC"), "{}", over.place());
        let test = Notice::test("web-1", 1_780_000_000_000_000_000);
        assert!(test.headline(NoticeEvent::Opened).starts_with("TEST INFO on web-1: Test"));
        assert_eq!(test.opened, "2026-05-28T20:26:40Z");
    }
}
