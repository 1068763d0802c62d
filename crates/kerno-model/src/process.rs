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

/// A container, as the path of its cgroup and the files of its engine name it.
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
    /// What its engine calls it, if that is known: `shop-web-1`; of Kubernetes the container's name within its pod.
    pub name: Option<String>,
    /// The image that it was made of, if that is known.
    pub image: Option<String>,
    /// The name of its Kubernetes pod, if that is known.
    pub pod: Option<String>,
    /// The Kubernetes namespace of the pod, if that is known.
    pub namespace: Option<String>,
    /// What it is a part of, if that is known: `deployment/web`, `cronjob/report`, `compose/shop/web`, `service/web` (Swarm).
    pub workload: Option<String>,
}

impl Container {
    /// What people call it: `shop/web-7d9c8b6f5d-x2x4z/nginx` of Kubernetes, `shop-web-1`, or, if no name is known, the first twelve
    /// characters of its id.
    pub fn label(&self) -> String {
        let short = || self.id.chars().take(12).collect::<String>();
        match (&self.namespace, &self.pod) {
            (namespace, Some(pod)) => {
                let parts = [namespace.as_ref(), Some(pod), self.name.as_ref()];
                parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("/")
            }
            (_, None) => self.name.clone().unwrap_or_else(short),
        }
    }

    /// Whether somebody means this container by these words: its id or the begin of it, its name, or its pod, with or without the
    /// namespace.
    pub fn is_called(&self, words: &str) -> bool {
        let is = |name: &Option<String>| name.as_deref() == Some(words);
        let in_namespace = || {
            let (namespace, rest) = words.split_once('/')?;
            let pod = rest.split('/').next()?;
            let container = rest.split_once('/').map(|(_, name)| name);
            let same = self.namespace.as_deref() == Some(namespace) && self.pod.as_deref() == Some(pod);
            Some(same && container.is_none_or(|name| self.name.as_deref() == Some(name)))
        };
        let by_id = !words.is_empty() && (self.id == words || words.len() >= 4 && self.id.starts_with(words));
        by_id || is(&self.name) || is(&self.pod) || in_namespace().unwrap_or(false)
    }
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
