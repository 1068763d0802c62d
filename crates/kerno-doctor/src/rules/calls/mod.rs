//! System calls that are slow or fail.

pub(super) mod error_rate;
pub(super) mod latency;

use std::collections::BTreeMap;

use kerno_model::amount;
use kerno_model::{ErrnoCount, Exemplar, Finding, Moment, SyscallExemplar, SyscallOffender, SyscallSummary, Window};

/// The processes a rule tells of at most: the worst.
const MAX_FINDINGS: usize = 5;

/// Offenders by process.
fn by_process(summary: &SyscallSummary) -> BTreeMap<u32, Vec<&SyscallOffender>> {
    let mut processes: BTreeMap<u32, Vec<&SyscallOffender>> = BTreeMap::new();
    for offender in &summary.offenders {
        processes.entry(offender.pid).or_default().push(offender);
    }
    processes
}

#[allow(clippy::cast_precision_loss, reason = "shown, and compared with thresholds")]
fn float(count: u64) -> f64 {
    count as f64
}

fn millis(ns: u64) -> f64 {
    float(ns) / 1e6
}

/// When it began; `None` when that was about at the window's begin.
fn since(window: &Window, first_ns: u64) -> Option<Moment> {
    let seconds = float(first_ns.checked_sub(window.span.started_ns)?) / 1e9;
    (seconds > 0.1 * window.covered_seconds()).then(|| window.moment_ns(first_ns))
}

/// The calls themselves, in words.
fn exemplars(window: &Window, offender: &SyscallOffender) -> Vec<Exemplar> {
    let words = |exemplar: &SyscallExemplar| {
        let result = match i32::try_from(exemplar.ret) {
            Ok(ret @ -4095..=-1) => format!("failed with {}", ErrnoCount::new(-ret, 1).name),
            _ => format!("returned {}", exemplar.ret),
        };
        let (name, took) = (&offender.name, amount::millis(millis(exemplar.latency_ns)));
        let what = format!("{name} of thread {} took {took} and {result}", exemplar.tid);
        Exemplar::new(window.moment_ns(exemplar.timestamp_ns), what)
    };
    offender.exemplars.iter().map(words).collect()
}

/// Whom it is about: "postgres (4711)".
fn who(finding: &Finding) -> String {
    finding.subject.label().unwrap_or_else(|| "a process".to_owned())
}
