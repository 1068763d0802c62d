//! Cgroups with an I/O limit of their own, and how much of it they use. What they wait there is before any request.

use std::collections::HashMap;
use std::time::Instant;

use crate::engine::{CgroupDir, Hierarchy, PressureMeter, Tasks, WalkAge};
use kerno_model::{CgroupIo, IoLimit, IoLimitKind};

/// The most pairs of a cgroup and a device that are followed.
const MAX_LIMITED: usize = 256;

/// Readings kept of each.
const MAX_READINGS: usize = 64;

/// The shortest stretch that a rate is taken of, in seconds: the kernel lets a cgroup save up a little.
const MIN_STRETCH: f64 = 0.9;

/// From this share of its limit on a cgroup is told of.
const TOLD_FROM: f64 = 0.5;

const MAX_PIDS: usize = 16;

/// Of one cgroup on one device, in the order of [`KINDS`].
type PerKind = [u64; 4];

const KINDS: [IoLimitKind; 4] =
    [IoLimitKind::ReadBytes, IoLimitKind::WriteBytes, IoLimitKind::ReadRequests, IoLimitKind::WriteRequests];

/// v1 has a file for each of [`KINDS`].
const V1_FILES: [&str; 4] = [
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
];

#[derive(Debug)]
struct Limited {
    cgroup: CgroupDir,
    dev: String,
    /// 0: none.
    limits: PerKind,
    /// Seconds since the window began, and totals.
    readings: Vec<(f64, PerKind)>,
}

/// All cgroups with limits, found when a window begins unless that was done a moment ago.
#[derive(Debug, Default)]
pub(super) struct Limits {
    v2: bool,
    limited: Vec<Limited>,
    pressure: HashMap<String, PressureMeter>,
    age: Option<WalkAge>,
}

impl Limits {
    pub(super) fn begin(&mut self) {
        if self.age.is_none_or(WalkAge::is_over) {
            self.find();
        }
        self.limited.iter_mut().for_each(|limited| limited.readings.clear());
        for meter in self.pressure.values_mut() {
            let _ = meter.take(1.0);
        }
        self.sample(0.0);
    }

    fn find(&mut self) {
        let begun = Instant::now();
        *self = Self::default();
        let Some(hierarchy) = Hierarchy::of_controller("io") else { return };
        self.v2 = hierarchy.v2;
        let mut cgroups = hierarchy.walk().cgroups;
        // v1 has limits at the root, too.
        cgroups.push(CgroupDir { path: "/".into(), dir: hierarchy.mount, id: 0 });
        for cgroup in cgroups {
            for (dev, limits) in read_limits(&cgroup, self.v2) {
                if self.limited.len() < MAX_LIMITED {
                    self.limited.push(Limited { cgroup: cgroup.clone(), dev, limits, readings: Vec::new() });
                }
            }
        }
        if self.v2 {
            let meter = |limited: &Limited| {
                (limited.cgroup.path.clone(), PressureMeter::new(limited.cgroup.dir.join("io.pressure")))
            };
            self.pressure = self.limited.iter().map(meter).collect();
        }
        self.age = Some(WalkAge::since(begun));
    }

    pub(super) fn sample(&mut self, seconds: f64) {
        for limited in &mut self.limited {
            let totals = read_totals(&limited.cgroup, &limited.dev, self.v2);
            if limited.readings.len() >= MAX_READINGS {
                let mut keep = false;
                limited.readings.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            limited.readings.push((seconds, totals));
        }
    }

    /// Those that used at least half of a limit.
    pub(super) fn finish(&mut self, seconds: f64, tasks: &Tasks) -> Vec<CgroupIo> {
        let mut found = Vec::new();
        for limited in &self.limited {
            let Some((limit_used, kind)) = most_used(limited) else { continue };
            if limit_used < TOLD_FROM {
                continue;
            }
            let gained = gained(limited.readings.first(), limited.readings.last());
            let stalled = self.pressure.get_mut(&limited.cgroup.path).and_then(|meter| meter.take(seconds));
            found.push(CgroupIo {
                path: limited.cgroup.path.clone(),
                v2: self.v2,
                dev: limited.dev.clone(),
                limits: (KINDS.iter().zip(limited.limits))
                    .filter(|(_, limit)| *limit > 0)
                    .map(|(kind, per_second)| IoLimit { kind: *kind, per_second })
                    .collect(),
                read_bytes: gained[0],
                write_bytes: gained[1],
                limit_used,
                tightest: kind,
                some_stalled: stalled.map(|stalled| stalled.0),
                pids: busiest_processes(&limited.cgroup, tasks),
            });
        }
        found.sort_by(|a, b| b.limit_used.total_cmp(&a.limit_used));
        found
    }
}

fn gained(first: Option<&(f64, PerKind)>, last: Option<&(f64, PerKind)>) -> PerKind {
    let mut gained = [0; 4];
    if let (Some(first), Some(last)) = (first, last) {
        for ((gained, first), last) in gained.iter_mut().zip(first.1).zip(last.1) {
            *gained = last.saturating_sub(first);
        }
    }
    gained
}

/// The limit it used most of, over the best stretch of at least a third of the window: load may begin in the middle of it.
#[allow(clippy::cast_precision_loss, reason = "rates")]
fn most_used(limited: &Limited) -> Option<(f64, IoLimitKind)> {
    let readings = &limited.readings;
    let window = readings.last()?.0;
    let stretch = (window / 3.0).max(MIN_STRETCH).min(window);
    let mut most: Option<(f64, IoLimitKind)> = None;
    for (i, first) in readings.iter().enumerate() {
        let Some(last) = readings.iter().skip(i + 1).find(|last| last.0 - first.0 >= stretch) else { break };
        let gained = gained(Some(first), Some(last));
        for ((kind, limit), gained) in KINDS.iter().zip(limited.limits).zip(gained).filter(|((_, limit), _)| *limit > 0)
        {
            let used = gained as f64 / (last.0 - first.0).max(1e-3) / limit as f64;
            if most.is_none_or(|most| used > most.0) {
                most = Some((used, *kind));
            }
        }
    }
    most
}

/// Of the cgroup and those below it, the processes with most I/O in the window.
fn busiest_processes(cgroup: &CgroupDir, tasks: &Tasks) -> Vec<u32> {
    let below = Hierarchy { mount: cgroup.dir.clone(), v2: true }.walk().cgroups;
    let mut pids: Vec<u32> = below.iter().chain([cgroup]).flat_map(CgroupDir::pids).collect();
    let io = |pid: &u32| tasks.process(*pid).map_or(0, |process| process.used.read_bytes + process.used.write_bytes);
    pids.sort_by_key(|pid| (std::cmp::Reverse(io(pid)), *pid));
    pids.dedup();
    pids.truncate(MAX_PIDS);
    pids
}

/// Device and limits.
fn read_limits(cgroup: &CgroupDir, v2: bool) -> HashMap<String, PerKind> {
    let mut all: HashMap<String, PerKind> = HashMap::new();
    if v2 {
        for line in cgroup.text("io.max").unwrap_or_default().lines() {
            if let Some((dev, limits)) = parse_pairs(line, KINDS.map(IoLimitKind::key)) {
                all.insert(dev, limits);
            }
        }
    } else {
        for (i, file) in V1_FILES.iter().enumerate() {
            for line in cgroup.text(file).unwrap_or_default().lines() {
                if let Some((dev, limit)) = line.split_once(' ')
                    && let Some(slot) = all.entry(dev.to_owned()).or_default().get_mut(i)
                {
                    *slot = limit.trim().parse().unwrap_or(0);
                }
            }
        }
    }
    all.retain(|_, limits| limits.iter().any(|limit| *limit > 0));
    all
}

/// A line `8:0 a=1 b=max`; what is not a number is 0.
fn parse_pairs(line: &str, names: [&str; 4]) -> Option<(String, PerKind)> {
    let (dev, rest) = line.split_once(' ')?;
    let mut values = [0; 4];
    for (name, value) in rest.split(' ').filter_map(|pair| pair.split_once('=')) {
        if let Some(slot) = names.iter().position(|known| *known == name).and_then(|at| values.get_mut(at)) {
            *slot = value.parse().unwrap_or(0);
        }
    }
    Some((dev.to_owned(), values))
}

/// Bytes read, bytes written, reads, writes so far.
fn read_totals(cgroup: &CgroupDir, dev: &str, v2: bool) -> PerKind {
    if v2 {
        let text = cgroup.text("io.stat").unwrap_or_default();
        let line = text.lines().find(|line| line.split(' ').next() == Some(dev));
        return line
            .and_then(|line| parse_pairs(line, ["rbytes", "wbytes", "rios", "wios"]))
            .map_or([0; 4], |pair| pair.1);
    }
    let [read_bytes, write_bytes] = v1_totals(cgroup, "blkio.throttle.io_service_bytes", dev);
    let [reads, writes] = v1_totals(cgroup, "blkio.throttle.io_serviced", dev);
    [read_bytes, write_bytes, reads, writes]
}

/// With the cgroups below, where the kernel has that: a limit is for all of them together.
fn v1_totals(cgroup: &CgroupDir, file: &str, dev: &str) -> [u64; 2] {
    let text = cgroup.text(&format!("{file}_recursive")).or_else(|| cgroup.text(file)).unwrap_or_default();
    let total = |kind: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(dev)?.strip_prefix(' ')?.strip_prefix(kind));
        lines.next().and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    [total("Read "), total("Write ")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(files: &[(&str, &str)]) -> (tempfile::TempDir, CgroupDir) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let cgroup = CgroupDir { path: "/a".into(), dir: dir.path().into(), id: 1 };
        (dir, cgroup)
    }

    #[test]
    fn both_versions_say_the_same() {
        let (_dir, v2) = cgroup(&[
            ("io.max", "8:16 rbps=1048576 wbps=max riops=max wiops=120\n8:32 rbps=max wbps=max riops=max wiops=max\n"),
            ("io.stat", "8:16 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n"),
        ]);
        assert_eq!(read_limits(&v2, true), [("8:16".to_owned(), [1_048_576, 0, 0, 120])].into());
        assert_eq!(read_totals(&v2, "8:16", true), [10, 20, 1, 2]);
        assert_eq!(read_totals(&v2, "8:1", true), [0; 4]);
        let (_dir, v1) = cgroup(&[
            ("blkio.throttle.read_bps_device", "8:16 1048576\n"),
            ("blkio.throttle.write_iops_device", "8:16 120\n"),
            ("blkio.throttle.io_service_bytes", "8:16 Read 10\n8:16 Write 20\n8:16 Total 30\nTotal 30\n"),
            ("blkio.throttle.io_serviced_recursive", "8:1 Read 9\n8:16 Read 1\n8:16 Write 2\n"),
        ]);
        assert_eq!(read_limits(&v1, false), [("8:16".to_owned(), [1_048_576, 0, 0, 120])].into());
        assert_eq!(read_totals(&v1, "8:16", false), [10, 20, 1, 2]);
    }

    #[test]
    fn the_tightest_limit_counts_over_the_best_stretch() {
        let (_dir, cgroup) = cgroup(&[]);
        // Nothing for half of the window, then 98 of 100 bytes a second and 5 of 10 requests.
        let reading = |second: u32| {
            let active = u64::from(second.saturating_sub(5));
            (f64::from(second), [98 * active, 0, 5 * active, 0])
        };
        let limited =
            Limited { cgroup, dev: "8:16".into(), limits: [100, 0, 10, 0], readings: (0..=10).map(reading).collect() };
        let (used, kind) = most_used(&limited).unwrap();
        assert_eq!(kind, IoLimitKind::ReadBytes);
        assert!((used - 0.98).abs() < 1e-9);
    }
}
