use std::cmp::{Ordering, Reverse};

use crate::errno::add_counts;
use crate::merge::{Entry, Joint, Part, Selected, add, cut_lists, earliest, join_list, latest_text};
use crate::merged::Merged;
use crate::{FileProcess, FileSummary};

impl Part for FileSummary {
    const SIGNAL: &'static str = "file_audit";

    fn cuts(&self, notes: &mut Merged) {
        cut_lists(notes, [&self.processes]);
    }

    fn merge(&mut self, later: &Self, joint: &mut Joint<'_>) {
        add(&mut self.opens, later.opens);
        add_counts(&mut self.errors, &later.errors);
        join_list(&mut self.processes, &later.processes, joint);
    }

    fn shift(&mut self, _seconds: f64) {}
}

impl Entry for FileProcess {
    const LIST: &'static str = "file_audit.processes";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::Top { full: 64, top: 32, field: "opens" };

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        if later.failed > 0 {
            // The row goes on where nothing in the later window broke it.
            let goes_on = self.last_failed_path == later.last_failed_path && later.same_path == later.failed;
            self.same_path = later.same_path.saturating_add(if goes_on { self.same_path } else { 0 });
            self.last_failed_path.clone_from(&later.last_failed_path);
            self.last_errno = later.last_errno;
            self.last_error.clone_from(&later.last_error);
        }
        add(&mut self.opens, later.opens);
        add(&mut self.failed, later.failed);
        add_counts(&mut self.errors, &later.errors);
        add(&mut self.repeated, later.repeated);
        self.first_failed_ns = earliest(self.first_failed_ns, later.first_failed_ns);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |process: &Self| (Reverse(process.failed), Reverse(process.opens), process.pid);
        key(self).cmp(&key(other))
    }

    fn weight(&self) -> u64 {
        self.opens
    }
}
