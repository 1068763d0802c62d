use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use super::kinds::Inventory;
use crate::engine::{Gap, Gaps, Late, ProcFile, ProcessAccount, Question, Sampler, Tick};
use crate::probe::{Host, LoadError, SummaryPrograms};
use kerno_model::amount::number;
use kerno_model::{FdKind, FdProcess, FdSummary};
use kerno_model::{Series, Window};

/// How many processes are told of for each reason: most descriptors, nearest to the limit, growing.
const TOP: usize = 16;
/// How many processes at most have their descriptors looked at one by one.
const MAX_SUSPECTS: usize = 16;
/// A process becomes a suspect when its number grew so often in a row, and by so much.
const SUSPECT_RISES: usize = 3;
const SUSPECT_GROWTH: f64 = 8.0;

/// There is nothing to load: the descriptors are counted with the tasks.
pub(crate) fn sampler(_host: &Host) -> Result<Box<dyn Sampler>, LoadError> {
    Ok(Box::new(Sampled::default()))
}

#[derive(Debug)]
struct Sampled {
    open: Series,
    files: Series,
    files_max: u64,
    /// What they had open when they became suspects.
    suspects: BTreeMap<u32, Arc<Inventory>>,
    /// Suspects about which nothing is known yet, because no answer came.
    unanswered: BTreeMap<u32, Gap>,
    file_nr: ProcFile,
    /// What could not be read in this window.
    gaps: Gaps,
}

impl Default for Sampled {
    fn default() -> Self {
        let (open, files) = (Series::default(), Series::default());
        let file_nr = ProcFile::new("/proc/sys/fs/file-nr");
        let (suspects, unanswered) = (BTreeMap::new(), BTreeMap::new());
        Self { open, files, files_max: 0, suspects, unanswered, file_nr, gaps: Gaps::new("fd_track") }
    }
}

impl Sampled {
    fn look(&mut self, tick: &Tick<'_>) {
        let alive = tick.tasks.processes().filter(|process| process.alive);
        self.open.push(tick.seconds, alive.map(|process| f64::from(process.row.fds)).sum());
        if let Some((files, max)) = self.gaps.note("files open in the machine", file_nr(&mut self.file_nr)) {
            #[allow(clippy::cast_precision_loss, reason = "a number of files")]
            self.files.push(tick.seconds, files as f64);
            self.files_max = max;
        }
    }

    fn find_suspects(&mut self, tick: &Tick<'_>) {
        let room = MAX_SUSPECTS - self.suspects.len().min(MAX_SUSPECTS);
        if room == 0 {
            return;
        }
        let growing = |process: &&ProcessAccount| {
            process.alive
                && !self.suspects.contains_key(&process.row.pid)
                && growth(process) >= SUSPECT_GROWTH
                && process.fds.rises() >= SUSPECT_RISES
        };
        let mut found: Vec<_> = tick.tasks.processes().filter(growing).collect();
        found.sort_by(|a, b| growth(b).total_cmp(&growth(a)));
        found.truncate(room);
        let questions = found.iter().map(|process| {
            let pid = process.row.pid;
            (Question::Descriptors(pid, process.row.start_ns), move || Inventory::first(pid))
        });
        for (process, inventory) in found.iter().zip(tick.resolver.ask_all(questions)) {
            match inventory {
                Ok(inventory) => {
                    self.unanswered.remove(&process.row.pid);
                    self.suspects.extend(inventory.map(|found| (process.row.pid, Arc::new(found))));
                }
                Err(late) => drop(self.unanswered.insert(process.row.pid, unanswered(process, late))),
            }
        }
    }

    /// What the suspects have open now.
    fn look_at_suspects(&mut self, tick: &Tick<'_>) -> HashMap<u32, Vec<FdKind>> {
        let alive = self.suspects.iter().filter_map(|(pid, inventory)| Some((tick.tasks.process(*pid)?, inventory)));
        let suspects: Vec<_> = alive.filter(|(process, _)| process.alive).collect();
        let questions = suspects.iter().map(|(process, inventory)| {
            let (pid, inventory) = (process.row.pid, Arc::clone(inventory));
            (Question::Descriptors(pid, process.row.start_ns), move || inventory.compare(pid))
        });
        let answers = tick.resolver.ask_all(questions);
        let mut kinds = HashMap::new();
        for ((process, _), answer) in suspects.iter().zip(answers) {
            match answer {
                Ok(found) => drop(kinds.insert(process.row.pid, found)),
                Err(late) => self.gaps.add(unanswered(process, late)),
            }
        }
        kinds
    }

    /// The processes worth telling of.
    fn chosen<'a>(&self, tick: &'a Tick<'_>) -> Vec<&'a ProcessAccount> {
        let mut all: Vec<_> = tick.tasks.processes().filter(|process| process.alive && process.row.fds > 0).collect();
        let mut pids: BTreeSet<u32> = self.suspects.keys().copied().collect();
        all.sort_by_key(|process| Reverse(process.row.fds));
        pids.extend(all.iter().take(TOP).map(|process| process.row.pid));
        all.sort_by(|a, b| share(b).total_cmp(&share(a)));
        pids.extend(all.iter().take(TOP).map(|process| process.row.pid));
        all.sort_by(|a, b| growth(b).total_cmp(&growth(a)));
        pids.extend(all.iter().take(TOP).filter(|process| growth(process) > 0.0).map(|process| process.row.pid));
        pids.into_iter().filter_map(|pid| tick.tasks.process(pid)).filter(|process| process.alive).collect()
    }
}

impl Sampler for Sampled {
    fn attach(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    fn begin(&mut self, tick: &Tick<'_>) {
        *self = Self::default();
        self.look(tick);
    }

    fn sample(&mut self, tick: &Tick<'_>) {
        self.look(tick);
        self.find_suspects(tick);
    }

    fn finish(&mut self, tick: &Tick<'_>, signals: &mut Window) {
        let mut kinds = self.look_at_suspects(tick);
        std::mem::take(&mut self.unanswered).into_values().for_each(|gap| self.gaps.add(gap));
        let describe = |process: &ProcessAccount| FdProcess {
            pid: process.row.pid,
            comm: process.row.comm.to_str_lossy().into_owned(),
            open: tick.tasks.series(&process.fds),
            soft_limit: process.row.fd_soft_limit,
            hard_limit: process.row.fd_hard_limit,
            kinds: kinds.remove(&process.row.pid).unwrap_or_default(),
        };
        let mut processes: Vec<_> = self.chosen(tick).into_iter().map(describe).collect();
        processes.sort_by(|a, b| b.share().total_cmp(&a.share()).then(a.pid.cmp(&b.pid)));
        signals.fd_track = Some(FdSummary {
            processes,
            open: std::mem::take(&mut self.open),
            files: std::mem::take(&mut self.files),
            files_max: self.files_max,
        });
        self.gaps.tell(signals);
    }

    fn pulse(&mut self, _now_ns: u64) -> Option<String> {
        Some(format!("{} open", number(self.open.last()?)))
    }

    fn programs(&self) -> Option<&SummaryPrograms> {
        None
    }
}

fn unanswered(process: &ProcessAccount, late: Late) -> Gap {
    let (pid, name) = (process.row.pid, process.row.comm.to_str_lossy());
    Gap { what: format!("what {name} ({pid}) has open"), reason: format!("/proc/{pid}/fd: {late}") }
}

fn growth(process: &ProcessAccount) -> f64 {
    process.fds.last().zip(process.fds.first()).map_or(0.0, |(last, first)| last - first)
}

#[allow(clippy::cast_precision_loss, reason = "a share")]
fn share(process: &ProcessAccount) -> f64 {
    f64::from(process.row.fds) / process.row.fd_soft_limit.max(1) as f64
}

/// Files open in the machine, and the most that may be.
fn file_nr(file: &mut ProcFile) -> io::Result<(u64, u64)> {
    let mut fields = file.text()?.split_whitespace();
    let mut number = |skip| fields.nth(skip).and_then(|word| word.parse().ok()).ok_or(io::ErrorKind::InvalidData);
    Ok((number(0)?, number(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_tells_its_files() {
        let (files, max) = file_nr(&mut ProcFile::new("/proc/sys/fs/file-nr")).unwrap();
        assert!(files > 0 && max >= files);
    }
}
