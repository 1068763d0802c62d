use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::kept::{
    Calls, ERROR_SET_WORDS, ErrorKey, Exemplar, KIND_ON_FILE, KIND_OPENS, KIND_SYNC, KIND_WAITS, MAX_ERROR_SETS,
    MAX_KEYS, Offender, OffenderKey, SyncCalls,
};
use super::loader;
use crate::engine::{Cumulative, Delta, Failure, Gaps, Pace, Sampler, Tick, may_be_a_limit};
use crate::event::syscall_names::{self, MAX_SYSCALLS};
use crate::probe::{Host, KernelHash, LoadError, MappedBlocks, Object, Plan, SummaryPrograms, possible_cpus};
use kerno_doctor::knowledge::normal::{self, Waiting};
use kerno_model::{BUCKETS, ErrnoCount, Histogram, Window};
use kerno_model::{SyncStat, SyscallExemplar, SyscallOffender, SyscallStat, SyscallSummary};

pub(super) const OBJECT: Object = Object {
    name: "syscall_latency_summary",
    data: aya::include_bytes_aligned!("../../../objects/syscall_latency_summary.bpf.o"),
};

/// What counts as slow: well above what a disk or a busy machine takes in good order.
const SLOW_NS: u64 = 10_000_000;

/// Memory for histograms of all CPUs together, and what each CPU has of them at least and at most.
const HISTOGRAM_BYTES: usize = 16 << 20;
const MIN_SLOTS: usize = 8;
const MAX_SLOTS: usize = 128;

/// What is told of at most.
const MAX_OFFENDERS: usize = 64;
const MAX_SYNCS: usize = 32;

/// What is loaded on this kernel, and onto which hooks.
pub(crate) fn summary_plan(host: &Host) -> Result<(Object, Plan), LoadError> {
    let cpus = possible_cpus();
    let slots = slots(cpus as usize);
    let mut plan = Plan::default();
    loader::pairing_hooks(host, &mut plan);
    loader::pairing_knobs(&mut plan);
    plan.size_per_cpu("calls");
    plan.map_entries.push(("histograms", cpus.saturating_mul(slots)));
    plan.set("cfg_slots", &slots);
    plan.set("cfg_slow_ns", &SLOW_NS);
    plan.set("cfg_kinds", &kinds());
    let normal = NormalErrors::of_the_tables();
    plan.set("cfg_error_set", &normal.set_of);
    plan.set("cfg_error_sets", &normal.sets);
    Ok((OBJECT, plan))
}

/// Loads what sums up this signal; attaches nothing yet.
pub(crate) fn sampler(host: &Host) -> Result<Box<dyn Sampler>, LoadError> {
    let (object, plan) = summary_plan(host)?;
    sampler_of(SummaryPrograms::load(object, plan, host)?)
}

/// The same with programs that are loaded, its own or shared with other signals.
pub(crate) fn sampler_of(mut programs: SummaryPrograms) -> Result<Box<dyn Sampler>, LoadError> {
    Ok(Box::new(Sampled {
        calls: programs.mapped("calls")?,
        histograms: programs.mapped("histograms")?,
        errors: programs.hash("errors")?,
        offenders: programs.hash("offenders")?,
        syncs: programs.hash("syncs")?,
        programs,
        slots: slots(possible_cpus() as usize) as usize,
        kept: Kept::default(),
        begun: false,
        window_ns: 0,
        pace: Pace::default(),
        limits: LimitErrors::of_the_tables(),
    }))
}

#[allow(clippy::cast_possible_truncation, reason = "at most 128")]
fn slots(cpus: usize) -> u32 {
    (HISTOGRAM_BYTES / cpus.max(1) / (BUCKETS * size_of::<u32>())).clamp(MIN_SLOTS, MAX_SLOTS) as u32
}

/// The name of a call by its place in the tables of the kernel side.
fn name_of_key(key: usize) -> Option<&'static str> {
    #[allow(clippy::cast_possible_truncation, reason = "below 512")]
    syscall_names::name((key % MAX_SYSCALLS) as u32, key >= MAX_SYSCALLS)
}

fn kinds() -> [u8; MAX_KEYS] {
    std::array::from_fn(|key| {
        let Some(name) = name_of_key(key) else { return 0 };
        let waits = match normal::waiting(name) {
            Waiting::Never => 0,
            Waiting::UnlessOnFile => KIND_ON_FILE,
            Waiting::UnlessOpensFile => KIND_OPENS,
            Waiting::ByDesign => KIND_WAITS,
        };
        waits | if normal::syncs(name) { KIND_SYNC } else { 0 }
    })
}

/// The table of normal errors as the kernel side looks it up: calls with the same errors share a set of bits.
#[derive(Debug)]
struct NormalErrors {
    set_of: [u8; MAX_KEYS],
    sets: [[u64; ERROR_SET_WORDS]; MAX_ERROR_SETS],
}

impl NormalErrors {
    fn of_the_tables() -> Self {
        let mut sets: Vec<[u64; ERROR_SET_WORDS]> = vec![Self::set("")];
        let set_of = std::array::from_fn(|key| {
            let set = Self::set(name_of_key(key).unwrap_or(""));
            let at = sets.iter().position(|known| *known == set).unwrap_or_else(|| {
                sets.push(set);
                sets.len() - 1
            });
            // The table has far fewer; a unit test counts them.
            u8::try_from(at).ok().filter(|at| usize::from(*at) < MAX_ERROR_SETS).unwrap_or(0)
        });
        sets.resize(MAX_ERROR_SETS, [0; ERROR_SET_WORDS]);
        let mut all = [[0; ERROR_SET_WORDS]; MAX_ERROR_SETS];
        all.iter_mut().zip(sets).for_each(|(to, from)| *to = from);
        Self { set_of, sets: all }
    }

    fn set(call: &str) -> [u64; ERROR_SET_WORDS] {
        std::array::from_fn(|word| {
            let errors =
                (0..64).filter(|bit| normal::is_normal_error(call, i32::try_from(word).unwrap_or(0) * 64 + bit));
            errors.fold(0, |bits, bit| bits | 1 << bit)
        })
    }
}

/// What the kernel side had at the window's begin.
#[derive(Debug)]
struct Kept {
    tables: Cumulative<Tables>,
    errors: Cumulative<HashMap<ErrorKey, u64>>,
    offenders: Cumulative<HashMap<OffenderKey, Offender>>,
    syncs: Cumulative<HashMap<u32, SyncCalls>>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            tables: Cumulative::new("system calls"),
            errors: Cumulative::new("which errors system calls gave"),
            offenders: Cumulative::new("whose system calls were slow or failed"),
            syncs: Cumulative::new("who synced files"),
        }
    }
}

/// What is mapped.
#[derive(Debug, Default)]
struct Tables {
    /// By CPU, then by key.
    calls: Vec<Vec<u64>>,
    /// By CPU and slot.
    histograms: HashMap<usize, Vec<u32>>,
}

#[derive(Debug)]
struct Sampled {
    programs: SummaryPrograms,
    calls: MappedBlocks<Calls>,
    histograms: MappedBlocks<[u32; BUCKETS]>,
    errors: KernelHash<ErrorKey, u64>,
    offenders: KernelHash<OffenderKey, Offender>,
    syncs: KernelHash<u32, SyncCalls>,
    slots: usize,
    kept: Kept,
    begun: bool,
    /// What the kernel side has been told as the window's begin.
    window_ns: u64,
    pace: Pace,
    limits: LimitErrors,
}

/// Which errors may be those of a limit, and how many there were at the last look.
#[derive(Debug)]
struct LimitErrors {
    of_key: HashSet<(usize, u16)>,
    total: u64,
}

impl LimitErrors {
    fn of_the_tables() -> Self {
        let errnos = 1..u16::try_from(64 * ERROR_SET_WORDS).unwrap_or(u16::MAX);
        let of_call = |key: usize| name_of_key(key).map(|name| (key, name));
        let all = (0..MAX_KEYS)
            .filter_map(of_call)
            .flat_map(|(key, name)| errnos.clone().map(move |errno| (key, name, errno)));
        let is = |name: &str, errno: i32| may_be_a_limit(name, errno) && !normal::is_normal_error(name, errno);
        Self {
            of_key: all
                .filter(|(_, name, errno)| is(name, i32::from(*errno)))
                .map(|(key, _, errno)| (key, errno))
                .collect(),
            total: 0,
        }
    }

    /// Whether there are more than at the last look.
    fn grew(&mut self, errors: &HashMap<ErrorKey, u64>) -> bool {
        let key = |key: &ErrorKey| (key.nr as usize + if key.compat == 0 { 0 } else { MAX_SYSCALLS }, key.error);
        let total = errors.iter().filter(|(error, _)| self.of_key.contains(&key(error))).map(|(_, count)| count).sum();
        total > std::mem::replace(&mut self.total, total)
    }
}

impl Sampler for Sampled {
    fn attach(&mut self) -> Result<(), LoadError> {
        self.programs.attach()
    }

    fn begin(&mut self, tick: &Tick<'_>) {
        // Later windows begin where the one before ended, so that no call falls between them.
        if !self.begun {
            self.begun = true;
            self.kept.tables.begin(Ok(self.tables()));
            self.kept.errors.begin(self.errors.read());
            self.kept.offenders.begin(self.offenders.read());
            self.kept.syncs.begin(self.syncs.read());
            self.begin_window(tick.now_ns);
        }
    }

    fn sample(&mut self, _tick: &Tick<'_>) {}

    fn finish(&mut self, tick: &Tick<'_>, signals: &mut Window) {
        let mut gaps = Gaps::new("syscall_latency");
        let tables = self.tables();
        let tables = gaps.delta(self.kept.tables.advance(Ok(tables)));
        let errors = gaps.delta(self.kept.errors.advance(self.errors.read()));
        let syscalls = tables.map(|tables| syscalls(&self.calls, self.slots, &tables, errors.as_ref()));
        let offenders = gaps.delta(self.kept.offenders.advance(self.offenders.read()));
        let syncs = gaps.delta(self.kept.syncs.advance(self.syncs.read()));
        let syscalls = syscalls.unwrap_or_default();
        signals.syscall_latency = Some(SyscallSummary {
            calls: syscalls.iter().map(|stat| stat.calls).sum(),
            syscalls,
            offenders: offenders.as_ref().map(|delta| offenders_of(delta, self.window_ns)).unwrap_or_default(),
            syncs: syncs.as_ref().map(|delta| syncs_of(delta, self.window_ns)).unwrap_or_default(),
        });
        gaps.tell(signals);
        // Nobody writes to the elements of a process that is gone.
        let gone = |pid: u32| tick.tasks.process(pid).is_none_or(|process| !process.alive);
        if let Some(delta) = offenders {
            self.offenders.remove(delta.now.extract_if(|key, _| gone(key.pid)).map(|(key, _)| key));
        }
        if let Some(delta) = syncs {
            self.syncs.remove(delta.now.extract_if(|pid, _| gone(*pid)).map(|(pid, _)| pid));
        }
        self.begin_window(tick.now_ns);
    }

    fn failures(&mut self) -> Vec<Failure> {
        // The small table tells whether the large one is worth a look. What cannot be read now is at the next sample.
        if !self.errors.read().is_ok_and(|errors| self.limits.grew(&errors)) {
            return Vec::new();
        }
        let offenders = self.offenders.read().unwrap_or_default();
        offenders.iter().flat_map(|(key, offender)| failures_of(*key, offender)).collect()
    }

    fn pulse(&mut self, now_ns: u64) -> Option<String> {
        let calls = self.total();
        Some(match self.pace.per_second(calls, now_ns)? {
            rate if rate >= 1e6 => format!("{:.1} M calls/s", rate / 1e6),
            rate if rate >= 1e4 => format!("{:.0} k calls/s", rate / 1e3),
            rate => format!("{rate:.0} calls/s"),
        })
    }

    fn programs(&self) -> Option<&SummaryPrograms> {
        Some(&self.programs)
    }
}

impl Sampled {
    /// Calls on all CPUs since the load.
    fn total(&self) -> u64 {
        let mut calls = Vec::new();
        let mut total = 0u64;
        for block in self.calls.iter() {
            block.project::<[u64; MAX_KEYS]>(std::mem::offset_of!(Calls, calls)).copy_to(&mut calls);
            total = calls.iter().fold(total, |sum, count| sum.wrapping_add(*count));
        }
        total
    }

    fn begin_window(&mut self, now_ns: u64) {
        self.window_ns = now_ns;
        self.programs.begin_window(now_ns);
    }

    /// All that is mapped, now.
    fn tables(&self) -> Tables {
        let mut tables = Tables::default();
        let mut taken = Vec::new();
        for block in self.calls.iter() {
            let mut calls = Vec::new();
            block.project::<[u64; MAX_KEYS]>(std::mem::offset_of!(Calls, calls)).copy_to(&mut calls);
            tables.calls.push(calls);
            taken.push(block.project::<u32>(std::mem::offset_of!(Calls, slots_taken)).read() as usize);
        }
        for (index, block) in self.histograms.iter().enumerate() {
            if taken.get(index / self.slots).is_some_and(|taken| index % self.slots < *taken) {
                let mut counts = Vec::new();
                block.copy_to(&mut counts);
                tables.histograms.insert(index, counts);
            }
        }
        tables
    }
}

fn syscalls(
    mapped: &MappedBlocks<Calls>,
    slots: usize,
    Delta { before, now, .. }: &Delta<'_, Tables>,
    errors: Option<&Delta<'_, HashMap<ErrorKey, u64>>>,
) -> Vec<SyscallStat> {
    let mut stats: BTreeMap<usize, SyscallStat> = BTreeMap::new();
    let mut slot_of = Vec::new();
    for (cpu, (block, calls)) in mapped.iter().zip(&now.calls).enumerate() {
        block.project::<[u8; MAX_KEYS]>(std::mem::offset_of!(Calls, slot_of)).copy_to(&mut slot_of);
        let earlier = before.calls.get(cpu);
        for (key, (calls, slot)) in calls.iter().zip(&slot_of).enumerate() {
            let made = calls.wrapping_sub(earlier.and_then(|calls| calls.get(key)).copied().unwrap_or(0));
            if made == 0 {
                continue;
            }
            let stat = stats.entry(key).or_insert_with(|| stat(key));
            stat.calls += made;
            // The last slot is everybody's who came too late: its durations are not this call's.
            let slot = usize::from(*slot);
            let index = cpu * slots + slot.wrapping_sub(1);
            if let Some(counts) = now.histograms.get(&index).filter(|_| (1..slots).contains(&slot)) {
                let earlier = before.histograms.get(&index).map_or(&[][..], Vec::as_slice);
                stat.latency.add_kernel_delta(counts, earlier);
            }
        }
    }
    for (key, count) in errors.into_iter().flat_map(|delta| delta.now.iter()) {
        let earlier = errors.and_then(|delta| delta.before.get(key)).copied().unwrap_or(0);
        let at = key.nr as usize + if key.compat == 0 { 0 } else { MAX_SYSCALLS };
        if let (Some(stat), count @ 1..) = (stats.get_mut(&at), count.saturating_sub(earlier)) {
            stat.errors.push(ErrnoCount::new(i32::from(key.error), count));
        }
    }
    let mut stats: Vec<_> = stats.into_values().collect();
    stats.iter_mut().for_each(|stat| most_first(&mut stat.errors));
    stats.sort_by_key(|stat| Reverse(stat.calls));
    stats
}

fn offenders_of(delta: &Delta<'_, HashMap<OffenderKey, Offender>>, window_ns: u64) -> Vec<SyscallOffender> {
    let mut offenders: Vec<_> = delta
        .now
        .iter()
        .map(|(key, now)| offender(*key, now, delta.before.get(key), window_ns))
        .filter(|offender| offender.slow > 0 || !offender.errors.is_empty())
        .collect();
    offenders.sort_by_key(|offender| (Reverse(weight(offender)), offender.pid, offender.nr));
    offenders.truncate(MAX_OFFENDERS);
    offenders
}

fn offender(key: OffenderKey, now: &Offender, before: Option<&Offender>, window_ns: u64) -> SyscallOffender {
    let (nr, compat) = (u32::from(key.nr), key.compat != 0);
    let mut errors = Vec::new();
    for (i, error) in now.errors.iter().enumerate() {
        let before = before.map_or(0, |before| before.errors.get(i).map_or(0, |error| error.count));
        if let (Ok(errno @ 1..), count @ 1..) = (i32::try_from(error.error), error.count.saturating_sub(before)) {
            errors.push(ErrnoCount::new(errno, count));
        }
    }
    most_first(&mut errors);
    let current = now.window_ns == window_ns;
    let kept = usize::try_from(if current { now.next_exemplar } else { 0 }).unwrap_or(usize::MAX);
    let mut exemplars: Vec<_> = now.exemplars.iter().take(kept).map(exemplar).collect();
    exemplars.sort_by_key(|exemplar| exemplar.timestamp_ns);
    SyscallOffender {
        pid: key.pid,
        comm: now.comm.to_str_lossy().into_owned(),
        name: name(nr, compat),
        nr,
        compat,
        slow: now.slow.saturating_sub(before.map_or(0, |before| before.slow)),
        slow_ns: SLOW_NS,
        slow_total_ns: now.slow_total_ns.saturating_sub(before.map_or(0, |before| before.slow_total_ns)),
        max_ns: if current { now.max_ns } else { 0 },
        first_ns: if current { now.first_ns } else { 0 },
        errors,
        exemplars,
    }
}

/// Of one process and call, those that may be a limit's.
fn failures_of(key: OffenderKey, offender: &Offender) -> Vec<Failure> {
    let call = name(u32::from(key.nr), key.compat != 0);
    let comm = offender.comm.to_str_lossy().into_owned();
    let errors = offender.errors.iter().filter_map(|error| Some((i32::try_from(error.error).ok()?, error.count)));
    errors
        .filter(|(errno, count)| *errno > 0 && *count > 0 && may_be_a_limit(&call, *errno))
        .map(|(errno, total)| Failure {
            pid: key.pid,
            parent_pid: offender.parent_pid,
            comm: comm.clone(),
            call: call.clone(),
            errno,
            total,
        })
        .collect()
}

fn syncs_of(delta: &Delta<'_, HashMap<u32, SyncCalls>>, window_ns: u64) -> Vec<SyncStat> {
    let mut syncs = Vec::new();
    for (pid, sync) in delta.now.iter() {
        let before = delta.before.get(pid);
        let calls = sync.calls.saturating_sub(before.map_or(0, |before| before.calls));
        if calls == 0 || sync.window_ns != window_ns {
            continue;
        }
        syncs.push(SyncStat {
            pid: *pid,
            comm: sync.comm.to_str_lossy().into_owned(),
            calls,
            total_ns: sync.total_ns.saturating_sub(before.map_or(0, |before| before.total_ns)),
            max_ns: sync.max_ns,
            first_ns: sync.first_ns,
        });
    }
    syncs.sort_by_key(|sync| (Reverse(sync.total_ns), sync.pid));
    syncs.truncate(MAX_SYNCS);
    syncs
}

fn name(nr: u32, compat: bool) -> String {
    syscall_names::name(nr, compat).map_or_else(|| format!("syscall_{nr}"), str::to_owned)
}

fn stat(key: usize) -> SyscallStat {
    #[allow(clippy::cast_possible_truncation, reason = "below 512")]
    let (nr, compat) = ((key % MAX_SYSCALLS) as u32, key >= MAX_SYSCALLS);
    let name = name(nr, compat);
    let waits = normal::waits(&name);
    SyscallStat { name, nr, compat, waits, calls: 0, errors: Vec::new(), latency: Histogram::new() }
}

fn exemplar(kept: &Exemplar) -> SyscallExemplar {
    SyscallExemplar { timestamp_ns: kept.timestamp_ns, tid: kept.tid, latency_ns: kept.latency_ns, ret: kept.ret }
}

fn most_first(errors: &mut [ErrnoCount]) {
    errors.sort_by_key(|error| (Reverse(error.count), error.errno));
}

/// How bad: the time in slow calls, with a millisecond for an error and a second for a grave one.
fn weight(offender: &SyscallOffender) -> u64 {
    let errors = offender.errors.iter().map(|error| {
        error.count.saturating_mul(if normal::grave(error.errno).is_some() { 1_000_000_000 } else { 1_000_000 })
    });
    errors.fold(offender.slow_total_ns, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_side_honours_the_tables_exactly() {
        let normal = NormalErrors::of_the_tables();
        for (key, kind) in kinds().into_iter().enumerate() {
            let name = name_of_key(key).unwrap_or("");
            let set = &normal.sets[usize::from(normal.set_of[key])];
            for errno in 1..(64 * ERROR_SET_WORDS) {
                let bit = set[errno / 64] >> (errno % 64) & 1 == 1;
                assert_eq!(bit, normal::is_normal_error(name, i32::try_from(errno).unwrap()), "{name} {errno}");
            }
            assert_eq!(kind & KIND_WAITS != 0, normal::waiting(name) == Waiting::ByDesign, "{name}");
            assert_eq!(kind & KIND_SYNC != 0, normal::syncs(name), "{name}");
        }
        let sets = normal.sets.iter().skip(1).filter(|set| **set != [0; ERROR_SET_WORDS]).count();
        assert!(sets < MAX_ERROR_SETS - 1, "{sets} sets: too many for the kernel side");
        assert!(normal.set_of.iter().all(|set| usize::from(*set) < MAX_ERROR_SETS));
    }

    #[test]
    fn histograms_have_bounded_memory_on_any_machine() {
        assert_eq!(slots(2), 128);
        assert_eq!(slots(512), 8);
        for cpus in 1..=512 {
            let bytes = slots(cpus) as usize * cpus * BUCKETS * 4;
            assert!(bytes <= 18 << 20, "{cpus} CPUs: {bytes}");
        }
    }
}
