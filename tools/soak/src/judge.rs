//! Whether it held.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::daemon::{Held, Told};
use super::load::{Kind, Made};

/// What is looked at: its name, its value, and how much it may grow from the second third to the last, as a share and beyond that.
type Looked = (&'static str, fn(&Held) -> u64, f64, u64);

const LOOKED: [Looked; 6] = [
    ("resident bytes", |held| held.resident_bytes, 0.05, 4 << 20),
    ("file descriptors", |held| held.descriptors, 0.0, 4),
    ("threads", |held| held.threads, 0.0, 2),
    ("mappings", |held| held.mappings, 0.02, 12),
    ("bytes of maps in the kernel", |held| held.kernel_bytes, 0.0, 0),
    ("series", |held| held.series, 0.05, 40),
];

/// Prints what was seen; false if something grew, or was lost without a word.
pub(super) fn print(
    held: &[Held],
    made: &[Made],
    told: &Told,
    status: &Value,
    stopped: Duration,
    asked: usize,
) -> Result<bool> {
    let third = held.len() / 3;
    ensure!(third >= 5, "too short to tell whether anything grows: {} looks", held.len());
    let mut problems = Vec::new();
    println!("made:");
    for Made { kind, count, seconds } in made {
        println!("  {kind:?}: {count} in {seconds:.1} s");
    }
    println!("\n{:<28} {:>14} {:>14} {:>14}", "held", "at first", "in the middle", "at the end");
    for (name, of, share, more) in LOOKED {
        let [first, middle, last] =
            [&held[..third], &held[third..2 * third], &held[2 * third..]].map(|part| median(part, of));
        println!("{name:<28} {first:>14} {middle:>14} {last:>14}");
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a bound"
        )]
        let allowed = (middle as f64 * (1.0 + share)) as u64 + more;
        if last > allowed {
            problems.push(format!("{name} grow: {middle} in the middle, {last} at the end, {allowed} allowed"));
        }
    }
    let store = held.last().map_or(0, |held| held.store_bytes);
    println!("{:<28} {store:>44}", "bytes of the store");

    let calls = made.iter().find(|made| made.kind == Kind::Calls).map_or(0, |made| made.count);
    println!("\ntold: {told:?}; {asked} questions; stopped in {} ms", stopped.as_millis());
    println!("      cost: {}", status["cost"]);
    // Others may make this call, too; a run that the kernel skipped is told as a loss.
    let skipped = status["cost"]["loss"].as_object().is_some_and(|loss| !loss.is_empty());
    if told.getppid < calls && !skipped {
        problems.push(format!("{} of {calls} calls are in no window", calls - told.getppid));
    }
    if told.getppid > calls + calls / 100 + 1000 {
        problems.push(format!("{} calls are told, and {calls} were made", told.getppid));
    }
    let of = |name: &str| status[name].as_u64().unwrap_or(u64::MAX);
    if of("windows_lost") != 0 || status["store"]["lost"].as_u64() != Some(0) {
        problems.push(format!("windows were lost: {status}"));
    }
    if told.gap_seconds > 0.001 {
        problems.push(format!("{:.3} s between two windows were not watched", told.gap_seconds));
    }
    if stopped > Duration::from_secs(2) {
        problems.push(format!("it took {} ms to stop", stopped.as_millis()));
    }
    println!();
    for problem in &problems {
        println!("FAILED: {problem}");
    }
    if problems.is_empty() {
        println!("nothing grew, nothing was lost");
    }
    Ok(problems.is_empty())
}

fn median(held: &[Held], of: fn(&Held) -> u64) -> u64 {
    let mut values: Vec<u64> = held.iter().map(of).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}
