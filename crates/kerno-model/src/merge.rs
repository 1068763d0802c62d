//! Windows add up: seconds to hours.
//!
//! What many short windows say together is what one long window over the same time would have said. Counts and histograms add up, of
//! extremes the highest or lowest is kept, of states the latest, of first times the earliest; shares of the time are weighted with the
//! length of what they are shares of. Entries of lists are joined by what they are about. What cannot be had exactly is listed in
//! [`Merged`], so that whoever shows or judges a merged window can tell.

mod lists;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::vocabulary::vocabulary;
use crate::{Missing, Process, SCHEMA_VERSION, Series, SummaryLoss, TaskUse, Window};

pub(crate) use lists::{Entry, join_list};

/// Windows that follow each other so closely, or overlap by so little, adjoin: clocks are read one after the other.
const ADJOINING_SECONDS: f64 = 0.01;

/// The most gaps that are listed; of more the shortest are left out.
const MAX_GAPS: usize = 64;

/// The most processes that a merged window has.
const MAX_PROCESSES: usize = 4096;

/// Without boot ids: the start of the machine, computed from both clocks, differs by no more in windows of one boot.
const SAME_START_SECONDS: f64 = 2.0;

/// What a window that was merged of others is made of, and what of it is not exact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Merged {
    /// How many windows.
    pub windows: u32,
    /// Time between them that was not watched, in seconds. Not part of `span.seconds`, which rates and shares are of; times in the
    /// window, such as those of series, go on through it.
    pub unwatched_seconds: f64,
    /// When that was, the earliest first. Bounded: of very many the longest.
    pub gaps: Vec<Gap>,
    /// Signals that were observed for a part of the watched time only: for how long, in seconds. Their counts and shares are of that.
    pub observed_seconds: BTreeMap<String, f64>,
    /// Entries that lists had no more room for, by the list's path in the window, such as `tcp_monitor.peers`.
    pub left_out: BTreeMap<String, u64>,
    /// What is not exactly what one window over the whole time would have said, by its path in the window, and why.
    pub inexact: BTreeMap<String, Inexact>,
    /// Process ids that were used again by another process. Of these `processes` has the later one; entries of the earlier one are
    /// kept apart.
    pub reused_pids: BTreeSet<u32>,
}

/// Time between two windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Gap {
    /// When it began: seconds since the window began.
    pub at: f64,
    /// How long it was.
    pub seconds: f64,
}

vocabulary! {
    /// Why something in a merged window is not exact.
    Inexact {
        /// The list has the first of many: an entry lacks what it did in windows where it was not among them.
        Selection = "selection",
        /// What lasted over several windows is counted in each.
        CountedAgain = "counted_again",
        /// It is the highest of the windows' values; over the whole time it may be higher.
        AtLeast = "at_least",
        /// Of a part of the windows it is not known.
        Partial = "partial",
        ..
        /// For another reason.
        Other = "other"
    }
}

/// Why windows cannot be merged.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum MergeError {
    /// They are of different machines.
    OtherMachine,
    /// The machine was started anew between them: process ids and times are others.
    OtherBoot,
    /// They overlap by so many seconds: what happened then would count twice.
    Overlap {
        /// How long both watched.
        seconds: f64,
    },
    /// The second one was before the first.
    Earlier,
}

impl std::fmt::Display for MergeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OtherMachine => f.write_str("the windows are of different machines"),
            Self::OtherBoot => f.write_str("the machine was started anew between the windows"),
            Self::Overlap { seconds } => write!(f, "the windows overlap by {seconds:.3} seconds"),
            Self::Earlier => f.write_str("the second window was before the first"),
        }
    }
}

impl std::error::Error for MergeError {}

/// What merging one window into another must know beside the two parts.
#[derive(Debug)]
pub(crate) struct Joint<'a> {
    /// From the begin of the earlier window to that of the later one, in seconds.
    pub(crate) shift: f64,
    /// For how long the signal at hand was observed in each, in seconds.
    pub(crate) weights: (f64, f64),
    /// Each is one window, not merged of several.
    pub(crate) single: (bool, bool),
    /// Ids that are another process's in the later window.
    pub(crate) reused: &'a BTreeSet<u32>,
    /// Processes of both windows.
    pub(crate) processes: &'a BTreeMap<u32, Process>,
    pub(crate) later_processes: &'a BTreeMap<u32, Process>,
    pub(crate) notes: &'a mut Merged,
}

impl Joint<'_> {
    /// A share of the time.
    pub(crate) fn share(&self, ours: f64, later: f64) -> f64 {
        let (a, b) = self.weights;
        if a + b > 0.0 { (ours * a + later * b) / (a + b) } else { later }
    }

    /// A share of the time where it may not be known.
    pub(crate) fn known_share(&mut self, path: &str, ours: Option<f64>, later: Option<f64>) -> Option<f64> {
        match (ours, later) {
            (Some(ours), Some(later)) => Some(self.share(ours, later)),
            (None, None) => None,
            (known, None) | (None, known) => {
                self.inexact(path, Inexact::Partial);
                known
            }
        }
    }

    pub(crate) fn inexact(&mut self, path: &str, why: Inexact) {
        self.notes.inexact.entry(path.to_owned()).or_insert(why);
    }

    /// The same process: by its id, and where that has been used again, by its name too.
    pub(crate) fn same_process(&self, ours: (u32, &str), later: (u32, &str)) -> bool {
        ours.0 == later.0
            && !self.reused.contains(&ours.0)
            && (ours.1 == later.1 || !self.notes.reused_pids.contains(&ours.0))
    }

    /// Adds the processes that another list has, and puts those first that used most in both windows together.
    pub(crate) fn pids(&self, ours: &mut Vec<u32>, later: &[u32], max: usize, used: fn(&TaskUse) -> u64) {
        ours.retain(|pid| !self.reused.contains(pid) && !later.contains(pid));
        ours.extend_from_slice(later);
        let of = |processes: &BTreeMap<u32, Process>, pid: &u32| processes.get(pid).map_or(0, |p| used(&p.used));
        ours.sort_by_key(|pid| {
            let before = if self.reused.contains(pid) { 0 } else { of(self.processes, pid) };
            (Reverse(before.saturating_add(of(self.later_processes, pid))), *pid)
        });
        ours.truncate(max);
    }

    pub(crate) fn series(&self, ours: &mut Series, later: &Series) {
        ours.append(later, self.shift);
    }
}

/// A part of a window.
pub(crate) trait Part: Clone {
    /// The signal.
    const SIGNAL: &'static str;

    /// Adds what a later window says.
    fn merge(&mut self, later: &Self, joint: &mut Joint<'_>);

    /// Moves times that are counted from the window's begin; of a window before which this signal was not observed.
    fn shift(&mut self, seconds: f64);
}

/// The earlier of two times; 0 is not known.
pub(crate) fn earliest(a: u64, b: u64) -> u64 {
    match (a, b) {
        (0, known) | (known, 0) => known,
        (a, b) => a.min(b),
    }
}

/// The later text, unless it says nothing.
pub(crate) fn latest_text(ours: &mut String, later: &str) {
    if !later.is_empty() {
        later.clone_into(ours);
    }
}

/// Puts the later value in, unless it says nothing.
pub(crate) fn latest<T: Clone + Default + PartialEq>(ours: &mut T, later: &T) {
    if *later != T::default() {
        ours.clone_from(later);
    }
}

impl Window {
    /// Adds a later window of the same boot of the same machine, so that this one says what one window over both would have said.
    ///
    /// `span.seconds` is then the time watched. Time between the two is kept in [`merged`](Self::merged), which also says what is
    /// not exact.
    ///
    /// # Errors
    /// When the windows do not belong together, overlap, or come in the wrong order. This window is then as it was.
    pub fn merge(&mut self, later: &Self) -> Result<(), MergeError> {
        let gap = self.gap_to(later)?;
        let watched = (self.span.seconds, later.span.seconds);
        let shift = seconds_between(self.span.started_ns, later.span.started_ns);
        let covered = self.covered_seconds();
        let single = (self.merged.is_none(), later.merged.is_none());
        let mut notes = self.merged.take().unwrap_or_else(|| Merged { windows: 1, ..Merged::default() });
        take_notes(&mut notes, later, gap, shift, covered);
        let reused: BTreeSet<u32> = later
            .processes
            .iter()
            .filter(|(pid, process)| self.processes.get(*pid).is_some_and(|ours| !is_same(ours, process)))
            .map(|(pid, _)| *pid)
            .collect();
        let mut joint = Joint {
            shift,
            weights: watched,
            single,
            reused: &reused,
            processes: &self.processes,
            later_processes: &later.processes,
            notes: &mut notes,
        };
        merge_part(&mut self.syscall_latency, later.syscall_latency.as_ref(), watched, later, &mut joint);
        merge_part(&mut self.tcp_monitor, later.tcp_monitor.as_ref(), watched, later, &mut joint);
        merge_part(&mut self.oom_track, later.oom_track.as_ref(), watched, later, &mut joint);
        merge_part(&mut self.disk_io, later.disk_io.as_ref(), watched, later, &mut joint);
        merge_part(&mut self.sched_delay, later.sched_delay.as_ref(), watched, later, &mut joint);
        merge_part(&mut self.fd_track, later.fd_track.as_ref(), watched, later, &mut joint);
        merge_part(&mut self.file_audit, later.file_audit.as_ref(), watched, later, &mut joint);
        notes.reused_pids.extend(reused);
        self.schema_version = SCHEMA_VERSION;
        latest_text(&mut self.kerno_version, &later.kerno_version);
        self.host = later.host.clone();
        // At an adjoining end both have the same sample.
        let shared = u32::from(gap == 0.0);
        self.span.seconds += later.span.seconds;
        self.span.samples += later.span.samples.saturating_sub(shared);
        for missing in &later.missing {
            add_missing(&mut self.missing, missing.clone());
        }
        self.tell_partly_observed(&notes);
        self.cost.cpu_seconds += later.cost.cpu_seconds;
        self.cost.resident_bytes = later.cost.resident_bytes;
        for (signal, loss) in &later.cost.loss {
            *self.cost.loss.entry(signal.clone()).or_default() += *loss;
        }
        self.merge_processes(&later.processes, &mut notes);
        self.merged = Some(notes);
        Ok(())
    }

    /// From the window's begin to its end, in seconds: with the time between merged windows that was not watched.
    pub fn covered_seconds(&self) -> f64 {
        self.span.seconds + self.merged.as_ref().map_or(0.0, |merged| merged.unwatched_seconds)
    }

    /// Seconds between the end of this window and the begin of a later one; 0 when they adjoin.
    fn gap_to(&self, later: &Self) -> Result<f64, MergeError> {
        let known = |id: &str| !id.is_empty();
        if self.host.hostname != later.host.hostname {
            return Err(MergeError::OtherMachine);
        }
        let (boot, later_boot) = (&self.host.boot_id, &later.host.boot_id);
        let same_boot = if known(boot) && known(later_boot) {
            boot == later_boot
        } else {
            (self.machine_start() - later.machine_start()).abs() <= SAME_START_SECONDS
        };
        if !same_boot {
            return Err(MergeError::OtherBoot);
        }
        let shift = seconds_between(self.span.started_ns, later.span.started_ns);
        let gap = shift - self.covered_seconds();
        if gap >= -ADJOINING_SECONDS && shift >= 0.0 {
            return Ok(if gap <= ADJOINING_SECONDS { 0.0 } else { gap });
        }
        if shift + later.covered_seconds() <= 0.0 {
            return Err(MergeError::Earlier);
        }
        let begin = shift.max(0.0);
        let end = self.covered_seconds().min(shift + later.covered_seconds());
        Err(MergeError::Overlap { seconds: end - begin })
    }

    /// When `CLOCK_MONOTONIC` was 0: seconds since 1970.
    #[allow(clippy::cast_precision_loss, reason = "seconds")]
    fn machine_start(&self) -> f64 {
        self.span.started_unix - self.span.started_ns as f64 / 1e9
    }

    fn tell_partly_observed(&mut self, notes: &Merged) {
        self.missing.retain(|missing| missing.what != PART_OF_THE_TIME);
        for (signal, seconds) in &notes.observed_seconds {
            let reason = format!("observed for {seconds:.1} of {:.1} seconds", self.span.seconds);
            self.missing.push(Missing { signal: signal.clone(), what: PART_OF_THE_TIME.into(), reason });
        }
    }

    fn merge_processes(&mut self, later: &BTreeMap<u32, Process>, notes: &mut Merged) {
        for (pid, process) in later {
            match self.processes.get_mut(pid) {
                Some(ours) if is_same(ours, process) => ours.merge(process),
                Some(ours) => ours.clone_from(process),
                None => drop(self.processes.insert(*pid, process.clone())),
            }
        }
        if self.processes.len() <= MAX_PROCESSES {
            return;
        }
        let named = self.named_pids();
        let mut order: Vec<_> =
            self.processes.values().map(|p| (!named.contains(&p.pid), !p.alive, p.used.run_ns, p.pid)).collect();
        // Those that a part names first, then those that live, then those that used most CPU time.
        order.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(b.2.cmp(&a.2)).then(a.3.cmp(&b.3)));
        let dropped = order.split_off(MAX_PROCESSES);
        *notes.left_out.entry("processes".into()).or_default() += dropped.len() as u64;
        dropped.iter().for_each(|(_, _, _, pid)| drop(self.processes.remove(pid)));
    }

    /// The processes that the parts name.
    pub fn named_pids(&self) -> BTreeSet<u32> {
        let parts = [
            self.syscall_latency.as_ref().map(crate::SyscallSummary::pids),
            self.tcp_monitor.as_ref().map(crate::TcpSummary::pids),
            self.oom_track.as_ref().map(crate::OomSummary::pids),
            self.disk_io.as_ref().map(crate::DiskSummary::pids),
            self.sched_delay.as_ref().map(crate::SchedSummary::pids),
            self.fd_track.as_ref().map(crate::FdSummary::pids),
            self.file_audit.as_ref().map(crate::FileSummary::pids),
        ];
        parts.into_iter().flatten().flatten().filter(|pid| *pid != 0).collect()
    }
}

/// What [`Missing`] of a signal that was observed for a part of the time says.
const PART_OF_THE_TIME: &str = "a part of the time";

fn take_notes(notes: &mut Merged, later: &Window, gap: f64, shift: f64, covered: f64) {
    notes.windows += later.merged.as_ref().map_or(1, |merged| merged.windows);
    if gap > 0.0 {
        notes.unwatched_seconds += gap;
        notes.gaps.push(Gap { at: covered, seconds: gap });
    }
    if let Some(later) = &later.merged {
        notes.unwatched_seconds += later.unwatched_seconds;
        notes.gaps.extend(later.gaps.iter().map(|gap| Gap { at: gap.at + shift, ..*gap }));
        for (list, count) in &later.left_out {
            *notes.left_out.entry(list.clone()).or_default() += count;
        }
        for (path, why) in &later.inexact {
            notes.inexact.entry(path.clone()).or_insert(*why);
        }
        notes.reused_pids.extend(&later.reused_pids);
    }
    while notes.gaps.len() > MAX_GAPS {
        let shortest = notes.gaps.iter().enumerate().min_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
        let Some((at, _)) = shortest else { break };
        notes.gaps.remove(at);
    }
}

/// Merges a part that either window may lack.
fn merge_part<P: Part>(
    ours: &mut Option<P>,
    part: Option<&P>,
    watched: (f64, f64),
    later: &Window,
    joint: &mut Joint<'_>,
) {
    let observed_later = later.merged.as_ref().and_then(|merged| merged.observed_seconds.get(P::SIGNAL)).copied();
    let observed = joint.notes.observed_seconds.get(P::SIGNAL).copied();
    let of_ours = if ours.is_some() { observed.unwrap_or(watched.0) } else { 0.0 };
    let of_later = if part.is_some() { observed_later.unwrap_or(watched.1) } else { 0.0 };
    joint.weights = (of_ours, of_later);
    match (ours.as_mut(), part) {
        (Some(ours), Some(part)) => ours.merge(part, joint),
        (None, Some(part)) => {
            let mut part = part.clone();
            part.shift(joint.shift);
            *ours = Some(part);
        }
        (_, None) => {}
    }
    let all = watched.0 + watched.1;
    let sum = of_ours + of_later;
    if sum > 0.0 && sum < all {
        joint.notes.observed_seconds.insert(P::SIGNAL.to_owned(), sum);
    }
}

fn add_missing(all: &mut Vec<Missing>, missing: Missing) {
    if !all.iter().any(|known| (&known.signal, &known.what) == (&missing.signal, &missing.what)) {
        all.push(missing);
    }
}

/// Whether it is one process; without start times, whether nothing speaks against it.
fn is_same(ours: &Process, later: &Process) -> bool {
    ours.started_ns == 0 || later.started_ns == 0 || ours.started_ns == later.started_ns
}

impl Process {
    fn merge(&mut self, later: &Self) {
        let used = self.used;
        let cmdline = std::mem::take(&mut self.cmdline);
        let known = std::mem::replace(self, later.clone());
        self.used += used;
        // Who ended can no longer be looked up.
        if self.cmdline.is_empty() && self.comm == known.comm {
            self.cmdline = cmdline;
        }
        if self.comm.is_empty() {
            self.comm = known.comm;
        }
        self.started_ns = if self.started_ns == 0 { known.started_ns } else { self.started_ns };
        self.user = self.user.take().or(known.user);
        self.cgroup = self.cgroup.take().or(known.cgroup);
        self.container = self.container.take().or(known.container);
        self.unit = self.unit.take().or(known.unit);
    }
}

impl std::ops::AddAssign for SummaryLoss {
    fn add_assign(&mut self, other: Self) {
        self.overflow += other.overflow;
        self.untracked += other.untracked;
        self.missed_runs += other.missed_runs;
    }
}

/// From one time of `CLOCK_MONOTONIC` to another; negative when the second is earlier.
#[allow(clippy::cast_precision_loss, reason = "seconds")]
fn seconds_between(from_ns: u64, to_ns: u64) -> f64 {
    if to_ns >= from_ns { (to_ns - from_ns) as f64 / 1e9 } else { -((from_ns - to_ns) as f64 / 1e9) }
}
