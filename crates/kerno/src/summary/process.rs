use serde::{Deserialize, Serialize};

use super::tasks::TaskUse;

/// Who a process is and what it used during the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Container {
    /// docker, containerd, cri-o, podman, lxc, ...
    pub runtime: String,
    /// Its id (64 hexadecimal digits mostly) or name.
    pub id: String,
    /// The uid of its Kubernetes pod.
    pub pod_uid: Option<String>,
}
