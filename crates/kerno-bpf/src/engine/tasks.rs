//! Reads what the kernel keeps for every task anyway: CPU time and waits, file descriptors, bytes of storage, state. An iterator walks
//! all tasks, so no hot path becomes slower.

use std::io;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use kerno_model::TaskUse;

use crate::event::Comm;
use crate::probe::{Hook, Host, LoadError, Object, Plan, SummaryPrograms};

use super::fast_map::FastMap;
use super::track::{SampleTimes, Track};
use kerno_model::Series;

/// Marks what stands for a thread whose row is as it was (`UNCHANGED` in tasks.bpf.c).
const UNCHANGED: u64 = 1 << 63;
/// Every thread is reported in full at least once in so many walks (`TURNS`),
const TURNS: u32 = 8;
/// or all threads in the next walk (`EVERYBODY`).
const EVERYBODY: u32 = u32::MAX;

/// Flag of a kernel thread (`PF_KTHREAD`, linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;

/// `TASK_UNINTERRUPTIBLE`
const UNINTERRUPTIBLE: u32 = 2;
/// `TASK_NOLOAD`, `TASK_FREEZABLE` and the like: a sleep that is uninterruptible only in name (idle kernel threads).
const IDLE: u32 = 0x400;
/// `__TASK_STOPPED` and `__TASK_TRACED`.
const STOPPED: u32 = 4;
const TRACED: u32 = 8;
/// `TASK_FROZEN` (Linux 6.1), and `PF_FROZEN`, which it replaced.
const FROZEN: u32 = 0x8000;
const PF_FROZEN: u32 = 0x0001_0000;
/// `TASK_DEAD`: ended, and perhaps not yet waited for.
const DEAD: u32 = 0x80;

/// Mirror of `struct task_row` in tasks.bpf.c, where the fields are explained.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct TaskRow {
    pub(crate) start_ns: u64,
    pub(crate) start_boottime_ns: u64,
    pub(crate) run_ns: u64,
    pub(crate) wait_ns: u64,
    pub(crate) waits: u64,
    pub(crate) arrived_ns: u64,
    pub(crate) voluntary: u64,
    pub(crate) involuntary: u64,
    pub(crate) major_faults: u64,
    pub(crate) read_bytes: u64,
    pub(crate) write_bytes: u64,
    pub(crate) io_delay_ns: u64,
    pub(crate) reclaim_delay_ns: u64,
    pub(crate) cgroup_id: u64,
    pub(crate) memory_cgroup_id: u64,
    pub(crate) fd_soft_limit: u64,
    pub(crate) fd_hard_limit: u64,
    pub(crate) anon_pages: u64,
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) parent_pid: u32,
    pub(crate) uid: u32,
    pub(crate) state: u32,
    pub(crate) flags: u32,
    pub(crate) fds: u32,
    pub(crate) net_namespace: u32,
    pub(crate) comm: Comm,
}

impl TaskRow {
    pub(crate) const fn is_leader(&self) -> bool {
        self.pid == self.tid
    }

    pub(crate) const fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// In uninterruptible sleep that counts as load: waits for I/O, a lock, a page.
    pub(crate) const fn is_uninterruptible(&self) -> bool {
        self.state & UNINTERRUPTIBLE != 0 && self.state & IDLE == 0
    }

    /// Neither runs nor wants to.
    pub(crate) const fn is_still(&self) -> bool {
        self.state != 0
    }

    /// Stopped by a signal, held by a debugger, or frozen by a cgroup of v1. One that a cgroup of v2 freezes looks asleep.
    pub(crate) const fn is_held(&self) -> bool {
        self.state & (STOPPED | TRACED | FROZEN) != 0 || self.flags & PF_FROZEN != 0
    }

    /// It has ended: a zombie, without file descriptors and memory.
    pub(crate) const fn is_dead(&self) -> bool {
        self.state & DEAD != 0
    }

    /// What the thread itself used; CPU time and bytes come from the process as a whole ([`Life`]).
    const fn used(&self) -> TaskUse {
        TaskUse {
            run_ns: 0,
            wait_ns: self.wait_ns,
            waits: self.waits,
            voluntary: self.voluntary,
            involuntary: self.involuntary,
            major_faults: self.major_faults,
            read_bytes: 0,
            write_bytes: 0,
            io_delay_ns: self.io_delay_ns,
            reclaim_delay_ns: self.reclaim_delay_ns,
        }
    }
}

/// One process during the window.
#[derive(Clone, Debug)]
pub(crate) struct ProcessAccount {
    /// Its leader (or, where that has not been seen, some thread) as last read.
    pub(crate) row: TaskRow,
    pub(crate) used: TaskUse,
    pub(crate) threads: u32,
    /// Open descriptors at each sample.
    pub(crate) fds: Track,
    /// Anonymous memory at each sample, in bytes.
    pub(crate) anon_bytes: Track,
    /// Alive at the last sample; not a zombie.
    pub(crate) alive: bool,
    /// Totals of the whole process since it started.
    life: Life,
}

/// Totals of a process since it started, including threads that ended.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    run_ns: u64,
    read_bytes: u64,
    write_bytes: u64,
}

impl Life {
    fn add(&mut self, row: &TaskRow) {
        self.run_ns += row.run_ns;
        self.read_bytes += row.read_bytes;
        self.write_bytes += row.write_bytes;
    }

    /// A thread that ends while the tasks are walked may be missing both from the threads and from those that ended: totals never
    /// fall.
    fn max(self, other: Self) -> Self {
        Self {
            run_ns: self.run_ns.max(other.run_ns),
            read_bytes: self.read_bytes.max(other.read_bytes),
            write_bytes: self.write_bytes.max(other.write_bytes),
        }
    }
}

impl ProcessAccount {
    pub(super) fn new(row: &TaskRow) -> Self {
        Self {
            row: *row,
            used: TaskUse::default(),
            threads: 0,
            fds: Track::new(1),
            anon_bytes: Track::new(u32::try_from(rustix::param::page_size()).unwrap_or(4096)),
            alive: true,
            life: Life::default(),
        }
    }

    /// The process id belongs to another process now.
    fn begin_again(&mut self, row: &TaskRow) {
        *self = Self { threads: self.threads, alive: self.alive, ..Self::new(row) };
    }
}

/// What one sample found of a process, all threads together.
#[derive(Debug)]
struct Found {
    life: Life,
    /// The thread that holds the files and the memory: the leader, or some other thread if the leader has ended.
    holder: Option<TaskRow>,
    /// Not known from an earlier window or sample, but started before: what it used until now does not belong to this window.
    older: bool,
}

/// A thread in uninterruptible sleep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocked {
    pub(crate) row: TaskRow,
    /// The sample of this window (or an earlier one) since when it has not run: `CLOCK_MONOTONIC`.
    pub(crate) since_ns: u64,
}

/// All tasks during the window.
#[derive(Debug)]
pub(crate) struct Tasks {
    programs: SummaryPrograms,
    buffer: Vec<u8>,
    /// Which threads the next walk reports in full; `None` for all.
    turn: Option<u32>,
    /// As last read, by thread id.
    rows: Vec<TaskRow>,
    before: Vec<TaskRow>,
    accounts: FastMap<u32, ProcessAccount>,
    found: FastMap<u32, Found>,
    blocked: FastMap<(u32, u64), Blocked>,
    /// Of each of `rows`, since which walk it has not run: `CLOCK_MONOTONIC`.
    still: Vec<u64>,
    times: SampleTimes,
    /// When the latest walk began, and the walk that the window began with.
    looked_ns: u64,
    known_ns: u64,
}

impl Tasks {
    /// What to load, and onto which hook.
    pub(crate) fn plan() -> (Object, Plan) {
        let object = Object { name: "tasks", data: aya::include_bytes_aligned!("../../objects/tasks.bpf.o") };
        let mut plan = Plan::default();
        plan.size_by_thread("written", "cfg_written_mask");
        plan.attach("on_task", Hook::Iterator("task"));
        (object, plan)
    }

    pub(crate) fn load(host: &Host) -> Result<Self, LoadError> {
        let (object, plan) = Self::plan();
        Ok(Self {
            programs: SummaryPrograms::load(object, plan, host)?,
            buffer: Vec::new(),
            turn: None,
            rows: Vec::new(),
            before: Vec::new(),
            accounts: FastMap::default(),
            found: FastMap::default(),
            blocked: FastMap::default(),
            still: Vec::new(),
            times: SampleTimes::default(),
            looked_ns: 0,
            known_ns: 0,
        })
    }

    /// Begins a window with the tasks as they were when last read.
    pub(crate) fn begin(&mut self) {
        self.accounts.retain(|_, account| {
            account.used = TaskUse::default();
            account.fds.clear();
            account.anon_bytes.clear();
            account.alive
        });
        self.times.clear();
        self.times.push(0.0);
        self.known_ns = self.looked_ns;
        for (pid, found) in &self.found {
            if let (Some(account), Some(holder)) = (self.accounts.get_mut(pid), &found.holder) {
                account.fds.push(&self.times, u64::from(holder.fds));
                account.anon_bytes.push(&self.times, holder.anon_pages);
            }
        }
    }

    /// Puts every thread into `rows`. For threads that have not run since the last walk the kernel side sends only the id.
    fn read(&mut self) -> io::Result<()> {
        // If this fails halfway, the kernel side assumes that we know rows that we have not read.
        let turn = self.turn.take();
        self.programs.tell("turn", turn.unwrap_or(EVERYBODY))?;
        self.programs.iterate("on_task", &mut self.buffer)?;
        std::mem::swap(&mut self.rows, &mut self.before);
        self.rows.clear();
        let (mut rest, mut place, mut heard) = (&self.buffer[..], 0, true);
        while let Ok((word, behind)) = u64::read_from_prefix(rest) {
            if word & UNCHANGED == 0 {
                let Ok((row, behind)) = TaskRow::read_from_prefix(rest) else { break };
                self.rows.push(row);
                rest = behind;
            } else {
                let tid = word & !UNCHANGED;
                let is_there = |place: usize| self.before.get(place).is_some_and(|row| u64::from(row.tid) == tid);
                // Mostly the next one. The kernel walks in the order of the ids in our own pid namespace, which may differ.
                if !is_there(place) {
                    place = self.before.partition_point(|row| u64::from(row.tid) < tid);
                }
                match self.before.get(place).filter(|_| is_there(place)) {
                    Some(row) => self.rows.push(*row),
                    None => heard = false,
                }
                place += 1;
                rest = behind;
            }
        }
        // The kernel mostly walks them in this order; what follows relies on it.
        self.rows.sort_by_key(|row| row.tid);
        self.turn = heard.then(|| turn.map_or(0, |turn| (turn + 1) % TURNS));
        Ok(())
    }

    /// Reads all tasks and adds what they used since the last sample. When they cannot be read all stays as it was: the next sample adds
    /// what was missed.
    pub(crate) fn sample(&mut self, seconds: f64, now_ns: u64) -> io::Result<()> {
        self.read()?;
        self.looked_ns = now_ns;
        let thin = self.times.push(seconds);
        for account in self.accounts.values_mut() {
            account.alive = false;
            account.threads = 0;
            if thin {
                account.fds.thin();
                account.anon_bytes.thin();
            }
        }
        self.add_threads(now_ns);
        self.add_processes();
        Ok(())
    }

    /// Adds what each thread itself used, and how it sleeps.
    fn add_threads(&mut self, now_ns: u64) {
        let mut blocked = FastMap::default();
        let still_before = std::mem::take(&mut self.still);
        let mut before = self.before.iter().zip(still_before).peekable();
        self.still.reserve(self.rows.len());
        self.found.clear();
        for row in &self.rows {
            while before.next_if(|(earlier, _)| earlier.tid < row.tid).is_some() {}
            let same = before.next_if(|(earlier, _)| earlier.tid == row.tid);
            let same = same.filter(|(earlier, _)| earlier.start_ns == row.start_ns);
            let earlier = same.map(|(earlier, _)| earlier);
            let still = same.filter(|(earlier, _)| earlier.is_still() && row.is_still() && earlier.waits == row.waits);
            self.still.push(still.map_or(now_ns, |(_, since_ns)| since_ns));
            // Started after that walk, or after the walk had passed its place: all that it used belongs to this window.
            let born = self.known_ns > 0 && row.start_ns >= self.known_ns;
            let used = match earlier {
                Some(earlier) => row.used().since(earlier.used()),
                None if born => row.used(),
                // The first reading of all: what was before does not belong to this window.
                None => TaskUse::default(),
            };
            let mut known = true;
            let account = self.accounts.entry(row.pid).or_insert_with(|| {
                known = false;
                ProcessAccount::new(row)
            });
            if row.is_leader() {
                if known && account.row.is_leader() && account.row.start_ns != row.start_ns {
                    known = false;
                    account.begin_again(row);
                }
                account.row = *row;
            }
            let found = self.found.entry(row.pid).or_insert_with(|| Found {
                life: Life::default(),
                holder: None,
                older: false,
            });
            found.older |= !known && !born;
            found.life.add(row);
            if !row.is_dead() {
                account.used += used;
                account.alive = true;
                account.threads += 1;
                if row.is_leader() || (found.holder.is_none() && row.fd_hard_limit > 0) {
                    found.holder = Some(*row);
                }
            }
            if row.is_uninterruptible() {
                // Asleep since some time after it last got a CPU; for certain since the first sample that found it asleep.
                let key = (row.tid, row.start_ns);
                let same = earlier.filter(|e| e.is_uninterruptible() && e.waits == row.waits);
                let since_ns = same.and_then(|_| self.blocked.get(&key)).map_or(now_ns, |blocked| blocked.since_ns);
                blocked.insert(key, Blocked { row: *row, since_ns });
            }
        }
        self.blocked = blocked;
    }

    /// Adds what only a process as a whole has.
    fn add_processes(&mut self) {
        let inherited = self.inherited();
        for (pid, found) in &self.found {
            let Some(account) = self.accounts.get_mut(pid) else { continue };
            if found.older {
                account.life = found.life;
            }
            let life = account.life.max(found.life);
            let from_children = inherited.get(pid).copied().unwrap_or_default();
            account.used.run_ns += life.run_ns - account.life.run_ns;
            account.used.read_bytes +=
                (life.read_bytes - account.life.read_bytes).saturating_sub(from_children.read_bytes);
            account.used.write_bytes +=
                (life.write_bytes - account.life.write_bytes).saturating_sub(from_children.write_bytes);
            account.life = life;
            if let Some(holder) = &found.holder {
                account.row = TaskRow {
                    fds: holder.fds,
                    fd_soft_limit: holder.fd_soft_limit,
                    fd_hard_limit: holder.fd_hard_limit,
                    anon_pages: holder.anon_pages,
                    memory_cgroup_id: holder.memory_cgroup_id,
                    ..account.row
                };
                account.fds.push(&self.times, u64::from(holder.fds));
                account.anon_bytes.push(&self.times, holder.anon_pages);
            }
        }
    }

    /// The bytes of children that ended, by parent. When a parent waits for a process, the kernel adds all that the process ever read
    /// and wrote to the account of the parent, which did not do so itself.
    fn inherited(&self) -> FastMap<u32, Life> {
        let mut inherited: FastMap<u32, Life> = FastMap::default();
        let gone = self.before.iter().filter(|row| row.is_leader() && !self.found.contains_key(&row.pid));
        for (row, account) in gone.filter_map(|row| Some((row, self.accounts.get(&row.pid)?))) {
            let from_children = inherited.entry(row.parent_pid).or_default();
            from_children.read_bytes += account.life.read_bytes;
            from_children.write_bytes += account.life.write_bytes;
        }
        inherited
    }

    /// A track of a process, with the times of its samples.
    pub(crate) fn series(&self, track: &Track) -> Series {
        track.series(&self.times)
    }

    /// Every thread as last read.
    pub(crate) fn rows(&self) -> &[TaskRow] {
        &self.rows
    }

    /// Every thread as last read, and since when it has not run, at least.
    pub(crate) fn still(&self) -> impl Iterator<Item = (&TaskRow, u64)> {
        self.rows.iter().zip(self.still.iter().copied()).filter(|(row, _)| row.is_still())
    }

    /// A thread as last read.
    pub(crate) fn thread(&self, tid: u32) -> Option<&TaskRow> {
        let place = self.rows.binary_search_by_key(&tid, |row| row.tid).ok()?;
        self.rows.get(place)
    }

    /// Since when a thread has not run, at least; `None` if it runs, or has gone.
    pub(crate) fn still_since(&self, tid: u32) -> Option<(&TaskRow, u64)> {
        let place = self.rows.binary_search_by_key(&tid, |row| row.tid).ok()?;
        let row = self.rows.get(place).filter(|row| row.is_still())?;
        Some((row, *self.still.get(place)?))
    }

    /// The processes of the window, including those that ended in it.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &ProcessAccount> {
        self.accounts.values()
    }

    pub(crate) fn process(&self, pid: u32) -> Option<&ProcessAccount> {
        self.accounts.get(&pid)
    }

    /// The threads in uninterruptible sleep now, and since when at least.
    pub(crate) fn blocked(&self) -> impl Iterator<Item = &Blocked> {
        self.blocked.values()
    }

    /// Network namespaces in use, each with a process in it: (inode number, process).
    pub(crate) fn net_namespaces(&self) -> FastMap<u32, u32> {
        let rows = self.rows.iter().filter(|row| row.net_namespace != 0 && row.is_leader());
        rows.map(|row| (row.net_namespace, row.pid)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};

    #[test]
    fn rows_are_as_the_kernel_side_writes_them() {
        let fields = fields!(TaskRow: start_ns start_boottime_ns run_ns wait_ns waits arrived_ns voluntary involuntary major_faults read_bytes
            write_bytes io_delay_ns reclaim_delay_ns cgroup_id memory_cgroup_id fd_soft_limit fd_hard_limit anon_pages pid tid parent_pid uid state
            flags fds net_namespace comm);
        let object = aya::include_bytes_aligned!("../../objects/tasks.bpf.o");
        assert_matches(object, "task_row", size_of::<TaskRow>(), fields);
    }
}
