//! Cgroups with a quota of CPU time, and how often they were held back by it, on v1 and v2.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Instant;

use crate::engine::{CgroupDir, Cumulative, Delta, Gaps, Hierarchy, MountWatch, Tasks, WalkAge, is_gone};
use kerno_model::CgroupThrottle;

/// The most cgroups that a summary names, and the most processes of each.
const MAX_CGROUPS: usize = 32;
const MAX_PIDS: usize = 8;

/// The running totals of a cgroup's `cpu.stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    periods: u64,
    throttled_periods: u64,
    throttled_ns: u64,
    /// v1 has it in another controller, which may be mounted elsewhere.
    used_ns: Option<u64>,
}

/// Follows all cgroups that have a quota.
#[derive(Debug)]
pub(super) struct ThrottleMeter {
    hierarchy: Option<Hierarchy>,
    mounts: MountWatch,
    /// By the cgroup's id.
    totals: HashMap<u64, Cumulative<Totals>>,
    limited: Limited,
    age: Option<WalkAge>,
}

/// The cgroups that have a quota, with those below them.
#[derive(Debug, Default)]
struct Limited {
    cgroups: Vec<CgroupDir>,
    all: Vec<CgroupDir>,
    cut: bool,
}

impl ThrottleMeter {
    pub(super) fn new() -> Self {
        let mut mounts = MountWatch::default();
        mounts.changed();
        Self {
            hierarchy: Hierarchy::of_controller("cpu"),
            mounts,
            totals: HashMap::new(),
            limited: Limited::default(),
            age: None,
        }
    }

    /// False where no hierarchy has the controller.
    pub(super) const fn is_possible(&self) -> bool {
        self.hierarchy.is_some()
    }

    /// Takes the totals as they are as the window's zero.
    pub(super) fn begin(&mut self, gaps: &mut Gaps) {
        if self.mounts.changed() {
            let hierarchy = Hierarchy::of_controller("cpu");
            if hierarchy != self.hierarchy {
                let mounts = std::mem::take(&mut self.mounts);
                *self = Self { hierarchy, mounts, ..Self::new() };
            }
        }
        // Later windows begin where the one before ended.
        if self.age.is_none() {
            self.look(gaps);
            let Some(hierarchy) = &self.hierarchy else { return };
            for cgroup in &self.limited.cgroups {
                self.totals.entry(cgroup.id).or_insert(Cumulative::new(WHAT)).begin(totals(cgroup, hierarchy.v2));
            }
        }
    }

    /// Finds those with a quota, unless that was done a moment ago.
    fn look(&mut self, gaps: &mut Gaps) {
        let Some(hierarchy) = &self.hierarchy else { return };
        if self.age.is_some_and(|age| !age.is_over()) {
            return;
        }
        let begun = Instant::now();
        let walk = hierarchy.walk();
        let has_quota = |cgroup: &&CgroupDir| match quota(cgroup, hierarchy.v2) {
            Err(error) if is_gone(&error) => false,
            // One that had a quota has it still, as far as is known.
            quota => gaps.note(WHAT, quota).map_or(self.totals.contains_key(&cgroup.id), |quota| quota.is_some()),
        };
        let cgroups: Vec<_> = walk.cgroups.iter().filter(has_quota).cloned().collect();
        let known: HashSet<u64> = walk.cgroups.iter().map(|cgroup| cgroup.id).collect();
        self.totals.retain(|id, _| known.contains(id));
        self.limited = Limited { cgroups, all: walk.cgroups, cut: walk.cut };
        self.age = Some(WalkAge::since(begun));
    }

    /// Those that were held back in the window, the longest first, and whether there were more cgroups than could be looked at. The next
    /// window begins.
    pub(super) fn take(&mut self, tasks: &Tasks, gaps: &mut Gaps) -> (Vec<CgroupThrottle>, bool) {
        self.look(gaps);
        let Some(hierarchy) = &self.hierarchy else { return (Vec::new(), false) };
        let mut throttled = Vec::new();
        for cgroup in &self.limited.cgroups {
            let (quota, now) = (quota(cgroup, hierarchy.v2), totals(cgroup, hierarchy.v2));
            if now.as_ref().err().is_some_and(is_gone) {
                continue;
            }
            // One that has come since begins at zero; one that got its quota since had none to be held back by.
            let zero = || Cumulative::since_zero(WHAT, Totals { used_ns: Some(0), ..Totals::default() });
            let delta = gaps.delta(self.totals.entry(cgroup.id).or_insert_with(zero).advance(now));
            let Some((Some((quota_us, period_us)), Delta { before, now, .. })) = gaps.note(WHAT, quota).zip(delta)
            else {
                continue;
            };
            let throttled_periods = now.throttled_periods.saturating_sub(before.throttled_periods);
            if throttled_periods == 0 {
                continue;
            }
            let used_ns = now.used_ns.zip(before.used_ns).map(|(now, before)| now.saturating_sub(before));
            throttled.push((
                cgroup,
                CgroupThrottle {
                    path: cgroup.path.clone(),
                    v2: hierarchy.v2,
                    file: cgroup.dir.join(quota_file(hierarchy.v2)).to_string_lossy().into_owned(),
                    quota_us,
                    period_us,
                    periods: now.periods.saturating_sub(before.periods),
                    throttled_periods,
                    throttled_ns: now.throttled_ns.saturating_sub(before.throttled_ns),
                    used_ns: used_ns.unwrap_or(0),
                    pids: Vec::new(),
                },
            ));
        }
        throttled.sort_unstable_by_key(|(_, found)| std::cmp::Reverse(found.throttled_ns));
        throttled.truncate(MAX_CGROUPS);
        let name_pids = |(cgroup, mut found): (&CgroupDir, CgroupThrottle)| {
            let mut users: Vec<_> = pids_below(cgroup, &self.limited.all)
                .into_iter()
                .map(|pid| (tasks.process(pid).map_or(0, |process| process.used.run_ns), pid))
                .collect();
            users.sort_unstable_by(|a, b| b.cmp(a));
            if found.used_ns == 0 {
                found.used_ns = users.iter().map(|(run_ns, _)| run_ns).sum();
            }
            found.pids = users.into_iter().take(MAX_PIDS).map(|(_, pid)| pid).collect();
            found
        };
        let throttled = throttled.into_iter().map(name_pids).collect();
        (throttled, self.limited.cut)
    }
}

/// What may be missing.
const WHAT: &str = "how CPU quotas held cgroups back";

const fn quota_file(v2: bool) -> &'static str {
    if v2 { "cpu.max" } else { "cpu.cfs_quota_us" }
}

/// Processes of the cgroup and of all below it: the quota is for these together.
fn pids_below(cgroup: &CgroupDir, all: &[CgroupDir]) -> Vec<u32> {
    let prefix = format!("{}/", cgroup.path);
    let below = all.iter().filter(|other| other.id == cgroup.id || other.path.starts_with(&prefix));
    below.flat_map(CgroupDir::pids).collect()
}

/// Quota and period in microseconds; `None` without a quota.
fn quota(cgroup: &CgroupDir, v2: bool) -> io::Result<Option<(u64, u64)>> {
    if v2 {
        return Ok(parse_cpu_max(&cgroup.text("cpu.max")?));
    }
    // -1 is none.
    Ok(cgroup.number("cpu.cfs_quota_us")?.zip(cgroup.number("cpu.cfs_period_us")?))
}

/// `max 100000` or `50000 100000`.
fn parse_cpu_max(text: &str) -> Option<(u64, u64)> {
    let (quota, period) = text.trim().split_once(' ')?;
    Some((quota.parse().ok()?, period.parse().ok()?))
}

fn totals(cgroup: &CgroupDir, v2: bool) -> io::Result<Totals> {
    let v1_usage = match (!v2).then(|| cgroup.number("cpuacct.usage")) {
        // Not there where the controllers are mounted apart.
        Some(Err(error)) if is_gone(&error) => None,
        usage => usage.transpose()?.flatten(),
    };
    Ok(totals_of(&cgroup.numbers("cpu.stat")?, v2, v1_usage))
}

fn totals_of(stat: &HashMap<String, u64>, v2: bool, v1_usage: Option<u64>) -> Totals {
    let get = |name: &str| stat.get(name).copied();
    let us = |name: &str| get(name).map(|us| us.saturating_mul(1000));
    Totals {
        periods: get("nr_periods").unwrap_or(0),
        throttled_periods: get("nr_throttled").unwrap_or(0),
        // v1 in nanoseconds, v2 in microseconds.
        throttled_ns: if v2 { us("throttled_usec") } else { get("throttled_time") }.unwrap_or(0),
        used_ns: if v2 { us("usage_usec") } else { v1_usage },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_files_are_read() {
        assert_eq!(parse_cpu_max("50000 100000\n"), Some((50_000, 100_000)));
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        let numbers = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let v2 = numbers(&[("usage_usec", 7), ("nr_periods", 5), ("nr_throttled", 4), ("throttled_usec", 3)]);
        let totals = Totals { periods: 5, throttled_periods: 4, throttled_ns: 3000, used_ns: Some(7000) };
        assert_eq!(totals_of(&v2, true, None), totals);
        let v1 = numbers(&[("nr_periods", 5), ("nr_throttled", 4), ("throttled_time", 3000)]);
        assert_eq!(totals_of(&v1, false, Some(7000)), totals);
    }

    #[test]
    fn a_quota_is_read_from_a_directory_of_either_version() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = CgroupDir { path: "/a".into(), dir: dir.path().into(), id: 1 };
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let both = || (quota(&cgroup, true).ok().flatten(), quota(&cgroup, false).ok().flatten());
        assert_eq!(both(), (None, None));
        write("cpu.max", "20000 100000\n");
        write("cpu.cfs_quota_us", "-1\n");
        write("cpu.cfs_period_us", "50000\n");
        assert_eq!(both(), (Some((20_000, 100_000)), None));
        write("cpu.cfs_quota_us", "10000\n");
        assert_eq!(both().1, Some((10_000, 50_000)));
    }
}
