use super::TcpSummary;
use crate::probe::{Host, LoadError, SummaryLoss};
use crate::summary::{Sampler, Signals, Tick};

/// Loads what sums up this signal; attaches nothing yet.
pub(crate) fn sampler(_host: &Host) -> Result<Box<dyn Sampler>, LoadError> {
    Ok(Box::new(Sampled {}))
}

#[derive(Debug)]
struct Sampled {}

impl Sampler for Sampled {
    fn attach(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    fn begin(&mut self, _tick: &Tick<'_>) {}

    fn sample(&mut self, _tick: &Tick<'_>) {}

    fn finish(&mut self, _tick: &Tick<'_>, signals: &mut Signals) {
        signals.tcp_monitor = Some(TcpSummary::default());
    }

    fn loss(&self) -> SummaryLoss {
        SummaryLoss::default()
    }
}
