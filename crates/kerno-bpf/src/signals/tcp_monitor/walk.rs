//! Looking at every socket, in every network namespace that is in use.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use zerocopy::FromBytes as _;

use super::wire::{OwnerRow, Row};
use crate::engine::{FastMap, Tasks, cpu_clock, is_gone};
use crate::probe::SummaryPrograms;
use crate::probe::faults::{self, read_text};

/// The most sockets that are kept of one look at all namespaces: 6 MB.
const MAX_ROWS: usize = 65_536;
/// The most namespaces that are looked into.
const MAX_NAMESPACES: usize = 64;
/// The kernel goes through its table of all sockets once for each namespace, so many namespaces take long: what is not reached by then
/// is left out.
const PATIENCE: Duration = Duration::from_millis(400);

/// A network namespace and a process in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Namespace {
    pub(super) inode: u32,
    /// 0 for our own namespace.
    pub(super) pid: u32,
}

impl Namespace {
    /// A file of its `/proc/net`.
    pub(super) fn read(self, file: &str) -> io::Result<String> {
        let of = if self.pid == 0 { "thread-self".to_owned() } else { self.pid.to_string() };
        read_text(Path::new(&format!("/proc/{of}/net/{file}")))
    }

    /// Whether it has TCP sockets at all, which most small ones have not.
    fn has_sockets(self) -> io::Result<bool> {
        let in_use = |file: &str, name: &str| -> io::Result<bool> {
            // Not there without IPv6, or when its process has gone.
            let text = match self.read(file) {
                Err(error) if is_gone(&error) => String::new(),
                text => text?,
            };
            let mut words = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().split_whitespace();
            Ok(words.nth(2).and_then(|count| count.parse::<u64>().ok()).unwrap_or(0) > 0)
        };
        Ok(in_use("sockstat", "TCP:")? || in_use("sockstat6", "TCP6:")?)
    }
}

/// Inode number of our own network namespace; 0 when it cannot be told.
fn own_inode() -> u32 {
    std::fs::metadata("/proc/self/ns/net").ok().and_then(|file| u32::try_from(file.st_ino()).ok()).unwrap_or(0)
}

/// Inode number of the machine's own network namespace, which kernel threads never leave; 0 when it cannot be told.
pub(super) fn initial_inode(tasks: &Tasks) -> u32 {
    let mut rows = tasks.rows().iter();
    rows.find(|row| row.is_kernel_thread() && row.net_namespace != 0).map_or(0, |row| row.net_namespace)
}

/// The namespaces in use, our own and the machine's first; the number of those beyond the limit.
pub(super) fn namespaces(tasks: &Tasks) -> (Vec<Namespace>, usize) {
    let (own, initial, in_use) = (own_inode(), initial_inode(tasks), tasks.net_namespaces());
    let mut all: Vec<_> = in_use.iter().map(|(inode, pid)| Namespace { inode: *inode, pid: *pid }).collect();
    all.retain(|namespace| namespace.inode != own);
    all.sort_unstable_by_key(|namespace| (namespace.inode != initial, namespace.inode));
    all.insert(0, Namespace { inode: own, pid: 0 });
    let beyond = all.len().saturating_sub(MAX_NAMESPACES);
    all.truncate(MAX_NAMESPACES);
    (all, beyond)
}

/// Which sockets to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    All,
    /// Those that listen, which takes a small part of the time where there are any others.
    Listening,
}

/// What a look at the sockets gave.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) rows: Vec<Row>,
    /// Sockets that found no room.
    pub(super) beyond: u64,
    /// Namespaces that could not be looked into, by their inode number, and why (the first).
    pub(super) unread: Vec<u32>,
    pub(super) why: Option<String>,
}

/// Looks at the sockets of these namespaces. From a thread of its own, because it has to move into them.
pub(super) fn sockets(programs: &mut SummaryPrograms, which: Which, namespaces: &[Namespace]) -> Sockets {
    let walk = || {
        let mut found = Sockets::default();
        let mut buffer = Vec::new();
        let begun = Instant::now();
        for namespace in namespaces {
            let result = if begun.elapsed() > PATIENCE {
                Err(io::Error::other("it takes too long"))
            } else {
                walk_one(programs, which, *namespace, &mut buffer)
            };
            match result {
                Ok(beyond) => found.beyond += beyond / size_of::<Row>() as u64,
                Err(error) => {
                    found.unread.push(namespace.inode);
                    let needs = if error.kind() == io::ErrorKind::PermissionDenied { ": it takes root" } else { "" };
                    found.why.get_or_insert_with(|| format!("{error}{needs}"));
                }
            }
        }
        found.rows.reserve_exact(buffer.len() / size_of::<Row>());
        found.rows.extend(buffer.chunks_exact(size_of::<Row>()).filter_map(|row| Row::read_from_bytes(row).ok()));
        (found, cpu_clock::thread_ns())
    };
    let result = std::thread::scope(|scope| {
        faults::pass("sockets")?;
        let thread = std::thread::Builder::new().name("kerno sockets".into()).spawn_scoped(scope, walk)?;
        let (found, spent_ns) = thread.join().map_err(|_| io::Error::other("its thread failed"))?;
        cpu_clock::charge(spent_ns);
        Ok(found)
    });
    result.unwrap_or_else(|error: io::Error| Sockets {
        unread: namespaces.iter().map(|namespace| namespace.inode).collect(),
        why: Some(error.to_string()),
        ..Sockets::default()
    })
}

fn walk_one(
    programs: &mut SummaryPrograms,
    which: Which,
    namespace: Namespace,
    buffer: &mut Vec<u8>,
) -> io::Result<u64> {
    if !namespace.has_sockets()? {
        return Ok(0);
    }
    if namespace.pid != 0 {
        let file = match File::open(format!("/proc/{}/ns/net", namespace.pid)) {
            // The process has gone since the tasks were read; most likely the namespace too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            result => result?,
        };
        if file.metadata()?.st_ino() != u64::from(namespace.inode) {
            return Ok(0);
        }
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    let room = (MAX_ROWS * size_of::<Row>()).saturating_sub(buffer.len());
    match which {
        Which::All => programs.iterate_into("on_tcp", buffer, room, false),
        Which::Listening => programs.iterate_into("on_tcp_listener", buffer, room, true),
    }
}

/// Whose each socket is: of several processes that have it open, the oldest.
pub(super) fn owners(programs: &mut SummaryPrograms) -> io::Result<FastMap<u64, OwnerRow>> {
    let mut buffer = Vec::new();
    programs.iterate_into("on_task_file", &mut buffer, 4 * MAX_ROWS * size_of::<OwnerRow>(), false)?;
    let mut owners: FastMap<u64, OwnerRow> = FastMap::default();
    owners.reserve(buffer.len() / size_of::<OwnerRow>());
    let rows = buffer.chunks_exact(size_of::<OwnerRow>()).filter_map(|row| OwnerRow::read_from_bytes(row).ok());
    for row in rows {
        let owner = owners.entry(row.sock).or_insert(row);
        if (row.started_ns, row.pid) < (owner.started_ns, owner.pid) {
            *owner = row;
        }
    }
    Ok(owners)
}
