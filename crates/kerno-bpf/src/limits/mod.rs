//! How full the limits of the kernel are, for one process: in its namespaces and its cgroup. Reads `/proc`, `/sys` and cgroup files; no program
//! in the kernel.
//!
//! What there is, which calls fail for it, and the words for it are in one table, [`kerno_doctor::knowledge::limits`]. Here is how each is
//! read, one file a theme:
//!
//! - `process`: limits of a process and of its user (`RLIMIT_*`, `vm.max_map_count`).
//! - `pids`: processes and threads, of a cgroup, a user, a pid namespace, the machine; and their zombies.
//! - `watches`: inotify, fanotify, epoll.
//! - `machine`: open files, asynchronous I/O, keys, terminals, committed memory.
//! - `ipc`: System V and POSIX IPC.
//! - `network`: ports, tracked connections, neighbours, memory of sockets, backlogs.
//! - `mounts`: file systems, quotas and mounts.
//! - `namespaces`: numbers of namespaces.
//!
//! Everything here is a question about one moment and may hang, as with all of `/proc` that takes a lock of a process: ask where a deadline is kept. Ids are those of the
//! initial pid namespace.

mod ipc;
mod machine;
mod mounts;
mod namespaces;
mod network;
mod pids;
mod process;
mod processes;
mod status;
mod watches;

use std::io;

use kerno_doctor::knowledge::limits::LIMITS;
use kerno_model::{LimitScope, LimitUse, Resource};

pub(crate) use network::{tracked_by, tracked_max};

use processes::Processes;

/// The most holders that are told of.
const MAX_HOLDERS: usize = 5;

/// The process whose limits are read.
#[derive(Debug)]
pub(crate) struct View {
    /// The process, or whoever stands for it.
    pid: u32,
    /// All processes, read when they are needed first.
    processes: std::cell::OnceCell<Processes>,
    /// It stands for another, which has ended: its namespaces and its cgroup are taken to be the same, what it has itself is not.
    stands_in: bool,
    /// The user of the one that it stands for, if that is known.
    uid: Option<u32>,
    /// The cgroup that it was last seen in, if that is known.
    cgroup: Option<String>,
    /// All limits are wanted, not only those that a call has failed for.
    all: bool,
}

impl View {
    fn new(pid: u32, stands_in: bool, all: bool) -> Self {
        Self { pid, processes: std::cell::OnceCell::new(), stands_in, uid: None, cgroup: None, all }
    }

    /// The real and the effective user.
    fn uids(&self) -> Option<(u32, u32)> {
        match self.uid {
            Some(uid) => Some((uid, uid)),
            None => uids(self.pid),
        }
    }

    fn processes(&self) -> &Processes {
        self.processes.get_or_init(Processes::scan)
    }

    /// A file of this process in `/proc`.
    fn text(&self, file: &str) -> Option<String> {
        let bytes = std::fs::read(format!("/proc/{}/{file}", self.pid)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The real and the effective user of a process.
fn uids(pid: u32) -> Option<(u32, u32)> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status).into_owned();
    let mut ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace();
    Some((ids.next()?.parse().ok()?, ids.next()?.parse().ok()?))
}

/// A number in a file that has nothing else.
fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The limits behind a failure.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    /// The fullest first.
    pub(crate) limits: Vec<LimitUse>,
    /// The process had ended: what it had itself is not known.
    pub(crate) ended: bool,
}

/// What is known of a process that may have ended by now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Who had started it.
    pub(crate) parent: Option<u32>,
    pub(crate) uid: Option<u32>,
    /// The cgroup that it was last seen in.
    pub(crate) cgroup: Option<String>,
}

/// The limits that are wanted, as they are for a process. Of one that has ended, those of the parent that it had, which mostly is in the same
/// namespaces; of its cgroup and its user where these are known; and those of the machine.
pub(crate) fn read(pid: u32, known: Known, wanted: &[Resource]) -> Answer {
    let lives = |pid: u32| crate::waits::state::stat(pid, pid).is_ok_and(|stat| stat.state != 'Z');
    if lives(pid) {
        let limits = look(&View::new(pid, false, false), wanted);
        if lives(pid) {
            return Answer { limits, ended: false };
        }
    }
    // The first process takes all orphans, so it says nothing about where they were.
    let parent = known.parent.filter(|parent| *parent > 1 && lives(*parent));
    let (uid, cgroup) = (known.uid, known.cgroup);
    let (has_user, has_cgroup) = (uid.is_some(), cgroup.is_some());
    let view = View { uid, cgroup, ..View::new(parent.unwrap_or(1), true, false) };
    let mut limits = look(&view, wanted);
    if parent.is_none() {
        limits.retain(|limit| match limit.scope {
            LimitScope::Machine => true,
            LimitScope::User => has_user,
            LimitScope::Cgroup => has_cgroup,
            _ => false,
        });
    }
    Answer { limits, ended: true }
}

fn look(view: &View, wanted: &[Resource]) -> Vec<LimitUse> {
    let wants = |resources: &[Resource]| resources.iter().any(|resource| wanted.contains(resource));
    let mut found = Vec::new();
    process::read(view, &wants, &mut found);
    pids::read(view, &wants, &mut found);
    watches::read(view, &wants, &mut found);
    machine::read(view, &wants, &mut found);
    ipc::read(view, &wants, &mut found);
    network::read(view, &wants, &mut found);
    mounts::read(view, &wants, &mut found);
    namespaces::read(view, &wants, &mut found);
    if view.stands_in {
        found.retain(|limit| limit.scope != LimitScope::Process);
    }
    found.sort_by(|a, b| b.share().total_cmp(&a.share()).then_with(|| a.resource.cmp(&b.resource)));
    found
}

/// All limits that can be read, as they are for a process, the fullest first. Where none is named: those of the machine, of this process's user and
/// namespaces, and of each cgroup that may have so many processes.
///
/// Takes a look at all processes, which may take a second on a large machine, and may hang where a process or a file system does.
///
/// # Errors
/// If there is no such process.
pub fn survey(pid: Option<u32>) -> io::Result<Vec<LimitUse>> {
    let all: Vec<Resource> = LIMITS.iter().map(|entry| entry.resource).collect();
    let Some(pid) = pid else {
        let view = View::new(std::process::id(), false, true);
        let mut found = look(&view, &all);
        // Nobody asks for what this very process may have; those of other cgroups are of interest, too.
        found.retain(|limit| !matches!(limit.scope, LimitScope::Process) && limit.resource != Resource::Pids);
        pids::of_every_cgroup(&view, &mut found);
        return Ok(found);
    };
    std::fs::metadata(format!("/proc/{pid}"))?;
    Ok(look(&View::new(pid, false, true), &all))
}
