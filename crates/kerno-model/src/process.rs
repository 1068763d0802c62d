use serde::{Deserialize, Serialize};

/// Who a process is and what it used during the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its name, lossy; may hold control characters.
    pub comm: String,
    /// Its command line, arguments separated by spaces; empty for kernel threads, when it was gone before it could be read, or when
    /// it is not to be shown.
    pub cmdline: String,
    /// Its parent's id.
    pub parent_pid: u32,
    /// Real user id.
    pub uid: u32,
    /// The user's name, where there is one.
    pub user: Option<String>,
    /// Path of its cgroup in the v2 hierarchy (on hosts without one, of the memory controller).
    pub cgroup: Option<String>,
    /// The container it is in.
    pub container: Option<Container>,
    /// The systemd unit it belongs to.
    pub unit: Option<String>,
    /// Runs in the kernel only.
    pub kernel_thread: bool,
    /// Still there at the window's end.
    pub alive: bool,
    /// Threads at the window's end.
    pub threads: u32,
    /// Anonymous memory at the window's end, in bytes; within some dozen pages a CPU.
    pub anon_bytes: u64,
    /// When it started: `CLOCK_MONOTONIC`, in nanoseconds.
    pub started_ns: u64,
    /// What it used and waited for.
    pub used: TaskUse,
}

/// A container, as the cgroup's path tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Container {
    /// docker, containerd, cri-o, podman, lxc, ...
    pub runtime: String,
    /// Its id (64 hexadecimal digits mostly) or name.
    pub id: String,
    /// The uid of its Kubernetes pod.
    pub pod_uid: Option<String>,
}

/// What a process used and waited for during the window, its threads taken together. Threads that began and ended between two
/// samples are missing, and of those that ended what came after the last sample; but not their CPU time and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TaskUse {
    /// Time on CPUs.
    pub run_ns: u64,
    /// Time in run queues, waiting for a CPU.
    pub wait_ns: u64,
    /// Times that it got a CPU.
    pub waits: u64,
    /// Times that it left a CPU to sleep.
    pub voluntary: u64,
    /// Times that it was made to leave a CPU.
    pub involuntary: u64,
    /// Page faults that needed storage.
    pub major_faults: u64,
    /// Bytes that it had read from storage.
    pub read_bytes: u64,
    /// Bytes that it will have written to storage: counted when it makes pages dirty, so buffered writes have their author here.
    pub write_bytes: u64,
    /// Time asleep for block I/O; 0 where delay accounting is off (`kernel.task_delayacct`).
    pub io_delay_ns: u64,
    /// Time in direct memory reclaim; 0 where delay accounting is off.
    pub reclaim_delay_ns: u64,
}

impl TaskUse {
    /// What was used since `earlier`, an earlier state of this one.
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
        self.run_ns += other.run_ns;
        self.wait_ns += other.wait_ns;
        self.waits += other.waits;
        self.voluntary += other.voluntary;
        self.involuntary += other.involuntary;
        self.major_faults += other.major_faults;
        self.read_bytes += other.read_bytes;
        self.write_bytes += other.write_bytes;
        self.io_delay_ns += other.io_delay_ns;
        self.reclaim_delay_ns += other.reclaim_delay_ns;
    }
}
