//! What changed on the machine lately: context for those who look at an incident, never a cause by itself.
//!
//! A thread of its own looks every few seconds, since files that are read here may be on a disk that hangs. What only windows show (limits of
//! cgroups, steps of the clock) the loop adds.

mod mounts;
mod packages;
mod started;
mod sysctl;
mod windows;

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kerno_bpf::probe::clock::unix_offset_ns;
use kerno_model::{Change, ChangeKind, Moment};

pub(crate) use windows::WindowChanges;

/// How often to look.
const EVERY: Duration = Duration::from_secs(10);

/// The most changes that are remembered.
const MAX_REMEMBERED: usize = 512;

/// Changes up to so long before an incident are told beside it.
const BEFORE_NS: u64 = 30 * 60 * 1_000_000_000;

/// The most that are told beside one incident: of the usual coming and going of processes, and of all else.
const MAX_STARTED: usize = 8;
const MAX_OTHERS: usize = 16;

#[derive(Debug, Default)]
struct Remembered(Mutex<VecDeque<Change>>);

impl Remembered {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Change>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, changes: impl IntoIterator<Item = Change>) {
        let mut remembered = self.lock();
        for change in changes {
            if remembered.len() >= MAX_REMEMBERED {
                remembered.pop_front();
            }
            remembered.push_back(change);
        }
    }

    /// Those shortly before a moment, in their order.
    fn before(&self, moment: Moment) -> Vec<Change> {
        let near =
            |change: &&Change| change.at.unix_ns <= moment.unix_ns && change.at.unix_ns + BEFORE_NS >= moment.unix_ns;
        let mut all: Vec<_> = self.lock().iter().filter(near).cloned().collect();
        all.sort_by_key(|change| change.at.unix_ns);
        let is_usual = |change: &Change| matches!(change.kind, ChangeKind::ProcessStarted | ChangeKind::ProcessEnded);
        let mut room = [MAX_OTHERS, MAX_STARTED];
        // The latest are nearest.
        let mut told: Vec<_> = all
            .into_iter()
            .rev()
            .filter(|change| {
                let room = &mut room[usize::from(is_usual(change))];
                let there_is = *room > 0;
                *room = room.saturating_sub(1);
                there_is
            })
            .collect();
        told.reverse();
        told
    }
}

/// The thread that looks.
#[derive(Debug)]
pub(crate) struct Changes {
    remembered: Arc<Remembered>,
    /// Dropping it ends the thread.
    _end: Sender<()>,
}

impl Changes {
    pub(crate) fn start() -> std::io::Result<Self> {
        let remembered = Arc::new(Remembered::default());
        let found = Arc::clone(&remembered);
        let (end, ended) = channel();
        let look = move || {
            let mut looker = Looker::new();
            found.add(looker.lately());
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                found.add(looker.look());
            }
        };
        std::thread::Builder::new().name("kerno changes".into()).spawn(look)?;
        Ok(Self { remembered, _end: end })
    }

    pub(crate) fn add(&self, changes: Vec<Change>) {
        self.remembered.add(changes);
    }

    /// What changed shortly before a moment.
    pub(crate) fn before(&self, moment: Moment) -> Vec<Change> {
        self.remembered.before(moment)
    }
}

struct Looker {
    mounts: mounts::Mounts,
    sysctls: sysctl::Sysctls,
    packages: packages::Packages,
    started: started::Started,
}

impl Looker {
    fn new() -> Self {
        Self {
            mounts: mounts::Mounts::now(),
            sysctls: sysctl::Sysctls::now(),
            packages: packages::Packages::now(),
            started: started::Started::now(),
        }
    }

    /// What the machine itself remembers of the time before.
    fn lately(&mut self) -> Vec<Change> {
        let mut changes = self.packages.lately();
        changes.extend(self.started.lately());
        changes
    }

    fn look(&mut self) -> Vec<Change> {
        let mut changes = self.mounts.look();
        changes.extend(self.sysctls.look());
        changes.extend(self.packages.look());
        changes.extend(self.started.look());
        changes
    }
}

/// Now, by both clocks.
fn now() -> Moment {
    let now = jiff::Timestamp::now().as_nanosecond();
    moment(now)
}

/// A moment by the wall clock.
fn moment(unix_ns: i128) -> Moment {
    let unsigned = |ns: i128| u64::try_from(ns).unwrap_or(0);
    Moment { monotonic_ns: unsigned(unix_ns - unix_offset_ns()), unix_ns: unsigned(unix_ns) }
}

/// A change from one text to another.
fn change(at: Moment, kind: ChangeKind, what: &str, before: Option<&str>, after: Option<&str>) -> Change {
    let mut change = Change::new(at, kind, what);
    change.before = before.map(str::to_owned);
    change.after = after.map(str::to_owned);
    change
}

/// What differs between two states, each a text by a name.
fn compare(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>, kind: ChangeKind) -> Vec<Change> {
    let at = now();
    let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
    let gone = gone.map(|(name, was)| change(at, kind, name, Some(was), None));
    let other = after.iter().filter(|(name, is)| before.get(*name) != Some(*is));
    gone.chain(other.map(|(name, is)| change(at, kind, name, before.get(name).map(String::as_str), Some(is)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment { monotonic_ns: 0, unix_ns: seconds * 1_000_000_000 }
    }

    #[test]
    fn what_is_near_is_told_and_the_usual_does_not_crowd_out_the_rest() {
        let remembered = Remembered::default();
        remembered.add([
            Change::new(at(100), ChangeKind::Mount, "/long ago"),
            Change::new(at(5000), ChangeKind::Sysctl, "vm.swappiness"),
        ]);
        remembered.add((0..100).map(|i| Change::new(at(5100 + i), ChangeKind::ProcessStarted, format!("p{i}"))));
        remembered.add([Change::new(at(9000), ChangeKind::Mount, "/later")]);
        let told = remembered.before(at(5500));
        let what: Vec<_> = told.iter().map(|change| change.what.as_str()).collect();
        assert_eq!(what, ["vm.swappiness", "p92", "p93", "p94", "p95", "p96", "p97", "p98", "p99"]);
        remembered.add((0..2000).map(|i| Change::new(at(i), ChangeKind::Other, "x")));
        assert_eq!(remembered.lock().len(), MAX_REMEMBERED);
    }

    #[test]
    fn differences_are_told_with_before_and_after() {
        let state = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let before = state(&[("/", "ext4 (rw)"), ("/mnt", "xfs (rw)")]);
        let after = state(&[("/", "ext4 (ro)"), ("/new", "tmpfs (rw)")]);
        let changes = compare(&before, &after, ChangeKind::Mount);
        let told: Vec<_> = changes.iter().map(|c| (c.what.as_str(), c.before.as_deref(), c.after.as_deref())).collect();
        assert_eq!(
            told,
            [
                ("/mnt", Some("xfs (rw)"), None),
                ("/", Some("ext4 (rw)"), Some("ext4 (ro)")),
                ("/new", None, Some("tmpfs (rw)"))
            ]
        );
    }
}
