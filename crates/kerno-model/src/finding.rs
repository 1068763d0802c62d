use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    Address, Device, Entity, Fact, Limit, Moment, NamedProcess, ProcessId, RequestKind, Scope, Subject, Unit, Value,
    WaitsFor,
};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For information: nothing suffers.
    Info,
    /// Something suffers, or will soon.
    Warning,
    /// Something fails or is stuck, or soon will be.
    Critical,
}

impl Severity {
    /// Its name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The id of a rule, such as `fd_leak`. Stable: configuration, history and alerts name rules by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct RuleId(Cow<'static, str>);

impl RuleId {
    /// The id of a rule of this build.
    pub const fn new(id: &'static str) -> Self {
        Self(Cow::Borrowed(id))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl PartialEq<str> for RuleId {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for RuleId {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

/// A measurement. The rule has the label in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Evidence {
    /// The name of the quantity within the rule, such as `new_per_second`. Stable.
    pub quantity: Cow<'static, str>,
    /// Who or what was measured, if the rule measures several, such as the name of a process or an operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The value, in `unit`.
    pub value: f64,
    /// The unit of `value` and `threshold`.
    pub unit: Unit,
    /// The threshold that `value` is compared with, if any, in `unit`.
    #[serde(default)]
    pub threshold: Option<f64>,
}

impl Evidence {
    /// A measurement of the only thing that the rule measures, without a threshold.
    pub fn new(quantity: impl Into<Cow<'static, str>>, value: f64, unit: Unit) -> Self {
        Self { quantity: quantity.into(), of: None, value, unit, threshold: None }
    }
}

/// An example of what happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Exemplar {
    /// When it happened.
    pub at: Moment,
    /// What happened, in words.
    pub what: String,
}

impl Exemplar {
    /// What happened then, in words.
    pub fn new(at: Moment, what: impl Into<String>) -> Self {
        Self { at, what: what.into() }
    }
}

/// Whether a command changes the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Safety {
    /// It changes nothing.
    ReadOnly,
    /// It changes something.
    Changing,
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
    /// What it reads or changes. A command whose target is gone is withdrawn.
    pub acts_on: Entity,
}

impl Fix {
    /// A command that reads or changes `acts_on`, and what it is for.
    pub fn new(command: impl Into<String>, effect: Safety, why: impl Into<String>, acts_on: Entity) -> Self {
        Self { command: command.into(), effect, why: why.into(), acts_on }
    }
}

/// When something will happen if the trend continues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Eta {
    /// When it will happen.
    pub at: Moment,
    /// Seconds from the end of the window until then.
    pub seconds: f64,
    /// How well the trend fits the measurements (R squared), 0 to 1.
    pub fit: f64,
}

impl Eta {
    /// So many seconds after the end of the window, which is at `at`, by a trend that fits so well.
    pub fn new(at: Moment, seconds: f64, fit: f64) -> Self {
        Self { at, seconds, fit }
    }
}

/// How one problem affects others. Each rule declares which effects its findings have and which they suffer from; this decides which
/// finding explains another. If several explain it equally well, the effect that comes first here wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Effect {
    /// Requests to a device fail.
    StorageFails,
    /// A file system is full.
    NoSpace,
    /// Requests to a device, or those of a cgroup, take long.
    StorageSlow,
    /// Memory ran out, and a process was killed.
    MemoryRanOut,
    /// Memory is about to run out.
    MemoryRunsOut,
    /// Tasks have to wait for memory.
    MemoryShort,
    /// A table of file descriptors is filling up.
    DescriptorsFill,
    /// No file descriptor is left.
    NoDescriptors,
    /// A CPU quota stops the tasks of a cgroup.
    HeldBackByQuota,
    /// The hypervisor gives the CPUs to others.
    CpusStolen,
    /// Other tasks use the CPUs.
    CpusTaken,
    /// Connections are not accepted.
    NotAccepted,
    /// Segments are lost in the network.
    SegmentsLost,
    /// Packets are dropped or damaged on this machine.
    PacketsDropped,
    /// A host does not answer, or part of what is sent to it never arrives.
    PathBroken,
    /// Connections cannot be opened.
    ConnectsFail,
    /// Files cannot be opened.
    OpensFail,
    /// A task is stuck in the kernel.
    StandsStill,
    /// A process that others wait for does not go on.
    HoldsUp,
    /// A limit of another kind is reached.
    LimitReached,
}

/// A problem, as data: the rule that found it, who or what it is about, and what is known about it. Words are made from it last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Finding {
    /// The rule that found it.
    pub rule: RuleId,
    /// Which of the cases that the rule distinguishes; empty if it distinguishes none. Stable.
    #[serde(default)]
    pub variant: Cow<'static, str>,
    /// How bad it is, without its consequences.
    pub severity: Severity,
    /// Who or what causes it; empty if that is not known.
    #[serde(default)]
    pub subject: Subject,
    /// What is known about it.
    #[serde(default)]
    pub facts: Vec<Fact>,
    /// Who suffers. Bounded.
    #[serde(default)]
    pub victims: Vec<Subject>,
    /// The measurements.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
    /// Examples of what happened.
    #[serde(default)]
    pub exemplars: Vec<Exemplar>,
    /// When it began; `None` if it had begun before the window.
    #[serde(default)]
    pub since: Option<Moment>,
    /// When it will get worse.
    #[serde(default)]
    pub eta: Option<Eta>,
    /// Commands to run next.
    #[serde(default)]
    pub fixes: Vec<Fix>,
    /// How far it is past its threshold, as a multiple of it: 1 is exactly at the threshold.
    pub excess: f64,
    /// How certain the finding is, 0 to 1.
    pub confidence: f64,
    /// The effect by which its cause leads to it; `None` for a root cause.
    #[serde(default)]
    pub through: Option<Effect>,
    /// Its consequences: findings that would go away with it.
    #[serde(default)]
    pub consequences: Vec<Finding>,
}

impl Finding {
    /// A finding of a rule, with everything else still to be set.
    pub fn new(rule: RuleId, severity: Severity) -> Self {
        Self {
            rule,
            variant: Cow::Borrowed(""),
            severity,
            subject: Subject::default(),
            facts: Vec::new(),
            victims: Vec::new(),
            evidence: Vec::new(),
            exemplars: Vec::new(),
            since: None,
            eta: None,
            fixes: Vec::new(),
            excess: 1.0,
            confidence: 0.9,
            through: None,
            consequences: Vec::new(),
        }
    }

    /// Sets which of the cases of the rule it is.
    #[must_use]
    pub fn variant(mut self, variant: &'static str) -> Self {
        self.variant = Cow::Borrowed(variant);
        self
    }

    /// Sets who or what it is about.
    #[must_use]
    pub fn about(mut self, subject: Subject) -> Self {
        self.subject = subject;
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn fact(mut self, fact: Fact) -> Self {
        self.facts.push(fact);
        self
    }

    /// Adds a detail for the words of the rule.
    #[must_use]
    pub fn detail(self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fact(Fact::Detail { name: Cow::Borrowed(name), value: value.into() })
    }

    /// Adds a measurement, with the threshold that it is compared with.
    #[must_use]
    pub fn measured(self, quantity: &'static str, value: f64, unit: Unit, threshold: Option<f64>) -> Self {
        self.evidence(Evidence { quantity: Cow::Borrowed(quantity), of: None, value, unit, threshold })
    }

    /// Adds a measurement of one of several things that the rule measures.
    #[must_use]
    pub fn measured_of(
        self,
        quantity: &'static str,
        of: impl Into<String>,
        value: f64,
        unit: Unit,
        threshold: Option<f64>,
    ) -> Self {
        self.evidence(Evidence { quantity: Cow::Borrowed(quantity), of: Some(of.into()), value, unit, threshold })
    }

    fn evidence(mut self, evidence: Evidence) -> Self {
        self.evidence.push(evidence);
        self
    }

    /// Adds a command that reads the state of the machine.
    #[must_use]
    pub fn look(self, command: impl Into<String>, why: impl Into<String>) -> Self {
        self.fix(Entity::Machine, Safety::ReadOnly, command, why)
    }

    /// Adds a command that reads the state of the process of the subject.
    #[must_use]
    pub fn look_at_process(self, command: impl Into<String>, why: impl Into<String>) -> Self {
        let target = self.process_or_machine();
        self.fix(target, Safety::ReadOnly, command, why)
    }

    /// Adds a command that changes the machine.
    #[must_use]
    pub fn change(self, command: impl Into<String>, why: impl Into<String>) -> Self {
        self.fix(Entity::Machine, Safety::Changing, command, why)
    }

    /// Adds a command that changes the process of the subject.
    #[must_use]
    pub fn change_process(self, command: impl Into<String>, why: impl Into<String>) -> Self {
        let target = self.process_or_machine();
        self.fix(target, Safety::Changing, command, why)
    }

    /// Adds a command with its target.
    #[must_use]
    pub fn fix(mut self, acts_on: Entity, effect: Safety, command: impl Into<String>, why: impl Into<String>) -> Self {
        self.fixes.push(Fix { command: command.into(), effect, why: why.into(), acts_on });
        self
    }

    fn process_or_machine(&self) -> Entity {
        self.subject.process.as_ref().map_or(Entity::Machine, |process| Entity::Process(process.id.clone()))
    }

    /// The errors that it is about.
    pub fn errnos(&self) -> impl Iterator<Item = i32> + '_ {
        self.facts.iter().filter_map(|fact| if let Fact::Errno(errno) = fact { Some(*errno) } else { None })
    }

    /// The system calls that it is about.
    pub fn calls(&self) -> impl Iterator<Item = &str> {
        self.facts.iter().filter_map(|fact| if let Fact::Call(call) = fact { Some(call.as_str()) } else { None })
    }

    /// Whether it has that fact.
    pub fn has(&self, fact: &Fact) -> bool {
        self.facts.contains(fact)
    }

    /// What a task waits for, if it is about that.
    pub fn waits_for(&self) -> Option<WaitsFor> {
        self.facts.iter().find_map(|fact| if let Fact::WaitsFor(what) = fact { Some(*what) } else { None })
    }

    /// How far it reaches, if it is known.
    pub fn scope(&self) -> Option<&Scope> {
        self.facts.iter().find_map(|fact| if let Fact::Scope(scope) = fact { Some(scope) } else { None })
    }

    /// The operation that it is about, if it is known.
    pub fn operation(&self) -> Option<RequestKind> {
        self.facts.iter().find_map(|fact| if let Fact::Operation(operation) = fact { Some(*operation) } else { None })
    }

    /// Whether that limit is reached.
    pub fn is_at(&self, limit: Limit) -> bool {
        self.has(&Fact::AtLimit(limit))
    }

    /// A detail, by name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.facts.iter().find_map(|fact| match fact {
            Fact::Detail { name: known, value } if known == name => Some(value),
            _ => None,
        })
    }

    /// A detail that is a number, or else the measurement of that name.
    pub fn number(&self, name: &str) -> Option<f64> {
        match self.get(name) {
            Some(Value::Number { value, .. }) => Some(*value),
            _ => self.evidence.iter().find(|evidence| evidence.quantity == name).map(|evidence| evidence.value),
        }
    }

    /// A detail that is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A detail that is a process.
    pub fn process(&self, name: &str) -> Option<&NamedProcess> {
        match self.get(name) {
            Some(Value::Process(process)) => Some(process),
            _ => None,
        }
    }

    /// Whether a detail is a flag that is set.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Flag(true)))
    }

    /// How bad it is, its consequences included.
    pub fn worst(&self) -> Severity {
        self.consequences.iter().map(Self::worst).fold(self.severity, Severity::max)
    }

    /// The id of the process that causes it, if there is one.
    pub fn pid(&self) -> Option<u32> {
        self.subject.pid()
    }

    /// Its identity, the same from window to window and after a restart of kerno: the rule, the variant, and the stable parts of the
    /// subject.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self)
    }
}

/// The identity of a finding: 16 hexadecimal digits, from the rule, the variant and the stable parts of the subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    fn of(finding: &Finding) -> Self {
        let mut hash = Fnv::default();
        hash.text(finding.rule.as_str());
        hash.text(&finding.variant);
        // A shortage that affects many is the same one, even when another process takes the most.
        let subject = match finding.scope() {
            Some(Scope::Machine) => {
                hash.entity(&Entity::Machine);
                finding.subject.place()
            }
            Some(Scope::Cgroup(path)) => Subject { cgroup: Some(path.clone()), ..finding.subject.place() },
            _ => finding.subject.clone(),
        };
        subject.stable().iter().for_each(|entity| hash.entity(entity));
        Self(hash.0)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Fingerprint {
    fn schema_name() -> Cow<'static, str> {
        "Fingerprint".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        String::json_schema(generator)
    }
}

/// FNV-1a with 64 bits. It is the same on every machine and in every version, which the hashers of the standard library do not promise.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Adds text and its end, so that `ab`, `c` differs from `a`, `bc`.
    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
        self.bytes(&[0]);
    }

    fn process(&mut self, id: &ProcessId) {
        self.text(&id.boot);
        self.bytes(&id.pid.to_le_bytes());
        self.bytes(&id.start_ns.to_le_bytes());
    }

    fn entity(&mut self, entity: &Entity) {
        match entity {
            Entity::Machine => self.text("machine"),
            Entity::Process(id) => {
                self.text("process");
                self.process(id);
            }
            Entity::Thread { process, tid } => {
                self.text("thread");
                self.process(process);
                self.bytes(&tid.to_le_bytes());
            }
            Entity::Container { runtime, id } => {
                self.text("container");
                self.text(runtime);
                self.text(id);
            }
            // The number of a device may change at each boot; its name is more stable.
            Entity::Device(Device { name, .. }) => self.named("device", name),
            Entity::Address(address @ Address { .. }) => self.named("address", &address.to_string()),
            Entity::Cgroup(name) => self.named("cgroup", name),
            Entity::Unit(name) => self.named("unit", name),
            Entity::Mount(name) => self.named("mount", name),
            Entity::Interface(name) => self.named("interface", name),
            Entity::File(name) => self.named("file", name),
            Entity::Lock(name) => self.named("lock", name),
            Entity::Limit(name) => self.named("limit", name),
        }
    }

    fn named(&mut self, kind: &str, name: &str) {
        self.text(kind);
        self.text(name);
    }
}
