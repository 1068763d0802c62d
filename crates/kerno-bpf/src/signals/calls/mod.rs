//! The signals that have hooks on system calls, and on the ends of processes, in common: when several of them are loaded, they share one
//! program a hook (docs/decisions/one-program-a-hook.md).

use crate::engine::Sampler;
use crate::probe::{Group, Host, LoadError, Member, Object, SummaryPrograms};

use super::{file_audit, syscall_latency};

/// Whose events can be had together. The numbers are those of calls.bpf.c.
pub(crate) static EVENTS: Group = Group {
    object: Object { name: "calls", data: aya::include_bytes_aligned!("../../../objects/calls.bpf.o") },
    signals: &["syscall_latency", "fd_track", "file_audit", "tcp_monitor"],
};

/// Whose sums can be had together, as in calls_summary.bpf.c.
pub(crate) static SUMMARIES: Group = Group {
    object: Object { name: "calls_summary", data: aya::include_bytes_aligned!("../../../objects/calls_summary.bpf.o") },
    signals: &["syscall_latency", "file_audit"],
};

/// Loads the summaries of the signals that share hooks, in the order of [`SUMMARIES`]; attaches nothing.
pub(crate) fn samplers(host: &Host) -> Result<Vec<Box<dyn Sampler>>, LoadError> {
    let plans = [syscall_latency::summary_plan(host)?, file_audit::summary_plan(host)?];
    let members: Vec<_> = plans.into_iter().enumerate().map(|(number, (_, plan))| Member { number, plan }).collect();
    let programs = SummaryPrograms::load_together(&SUMMARIES, &members, host)?;
    let make = [syscall_latency::sampler_of, file_audit::sampler_of];
    programs.into_iter().zip(make).map(|(programs, make)| make(programs)).collect()
}
