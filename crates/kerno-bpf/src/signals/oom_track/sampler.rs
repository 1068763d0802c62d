use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;

use super::OomScope;
use super::kills::{Kill, Kills};
use super::limits::{Limits, is_in};
use super::loader::OomTrack;
use crate::engine::{
    Cumulative, Gaps, MountWatch, PressureMeter, ProcFile, ProcessAccount, Sampler, Tasks, Tick, read_numbers,
};
use crate::probe::{Host, LoadError, Object, Options, Plan, Signal as _, SummaryPrograms, meminfo};
use kerno_model::Window;
use kerno_model::amount::bytes;
use kerno_model::{MemoryHolder, OomKill, OomSummary, ProcessMemory};

/// The most kills of a window that are told of one by one.
const MAX_KILLS: usize = 64;
/// How many processes with most memory are named with a kill, and of a cgroup.
const LARGEST: usize = 5;
/// How many of the largest and of the fastest growing processes are told of.
const TOP: usize = 8;

/// What is loaded on this kernel, and onto which hooks.
pub(crate) fn summary_plan(host: &Host) -> Result<(Object, Plan), LoadError> {
    let object = Object {
        name: "oom_track_summary",
        data: aya::include_bytes_aligned!("../../../objects/oom_track_summary.bpf.o"),
    };
    let mut plan = Plan::default();
    OomTrack::hooks(host, &mut plan)?;
    OomTrack::knobs(&Options::default(), &mut plan)?;
    plan.size_per_cpu("totals");
    Ok((object, plan))
}

/// Loads what sums up this signal; attaches nothing yet.
pub(crate) fn sampler(host: &Host) -> Result<Box<dyn Sampler>, LoadError> {
    let (object, plan) = summary_plan(host)?;
    let mut programs = SummaryPrograms::load(object, plan, host)?;
    let kills = Kills::of(&mut programs)?;
    let mut meminfo = ProcFile::new("/proc/meminfo");
    let total_bytes = Memory::now(&mut meminfo).map_or(0, |memory| memory.total);
    let mut mounts = MountWatch::default();
    Ok(Box::new(Sampled {
        programs,
        kills,
        limits: Limits::where_mounted(None, &mut mounts, total_bytes),
        mounts,
        meminfo,
        summary: OomSummary::default(),
        faults: Cumulative::new("memory that was reclaimed, swapped and faulted in"),
        pressure: PressureMeter::new("pressure on memory", "/proc/pressure/memory"),
        begun: false,
        gaps: Gaps::new("oom_track"),
    }))
}

#[derive(Debug)]
struct Sampled {
    programs: SummaryPrograms,
    kills: Kills,
    /// `None` without a memory controller.
    limits: Option<Limits>,
    mounts: MountWatch,
    meminfo: ProcFile,
    /// Of the window so far.
    summary: OomSummary,
    faults: Cumulative<Faults>,
    pressure: PressureMeter,
    begun: bool,
    /// What could not be read in this window.
    gaps: Gaps,
}

impl Sampled {
    #[allow(clippy::cast_precision_loss, reason = "bytes")]
    fn look(&mut self, tick: &Tick<'_>) {
        let Some(memory) = self.gaps.note("memory available", Memory::now(&mut self.meminfo)) else { return };
        if let Some(limits) = &mut self.limits {
            limits.total_bytes = memory.total;
        }
        self.summary.total_bytes = memory.total;
        self.summary.swap_total_bytes = memory.swap_total;
        self.summary.available_bytes.push(tick.seconds, memory.available as f64);
        self.summary.swap_free_bytes.push(tick.seconds, memory.swap_free as f64);
    }

    fn take_kills(&mut self, tick: &Tick<'_>) {
        let (count, kills) = self.kills.take(&mut self.gaps);
        self.summary.kills_total += count;
        for kill in kills {
            if self.summary.kills.len() < MAX_KILLS {
                let described = self.describe(&kill, tick.tasks);
                self.summary.kills.push(described);
            }
        }
    }

    fn describe(&self, kill: &Kill, tasks: &Tasks) -> OomKill {
        let known = self.limits.as_ref().and_then(|limits| limits.known_path(kill.cgroup_id));
        let path = known.map(str::to_owned).or_else(|| kill.path.clone());
        let inside = match (&self.limits, &path, kill.event.scope) {
            (Some(limits), Some(path), OomScope::Cgroup) => limits.limited(path).unwrap_or(path).to_owned(),
            _ => "/".to_owned(),
        };
        let mut largest = largest(tasks, self.limits.as_ref(), &inside);
        let victim =
            MemoryHolder { pid: kill.event.pid, comm: kill.event.comm().into_owned(), bytes: kill.event.rss_bytes() };
        largest.retain(|process| process.pid != victim.pid);
        largest.push(victim);
        largest.sort_by_key(|process| std::cmp::Reverse(process.bytes));
        largest.truncate(LARGEST);
        kill.describe(path, largest)
    }

    /// The processes that matter for how memory goes on.
    fn processes(&self, tasks: &Tasks) -> Vec<ProcessMemory> {
        let mut all: Vec<_> = tasks.processes().filter(|process| process.anon_bytes.last() > Some(0.0)).collect();
        all.sort_by(|a, b| growth(b).total_cmp(&growth(a)));
        let mut pids = BTreeSet::new();
        // The first of all, and the first of each cgroup that is told of.
        let mut add = |ordered: &[&ProcessAccount]| {
            pids.extend(ordered.iter().take(TOP).map(|process| process.row.pid));
            for cgroup in &self.summary.cgroups {
                let inside = |process: &&&ProcessAccount| is_in(self.path(process).unwrap_or("/"), &cgroup.path);
                pids.extend(ordered.iter().find(inside).map(|process| process.row.pid));
            }
        };
        let growing: Vec<_> = all.iter().copied().filter(|process| growth(process) > 0.0).collect();
        add(&growing);
        all.sort_by(|a, b| b.anon_bytes.last().unwrap_or(0.0).total_cmp(&a.anon_bytes.last().unwrap_or(0.0)));
        add(&all);
        let describe = |process: &ProcessAccount| ProcessMemory {
            pid: process.row.pid,
            comm: process.row.comm.to_str_lossy().into_owned(),
            cgroup: self.path(process).map(str::to_owned),
            anon_bytes: tasks.series(&process.anon_bytes),
            alive: process.alive,
        };
        pids.into_iter().filter_map(|pid| tasks.process(pid)).map(describe).collect()
    }

    fn path(&self, process: &ProcessAccount) -> Option<&str> {
        self.limits.as_ref()?.known_path(process.row.memory_cgroup_id)
    }
}

/// The processes with most memory in a cgroup.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes")]
fn largest(tasks: &Tasks, limits: Option<&Limits>, inside: &str) -> Vec<MemoryHolder> {
    let within = |process: &&ProcessAccount| {
        let path = limits.and_then(|limits| limits.known_path(process.row.memory_cgroup_id)).unwrap_or("/");
        is_in(path, inside)
    };
    let size = |process: &ProcessAccount| process.anon_bytes.last().unwrap_or(0.0) as u64;
    let mut found: Vec<_> = tasks.processes().filter(within).filter(|process| size(process) > 0).collect();
    found.sort_by_key(|process| std::cmp::Reverse(size(process)));
    let name = |process: &ProcessAccount| process.row.comm.to_str_lossy().into_owned();
    let holder =
        |process: &ProcessAccount| MemoryHolder { pid: process.row.pid, comm: name(process), bytes: size(process) };
    found.into_iter().take(LARGEST).map(holder).collect()
}

fn growth(process: &ProcessAccount) -> f64 {
    process.anon_bytes.last().zip(process.anon_bytes.first()).map_or(0.0, |(last, first)| last - first)
}

impl Sampler for Sampled {
    fn attach(&mut self) -> Result<(), LoadError> {
        self.programs.attach()
    }

    fn begin(&mut self, tick: &Tick<'_>) {
        // What was before is not the first window's. Later the end of one is the begin of the next.
        if !std::mem::replace(&mut self.begun, true) {
            self.kills.take(&mut self.gaps);
            self.faults.begin(Faults::now());
            self.pressure.begin();
        }
        let (total_bytes, swap_total_bytes) = (self.summary.total_bytes, self.summary.swap_total_bytes);
        self.summary = OomSummary { total_bytes, swap_total_bytes, ..OomSummary::default() };
        self.limits = Limits::where_mounted(self.limits.take(), &mut self.mounts, total_bytes);
        if let Some(limits) = &mut self.limits {
            limits.begin(tick.now_ns, &mut self.gaps);
        }
        self.look(tick);
    }

    fn sample(&mut self, tick: &Tick<'_>) {
        self.look(tick);
        self.take_kills(tick);
        if let Some(limits) = &mut self.limits {
            limits.refresh(tick.now_ns, &mut self.gaps);
            limits.sample(tick.seconds, &mut self.gaps);
        }
    }

    fn finish(&mut self, tick: &Tick<'_>, signals: &mut Window) {
        self.take_kills(tick);
        let killed_in: Vec<_> = self.summary.kills.iter().filter_map(|kill| kill.cgroup.clone()).collect();
        if let Some(limits) = &mut self.limits {
            self.summary.cgroups = limits.finish(tick.seconds, &killed_in, &mut self.gaps);
        }
        for cgroup in &mut self.summary.cgroups {
            let mut processes = largest(tick.tasks, self.limits.as_ref(), &cgroup.path);
            processes.retain(|process| tick.tasks.process(process.pid).is_some_and(|account| account.alive));
            cgroup.largest = processes;
        }
        self.summary.processes = self.processes(tick.tasks);
        if let Some(delta) = self.gaps.delta(self.faults.advance(Faults::now())) {
            let since = |pick: fn(&Faults) -> u64| pick(delta.now).saturating_sub(pick(&delta.before));
            self.summary.direct_reclaims = since(|faults| faults.direct_reclaims);
            self.summary.direct_scanned_pages = since(|faults| faults.direct_scanned);
            self.summary.major_faults = since(|faults| faults.major);
            self.summary.refaulted_pages = since(|faults| faults.refaulted);
            self.summary.swapped_out_pages = since(|faults| faults.swapped_out);
        }
        let stalled = self.pressure.take(tick.seconds).map_err(|gap| self.gaps.add(gap)).ok();
        self.summary.some_stalled = stalled.map(|stalled| stalled.0);
        self.summary.all_stalled = stalled.map(|stalled| stalled.1);
        self.gaps.tell(signals);
        signals.oom_track = Some(self.summary.clone());
    }

    fn pulse(&mut self, _now_ns: u64) -> Option<String> {
        Some(format!("{} available", bytes(self.summary.available_bytes.last()?)))
    }

    fn programs(&self) -> Option<&SummaryPrograms> {
        Some(&self.programs)
    }
}

/// `/proc/meminfo`, in bytes.
#[derive(Debug, Default)]
struct Memory {
    total: u64,
    available: u64,
    swap_total: u64,
    swap_free: u64,
}

impl Memory {
    fn now(file: &mut ProcFile) -> io::Result<Self> {
        let text = file.text()?;
        let bytes = |name| {
            let missing = || io::Error::new(io::ErrorKind::InvalidData, format!("no {name} in /proc/meminfo"));
            meminfo::bytes_of(text, name).ok_or_else(missing)
        };
        Ok(Self {
            total: bytes("MemTotal")?,
            available: bytes("MemAvailable")?,
            swap_total: bytes("SwapTotal")?,
            swap_free: bytes("SwapFree")?,
        })
    }
}

/// Counts of `/proc/vmstat` since the machine started.
#[derive(Debug, Default)]
struct Faults {
    direct_reclaims: u64,
    direct_scanned: u64,
    major: u64,
    refaulted: u64,
    swapped_out: u64,
}

impl Faults {
    fn now() -> io::Result<Self> {
        let counts: HashMap<String, u64> = read_numbers(Path::new("/proc/vmstat"))?;
        let count = |name: &str| counts.get(name).copied().unwrap_or(0);
        // One for each zone; one for all kinds of pages before Linux 5.9.
        let sum =
            |prefix: &str| counts.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum();
        Ok(Self {
            direct_reclaims: sum("allocstall"),
            direct_scanned: count("pgscan_direct"),
            major: count("pgmajfault"),
            refaulted: sum("workingset_refault"),
            swapped_out: count("pswpout"),
        })
    }
}
