mod merge;
mod metrics;
mod stalls;

use serde::{Deserialize, Serialize};

use crate::{Histogram, Series};

pub use stalls::{
    Awaited, AwaitedKind, DnsWait, FullListener, HeldProcess, ListenerHolder, Stall, StallNeed, StallStep,
    StandingState,
};

/// CPUs in a window, and those that waited for them. What each process ran and waited in all is in its `used`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct SchedSummary {
    /// Each CPU.
    pub cpus: Vec<CpuStat>,
    /// Waits after a wake-up, all CPUs, in nanoseconds: what someone who needs the CPU notices.
    pub wakeup_ns: Histogram,
    /// Waits after being preempted, in nanoseconds: what work that shares a CPU has anyway.
    pub preempted_ns: Histogram,
    /// Processes whose threads waited long after a wake-up, the worst first. Bounded.
    pub waiters: Vec<SchedWaiter>,
    /// Processes of one name and one cgroup taken together: those that used most CPU time or waited most for it, by CPU time.
    /// Bounded.
    pub groups: Vec<CpuGroup>,
    /// Tasks that could run or ran, at each sample.
    pub runnable: Series,
    /// Share of the window in which some task waited for a CPU (PSI), 0 to 1.
    pub some_stalled: Option<f64>,
    /// Cgroups held back by their quota. Bounded.
    pub throttled: Vec<CgroupThrottle>,
    /// Threads that slept uninterruptibly for long. Bounded.
    pub blocked: Vec<BlockedTask>,
    /// How many slept uninterruptibly, at each sample.
    pub uninterruptible: Series,
    /// Threads that stood still for most of the window because others did not do their part. Bounded.
    pub stalls: Vec<Stall>,
    /// Processes that were stopped, traced or frozen for most of the window, and that others had to do with. Bounded.
    pub held: Vec<HeldProcess>,
    /// Listeners of Unix sockets that had no room. Bounded.
    pub full_listeners: Vec<FullListener>,
    /// Waits of two seconds and longer for an answer of a DNS server, also those that ended within the window. Bounded.
    pub dns_waits: Vec<DnsWait>,
}

/// A CPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct CpuStat {
    /// Its number.
    pub cpu: u32,
    /// Waits that ended on it, in nanoseconds.
    pub delay_ns: Histogram,
    /// Switches.
    pub switches: u64,
    /// Shares of the window, 0 to 1: running tasks (user and system),
    pub busy: f64,
    /// of these running at low priority (nice),
    pub nice: f64,
    /// serving interrupts,
    pub interrupts: f64,
    /// idle while I/O was outstanding,
    pub io_wait: f64,
    /// wanted, but taken by the hypervisor for others.
    pub steal: f64,
}

/// A process that waited long for a CPU after wake-ups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct SchedWaiter {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Waits longer than `slow_ns`.
    pub slow: u64,
    /// What counted as slow, in nanoseconds.
    pub slow_ns: u64,
    /// Time in those, in nanoseconds.
    pub slow_total_ns: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
    /// When the first of the window ended: `CLOCK_MONOTONIC`, in nanoseconds.
    pub first_ns: u64,
    /// Who held the CPU meanwhile. Of each wait the latest that ran there for a millisecond or more, or else whoever left the CPU when
    /// it ended. Bounded.
    pub held_by: Vec<CpuHolder>,
}

/// A process that others waited for to leave the CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct CpuHolder {
    /// The process; 0 is the idle task.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// How many waits it held up.
    pub waits: u64,
}

/// Processes of one name in one cgroup: the workers of a program, the compilers of a build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct CpuGroup {
    /// Their name.
    pub comm: String,
    /// Their cgroup, by its id in the v2 hierarchy; 0 when it is not known.
    pub cgroup_id: u64,
    /// How many of them used or wanted the CPU, those that ended in the window too.
    pub processes: u32,
    /// Threads of those that are still there.
    pub threads: u32,
    /// CPU time in the window, in nanoseconds.
    pub run_ns: u64,
    /// Time in run queues, in nanoseconds.
    pub wait_ns: u64,
    /// The first of `pids` is scheduled in real time (`SCHED_FIFO`, `SCHED_RR`, `SCHED_DEADLINE`): ordinary tasks get what it leaves.
    pub realtime: bool,
    /// The nice value of the first of `pids`.
    pub nice: i32,
    /// Those with most CPU time. Bounded.
    pub pids: Vec<u32>,
}

/// A cgroup with a quota of CPU time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct CgroupThrottle {
    /// Its path in the hierarchy that limits CPU time.
    pub path: String,
    /// v1 or v2.
    pub v2: bool,
    /// The file that its quota is in.
    pub file: String,
    /// What it may use in a period, in microseconds of CPU time.
    pub quota_us: u64,
    /// The period, in microseconds.
    pub period_us: u64,
    /// Periods in the window in which it ran.
    pub periods: u64,
    /// Of these, periods in which it was held back.
    pub throttled_periods: u64,
    /// Time that it was held back, summed over CPUs, in nanoseconds.
    pub throttled_ns: u64,
    /// What it used, in nanoseconds of CPU time.
    pub used_ns: u64,
    /// Its processes: those with most CPU time. Bounded.
    pub pids: Vec<u32>,
}

/// A thread asleep uninterruptibly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct BlockedTask {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// A thread of the kernel's own.
    pub kernel_thread: bool,
    /// For how long at least, in seconds; may be longer than the window.
    pub seconds: f64,
    /// When it fell asleep: `CLOCK_MONOTONIC`, in nanoseconds; 0 when it is not known.
    pub since_ns: u64,
    /// Still asleep at the window's end.
    pub at_end: bool,
    /// The kernel function it sleeps in (`/proc/PID/wchan`), where it can be read.
    pub wait_channel: Option<String>,
    /// Where it sleeps, innermost first (`/proc/PID/stack`), where it can be read.
    pub stack: Vec<String>,
    /// The mount point of the file system whose server it waits for.
    pub mount: Option<String>,
    /// The process that serves it; 0 if it is not known, or none on this machine does.
    pub server: u32,
    /// The name of that process.
    pub server_comm: String,
    /// The cgroup that is out of memory and whose OOM killer is switched off.
    pub oom_cgroup: Option<String>,
}

impl SchedSummary {
    /// The processes that it names; some more than once.
    pub fn pids(&self) -> Vec<u32> {
        let waiters = self.waiters.iter().flat_map(|w| w.held_by.iter().map(|held| held.pid).chain([w.pid]));
        let throttled = self.throttled.iter().flat_map(|cgroup| cgroup.pids.iter().copied());
        let groups = self.groups.iter().flat_map(|group| group.pids.iter().copied());
        let blocked = self.blocked.iter().flat_map(|task| [task.pid, task.server]);
        let stalled = self.stalls.iter().flat_map(|stall| {
            [stall.pid].into_iter().chain(stall.chain.iter().flat_map(|step| [step.pid, step.tracer]))
        });
        let held = self.held.iter().flat_map(|held| [held.pid, held.tracer]);
        let listeners =
            self.full_listeners.iter().flat_map(|listener| listener.holders.iter().map(|holder| holder.pid));
        let asking = self.dns_waits.iter().flat_map(|wait| [wait.pid, wait.server_pid]);
        let waited_for = stalled.chain(held).chain(listeners).chain(asking).filter(|pid| *pid != 0);
        waiters.chain(throttled).chain(groups).chain(blocked).chain(waited_for).collect()
    }
}
