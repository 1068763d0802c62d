//! What is not exact in a merged window, and why windows cannot be merged.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::vocabulary::vocabulary;

/// The most gaps that are listed; of more the shortest are left out.
const MAX_GAPS: usize = 64;

/// What a window that was merged of others is made of, and what of it is not exact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct Merged {
    /// The number of windows.
    pub windows: u32,
    /// When nothing was watched, the earliest first. Bounded: of very many the longest.
    pub gaps: Vec<Gap>,
    /// Signals that were observed for a part of the watched time only: for how long, in seconds. Their counts and shares are of that.
    pub observed_seconds: BTreeMap<String, f64>,
    /// Lists that have the first of many, by their path in the window, such as `tcp_monitor.peers`. An entry may lack what it did in
    /// windows whose list did not have it, and its state is that of the last one that had it. Totals have everything.
    pub cut: BTreeMap<String, Cut>,
    /// Single values that are not exactly what one window over the whole time would have said, by their path, and why.
    pub inexact: BTreeMap<String, Inexact>,
    /// Process ids that were used again by another process. `processes` has the last one. Entries of the others are told apart by their
    /// name. Only of ids that `processes` has.
    pub reused_pids: BTreeSet<u32>,
}

/// Time between two windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct Gap {
    /// When it began: seconds since the start of the window.
    pub at: f64,
    /// How long it was, in seconds.
    pub seconds: f64,
}

/// What a list of a merged window may lack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct Cut {
    /// In how many of the windows the list was, or may have been, cut off.
    pub windows: u32,
    /// Entries that the merged list had no more room for. One that came back is counted again.
    pub left_out: u64,
    /// The field of an entry that `at_most` is about; empty if nothing limits what is lacking.
    pub field: String,
    /// The most that any entry lacks in that field, whether it is in the list or not.
    pub at_most: Option<u64>,
}

vocabulary! {
    /// Why a value in a merged window is not exact.
    Inexact {
        /// What lasted over several windows is counted in each.
        CountedAgain = "counted_again",
        /// It may be more: it is the highest value of the windows, or is not known of some of them.
        AtLeast = "at_least",
        /// It is what the latest window that has it says.
        Latest = "latest",
        ..
        /// For another reason.
        Other = "other"
    }
}

impl Merged {
    /// A list of one window was cut off: an entry that it does not have had at most so much in that field.
    pub(crate) fn cut(&mut self, path: &str, bound: Option<(&str, u64)>) {
        let cut = self.cut.entry(path.to_owned()).or_default();
        let first = cut.windows == 0 && cut.left_out == 0;
        cut.windows = cut.windows.saturating_add(1);
        cut.bound(first, bound);
    }

    /// A merged list had no room for so many entries, with at most so much in that field.
    pub(crate) fn left_out(&mut self, path: &str, entries: usize, bound: Option<(&str, u64)>) {
        let cut = self.cut.entry(path.to_owned()).or_default();
        let first = cut.windows == 0 && cut.left_out == 0;
        cut.left_out = cut.left_out.saturating_add(entries as u64);
        cut.bound(first, bound);
    }

    pub(crate) fn gap(&mut self, gap: Gap) {
        let place = self.gaps.partition_point(|known| known.at < gap.at);
        self.gaps.insert(place, gap);
        while self.gaps.len() > MAX_GAPS {
            let shortest = self.gaps.iter().enumerate().min_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
            let Some((at, _)) = shortest else { break };
            self.gaps.remove(at);
        }
    }

    /// Adds those of a later window, which begins after so many seconds, except for what each signal was observed.
    pub(crate) fn add(&mut self, later: &Self, shift: f64) {
        self.windows = self.windows.saturating_add(later.windows);
        for gap in &later.gaps {
            self.gap(Gap { at: gap.at + shift, ..*gap });
        }
        for (path, later) in &later.cut {
            match self.cut.get_mut(path) {
                Some(cut) => cut.add(later),
                None => drop(self.cut.insert(path.clone(), later.clone())),
            }
        }
        for (path, why) in &later.inexact {
            self.inexact.entry(path.clone()).or_insert(*why);
        }
        self.reused_pids.extend(&later.reused_pids);
    }
}

impl Cut {
    fn bound(&mut self, first: bool, bound: Option<(&str, u64)>) {
        match (bound, self.at_most) {
            (Some((field, more)), None) if first => {
                field.clone_into(&mut self.field);
                self.at_most = Some(more);
            }
            (Some((_, more)), Some(known)) => self.at_most = Some(known.saturating_add(more)),
            _ => self.unbound(),
        }
    }

    fn unbound(&mut self) {
        self.field.clear();
        self.at_most = None;
    }

    fn add(&mut self, later: &Self) {
        self.windows = self.windows.saturating_add(later.windows);
        self.left_out = self.left_out.saturating_add(later.left_out);
        match (self.at_most, later.at_most) {
            (Some(known), Some(more)) if self.field == later.field => self.at_most = Some(known.saturating_add(more)),
            _ => self.unbound(),
        }
    }
}

/// Why windows cannot be merged.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum MergeError {
    /// They are of different machines.
    OtherMachine,
    /// The machine was started again between them, so that process ids and times mean something else.
    OtherBoot,
    /// They overlap: what happened in that time would count twice.
    Overlap {
        /// How long both watched, in seconds.
        seconds: f64,
    },
    /// The second one was before the first.
    Earlier,
}

impl std::fmt::Display for MergeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OtherMachine => f.write_str("the windows are of different machines"),
            Self::OtherBoot => f.write_str("the machine was started again between the windows"),
            Self::Overlap { seconds } => write!(f, "the windows overlap by {seconds:.3} seconds"),
            Self::Earlier => f.write_str("the second window was before the first"),
        }
    }
}

impl std::error::Error for MergeError {}
