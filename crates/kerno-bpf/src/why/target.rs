//! What is asked about, and which processes that is.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;

use crate::LoadError;
use crate::engine::membership;
use crate::names::Names;
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
    /// A container by its id or the begin of it, its name, or its pod, as `POD` or `NAMESPACE/POD`, with or without `/CONTAINER`.
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
            Self::Container(id) => format!("no process is in a container that has the id or the name {id}"),
            Self::Port(port) => format!("no process listens on TCP port {port}"),
        }
    }

    /// The cgroups of the v2 hierarchy that it is in now, by their paths in it: that of a unit or a container as a whole, and those of single
    /// processes otherwise. Whoever starts in one of them later is in it as well. For [`Filter::cgroups`](crate::Filter::cgroups).
    ///
    /// # Errors
    /// When there is no such process, or none is in a cgroup of that hierarchy: on a machine that uses v1 alone.
    pub fn cgroups(&self) -> Result<Vec<PathBuf>, LoadError> {
        let pids = self.pids(&Look::now());
        if pids.is_empty() {
            return Err(LoadError::Filter(self.none()));
        }
        let own = |pid: u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let path =
                text.lines().find_map(|line| line.strip_prefix("0::"))?.trim_end_matches(" (deleted)").to_owned();
            (path.len() > 1).then(|| self.whole(&path))
        };
        let cgroups: BTreeSet<PathBuf> = pids.into_iter().filter_map(own).map(PathBuf::from).collect();
        if cgroups.is_empty() {
            let reason =
                format!("{self}: its processes are in no cgroup of the v2 hierarchy, by which events are filtered");
            return Err(LoadError::Filter(reason));
        }
        Ok(cgroups.into_iter().collect())
    }

    /// The part of a path that ends with the unit's or container's own cgroup.
    fn whole(&self, path: &str) -> String {
        let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]).collect();
        let mut prefixes = ends.into_iter().filter_map(|end| path.get(..end));
        let found = match self {
            Self::Unit(unit) => prefixes.find(|prefix| in_unit(prefix, unit)),
            Self::Container(_) => {
                let container = membership(path).container;
                prefixes.find(|prefix| container.is_some() && membership(prefix).container == container)
            }
            _ => None,
        };
        found.unwrap_or(path).to_owned()
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
            Self::Container(words) => {
                let mut known = HashMap::new();
                all().filter(|pid| paths(*pid).iter().any(|path| in_container(path, words, &mut known))).collect()
            }
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

/// What is known of containers by their ids spares to look each up for each of its processes.
fn in_container(path: &str, words: &str, known: &mut HashMap<String, bool>) -> bool {
    let Some(mut container) = membership(path).container else { return false };
    *known.entry(container.id.clone()).or_insert_with(|| {
        if let Some(names) = Names::look_up(&container.runtime, &container.id) {
            names.give(&mut container);
        }
        container.is_called(words)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_of_a_unit_or_container_is_taken_as_a_whole() {
        let id = "4a5d8f0c1b2e3d4c5b6a79880706f5e4d3c2b1a0f9e8d7c6b5a4938271605f4e";
        let unit = Target::Unit("nginx".into());
        assert_eq!(unit.whole("/system.slice/nginx.service/worker/1"), "/system.slice/nginx.service");
        assert_eq!(unit.whole("/system.slice/other.service"), "/system.slice/other.service");
        let container = Target::Container("web".into());
        let path = format!("/docker/{id}");
        assert_eq!(container.whole(&format!("{path}/init.scope/deep")), path);
        let pod = format!("/kubepods.slice/kubepods-burstable.slice/cri-containerd-{id}.scope");
        assert_eq!(container.whole(&pod), pod);
        assert_eq!(container.whole("/user.slice"), "/user.slice");
    }

    #[test]
    fn what_is_not_there_is_said_so() {
        for target in [Target::Unit("no-such-unit".into()), Target::Container("no-such-container".into())] {
            let error = target.cgroups().unwrap_err().to_string();
            assert!(error.contains("no-such-"), "{error}");
        }
    }
}
