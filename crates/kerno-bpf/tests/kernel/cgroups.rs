//! Cgroups of the tests' own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A cgroup that is removed at the end, also when the test panics; whoever is still in it is killed.
pub struct Cgroup {
    pub path: PathBuf,
}

/// Where the file system of this kind is mounted; for v1, with this controller.
fn mount(kind: &str, controller: Option<&str>) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let has_controller = controller.is_none_or(|name| fields[3].split(',').any(|option| option == name));
        (fields[2] == kind && has_controller).then(|| PathBuf::from(fields[1]))
    })
}

/// Where the v2 hierarchy is mounted.
pub fn v2_mount() -> PathBuf {
    mount("cgroup2", None).expect("needs a cgroup v2 hierarchy")
}

/// The id of the v2 cgroup that a process is in.
pub fn id_of(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup v2 membership");
    fs::metadata(v2_mount().join(path)).unwrap().ino()
}

impl Cgroup {
    /// A new cgroup in `parent`, with a name that no other test has.
    pub fn new(parent: &Path, name: &str) -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = parent.join(format!("kerno-{name}-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make cgroup {}: {error}", path.display()));
        Self { path }
    }

    /// A new cgroup whose processes may use this much memory and no swap, in whichever hierarchy has the memory controller.
    pub fn with_memory(limit_bytes: u64, name: &str) -> Self {
        if let Some(v1) = mount("cgroup", Some("memory")) {
            let group = Self::new(&v1, name);
            group.write("memory.limit_in_bytes", limit_bytes);
            group.write("memory.swappiness", 0);
            return group;
        }
        Self::with_memory_in(&v2_mount(), limit_bytes, name)
    }

    /// The same, below a cgroup of the v2 hierarchy, which must have the memory controller.
    pub fn with_memory_in(parent: &Path, limit_bytes: u64, name: &str) -> Self {
        fs::write(parent.join("cgroup.subtree_control"), "+memory").expect("needs the memory controller");
        let group = Self::new(parent, name);
        group.write("memory.max", limit_bytes);
        if group.path.join("memory.swap.max").exists() {
            group.write("memory.swap.max", 0);
        }
        group
    }

    /// A new cgroup whose processes may read no more than this a second from a device, in whichever hierarchy limits I/O.
    pub fn with_read_limit((major, minor): (u32, u32), bytes_per_second: u64, name: &str) -> Self {
        let (group, file, limit) = if let Some(v1) = mount("cgroup", Some("blkio")) {
            (Self::new(&v1, name), "blkio.throttle.read_bps_device", bytes_per_second.to_string())
        } else {
            let v2 = v2_mount();
            fs::write(v2.join("cgroup.subtree_control"), "+io").expect("needs the io controller");
            (Self::new(&v2, name), "io.max", format!("rbps={bytes_per_second}"))
        };
        fs::write(group.path.join(file), format!("{major}:{minor} {limit}")).expect("a limit on the device");
        group
    }

    /// A new cgroup whose processes together may use `quota_us` of CPU time in each `period_us`, in whichever hierarchy has the cpu
    /// controller.
    pub fn with_cpu_quota(quota_us: u64, period_us: u64, name: &str) -> Self {
        if let Some(v1) = mount("cgroup", Some("cpu")) {
            let group = Self::new(&v1, name);
            group.write("cpu.cfs_period_us", period_us);
            group.write("cpu.cfs_quota_us", quota_us);
            return group;
        }
        fs::write(v2_mount().join("cgroup.subtree_control"), "+cpu").expect("needs the cpu controller");
        let group = Self::new(&v2_mount(), name);
        fs::write(group.path.join("cpu.max"), format!("{quota_us} {period_us}")).unwrap();
        group
    }

    pub fn write(&self, file: &str, value: u64) {
        let path = self.path.join(file);
        fs::write(&path, value.to_string()).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Moves a process into it.
    pub fn add(&self, pid: u32) {
        self.write("cgroup.procs", pid.into());
    }

    /// The id by which the kernel side knows it.
    pub fn id(&self) -> u64 {
        fs::metadata(&self.path).unwrap().ino()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        // Its last process may still be on its way out.
        while let Err(error) = fs::remove_dir(&self.path) {
            if Instant::now() > deadline {
                eprintln!("cannot remove {}: {error}", self.path.display());
                return;
            }
            let procs = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
            // A process that this namespace has no number for is shown as 0, which to kill() is our own group.
            for pid in procs.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 0) {
                // SAFETY: a process of our own cgroup.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
