//! Objectives while it runs: what of them is kept, and when.

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

/// The objectives of a daemon.
#[derive(Debug)]
pub(crate) struct Followed {
    objectives: Objectives,
    written: Option<Instant>,
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
        Self { objectives, written: None }
    }

    pub(crate) fn judge(&mut self, window: &Window, thresholds: &Thresholds) -> Vec<Finding> {
        self.objectives.judge(window, thresholds)
    }

    pub(crate) fn replace(&mut self, wanted: Vec<Objective>) {
        self.objectives.replace(wanted);
        self.written = None;
    }

    pub(crate) fn status(&self) -> Vec<ObjectiveStatus> {
        self.objectives.status()
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
