//! The summaries of these signals.

use crate::engine::Sampler;
use crate::probe::{Group, Host, LoadError, Member, Object, SummaryPrograms};

/// Registers the signals, in the order of their numbers in calls_summary.bpf.c.
macro_rules! summaries {
    ($($signal:ident)+) => {
        /// Whose sums can be had together.
        pub(crate) static SUMMARIES: Group = Group {
            object: Object {
                name: "calls_summary",
                data: aya::include_bytes_aligned!("../../objects/calls_summary.bpf.o"),
            },
            signals: &[$(stringify!($signal),)+],
        };

        /// Loads the summaries of all of these, in their order; attaches nothing.
        pub(crate) fn samplers(host: &Host) -> Result<Vec<Box<dyn Sampler>>, LoadError> {
            let plans = [$(crate::signals::$signal::summary_plan(host)?,)+];
            let members = plans.into_iter().enumerate().map(|(number, (_, plan))| Member { number, plan });
            let programs = SummaryPrograms::load_together(&SUMMARIES, &members.collect::<Vec<_>>(), host)?;
            let make = [$(crate::signals::$signal::sampler_of,)+];
            programs.into_iter().zip(make).map(|(programs, make)| make(programs)).collect()
        }
    };
}
summaries! { syscall_latency file_audit process_life }
