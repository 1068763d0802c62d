//! Whether the doctor's memory grows, over many short windows.

use std::time::Duration;

use anyhow::Context;
use kerno_kit::cargo::command_beside;

use super::events::peer::Running;
use super::step;
use super::table::{Row, Spread, Target};
use super::tool::memory_mib;

pub(super) const ABOUT: &str =
    "Resident memory of kerno doctor over windows of 0.5 s; in the first tenth it learns who is there.";

const WINDOWS: u32 = 400;
const WINDOW: Duration = Duration::from_millis(500);

pub(super) fn rows() -> anyhow::Result<Vec<Row>> {
    let doctor = Running::start(command_beside()?.as_os_str(), &["doctor", "--continuous", "--interval", "500ms"])?;
    let mut points = Vec::new();
    for window in 0..WINDOWS {
        step(format_args!("soak: window {} of {WINDOWS}", window + 1))?;
        std::thread::sleep(WINDOW);
        points.push((f64::from(window), memory_mib(doctor.pid(), "VmRSS:")? * 1024.0));
    }
    let settled = points.split_off(points.len() / 10);
    let (first, last) = (settled.first().context("no windows")?, settled.last().context("no windows")?);
    let subject = format!("resident memory over {WINDOWS} windows");
    Ok(vec![
        Row::new(&subject, "after a tenth", "KiB", Spread::exactly(first.1)),
        Row::new(&subject, "at the end", "KiB", Spread::exactly(last.1)),
        // A kilobyte a window would be 170 MiB a day in windows of half a second.
        Row::new(&subject, "growth a window", "KiB", Spread::exactly(slope(&settled))).target(Target::AtMost(1.0)),
    ])
}

/// Of the line that fits best.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let variance: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    covariance / variance
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_slope_is_that_of_the_line() {
        let points: Vec<_> = (0..10).map(|x| (f64::from(x), 3.0 * f64::from(x) + 7.0)).collect();
        assert!((super::slope(&points) - 3.0).abs() < 1e-9);
    }
}
