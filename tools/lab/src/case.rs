//! What a fault is, what the doctor should say about it, and what proves that it took place.

use std::path::PathBuf;

use anyhow::Result;
use kerno_doctor::corpus as truth;

use super::scene::{Families, Scene};

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
    /// A network interface.
    Interface(&'static str),
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
    /// What is known of it now that the doctor has ended: `families` are the processes that were seen of each that was started.
    fn truth(&self, families: &Families) -> truth::Mark {
        let family = |session: &u32| {
            let seen = families.get(session).into_iter().flatten();
            seen.chain([session]).copied().collect()
        };
        match self {
            Self::Process(session) => truth::Mark::Process(family(session)),
            Self::Victim(session) => truth::Mark::Victim(family(session)),
            Self::Cgroup(path) => {
                truth::Mark::Cgroup(path.file_name().unwrap_or_default().to_string_lossy().into_owned())
            }
            Self::Device(name) => truth::Mark::Device(name.clone()),
            Self::Mount(path) => truth::Mark::Mount(path.display().to_string()),
            Self::Interface(name) => truth::Mark::Interface((*name).to_owned()),
            Self::Remote(wanted) => truth::Mark::Remote(wanted.clone()),
            Self::Local(wanted) => truth::Mark::Local(wanted.clone()),
            Self::Says(words) => truth::Mark::Says((*words).to_owned()),
            Self::Eta(seconds) => truth::Mark::EtaSeconds(seconds()),
            Self::Any(marks) => truth::Mark::Any(marks.iter().map(|mark| mark.truth(families)).collect()),
        }
    }
}

impl Expected {
    pub(super) fn new(ids: &'static [&'static str], marks: impl IntoIterator<Item = Mark>) -> Self {
        Self { ids, marks: marks.into_iter().collect() }
    }

    /// What is known of it now that the doctor has ended.
    pub(super) fn truth(&self, families: &Families) -> truth::Expected {
        let rules = self.ids.iter().map(|id| (*id).to_owned()).collect();
        truth::Expected { rules, marks: self.marks.iter().map(|mark| mark.truth(families)).collect() }
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

    /// What is known of what is to be found, now that the doctor has ended.
    pub(super) fn truth(&self, families: &Families) -> Vec<truth::Expected> {
        self.expected.iter().map(|expected| expected.truth(families)).collect()
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
