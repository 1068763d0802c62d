use serde::{Deserialize, Serialize};

/// How sending goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct OtlpStatus {
    /// Where metrics are sent to; `None` if they are not.
    pub metrics_endpoint: Option<String>,
    /// Where changes of incidents are sent to; `None` if they are not.
    pub logs_endpoint: Option<String>,
    /// Points of metrics that receivers have taken since the start.
    pub points_sent: u64,
    /// Points of metrics that receivers did not want.
    pub points_lost: u64,
    /// Changes of incidents that receivers have taken since the start.
    pub records_sent: u64,
    /// Changes of incidents that receivers did not want, or that had no room in the queue.
    pub records_lost: u64,
    /// Changes of incidents that wait.
    pub records_waiting: u64,
    /// Requests that failed.
    pub failures: u64,
    /// When a receiver last took something, in nanoseconds since 1970.
    pub latest_unix_ns: Option<u64>,
    /// Why metrics cannot be sent now; `None` if they can.
    pub metrics_failing: Option<String>,
    /// Why changes of incidents cannot be sent now; `None` if they can.
    pub logs_failing: Option<String>,
}
