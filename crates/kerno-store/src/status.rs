//! How a store is.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::Timestamp;

/// How a store is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The directory.
    pub dir: PathBuf,
    /// What the store takes on disk, in bytes: whole blocks of its files.
    pub bytes: u64,
    /// What it may take at most, in bytes: the cap, or less if its share of the file system is less.
    pub limit_bytes: u64,
    /// The windows of each resolution, the finest first.
    pub tiers: Vec<TierStatus>,
    /// The incidents that are kept.
    pub incidents: u64,
    /// What the incidents take, in bytes.
    pub incident_bytes: u64,
    /// When the first window began, by the wall clock.
    pub oldest: Option<Timestamp>,
    /// When the latest window ended, by the wall clock.
    pub newest: Option<Timestamp>,
    /// That writing fails, if it does.
    pub failing: Option<Failing>,
    /// How many appended windows were not written, since the store was opened.
    pub not_written: u64,
    /// Damaged files that were set aside.
    pub aside: Vec<Aside>,
}

/// The windows of one resolution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TierStatus {
    /// The resolution.
    pub resolution: Duration,
    /// How long they are kept.
    pub keep: Duration,
    /// How many there are.
    pub windows: u64,
    /// What they take, in bytes.
    pub bytes: u64,
    /// In how many files.
    pub files: u64,
    /// When the first one began, by the wall clock.
    pub oldest: Option<Timestamp>,
    /// When the latest one ended, by the wall clock.
    pub newest: Option<Timestamp>,
}

/// Writing fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Failing {
    /// Since when, by the wall clock.
    pub since: Timestamp,
    /// Why, as of the latest attempt.
    pub why: String,
    /// How many attempts have failed.
    pub attempts: u64,
}

/// A damaged file that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Aside {
    /// The file.
    pub path: PathBuf,
    /// Its size, in bytes.
    pub bytes: u64,
}
