//! What is asked about, and which processes that is.

use std::collections::BTreeSet;
use std::fmt;

use crate::engine::membership;
use crate::waits::chain::Look;

/// What `kerno why` is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// A process.
    Pid(u32),
    /// All processes with this name: the kernel's (`comm`), that of the program's file, or the first word of the command line.
    Name(String),
    /// A systemd unit; `.service` may be left out.
    Unit(String),
    /// A cgroup by its path, and all below it.
    Cgroup(String),
    /// A container by its id or the begin of it.
    Container(String),
    /// Who listens on this port, TCP.
    Port(u16),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "process {pid}"),
            Self::Name(name) => f.write_str(name),
            Self::Unit(unit) => write!(f, "unit {unit}"),
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
            Self::Container(id) => write!(f, "container {id}"),
            Self::Port(port) => write!(f, "port {port}"),
        }
    }
}

impl Target {
    /// That there is none.
    pub(super) fn none(&self) -> String {
        match self {
            Self::Pid(pid) => format!("there is no process {pid}"),
            Self::Name(name) => format!("no process is called {name}: give the name of a program, or a process id"),
            Self::Unit(unit) => format!("no process belongs to the unit {unit}"),
            Self::Cgroup(path) => format!("no process is in the cgroup {path} or below it"),
            Self::Container(id) => format!("no process is in a container whose id begins with {id}"),
            Self::Port(port) => format!("no process listens on TCP port {port}"),
        }
    }

    /// The processes that it is now. Without kernel threads and ourselves.
    pub(super) fn pids(&self, look: &Look) -> BTreeSet<u32> {
        let own = std::process::id();
        let mut pids: BTreeSet<u32> = match self {
            Self::Pid(pid) => {
                std::fs::exists(format!("/proc/{pid}")).unwrap_or(false).then_some(*pid).into_iter().collect()
            }
            Self::Name(name) => all().filter(|pid| is_called(*pid, name)).collect(),
            Self::Unit(unit) => all().filter(|pid| paths(*pid).iter().any(|path| in_unit(path, unit))).collect(),
            Self::Cgroup(path) => all().filter(|pid| paths(*pid).iter().any(|own| is_below(own, path))).collect(),
            Self::Container(id) => all().filter(|pid| paths(*pid).iter().any(|path| in_container(path, id))).collect(),
            Self::Port(port) => listeners(look, *port),
        };
        pids.remove(&own);
        pids
    }
}

fn all() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn is_called(pid: u32, name: &str) -> bool {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if comm.trim_end() == name {
        return true;
    }
    let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    if exe.is_some_and(|exe| base(exe.to_string_lossy().trim_end_matches(" (deleted)")) == name) {
        return true;
    }
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = cmdline.split(|byte| *byte == 0).next().unwrap_or_default();
    base(&String::from_utf8_lossy(first)) == name
}

/// Its cgroups, in all hierarchies.
pub(super) fn paths(pid: u32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(str::to_owned).collect()
}

fn in_unit(path: &str, unit: &str) -> bool {
    path.split('/').any(|part| part == unit || part.strip_suffix(".service") == Some(unit))
}

fn is_below(own: &str, path: &str) -> bool {
    // As given, or as a path below a mount point of cgroups.
    let path = path.strip_prefix("/sys/fs/cgroup").unwrap_or(path).trim_matches('/');
    let own = own.trim_matches('/');
    let below = |path: &str| own == path || own.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    // In /sys/fs/cgroup, v1 has a directory for each controller.
    !path.is_empty() && (below(path) || path.split_once('/').is_some_and(|(_, rest)| below(rest)))
}

fn in_container(path: &str, id: &str) -> bool {
    let container = membership(path).container;
    container.is_some_and(|container| !id.is_empty() && container.id.starts_with(id))
}

/// Who listens on a port: in our network namespace, or else in any other.
fn listeners(look: &Look, port: u16) -> BTreeSet<u32> {
    let of = |pid: u32| -> BTreeSet<u32> {
        let sockets = look.tcp(pid);
        let listening =
            sockets.iter().flat_map(|all| all.iter()).filter(|socket| socket.listens && socket.local.port() == port);
        listening.flat_map(|socket| look.ends().of_socket(socket.inode)).map(|holder| holder.pid).collect()
    };
    let here = of(std::process::id());
    if !here.is_empty() {
        return here;
    }
    let mut namespaces = BTreeSet::new();
    let mut found = BTreeSet::new();
    for pid in all() {
        let namespace = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        if namespace.is_some_and(|namespace| namespaces.insert(namespace)) {
            found.extend(of(pid));
        }
    }
    found
}
