//! Findings in words, as [`Report`](super::Report)s contain them. Nothing else asks the rules for words.

use kerno_model::amount::number;
use kerno_model::{Container, Fact, Finding, Fingerprint, Safety, Severity, Span, Subject, Unit, Window};
use serde::{Deserialize, Serialize};

use crate::rule_by_id;

/// A measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Evidence {
    /// The name of the quantity within the rule. Stable.
    #[serde(default)]
    pub quantity: String,
    /// What was measured, in words, such as "write requests waited for the device (p99)".
    pub what: String,
    /// The value, in `unit`.
    pub value: f64,
    /// The unit of `value` and `threshold`.
    pub unit: Unit,
    /// The threshold that `value` is compared with, if any, in `unit`.
    pub threshold: Option<f64>,
}

/// An example of what happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Exemplar {
    /// When it happened, in seconds since the start of the window.
    pub seconds: f64,
    /// What happened, in words.
    pub what: String,
}

/// Who or what causes a problem or suffers from it. Only the fields that apply are set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct Culprit {
    /// The id of a process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its name, lossy; may contain control characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Its command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// The user that it runs as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The path of a cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// A container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// A systemd unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The name of a block device, or its `major:minor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// A mount point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// A network interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The remote end of connections: an address, or an address and a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The local end of connections, or where a process listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
}

impl From<&Subject> for Culprit {
    fn from(subject: &Subject) -> Self {
        let process = subject.process.as_ref();
        Self {
            pid: subject.pid(),
            process: process.map(|process| process.comm.clone()),
            cmdline: process.and_then(|process| process.cmdline.clone()),
            user: process.and_then(|process| process.user.clone()),
            cgroup: subject.cgroup.clone(),
            container: subject.container.clone(),
            unit: subject.unit.clone(),
            device: subject.device.as_ref().map(|device| device.name.clone()),
            mount: subject.mount.clone(),
            interface: subject.interface.clone(),
            remote: subject.remote.map(|address| address.to_string()),
            local: subject.local.map(|address| address.to_string()),
        }
    }
}

/// A command to run next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Fix {
    /// The command, with the actual process, device or address filled in.
    pub command: String,
    /// Whether it changes anything.
    pub effect: Safety,
    /// What it is for.
    pub why: String,
}

/// When something will happen if the trend continues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Eta {
    /// Seconds from the end of the window until then.
    pub seconds: f64,
    /// When that is, in nanoseconds since 1970; `None` if that is not known.
    #[serde(default)]
    pub at_unix_ns: Option<u64>,
    /// What will happen then.
    pub what: String,
    /// How well the trend fits the measurements (R squared), 0 to 1.
    pub fit: f64,
}

/// A step in the chain from a cause to its consequences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Step {
    /// When it began, in seconds since the start of the window; 0 if it had begun before.
    pub seconds: f64,
    /// What happened, in words.
    pub what: String,
}

/// A problem, with its culprit and what to do about it, in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Diagnosis {
    /// The rule that found it, such as `fd_leak`. Stable.
    pub id: String,
    /// Which of the cases that the rule distinguishes; empty if it distinguishes none. Stable.
    #[serde(default)]
    pub variant: String,
    /// Its identity, which stays the same from window to window.
    #[serde(default)]
    pub fingerprint: Fingerprint,
    /// How bad it is, its consequences included.
    pub severity: Severity,
    /// What is wrong, in one line that names the culprit.
    pub title: String,
    /// The signal that it comes from.
    pub signal: String,
    /// Why it happens.
    pub cause: String,
    /// What it does to others.
    pub impact: String,
    /// The measurements.
    pub evidence: Vec<Evidence>,
    /// Examples of what happened.
    pub exemplars: Vec<Exemplar>,
    /// Who or what causes it; empty if that is not known.
    pub culprit: Culprit,
    /// Who suffers. Bounded.
    pub victims: Vec<Culprit>,
    /// Commands to run next.
    pub fixes: Vec<Fix>,
    /// When it began, in seconds since the start of the window; `None` if it had begun before.
    pub since: Option<f64>,
    /// When it began, in nanoseconds since 1970; `None` if it had begun before the window.
    #[serde(default)]
    pub since_unix_ns: Option<u64>,
    /// When it will get worse.
    pub eta: Option<Eta>,
    /// How far it is past its threshold, as a multiple of it: 1 is exactly at the threshold.
    pub excess: f64,
    /// How certain the finding is, 0 to 1.
    pub confidence: f64,
    /// How it led to its consequences, in order of time; empty without consequences.
    pub chain: Vec<Step>,
    /// What is known about it, as data.
    #[serde(default)]
    pub facts: Vec<Fact>,
    /// Its consequences: findings that would go away with it.
    pub consequences: Vec<Diagnosis>,
}

/// The bound for numbers, since JSON has no infinity.
const VAST: f64 = 1e9;

impl Diagnosis {
    /// Puts a finding of a window into words, with the findings under it.
    pub fn of(finding: &Finding, window: &Window) -> Self {
        Self::told(finding, &window.span, true)
    }

    pub(super) fn told(finding: &Finding, span: &Span, root: bool) -> Self {
        let rule = rule_by_id(finding.rule.as_str());
        let words = crate::words(finding);
        let label =
            |evidence: &kerno_model::Evidence| rule.map_or_else(|| number(evidence.value), |rule| rule.label(evidence));
        let measured = finding.evidence.iter().filter(|evidence| evidence.value.is_finite());
        let chain = if root { chain(finding, &words.title, span) } else { Vec::new() };
        Self {
            id: finding.rule.to_string(),
            variant: finding.variant.to_string(),
            fingerprint: finding.fingerprint(),
            severity: finding.worst(),
            title: words.title,
            signal: rule.map_or_else(String::new, |rule| rule.signal.to_owned()),
            cause: words.cause,
            impact: words.impact,
            evidence: measured
                .map(|evidence| Evidence {
                    quantity: evidence.quantity.to_string(),
                    what: label(evidence),
                    value: evidence.value,
                    unit: evidence.unit,
                    threshold: evidence.threshold.filter(|line| line.is_finite()),
                })
                .collect(),
            exemplars: finding
                .exemplars
                .iter()
                .map(|exemplar| Exemplar {
                    seconds: span.seconds_at(exemplar.at).max(0.0),
                    what: exemplar.what.clone(),
                })
                .collect(),
            culprit: Culprit::from(&finding.subject),
            victims: finding.victims.iter().map(Culprit::from).collect(),
            fixes: finding
                .fixes
                .iter()
                .map(|fix| Fix { command: fix.command.clone(), effect: fix.effect, why: fix.why.clone() })
                .collect(),
            since: finding.since.map(|since| span.seconds_at(since).max(0.0)),
            since_unix_ns: finding.since.map(|since| since.unix_ns),
            eta: finding.eta.as_ref().filter(|eta| eta.seconds.is_finite() && eta.fit.is_finite()).map(|eta| Eta {
                seconds: eta.seconds,
                at_unix_ns: Some(eta.at.unix_ns).filter(|at| *at > 0),
                what: words.outlook,
                fit: eta.fit,
            }),
            excess: if finding.excess.is_nan() { 1.0 } else { finding.excess.clamp(-VAST, VAST) },
            confidence: finding.confidence,
            chain,
            facts: finding.facts.clone(),
            consequences: finding.consequences.iter().map(|finding| Self::told(finding, span, false)).collect(),
        }
    }
}

/// How a root cause led to its consequences, in the order in which they began.
fn chain(root: &Finding, title: &str, span: &Span) -> Vec<Step> {
    if root.consequences.is_empty() {
        return Vec::new();
    }
    let began = |finding: &Finding| finding.since.map_or(0.0, |since| span.seconds_at(since).max(0.0));
    let mut steps = Vec::new();
    root.consequences.iter().for_each(|consequence| gather(consequence, &began, &mut steps));
    steps.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    // The cause comes first even if sampling saw a consequence a little earlier.
    steps.insert(0, Step { seconds: began(root), what: title.to_owned() });
    let mut told = std::collections::HashSet::new();
    steps.retain(|step| told.insert(step.what.clone()));
    steps
}

/// Adds a step for a consequence and for each one under it.
fn gather(finding: &Finding, began: &impl Fn(&Finding) -> f64, steps: &mut Vec<Step>) {
    let rule = rule_by_id(finding.rule.as_str());
    let how = rule.zip(finding.through).and_then(|(rule, effect)| rule.suffers.iter().find(|line| line.from == effect));
    let who = finding.subject.label().unwrap_or_else(|| crate::words(finding).title);
    let what = how.map_or_else(|| who.clone(), |line| format!("{who}: {}", line.how));
    steps.push(Step { seconds: began(finding), what });
    finding.consequences.iter().for_each(|consequence| gather(consequence, began, steps));
}

/// Built by hand, for tests of the layout.
#[cfg(test)]
impl Diagnosis {
    pub(super) fn made(id: &str, signal: &str, severity: Severity, title: &str) -> Self {
        let span = Span::default();
        let finding = Finding::new(kerno_model::RuleId::default(), severity);
        Self {
            id: id.to_owned(),
            signal: signal.to_owned(),
            title: title.to_owned(),
            ..Self::told(&finding, &span, true)
        }
    }

    pub(super) fn measured(mut self, what: &str, value: f64, unit: Unit, threshold: Option<f64>) -> Self {
        self.evidence.push(Evidence { quantity: String::new(), what: what.to_owned(), value, unit, threshold });
        self
    }

    pub(super) fn fix(mut self, effect: Safety, command: &str, why: &str) -> Self {
        self.fixes.push(Fix { command: command.to_owned(), effect, why: why.to_owned() });
        self
    }
}
