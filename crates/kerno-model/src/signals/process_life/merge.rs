use std::cmp::{Ordering, Reverse};

use crate::merge::{Entry, Joint, Part, Selected, add, cut_lists, join_list, latest, latest_text};
use crate::merged::Merged;
use crate::{Ending, ForkStarter, LifeSummary, ProgramLife, StartedProgram, ZombieParent};

/// As many kinds of endings as the kernel side tells apart in a window.
const MAX_ENDINGS: usize = 16;
const MAX_STARTED: usize = 16;

impl Part for LifeSummary {
    const SIGNAL: &'static str = "process_life";

    fn cuts(&self, notes: &mut Merged) {
        cut_lists(notes, [&self.programs]);
        cut_lists(notes, [&self.starters]);
        cut_lists(notes, [&self.zombies]);
    }

    fn merge(&mut self, later: &Self, joint: &mut Joint<'_>) {
        add(&mut self.forks, later.forks);
        add(&mut self.execs, later.execs);
        add(&mut self.ends, later.ends);
        add(&mut self.failed, later.failed);
        add(&mut self.killed, later.killed);
        add(&mut self.core_dumps, later.core_dumps);
        add(&mut self.oom_killed, later.oom_killed);
        add(&mut self.ends_not_told, later.ends_not_told);
        join_list(&mut self.programs, &later.programs, joint);
        join_list(&mut self.starters, &later.starters, joint);
        join_list(&mut self.zombies, &later.zombies, joint);
    }

    fn shift(&mut self, _seconds: f64) {}
}

impl Entry for ProgramLife {
    const LIST: &'static str = "process_life.programs";
    const MAX: usize = 128;
    const SELECTED: Selected = Selected::Some;

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        let starter = (self.starter_pid, self.starter_comm.as_str());
        let same = |ours: &Self| (ours.program.clone(), ours.forked, ours.unit.clone());
        joint.same_process(starter, (later.starter_pid, &later.starter_comm)) && same(self) == same(later)
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.file, &later.file);
        latest(&mut self.args, &later.args);
        latest_text(&mut self.starter_comm, &later.starter_comm);
        latest(&mut self.cgroup_id, &later.cgroup_id);
        self.uid = later.uid;
        add(&mut self.starts, later.starts);
        add(&mut self.ends, later.ends);
        add(&mut self.replaced, later.replaced);
        add(&mut self.failed, later.failed);
        add(&mut self.killed, later.killed);
        add(&mut self.core_dumps, later.core_dumps);
        add(&mut self.oom_killed, later.oom_killed);
        add(&mut self.brief, later.brief);
        add(&mut self.again_failed, later.again_failed);
        add(&mut self.again_ended, later.again_ended);
        add(&mut self.same_args, later.same_args);
        add(&mut self.lived_ns, later.lived_ns);
        add(&mut self.cpu_ns, later.cpu_ns);
        for ending in &later.endings {
            let room = self.endings.len() < MAX_ENDINGS;
            let known = self.endings.iter().position(|known| known.status == ending.status);
            match known.or_else(|| self.endings.len().checked_sub(1).filter(|_| !room)) {
                Some(place) => {
                    self.endings.get_mut(place).into_iter().for_each(|known| add(&mut known.count, ending.count))
                }
                None => self.endings.push(ending.clone()),
            }
        }
        self.endings.sort_by_key(|ending| (Reverse(ending.count), ending.status));
        if later.ends > 0 {
            let ended_before = self.ends > later.ends;
            self.shortest_ns = if ended_before { self.shortest_ns.min(later.shortest_ns) } else { later.shortest_ns };
            self.longest_ns = self.longest_ns.max(later.longest_ns);
            self.last_ending = later.last_ending;
        }
        self.most_running = self.most_running.max(later.most_running);
        latest(&mut self.last_pid, &later.last_pid);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |p: &Self| (Reverse(p.failed + p.killed), Reverse(p.ends), p.starter_pid, p.last_pid);
        key(self)
            .cmp(&key(other))
            .then_with(|| self.program.cmp(&other.program))
            .then_with(|| self.unit.cmp(&other.unit))
    }
}

impl Entry for ForkStarter {
    const LIST: &'static str = "process_life.starters";
    const MAX: usize = 64;
    const SELECTED: Selected = Selected::Some;

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        add(&mut self.forks, later.forks);
        add(&mut self.execs, later.execs);
        add(&mut self.ends, later.ends);
        add(&mut self.brief, later.brief);
        add(&mut self.cpu_ns, later.cpu_ns);
        for started in &later.programs {
            match self.programs.iter_mut().find(|known| known.program == started.program) {
                Some(known) => add(&mut known.count, started.count),
                None => self.programs.push(started.clone()),
            }
        }
        self.programs.sort_by(order_of_started);
        self.programs.truncate(MAX_STARTED);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |starter: &Self| (Reverse(starter.forks.max(starter.execs)), starter.pid);
        key(self).cmp(&key(other))
    }
}

fn order_of_started(a: &StartedProgram, b: &StartedProgram) -> Ordering {
    (Reverse(a.count), &a.program).cmp(&(Reverse(b.count), &b.program))
}

impl Entry for ZombieParent {
    const LIST: &'static str = "process_life.zombies";
    const MAX: usize = 64;
    const SELECTED: Selected = Selected::Some;

    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool {
        joint.same_process((self.pid, &self.comm), (later.pid, &later.comm))
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        latest_text(&mut self.comm, &later.comm);
        latest_text(&mut self.of, &later.of);
        self.zombies = later.zombies;
        self.oldest_ns = later.oldest_ns;
        self.namespace_init = later.namespace_init;
    }

    /// It has waited for them, or has ended.
    fn absent_later(&mut self, _joint: &mut Joint<'_>) -> bool {
        false
    }

    fn order(&self, other: &Self) -> Ordering {
        (Reverse(self.zombies), self.pid).cmp(&(Reverse(other.zombies), other.pid))
    }
}

impl Ending {
    /// So often so.
    pub const fn new(status: crate::WaitStatus, count: u64) -> Self {
        Self { status, count }
    }
}
