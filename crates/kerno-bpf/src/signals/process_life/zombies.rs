//! Children that ended and that nobody waits for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use kerno_model::ZombieParent;

use crate::engine::{Tasks, Tick, proc_has_host_pids};

/// One that is younger may be waited for in a moment.
const SETTLED_NS: u64 = 1_000_000_000;
/// How many parents are told of.
const MAX_PARENTS: usize = 16;
/// How many zombies are remembered at most; a machine has no more processes than these.
const MAX_ZOMBIES: usize = 1 << 16;

/// Those that there are, and since when they have been seen.
#[derive(Debug, Default)]
pub(super) struct Zombies {
    seen: HashMap<(u32, u64), u64>,
}

impl Zombies {
    /// Looks which there are now.
    pub(super) fn look(&mut self, tick: &Tick<'_>) {
        let before = std::mem::take(&mut self.seen);
        let found = zombies(tick.tasks).map(|zombie| (zombie.pid, zombie.start_ns)).take(MAX_ZOMBIES);
        self.seen = found.map(|key| (key, before.get(&key).copied().unwrap_or(tick.now_ns))).collect();
    }

    /// Their parents, in a window that began then.
    pub(super) fn parents(&self, tick: &Tick<'_>, window_ns: u64) -> Vec<ZombieParent> {
        let mut parents: BTreeMap<u32, (ZombieParent, HashMap<String, u64>)> = BTreeMap::new();
        for zombie in zombies(tick.tasks) {
            let Some(since_ns) = self.seen.get(&(zombie.pid, zombie.start_ns)) else { continue };
            let age_ns = tick.now_ns.saturating_sub(*since_ns);
            if age_ns < SETTLED_NS || zombie.parent_pid == 0 {
                continue;
            }
            let (parent, names) = parents.entry(zombie.parent_pid).or_default();
            parent.zombies += 1;
            parent.at_begin += u64::from(*since_ns <= window_ns);
            parent.oldest_ns = parent.oldest_ns.max(age_ns);
            *names.entry(zombie.comm.to_str_lossy().into_owned()).or_default() += 1;
        }
        let mut parents: Vec<_> = parents
            .into_iter()
            .map(|(pid, (mut parent, names))| {
                parent.pid = pid;
                parent.comm =
                    tick.tasks.process(pid).map(|p| p.row.comm.to_str_lossy().into_owned()).unwrap_or_default();
                parent.of =
                    names.into_iter().max_by_key(|(name, count)| (*count, Reverse(name.clone()))).unwrap_or_default().0;
                parent
            })
            .collect();
        parents.sort_by_key(|parent| (Reverse(parent.zombies), parent.pid));
        parents.truncate(MAX_PARENTS);
        for parent in &mut parents {
            parent.namespace_init = is_namespace_init(parent.pid);
        }
        parents
    }
}

fn zombies(tasks: &Tasks) -> impl Iterator<Item = &crate::engine::TaskRow> {
    // A leader that has ended before its threads is none.
    let ended = |pid| tasks.process(pid).is_some_and(|process| process.threads == 0);
    tasks.rows().iter().filter(move |row| row.is_leader() && row.is_dead() && ended(row.pid))
}

/// Whether a process is process 1 of a pid namespace below the machine's.
fn is_namespace_init(pid: u32) -> bool {
    if !proc_has_host_pids() {
        return false;
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("NSpid:")).is_some_and(innermost_is_first)
}

fn innermost_is_first(ids: &str) -> bool {
    let mut ids = ids.split_whitespace();
    ids.next().is_some() && ids.last() == Some("1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_inner_process_1_is_a_namespaces() {
        assert!(innermost_is_first("\t4711\t1"));
        assert!(innermost_is_first("4711 12 1"));
        assert!(!innermost_is_first("\t1"));
        assert!(!innermost_is_first("4711\t1\t7"));
        assert!(!innermost_is_first(""));
    }
}
