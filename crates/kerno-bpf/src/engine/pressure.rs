use std::path::{Path, PathBuf};

/// Pressure stall information (PSI, Documentation/accounting/psi.rst, Linux 4.20): the share of a window in which tasks waited for a
/// resource. Reads the running totals of the kernel, so windows of any length are exact.
#[derive(Clone, Debug)]
pub(crate) struct PressureMeter {
    path: PathBuf,
    /// Microseconds of some and of all tasks stalled, when the window began.
    before: Option<(u64, u64)>,
}

impl PressureMeter {
    /// Of a file such as `/proc/pressure/memory` or a cgroup's `memory.pressure`.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let before = read(&path);
        Self { path, before }
    }

    /// Shares of the window in which some and in which all tasks were stalled, 0 to 1, and begins the next window. `None` where
    /// the kernel does not tell (no CONFIG_PSI, or `psi=0`).
    #[allow(clippy::cast_precision_loss, reason = "microseconds of a window")]
    pub(crate) fn take(&mut self, seconds: f64) -> Option<(f64, f64)> {
        let now = read(&self.path);
        let before = std::mem::replace(&mut self.before, now)?;
        let share = |now: u64, before: u64| (now.saturating_sub(before) as f64 / 1e6 / seconds.max(1e-3)).min(1.0);
        now.map(|now| (share(now.0, before.0), share(now.1, before.1)))
    }
}

fn read(path: &Path) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(path).ok()?;
    let total = |kind: &str| {
        let line = text.lines().find(|line| line.starts_with(kind))?;
        line.rsplit_once("total=")?.1.parse::<u64>().ok()
    };
    Some((total("some")?, total("full").unwrap_or(0)))
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
        let mut meter = PressureMeter::new(file.path());
        write(3_000_000, 500_000);
        assert_eq!(meter.take(10.0), Some((0.2, 0.05)));
        assert_eq!(meter.take(10.0), Some((0.0, 0.0)));
        assert_eq!(PressureMeter::new("/no/such/file").take(1.0), None);
    }
}
