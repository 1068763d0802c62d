use kerno_model::{SummaryLoss, Window};

use super::limit_watch::Failure;
use super::resolver::Resolver;
use super::tasks::Tasks;
use crate::probe::{LoadError, SummaryPrograms};

/// One signal's part: programs in the kernel and what is looked at beside them.
pub(crate) trait Sampler: Send {
    /// Attaches what was loaded: from here on the kernel adds up.
    fn attach(&mut self) -> Result<(), LoadError>;

    /// Begins a window. The first one takes what has been added up so far as its zero; a later one may go on where `finish` ended
    /// the one before.
    fn begin(&mut self, tick: &Tick<'_>);

    /// Looks at what only shows by looking. The last one of a window comes just before `finish`.
    fn sample(&mut self, tick: &Tick<'_>);

    /// Ends the window: puts its part into `signals`, and begins the next one.
    fn finish(&mut self, tick: &Tick<'_>, signals: &mut Window);

    /// Calls that failed with an error that a limit gives, if there are new ones since this was last asked, which is at each sample.
    fn failures(&mut self) -> Vec<Failure> {
        Vec::new()
    }

    /// A few words on what happens now, such as `12 k calls/s`, for a person who watches: whatever only this needs is read here, so
    /// that it costs nothing where nobody watches.
    fn pulse(&mut self, _now_ns: u64) -> Option<String> {
        None
    }

    /// Its programs in the kernel, and what they could not hold. Of none, everything is read.
    fn programs(&self) -> Option<&SummaryPrograms>;

    /// What the kernel side could not hold since it was loaded.
    fn loss(&self) -> SummaryLoss {
        self.programs().map(SummaryPrograms::loss).unwrap_or_default()
    }
}

/// The moment of a sample.
#[derive(Debug)]
pub(crate) struct Tick<'a> {
    /// Seconds since the window began.
    pub(crate) seconds: f64,
    /// `CLOCK_MONOTONIC` now.
    pub(crate) now_ns: u64,
    /// How many samples this window has after this one, its end's included. `None` if nobody knows.
    pub(crate) left: Option<usize>,
    /// Every task, sampled just now.
    pub(crate) tasks: &'a Tasks,
    /// Asks what may never be answered.
    pub(crate) resolver: &'a Resolver,
}
