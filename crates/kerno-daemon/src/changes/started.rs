use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;

use kerno_model::{Change, ChangeKind, Moment};
use procfs::process::Process;

use super::{change, moment, now};

/// What started up to so long before the start of kerno is told.
const LATELY_NS: u64 = 30 * 60 * 1_000_000_000;

/// A program whose file is at most so old was replaced of late.
const NEW_NS: i128 = 24 * 3600 * 1_000_000_000;

/// More processes are not followed: on a machine where so many start, one that does is no news.
const MAX: usize = 20_000;

/// The most that one look tells.
const MAX_TOLD: usize = 32;

/// A process: its id and when it started, in ticks since the boot.
type Id = (i32, u64);

#[derive(Clone, Debug)]
struct Known {
    comm: String,
    /// The service that it belongs to.
    unit: Option<String>,
    parent: i32,
}

/// Which processes and services started and ended. Those that end between two looks are not seen.
#[derive(Debug, Default)]
pub(super) struct Started {
    processes: BTreeMap<Id, Known>,
    /// Nanoseconds since 1970 at boot, and of a tick.
    boot_ns: i128,
    tick_ns: i128,
}

impl Started {
    pub(super) fn now() -> Self {
        let tick_ns = 1_000_000_000 / i128::from(procfs::ticks_per_second().max(1));
        let boot_ns = procfs::boot_time_secs().map_or(0, |boot| i128::from(boot) * 1_000_000_000);
        let mut started = Self { processes: BTreeMap::new(), boot_ns, tick_ns };
        started.processes = started.read();
        started
    }

    /// What started shortly before.
    pub(super) fn lately(&self) -> Vec<Change> {
        let now = now();
        let is_new = |id: &Id| self.moment(*id).unix_ns + LATELY_NS >= now.unix_ns;
        let all: BTreeSet<Id> = self.processes.keys().copied().collect();
        let new = all.iter().copied().filter(is_new).collect();
        self.told(&new, &BTreeMap::new())
    }

    pub(super) fn look(&mut self) -> Vec<Change> {
        let read = self.read();
        let before = std::mem::replace(&mut self.processes, read);
        let new = self.processes.keys().filter(|id| !before.contains_key(id)).copied().collect();
        self.told(&new, &before)
    }

    fn moment(&self, id: Id) -> Moment {
        moment(self.boot_ns + i128::from(id.1) * self.tick_ns)
    }

    /// All processes; of those that are known, what is known.
    fn read(&self) -> BTreeMap<Id, Known> {
        let Ok(all) = procfs::process::all_processes() else { return self.processes.clone() };
        let all = all.flatten().take(MAX).filter_map(|process| {
            let stat = process.stat().ok()?;
            // Threads of the kernel come and go as they please.
            if stat.pid == 2 || stat.ppid == 2 {
                return None;
            }
            let id = (stat.pid, stat.starttime);
            let known = self.processes.get(&id).filter(|known| known.comm == stat.comm).cloned();
            Some((id, known.unwrap_or_else(|| Known { unit: unit(&process), comm: stat.comm, parent: stat.ppid })))
        });
        all.collect()
    }

    /// What is to be told of new processes.
    fn told(&self, new: &BTreeSet<Id>, before: &BTreeMap<Id, Known>) -> Vec<Change> {
        let mut told = Vec::new();
        let units = |processes: &BTreeMap<Id, Known>| -> BTreeMap<String, Id> {
            let mut units = BTreeMap::new();
            for (id, known) in processes {
                if let Some(unit) = &known.unit {
                    let first = units.entry(unit.clone()).or_insert(*id);
                    if id.1 < first.1 {
                        *first = *id;
                    }
                }
            }
            units
        };
        let (was, is) = (units(before), units(&self.processes));
        for (unit, first) in &is {
            // Its oldest process is new.
            if new.contains(first) {
                let kind = if was.contains_key(unit) { ChangeKind::UnitRestarted } else { ChangeKind::UnitStarted };
                told.push(change(self.moment(*first), kind, unit, None, None));
                told.extend(self.binary(*first));
            }
        }
        for unit in was.keys().filter(|unit| !is.contains_key(*unit)) {
            told.push(change(now(), ChangeKind::UnitStopped, unit, None, None));
        }
        // Others: those that nobody else that is new started, so that a script is told and not what it runs.
        let pids: BTreeSet<i32> = new.iter().map(|id| id.0).collect();
        let others = new.iter().filter_map(|id| self.processes.get(id).map(|known| (*id, known)));
        let roots = others.filter(|(_, known)| known.unit.is_none() && !pids.contains(&known.parent));
        let mut by_name: BTreeMap<&str, (usize, Id)> = BTreeMap::new();
        for (id, known) in roots {
            by_name.entry(&known.comm).or_insert((0, id)).0 += 1;
        }
        for (comm, (count, id)) in by_name.into_iter().take(MAX_TOLD) {
            let what = if count == 1 { format!("{comm} ({})", id.0) } else { format!("{comm} ({count} processes)") };
            told.push(change(self.moment(id), ChangeKind::ProcessStarted, &what, None, None));
            told.extend(self.binary(id));
        }
        told
    }

    /// That the program of a process is a new file.
    fn binary(&self, id: Id) -> Option<Change> {
        let process = Process::new(id.0).ok()?;
        let path = process.exe().ok()?;
        let meta = std::fs::metadata(format!("/proc/{}/exe", id.0)).ok()?;
        let written = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        let is_new = i128::from(self.moment(id).unix_ns) - written <= NEW_NS;
        is_new.then(|| change(moment(written), ChangeKind::Binary, &path.display().to_string(), None, None))
    }
}

/// The service that a process belongs to, by the name of its cgroup.
fn unit(process: &Process) -> Option<String> {
    let cgroups = process.cgroups().ok()?;
    let of = |path: &str| path.rsplit('/').find(|level| level.ends_with(".service")).map(str::to_owned);
    cgroups.into_iter().find_map(|cgroup| of(&cgroup.pathname))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_starts_is_told_with_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("newprog");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut started = Started::now();
        let mut child = Command::new(&program).arg("30").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut told = Vec::new();
        while !told.iter().any(|change: &Change| change.what.starts_with("newprog"))
            && std::time::Instant::now() < deadline
        {
            told.extend(started.look());
        }
        let id = child.id();
        let _ = child.kill();
        let _ = child.wait();
        let process =
            told.iter().find(|change| change.what == format!("newprog ({id})")).unwrap_or_else(|| panic!("{told:?}"));
        assert_eq!(process.kind, ChangeKind::ProcessStarted);
        let age = now().unix_ns.abs_diff(process.at.unix_ns) / 1_000_000;
        assert!(age < 60_000, "{age} ms");
        assert!(
            told.iter().any(|change| change.kind == ChangeKind::Binary && change.what == program.display().to_string()),
            "{told:?}"
        );
    }
}
