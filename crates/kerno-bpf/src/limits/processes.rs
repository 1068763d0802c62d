//! All processes at one moment, and who has most of something.

use std::collections::{BTreeMap, HashMap};

use kerno_model::LimitHolder;

use crate::waits::state::{self, Stat};

use super::MAX_HOLDERS;

/// The most processes that are looked at.
const MAX_PROCESSES: usize = 1 << 17;
/// So much of what is used by processes of one parent, or of one name, says that it is these together.
const MOST: f64 = 0.5;

/// A process, or a zombie.
#[derive(Clone, Debug)]
pub(super) struct Proc {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) comm: String,
    pub(super) zombie: bool,
    pub(super) threads: u64,
}

/// All processes.
#[derive(Debug, Default)]
pub(super) struct Processes {
    pub(super) all: Vec<Proc>,
    place: HashMap<u32, usize>,
}

impl Processes {
    pub(super) fn scan() -> Self {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let all: Vec<Proc> =
            pids.take(MAX_PROCESSES).filter_map(|pid| state::stat(pid, pid).ok().map(|stat| of(pid, stat))).collect();
        let place = all.iter().enumerate().map(|(place, process)| (process.pid, place)).collect();
        Self { all, place }
    }

    pub(super) fn get(&self, pid: u32) -> Option<&Proc> {
        self.all.get(*self.place.get(&pid)?)
    }

    pub(super) fn comm(&self, pid: u32) -> String {
        self.get(pid).map(|process| process.comm.clone()).unwrap_or_default()
    }

    /// Who has most of `used`, given what each process has itself. Zombies are their parent's. Where most of it is of many processes that one has
    /// started, it is that one's; where it is of many with one name, theirs together.
    #[allow(clippy::cast_precision_loss, reason = "shares")]
    pub(super) fn holders(&self, amounts: &[(u32, u64)], used: u64) -> Vec<LimitHolder> {
        let mut own: BTreeMap<u32, LimitHolder> = BTreeMap::new();
        let mut of_children: BTreeMap<u32, u64> = BTreeMap::new();
        let mut of_name: BTreeMap<String, LimitHolder> = BTreeMap::new();
        let holder = |pid: u32| LimitHolder {
            pid,
            comm: self.comm(pid),
            namespace_init: self.is_namespace_init(pid),
            ..LimitHolder::default()
        };
        for (pid, amount) in amounts.iter().copied().filter(|(_, amount)| *amount > 0) {
            let process = self.get(pid);
            let zombie_of =
                process.filter(|process| process.zombie && process.parent > 0).map(|process| process.parent);
            let entry = own.entry(zombie_of.unwrap_or(pid)).or_insert_with_key(|pid| holder(*pid));
            entry.amount += amount;
            if zombie_of.is_some() {
                entry.zombies += amount;
                continue;
            }
            if let Some(process) = process {
                *of_children.entry(process.parent).or_default() += amount;
                let entry = of_name.entry(process.comm.clone()).or_default();
                // The oldest of the name, mostly: ids grow.
                entry.pid = if entry.pid == 0 { pid } else { entry.pid.min(pid) };
                entry.amount += amount;
            }
        }
        let most = |amount: u64| amount as f64 > MOST * used as f64;
        let alone = own.values().any(|holder| most(holder.amount));
        let mut holders: Vec<LimitHolder> = own.into_values().collect();
        // The first process of the machine has not started what it was given.
        let starter =
            of_children.into_iter().filter(|(pid, amount)| *pid > 1 && most(*amount)).max_by_key(|(_, amount)| *amount);
        if let Some((pid, amount)) = starter.filter(|_| !alone) {
            let children: Vec<u32> = amounts
                .iter()
                .map(|(pid, _)| *pid)
                .filter(|child| self.get(*child).is_some_and(|child| child.parent == pid))
                .collect();
            let before = holders.iter().find(|known| known.pid == pid).cloned().unwrap_or_else(|| holder(pid));
            holders.retain(|known| known.pid != pid && !children.contains(&known.pid));
            holders.push(LimitHolder { amount: before.amount + amount, ..before });
        } else if let Some((name, entry)) =
            of_name.into_iter().filter(|(_, entry)| !alone && most(entry.amount)).max_by_key(|(_, entry)| entry.amount)
        {
            holders.retain(|known| known.comm != name);
            holders.push(LimitHolder { comm: name, ..entry });
        }
        holders.sort_by_key(|holder| (std::cmp::Reverse(holder.amount), holder.pid));
        holders.truncate(MAX_HOLDERS);
        holders
    }

    /// The first process of a pid namespace that is not the machine's.
    fn is_namespace_init(&self, pid: u32) -> bool {
        pid > 1 && namespace_pid(pid) == Some(1)
    }
}

fn of(pid: u32, stat: Stat) -> Proc {
    Proc { pid, parent: stat.parent, comm: stat.comm, zombie: stat.state == 'Z', threads: stat.threads.max(1) }
}

/// The id of a process in its own pid namespace.
fn namespace_pid(pid: u32) -> Option<u32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status).into_owned();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(list: &[(u32, u32, &str, bool)]) -> Processes {
        let all: Vec<Proc> = list
            .iter()
            .map(|(pid, parent, comm, zombie)| Proc {
                pid: *pid,
                parent: *parent,
                comm: (*comm).into(),
                zombie: *zombie,
                threads: 1,
            })
            .collect();
        let place = all.iter().enumerate().map(|(place, process)| (process.pid, place)).collect();
        Processes { all, place }
    }

    const BASE: u32 = 4_000_000;

    #[test]
    fn zombies_are_their_parents() {
        let mut list = vec![(BASE, 1, "init", false)];
        list.extend((1..60).map(|n| (BASE + n, BASE, "job", true)));
        let processes = made(&list);
        let amounts: Vec<_> = list.iter().map(|(pid, ..)| (*pid, 1)).collect();
        let holders = processes.holders(&amounts, 60);
        assert_eq!((holders.len(), holders[0].pid, holders[0].amount, holders[0].zombies), (1, BASE, 60, 59));
    }

    #[test]
    fn what_one_has_started_is_its_own() {
        let mut list = vec![(BASE, 1, "bash", false), (BASE + 500, 1, "cron", false)];
        list.extend((1..40).map(|n| (BASE + n, BASE, "sleep", false)));
        let processes = made(&list);
        let amounts: Vec<_> = list.iter().map(|(pid, ..)| (*pid, 1)).collect();
        let holders = processes.holders(&amounts, 41);
        assert_eq!((holders[0].pid, holders[0].amount, holders[0].comm.as_str()), (BASE, 40, "bash"));
        assert_eq!(holders[1].comm, "cron");
    }

    #[test]
    fn orphans_of_one_name_are_told_together() {
        let list: Vec<_> =
            (0..30).map(|n| (BASE + n, 1, "bomb", false)).chain([(BASE + 99, 1, "cron", false)]).collect();
        let amounts: Vec<_> = list.iter().map(|(pid, ..)| (*pid, 1)).collect();
        let holders = made(&list).holders(&amounts, 31);
        assert_eq!((holders[0].pid, holders[0].amount, holders[0].comm.as_str()), (BASE, 30, "bomb"));
    }

    #[test]
    fn this_process_is_among_all() {
        let all = Processes::scan();
        let own = all.get(std::process::id()).unwrap();
        assert!(!own.zombie && own.threads >= 1 && own.parent > 0);
    }
}
