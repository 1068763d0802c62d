//! Calls that fail with an error that a limit gives: at once looks how full the limits are, since whoever fails may give up.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use kerno_doctor::knowledge::limits;
use kerno_model::{LimitFailure, LimitUse, Resource, TcpFailureReason, Window, errno, fill};

use crate::limits::{Answer, Known, read, tracked_by, tracked_max};

use super::identities::Identities;
use super::resolver::{Question, Resolver};
use super::tasks::Tasks;

/// The most failures that a window has.
const MAX_FAILURES: usize = 16;
/// The most of programs of one name that fail alike.
const MAX_ALIKE: usize = 4;
/// The most of them that one sample looks at.
const MAX_LOOKS: usize = 4;
/// How often the limits of one failure that goes on are read again.
const AGAIN: Duration = Duration::from_millis(1500);
/// How often tables of tracked connections are looked at, and of how many network namespaces.
const TABLES: Duration = Duration::from_secs(1);
const MAX_TABLES: usize = 64;
/// The most failures whose counts are remembered.
const MAX_REMEMBERED: usize = 2048;

/// Calls of a process that failed alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) pid: u32,
    /// Who had started it.
    pub(crate) parent_pid: u32,
    pub(crate) comm: String,
    pub(crate) call: String,
    pub(crate) errno: i32,
    /// How many since the programs were loaded.
    pub(crate) total: u64,
}

/// Whether a limit may be behind it that nothing else looks at: file descriptors have a signal of their own.
pub(crate) fn may_be_a_limit(call: &str, errno: i32) -> bool {
    !behind(call, errno).is_empty()
}

fn behind(call: &str, errno: i32) -> Vec<Resource> {
    let watched = |resource: &Resource| !matches!(resource, Resource::Descriptors | Resource::OpenFiles);
    limits::behind(call, errno).map(|entry| entry.resource).filter(watched).collect()
}

/// What is known of processes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around<'a> {
    pub(super) tasks: &'a Tasks,
    pub(super) identities: &'a Identities,
    pub(super) resolver: &'a Resolver,
}

type Key = (u32, String, i32);

/// What is known of failures, window by window.
#[derive(Debug, Default)]
pub(super) struct LimitWatch {
    /// How often each had failed at the last look.
    totals: BTreeMap<Key, u64>,
    /// Of this window.
    failures: BTreeMap<Key, Watched>,
    /// Tables of tracked connections that packets were dropped for in this window, by network namespace.
    tables: BTreeMap<u32, LimitUse>,
    /// How many each had dropped at the last look.
    dropped: BTreeMap<u32, u64>,
    tables_looked: Option<Instant>,
}

#[derive(Debug)]
struct Watched {
    failure: LimitFailure,
    /// Who had started the process; 0 if that is not known.
    parent: u32,
    /// When its limits were last read.
    looked: Option<Instant>,
    /// It has failed since.
    again: bool,
}

impl LimitWatch {
    /// Looks at the limits behind what failed since the last sample.
    pub(super) fn notice(&mut self, failures: Vec<Failure>, around: Around<'_>, now_ns: u64) {
        let mut there = HashSet::new();
        for failure in failures {
            let key = (failure.pid, failure.call.clone(), failure.errno);
            let before = self.totals.get(&key).copied().unwrap_or(0);
            if self.totals.len() < MAX_REMEMBERED || self.totals.contains_key(&key) {
                self.totals.insert(key.clone(), failure.total);
                there.insert(key.clone());
            }
            if failure.total > before {
                self.add(key, failure.parent_pid, failure.comm, failure.total - before, now_ns);
            }
        }
        if !there.is_empty() {
            // Those that are gone have ended.
            self.totals.retain(|key, _| there.contains(key));
        }
        self.look(around, false);
        if self.tables_looked.is_none_or(|looked| looked.elapsed() >= TABLES) {
            self.tables_looked = Some(Instant::now());
            self.look_at_tables(around.tasks);
        }
    }

    /// A connection for which there is no room in the table is dropped without an error, and by the time that it is given up the table may have room
    /// again. So the drops themselves are watched.
    fn look_at_tables(&mut self, tasks: &Tasks) {
        let Some(limit) = tracked_max() else { return };
        let mut namespaces: BTreeMap<u32, u32> = BTreeMap::new();
        for process in tasks.processes().filter(|process| process.alive && process.row.net_namespace != 0) {
            if namespaces.len() < MAX_TABLES {
                namespaces.entry(process.row.net_namespace).or_insert(process.row.pid);
            }
        }
        let initial = tasks.process(1).map(|process| process.row.net_namespace);
        for (inode, pid) in &namespaces {
            let Some(table) = tracked_by(*pid, limit) else { continue };
            let before = self.dropped.insert(*inode, table.refused);
            let grew = before.is_none_or(|before| table.refused > before) && table.refused > 0;
            if grew && table.is_full() {
                let place = if Some(*inode) == initial { String::new() } else { inode.to_string() };
                self.tables.insert(*inode, table.at(place));
            }
        }
        self.dropped.retain(|inode, _| namespaces.contains_key(inode));
    }

    fn add(&mut self, key: Key, parent: u32, comm: String, count: u64, now_ns: u64) {
        if !self.failures.contains_key(&key) {
            // A script starts a program again and again, and each time it fails: some of these are enough to look at.
            let alike = |known: &LimitFailure| (&*known.call, known.errno, &known.comm) == (&*key.1, key.2, &comm);
            let mut alike = self.failures.values_mut().filter(|known| alike(&known.failure));
            if let Some(known) = alike.nth(MAX_ALIKE - 1) {
                known.failure.count = known.failure.count.saturating_add(count);
                return;
            }
            if self.failures.len() >= MAX_FAILURES {
                return;
            }
        }
        let (pid, call, errno) = key.clone();
        let watched = self.failures.entry(key).or_insert_with(|| Watched {
            failure: fill!(LimitFailure { pid, comm, call, errno, first_ns: now_ns }),
            parent,
            looked: None,
            again: true,
        });
        watched.failure.count = watched.failure.count.saturating_add(count);
        watched.again = true;
    }

    /// Asks for limits that were never read, and for those of what goes on.
    fn look(&mut self, around: Around<'_>, last: bool) {
        let due = |watched: &&mut Watched| {
            watched.again && watched.looked.is_none_or(|looked| last || looked.elapsed() >= AGAIN)
        };
        let mut due: Vec<_> = self.failures.values_mut().filter(due).collect();
        // Those first that were not looked at yet.
        due.sort_by_key(|watched| watched.looked.is_some());
        due.truncate(MAX_LOOKS);
        let questions = due.iter().map(|watched| {
            let failure = &watched.failure;
            let (pid, wanted) = (failure.pid, behind(&failure.call, failure.errno));
            let known = around.tasks.process(pid);
            let parent = Some(watched.parent)
                .filter(|parent| *parent > 0)
                .or_else(|| known.map(|process| process.row.parent_pid));
            let known = Known {
                parent,
                uid: known.map(|process| process.row.uid),
                cgroup: around.identities.pids_cgroup_of(pid).map(str::to_owned),
            };
            (Question::Limits(pid, failure.call.clone(), failure.errno), move || read(pid, known, &wanted))
        });
        let answers: Vec<Result<Answer, _>> = around.resolver.ask_all(questions.collect::<Vec<_>>());
        for (watched, answer) in due.into_iter().zip(answers) {
            // What comes late is taken at the next sample.
            let Ok(answer) = answer else { continue };
            watched.looked = Some(Instant::now());
            watched.again = false;
            watched.failure.ended = answer.ended && (watched.failure.ended || watched.failure.limits.is_empty());
            watched.failure.looked(answer.limits);
        }
    }

    /// Ends the window: what was found goes into it.
    pub(super) fn finish(&mut self, window: &mut Window, around: Around<'_>) {
        // A connection that nobody answers has no error while it waits, or when its program gave it up. A full table of tracked connections drops
        // what is sent here, so that it looks like a host that is down.
        self.look_at_tables(around.tasks);
        self.look(around, true);
        let unanswered = window.tcp_monitor.iter().flat_map(|tcp| &tcp.failures);
        let unanswered = unanswered.filter(|failure| failure.reason == TcpFailureReason::TimedOut && failure.pid != 0);
        for failure in unanswered {
            let Some(table) = self.tables.get(&failure.net_namespace).cloned() else { continue };
            let key = (failure.pid, "connect".to_owned(), errno::ETIMEDOUT);
            self.add(key.clone(), 0, failure.comm.clone(), failure.count, failure.first_ns);
            if let Some(watched) = self.failures.get_mut(&key) {
                watched.looked = Some(Instant::now());
                watched.failure.looked(vec![table]);
            }
        }
        self.tables.clear();
        let failures = std::mem::take(&mut self.failures).into_values();
        window.limits = failures.filter(|watched| watched.looked.is_some()).map(|watched| watched.failure).collect();
        window.limits.sort_by_key(|failure| (std::cmp::Reverse(failure.count), failure.pid, failure.errno));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_descriptors_are_left_to_their_signal() {
        assert!(!may_be_a_limit("openat", errno::EMFILE) && !may_be_a_limit("read", errno::EAGAIN));
        assert!(may_be_a_limit("inotify_init1", errno::EMFILE) && may_be_a_limit("clone3", errno::EAGAIN));
        assert_eq!(behind("add_key", errno::EDQUOT), [Resource::Keys, Resource::KeyBytes]);
    }

    #[test]
    fn a_window_has_so_many_failures_at_most() {
        let mut watch = LimitWatch::default();
        for pid in 1..1000 {
            watch.add((pid, "unshare".into(), errno::ENOSPC), 1, "loop".into(), 1, 7);
        }
        assert_eq!(watch.failures.len(), MAX_ALIKE);
        assert_eq!(watch.failures.values().map(|known| known.failure.count).sum::<u64>(), 999);
        watch.failures.clear();
        for pid in 1..1000 {
            watch.add((pid, "clone".into(), errno::EAGAIN), 1, format!("a{pid}"), 3, 7);
            watch.add((pid, "clone".into(), errno::EAGAIN), 1, format!("a{pid}"), 4, 9);
        }
        assert_eq!(watch.failures.len(), MAX_FAILURES);
        let one = &watch.failures.values().next().unwrap().failure;
        assert_eq!((one.count, one.first_ns, one.pid), (7, 7, 1));
    }
}
