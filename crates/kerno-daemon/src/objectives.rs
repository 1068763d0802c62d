//! Objectives while it runs: what of them is kept, and when.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kerno_doctor::Thresholds;
use kerno_doctor::objective::Objective;
use kerno_doctor::objectives::{Kept, Objectives};
use kerno_model::{Finding, ObjectiveStatus, Window};
use kerno_store::Reader;

use crate::explain::explain;
use crate::times::Range;

/// The name under which budgets are kept.
pub(crate) const BUDGETS: &str = "objectives";

/// How often they are written at most. What is lost when the machine dies is taken from the windows of the store.
const EVERY: Duration = Duration::from_secs(60);

/// Windows of so long before a start are counted if they were not.
const UNCOUNTED: Duration = Duration::from_secs(600);

/// An objective that had no data for so long, in seconds, may have a mistake in a label.
const SILENT: f64 = 3600.0;

/// The objectives of a daemon.
#[derive(Debug)]
pub(crate) struct Followed {
    objectives: Objectives,
    written: Option<Instant>,
    /// Those that were said to have no data.
    silent: BTreeSet<String>,
}

impl Followed {
    /// Takes up those that were kept, with the windows that came after.
    pub(crate) fn start(wanted: Vec<Objective>, reader: Option<&Reader>, thresholds: &Thresholds) -> Self {
        let kept = reader.map(|reader| reader.state::<Kept>(BUDGETS)).transpose();
        let kept = kept.unwrap_or_else(|error| {
            tracing::error!("what is left of the budgets of objectives cannot be read: {}", explain(&error));
            None
        });
        let mut objectives = Objectives::new(wanted, kept.flatten().unwrap_or_default());
        if let Some(reader) = reader.filter(|_| !objectives.is_empty()) {
            let now = u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0);
            let past = Range::before(now, UNCOUNTED);
            for window in reader.windows(past.from_ns, past.to_ns).flatten() {
                objectives.catch_up(&window, thresholds);
            }
        }
        Self { objectives, written: None, silent: BTreeSet::new() }
    }

    pub(crate) fn judge(&mut self, window: &Window, thresholds: &Thresholds) -> Vec<Finding> {
        self.objectives.judge(window, thresholds)
    }

    pub(crate) fn replace(&mut self, wanted: Vec<Objective>) {
        self.objectives.replace(wanted);
        self.written = None;
        self.silent.clear();
    }

    /// How they are. Logs once which of them nothing can be said about.
    pub(crate) fn status(&mut self) -> Vec<ObjectiveStatus> {
        let status = self.objectives.status();
        for one in status.iter().filter(|one| one.met().is_none() && one.no_data_seconds >= SILENT) {
            if self.silent.insert(one.name.clone()) {
                tracing::warn!(objective = one.name, "no data for an hour; is this what was meant? {}", one.condition);
            }
        }
        status
    }

    /// What is to be kept, if it is time to write it.
    pub(crate) fn due(&mut self) -> Option<Kept> {
        if self.written.is_some_and(|written| written.elapsed() < EVERY) {
            return None;
        }
        self.written = Some(Instant::now());
        Some(self.objectives.kept())
    }

    /// What is to be kept when it stops.
    pub(crate) fn last(&self) -> Kept {
        self.objectives.kept()
    }
}
