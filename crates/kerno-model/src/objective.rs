//! How an objective is doing, for those who ask.

use serde::{Deserialize, Serialize};

/// What a window says about an objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was met.
    Good,
    /// It was missed.
    Bad,
    /// There was nothing to judge by. Counts neither way.
    NoData,
}

impl Verdict {
    /// Its name, as in JSON and in labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::NoData => "no_data",
        }
    }
}

/// How fast the budget of an objective was used over the latest stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct BurnRate {
    /// The stretch of time: `5m`, `30m`, `1h` or `6h`.
    pub window: String,
    /// How many times as fast as would use the whole budget in the whole period. 1 is just what may be.
    pub rate: f64,
}

/// How an objective is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct ObjectiveStatus {
    /// Its name.
    pub name: String,
    /// What has to hold, in words.
    pub condition: String,
    /// The share of the time for which it has to hold, 0 to 1.
    pub share: f64,
    /// The period that the share is of, in seconds.
    pub over_seconds: f64,
    /// What the latest window said; `None` before the first.
    pub latest: Option<Verdict>,
    /// What was measured in it, in the base unit of the metric; `None` if nothing was.
    pub latest_value: Option<f64>,
    /// The budget of the period that is left: 1 is all of it, 0 none; less than 0 if more was used than there was.
    pub budget_remaining: f64,
    /// How fast it was used of late.
    pub burn: Vec<BurnRate>,
    /// Whether it is used so fast that there is an incident: `fast` or `slow`; `None` if not.
    pub alert: Option<String>,
    /// How long it was met in the period, in seconds.
    pub good_seconds: f64,
    /// How long it was missed in the period, in seconds.
    pub bad_seconds: f64,
    /// How long the machine was watched in the period with nothing to judge by, in seconds.
    pub no_data_seconds: f64,
    /// How much of the period has passed since it was first judged, in seconds.
    pub known_seconds: f64,
}

impl ObjectiveStatus {
    /// The share of the time with data for which it was met; `None` without data.
    pub fn met(&self) -> Option<f64> {
        let judged = self.good_seconds + self.bad_seconds;
        (judged > 0.0).then(|| self.good_seconds / judged)
    }
}
