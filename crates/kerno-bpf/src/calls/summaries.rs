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

        /// Loads the summaries of these of them, in the order of their numbers; attaches nothing.
        pub(crate) fn samplers(host: &Host, wanted: &[&str]) -> Result<Vec<Box<dyn Sampler>>, LoadError> {
            let plans = [$(crate::signals::$signal::summary_plan,)+];
            let make = [$(crate::signals::$signal::sampler_of,)+];
            let (mut members, mut makers) = (Vec::new(), Vec::new());
            for (number, ((name, plan), make)) in SUMMARIES.signals.iter().zip(plans).zip(make).enumerate() {
                if wanted.contains(name) {
                    members.push(Member { number, plan: plan(host)?.1 });
                    makers.push(make);
                }
            }
            let programs = SummaryPrograms::load_together(&SUMMARIES, &members, host)?;
            programs.into_iter().zip(makers).map(|(programs, make)| make(programs)).collect()
        }
    };
}
summaries! { syscall_latency file_audit process_life dns_query }
