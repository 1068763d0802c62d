//! System calls that are slow or fail.

pub(super) mod error_rate;
pub(super) mod latency;

use std::collections::BTreeMap;

use crate::Exemplar;
use kerno_model::{ErrnoCount, Window};
use kerno_model::{SyscallExemplar, SyscallOffender, SyscallSummary};

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

/// When it began, in seconds since the window did; `None` when that was about at the window's begin.
fn since(window: &Window, first_ns: u64) -> Option<f64> {
    let seconds = float(first_ns.checked_sub(window.span.started_ns)?) / 1e9;
    (seconds > 0.1 * window.seconds()).then_some(seconds)
}

/// The calls themselves, in words.
fn exemplars(window: &Window, offender: &SyscallOffender) -> Vec<Exemplar> {
    let words = |exemplar: &SyscallExemplar| {
        let result = match i32::try_from(exemplar.ret) {
            Ok(ret @ -4095..=-1) => format!("failed with {}", ErrnoCount::new(-ret, 1).name),
            _ => format!("returned {}", exemplar.ret),
        };
        let seconds = float(exemplar.timestamp_ns.saturating_sub(window.span.started_ns)) / 1e9;
        let (name, took) = (&offender.name, millis(exemplar.latency_ns));
        Exemplar { seconds, what: format!("{name} of thread {} took {took:.3} ms and {result}", exemplar.tid) }
    };
    offender.exemplars.iter().map(words).collect()
}
