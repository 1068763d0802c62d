//! A finding without its words and numbers: what it is, about whom, and what it is tied to.

use kerno_model::{Effect, Entity, Fact, Finding, Safety, Severity, Subject};
use serde::{Deserialize, Serialize};

/// What must not change by itself about a finding and those under it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outline {
    /// The rule that found it.
    pub rule: String,
    /// Which of the things that the rule tells apart.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// How bad it is by itself.
    pub severity: Severity,
    /// Through which effect the finding above brought it about; `None` for a root cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<Effect>,
    /// Whom or what it is about.
    pub who: String,
    /// What others may be tied to it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<Fact>,
    /// Who suffers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub victims: Vec<String>,
    /// What each command looks at or changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fixes: Vec<String>,
    /// What follows from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consequences: Vec<Outline>,
}

impl Outline {
    /// That of a finding and of those under it.
    pub fn of(finding: &Finding) -> Self {
        let fix = |fix: &kerno_model::Fix| {
            let verb = if fix.effect == Safety::ReadOnly { "look at" } else { "change" };
            format!("{verb} {}", entity(&fix.acts_on))
        };
        Self {
            rule: finding.rule.to_string(),
            variant: finding.variant.to_string(),
            severity: finding.severity,
            through: finding.through,
            who: subject(&finding.subject),
            facts: finding.facts.iter().filter(|fact| !matches!(fact, Fact::Detail { .. })).cloned().collect(),
            victims: finding.victims.iter().map(subject).collect(),
            fixes: finding.fixes.iter().map(fix).collect(),
            consequences: finding.consequences.iter().map(Self::of).collect(),
        }
    }
}

/// Everything that is known of it, in one line.
fn subject(subject: &Subject) -> String {
    let named = [
        ("cgroup", subject.cgroup.clone()),
        ("container", subject.container.as_ref().map(|container| container.id.clone())),
        ("unit", subject.unit.clone()),
        ("device", subject.device.as_ref().map(|device| device.name.clone())),
        ("mount", subject.mount.clone()),
        ("interface", subject.interface.clone()),
        ("remote", subject.remote.map(|address| address.to_string())),
        ("local", subject.local.map(|address| address.to_string())),
    ];
    let process = subject.process.iter().map(|process| match process.ended {
        true => format!("{process}, which has ended"),
        false => process.to_string(),
    });
    let named = named.into_iter().filter_map(|(kind, name)| Some(format!("{kind} {}", name?)));
    process.chain(named).collect::<Vec<_>>().join(", ")
}

fn entity(entity: &Entity) -> String {
    match entity {
        Entity::Machine => "the machine".to_owned(),
        Entity::Process(id) => format!("process {}", id.pid),
        Entity::Thread { process, tid } => format!("thread {tid} of process {}", process.pid),
        Entity::Cgroup(path) => format!("cgroup {path}"),
        Entity::Container { id, .. } => format!("container {id}"),
        Entity::Unit(name) => format!("unit {name}"),
        Entity::Device(device) => format!("device {}", device.name),
        Entity::Mount(path) => format!("mount {path}"),
        Entity::Interface(name) => format!("interface {name}"),
        Entity::Address(address) => format!("address {address}"),
        Entity::File(path) => format!("file {path}"),
        Entity::Lock(name) => format!("lock {name}"),
        Entity::Limit(name) => format!("limit {name}"),
        other => format!("{other:?}"),
    }
}
