//! What the numbers that the programs keep stand for: paths, addresses, the processes at the other end.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kerno_doctor::why::observed::{Family, Object};
use kerno_model::WhyProcess;

use super::programs::flags::{AWAITS, LOCKED};
use super::programs::{Kept, Sleep, SocketRow};
use crate::waits::chain::Look;
use crate::waits::ends::{self, Holder};
use crate::waits::{asleep, net, places, state};

/// The most processes that an object names.
const MAX_PROCESSES: usize = 16;

/// `SLEEP_*` in why.h.
pub(super) const FILE: u8 = 1;
const PIPE: u8 = 2;
pub(super) const SOCKET: u8 = 3;
const DEVICE: u8 = 4;
pub(super) const FUTEX: u8 = 5;
pub(super) const POLL: u8 = 6;
const TIMER: u8 = 7;
const CHILD: u8 = 8;
const SIGNAL: u8 = 9;
const LOCK: u8 = 10;
const PATH: u8 = 11;

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_STREAM: u16 = 1;
/// `ROLE_CLIENT`, `ROLE_SERVER`
const CLIENT: u8 = 1;
const SERVER: u8 = 2;
/// Connected, of a Unix socket as of a TCP one.
const ESTABLISHED: u8 = 1;
/// The most silent connections of a process that are looked at.
const MAX_SILENT: usize = 16;

/// A mount of a process's mount namespace.
#[derive(Clone, Debug)]
struct Mount {
    device: (u32, u32),
    point: String,
    filesystem: String,
    source: String,
}

/// Remembers what was found out: sockets and pipes may be gone by the end.
#[derive(Debug, Default)]
pub(super) struct Objects {
    known: HashMap<Key, Object>,
    mounts: HashMap<u32, Vec<Mount>>,
    names: BTreeMap<u32, String>,
}

/// Which object of which process, and in which state.
type Key = (u32, u8, u64, u32, i32, u16);

fn key(pid: u32, sleep: &Sleep) -> Key {
    (pid, sleep.kind, sleep.object, sleep.device, sleep.fd, sleep.flags & (AWAITS | LOCKED))
}

impl Objects {
    pub(super) fn named(&mut self, pid: u32) -> WhyProcess {
        let comm = self.names.entry(pid).or_insert_with(|| state::name(pid).unwrap_or_default()).clone();
        WhyProcess { pid, comm }
    }

    /// Connections to Unix sockets on which nothing has moved since it is watched: an answer may be outstanding, or nothing.
    pub(super) fn silent(&mut self, pid: u32, kept: &Kept, look: &Look) -> Vec<Object> {
        let is_silent = |row: &SocketRow| {
            let moved = row.sent + row.received > 0;
            row.pid == pid && row.family == AF_UNIX && row.role == CLIENT && row.state == ESTABLISHED && !moved
        };
        let mut inodes: Vec<_> =
            kept.sockets.iter().filter(|(_, row)| is_silent(row)).map(|(inode, _)| *inode).collect();
        inodes.sort_unstable();
        inodes.truncate(MAX_SILENT);
        let sleeps = inodes.into_iter().map(|object| Sleep { kind: SOCKET, object, ..Sleep::default() });
        sleeps.map(|sleep| self.of(pid, &sleep, kept, look)).collect()
    }

    /// What a process is called that may be gone.
    pub(super) fn known_as(&mut self, pid: u32, comm: &str) {
        let known = self.names.entry(pid).or_default();
        if known.is_empty() {
            comm.clone_into(known);
        }
    }

    pub(super) fn names(&self) -> &BTreeMap<u32, String> {
        &self.names
    }

    /// What a sleep of this process is about. Looks only at what is not known, or had nobody at its other end.
    pub(super) fn of(&mut self, pid: u32, sleep: &Sleep, kept: &Kept, look: &Look) -> Object {
        let key = key(pid, sleep);
        if let Some(known) = self.known.get(&key).filter(|known| is_whole(known)) {
            return known.clone();
        }
        let found = self.look(pid, sleep, kept, look);
        let before = self.known.get(&key);
        // What was there once tells more than what is gone now.
        if before.is_some_and(|before| !is_whole(&found) && has_somebody(before)) {
            return before.cloned().unwrap_or(found);
        }
        self.known.insert(key, found.clone());
        found
    }

    fn look(&mut self, pid: u32, sleep: &Sleep, kept: &Kept, look: &Look) -> Object {
        match sleep.kind {
            FILE => self.file(pid, sleep, look),
            PATH => self.path(pid, sleep, kept, look),
            PIPE => self.pipe(pid, sleep, look),
            SOCKET => self.socket(pid, sleep.object, kept, look),
            DEVICE => self.device(pid, sleep),
            FUTEX if sleep.flags & AWAITS != 0 => {
                Object::Poll(Some(Box::new(self.socket(pid, sleep.object, kept, look))))
            }
            FUTEX => Object::Futex { address: sleep.object, locked: sleep.flags & LOCKED != 0 },
            POLL if sleep.flags & AWAITS != 0 => {
                Object::Poll(Some(Box::new(self.socket(pid, sleep.object, kept, look))))
            }
            POLL => Object::Poll(None),
            TIMER => Object::Timer,
            CHILD => {
                let children = state::children(pid);
                Object::Child {
                    children: children.into_iter().take(MAX_PROCESSES).map(|pid| self.named(pid)).collect(),
                }
            }
            SIGNAL => Object::Signal,
            LOCK => Object::Lock,
            _ => Object::Unknown,
        }
    }

    fn mount(&mut self, pid: u32, is_it: impl Fn(&Mount) -> bool) -> Option<Mount> {
        let mounts = self.mounts.entry(pid).or_insert_with(|| mounts(pid));
        // The longest: what is mounted below hides what is above.
        mounts.iter().filter(|mount| is_it(mount)).max_by_key(|mount| mount.point.len()).cloned()
    }

    fn file(&mut self, pid: u32, sleep: &Sleep, look: &Look) -> Object {
        let device = (sleep.device >> 20, sleep.device & 0xf_ffff);
        let path = match u32::try_from(sleep.fd).ok().and_then(|fd| asleep::target(pid, fd)) {
            Some(asleep::Target::File { path, inode, .. }) if inode == sleep.object => path,
            _ => format!("inode {}", sleep.object),
        };
        let mount = self.mount(pid, |mount| mount.device == device);
        self.on_mount(path, device, mount, look)
    }

    fn path(&mut self, pid: u32, sleep: &Sleep, kept: &Kept, look: &Look) -> Object {
        let text = kept.paths.get(&sleep.object);
        let path = text.map(|text| text_of(text)).unwrap_or_default();
        let below = |mount: &Mount| {
            let point = mount.point.trim_end_matches('/');
            path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mount = self.mount(pid, |mount| below(mount));
        let device = mount.as_ref().map_or((0, 0), |mount| mount.device);
        self.on_mount(path, device, mount, look)
    }

    fn on_mount(&mut self, path: String, device: (u32, u32), mount: Option<Mount>, look: &Look) -> Object {
        let filesystem = mount.as_ref().map(|mount| mount.filesystem.clone()).unwrap_or_default();
        let is_fuse = filesystem.starts_with("fuse");
        let server = is_fuse.then(|| places::fuse_server(look.ends(), device.1)).flatten();
        let servers = server.into_iter().map(|pid| self.named(pid)).collect();
        let source = mount.as_ref().and_then(|mount| mount.source.strip_prefix("/dev/"));
        Object::File {
            path,
            device: block_device(device).or_else(|| source.map(str::to_owned)).unwrap_or_default(),
            filesystem,
            mount: mount.map(|mount| mount.point).unwrap_or_default(),
            servers,
            lock_holders: Vec::new(),
        }
    }

    fn processes(&mut self, holders: &[Holder], not: u32) -> Vec<WhyProcess> {
        let mut pids: Vec<_> = holders.iter().map(|holder| holder.pid).filter(|pid| *pid != not).collect();
        pids.sort_unstable();
        pids.dedup();
        pids.into_iter().take(MAX_PROCESSES).map(|pid| self.named(pid)).collect()
    }

    fn pipe(&mut self, pid: u32, sleep: &Sleep, look: &Look) -> Object {
        let target = u32::try_from(sleep.fd).ok().and_then(|fd| asleep::target(pid, fd));
        let (name, holders) = match target {
            Some(asleep::Target::Fifo { path, inode }) => (path.clone(), look.ends().of_file(&path, inode)),
            _ => (format!("pipe:[{}]", sleep.object), look.ends().of_pipe(sleep.object).to_vec()),
        };
        let own = u32::try_from(sleep.fd).ok().and_then(|fd| ends::access(Holder { pid, fd }));
        let other_end = |holder: &&Holder| match (own, ends::access(**holder)) {
            // Whoever can both read and write has both ends.
            (Some(own), Some(there)) => (own.writes && there.reads) || (own.reads && there.writes),
            _ => true,
        };
        let others: Vec<_> = holders.iter().filter(other_end).copied().collect();
        Object::Pipe { name, others: self.processes(&others, pid) }
    }

    fn device(&mut self, pid: u32, sleep: &Sleep) -> Object {
        let name = match u32::try_from(sleep.fd).ok().and_then(|fd| asleep::target(pid, fd)) {
            Some(asleep::Target::Terminal { path }) => path,
            Some(asleep::Target::Other { link }) => link,
            _ => String::new(),
        };
        Object::Device { name }
    }

    fn socket(&mut self, pid: u32, inode: u64, kept: &Kept, look: &Look) -> Object {
        let Some(row) = kept.sockets.get(&inode) else {
            return Object::Socket { family: Family::Other, address: String::new(), peers: Vec::new() };
        };
        match row.family {
            AF_UNIX => self.unix(pid, row, inode, look),
            AF_INET | AF_INET6 if row.kind == SOCK_STREAM => self.tcp(pid, row, look),
            AF_INET | AF_INET6 => {
                let address = if row.remote_port == 0 { "UDP".into() } else { remote(row).to_string() };
                Object::Socket { family: Family::Udp, address, peers: Vec::new() }
            }
            _ => Object::Socket { family: Family::Other, address: String::new(), peers: Vec::new() },
        }
    }

    fn unix(&mut self, pid: u32, row: &SocketRow, inode: u64, look: &Look) -> Object {
        let path = text_of(&row.path);
        let mut holders = if row.peer_inode == 0 { Vec::new() } else { look.ends().of_socket(row.peer_inode).to_vec() };
        // A server's own socket has the name of its listener, which is not its other end.
        if holders.is_empty()
            && row.role != SERVER
            && let Some(unix) = look.unix(pid)
        {
            // Not accepted yet, or not even in the queue: whoever listens is to act.
            let listener = unix.listener_of(inode).or_else(|| unix.by_name(&path).filter(|socket| socket.listens));
            let peer = unix.by_inode(inode).and_then(|own| unix.by_inode(u64::from(own.peer)));
            if let Some(other) = peer.or(listener) {
                holders = look.ends().of_socket(u64::from(other.inode)).to_vec();
            }
        }
        let address = if path.is_empty() { format!("socket:[{inode}]") } else { path };
        Object::Socket { family: Family::Unix, address, peers: self.processes(&holders, pid) }
    }

    fn tcp(&mut self, pid: u32, row: &SocketRow, look: &Look) -> Object {
        let (local, there) = (local(row), remote(row));
        let mut peers = Vec::new();
        if let Some(all) = look.tcp(pid) {
            let other = all
                .iter()
                .find(|socket| !socket.listens && plain(socket.local) == there && plain(socket.remote) == local);
            let listener = || net::tcp_listener(&all, there);
            let found = other.filter(|socket| socket.inode != 0).or_else(listener);
            let holders = found.map(|socket| look.ends().of_socket(socket.inode).to_vec()).unwrap_or_default();
            peers = self.processes(&holders, pid);
        }
        Object::Socket { family: Family::Tcp, address: there.to_string(), peers }
    }
}

/// Whether nothing more can be found out.
fn is_whole(object: &Object) -> bool {
    match object {
        Object::Pipe { others, .. } => !others.is_empty(),
        Object::Socket { peers, .. } => !peers.is_empty(),
        Object::Poll(Some(socket)) => is_whole(socket),
        Object::Child { .. } => false,
        _ => true,
    }
}

fn has_somebody(object: &Object) -> bool {
    match object {
        Object::Pipe { others: list, .. } | Object::Socket { peers: list, .. } | Object::Child { children: list } => {
            !list.is_empty()
        }
        Object::Poll(Some(socket)) => has_somebody(socket),
        _ => false,
    }
}

fn mounts(pid: u32) -> Vec<Mount> {
    let read = procfs::process::Process::new(pid.cast_signed()).and_then(|process| process.mountinfo());
    let mounts = read.map(|all| all.0).unwrap_or_default();
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
    mounts
        .into_iter()
        .map(|mount| {
            let mut parts = mount.majmin.split(':');
            Mount {
                device: (number(parts.next()), number(parts.next())),
                point: mount.mount_point.to_string_lossy().into_owned(),
                filesystem: mount.fs_type,
                source: mount.mount_source.unwrap_or_default(),
            }
        })
        .collect()
}

/// The name of a block device; of a partition, the disk's.
pub(super) fn block_device((major, minor): (u32, u32)) -> Option<String> {
    if major == 0 {
        return None;
    }
    let link = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let name = |path: &std::path::Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    if link.join("partition").exists() { link.parent().and_then(name) } else { name(&link) }
}

/// Up to the first NUL.
fn text_of(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn address(bytes: [u8; 16], family: u16) -> IpAddr {
    if family == AF_INET {
        let [a, b, c, d, ..] = bytes;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
    }
}

fn local(row: &SocketRow) -> SocketAddr {
    SocketAddr::new(address(row.local, row.family), row.local_port)
}

fn remote(row: &SocketRow) -> SocketAddr {
    SocketAddr::new(address(row.remote, row.family), row.remote_port)
}

/// A v6 socket that talks IPv4 has mapped addresses.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
