//! The things on a machine that findings, incidents and fixes are about. Each has an identity that stays the same from window to window.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::Container;

/// The identity of a process. Boot and start time distinguish it from later processes with the same id.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ProcessId {
    /// The boot (`/proc/sys/kernel/random/boot_id`); empty if it is not known.
    pub boot: String,
    /// Its id in the initial pid namespace.
    pub pid: u32,
    /// When it started, by `CLOCK_MONOTONIC` of the initial time namespace, in nanoseconds; 0 if it is not known.
    pub start_ns: u64,
}

/// A process that a finding names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct NamedProcess {
    /// Its identity.
    pub id: ProcessId,
    /// Its name, lossy; may contain control characters. Empty if it is not known.
    pub comm: String,
    /// Its command line, if it may be shown.
    pub cmdline: Option<String>,
    /// The user that it runs as.
    pub user: Option<String>,
    /// Whether it had ended by the end of the window.
    pub ended: bool,
}

impl fmt::Display for NamedProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.comm.as_str(), self.id.pid) {
            ("", pid) => write!(f, "process {pid}"),
            (comm, 0) => f.write_str(comm),
            (comm, pid) => write!(f, "{comm} ({pid})"),
        }
    }
}

/// One end of connections: an address and usually a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Address {
    /// The address. An IPv4 address mapped to IPv6 is stored as IPv4.
    pub ip: IpAddr,
    /// The port; `None` stands for all ports.
    #[serde(default)]
    pub port: Option<u16>,
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip().to_canonical(), port: Some(address.port()) }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        Self { ip: ip.to_canonical(), port: None }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// A block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Device {
    /// Its `major:minor`; empty if it is not known.
    pub dev: String,
    /// Its name, such as `nvme0n1`; `major:minor` if it has none.
    pub name: String,
}

/// What a command acts on. A command whose target is gone is withdrawn.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Entity {
    /// The machine as a whole.
    Machine,
    /// A process.
    Process(ProcessId),
    /// A thread of a process.
    Thread {
        /// The process.
        process: ProcessId,
        /// The thread's id.
        tid: u32,
    },
    /// A cgroup, by path.
    Cgroup(String),
    /// A container, by runtime and id or name.
    Container {
        /// Its runtime.
        runtime: String,
        /// Its id or name.
        id: String,
    },
    /// A systemd unit, by name.
    Unit(String),
    /// A block device.
    Device(Device),
    /// A file system, by mount point.
    Mount(String),
    /// A network interface, by name.
    Interface(String),
    /// One end of connections.
    Address(Address),
    /// A file, by path.
    File(String),
    /// A lock, by what is known about it, such as an inode or an address.
    Lock(String),
    /// A limit, by name, such as `RLIMIT_NOFILE` or `fs.file-max`.
    Limit(String),
}

/// Who or what a finding is about: the culprit or a victim. Only the fields that apply are set. Several together narrow it down, such as a
/// process on a device, or a listener at an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct Subject {
    /// A process.
    pub process: Option<NamedProcess>,
    /// The path of a cgroup.
    pub cgroup: Option<String>,
    /// A container.
    pub container: Option<Container>,
    /// A systemd unit.
    pub unit: Option<String>,
    /// A block device.
    pub device: Option<Device>,
    /// A mount point.
    pub mount: Option<String>,
    /// A network interface, by name.
    pub interface: Option<String>,
    /// The remote end of connections.
    pub remote: Option<Address>,
    /// The local end of connections, or where a process listens.
    pub local: Option<Address>,
}

impl Subject {
    /// A cgroup.
    pub fn cgroup(path: &str) -> Self {
        Self { cgroup: Some(path.to_owned()), ..Self::default() }
    }

    /// A file system.
    pub fn mount(mount: &str) -> Self {
        Self { mount: Some(mount.to_owned()), ..Self::default() }
    }

    /// The remote end of connections.
    pub fn remote(address: impl Into<Address>) -> Self {
        Self { remote: Some(address.into()), ..Self::default() }
    }

    /// The id of the process, if there is one.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.id.pid)
    }

    /// The name of the process, if there is one and its name is known.
    pub fn comm(&self) -> Option<&str> {
        self.process.as_ref().map(|process| process.comm.as_str()).filter(|comm| !comm.is_empty())
    }

    /// The name of the device, if there is one.
    pub fn device_name(&self) -> Option<&str> {
        self.device.as_ref().map(|device| device.name.as_str())
    }

    /// Only the place: the device, the mount point, the interface and the addresses.
    #[must_use]
    pub fn place(&self) -> Self {
        Self {
            device: self.device.clone(),
            mount: self.mount.clone(),
            interface: self.interface.clone(),
            remote: self.remote,
            local: self.local,
            ..Self::default()
        }
    }

    /// Whether no field is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A short name: the process, such as `dd (4711)`, or else a place. Not escaped. `None` if it has neither.
    pub fn label(&self) -> Option<String> {
        let place = [
            self.device.as_ref().map(|device| device.name.clone()),
            self.mount.clone(),
            self.interface.clone(),
            self.local.map(|address| address.to_string()),
            self.cgroup.clone(),
            self.remote.map(|address| address.to_string()),
        ];
        self.process.as_ref().map(ToString::to_string).or_else(|| place.into_iter().flatten().next())
    }

    /// The parts of it that stay the same from window to window, and when a service restarts: the container or unit if there is one, or
    /// else the process; and the places.
    pub fn stable(&self) -> Vec<Entity> {
        let mut stable = Vec::new();
        match (&self.process, &self.container, &self.unit) {
            (Some(_), Some(container), _) => {
                stable.push(Entity::Container { runtime: container.runtime.clone(), id: container.id.clone() });
            }
            // Scopes do not count: they hold logins or containers, live as short as a process, and contain many programs.
            (Some(_), None, Some(unit)) if unit.ends_with(".service") => stable.push(Entity::Unit(unit.clone())),
            (Some(process), ..) => stable.push(Entity::Process(process.id.clone())),
            (None, ..) => stable.extend(self.cgroup.clone().map(Entity::Cgroup)),
        }
        stable.extend(self.device.clone().map(Entity::Device));
        stable.extend(self.mount.clone().map(Entity::Mount));
        stable.extend(self.interface.clone().map(Entity::Interface));
        stable.extend(self.remote.map(Entity::Address));
        stable.extend(self.local.map(Entity::Address));
        stable
    }
}
