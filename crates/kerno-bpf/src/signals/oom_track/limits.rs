//! Cgroups that have a limit of memory: which there are, what they use, and how that goes on.

use std::collections::HashMap;
use std::io;

use crate::engine::{CgroupDir, Gaps, Hierarchy, MountWatch, PressureMeter, is_gone};
use kerno_model::CgroupMemory;
use kerno_model::Series;

/// How many are followed, and how many are told of.
const MAX_WATCHED: usize = 256;
const MAX_TOLD: usize = 32;
/// A walk over all cgroups is made anew so seldom at least, and so seldom that it takes at most 1 in so many of the time.
const WALK_SECONDS: f64 = 5.0;
const WALK_SHARE: f64 = 200.0;
/// What of a cgroup could be dropped is read again when its use has changed by 1 in so many of the limit.
const STAT_SHARE: u64 = 200;

/// The cgroups of the hierarchy that limits memory.
#[derive(Debug)]
pub(super) struct Limits {
    hierarchy: Hierarchy,
    /// What is no limit: the machine's memory.
    pub(super) total_bytes: u64,
    watched: Vec<Watched>,
    paths: HashMap<u64, String>,
    walk_again_ns: u64,
}

#[derive(Debug)]
struct Watched {
    cgroup: CgroupDir,
    limit_bytes: u64,
    high_bytes: Option<u64>,
    used: Series,
    /// With what could be dropped, as last read.
    usage_bytes: u64,
    /// What could be dropped, and the use when that was read.
    droppable: Option<(u64, u64)>,
    before: Events,
    /// The events as last read: the cgroup may be gone at the window's end.
    now: Events,
    /// Faults as the window began and as last read; not read of those far from their limit.
    faults: Option<(Faults, Faults)>,
    pressure: Option<PressureMeter>,
}

/// Totals since the cgroup was made.
#[derive(Clone, Copy, Debug, Default)]
struct Events {
    limit_hits: u64,
    high_hits: u64,
    oom_kills: u64,
}

/// The same, of `memory.stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Faults {
    major: u64,
    refaulted: u64,
}

impl Limits {
    /// For the hierarchy that is mounted now. Keeps what is known if that is the same as before.
    pub(super) fn where_mounted(known: Option<Self>, mounts: &mut MountWatch, total_bytes: u64) -> Option<Self> {
        if !mounts.changed() {
            return known;
        }
        let hierarchy = Hierarchy::of_controller("memory")?;
        if let Some(known) = known.filter(|known| known.hierarchy == hierarchy) {
            return Some(known);
        }
        Some(Self { hierarchy, total_bytes, watched: Vec::new(), paths: HashMap::new(), walk_again_ns: 0 })
    }

    /// Begins a window.
    pub(super) fn begin(&mut self, now_ns: u64, gaps: &mut Gaps) {
        self.refresh(now_ns, gaps);
        let v2 = self.hierarchy.v2;
        self.watched.retain(|watched| watched.cgroup.dir.exists());
        for watched in &mut self.watched {
            watched.used = Series::default();
            watched.look(v2, gaps);
            watched.before = watched.now;
            watched.faults = watched.is_near().then(|| watched.read_faults(v2, gaps)).flatten().map(|now| (now, now));
            watched.pressure.iter_mut().for_each(PressureMeter::begin);
        }
        self.sample(0.0, gaps);
    }

    /// Looks for cgroups that are new, unless that was done a moment ago.
    pub(super) fn refresh(&mut self, now_ns: u64, gaps: &mut Gaps) {
        if now_ns >= self.walk_again_ns {
            self.walk(now_ns, gaps);
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds")]
    fn walk(&mut self, now_ns: u64, gaps: &mut Gaps) {
        let start = std::time::Instant::now();
        let found = self.hierarchy.walk().cgroups;
        let mut known: HashMap<u64, Watched> = self.watched.drain(..).map(|w| (w.cgroup.id, w)).collect();
        let v2 = self.hierarchy.v2;
        let mut limited = Vec::new();
        self.paths.clear();
        for cgroup in found {
            self.paths.insert(cgroup.id, cgroup.path.clone());
            let (max, high) = match limits(&cgroup, v2) {
                Err(error) if is_gone(&error) => continue,
                limits => match gaps.note(WHAT, limits) {
                    Some(limits) => limits,
                    // As far as is known the limit is what it was.
                    None => {
                        limited.extend(known.remove(&cgroup.id).map(|watched| (watched.limit_bytes, watched)));
                        continue;
                    }
                },
            };
            let real = |limit: Option<u64>| limit.filter(|limit| *limit < self.total_bytes && *limit > 0);
            let (max, high) = (real(max), real(high));
            let Some(limit_bytes) = max.or(high) else { continue };
            let usage = cgroup.number(usage_file(v2)).ok().flatten().unwrap_or(0);
            let watched = match known.remove(&cgroup.id) {
                Some(watched) => Watched { limit_bytes, high_bytes: high, ..watched },
                None => match Events::read(&cgroup, v2, max.is_none()) {
                    Err(error) if is_gone(&error) => continue,
                    events => {
                        // Without its zero it is followed from the next walk on.
                        let Some(before) = gaps.note(WHAT, events) else { continue };
                        let pressure = pressure(&cgroup, v2);
                        let used = Series::default();
                        Watched {
                            cgroup,
                            limit_bytes,
                            high_bytes: high,
                            used,
                            usage_bytes: usage,
                            droppable: None,
                            before,
                            now: before,
                            faults: None,
                            pressure,
                        }
                    }
                },
            };
            limited.push((usage, watched));
        }
        limited.sort_by(|a, b| nearness(b.0, b.1.limit_bytes).total_cmp(&nearness(a.0, a.1.limit_bytes)));
        limited.truncate(MAX_WATCHED);
        self.watched = limited.into_iter().map(|(_, watched)| watched).collect();
        // Those that went away in this window are still told of.
        self.watched.extend(known.into_values().filter(|watched| !watched.used.points().is_empty()).take(MAX_WATCHED));
        let wait = (start.elapsed().as_secs_f64() * WALK_SHARE).max(WALK_SECONDS);
        self.walk_again_ns = now_ns + (wait * 1e9) as u64;
    }

    /// Reads what each uses.
    #[allow(clippy::cast_precision_loss, reason = "bytes")]
    pub(super) fn sample(&mut self, seconds: f64, gaps: &mut Gaps) {
        let v2 = self.hierarchy.v2;
        for watched in &mut self.watched {
            let Some(usage) = read(WHAT, watched.cgroup.number(usage_file(v2)), gaps).flatten() else { continue };
            let step = watched.limit_bytes / STAT_SHARE;
            let droppable = match watched.droppable {
                Some((droppable, at)) if usage.abs_diff(at) < step => droppable,
                _ => {
                    let Some(stat) = read(WHAT, watched.cgroup.text("memory.stat"), gaps) else { continue };
                    let droppable = droppable(&stat, v2);
                    watched.droppable = Some((droppable, usage));
                    watched.look(v2, gaps);
                    // One that comes near its limit in the middle of the window.
                    let faults = Faults::parse(&stat, v2);
                    let near = nearness(usage, watched.limit_bytes) >= NEAR;
                    if near || watched.faults.is_some() {
                        watched.faults = Some((watched.faults.map_or(faults, |(before, _)| before), faults));
                    }
                    droppable
                }
            };
            watched.usage_bytes = usage;
            watched.used.push(seconds, usage.saturating_sub(droppable) as f64);
        }
    }

    /// A cgroup's path by its id.
    pub(super) fn known_path(&self, id: u64) -> Option<&str> {
        self.paths.get(&id).map(String::as_str)
    }

    /// The innermost cgroup with a limit that this path is in.
    pub(super) fn limited(&self, path: &str) -> Option<&str> {
        let paths = self.watched.iter().map(|watched| watched.cgroup.path.as_str());
        paths.filter(|limited| is_in(path, limited)).max_by_key(|limited| limited.len())
    }

    /// Ends the window: the cgroups nearest to their limit, those that grew most, and those that someone was killed in.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes")]
    pub(super) fn finish(&mut self, seconds: f64, killed_in: &[String], gaps: &mut Gaps) -> Vec<CgroupMemory> {
        let v2 = self.hierarchy.v2;
        let mut told: Vec<_> = self
            .watched
            .iter_mut()
            .map(|watched| {
                watched.look(v2, gaps);
                if let Some((before, latest)) = watched.faults {
                    watched.faults = Some((before, watched.read_faults(v2, gaps).unwrap_or(latest)));
                }
                let (before, now) = watched.faults.unwrap_or_default();
                let path = watched.cgroup.path.clone();
                // Where the cgroup is gone the kernel does not tell any more.
                let killed = killed_in.iter().filter(|killed| is_in(killed, &path)).count() as u64;
                let kills = watched.now.oom_kills.saturating_sub(watched.before.oom_kills);
                CgroupMemory {
                    v2,
                    directory: watched.cgroup.dir.display().to_string(),
                    used_bytes: watched.used.clone(),
                    limit_bytes: watched.limit_bytes,
                    high_bytes: watched.high_bytes,
                    limit_hits: watched.now.limit_hits.saturating_sub(watched.before.limit_hits),
                    high_hits: watched.now.high_hits.saturating_sub(watched.before.high_hits),
                    major_faults: now.major.saturating_sub(before.major),
                    refaulted_pages: now.refaulted.saturating_sub(before.refaulted),
                    oom_kills: kills.max(if watched.cgroup.dir.exists() { 0 } else { killed }),
                    some_stalled: watched
                        .pressure
                        .as_mut()
                        .and_then(|meter| meter.take(seconds).ok())
                        .map(|share| share.0),
                    largest: Vec::new(),
                    path,
                }
            })
            .collect();
        let limit = |cgroup: &CgroupMemory| cgroup.limit_bytes.max(1) as f64;
        let urgency = |cgroup: &CgroupMemory| {
            let used = cgroup.used_bytes.last().unwrap_or(0.0) / limit(cgroup);
            let grown = cgroup.used_bytes.change().max(0.0) / limit(cgroup);
            let killed = killed_in.iter().any(|path| is_in(path, &cgroup.path)) || cgroup.oom_kills > 0;
            used + grown + if killed { 10.0 } else { 0.0 }
        };
        told.sort_by(|a, b| urgency(b).total_cmp(&urgency(a)).then_with(|| a.path.cmp(&b.path)));
        told.truncate(MAX_TOLD);
        let used = |cgroup: &CgroupMemory| cgroup.used_bytes.last().unwrap_or(0.0) / limit(cgroup);
        told.sort_by(|a, b| used(b).total_cmp(&used(a)).then_with(|| a.path.cmp(&b.path)));
        told
    }
}

/// From this share of its limit on, what could be dropped included, a cgroup may have to read again what it drops.
const NEAR: f64 = 0.8;

/// What may be missing.
const WHAT: &str = "memory that cgroups with a limit use";

/// What was read, if it was; it is no news that the cgroup has gone.
fn read<T>(what: &str, reading: io::Result<T>, gaps: &mut Gaps) -> Option<T> {
    match reading {
        Err(error) if is_gone(&error) => None,
        reading => gaps.note(what, reading),
    }
}

impl Watched {
    /// Reads the events; those of one that has gone, or cannot be read, stay as they were.
    fn look(&mut self, v2: bool, gaps: &mut Gaps) {
        if let Some(now) = read(WHAT, Events::read(&self.cgroup, v2, self.high_only()), gaps) {
            self.now = now;
        }
    }

    /// Its memory is nearly full, be it of pages that could be dropped.
    fn is_near(&self) -> bool {
        nearness(self.usage_bytes, self.limit_bytes) >= NEAR
    }

    fn read_faults(&self, v2: bool, gaps: &mut Gaps) -> Option<Faults> {
        read(WHAT, self.cgroup.text("memory.stat"), gaps).map(|stat| Faults::parse(&stat, v2))
    }

    const fn high_only(&self) -> bool {
        matches!(self.high_bytes, Some(high) if high == self.limit_bytes)
    }
}

impl Events {
    fn read(cgroup: &CgroupDir, v2: bool, high_only: bool) -> io::Result<Self> {
        if v2 {
            let events = cgroup.numbers("memory.events")?;
            let count = |name: &str| events.get(name).copied().unwrap_or(0);
            return Ok(Self {
                limit_hits: count(if high_only { "high" } else { "max" }),
                high_hits: count("high"),
                oom_kills: count("oom_kill"),
            });
        }
        Ok(Self {
            limit_hits: cgroup.number("memory.failcnt")?.unwrap_or(0),
            high_hits: 0,
            oom_kills: cgroup.numbers("memory.oom_control")?.get("oom_kill").copied().unwrap_or(0),
        })
    }
}

impl Faults {
    /// Those of the cgroups below it, too: `total_` in v1. Refaults are told apart by kind since Linux 5.9.
    fn parse(stat: &str, v2: bool) -> Self {
        let prefix = if v2 { "" } else { "total_" };
        let mut faults = Self::default();
        for line in stat.lines() {
            let Some((name, value)) = line.strip_prefix(prefix).and_then(|line| line.split_once(' ')) else { continue };
            let value = value.trim().parse().unwrap_or(0);
            match name {
                "pgmajfault" => faults.major = value,
                "workingset_refault" | "workingset_refault_anon" | "workingset_refault_file" => {
                    faults.refaulted += value;
                }
                _ => {}
            }
        }
        faults
    }
}

/// Whether a cgroup is another one or below it.
pub(super) fn is_in(path: &str, outer: &str) -> bool {
    outer == "/" || path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn limits(cgroup: &CgroupDir, v2: bool) -> io::Result<(Option<u64>, Option<u64>)> {
    if v2 {
        Ok((cgroup.number("memory.max")?, cgroup.number("memory.high")?))
    } else {
        Ok((cgroup.number("memory.limit_in_bytes")?, None))
    }
}

const fn usage_file(v2: bool) -> &'static str {
    if v2 { "memory.current" } else { "memory.usage_in_bytes" }
}

fn pressure(cgroup: &CgroupDir, v2: bool) -> Option<PressureMeter> {
    v2.then(|| PressureMeter::new("pressure on memory of cgroups", cgroup.dir.join("memory.pressure")))
}

/// Page cache (shared memory is none: it is among the anonymous pages here) and, where it shows, the kernel's own caches.
fn droppable(stat: &str, v2: bool) -> u64 {
    let names: &[&str] = if v2 {
        &["inactive_file", "active_file", "slab_reclaimable"]
    } else {
        &["total_inactive_file", "total_active_file"]
    };
    let lines = stat.lines().filter_map(|line| line.split_once(' '));
    lines.filter(|(name, _)| names.contains(name)).filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
}

#[allow(clippy::cast_precision_loss, reason = "a share")]
fn nearness(usage: u64, limit: u64) -> f64 {
    usage as f64 / limit.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_in_itself_and_in_those_above() {
        assert!(is_in("/a/b", "/a") && is_in("/a", "/a") && is_in("/a", "/"));
        assert!(!is_in("/ab", "/a") && !is_in("/a", "/a/b"));
    }

    #[test]
    fn caches_do_not_count() {
        let v1 = "cache 9\ntotal_inactive_anon 5\ntotal_inactive_file 100\ntotal_active_file 20\ninactive_file 7\n";
        assert_eq!(droppable(v1, false), 120);
        let v2 = "anon 5\ninactive_file 100\nactive_file 20\nslab_reclaimable 3\nworkingset_refault_file 1\n";
        assert_eq!(droppable(v2, true), 123);
    }

    #[test]
    fn faults_are_read_as_each_version_tells_them() {
        // Of Linux 6.18 and 6.1.
        let v1 = "cache 20254720\nrss 18296832\nrss_huge 0\npgpgin 13512\npgmajfault 10061\n\
                  workingset_refault_anon 0\nworkingset_refault_file 7040\nhierarchical_memory_limit 33554432\n\
                  total_cache 20254720\ntotal_pgmajfault 10062\ntotal_workingset_refault_anon 3\n\
                  total_workingset_refault_file 7040\n";
        assert_eq!(Faults::parse(v1, false), Faults { major: 10_062, refaulted: 7_043 });
        let v2 = "anon 18296832\nfile 20254720\nkernel_stack 16384\nworkingset_refault_anon 5\n\
                  workingset_refault_file 7040\nworkingset_activate_file 9\npgfault 30000\npgmajfault 10061\n";
        assert_eq!(Faults::parse(v2, true), Faults { major: 10_061, refaulted: 7_045 });
        assert_eq!(Faults::parse("workingset_refault 12\npgmajfault x\n", true), Faults { major: 0, refaulted: 12 });
    }
}
