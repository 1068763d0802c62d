mod merge;
mod metrics;

use serde::{Deserialize, Serialize};

use crate::Series;
use crate::vocabulary::vocabulary;

vocabulary! {
    /// Where memory ran out.
    KillScope {
        /// In the whole machine.
        Global = "global",
        /// In a cgroup with a limit.
        Cgroup = "cgroup",
        ..
        /// That is not known.
        Unknown = "unknown"
    }
}

/// Memory in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct OomSummary {
    /// Processes that the kernel killed for want of memory, oldest first. Bounded: `kills_total` has all.
    pub kills: Vec<OomKill>,
    /// How many there were.
    pub kills_total: u64,
    /// Memory of the machine, in bytes.
    pub total_bytes: u64,
    /// What could still be used without swapping (MemAvailable), in bytes.
    pub available_bytes: Series,
    /// Swap of the machine, in bytes.
    pub swap_total_bytes: u64,
    /// Swap not used, in bytes.
    pub swap_free_bytes: Series,
    /// Share of the window in which some task waited for memory (PSI), 0 to 1; `None` where the kernel does not tell.
    pub some_stalled: Option<f64>,
    /// Share in which all that had work waited for it.
    pub all_stalled: Option<f64>,
    /// Times that a task had to reclaim memory itself (allocstall).
    pub direct_reclaims: u64,
    /// Pages that tasks looked at in doing so.
    pub direct_scanned_pages: u64,
    /// Page faults that needed storage.
    pub major_faults: u64,
    /// Pages read again soon after they had been dropped: the sign of thrashing.
    pub refaulted_pages: u64,
    /// Pages written to swap.
    pub swapped_out_pages: u64,
    /// Cgroups with a limit, those nearest to it first. Bounded.
    pub cgroups: Vec<CgroupMemory>,
    /// Processes whose anonymous memory grew most, and those with most of it. Bounded.
    pub processes: Vec<ProcessMemory>,
}

/// A process's memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ProcessMemory {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Path of its cgroup in the hierarchy that limits memory, as far as known.
    pub cgroup: Option<String>,
    /// Its anonymous memory at each sample, in bytes.
    pub anon_bytes: Series,
    /// Still there at the window's end.
    pub alive: bool,
}

/// A process that was killed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct OomKill {
    /// When: `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Real user id.
    pub uid: u32,
    /// Path of its cgroup in the hierarchy that limits memory, as far as known.
    pub cgroup: Option<String>,
    /// Where memory ran out.
    pub scope: KillScope,
    /// The process that needed memory and got none.
    pub triggered_pid: u32,
    /// Its name.
    pub triggered_comm: String,
    /// Memory that it had in use, in bytes.
    pub rss_bytes: u64,
    /// Of these, anonymous.
    pub anon_bytes: u64,
    /// Of these, shared memory and tmpfs.
    pub shmem_bytes: u64,
    /// Its score, 0 to 2000.
    pub oom_score: i32,
    /// Its adjustment, -1000 to 1000.
    pub oom_score_adj: i16,
    /// Who had most memory where it ran out, the victim too. Bounded.
    pub largest: Vec<MemoryHolder>,
}

/// A cgroup's memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct CgroupMemory {
    /// Its path in the hierarchy that limits memory.
    pub path: String,
    /// v1 or v2.
    pub v2: bool,
    /// Its directory, for commands.
    pub directory: String,
    /// What it uses, in bytes, without the page cache and the kernel's own caches that could be dropped.
    pub used_bytes: Series,
    /// Its limit, in bytes; where it has no hard one, memory.high.
    pub limit_bytes: u64,
    /// Where the kernel begins to slow it down (memory.high), in bytes.
    pub high_bytes: Option<u64>,
    /// Times it reached the limit.
    pub limit_hits: u64,
    /// Times that it was held back because it was above memory.high (v2).
    pub high_hits: u64,
    /// Page faults of its processes that needed storage.
    pub major_faults: u64,
    /// Pages that were read again soon after they had been dropped for want of room in it.
    pub refaulted_pages: u64,
    /// Kills in it.
    pub oom_kills: u64,
    /// Share of the window in which some of its tasks waited for memory.
    pub some_stalled: Option<f64>,
    /// Its processes with most memory. Bounded.
    pub largest: Vec<MemoryHolder>,
}

/// A process and the memory that it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct MemoryHolder {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Its memory, in bytes.
    pub bytes: u64,
}

impl OomSummary {
    /// The processes that it names; some more than once.
    pub fn pids(&self) -> Vec<u32> {
        let kills = self.kills.iter().flat_map(|kill| [kill.pid, kill.triggered_pid]);
        let processes = self.processes.iter().map(|process| process.pid);
        let largest = self.kills.iter().flat_map(|kill| kill.largest.iter().map(|process| process.pid));
        let kills = kills.chain(processes).chain(largest);
        kills.chain(self.cgroups.iter().flat_map(|cgroup| cgroup.largest.iter().map(|process| process.pid))).collect()
    }
}
