use std::fmt;

use serde::{Deserialize, Serialize};

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct HostFacts {
    /// `uname -n`
    pub hostname: String,
    /// The boot that this was (`/proc/sys/kernel/random/boot_id`); empty when it is not known.
    #[serde(default)]
    pub boot_id: String,
    /// `uname -r`
    pub kernel: String,
    /// `uname -m`
    pub machine: String,
    /// `PRETTY_NAME` of os-release(5).
    pub os: String,
    /// CPUs online.
    pub cpus: u32,
    /// Total memory.
    pub memory_bytes: u64,
    /// The name of the hypervisor, if it is detected: kvm, vmware, xen, microsoft, ...
    pub virtualization: Option<String>,
    /// The cloud provider, if the firmware names it.
    pub cloud: Option<String>,
    /// The kind of container that kerno ran in, if any: docker, kubernetes, lxc, ...
    pub container: Option<String>,
    /// Whether Kubernetes runs containers here.
    pub kubernetes: bool,
    /// Time since the machine started, in seconds.
    pub uptime_seconds: f64,
}

/// The first two or three numbers of a kernel release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct KernelVersion {
    /// 6 in 6.18.44
    pub major: u32,
    /// 18 in 6.18.44
    pub minor: u32,
    /// 44 in 6.18.44
    pub patch: u32,
}

impl KernelVersion {
    /// `major.minor.0`
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor, patch: 0 }
    }

    /// Whether the kernel can preempt a task in the middle of a program at a tracepoint, and then skips that program for other tasks on
    /// the same CPU: since 7.0 (a46023d5616e). Skipped runs are counted.
    pub fn preempts_programs(self) -> bool {
        self >= Self::new(7, 0)
    }

    /// Parses a release, as `uname -r` prints it.
    pub fn parse(release: &str) -> Self {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self { major: next(), minor: next(), patch: next() }
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}
