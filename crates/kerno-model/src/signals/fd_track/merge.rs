use std::cmp::{Ordering, Reverse};

use crate::merge::{Entry, Joint, Part, Selected, cut_lists, join_list, latest, latest_text};
use crate::merged::Merged;
use crate::{FdKind, FdProcess, FdSummary};

impl Part for FdSummary {
    const SIGNAL: &'static str = "fd_track";

    fn cuts(&self, notes: &mut Merged) {
        cut_lists(notes, [&self.processes]);
    }

    fn merge(&mut self, later: &Self, joint: &mut Joint<'_>) {
        join_list(&mut self.processes, &later.processes, joint);
        joint.series(&mut self.open, &later.open);
        joint.series(&mut self.files, &later.files);
        latest(&mut self.files_max, &later.files_max);
    }

    fn shift(&mut self, seconds: f64) {
        self.open.shift(seconds);
        self.files.shift(seconds);
        self.processes.iter_mut().for_each(|process| process.open.shift(seconds));
    }
}

impl Entry for FdProcess {
    const LIST: &'static str = "fd_track.processes";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::Some;

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        joint.series(&mut self.open, &later.open);
        latest(&mut self.soft_limit, &later.soft_limit);
        latest(&mut self.hard_limit, &later.hard_limit);
        // Looked at only while it grows: growth adds up, everything else is as it was last.
        if later.kinds.is_empty() {
            return;
        }
        let earlier = std::mem::replace(&mut self.kinds, later.kinds.clone());
        for kind in &mut self.kinds {
            let before = earlier.iter().find(|known| known.kind == kind.kind).map_or(0, |known| known.growth);
            kind.growth = kind.growth.saturating_add(before);
        }
        let order = |kind: &FdKind| (Reverse(kind.growth), Reverse(kind.count));
        self.kinds.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.kind.cmp(&b.kind)));
    }

    fn new_later(&mut self, joint: &mut Joint<'_>) {
        joint.shift(&mut self.open);
    }

    fn order(&self, other: &Self) -> Ordering {
        other.share().total_cmp(&self.share()).then(self.pid.cmp(&other.pid))
    }
}
