//! Watches this machine for some seconds (5, or the first argument) and prints what was observed and what is wrong, as JSON.

use std::time::Duration;

use kerno::CancelToken;
use kerno::doctor::{self, Thresholds};
use kerno::engine::{Observer, ObserverOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let window = Duration::from_secs(std::env::args().nth(1).map_or(Ok(5), |seconds| seconds.parse())?);
    let mut observer = Observer::start(ObserverOptions::default())?;
    let signals = observer.watch(window, &CancelToken::new()?)?;
    println!("{}", serde_json::to_string_pretty(&signals)?);
    let findings = doctor::judge(&signals, &Thresholds::default());
    println!("{}", serde_json::to_string_pretty(&findings)?);
    Ok(())
}
