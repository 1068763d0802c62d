use std::cmp::{Ordering, Reverse};

use super::LimitFailure;
use crate::merge::{Entry, Joint, Selected, add, earliest, latest_text};

impl Entry for LimitFailure {
    const LIST: &'static str = "limits";
    const MAX: usize = 64;
    const SELECTED: Selected = Selected::Top { full: 16, top: 16, field: "count" };

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
            && (&self.call, self.errno) == (&later.call, later.errno)
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        add(&mut self.count, later.count);
        self.first_ns = earliest(self.first_ns, later.first_ns);
        self.ended = later.ended;
        self.looked(later.limits.clone());
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |failure: &Self| (Reverse(failure.count), failure.pid, failure.call.clone(), failure.errno);
        key(self).cmp(&key(other))
    }

    fn weight(&self) -> u64 {
        self.count
    }
}
