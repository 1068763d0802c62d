use serde::{Deserialize, Serialize};

/// A process and what it used during the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its name, lossy; may contain control characters.
    pub comm: String,
    /// Its command line, arguments separated by spaces. Empty for kernel threads, if the process ended before it could be read, or if
    /// command lines must not be shown.
    pub cmdline: String,
    /// The id of its parent.
    pub parent_pid: u32,
    /// Real user id.
    pub uid: u32,
    /// The name of the user, if there is one.
    pub user: Option<String>,
    /// The path of its cgroup in the v2 hierarchy, or in that of the memory controller on hosts without v2.
    pub cgroup: Option<String>,
    /// The container that it runs in.
    pub container: Option<Container>,
    /// The systemd unit it belongs to.
    pub unit: Option<String>,
    /// Whether it is a kernel thread.
    pub kernel_thread: bool,
    /// Whether it still existed at the end of the window.
    pub alive: bool,
    /// The number of threads at the end of the window.
    pub threads: u32,
    /// Anonymous memory at the end of the window, in bytes; accurate to some dozen pages per CPU.
    pub anon_bytes: u64,
    /// When it started: `CLOCK_MONOTONIC`, in nanoseconds.
    pub started_ns: u64,
    /// What it used and what it waited for.
    pub used: TaskUse,
}

/// A container, as the path of the cgroup names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Container {
    /// Its runtime: docker, containerd, cri-o, podman, lxc, ...
    pub runtime: String,
    /// Its id (usually 64 hexadecimal digits) or name.
    pub id: String,
    /// The uid of its Kubernetes pod.
    pub pod_uid: Option<String>,
}

/// What all threads of a process together used and waited for during the window. CPU time and bytes are complete. The other numbers lack
/// threads that began and ended between two samples, and what a thread did between its last sample and its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TaskUse {
    /// Time on CPUs.
    pub run_ns: u64,
    /// Time in run queues, that is, waiting for a CPU.
    pub wait_ns: u64,
    /// How often it got a CPU.
    pub waits: u64,
    /// How often it gave up a CPU to sleep.
    pub voluntary: u64,
    /// How often it was preempted.
    pub involuntary: u64,
    /// Page faults that needed I/O.
    pub major_faults: u64,
    /// Bytes read from storage on its behalf.
    pub read_bytes: u64,
    /// Bytes that it causes to be written to storage. Counted when it makes pages dirty, so that buffered writes are attributed to their
    /// author.
    pub write_bytes: u64,
    /// Time asleep for block I/O; 0 if delay accounting is off (`kernel.task_delayacct`).
    pub io_delay_ns: u64,
    /// Time in direct memory reclaim; 0 if delay accounting is off.
    pub reclaim_delay_ns: u64,
}

impl TaskUse {
    /// What was used since `earlier`, an earlier state of the same process.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            run_ns: self.run_ns.saturating_sub(earlier.run_ns),
            wait_ns: self.wait_ns.saturating_sub(earlier.wait_ns),
            waits: self.waits.saturating_sub(earlier.waits),
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
            major_faults: self.major_faults.saturating_sub(earlier.major_faults),
            read_bytes: self.read_bytes.saturating_sub(earlier.read_bytes),
            write_bytes: self.write_bytes.saturating_sub(earlier.write_bytes),
            io_delay_ns: self.io_delay_ns.saturating_sub(earlier.io_delay_ns),
            reclaim_delay_ns: self.reclaim_delay_ns.saturating_sub(earlier.reclaim_delay_ns),
        }
    }
}

impl std::ops::AddAssign for TaskUse {
    fn add_assign(&mut self, other: Self) {
        self.run_ns = self.run_ns.saturating_add(other.run_ns);
        self.wait_ns = self.wait_ns.saturating_add(other.wait_ns);
        self.waits = self.waits.saturating_add(other.waits);
        self.voluntary = self.voluntary.saturating_add(other.voluntary);
        self.involuntary = self.involuntary.saturating_add(other.involuntary);
        self.major_faults = self.major_faults.saturating_add(other.major_faults);
        self.read_bytes = self.read_bytes.saturating_add(other.read_bytes);
        self.write_bytes = self.write_bytes.saturating_add(other.write_bytes);
        self.io_delay_ns = self.io_delay_ns.saturating_add(other.io_delay_ns);
        self.reclaim_delay_ns = self.reclaim_delay_ns.saturating_add(other.reclaim_delay_ns);
    }
}
