//! Looking at every socket, in every network namespace that is in use.

use std::collections::HashSet;
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
use crate::probe::faults::{self, read_text};
use crate::probe::{Iteration, Stop, SummaryPrograms};

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

/// The sockets of all namespaces, looked at in parts.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Of the latest part, to be taken away.
    pub(super) rows: Vec<Row>,
    /// How many there were in all parts.
    pub(super) count: usize,
    /// Sockets that found no room.
    pub(super) beyond: u64,
    /// Namespaces that could not be looked into, by their inode number, and why (the first).
    pub(super) unread: Vec<u32>,
    pub(super) why: Option<String>,
    /// Namespaces that have been looked into, or could not be.
    seen: HashSet<u32>,
    /// It rests within this namespace.
    open: Option<(Namespace, Iteration)>,
    took: Duration,
}

/// How far a walk goes until it rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// So many sockets, a few more or less.
    Rows(u32),
    Rest,
}

impl Walk {
    /// Goes on: through the namespace where it rests, and then through those of these in which it was not yet.
    pub(super) fn go_on(&mut self, programs: &mut SummaryPrograms, namespaces: &[Namespace], part: Part) {
        if let Err(error) = in_thread(|| self.walk(programs, namespaces, part)) {
            self.open = None;
            self.unread = namespaces.iter().map(|namespace| namespace.inode).collect();
            self.seen.extend(&self.unread);
            self.why.get_or_insert_with(|| error.to_string());
        }
    }

    fn walk(&mut self, programs: &mut SummaryPrograms, namespaces: &[Namespace], part: Part) -> io::Result<()> {
        let end = match part {
            Part::Rows(rows) => self.count.saturating_add(rows as usize),
            Part::Rest => usize::MAX,
        };
        let begun = Instant::now();
        let mut buffer = Vec::new();
        let mut next = namespaces.iter();
        while self.count < end {
            let (namespace, opened) = match self.open.take() {
                Some((namespace, iteration)) => (namespace, Ok(Some(iteration))),
                None => match next.find(|namespace| !self.seen.contains(&namespace.inode)) {
                    None => break,
                    Some(namespace) => (*namespace, begin(programs, Which::All, *namespace)),
                },
            };
            self.seen.insert(namespace.inode);
            let late = (self.took + begun.elapsed() > PATIENCE).then(|| io::Error::other("it takes too long"));
            let result = late.map_or(opened, Err).and_then(|iteration| {
                let Some(mut iteration) = iteration else { return Ok(None) };
                let left = end.saturating_sub(self.count);
                programs.tell("walk_left", u32::try_from(left).unwrap_or(u32::MAX))?;
                let room = MAX_ROWS.saturating_sub(self.count) * size_of::<Row>();
                let (stop, beyond) = iteration.read(&mut buffer, room)?;
                self.beyond += beyond / size_of::<Row>() as u64;
                Ok((stop == Stop::Rest).then_some(iteration))
            });
            self.count += buffer.len() / size_of::<Row>();
            self.rows.reserve(buffer.len() / size_of::<Row>());
            self.rows.extend(buffer.chunks_exact(size_of::<Row>()).filter_map(|row| Row::read_from_bytes(row).ok()));
            buffer.clear();
            match result {
                Ok(rests) => self.open = rests.map(|iteration| (namespace, iteration)),
                Err(error) => {
                    self.unread.push(namespace.inode);
                    let needs = if error.kind() == io::ErrorKind::PermissionDenied { ": it takes root" } else { "" };
                    self.why.get_or_insert_with(|| format!("{error}{needs}"));
                }
            }
        }
        self.took += begun.elapsed();
        Ok(())
    }
}

/// The listening sockets of these namespaces, which takes a small part of the time where there are any others.
pub(super) fn listening(programs: &mut SummaryPrograms, namespaces: &[Namespace]) -> Vec<Row> {
    let walk = || {
        let mut buffer = Vec::new();
        let begun = Instant::now();
        for namespace in namespaces {
            if begun.elapsed() > PATIENCE {
                break;
            }
            if let Ok(Some(mut iteration)) = begin(programs, Which::Listening, *namespace) {
                let _ = iteration.read(&mut buffer, MAX_ROWS * size_of::<Row>());
            }
        }
        Ok(buffer)
    };
    let found = in_thread(walk).unwrap_or_default();
    found.chunks_exact(size_of::<Row>()).filter_map(|row| Row::read_from_bytes(row).ok()).collect()
}

/// Runs this in a thread of its own, because it has to move into namespaces.
fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        faults::pass("sockets")?;
        let work = || (work(), cpu_clock::thread_ns());
        let thread = std::thread::Builder::new().name("kerno sockets".into()).spawn_scoped(scope, work)?;
        let (result, spent_ns) = thread.join().map_err(|_| io::Error::other("its thread failed"))?;
        cpu_clock::charge(spent_ns);
        result
    })
}

/// Which sockets to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    All,
    Listening,
}

/// Moves into a namespace and begins to look at its sockets. `None`: it has none.
fn begin(programs: &mut SummaryPrograms, which: Which, namespace: Namespace) -> io::Result<Option<Iteration>> {
    if !namespace.has_sockets()? {
        return Ok(None);
    }
    if namespace.pid != 0 {
        let file = match File::open(format!("/proc/{}/ns/net", namespace.pid)) {
            // The process has gone since the tasks were read; most likely the namespace too.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        if file.metadata()?.st_ino() != u64::from(namespace.inode) {
            return Ok(None);
        }
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    let name = match which {
        Which::All => "on_tcp",
        Which::Listening => "on_tcp_listener",
    };
    programs.begin_iterator(name).map(Some)
}

/// Whose each socket is: of several processes that have it open, the oldest.
pub(super) fn owners(programs: &mut SummaryPrograms) -> io::Result<FastMap<u64, OwnerRow>> {
    let mut buffer = Vec::new();
    let mut iteration = programs.begin_iterator("on_task_file")?;
    let room = 4 * MAX_ROWS * size_of::<OwnerRow>();
    loop {
        let left = room.saturating_sub(buffer.len());
        if iteration.read(&mut buffer, left)?.0 == Stop::End {
            break;
        }
    }
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
