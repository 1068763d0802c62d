use kerno_model::KernelVersion;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::MmapOptions;
use rustix::thread::CapabilitySet;

use super::btf::{Btf, Bytes};

/// Where the running kernel describes its types (`CONFIG_DEBUG_INFO_BTF`, Linux 5.4).
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Inode of the initial pid namespace (`PROC_PID_INIT_INO`, linux/proc_ns.h).
const INITIAL_PID_NS: &str = "pid:[4026531836]";

/// Inode of the initial user namespace (`PROC_USER_INIT_INO`), where bpf(2) wants its capabilities held.
const INITIAL_USER_NS: &str = "user:[4026531837]";

/// When the memory of maps became the cgroup's, like any other.
const COUNTED_BY_CGROUP: KernelVersion = KernelVersion::new(5, 11);

/// Why nothing can be loaded with that lockdown: every signal reads kernel memory (kernel_lockdown(7), Linux 5.4).
pub(super) const LOCKED_DOWN: &str = "kernel lockdown is in confidentiality mode, in which no program may read the kernel's memory; \
     lockdown=integrity on the kernel's command line allows it, after a reboot";

/// The version of the kernel that this process runs on.
pub fn running_kernel() -> KernelVersion {
    KernelVersion::parse(&rustix::system::uname().release().to_string_lossy())
}

/// A capability that loading programs needs (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum Capability {
    /// To create maps and load programs (Linux 5.8).
    CapBpf,
    /// To load tracing programs, which read kernel memory (Linux 5.8).
    CapPerfmon,
    /// To lift the locked-memory limit that maps count against before Linux 5.11.
    CapSysResource,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CapBpf => "CAP_BPF",
            Self::CapPerfmon => "CAP_PERFMON",
            Self::CapSysResource => "CAP_SYS_RESOURCE",
        })
    }
}

/// What this machine is and what this process may do on it.
///
/// Holds an index of the kernel's BTF. Loading several signals is quicker while one is alive; drop it when they are loaded, it takes
/// some megabytes.
#[derive(Clone, Debug)]
pub struct Host {
    /// `uname -r`
    pub release: String,
    /// Its numbers.
    pub version: KernelVersion,
    /// `uname -m`
    pub machine: String,
    /// Capabilities that loading needs and this process lacks.
    pub missing_capabilities: Vec<Capability>,
    /// `/sys/kernel/security/lockdown`: none, integrity or confidentiality; `None` when the kernel has no lockdown or hides it.
    pub lockdown: Option<String>,
    /// Whether process ids here are those the kernel side sees.
    pub initial_pid_namespace: bool,
    /// Whether capabilities held here count for bpf(2). Those of root in another user namespace (a rootless container) do not.
    pub initial_user_namespace: bool,
    /// Whether maps count against a limit of locked memory that only `CAP_SYS_RESOURCE` can lift: before Linux 5.11, unless the hard
    /// limit is unlimited.
    pub locked_memory_is_limited: bool,
    /// Where the cgroup v2 hierarchy is mounted, which filters by cgroup need.
    pub cgroup2_mount: Option<PathBuf>,
    btf: Result<Arc<Btf>, String>,
    /// Tracepoints and functions to be taken for missing.
    without: Vec<&'static str>,
}

/// The running kernel's BTF, indexed once for all hosts that live at the same time.
fn shared_btf() -> Result<Arc<Btf>, String> {
    static SHARED: Mutex<Weak<Btf>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(btf) = shared.upgrade() {
        return Ok(btf);
    }
    let failed = |what: &dyn fmt::Display| {
        format!("cannot read the kernel's BTF at {KERNEL_BTF}: {what}; the kernel needs CONFIG_DEBUG_INFO_BTF=y")
    };
    let bytes = kernel_btf().map_err(|error| failed(&error))?;
    let btf = Btf::index(bytes).map(Arc::new).map_err(|error| failed(&error))?;
    *shared = Arc::downgrade(&btf);
    Ok(btf)
}

/// Mapped where that is possible (Linux 6.16, a530bab2a8d0): reading takes a call for each of more than a thousand pages.
fn kernel_btf() -> io::Result<Bytes> {
    let file = File::open(KERNEL_BTF)?;
    // SAFETY: the kernel's own types are never changed.
    match unsafe { MmapOptions::new().map_copy_read_only(&file) } {
        Ok(mapped) if !mapped.is_empty() => Ok(Bytes::Mapped(mapped)),
        _ => fs::read(KERNEL_BTF).map(Bytes::Read),
    }
}

impl Host {
    /// Looks at this machine. Needs no privilege and never fails: the fields say what could not be read.
    pub fn detect() -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let version = KernelVersion::parse(&release);
        let initial_user_namespace = in_namespace("/proc/self/ns/user", INITIAL_USER_NS);
        let locked_memory_is_limited = locked_memory_is_limited(version);
        Self {
            version,
            locked_memory_is_limited,
            machine: uname.machine().to_string_lossy().into_owned(),
            missing_capabilities: missing_capabilities(locked_memory_is_limited, initial_user_namespace),
            lockdown: lockdown(),
            initial_pid_namespace: in_initial_pid_namespace(),
            initial_user_namespace,
            cgroup2_mount: super::cgroup::v2_mount(),
            btf: shared_btf(),
            without: Vec::new(),
            release,
        }
    }

    /// This machine as if its kernel lacked a tracepoint or function: plans for it use the substitutes that other kernels get.
    #[doc(hidden)]
    #[must_use]
    pub fn without(mut self, name: &'static str) -> Self {
        self.without.push(name);
        self
    }

    /// A machine that runs another kernel, for decisions by its BTF; nothing can be loaded on it.
    #[cfg(test)]
    pub(crate) fn of_kernel(release: &str, btf: Vec<u8>) -> Result<Self, String> {
        Ok(Self {
            release: release.to_owned(),
            version: KernelVersion::parse(release),
            machine: "x86_64".to_owned(),
            missing_capabilities: Vec::new(),
            lockdown: None,
            initial_pid_namespace: true,
            initial_user_namespace: true,
            cgroup2_mount: None,
            locked_memory_is_limited: false,
            btf: Ok(Arc::new(Btf::parse(btf).map_err(|error| error.to_string())?)),
            without: Vec::new(),
        })
    }

    /// Why the kernel's BTF cannot be used, if so.
    pub fn btf_error(&self) -> Option<&str> {
        self.btf.as_ref().err().map(String::as_str)
    }

    pub(crate) fn btf(&self) -> Result<&Btf, &str> {
        self.btf.as_deref().map_err(String::as_str)
    }

    /// What privileges this process lacks, in words; `None` when it lacks none.
    pub fn missing_privileges(&self) -> Option<String> {
        if self.missing_capabilities.is_empty() {
            return None;
        }
        let names: Vec<_> = self.missing_capabilities.iter().map(Capability::to_string).collect();
        let place = if self.initial_user_namespace { "" } else { " in the initial user namespace, which this is not" };
        Some(format!("needs {}{place}", names.join(" and ")))
    }

    /// How many arguments the tracepoint has; `None` where there is none of this name.
    pub(crate) fn tracepoint_arity(&self, name: &str) -> Option<usize> {
        if self.without.contains(&name) {
            return None;
        }
        self.btf().ok()?.tracepoint_arity(name)
    }

    /// How many arguments the kernel's function has; `None` where there is none of this name.
    pub(crate) fn function_arity(&self, name: &str) -> Option<usize> {
        if self.without.contains(&name) {
            return None;
        }
        self.btf().ok()?.function_arity(name)
    }

    /// The value of this name in any of the kernel's enums: for what CO-RE cannot find because the enum has no name.
    pub(crate) fn enum_value(&self, name: &str) -> Option<u32> {
        self.btf().ok()?.enum_value(name)
    }

    /// How many arguments `io_uring_complete` has, where requests are laid out as uring.h knows them: since 6.0, when this struct
    /// came. 5.10 has a tracepoint of that name too, with other arguments.
    pub(crate) fn uring_completion_arity(&self) -> Option<usize> {
        let known = self.btf().ok()?.struct_count("io_cmd_data") > 0;
        known.then(|| self.tracepoint_arity("io_uring_complete")).flatten()
    }
}

fn missing_capabilities(locked_memory_is_limited: bool, initial_user_namespace: bool) -> Vec<Capability> {
    let effective = match rustix::thread::capabilities(None) {
        Ok(sets) if initial_user_namespace => sets.effective,
        _ => CapabilitySet::empty(),
    };
    let has = |set| effective.contains(set) || effective.contains(CapabilitySet::SYS_ADMIN);
    let mut missing = Vec::new();
    if !has(CapabilitySet::BPF) {
        missing.push(Capability::CapBpf);
    }
    if !has(CapabilitySet::PERFMON) {
        missing.push(Capability::CapPerfmon);
    }
    if locked_memory_is_limited && !effective.contains(CapabilitySet::SYS_RESOURCE) {
        missing.push(Capability::CapSysResource);
    }
    missing
}

/// Any process may raise the soft limit up to the hard one.
fn locked_memory_is_limited(version: KernelVersion) -> bool {
    version < COUNTED_BY_CGROUP && rustix::process::getrlimit(rustix::process::Resource::Memlock).maximum.is_some()
}

/// Before, maps count against the limit of locked memory, which is 64 KiB by default; since, as other memory of the cgroup. A refusal shows as the map's own error.
pub(super) fn lift_memlock(version: KernelVersion) {
    if version < COUNTED_BY_CGROUP {
        let unlimited = rustix::process::Rlimit { current: None, maximum: None };
        let _ = rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited);
    }
}

pub(crate) fn in_initial_pid_namespace() -> bool {
    in_namespace("/proc/self/ns/pid", INITIAL_PID_NS)
}

/// If /proc is not mounted, nothing says that it is another one.
fn in_namespace(link: &str, initial: &str) -> bool {
    match fs::read_link(link) {
        Ok(namespace) => namespace == Path::new(initial),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// The bracketed word of `[none] integrity confidentiality`.
fn lockdown() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode.to_owned())
}

/// How many CPUs this machine can ever have: the number of elements a `PER_CPU_BLOCK` (block.h) needs.
pub(crate) fn possible_cpus() -> u32 {
    let possible = aya::util::nr_cpus().unwrap_or_else(|_| std::thread::available_parallelism().map_or(1, usize::from));
    u32::try_from(possible).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_parse() {
        let version = KernelVersion::parse("6.18.44-fc-v509");
        assert_eq!((version.major, version.minor, version.patch), (6, 18, 44));
        assert_eq!(KernelVersion::parse("5.10.0-30-cloud-amd64").to_string(), "5.10.0");
        assert_eq!(KernelVersion::parse("7.3-rc2").patch, 0);
        assert_eq!(KernelVersion::parse("").major, 0);
        assert!(KernelVersion::new(5, 10) < KernelVersion::new(6, 1));
    }
}
