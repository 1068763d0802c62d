use std::cmp::{Ordering, Reverse};

use super::KernelMessage;
use crate::merge::{Entry, Joint, Selected, add, earliest};

impl Entry for KernelMessage {
    const LIST: &'static str = "kernel_messages";
    const MAX: usize = 64;
    const SELECTED: Selected = Selected::Top { full: 32, top: 32, field: "count" };

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        (&self.kind, &self.about) == (&later.kind, &later.about)
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        add(&mut self.count, later.count);
        self.first_ns = earliest(self.first_ns, later.first_ns);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |message: &Self| (Reverse(message.count), message.kind.clone(), message.about.clone());
        key(self).cmp(&key(other))
    }

    fn weight(&self) -> u64 {
        self.count
    }
}
