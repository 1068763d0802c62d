//! Watches this machine until it is interrupted, in windows of ten seconds (or of the first argument), for two consumers at once: one prints
//! the findings, the other what watching costs.

use std::time::Duration;

use kerno::doctor::{Thresholds, judge, words};
use kerno::engine::{Engine, ObserverOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let window = Duration::from_secs(std::env::args().nth(1).map_or(Ok(10), |seconds| seconds.parse())?);
    let engine = Engine::start(ObserverOptions::default())?;
    // Subscribed before the first window can end, both get every window.
    let (findings, costs) = (engine.subscribe(4)?, engine.subscribe(4)?);
    engine.watch(window);
    std::thread::spawn(move || {
        for window in costs {
            let share = window.cost.cpu_seconds / window.seconds() * 100.0;
            eprintln!("{share:.2} % of a CPU, {} samples", window.span.samples);
        }
    });
    for window in findings {
        for finding in judge(&window, &Thresholds::default()) {
            println!("{}: {}", finding.severity, words(&finding).title);
        }
    }
    // Only if it ends by itself.
    engine.stop()?;
    Ok(())
}
