//! Windows add up: seconds to hours.
//!
//! What many short windows say together is what one long window over the same time would have said. Counts and histograms add up. Of
//! extremes the highest or lowest is kept, of states the latest, of first times the earliest. Shares of the time are weighted with the
//! length of what they are shares of. Series are joined; long ones are thinned and keep their ends and extremes. Entries of lists are
//! joined by what they are about. What cannot be exact is listed in [`Merged`], with a bound where there is one, so that whoever shows or
//! judges a merged window can tell.
//!
//! It does not matter in which order neighbours are merged, except where a list has no more room for an entry. A merged window has
//! bounded lists, so each merge takes about as long as the one before.

mod lists;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::merged::{Gap, Inexact, MergeError, Merged};
use crate::{Missing, Process, SCHEMA_VERSION, Series, SummaryLoss, TaskUse, Window};

pub(crate) use lists::{Entry, Selected, cut_lists, join_list};

/// Windows that follow each other so closely, or overlap by so little, adjoin: clocks are read one after the other.
const ADJOINING_SECONDS: f64 = 0.01;

/// Less is not time that was not watched, but rounding.
const ROUNDING_SECONDS: f64 = 1e-6;

/// The most processes that a merged window has.
const MAX_PROCESSES: usize = 4096;

/// Without boot ids: the start of the machine, computed from both clocks, differs by no more in windows of one boot.
const SAME_START_SECONDS: f64 = 2.0;

/// What [`Missing`] says of a signal that was observed for a part of the time.
const PART_OF_THE_TIME: &str = "a part of the time";

/// What merging one window into another must know beside the two parts.
#[derive(Debug)]
pub(crate) struct Joint<'a> {
    /// From the start of the earlier window to that of the later one, in seconds.
    shift: f64,
    /// The start of the earlier window: `CLOCK_MONOTONIC`, in seconds.
    origin: f64,
    /// For how long the signal at hand was observed in each, in seconds.
    weights: (f64, f64),
    /// Ids that belong to another process in the later window.
    reused: &'a BTreeSet<u32>,
    /// Processes of the later window.
    later_processes: &'a BTreeMap<u32, Process>,
    pub(crate) notes: &'a mut Merged,
}

impl Joint<'_> {
    /// A share of the time.
    pub(crate) fn share(&self, ours: f64, later: f64) -> f64 {
        let (a, b) = self.weights;
        if a + b > 0.0 { (ours * a + later * b) / (a + b) } else { later }
    }

    /// A share of the time that may not be known: it is at least so much, if it is only known of one of the windows.
    pub(crate) fn known_share(&mut self, path: &str, ours: Option<f64>, later: Option<f64>) -> Option<f64> {
        if ours.is_none() && later.is_none() {
            return None;
        }
        if ours.is_none() || later.is_none() {
            self.inexact(path, Inexact::AtLeast);
        }
        Some(self.share(ours.unwrap_or(0.0), later.unwrap_or(0.0)))
    }

    pub(crate) fn inexact(&mut self, path: &str, why: Inexact) {
        self.notes.inexact.entry(path.to_owned()).or_insert(why);
    }

    /// The same process: by its id, and by its name too if the id has been used again.
    pub(crate) fn same_process(&self, ours: (u32, &str), later: (u32, &str)) -> bool {
        ours.0 == later.0 && (ours.1 == later.1 || !self.is_reused(ours.0))
    }

    fn is_reused(&self, pid: u32) -> bool {
        self.reused.contains(&pid) || self.notes.reused_pids.contains(&pid)
    }

    /// Whether a process that the later window's list lacks may still exist.
    pub(crate) fn may_be_alive(&self, pid: u32) -> bool {
        !self.reused.contains(&pid) && self.later_processes.get(&pid).is_none_or(|process| process.alive)
    }

    pub(crate) fn series(&self, ours: &mut Series, later: &Series) {
        ours.append(later, self.shift, self.origin);
    }

    /// Moves the times of a series that only the later window has.
    pub(crate) fn shift(&self, series: &mut Series) {
        series.shift(self.shift);
    }
}

/// A part of a window.
pub(crate) trait Part: Clone {
    /// The signal.
    const SIGNAL: &'static str;

    /// Tells which lists of a window are, or may be, the first of many.
    fn cuts(&self, notes: &mut Merged);

    /// Adds what a later window says.
    fn merge(&mut self, later: &Self, joint: &mut Joint<'_>);

    /// Puts those processes first that used most in the merged window, where it names several for one thing.
    fn rank_processes(&mut self, processes: &BTreeMap<u32, Process>, notes: &mut Merged) {
        let _ = (processes, notes);
    }

    /// Moves times that are counted from the window's start; of a window before which this signal was not observed.
    fn shift(&mut self, seconds: f64);
}

/// Adds the processes that a later list has.
pub(crate) fn join_pids(ours: &mut Vec<u32>, later: &[u32]) {
    let new: Vec<_> = later.iter().copied().filter(|pid| !ours.contains(pid)).collect();
    ours.extend(new);
}

/// Puts those processes first that used most.
pub(crate) fn rank_pids(
    pids: &mut Vec<u32>,
    (path, max): (&str, usize),
    used: fn(&TaskUse) -> u64,
    processes: &BTreeMap<u32, Process>,
    notes: &mut Merged,
) {
    pids.sort_by_key(|pid| (Reverse(processes.get(pid).map_or(0, |process| used(&process.used))), *pid));
    if pids.len() > max {
        notes.left_out(path, pids.len() - max, None);
        pids.truncate(max);
    }
}

/// Adds to a count.
pub(crate) fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
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
    /// `span.seconds` is then the time watched, and `span.unwatched_seconds` the time between the two. [`merged`](Self::merged) says what
    /// is not exact.
    ///
    /// # Errors
    /// If the windows do not belong together, overlap, or come in the wrong order. This window is then as it was.
    pub fn merge(&mut self, later: &Self) -> Result<(), MergeError> {
        let gap = self.gap_to(later)?;
        let watched = (self.span.seconds, later.span.seconds);
        let shift = seconds_between(self.span.started_ns, later.span.started_ns);
        let mut notes = self.merged.take().unwrap_or_else(|| self.notes());
        let of_later =
            later.merged.as_ref().map_or_else(|| std::borrow::Cow::Owned(later.notes()), std::borrow::Cow::Borrowed);
        let observed = std::mem::take(&mut notes.observed_seconds);
        notes.add(&of_later, shift);
        if gap > 0.0 {
            notes.gap(Gap { at: self.covered_seconds(), seconds: gap });
        }
        let reused: BTreeSet<u32> = later
            .processes
            .iter()
            .filter(|(pid, process)| self.processes.get(*pid).is_some_and(|ours| !is_same(ours, process)))
            .map(|(pid, _)| *pid)
            .collect();
        let mut joint = Joint {
            shift,
            origin: seconds_between(0, self.span.started_ns),
            weights: watched,
            reused: &reused,
            later_processes: &later.processes,
            notes: &mut notes,
        };
        let observed = (&observed, &of_later.observed_seconds);
        merge_part(&mut self.syscall_latency, later.syscall_latency.as_ref(), watched, observed, &mut joint);
        merge_part(&mut self.tcp_monitor, later.tcp_monitor.as_ref(), watched, observed, &mut joint);
        merge_part(&mut self.oom_track, later.oom_track.as_ref(), watched, observed, &mut joint);
        merge_part(&mut self.disk_io, later.disk_io.as_ref(), watched, observed, &mut joint);
        merge_part(&mut self.sched_delay, later.sched_delay.as_ref(), watched, observed, &mut joint);
        merge_part(&mut self.fd_track, later.fd_track.as_ref(), watched, observed, &mut joint);
        merge_part(&mut self.file_audit, later.file_audit.as_ref(), watched, observed, &mut joint);
        merge_part(&mut self.dns_query, later.dns_query.as_ref(), watched, observed, &mut joint);
        merge_part(&mut self.process_life, later.process_life.as_ref(), watched, observed, &mut joint);
        join_list(&mut self.limits, &later.limits, &mut joint);
        join_list(&mut self.kernel_messages, &later.kernel_messages, &mut joint);
        notes.reused_pids.extend(reused);
        self.schema_version = SCHEMA_VERSION;
        latest_text(&mut self.kerno_version, &later.kerno_version);
        self.host = later.host.clone();
        self.span.seconds += later.span.seconds;
        let unwatched = shift + later.covered_seconds() - self.span.seconds;
        self.span.unwatched_seconds = if unwatched.abs() < ROUNDING_SECONDS { 0.0 } else { unwatched };
        // Where they adjoin, both have the same sample.
        let shared = u32::from(gap == 0.0);
        self.span.samples = self.span.samples.saturating_add(later.span.samples.saturating_sub(shared));
        for missing in &later.missing {
            add_missing(&mut self.missing, missing);
        }
        self.tell_partly_observed(&notes);
        self.cost.cpu_seconds += later.cost.cpu_seconds;
        self.cost.resident_bytes = later.cost.resident_bytes;
        self.cost.kernel_bytes = later.cost.kernel_bytes;
        self.cost.kernel_shares.clone_from(&later.cost.kernel_shares);
        self.cost.detached.extend(later.cost.detached.iter().cloned());
        for (signal, loss) in &later.cost.loss {
            *self.cost.loss.entry(signal.clone()).or_default() += *loss;
        }
        self.merge_processes(&later.processes, &mut notes);
        if let Some(part) = &mut self.disk_io {
            part.rank_processes(&self.processes, &mut notes);
        }
        if let Some(part) = &mut self.sched_delay {
            part.rank_processes(&self.processes, &mut notes);
        }
        self.merged = Some(notes);
        Ok(())
    }

    /// From the start of the window to its end, in seconds, with the time between merged windows that was not watched: what times in the
    /// window, such as those of series, go on to. Rates are per second of [`seconds`](Self::seconds).
    pub fn covered_seconds(&self) -> f64 {
        self.span.covered_seconds().max(1e-3)
    }

    /// What is not exact in a window that has not been merged yet, once it is.
    fn notes(&self) -> Merged {
        let mut notes = Merged { windows: 1, ..Merged::default() };
        fn cuts<P: Part>(part: Option<&P>, notes: &mut Merged) {
            if let Some(part) = part {
                part.cuts(notes);
            }
        }
        cuts(self.syscall_latency.as_ref(), &mut notes);
        cuts(self.tcp_monitor.as_ref(), &mut notes);
        cuts(self.oom_track.as_ref(), &mut notes);
        cuts(self.disk_io.as_ref(), &mut notes);
        cuts(self.sched_delay.as_ref(), &mut notes);
        cuts(self.fd_track.as_ref(), &mut notes);
        cuts(self.file_audit.as_ref(), &mut notes);
        cuts(self.dns_query.as_ref(), &mut notes);
        cuts(self.process_life.as_ref(), &mut notes);
        cut_lists(&mut notes, [&self.limits]);
        cut_lists(&mut notes, [&self.kernel_messages]);
        if !self.processes.is_empty() {
            notes.cut("processes", None);
        }
        notes
    }

    /// Seconds between the end of this window and the start of a later one; 0 if they adjoin.
    ///
    /// # Errors
    /// Why they cannot be [merged](Self::merge).
    pub fn gap_to(&self, later: &Self) -> Result<f64, MergeError> {
        let (boot, later_boot) = (&self.host.boot_id, &later.host.boot_id);
        let known = !boot.is_empty() && !later_boot.is_empty();
        // A machine may be given another name while it runs.
        if self.host.hostname != later.host.hostname && !(known && boot == later_boot) {
            return Err(MergeError::OtherMachine);
        }
        let same_boot = if known {
            boot == later_boot
        } else {
            (self.machine_start() - later.machine_start()).abs() <= SAME_START_SECONDS
        };
        if !same_boot {
            return Err(MergeError::OtherBoot);
        }
        let shift = seconds_between(self.span.started_ns, later.span.started_ns);
        let (covered, of_later) = (self.span.covered_seconds(), later.span.covered_seconds());
        let gap = shift - covered;
        if shift >= 0.0 && gap >= -ADJOINING_SECONDS {
            return Ok(if gap <= ADJOINING_SECONDS { 0.0 } else { gap });
        }
        if shift + of_later <= ADJOINING_SECONDS {
            return Err(MergeError::Earlier);
        }
        Err(MergeError::Overlap { seconds: covered.min(shift + of_later) - shift.max(0.0) })
    }

    /// When `CLOCK_MONOTONIC` was 0: seconds since 1970.
    fn machine_start(&self) -> f64 {
        self.span.started_unix - seconds_between(0, self.span.started_ns)
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
        if self.processes.len() > MAX_PROCESSES {
            let named = self.named_pids();
            let mut order: Vec<_> = self
                .processes
                .values()
                .map(|p| (!named.contains(&p.pid), !p.alive, Reverse(p.used.run_ns), p.pid))
                .collect();
            // Those that a part names first, then those that live, then those that used most CPU time.
            order.sort_unstable();
            let dropped = order.split_off(MAX_PROCESSES);
            notes.left_out("processes", dropped.len(), None);
            dropped.iter().for_each(|(_, _, _, pid)| drop(self.processes.remove(pid)));
        }
        notes.reused_pids.retain(|pid| self.processes.contains_key(pid));
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
            self.dns_query.as_ref().map(crate::DnsSummary::pids),
            self.process_life.as_ref().map(crate::LifeSummary::pids),
        ];
        let limits = self.limits.iter().flat_map(|failure| {
            let holders = failure.limits.iter().flat_map(|limit| limit.holders.iter().map(|holder| holder.pid));
            holders.chain([failure.pid])
        });
        parts.into_iter().flatten().flatten().chain(limits).filter(|pid| *pid != 0).collect()
    }
}

/// Merges a part that either window may lack.
fn merge_part<P: Part>(
    ours: &mut Option<P>,
    later: Option<&P>,
    watched: (f64, f64),
    observed: (&BTreeMap<String, f64>, &BTreeMap<String, f64>),
    joint: &mut Joint<'_>,
) {
    let of = |there: bool, observed: &BTreeMap<String, f64>, watched: f64| {
        if there { observed.get(P::SIGNAL).copied().unwrap_or(watched) } else { 0.0 }
    };
    let weights = (of(ours.is_some(), observed.0, watched.0), of(later.is_some(), observed.1, watched.1));
    joint.weights = weights;
    match (ours.as_mut(), later) {
        (Some(ours), Some(later)) => ours.merge(later, joint),
        (None, Some(later)) => {
            let mut later = later.clone();
            later.shift(joint.shift);
            *ours = Some(later);
        }
        (Some(_), None) => {}
        (None, None) => return,
    }
    let (sum, all) = (weights.0 + weights.1, watched.0 + watched.1);
    if sum < all - ROUNDING_SECONDS {
        joint.notes.observed_seconds.insert(P::SIGNAL.to_owned(), sum);
    }
}

fn add_missing(all: &mut Vec<Missing>, missing: &Missing) {
    if !all.iter().any(|known| (&known.signal, &known.what) == (&missing.signal, &missing.what)) {
        all.push(missing.clone());
    }
}

/// Whether it is one process; without start times, whether nothing speaks against it.
fn is_same(ours: &Process, later: &Process) -> bool {
    ours.started_ns == 0 || later.started_ns == 0 || ours.started_ns == later.started_ns
}

impl Process {
    fn merge(&mut self, later: &Self) {
        let earlier = std::mem::replace(self, later.clone());
        self.used += earlier.used;
        // Of a process that has ended these cannot be looked up any more.
        if self.comm.is_empty() {
            self.comm.clone_from(&earlier.comm);
        }
        if self.cmdline.is_empty() && self.comm == earlier.comm {
            self.cmdline = earlier.cmdline;
        }
        if self.started_ns == 0 {
            self.started_ns = earlier.started_ns;
        }
        self.user = self.user.take().or(earlier.user);
        self.cgroup = self.cgroup.take().or(earlier.cgroup);
        self.container = self.container.take().or(earlier.container);
        self.unit = self.unit.take().or(earlier.unit);
    }
}

impl std::ops::AddAssign for SummaryLoss {
    fn add_assign(&mut self, other: Self) {
        add(&mut self.overflow, other.overflow);
        add(&mut self.untracked, other.untracked);
        add(&mut self.missed_runs, other.missed_runs);
    }
}

/// From one time of `CLOCK_MONOTONIC` to another; negative if the second is earlier.
#[allow(clippy::cast_precision_loss, reason = "seconds")]
fn seconds_between(from_ns: u64, to_ns: u64) -> f64 {
    if to_ns >= from_ns { (to_ns - from_ns) as f64 / 1e9 } else { -((from_ns - to_ns) as f64 / 1e9) }
}
