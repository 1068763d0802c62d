//! What a fault is, what the doctor should say about it, and what proves that it took place.

use std::path::PathBuf;

use anyhow::Result;

use super::report::Diagnosis;
use super::scene::Scene;

/// A fault or a healthy load.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// In a few words, for `--list`.
    pub(super) about: &'static str,
    /// Programs that it needs, beside those that every one does.
    pub(super) needs: &'static [&'static str],
    /// Makes it happen. It goes on when this returns.
    pub(super) stage: fn(&mut Scene) -> Result<Staged>,
}

/// What was staged.
#[derive(Default)]
pub(super) struct Staged {
    /// The root causes to be found; none for a healthy load.
    pub(super) expected: Vec<Expected>,
    /// What shows that it took place, not asking the doctor.
    pub(super) proofs: Vec<Proof>,
}

/// A root cause to be found.
pub(super) struct Expected {
    /// Its id; where there are more, any of them is right.
    pub(super) ids: &'static [&'static str],
    /// All of these must hold for the culprit to be right.
    pub(super) marks: Vec<Mark>,
}

/// By what a finding is known to be about the right one.
pub(super) enum Mark {
    /// A process that was started, or one that it started.
    Process(u32),
    /// A cgroup.
    Cgroup(PathBuf),
    /// A device.
    Device(String),
    /// A mount point.
    Mount(PathBuf),
    /// The other end: an address, with or without a port.
    Remote(String),
    /// Our end.
    Local(String),
    /// A victim: a process that was started, or one that it started.
    Victim(u32),
    /// This is in the title or the cause.
    Says(&'static str),
    /// It has an ETA of about as many seconds as there are when the doctor has ended.
    Eta(Box<dyn Fn() -> f64>),
    /// Any of these.
    Any(Vec<Mark>),
}

impl Mark {
    /// Whether it fits. `is_of` tells whether a process (the second) is one that was started (the first), or one that that started.
    pub(super) fn fits(&self, finding: &Diagnosis, is_of: &dyn Fn(u32, u32) -> bool) -> bool {
        let culprit = &finding.culprit;
        let address = |given: &Option<String>, wanted: &str| {
            let given = given.as_deref().unwrap_or_default();
            let rest = given.strip_prefix(wanted);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        match self {
            Self::Process(session) => culprit.pid.is_some_and(|pid| is_of(*session, pid)),
            Self::Victim(session) => {
                finding.victims.iter().any(|victim| victim.pid.is_some_and(|pid| is_of(*session, pid)))
            }
            Self::Cgroup(path) => {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                culprit.cgroup.as_deref().is_some_and(|cgroup| cgroup.ends_with(name))
            }
            Self::Device(name) => culprit.device.as_deref().is_some_and(|device| device.ends_with(name.as_str())),
            Self::Mount(path) => culprit.mount.as_deref().map(std::path::Path::new) == Some(path.as_path()),
            Self::Remote(wanted) => address(&culprit.remote, wanted),
            Self::Local(wanted) => {
                address(&culprit.local, wanted)
                    || culprit.local.as_deref().is_some_and(|local| local.ends_with(wanted.as_str()))
            }
            Self::Says(words) => {
                let said = format!("{} {}", finding.title, finding.cause).to_lowercase();
                said.contains(words)
            }
            Self::Eta(truth) => {
                let truth = truth().max(0.1);
                finding.eta.as_ref().is_some_and(|eta| (truth / 2.0 - 1.0..=truth * 2.0 + 1.0).contains(&eta.seconds))
            }
            Self::Any(marks) => marks.iter().any(|mark| mark.fits(finding, is_of)),
        }
    }

    /// The processes whose families it asks for.
    pub(super) fn sessions(&self, into: &mut Vec<u32>) {
        match self {
            Self::Process(session) | Self::Victim(session) => into.push(*session),
            Self::Any(marks) => marks.iter().for_each(|mark| mark.sessions(into)),
            _ => {}
        }
    }
}

impl Expected {
    pub(super) fn new(ids: &'static [&'static str], marks: impl IntoIterator<Item = Mark>) -> Self {
        Self { ids, marks: marks.into_iter().collect() }
    }
}

impl Staged {
    pub(super) fn fault(ids: &'static [&'static str], marks: impl IntoIterator<Item = Mark>) -> Self {
        Self { expected: vec![Expected::new(ids, marks)], ..Self::default() }
    }

    /// A load that nothing is wrong with.
    pub(super) fn healthy() -> Self {
        Self::default()
    }

    /// Proven by a number that grows by this much at least while the doctor watches.
    pub(super) fn grows(mut self, what: &str, by: f64, read: impl Fn() -> Result<f64> + 'static) -> Self {
        self.proofs.push(Proof { what: what.to_owned(), at_least: by, grows: true, read: Box::new(read), before: 0.0 });
        self
    }

    /// Proven by a number that is at least this large when the doctor has watched.
    pub(super) fn reaches(mut self, what: &str, level: f64, read: impl Fn() -> Result<f64> + 'static) -> Self {
        let (read, what) = (Box::new(read), what.to_owned());
        self.proofs.push(Proof { what, at_least: level, grows: false, read, before: 0.0 });
        self
    }
}

/// A number of the kernel's that shows that something took place.
pub(super) struct Proof {
    what: String,
    at_least: f64,
    grows: bool,
    read: Box<dyn Fn() -> Result<f64>>,
    before: f64,
}

impl Proof {
    /// To be called when the doctor starts.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.before = if self.grows { (self.read)()? } else { 0.0 };
        Ok(())
    }

    /// To be called when it has ended: whether it took place, and the number.
    pub(super) fn end(&self) -> (bool, String) {
        match (self.read)() {
            Ok(now) => {
                let value = now - self.before;
                let sign = if self.grows { "+" } else { "" };
                (value >= self.at_least, format!("{} {sign}{value:.0} (at least {:.0})", self.what, self.at_least))
            }
            Err(error) => (false, format!("{}: {error:#}", self.what)),
        }
    }
}
