//! Watches this machine until it is interrupted, a window of ten seconds (or the first argument) after another, for two consumers at once:
//! one prints the findings, the other what watching costs.

use std::time::Duration;

use kerno::doctor::{self, Thresholds};
use kerno::engine::{Engine, ObserverOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let window = Duration::from_secs(std::env::args().nth(1).map_or(Ok(10), |seconds| seconds.parse())?);
    let engine = Engine::start(ObserverOptions::default(), window)?;
    let (findings, costs) = (engine.subscribe(4)?, engine.subscribe(4)?);
    std::thread::spawn(move || {
        for window in costs {
            let share = window.cost.cpu_seconds / window.seconds() * 100.0;
            eprintln!("{share:.2} % of a CPU, {} samples", window.span.samples);
        }
    });
    for window in findings {
        for finding in doctor::judge(&window, &Thresholds::default()) {
            println!("{}: {}", finding.severity, finding.title);
        }
    }
    engine.stop()?;
    Ok(())
}
