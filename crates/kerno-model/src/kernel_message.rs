mod merge;

use serde::{Deserialize, Serialize};

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
