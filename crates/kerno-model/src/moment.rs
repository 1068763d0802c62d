use serde::{Deserialize, Serialize};

/// A moment by two clocks: the wall clock, for people and other machines, and the monotonic clock, which never jumps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Moment {
    /// `CLOCK_MONOTONIC` of the initial time namespace, in nanoseconds.
    pub monotonic_ns: u64,
    /// Nanoseconds since 1970, by the wall clock as it was when the window was observed.
    pub unix_ns: u64,
}
