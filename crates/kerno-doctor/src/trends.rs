//! Slow trends: what one window is too short to show. Windows are kept, merged into longer ones the older they are, and rules that look for
//! growth judge the last minute, ten minutes, hour and six hours too.

use std::collections::VecDeque;

use kerno_model::{Finding, MergeError, Window, fill};

use crate::growth::was_here_before;
use crate::{Thresholds, found, relate, rule_by_id, rules};

/// What is looked back on, in seconds.
const SPANS: [f64; 4] = [60.0, 600.0, 3600.0, 6.0 * 3600.0];

/// How often a span is judged: so many times while it lasts, and once a minute at least.
const LOOKS: f64 = 12.0;
const OFTEN: f64 = 60.0;

/// A span of which less than this share has been watched is not judged: a shorter one says the same.
const WATCHED: f64 = 0.5;

/// Judges windows in the light of those before them. A leak of two file descriptors a minute, a cgroup that fills in five hours or a disk that
/// is full by the morning shows in no window of some seconds; and what grows in one of them may be a saw-tooth that a longer look shows.
///
/// Windows must come in their order. After one of another boot, or that overlaps the one before, the past is forgotten. Holds at most some 30
/// merged windows.
///
/// ```
/// # use kerno_doctor::{Thresholds, Trends};
/// # let windows: Vec<kerno_model::Window> = Vec::new();
/// let mut trends = Trends::default();
/// for window in &windows {
///     let findings = trends.judge(window, &Thresholds::default());
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Trends {
    /// Windows as they came, and then those that were merged to each span but the last; the latest at the back.
    levels: [VecDeque<Window>; 4],
    /// Of each span: what was found when it was judged last.
    found: [Vec<Finding>; 4],
    /// Of each span: the watched seconds since it was judged.
    since: [f64; 4],
    /// The longest span, as it was when it was judged last.
    past: Option<Window>,
}

impl Trends {
    /// Judges a window, and what is due of the spans that end with it: root causes with their consequences under them, the worst first. What
    /// was found in a longer span stays until that is judged again.
    pub fn judge(&mut self, window: &Window, thresholds: &Thresholds) -> Vec<Finding> {
        self.remember(window);
        for (span, seconds) in SPANS.into_iter().enumerate() {
            self.since[span] += window.span.covered_seconds();
            if self.since[span] >= (seconds / LOOKS).min(OFTEN) {
                self.since[span] = 0.0;
                self.found[span] = self.look_back(span, window, thresholds);
            }
        }
        let mut findings = found(window, thresholds);
        findings.retain(|finding| !self.was_here_before(finding, window));
        for slow in self.found.iter().flatten() {
            let is_it = |finding: &Finding| finding.fingerprint() == slow.fingerprint();
            if !findings.iter().any(is_it) {
                findings.push(slow.clone());
            }
        }
        relate(findings, window)
    }

    /// Adds a window without judging it, such as one that was saved before a restart.
    pub fn remember(&mut self, window: &Window) {
        let last = self.levels.iter().find_map(|level| level.back());
        let follows = last.is_none_or(|last| last.gap_to(window).is_ok());
        self.levels[0].push_back(slow(window));
        if !follows || self.age().is_err() {
            *self = Self::default();
            self.levels[0].push_back(slow(window));
        }
    }

    /// Forgets what was found, for other thresholds. The windows stay.
    pub fn forget_findings(&mut self) {
        self.found = Default::default();
        self.since = SPANS;
    }

    /// What grows in a span that ends now.
    fn look_back(&mut self, span: usize, window: &Window, thresholds: &Thresholds) -> Vec<Finding> {
        let Some(long) = self.last(SPANS[span]) else { return Vec::new() };
        let is_longer = long.span.covered_seconds() > window.span.covered_seconds() * 1.5;
        if !is_longer || long.span.covered_seconds() < SPANS[span] * WATCHED {
            return Vec::new();
        }
        let of_growth = rules().filter(|rule| rule.trend.is_some());
        let mut found: Vec<_> = of_growth.flat_map(|rule| (rule.judge)(&long, thresholds)).collect();
        found.retain(|finding| finding.eta.is_some() && !self.was_here_before(finding, &long));
        // Spans are judged from the shortest on.
        self.past = Some(long);
        found
    }

    /// Whether what a finding says to grow in a window has been as high before, and came down.
    fn was_here_before(&self, finding: &Finding, window: &Window) -> bool {
        let Some(trend) = trend_of(finding).filter(|_| finding.eta.is_some()) else { return false };
        let Some(grew) = trend(window, finding) else { return false };
        let (Some(level), Some(lowest)) = (grew.last(), grew.min()) else { return false };
        let past = self.past.as_ref().and_then(|past| trend(past, finding));
        [past.as_ref(), Some(&grew)].into_iter().flatten().any(|past| was_here_before(past, level, level - lowest))
    }

    /// The windows of the last so many seconds, merged.
    fn last(&self, seconds: f64) -> Option<Window> {
        let mut covered = 0.0;
        let mut parts: Vec<&Window> = Vec::new();
        for part in self.levels.iter().flat_map(|level| level.iter().rev()) {
            if covered >= seconds {
                break;
            }
            covered += part.span.covered_seconds();
            parts.push(part);
        }
        merged(parts.into_iter().rev()).ok().flatten()
    }

    /// Merges what is old enough.
    fn age(&mut self) -> Result<(), MergeError> {
        for (level, seconds) in SPANS.iter().take(3).enumerate() {
            if covered(&self.levels[level]) < *seconds {
                break;
            }
            let parts = std::mem::take(&mut self.levels[level]);
            if let Some(merged) = merged(parts.iter())? {
                self.levels[level + 1].push_back(merged);
            }
        }
        let oldest = &mut self.levels[3];
        while oldest.front().is_some_and(|first| covered(oldest) - first.span.covered_seconds() >= SPANS[3]) {
            oldest.pop_front();
        }
        Ok(())
    }
}

/// The parts of a window that rules look for growth in: the others are most of it, and none of the past's.
fn slow(window: &Window) -> Window {
    fill!(Window {
        schema_version: window.schema_version,
        kerno_version: window.kerno_version.clone(),
        host: window.host.clone(),
        span: window.span,
        missing: window.missing.clone(),
        processes: window.processes.clone(),
        oom_track: window.oom_track.clone(),
        disk_io: window.disk_io.clone(),
        fd_track: window.fd_track.clone(),
        merged: window.merged.clone(),
    })
}

fn trend_of(finding: &Finding) -> Option<crate::Trend> {
    rule_by_id(finding.rule.as_str())?.trend
}

fn covered(windows: &VecDeque<Window>) -> f64 {
    windows.iter().map(|window| window.span.covered_seconds()).sum()
}

fn merged<'a>(windows: impl Iterator<Item = &'a Window>) -> Result<Option<Window>, MergeError> {
    let mut merged: Option<Window> = None;
    for window in windows {
        match &mut merged {
            None => merged = Some(window.clone()),
            Some(merged) => merged.merge(window)?,
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use kerno_model::{
        CgroupMemory, DiskSummary, FdProcess, FdSummary, Filesystem, OomSummary, Process, Series, Span, fill,
    };

    use super::*;

    #[test]
    fn what_rules_look_for_growth_in_is_kept() {
        let all = fill!(Window {
            oom_track: Some(OomSummary::default()),
            disk_io: Some(DiskSummary::default()),
            fd_track: Some(FdSummary::default()),
            syscall_latency: Some(kerno_model::SyscallSummary::default()),
        });
        let kept = slow(&all);
        for rule in rules().filter(|rule| rule.trend.is_some()) {
            assert!(kept.observed().contains(&rule.signal), "{}", rule.id);
        }
        assert!(!kept.observed().contains(&"syscall_latency"));
    }

    const MINUTE: f64 = 60.0;
    const HOUR: f64 = 3600.0;
    const GIB: f64 = (1u64 << 30) as f64;

    /// What is measured in the made-up world, each as a function of the time since watching began, in seconds.
    struct World {
        length: f64,
        descriptors: Option<fn(f64) -> f64>,
        memory: Option<fn(f64) -> f64>,
        available: Option<fn(f64) -> f64>,
    }

    const QUIET: World = World { length: 10.0, descriptors: None, memory: None, available: None };

    impl World {
        fn window(&self, from: f64) -> Window {
            let series = |value: fn(f64) -> f64| -> Series {
                (0..=24u8).map(|i| f64::from(i) * self.length / 24.0).map(|at| (at, value(from + at).floor())).collect()
            };
            let process = Process { comm: "app".into(), started_ns: 1, alive: true, threads: 1, ..Process::default() };
            let mut window = fill!(Window {
                span: fill!(Span {
                    started_unix: 1.7e9 + from,
                    started_ns: ((1000.0 + from) * 1e9) as u64,
                    seconds: self.length,
                    samples: 24,
                }),
                processes: [(7, process)].into(),
            });
            window.host.boot_id = "boot".into();
            window.fd_track = self.descriptors.map(|open| {
                let process = FdProcess {
                    pid: 7,
                    comm: "app".into(),
                    soft_limit: 1024,
                    open: series(open),
                    ..FdProcess::default()
                };
                FdSummary { processes: vec![process], ..FdSummary::default() }
            });
            window.oom_track = self.memory.map(|used| {
                let cgroup = CgroupMemory {
                    path: "/app".into(),
                    limit_bytes: 16 << 30,
                    used_bytes: series(used),
                    ..CgroupMemory::default()
                };
                OomSummary { cgroups: vec![cgroup], ..OomSummary::default() }
            });
            window.disk_io = self.available.map(|available| {
                let filesystem = Filesystem {
                    dev: "8:1".into(),
                    mount: "/var".into(),
                    total_bytes: 100 << 30,
                    total_inodes: 0,
                    available_bytes: series(available),
                    ..Filesystem::default()
                };
                DiskSummary { filesystems: vec![filesystem], ..DiskSummary::default() }
            });
            window
        }

        /// When each rule finds something first, and what is found at the end.
        fn watch(&self, seconds: f64) -> (Vec<(f64, Finding)>, Vec<Finding>) {
            let (mut trends, mut first, mut findings) = (Trends::default(), Vec::<(f64, Finding)>::new(), Vec::new());
            let mut from = 0.0;
            while from < seconds {
                findings = trends.judge(&self.window(from), &Thresholds::default());
                from += self.length;
                for finding in &findings {
                    if !first.iter().any(|(_, known)| known.fingerprint() == finding.fingerprint()) {
                        first.push((from, finding.clone()));
                    }
                }
            }
            assert!(trends.levels.iter().map(VecDeque::len).sum::<usize>() <= 32);
            (first, findings)
        }
    }

    #[test]
    fn a_slow_leak_is_found_with_its_time_left() {
        let world = World { descriptors: Some(|at| 50.0 + at / 30.0), ..QUIET };
        assert!(crate::judge(&world.window(HOUR), &Thresholds::default()).is_empty(), "no window shows it");
        let (first, now) = world.watch(2.0 * HOUR);
        let [(at, finding)] = &first[..] else { panic!("{first:?}") };
        assert!(finding.rule == "fd_leak" && *at <= 40.0 * MINUTE, "{at}");
        let left = now[0].eta.as_ref().unwrap().seconds;
        let truth = (1024.0 - 50.0) * 30.0 - 2.0 * HOUR;
        assert!((left - truth).abs() < 0.05 * truth, "{left} of {truth}");
    }

    #[test]
    fn a_cgroup_that_fills_in_five_hours_and_a_disk_that_fills_by_morning_are_found_long_before() {
        let cgroup = World { memory: Some(|at| (4.0 + 12.0 * at / (5.0 * HOUR)) * GIB), ..QUIET };
        let (first, now) = cgroup.watch(1.5 * HOUR);
        assert!(first.len() == 1 && first[0].1.rule == "oom_imminent" && first[0].0 <= 1.0 * HOUR, "{first:?}");
        let left = now[0].eta.as_ref().unwrap().seconds;
        assert!((left - 3.5 * HOUR).abs() < 0.2 * HOUR, "{left}");
        let disk = World { available: Some(|at| (40.0 - 40.0 * at / (8.0 * HOUR)) * GIB), ..QUIET };
        let (first, now) = disk.watch(2.0 * HOUR);
        assert!(first.len() == 1 && first[0].1.rule == "disk_full" && first[0].0 <= 1.0 * HOUR, "{first:?}");
        let left = now[0].eta.as_ref().unwrap().seconds;
        assert!((left - 6.0 * HOUR).abs() < 0.3 * HOUR, "{left}");
    }

    #[test]
    fn saw_teeth_and_levels_that_are_reached_are_silent() {
        // Garbage collected every 20 minutes; logs rotated every 3 hours; a cache that warms up; more connections as the day goes on.
        let collected =
            World { memory: Some(|at| (6.0 + 6.0 * (at % (20.0 * MINUTE)) / (20.0 * MINUTE)) * GIB), ..QUIET };
        let (first, now) = collected.watch(6.0 * HOUR);
        assert!(now.is_empty() && first.iter().all(|(at, _)| *at < 20.0 * MINUTE), "{first:?}");
        let rotated = World { available: Some(|at| (30.0 - 6.0 * (at % (3.0 * HOUR)) / (3.0 * HOUR)) * GIB), ..QUIET };
        let (first, now) = rotated.watch(12.0 * HOUR);
        assert!(now.is_empty() && first.is_empty(), "{first:?}");
        let warms = World { memory: Some(|at| (12.0 - 10.0 * (-at / (10.0 * MINUTE)).exp()) * GIB), ..QUIET };
        let (_, now) = warms.watch(3.0 * HOUR);
        assert!(now.is_empty(), "{now:?}");
        let day = World { descriptors: Some(|at| 400.0 + 150.0 * (at / (4.0 * HOUR)).sin()), ..QUIET };
        let (first, _) = day.watch(12.0 * HOUR);
        assert!(first.is_empty(), "{first:?}");
    }

    #[test]
    fn what_is_over_is_told_no_more() {
        // It stops after an hour.
        let leak = World { descriptors: Some(|at| 50.0 + at.min(HOUR) / 30.0), ..QUIET };
        let (first, now) = leak.watch(1.5 * HOUR);
        assert!(first.len() == 1 && now.is_empty(), "{now:?}");
    }

    #[test]
    fn the_past_of_another_boot_is_forgotten() {
        let world = World { descriptors: Some(|at| 50.0 + at / 30.0), ..QUIET };
        let mut trends = Trends::default();
        let thresholds = Thresholds::default();
        (0..360).for_each(|i| drop(trends.judge(&world.window(f64::from(i) * 10.0), &thresholds)));
        assert_eq!(trends.judge(&world.window(3600.0), &thresholds).len(), 1);
        let mut other = world.window(3610.0);
        other.host.boot_id = "another".into();
        assert!(trends.judge(&other, &thresholds).is_empty());
        assert_eq!(trends.levels.iter().map(VecDeque::len).sum::<usize>(), 1);
    }
}
