use std::io;
use std::path::{Path, PathBuf};

use super::cumulative::{Cumulative, Gap};
use crate::probe::faults::read_text;

/// Pressure stall information (PSI, Documentation/accounting/psi.rst, Linux 4.20): the share of a window in which tasks waited for a
/// resource. Reads the running totals of the kernel, so windows of any length are exact.
#[derive(Debug)]
pub(crate) struct PressureMeter {
    path: PathBuf,
    /// Microseconds of some and of all tasks stalled.
    totals: Cumulative<(u64, u64)>,
    /// Since they were last read, but for the window that ends now.
    seconds: f64,
}

impl PressureMeter {
    /// Of a file such as `/proc/pressure/memory` or a cgroup's `memory.pressure`; `what` says so in words.
    pub(crate) fn new(what: &'static str, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let mut totals = Cumulative::new(what);
        totals.begin(read(&path));
        Self { path, totals, seconds: 0.0 }
    }

    /// Begins the first window now.
    pub(crate) fn begin(&mut self) {
        self.totals.begin(read(&self.path));
        self.seconds = 0.0;
    }

    /// Shares of the window in which some and in which all tasks were stalled, 0 to 1, and begins the next window. After one that could
    /// not be read these are of both. A gap where the kernel does not tell (no CONFIG_PSI, or `psi=0`).
    #[allow(clippy::cast_precision_loss, reason = "microseconds of a window")]
    pub(crate) fn take(&mut self, seconds: f64) -> Result<(f64, f64), Gap> {
        self.seconds += seconds;
        let delta = self.totals.advance(read(&self.path))?;
        let all = std::mem::take(&mut self.seconds).max(1e-3);
        let share = |now: u64, before: u64| (now.saturating_sub(before) as f64 / 1e6 / all).min(1.0);
        Ok((share(delta.now.0, delta.before.0), share(delta.now.1, delta.before.1)))
    }
}

fn read(path: &Path) -> io::Result<(u64, u64)> {
    let text = read_text(path)?;
    let total = |kind: &str| {
        let line = text.lines().find(|line| line.starts_with(kind))?;
        line.rsplit_once("total=")?.1.parse::<u64>().ok()
    };
    let some = total("some").ok_or(io::ErrorKind::InvalidData)?;
    Ok((some, total("full").unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_come_from_the_totals() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |some: u64, full: u64| {
            let line = |kind, total| format!("{kind} avg10=0.00 avg60=0.00 avg300=0.00 total={total}\n");
            std::fs::write(file.path(), line("some", some) + &line("full", full)).unwrap();
        };
        write(1_000_000, 0);
        let mut meter = PressureMeter::new("pressure", file.path());
        write(3_000_000, 500_000);
        assert_eq!(meter.take(10.0), Ok((0.2, 0.05)));
        assert_eq!(meter.take(10.0), Ok((0.0, 0.0)));
        // A window that cannot be told of is part of the next.
        std::fs::write(file.path(), "").unwrap();
        assert_eq!(meter.take(10.0).unwrap_err().what, "pressure");
        write(4_000_000, 500_000);
        assert_eq!(meter.take(10.0), Ok((0.05, 0.0)));
        assert!(PressureMeter::new("pressure", "/no/such/file").take(1.0).is_err());
    }
}
