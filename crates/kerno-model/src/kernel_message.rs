use std::cmp::{Ordering, Reverse};

use serde::{Deserialize, Serialize};

use crate::merge::{Entry, Joint, Selected, add, earliest};

/// Messages of one kind that the kernel wrote to its log in the window (`/dev/kmsg`). What programs wrote there is not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct KernelMessage {
    /// Which kind, by its id in the table of `kerno explain`, such as `hung_task`.
    pub kind: String,
    /// The device, interface or process that it names; else empty. May contain control characters.
    pub about: String,
    /// How many.
    pub count: u64,
    /// When the first was seen: `CLOCK_MONOTONIC`, in nanoseconds.
    pub first_ns: u64,
    /// The first of them, or the begin of it. May contain control characters.
    pub text: String,
}

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
