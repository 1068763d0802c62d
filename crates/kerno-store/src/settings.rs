//! How much is kept, and for how long.

use std::time::Duration;

use crate::StoreError;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How much is kept, and for how long.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Settings {
    /// The most that the store takes on disk, in bytes.
    pub cap_bytes: u64,
    /// The largest share of its file system that the store takes, from 0 to 1. The lower of both limits holds.
    pub max_share: f64,
    /// How long windows are kept in which resolution, the finest first. The first one keeps windows as they are appended.
    pub tiers: Vec<Tier>,
    /// How long incidents are kept after they are over. They are the last to be removed when there is no room.
    pub keep_incidents: Duration,
}

/// How long windows of one resolution are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tier {
    /// The length of its windows: whole seconds.
    pub resolution: Duration,
    /// For how long. Counted in time that was watched: what a machine saw before it was off is still there when it is on again, and a wall
    /// clock that jumps removes nothing.
    pub keep: Duration,
}

impl Tier {
    /// A tier.
    pub const fn new(resolution: Duration, keep: Duration) -> Self {
        Self { resolution, keep }
    }

    pub(crate) const fn seconds(&self) -> u64 {
        self.resolution.as_secs()
    }
}

impl Default for Settings {
    /// At most 1 GiB and a tenth of the file system. 10 s for a day, 1 min for a week, 10 min for 90 days; incidents for two years.
    fn default() -> Self {
        Self {
            cap_bytes: 1 << 30,
            max_share: 0.1,
            tiers: vec![
                Tier::new(Duration::from_secs(10), DAY),
                Tier::new(Duration::from_secs(60), DAY * 7),
                Tier::new(Duration::from_secs(600), DAY * 90),
            ],
            keep_incidents: DAY * 730,
        }
    }
}

impl Settings {
    /// The most tiers.
    pub const MAX_TIERS: usize = 8;

    /// The lowest cap that leaves room for a few windows, in bytes.
    pub const MIN_CAP_BYTES: u64 = 1 << 20;

    /// Whether a store can work with these settings.
    ///
    /// # Errors
    /// [`StoreError::Settings`] says what is wrong.
    pub fn check(&self) -> Result<(), StoreError> {
        let wrong = |what: String| Err(StoreError::Settings { what });
        if self.cap_bytes < Self::MIN_CAP_BYTES {
            return wrong(format!("the cap is {} bytes; at least {} are needed", self.cap_bytes, Self::MIN_CAP_BYTES));
        }
        if !(self.max_share > 0.0 && self.max_share <= 1.0) {
            return wrong(format!(
                "the share of the file system is {}; it is more than 0 and at most 1",
                self.max_share
            ));
        }
        if self.tiers.is_empty() || self.tiers.len() > Self::MAX_TIERS {
            return wrong(format!("there are {} tiers; 1 to {} are possible", self.tiers.len(), Self::MAX_TIERS));
        }
        for tier in &self.tiers {
            if tier.seconds() == 0 || tier.resolution.subsec_nanos() != 0 {
                return wrong(format!("a resolution is {:?}; whole seconds are needed", tier.resolution));
            }
            if tier.keep < tier.resolution {
                return wrong(format!("windows of {:?} are kept for {:?} only", tier.resolution, tier.keep));
            }
        }
        for pair in self.tiers.windows(2) {
            let [fine, coarse] = pair else { continue };
            if coarse.resolution <= fine.resolution || coarse.keep <= fine.keep {
                return wrong(format!(
                    "windows of {:?} for {:?} come after those of {:?} for {:?}; each next tier is coarser and kept longer",
                    coarse.resolution, coarse.keep, fine.resolution, fine.keep
                ));
            }
            if fine.keep < coarse.resolution * 2 {
                return wrong(format!(
                    "windows of {:?} are kept for {:?}, too short to make windows of {:?} from them",
                    fine.resolution, fine.keep, coarse.resolution
                ));
            }
        }
        Ok(())
    }
}
