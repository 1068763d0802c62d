use std::collections::BTreeMap;

use kerno_model::amount::{bytes, span};
use kerno_model::{Change, ChangeKind, Window};

use super::change;

/// A step of the clock that matters: NTP corrects less without a step.
const STEP_SECONDS: f64 = 1.0;

/// What only windows show: limits of cgroups, steps of the clock, a start of the machine.
#[derive(Debug, Default)]
pub(crate) struct WindowChanges {
    /// The wall clock minus the monotonic one, in seconds.
    offset: Option<f64>,
    limits: BTreeMap<String, u64>,
    kernel: String,
}

impl WindowChanges {
    /// Knows what the machine was like before, from a window of that time.
    pub(crate) fn after(before: &Window) -> Self {
        Self { kernel: before.host.kernel.clone(), ..Self::default() }
    }

    #[allow(clippy::cast_precision_loss, reason = "clocks, within microseconds")]
    pub(crate) fn look(&mut self, window: &Window) -> Vec<Change> {
        let mut changes = Vec::new();
        let at = window.span.end();
        let offset = window.span.started_unix - window.span.started_ns as f64 / 1e9;
        match self.offset.replace(offset) {
            None if window.host.uptime_seconds < 3600.0 => {
                let booted = window.span.moment(window.span.covered_seconds() - window.host.uptime_seconds);
                changes.push(Change::new(booted, ChangeKind::Boot, "the machine started"));
            }
            Some(known) if (offset - known).abs() >= STEP_SECONDS => {
                let (direction, step) =
                    if offset > known { ("forward", offset - known) } else { ("back", known - offset) };
                changes.push(Change::new(
                    at,
                    ChangeKind::ClockStep,
                    format!("the clock was set {direction} by {}", span(step)),
                ));
            }
            _ => {}
        }
        let kernel = &window.host.kernel;
        if !self.kernel.is_empty() && self.kernel != *kernel {
            changes.push(change(at, ChangeKind::Kernel, "Linux", Some(&self.kernel), Some(kernel)));
        }
        self.kernel.clone_from(kernel);
        let mut limits = BTreeMap::new();
        for cgroup in window.oom_track.iter().flat_map(|part| &part.cgroups) {
            limits.insert(cgroup.path.clone(), cgroup.limit_bytes);
            if let Some(known) = self.limits.get(&cgroup.path).filter(|known| **known != cgroup.limit_bytes) {
                let (before, after) = (bytes(*known as f64), bytes(cgroup.limit_bytes as f64));
                let what = format!("memory of {}", cgroup.path);
                changes.push(change(at, ChangeKind::CgroupLimit, &what, Some(&before), Some(&after)));
            }
        }
        self.limits = limits;
        changes
    }
}

#[cfg(test)]
mod tests {
    use kerno_model::{CgroupMemory, OomSummary, Span, fill};

    use super::*;

    fn window(unix: f64, seconds: f64, limit_bytes: u64) -> Window {
        let cgroup = CgroupMemory { path: "/app".into(), limit_bytes, ..CgroupMemory::default() };
        let mut window = fill!(Window {
            span: fill!(Span { started_unix: unix, started_ns: (seconds * 1e9) as u64, seconds: 10.0 }),
            oom_track: Some(OomSummary { cgroups: vec![cgroup], ..OomSummary::default() }),
        });
        window.host.uptime_seconds = seconds + 10.0;
        window.host.kernel = "6.1".into();
        window
    }

    #[test]
    fn limits_and_steps_of_the_clock_are_told() {
        let mut changes = WindowChanges::default();
        let kinds = |changes: Vec<Change>| changes.iter().map(|change| change.kind).collect::<Vec<_>>();
        assert_eq!(kinds(changes.look(&window(1e9, 100.0, 1 << 30))), [ChangeKind::Boot]);
        assert!(changes.look(&window(1e9 + 10.0, 110.0, 1 << 30)).is_empty());
        let told = changes.look(&window(1e9 + 20.0, 120.0, 1 << 29));
        assert_eq!((told[0].before.as_deref(), told[0].after.as_deref()), (Some("1 GiB"), Some("512 MiB")));
        let told = changes.look(&window(1e9 - 3570.0, 130.0, 1 << 29));
        assert_eq!(told[0].what, "the clock was set back by 1 h");
        assert!(WindowChanges::default().look(&window(1e9, 10_000.0, 1)).is_empty());
        let mut other = WindowChanges::after(&fill!(Window { ..window(0.0, 0.0, 1) }));
        other.kernel = "5.10".into();
        assert_eq!(kinds(other.look(&window(1e9, 10_000.0, 1))), [ChangeKind::Kernel]);
    }
}
