use std::collections::{BTreeMap, HashMap};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::blocked::BlockedTasks;
use super::cpu_times::{CpuTimes, runnable};
use super::groups::groups;
use super::stalls::Stalls;
use super::throttle::ThrottleMeter;
use crate::engine::{Cumulative, Gaps, PressureMeter, ProcFile, Sampler, Tasks, Tick};
use crate::event::Comm;
use crate::probe::{Hook, Host, KernelHash, LoadError, MappedBlocks, Object, Plan, SummaryPrograms, VolatileBlock};
use kerno_model::fill;
use kerno_model::{CpuHolder, CpuStat, SchedSummary, SchedWaiter};
use kerno_model::{Histogram, Missing, Series, Window};

/// A wait after a wake-up of this length is a long one: a machine that is merely busy has few.
const SLOW_NS: u64 = 5_000_000;

/// The most waiters that a summary names, and the most holders of each.
const MAX_WAITERS: usize = 24;
const MAX_HOLDERS: usize = 8;

/// `HISTOGRAM_BUCKETS` in histogram.h.
const BUCKETS: usize = 976;

/// Mirror of `struct sched_block` in sched_delay_summary.bpf.c.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Block {
    woken_ns: [u32; BUCKETS],
    preempted_ns: [u32; BUCKETS],
    switches: u64,
    since_ns: u64,
    held_until_ns: u64,
    held_by: u32,
    pad0: u32,
    held_comm: Comm,
    pad1: [u64; 2],
}

/// Mirror of `struct slow_waiter`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SlowWaiter {
    count: u64,
    total_ns: u64,
    max_ns: u64,
    first_ns: u64,
    comm: Comm,
}

/// Mirror of `struct holder_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct HolderKey {
    waiter: u32,
    holder: u32,
}

/// Mirror of `struct holder`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Holder {
    count: u64,
    comm: Comm,
}

/// What is loaded on this kernel, and onto which hooks.
pub(crate) fn summary_plan(_host: &Host) -> Result<(Object, Plan), LoadError> {
    let data = aya::include_bytes_aligned!("../../../objects/sched_delay_summary.bpf.o");
    let mut plan = Plan::default();
    // The switch first: a wait that began before anything could end it would last until the task's next wake-up.
    plan.attach("on_sched_switch", Hook::Tracepoint("sched_switch"));
    plan.attach("on_sched_wakeup", Hook::Tracepoint("sched_wakeup"));
    plan.attach("on_sched_wakeup_new", Hook::Tracepoint("sched_wakeup_new"));
    plan.size_starts();
    plan.size_per_cpu("sched_block");
    plan.set("cfg_slow_ns", &SLOW_NS);
    Ok((Object { name: "sched_delay_summary", data }, plan))
}

/// Loads what sums up this signal; attaches nothing yet.
pub(crate) fn sampler(host: &Host) -> Result<Box<dyn Sampler>, LoadError> {
    let (object, plan) = summary_plan(host)?;
    let mut programs = SummaryPrograms::load(object, plan, host)?;
    Ok(Box::new(Sampled {
        blocks: programs.mapped("sched_block")?,
        waiters: programs.hash("slow_waiters")?,
        holders: programs.hash("slow_holders")?,
        programs,
        before: Vec::new(),
        times: Cumulative::new("what each CPU was busy with"),
        pressure: PressureMeter::new("pressure on CPUs", "/proc/pressure/cpu"),
        begun: false,
        throttle: ThrottleMeter::new(),
        blocked: BlockedTasks::default(),
        stalls: Stalls::default(),
        loadavg: ProcFile::new("/proc/loadavg"),
        runnable: Series::default(),
        uninterruptible: Series::default(),
        gaps: Gaps::new("sched_delay"),
    }))
}

/// One CPU's block as it was read.
#[derive(Clone, Debug, Default)]
struct Reading {
    woken_ns: Vec<u32>,
    preempted_ns: Vec<u32>,
    switches: u64,
}

#[derive(Debug)]
struct Sampled {
    programs: SummaryPrograms,
    blocks: MappedBlocks<Block>,
    waiters: KernelHash<u32, SlowWaiter>,
    holders: KernelHash<HolderKey, Holder>,
    /// By CPU.
    before: Vec<Reading>,
    times: Cumulative<BTreeMap<u32, CpuTimes>>,
    pressure: PressureMeter,
    begun: bool,
    throttle: ThrottleMeter,
    blocked: BlockedTasks,
    stalls: Stalls,
    loadavg: ProcFile,
    runnable: Series,
    uninterruptible: Series,
    /// What could not be read in this window.
    gaps: Gaps,
}

impl Reading {
    fn of(block: VolatileBlock<'_, Block>) -> Self {
        let mut reading = Self::default();
        block.project::<[u32; BUCKETS]>(std::mem::offset_of!(Block, woken_ns)).copy_to(&mut reading.woken_ns);
        block.project::<[u32; BUCKETS]>(std::mem::offset_of!(Block, preempted_ns)).copy_to(&mut reading.preempted_ns);
        reading.switches = block.project(std::mem::offset_of!(Block, switches)).read();
        reading
    }
}

impl Sampled {
    fn look(&mut self, tick: &Tick<'_>) {
        if let Some(tasks) = self.gaps.note("tasks that could run", runnable(&mut self.loadavg)) {
            self.runnable.push(tick.seconds, tasks);
        }
        let blocked = u32::try_from(tick.tasks.blocked().count()).unwrap_or(u32::MAX);
        self.uninterruptible.push(tick.seconds, f64::from(blocked));
        self.blocked.sample(tick);
        self.stalls.sample(tick);
    }

    /// Long waits since the last call, the worst first. They are taken out of the kernel's maps, which so have room for those of
    /// the next window; one that ends between reading and removing is only in the totals.
    fn take_waiters(&mut self, tasks: &Tasks) -> Vec<SchedWaiter> {
        // Both or none: what cannot be read now is still there the next time.
        let read = self.waiters.read().and_then(|waiters| Ok((waiters, self.holders.read()?)));
        let Some((waiters, holders)) = self.gaps.note("who waited long for a CPU", read) else { return Vec::new() };
        self.waiters.remove(waiters.keys().copied());
        self.holders.remove(holders.keys().copied());
        let mut held_by: HashMap<u32, Vec<CpuHolder>> = HashMap::new();
        for (key, holder) in holders {
            let comm = if key.holder == 0 { "idle".to_owned() } else { name(tasks, key.holder, holder.comm) };
            held_by.entry(key.waiter).or_default().push(CpuHolder { pid: key.holder, comm, waits: holder.count });
        }
        let mut waiters: Vec<_> = waiters.into_iter().collect();
        waiters.sort_unstable_by_key(|(pid, waiter)| (std::cmp::Reverse(waiter.total_ns), *pid));
        waiters.truncate(MAX_WAITERS);
        let named = waiters.into_iter().map(|(pid, waiter)| {
            let mut held_by = held_by.remove(&pid).unwrap_or_default();
            held_by.sort_unstable_by_key(|holder| (std::cmp::Reverse(holder.waits), holder.pid));
            held_by.truncate(MAX_HOLDERS);
            SchedWaiter {
                pid,
                comm: name(tasks, pid, waiter.comm),
                slow: waiter.count,
                slow_ns: SLOW_NS,
                slow_total_ns: waiter.total_ns,
                max_ns: waiter.max_ns,
                first_ns: waiter.first_ns,
                held_by,
            }
        });
        named.collect()
    }

    /// Since the last call.
    fn cpus(&mut self, wakeup_ns: &mut Histogram, preempted_ns: &mut Histogram) -> Vec<CpuStat> {
        let times = self.gaps.delta(self.times.advance(CpuTimes::read()));
        let readings: Vec<_> = self.blocks.iter().map(Reading::of).collect();
        let mut cpus = Vec::new();
        for (cpu, reading) in (0u32..).zip(&readings) {
            let zero = Reading::default();
            let before = self.before.get(cpu as usize).unwrap_or(&zero);
            let (mut woken, mut preempted) = (Histogram::new(), Histogram::new());
            woken.add_kernel_delta(&reading.woken_ns, &before.woken_ns);
            preempted.add_kernel_delta(&reading.preempted_ns, &before.preempted_ns);
            wakeup_ns.merge(&woken);
            preempted_ns.merge(&preempted);
            let switches = reading.switches.saturating_sub(before.switches);
            let now = times.as_ref().and_then(|times| times.now.get(&cpu));
            // A CPU that could be there and is not.
            if now.is_none() && switches == 0 {
                continue;
            }
            let earlier = times.as_ref().and_then(|times| times.before.get(&cpu));
            let shares = now.zip(earlier).map(|(now, earlier)| now.shares_since(*earlier)).unwrap_or_default();
            let mut delay_ns = woken;
            delay_ns.merge(&preempted);
            cpus.push(CpuStat {
                cpu,
                delay_ns,
                switches,
                busy: shares.busy,
                nice: shares.nice,
                interrupts: shares.interrupts,
                io_wait: shares.io_wait,
                steal: shares.steal,
            });
        }
        self.before = readings;
        cpus
    }
}

/// The process's name; of one that is gone, and may have had another when it was last looked at, that of the thread that was seen.
fn name(tasks: &Tasks, pid: u32, thread: Comm) -> String {
    tasks
        .process(pid)
        .filter(|process| process.alive)
        .map_or(thread, |process| process.row.comm)
        .to_str_lossy()
        .into_owned()
}

impl Sampler for Sampled {
    fn attach(&mut self) -> Result<(), LoadError> {
        self.programs.attach()
    }

    fn begin(&mut self, tick: &Tick<'_>) {
        self.runnable = Series::default();
        self.uninterruptible = Series::default();
        self.blocked.begin();
        self.stalls.begin(tick.now_ns);
        self.throttle.begin(&mut self.gaps);
        // Later what the end of a window found is the begin of the next: nothing falls between.
        if !std::mem::replace(&mut self.begun, true) {
            self.pressure.begin();
            let _ = self.take_waiters(tick.tasks);
            self.times.begin(CpuTimes::read());
            self.before = self.blocks.iter().map(Reading::of).collect();
        }
        self.look(tick);
    }

    fn sample(&mut self, tick: &Tick<'_>) {
        self.look(tick);
    }

    fn finish(&mut self, tick: &Tick<'_>, signals: &mut Window) {
        let mut missing = |what: &str, reason: &str| {
            signals.missing.push(fill!(Missing {
                signal: "sched_delay".into(),
                what: what.into(),
                reason: reason.into(),
            }));
        };
        let some_stalled = match self.pressure.take(tick.seconds) {
            Ok((some, _)) => Some(some),
            Err(gap) => {
                missing(
                    "pressure on CPUs",
                    &format!("/proc/pressure/cpu: {}; it takes CONFIG_PSI and psi=1", gap.reason),
                );
                None
            }
        };
        if !self.throttle.is_possible() {
            missing("CPU quotas of cgroups", "no cgroup hierarchy with the cpu controller is mounted");
        }
        let (throttled, cut) = self.throttle.take(tick.tasks, &mut self.gaps);
        if cut {
            missing("CPU quotas of some cgroups", "there are more cgroups than are looked at");
        }
        self.blocked.name_servers(tick);
        let standing = self.stalls.take(tick, &mut self.gaps);
        let (mut wakeup_ns, mut preempted_ns) = (Histogram::new(), Histogram::new());
        let cpus = self.cpus(&mut wakeup_ns, &mut preempted_ns);
        signals.sched_delay = Some(SchedSummary {
            cpus,
            wakeup_ns,
            preempted_ns,
            waiters: self.take_waiters(tick.tasks),
            groups: groups(tick.tasks),
            runnable: std::mem::take(&mut self.runnable),
            some_stalled,
            throttled,
            blocked: self.blocked.take(&mut self.gaps),
            uninterruptible: std::mem::take(&mut self.uninterruptible),
            stalls: standing.stalls,
            held: standing.held,
            full_listeners: standing.full_listeners,
            dns_waits: standing.dns_waits,
        });
        self.gaps.tell(signals);
    }

    fn pulse(&mut self, _now_ns: u64) -> Option<String> {
        // Since the window began.
        let mut waits = Histogram::new();
        let mut woken = Vec::new();
        for (block, before) in self.blocks.iter().zip(&self.before) {
            block.project::<[u32; BUCKETS]>(std::mem::offset_of!(Block, woken_ns)).copy_to(&mut woken);
            waits.add_kernel_delta(&woken, &before.woken_ns);
        }
        let p99 = waits.quantile(0.99)?;
        let p99 = kerno_model::text::Latency(std::time::Duration::from_nanos(p99));
        Some(format!("run queue p99 {p99}"))
    }

    fn programs(&self) -> Option<&SummaryPrograms> {
        Some(&self.programs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};

    #[test]
    fn layouts_are_the_kernel_sides() {
        let object = include_bytes!("../../../objects/sched_delay_summary.bpf.o");
        let block = fields!(Block: woken_ns preempted_ns switches since_ns held_until_ns held_by pad0 held_comm pad1);
        assert_matches(object, "sched_block", size_of::<Block>(), block);
        let waiter = fields!(SlowWaiter: count total_ns max_ns first_ns comm);
        assert_matches(object, "slow_waiter", size_of::<SlowWaiter>(), waiter);
        assert_matches(object, "holder", size_of::<Holder>(), fields!(Holder: count comm));
        assert_matches(object, "holder_key", size_of::<HolderKey>(), fields!(HolderKey: waiter holder));
    }
}
