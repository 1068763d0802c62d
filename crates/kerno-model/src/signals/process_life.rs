mod merge;
mod metrics;

use serde::{Deserialize, Serialize};

use crate::WaitStatus;

/// Processes that began and ended in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct LifeSummary {
    /// Processes that began. Threads are none.
    pub forks: u64,
    /// Programs that were executed.
    pub execs: u64,
    /// Processes that ended.
    pub ends: u64,
    /// Of these, with an exit code that is not 0: many programs answer a question with it.
    pub failed: u64,
    /// Of these, by a signal.
    pub killed: u64,
    /// Of these, with a core dump.
    pub core_dumps: u64,
    /// Of those that a signal ended, by the OOM killer.
    pub oom_killed: u64,
    /// Ends that are in none of `programs`: parts of scripts that fared well, processes that are older than the watch, and what had no room.
    pub ends_not_told: u64,
    /// Programs that ended, by who started them; those that failed first. Bounded.
    pub programs: Vec<ProgramLife>,
    /// Who started most processes. Bounded.
    pub starters: Vec<ForkStarter>,
    /// Who has not waited for children that ended. Bounded.
    pub zombies: Vec<ZombieParent>,
}

/// A program that one process started, once or again and again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ProgramLife {
    /// Its name: that of the file, cut to 15 bytes; of a forked worker, the worker's.
    pub program: String,
    /// It executed nothing of its own: a forked worker.
    pub forked: bool,
    /// The file that was executed last; empty for a worker.
    pub file: String,
    /// Its arguments, the first 127 bytes of them; empty where they are not to be told.
    pub args: Vec<String>,
    /// Who started it: the process that forked, not one that adopted it later.
    pub starter_pid: u32,
    /// That process's name; empty if it ended before it could be read.
    pub starter_comm: String,
    /// The name of the directory of its cgroup, such as `nginx.service`; empty at the root.
    pub unit: String,
    /// Its cgroup.
    pub cgroup_id: u64,
    /// Real user id.
    pub uid: u32,
    /// How often it was started.
    pub starts: u64,
    /// How often it ended.
    pub ends: u64,
    /// How often it went on as another program (exec).
    pub replaced: u64,
    /// Ends with an exit code that is not 0.
    pub failed: u64,
    /// Ends by a signal.
    pub killed: u64,
    /// Of these, with a core dump.
    pub core_dumps: u64,
    /// Of these, by the OOM killer.
    pub oom_killed: u64,
    /// Ends within ten seconds.
    pub brief: u64,
    /// Starts that followed a failure within a minute, with the same arguments, while none of it ran.
    pub again_failed: u64,
    /// Starts that so followed an end within ten seconds that was no failure.
    pub again_ended: u64,
    /// Starts with the arguments of the start before.
    pub same_args: u64,
    /// How long those lived that ended, together.
    pub lived_ns: u64,
    /// The CPU time of those that lived less than ten seconds, as far as their parents have waited for them.
    pub cpu_ns: u64,
    /// How it ended other than with exit code 0.
    pub endings: Vec<Ending>,
    /// The shortest of those lives; 0 if none ended.
    pub shortest_ns: u64,
    /// The longest.
    pub longest_ns: u64,
    /// How many of it ran at once, at most.
    pub most_running: u32,
    /// The process that was last started.
    pub last_pid: u32,
    /// How it last ended.
    pub last_ending: WaitStatus,
}

/// How often a program ended so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Ending {
    /// So.
    pub status: WaitStatus,
    /// How often. Of more than four kinds, the last has the others' as well.
    pub count: u64,
}

/// A process that starts others: the nearest ancestor of them that had lived for a second, so a script and not what it is made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ForkStarter {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Processes that it and its short-lived descendants began.
    pub forks: u64,
    /// Programs that these executed.
    pub execs: u64,
    /// Of these processes, ended.
    pub ends: u64,
    /// Of these, within ten seconds.
    pub brief: u64,
    /// The CPU time of those, as far as their parents have waited for them.
    pub cpu_ns: u64,
    /// The first few different programs, most executed first.
    pub programs: Vec<StartedProgram>,
}

/// A program that was executed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct StartedProgram {
    /// Its name.
    pub program: String,
    /// How often.
    pub count: u64,
}

/// A process with children that ended, and for which it does not wait.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ZombieParent {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Zombies that were there at the end of the window and had been for a second.
    pub zombies: u64,
    /// Those at its begin.
    pub at_begin: u64,
    /// For how long the oldest has been seen.
    pub oldest_ns: u64,
    /// The name that most of them have.
    pub of: String,
    /// It is process 1 of a pid namespace that is not the machine's: it is given the orphans of a container.
    pub namespace_init: bool,
}

impl LifeSummary {
    /// The processes that it names; some more than once.
    pub fn pids(&self) -> Vec<u32> {
        let programs = self.programs.iter().map(|program| program.starter_pid);
        let starters = self.starters.iter().map(|starter| starter.pid);
        programs.chain(starters).chain(self.zombies.iter().map(|parent| parent.pid)).collect()
    }
}
