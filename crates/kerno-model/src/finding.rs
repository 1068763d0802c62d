use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    Address, Device, Entity, Fact, Limit, NamedProcess, ProcessId, RequestKind, Scope, Subject, Value, WaitsFor,
};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing suffers from it.
    Info,
    /// Something suffers, or will soon.
    Warning,
    /// Something fails or stands still, or is about to.
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

/// What a number is a number of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// How many.
    Count,
    /// How many a second.
    PerSecond,
    /// A share, 0 to 1.
    Ratio,
    /// So many times as much.
    Times,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Bytes.
    Bytes,
    /// Bytes a second.
    BytesPerSecond,
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

/// A moment, by both clocks: the wall clock's for people and other machines, and the one that no step of the wall clock changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Moment {
    /// `CLOCK_MONOTONIC` of the initial time namespace, in nanoseconds.
    pub monotonic_ns: u64,
    /// Nanoseconds since 1970, by the clock as it was when the window was observed.
    pub unix_ns: u64,
}

/// Something that was measured. What is called so in words, its rule knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Evidence {
    /// What, by the rule's name for it: `new_per_second`. Stable.
    pub quantity: Cow<'static, str>,
    /// Of whom or what, where the rule measures several: a process's name, an operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
    /// From where on it is a symptom, where there is such a line.
    #[serde(default)]
    pub threshold: Option<f64>,
}

/// Something that happened, as an example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Exemplar {
    /// When.
    pub at: Moment,
    /// What, in words.
    pub what: String,
}

/// What typing a command would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Safety {
    /// It only looks.
    ReadOnly,
    /// It changes something.
    Changing,
}

/// Something to type next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Fix {
    /// The command, with the real process, device or address in it.
    pub command: String,
    /// Whether it changes anything.
    pub effect: Safety,
    /// What it is good for.
    pub why: String,
    /// What it acts on or looks at. One whose target has ended is withdrawn.
    pub acts_on: Entity,
}

/// When something will happen if all goes on as it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Eta {
    /// When.
    pub at: Moment,
    /// In how many seconds, counted from the window's end.
    pub seconds: f64,
    /// How well the trend fits what was seen (R squared), 0 to 1.
    pub fit: f64,
}

/// What one thing that is wrong does to others: the rules say which effects theirs have and from which they suffer, and that is what
/// makes causes of findings and consequences of others. Where several would explain a finding equally well, the earlier one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Effect {
    /// Requests to a device fail.
    StorageFails,
    /// There is no room on a file system.
    NoSpace,
    /// Requests to a device, or of a cgroup, take long.
    StorageSlow,
    /// Memory ran out, and something was killed for it.
    MemoryRanOut,
    /// Memory is about to run out.
    MemoryRunsOut,
    /// Tasks have to wait for memory.
    MemoryShort,
    /// A table of file descriptors fills up.
    DescriptorsFill,
    /// There is no file descriptor left.
    NoDescriptors,
    /// A quota holds a cgroup's tasks back.
    HeldBackByQuota,
    /// The hypervisor gives CPUs to others.
    CpusStolen,
    /// Others have the CPUs.
    CpusTaken,
    /// Connections are not accepted.
    NotAccepted,
    /// Segments are lost on the way.
    SegmentsLost,
    /// Connections cannot be opened.
    ConnectsFail,
    /// Files cannot be opened.
    OpensFail,
    /// A task stands still in the kernel.
    StandsStill,
}

/// Something that is wrong, as data: which rule found it, who or what it is about, what is known of it. Words are made of it last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// The rule that found it.
    pub rule: RuleId,
    /// Which of the things that the rule tells apart; empty when it tells none apart. Stable.
    #[serde(default)]
    pub variant: Cow<'static, str>,
    /// How bad it is by itself, whatever follows from it.
    pub severity: Severity,
    /// Who or what is behind it; empty when that cannot be told.
    #[serde(default)]
    pub subject: Subject,
    /// What is known of it.
    #[serde(default)]
    pub facts: Vec<Fact>,
    /// Who suffers. Bounded.
    #[serde(default)]
    pub victims: Vec<Subject>,
    /// What was measured.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
    /// Examples of what happened.
    #[serde(default)]
    pub exemplars: Vec<Exemplar>,
    /// When it began; `None` when it was so from the window's begin.
    #[serde(default)]
    pub since: Option<Moment>,
    /// When it will get worse.
    #[serde(default)]
    pub eta: Option<Eta>,
    /// What to type next.
    #[serde(default)]
    pub fixes: Vec<Fix>,
    /// How far past its threshold it is: 1 is just there.
    pub excess: f64,
    /// How sure this is, 0 to 1.
    pub confidence: f64,
    /// How the finding that this one is under brought it about; `None` for a root cause.
    #[serde(default)]
    pub through: Option<Effect>,
    /// What follows from it: findings that would go if this one did.
    #[serde(default)]
    pub consequences: Vec<Finding>,
}

impl Finding {
    /// A finding of a rule, with everything else still to be said.
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

    /// Says which of the things that the rule tells apart it is.
    #[must_use]
    pub fn variant(mut self, variant: &'static str) -> Self {
        self.variant = Cow::Borrowed(variant);
        self
    }

    /// Says whom or what it is about.
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

    /// Adds a detail for the rule's own words.
    #[must_use]
    pub fn detail(self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fact(Fact::Detail { name: Cow::Borrowed(name), value: value.into() })
    }

    /// Adds what was measured and the line that it crossed.
    #[must_use]
    pub fn measured(self, quantity: &'static str, value: f64, unit: Unit, threshold: Option<f64>) -> Self {
        self.evidence(Evidence { quantity: Cow::Borrowed(quantity), of: None, value, unit, threshold })
    }

    /// The same of somebody or something, where the rule measures several.
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

    /// Adds a command that only looks, at the machine.
    #[must_use]
    pub fn look(self, command: impl Into<String>, why: impl Into<String>) -> Self {
        self.fix(Entity::Machine, Safety::ReadOnly, command, why)
    }

    /// Adds a command that only looks, at the subject's process.
    #[must_use]
    pub fn look_at_process(self, command: impl Into<String>, why: impl Into<String>) -> Self {
        let target = self.process_or_machine();
        self.fix(target, Safety::ReadOnly, command, why)
    }

    /// Adds a command that changes something of the machine.
    #[must_use]
    pub fn change(self, command: impl Into<String>, why: impl Into<String>) -> Self {
        self.fix(Entity::Machine, Safety::Changing, command, why)
    }

    /// Adds a command that changes something of the subject's process.
    #[must_use]
    pub fn change_process(self, command: impl Into<String>, why: impl Into<String>) -> Self {
        let target = self.process_or_machine();
        self.fix(target, Safety::Changing, command, why)
    }

    /// Adds a command, with what it acts on.
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

    /// What somebody waits for, if it is about that.
    pub fn waits_for(&self) -> Option<WaitsFor> {
        self.facts.iter().find_map(|fact| if let Fact::WaitsFor(what) = fact { Some(*what) } else { None })
    }

    /// How far it reaches, if it says.
    pub fn scope(&self) -> Option<&Scope> {
        self.facts.iter().find_map(|fact| if let Fact::Scope(scope) = fact { Some(scope) } else { None })
    }

    /// The operation that it is about, if it says.
    pub fn operation(&self) -> Option<RequestKind> {
        self.facts.iter().find_map(|fact| if let Fact::Operation(operation) = fact { Some(*operation) } else { None })
    }

    /// Whether that limit is reached.
    pub fn is_at(&self, limit: Limit) -> bool {
        self.has(&Fact::AtLimit(limit))
    }

    /// A detail by its name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.facts.iter().find_map(|fact| match fact {
            Fact::Detail { name: known, value } if known == name => Some(value),
            _ => None,
        })
    }

    /// A detail that is a number, or else what was measured by that name.
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

    /// Whether a detail says that it is so.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Flag(true)))
    }

    /// How bad it is together with all that follows from it.
    pub fn worst(&self) -> Severity {
        self.consequences.iter().map(Self::worst).fold(self.severity, Severity::max)
    }

    /// The process behind it, if there is one.
    pub fn pid(&self) -> Option<u32> {
        self.subject.pid()
    }

    /// What it stays the same by, from window to window and after a restart of whoever watches: the rule, the variant, and what is
    /// stable of the subject.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self)
    }
}

/// The identity of a finding: 16 hexadecimal digits, from rule, variant and what is stable of the subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    fn of(finding: &Finding) -> Self {
        let mut hash = Fnv::default();
        hash.text(finding.rule.as_str());
        hash.text(&finding.variant);
        // What is short for many stays the same when another takes the most of it.
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

/// FNV-1a, 64 bits: the same on every machine and in every version, which the standard library's hashers do not promise.
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

    /// With its end, so that `ab`, `c` differs from `a`, `bc`.
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
            // A kernel may number a device anew at each boot; its name is what it is known by.
            Entity::Device(Device { name, .. }) => self.named("device", name),
            Entity::Address(address @ Address { .. }) => self.named("address", &address.to_string()),
            Entity::Cgroup(name) => self.named("cgroup", name),
            Entity::Unit(name) => self.named("unit", name),
            Entity::Mount(name) => self.named("mount", name),
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
