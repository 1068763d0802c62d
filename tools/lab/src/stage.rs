//! The props: cgroups, block devices and file systems, network namespaces. Each is gone when its scene ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::scene::{PREFIX, Run, Scene, kill_orphans, run, undo, undo_patiently};

/// Where the v1 hierarchy with this controller is mounted, or the v2 hierarchy where it has it.
enum Hierarchy {
    V1(PathBuf),
    V2(PathBuf),
}

fn hierarchy(controller: &str) -> Result<Hierarchy> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut v2 = None;
    for line in mounts.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let [_, path, kind, options, ..] = fields.as_slice() else { continue };
        if *kind == "cgroup" && options.split(',').any(|option| option == controller) {
            return Ok(Hierarchy::V1(path.into()));
        }
        if *kind == "cgroup2" {
            v2 = Some(PathBuf::from(path));
        }
    }
    // "io" in v2 is "blkio" in v1.
    let name = if controller == "blkio" { "io" } else { controller };
    let root = v2.context("no cgroup hierarchy is mounted")?;
    let has = fs::read_to_string(root.join("cgroup.controllers"))?;
    ensure!(has.split_whitespace().any(|has| has == name), "no hierarchy has the {controller} controller");
    fs::write(root.join("cgroup.subtree_control"), format!("+{name}"))?;
    Ok(Hierarchy::V2(root))
}

impl Scene {
    fn cgroup(&mut self, root: &Path, name: &str) -> Result<PathBuf> {
        let path = root.join(self.unique(name));
        fs::create_dir(&path).with_context(|| format!("cannot make cgroup {}", path.display()))?;
        let remove = path.clone();
        self.at_end(move || undo_patiently(&format!("rmdir {}", remove.display())));
        Ok(path)
    }

    /// A cgroup that may use this share of one CPU.
    pub(super) fn cpu_limit(&mut self, share: f64) -> Result<PathBuf> {
        let (period, quota) = (100_000, (100_000.0 * share) as u64);
        match hierarchy("cpu")? {
            Hierarchy::V1(root) => {
                let path = self.cgroup(&root, "cpu")?;
                fs::write(path.join("cpu.cfs_period_us"), period.to_string())?;
                fs::write(path.join("cpu.cfs_quota_us"), quota.to_string())?;
                Ok(path)
            }
            Hierarchy::V2(root) => {
                let path = self.cgroup(&root, "cpu")?;
                fs::write(path.join("cpu.max"), format!("{quota} {period}"))?;
                Ok(path)
            }
        }
    }

    /// A cgroup that can be frozen, and what to write into which of its files to freeze it. It is thawed at the end.
    pub(super) fn freezer(&mut self) -> Result<(PathBuf, PathBuf, &'static str)> {
        let (root, file, freeze, thaw) = match hierarchy("freezer") {
            Ok(Hierarchy::V1(root)) => (root, "freezer.state", "FROZEN", "THAWED"),
            _ => (PathBuf::from("/sys/fs/cgroup"), "cgroup.freeze", "1", "0"),
        };
        let path = self.cgroup(&root, "frozen")?;
        let file = path.join(file);
        let state = file.clone();
        self.at_end(move || drop(fs::write(state, thaw)));
        Ok((path, file, freeze))
    }

    /// A cgroup without a limit. Sessions in the root one may be scheduled as groups of their own (autogroup), and would not get
    /// into each other's way.
    pub(super) fn cpu_group(&mut self) -> Result<PathBuf> {
        let (Hierarchy::V1(root) | Hierarchy::V2(root)) = hierarchy("cpu")?;
        self.cgroup(&root, "cpu")
    }

    /// A cgroup that may have so many processes and threads.
    pub(super) fn pids_limit(&mut self, most: u32) -> Result<PathBuf> {
        let (Hierarchy::V1(root) | Hierarchy::V2(root)) = hierarchy("pids")?;
        let path = self.cgroup(&root, "pids")?;
        fs::write(path.join("pids.max"), most.to_string())?;
        Ok(path)
    }

    /// A cgroup that may use this much memory and no swap.
    pub(super) fn memory_limit(&mut self, bytes: u64) -> Result<PathBuf> {
        match hierarchy("memory")? {
            Hierarchy::V1(root) => {
                let path = self.cgroup(&root, "memory")?;
                fs::write(path.join("memory.limit_in_bytes"), bytes.to_string())?;
                fs::write(path.join("memory.swappiness"), "0")?;
                Ok(path)
            }
            Hierarchy::V2(root) => {
                let path = self.cgroup(&root, "memory")?;
                fs::write(path.join("memory.max"), bytes.to_string())?;
                if path.join("memory.swap.max").exists() {
                    fs::write(path.join("memory.swap.max"), "0")?;
                }
                Ok(path)
            }
        }
    }

    /// A cgroup that may read this much a second from a device.
    pub(super) fn read_limit(&mut self, device: &Device, bytes_per_second: u64) -> Result<PathBuf> {
        let number = device.attribute("dev")?;
        match hierarchy("blkio")? {
            Hierarchy::V1(root) => {
                let path = self.cgroup(&root, "io")?;
                fs::write(path.join("blkio.throttle.read_bps_device"), format!("{number} {bytes_per_second}"))?;
                Ok(path)
            }
            Hierarchy::V2(root) => {
                let path = self.cgroup(&root, "io")?;
                fs::write(path.join("io.max"), format!("{number} rbps={bytes_per_second}"))?;
                Ok(path)
            }
        }
    }
}

/// A block device of the lab's own.
#[derive(Clone)]
pub(super) struct Device {
    /// Its name, as in /sys/block.
    pub(super) name: String,
    /// Its node.
    pub(super) path: String,
}

impl Device {
    fn attribute(&self, name: &str) -> Result<String> {
        let path = format!("/sys/class/block/{}/{name}", self.name);
        Ok(fs::read_to_string(&path).with_context(|| path)?.trim().to_owned())
    }

    /// Makes writers wait when more than so much of what is to be written to it is dirty.
    pub(super) fn limit_dirty(&self, bytes: u64) -> Result<()> {
        let dir = PathBuf::from(format!("/sys/class/bdi/{}", self.attribute("dev")?));
        fs::write(dir.join("strict_limit"), "1")?;
        Ok(fs::write(dir.join("max_bytes"), bytes.to_string())?)
    }

    /// A field of its `stat`: 0 reads, 3 their milliseconds, 4 writes, 7 theirs, 9 milliseconds with anything in flight, 15 flushes.
    pub(super) fn stat(&self, field: usize) -> Result<f64> {
        let stat = self.attribute("stat")?;
        Ok(stat.split_whitespace().nth(field).context("no such field of stat")?.parse()?)
    }
}

/// How a device of nbdkit's behaves: parameters of its filters, such as `rdelay=40ms`.
#[derive(Default)]
pub(super) struct Behaviour<'a> {
    pub(super) filters: &'a str,
    pub(super) parameters: &'a str,
}

impl Scene {
    /// A file system in memory.
    pub(super) fn memory_dir(&mut self, mib: u64) -> Result<PathBuf> {
        let path = self.dir().join("memory");
        if !path.exists() {
            fs::create_dir(&path)?;
            run(&format!("mount -t tmpfs -o size={mib}m {} {}", self.unique("memory"), path.display()))?;
            let unmount = path.clone();
            self.at_end(move || unmount_patiently(&unmount));
        }
        Ok(path)
    }

    /// A device as fast as memory.
    pub(super) fn fast_device(&mut self, mib: u64) -> Result<Device> {
        let file = self.memory_dir(mib + 16)?.join("disk");
        run(&format!("truncate -s {mib}M {}", file.display()))?;
        self.loop_device(&file, false)
    }

    /// A file in a FUSE file system whose every access goes to an nbdkit that behaves in this way.
    pub(super) fn odd_file(&mut self, mib: u64, behaviour: &Behaviour<'_>) -> Result<PathBuf> {
        let (mount, socket) = (self.dir().join("fuse"), self.dir().join("nbd.sock"));
        fs::create_dir(&mount)?;
        let filters: String =
            behaviour.filters.split_whitespace().map(|filter| format!(" --filter={filter}")).collect();
        let server = format!(
            "nbdkit --foreground --threads 64 --unix {}{filters} memory {mib}M {}",
            socket.display(),
            behaviour.parameters
        );
        self.serve(&Run::words(&server))?;
        self.until("nbdkit", || socket.exists())?;
        self.serve(&Run::words(&format!("nbdfuse --connections 4 {} --unix {}", mount.display(), socket.display())))?;
        let unmount = mount.clone();
        self.at_end(move || unmount_patiently(&unmount));
        let file = mount.join("nbd");
        self.until("nbdfuse", || file.exists())?;
        Ok(file)
    }

    /// A device above such a file.
    pub(super) fn odd_device(&mut self, mib: u64, behaviour: &Behaviour<'_>) -> Result<Device> {
        let file = self.odd_file(mib, behaviour)?;
        self.loop_device(&file, true)
    }

    pub(super) fn loop_device(&mut self, file: &Path, direct: bool) -> Result<Device> {
        let direct = if direct { "on" } else { "off" };
        let path = run(&format!("losetup --find --show --direct-io={direct} {}", file.display()))?;
        let detach = path.clone();
        self.at_end(move || undo_patiently(&format!("losetup --detach {detach}")));
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Device { name, path })
    }

    /// An ext4 on a device, mounted. `options` are those of mke2fs.
    pub(super) fn ext4(&mut self, device: &Device, options: &str) -> Result<PathBuf> {
        let path = self.dir().join("ext4");
        fs::create_dir(&path)?;
        run(&format!("mkfs.ext4 -q -F -m 0 -E nodiscard {options} {}", device.path))?;
        run(&format!("mount -t ext4 {} {}", device.path, path.display()))?;
        let unmount = path.clone();
        self.at_end(move || unmount_patiently(&unmount));
        Ok(path)
    }
}

fn unmount_patiently(path: &Path) {
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        if run(&format!("umount {}", path.display())).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    undo(&format!("umount --lazy {}", path.display()));
}

/// Two network namespaces with two ways between them.
pub(super) struct Network {
    pub(super) client: String,
    pub(super) server: String,
}

/// Its addresses: `way` is 0 or 1.
pub(super) fn client_address(way: u8) -> String {
    format!("10.213.{way}.2")
}

/// The server's.
pub(super) fn server_address(way: u8) -> String {
    format!("10.213.{way}.1")
}

impl Scene {
    fn namespace(&mut self, name: &str) -> Result<String> {
        let name = self.unique(name);
        run(&format!("ip netns add {name}"))?;
        let delete = name.clone();
        self.at_end(move || undo(&format!("ip netns delete {delete}")));
        run(&format!("ip -n {name} link set lo up"))?;
        Ok(name)
    }

    /// One namespace, with a loopback of its own.
    pub(super) fn lonely_net(&mut self) -> Result<String> {
        self.namespace("net")
    }

    /// Two of them with two ways between them: `way0` and `way1` in each. A packet on the way is one segment.
    pub(super) fn network(&mut self) -> Result<Network> {
        let (client, server) = (self.namespace("client")?, self.namespace("server")?);
        for way in 0..2 {
            let link = format!("way{way}");
            run(&format!("ip -n {client} link add {link} type veth peer name {link} netns {server}"))?;
            for (name, address) in [(&client, client_address(way)), (&server, server_address(way))] {
                run(&format!("ip -n {name} address add {address}/24 dev {link}"))?;
                run(&format!("ip -n {name} link set {link} gso_max_segs 1 up"))?;
            }
        }
        Ok(Network { client, server })
    }
}

impl Scene {
    /// The same, and the second way has a router on it whose link to the client takes 20 Mbit/s and queues as much as there is.
    pub(super) fn network_with_narrow_way(&mut self) -> Result<Network> {
        let net = self.network()?;
        let (client, server, router) = (net.client.clone(), net.server.clone(), self.namespace("router")?);
        for step in [
            // In front of the sender's own link nothing would queue: the kernel holds back what that cannot take.
            format!("ip -n {server} link delete way1"),
            format!("ip -n {client} link add way1 type veth peer name near netns {router}"),
            format!("ip -n {server} link add way1 type veth peer name far netns {router}"),
            format!("ip -n {client} address add {}/25 dev way1", client_address(1)),
            format!("ip -n {router} address add 10.213.1.126/25 dev near"),
            format!("ip -n {router} address add 10.213.1.254/25 dev far"),
            format!("ip -n {server} address add {}/25 dev way1", far_server_address()),
            format!("ip -n {client} link set way1 up"),
            format!("ip -n {router} link set near up"),
            format!("ip -n {router} link set far up"),
            format!("ip -n {server} link set way1 up"),
            format!("ip -n {client} route add 10.213.1.128/25 via 10.213.1.126"),
            format!("ip -n {server} route add 10.213.1.0/25 via 10.213.1.254"),
            format!("nsenter --net=/run/netns/{router} -- sysctl -qw net.ipv4.ip_forward=1"),
            format!("tc -n {router} qdisc add dev near root tbf rate 20mbit burst 32kb limit 16mb"),
        ] {
            run(&step)?;
        }
        Ok(net)
    }
}

/// The server's behind the router.
pub(super) fn far_server_address() -> String {
    "10.213.1.129".to_owned()
}

/// Counters of a network namespace, as nstat calls them. Those that are 0 are not listed.
pub(super) fn counter(net: &str, name: &str) -> Result<f64> {
    // A process looks at its own namespace; a history file would be shared with others.
    let text = run(&format!("nsenter --net=/run/netns/{net} -- nstat --zeros --ignore --noupdate {name}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next().map(str::to_owned));
    Ok(value.unwrap_or_default().parse().unwrap_or(0.0))
}

/// Removes what a lab that was killed left behind.
pub(super) fn sweep() {
    kill_orphans();
    let is_stale = |name: &str| {
        let pid =
            name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')?.split('-').next()?.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    let stale = |dir: &Path| -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
        let named = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_stale));
        named.map(|entry| entry.path()).collect()
    };
    for dir in stale(Path::new("/var/tmp")) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let inside = |line: &str| -> Option<(String, String)> {
            let mut fields = line.split(' ');
            let (source, path) = (fields.next()?, fields.next()?);
            Path::new(path).starts_with(&dir).then(|| (source.to_owned(), path.to_owned()))
        };
        for (source, path) in mounts.lines().rev().filter_map(inside) {
            let _ = run(&format!("fsfreeze --unfreeze {path}"));
            undo(&format!("umount --lazy {path}"));
            if source.starts_with("/dev/loop") {
                undo_patiently(&format!("losetup --detach {source}"));
            }
        }
        let _ = fs::remove_dir_all(&dir);
    }
    for net in stale(Path::new("/run/netns")) {
        undo(&format!("ip netns delete {}", net.file_name().unwrap_or_default().display()));
    }
    for controller in ["cpu", "memory", "blkio"] {
        if let Ok(Hierarchy::V1(root) | Hierarchy::V2(root)) = hierarchy(controller) {
            stale(&root).iter().for_each(|path| drop(fs::remove_dir(path)));
        }
    }
}
