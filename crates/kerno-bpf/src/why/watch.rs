//! Watches targets: follows those that they wait for, and gathers what the programs have kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kerno_doctor::why::next_to_follow;
use kerno_doctor::why::observed::{Held, Object, Observation, ObservedSleep, ObservedThread};
use kerno_model::{Missing, fill};

use super::disks::Disks;
use super::objects::{FILE, FUTEX, Objects, POLL};
use super::programs::flags::{AWAITS, COMPAT, DEEPLY, FROZEN, JOINS, OWES, STOPPED, TRACED};
use super::programs::{ENDED, Kept, Programs, RUNS, SLEEPS, Sleep, Slept, Thread, WAITS};
use super::symbols::Symbols;
use super::target::{Target, paths};
use crate::event::syscall_names;
use crate::probe::clock::monotonic_ns;
use crate::probe::{Host, LoadError};
use crate::waits::asleep::{self, Doing};
use crate::waits::chain::Look;
use crate::waits::locks::{self, Owner};
use crate::waits::places::cgroup_path;
use crate::waits::state;

/// How many processes each step follows at most.
const MAX_NEW: usize = 32;

/// What to watch.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WhyOptions {
    /// Whose time is asked about.
    pub target: Target,
    /// How many steps from the target are followed.
    pub depth: u32,
}

impl WhyOptions {
    /// Follows six steps.
    pub const fn new(target: Target) -> Self {
        Self { target, depth: 6 }
    }
}

/// Why it cannot be watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WhyError {
    /// The programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// There is no such process.
    #[error("{}", .0.none())]
    NoTarget(Target),
    /// What the programs keep cannot be read.
    #[error("cannot read what the programs have kept")]
    Read(#[source] io::Error),
}

/// Watches since it was made.
#[derive(Debug)]
pub struct WhyWatch {
    options: WhyOptions,
    programs: Programs,
    objects: Objects,
    symbols: Symbols,
    targets: BTreeSet<u32>,
    /// How far each process is from the target.
    depths: BTreeMap<u32, u32>,
    started_unix_ns: u64,
    started: Instant,
    /// CPU time of threads when they were met, in ticks: in the program, in the kernel.
    ticks: HashMap<u32, (u64, u64)>,
    /// Who held what, as seen at each step while somebody waited for it.
    lock_holders: HashMap<(u32, u64), BTreeSet<u32>>,
    /// Owners of futexes that were looked at from outside: process and address.
    futex_owners: HashMap<(u32, u64), (u32, u32, bool)>,
    disks: Disks,
    /// The one socket that threads poll that slept when they were met: by thread.
    polled: HashMap<u32, u64>,
    refused: usize,
    has_messages: bool,
}

impl WhyWatch {
    /// Loads the programs and begins to watch.
    ///
    /// # Errors
    /// [`WhyError`] when the programs cannot be loaded, or no process is the target.
    pub fn start(options: WhyOptions, host: &Host) -> Result<Self, WhyError> {
        let look = Look::now();
        let targets = options.target.pids(&look);
        if targets.is_empty() {
            return Err(WhyError::NoTarget(options.target));
        }
        let programs = Programs::attach(host)?;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut watch = Self {
            programs,
            objects: Objects::default(),
            symbols: Symbols::default(),
            depths: targets.iter().map(|pid| (*pid, 0)).collect(),
            targets,
            started_unix_ns: u64::try_from(unix.as_nanos()).unwrap_or(0),
            started: Instant::now(),
            ticks: HashMap::new(),
            lock_holders: HashMap::new(),
            futex_owners: HashMap::new(),
            disks: Disks::watch(host),
            polled: HashMap::new(),
            refused: 0,
            has_messages: host.tracepoint_arity("sock_send_length").is_some(),
            options,
        };
        watch.follow(watch.targets.clone(), &look).map_err(WhyError::Read)?;
        Ok(watch)
    }

    fn follow(&mut self, pids: BTreeSet<u32>, look: &Look) -> io::Result<()> {
        // Before its threads are met: a socket's role is judged then.
        let mut ports = BTreeSet::new();
        for pid in &pids {
            for socket in look.tcp(*pid).iter().flat_map(|all| all.iter()).filter(|socket| socket.listens) {
                ports.insert(socket.local.port());
            }
            for tid in state::threads(*pid, 4096) {
                self.ticks.entry(tid).or_insert_with(|| ticks(*pid, tid).unwrap_or_default());
            }
            self.objects.named(*pid);
        }
        self.programs.listeners(ports)?;
        self.refused += self.programs.follow(pids)?;
        Ok(())
    }

    /// Looks at what is only seen by looking, and follows those that are waited for most. To be called a few times a second.
    ///
    /// # Errors
    /// When what the programs keep cannot be read.
    pub fn step(&mut self) -> Result<(), WhyError> {
        let look = Look::now();
        let now = self.options.target.pids(&look);
        let fresh: BTreeSet<_> = now.difference(&self.targets).copied().collect();
        for pid in &fresh {
            self.depths.insert(*pid, 0);
        }
        self.targets.extend(fresh.iter().copied());
        self.follow(fresh, &look).map_err(WhyError::Read)?;
        self.disks.sample();
        let kept = self.programs.read().map_err(WhyError::Read)?;
        self.look_at_locks(&kept, &look);
        let seen = self.gather(&kept, &look);
        self.follow_next(&seen, &look).map_err(WhyError::Read)
    }

    fn follow_next(&mut self, seen: &Observation, look: &Look) -> io::Result<()> {
        let depth = |pid: u32| self.depths.get(&pid).copied().unwrap_or(0);
        let deepest = seen.threads.iter().map(|thread| depth(thread.pid)).max().unwrap_or(0);
        let wanted = next_to_follow(seen, MAX_NEW).into_iter();
        let next: BTreeSet<u32> =
            wanted.filter(|pid| !self.programs.follows(*pid) && !is_kernel_thread(*pid)).collect();
        // Whoever is waited for is one step further than the furthest that waits.
        if next.is_empty() || deepest >= self.options.depth {
            return Ok(());
        }
        for pid in &next {
            self.depths.insert(*pid, deepest + 1);
        }
        self.follow(next, look)
    }

    /// Whether none of the target's processes is left.
    pub fn is_over(&self) -> bool {
        self.targets.iter().all(|pid| state::stat(*pid, *pid).map_or(true, |stat| stat.state == 'Z'))
    }

    /// What was seen until now.
    ///
    /// # Errors
    /// When what the programs keep cannot be read.
    pub fn observe(&mut self) -> Result<Observation, WhyError> {
        let look = Look::now();
        let kept = self.programs.read().map_err(WhyError::Read)?;
        self.look_at_locks(&kept, &look);
        let disks = self.disks.users();
        Ok(Observation { disks, ..self.gather(&kept, &look) })
    }

    /// Who holds what is waited for now: files' locks, and futexes of threads that slept already when they were met.
    fn look_at_locks(&mut self, kept: &Kept, look: &Look) {
        for thread in kept.threads.values().filter(|thread| thread.state == SLEEPS) {
            let sleep = &thread.sleep;
            if sleep.kind == FUTEX && sleep.other == 0 && sleep.flags & (AWAITS | STOPPED | TRACED | FROZEN) == 0 {
                self.look_at_futex(thread);
            } else if sleep.kind == FILE {
                self.look_at_file_lock(thread, look);
            } else if sleep.kind == POLL && thread.looked > 0 && !self.polled.contains_key(&thread.tid) {
                self.polled.insert(thread.tid, polled_socket(thread).unwrap_or(0));
            }
        }
    }

    fn look_at_futex(&mut self, thread: &Thread) {
        let key = (thread.pid, thread.sleep.object);
        if self.futex_owners.contains_key(&key) {
            return;
        }
        let Ok(Some(call)) = asleep::call(thread.pid, thread.tid) else { return };
        let Doing::Futex(futex) = call.doing() else { return };
        match locks::owner(thread.pid, thread.tid, futex) {
            Some(Owner::Lock { pid, tid }) => drop(self.futex_owners.insert(key, (pid, tid, false))),
            Some(Owner::End { pid, tid }) => drop(self.futex_owners.insert(key, (pid, tid, true))),
            _ => {}
        }
    }

    fn look_at_file_lock(&mut self, thread: &Thread, look: &Look) {
        let Ok(Some(call)) = asleep::call(thread.pid, thread.tid) else { return };
        let Doing::LocksFile { fd, kind } = call.doing() else { return };
        let (path, inode) = match asleep::target(thread.pid, fd) {
            Some(asleep::Target::File { path, inode, .. }) => (path, inode),
            _ => return,
        };
        let all = look.locks();
        let Some(held) = all.wish_of(thread.pid, kind, Some(inode)).and_then(|wish| all.held(wish)) else { return };
        let holders = locks::holders(held, &path, look.ends());
        let pids =
            held.pid.into_iter().filter(|pid| holders.is_empty() || holders.iter().any(|holder| holder.pid == *pid));
        let mut pids: BTreeSet<u32> = pids.collect();
        if pids.is_empty() {
            pids.extend(holders.iter().map(|holder| holder.pid));
        }
        pids.remove(&thread.pid);
        self.lock_holders.insert((thread.pid, inode), pids);
    }

    fn gather(&mut self, kept: &Kept, look: &Look) -> Observation {
        let now = monotonic_ns();
        self.symbols.look_up(kept.places.values().flatten().copied().filter(|address| *address != 0));
        for thread in kept.threads.values().filter(|thread| thread.pid == thread.tid) {
            self.objects.known_as(thread.pid, &thread.comm.to_str_lossy());
        }
        let mut sleeps: HashMap<u32, Vec<(Sleep, Slept)>> = HashMap::new();
        for (sleep, slept) in &kept.sleeps {
            sleeps.entry(sleep.tid).or_default().push((*sleep, *slept));
        }
        let mut cpu_waits: HashMap<u32, Vec<(u32, u64)>> = HashMap::new();
        for (wait, ns) in &kept.cpu_waits {
            cpu_waits.entry(wait.tid).or_default().push((wait.holder, *ns));
            if wait.holder != 0 {
                self.objects.named(wait.holder);
            }
        }
        let frames: HashMap<u64, Arc<[String]>> =
            kept.places.iter().map(|(place, addresses)| (*place, self.frames(addresses))).collect();
        let mut alive: HashMap<u32, usize> = HashMap::new();
        for thread in kept.threads.values().filter(|thread| thread.state != ENDED) {
            *alive.entry(thread.pid).or_default() += 1;
        }
        let mut threads: Vec<_> = kept.threads.values().collect();
        threads.sort_by_key(|thread| (thread.pid, thread.tid));
        let threads: Vec<_> = threads
            .into_iter()
            .map(|thread| {
                let own = sleeps.remove(&thread.tid).unwrap_or_default();
                let waits = cpu_waits.remove(&thread.tid).unwrap_or_default();
                let observed = self.thread(thread, own, waits, kept, &frames, look, now);
                let alone = alive.get(&thread.pid) == Some(&1);
                let silent = if alone { self.objects.silent(thread.pid, kept, look) } else { Vec::new() };
                ObservedThread { alone, silent, ..observed }
            })
            .collect();
        Observation {
            target: self.options.target.to_string(),
            started_unix_ns: self.started_unix_ns,
            seconds: self.started.elapsed().as_secs_f64(),
            targets: self.targets.clone(),
            threads,
            names: self.objects.names().clone(),
            disks: Vec::new(),
            missing: self.missing(),
        }
    }

    fn frames(&self, addresses: &[u64]) -> Arc<[String]> {
        let names =
            addresses.iter().take_while(|address| **address != 0).filter_map(|address| self.symbols.name(*address));
        // What every switch has, and our own program.
        names.filter(|name| !is_switching(name)).map(str::to_owned).collect()
    }

    #[allow(clippy::too_many_arguments, reason = "what was kept, sorted by thread once")]
    fn thread(
        &mut self,
        thread: &Thread,
        mut sleeps: Vec<(Sleep, Slept)>,
        mut cpu_waits: Vec<(u32, u64)>,
        kept: &Kept,
        frames: &HashMap<u64, Arc<[String]>>,
        look: &Look,
        now: u64,
    ) -> ObservedThread {
        let until = if thread.state == ENDED { thread.ended_ns } else { now };
        let open = until.saturating_sub(thread.since_ns);
        let mut run_ns = thread.run_ns;
        match thread.state {
            RUNS => run_ns += open,
            WAITS => cpu_waits.push((0, open)),
            SLEEPS => add_open(&mut sleeps, thread.sleep, open),
            _ => {}
        }
        let (user, system) = self.split(thread, run_ns);
        let comm = thread.comm.to_str_lossy().into_owned();
        let sleeps =
            sleeps.into_iter().map(|(sleep, slept)| self.sleep(thread, &sleep, &slept, kept, frames, look)).collect();
        ObservedThread {
            pid: thread.pid,
            tid: thread.tid,
            parent: (thread.parent != 0).then_some(thread.parent),
            comm,
            wall_ns: until.saturating_sub(thread.began_ns),
            user_ns: user,
            system_ns: system,
            throttled_ns: thread.throttled_ns,
            cgroup: if thread.throttled_ns > 0 { cpu_cgroup(thread.pid) } else { String::new() },
            cpu_waits,
            sleeps,
            ..ObservedThread::default()
        }
    }

    /// CPU time in the program and in the kernel: the kernel's own figures are of ticks, so that only their ratio is taken.
    fn split(&mut self, thread: &Thread, run_ns: u64) -> (u64, u64) {
        let base = self.ticks.entry(thread.tid).or_default();
        let Some(now) = ticks(thread.pid, thread.tid) else { return (run_ns, 0) };
        let (mut user, mut system) = (now.0.saturating_sub(base.0), now.1.saturating_sub(base.1));
        if user + system == 0 {
            (user, system) = now;
        }
        let all = user + system;
        if all == 0 {
            return (run_ns, 0);
        }
        let in_kernel = u64::try_from(u128::from(run_ns) * u128::from(system) / u128::from(all)).unwrap_or(0);
        (run_ns - in_kernel.min(run_ns), in_kernel)
    }

    fn sleep(
        &mut self,
        thread: &Thread,
        sleep: &Sleep,
        slept: &Slept,
        kept: &Kept,
        frames: &HashMap<u64, Arc<[String]>>,
        look: &Look,
    ) -> ObservedSleep {
        // Met asleep, at the one socket that it polls: as if it read from that.
        let mut sleep = *sleep;
        if sleep.kind == POLL
            && thread.looked > 0
            && sleep.flags & AWAITS == 0
            && let Some(inode) = self.polled.get(&thread.tid).filter(|inode| **inode != 0)
        {
            (sleep.object, sleep.flags) = (*inode, sleep.flags | AWAITS);
        }
        let sleep = &sleep;
        let has = |flag| sleep.flags & flag != 0;
        let call = u32::try_from(sleep.call).ok().and_then(|number| syscall_names::name(number, has(COMPAT)));
        let mut object = self.objects.of(thread.pid, sleep, kept, look);
        if let Object::File { lock_holders, .. } = &mut object
            && let Some(pids) = self.lock_holders.get(&(thread.pid, sleep.object))
        {
            *lock_holders = pids.iter().map(|pid| self.objects.named(*pid)).collect();
        }
        let mut other = (sleep.other != 0 && !has(TRACED)).then(|| (process_of(sleep.other, kept), sleep.other));
        let mut joins = has(JOINS);
        if sleep.kind == FUTEX
            && other.is_none()
            && sleep.waker == 0
            && let Some((pid, tid, end)) = self.futex_owners.get(&(thread.pid, sleep.object))
        {
            (other, joins) = (Some((*pid, *tid)), *end);
        }
        let held = if has(STOPPED) {
            Held::Stopped
        } else if has(TRACED) {
            Held::Traced(sleep.other)
        } else if has(FROZEN) {
            Held::Frozen(state::frozen(thread.pid).map(|(cgroup, _)| cgroup).unwrap_or_default())
        } else {
            Held::No
        };
        for pid in other.iter().map(|(pid, _)| *pid).chain((sleep.waker_pid != 0).then_some(sleep.waker_pid)) {
            self.objects.named(pid);
        }
        if let Held::Traced(tracer) = held {
            self.objects.named(tracer);
        }
        ObservedSleep {
            call,
            object,
            held,
            deeply: has(DEEPLY),
            awaits: has(AWAITS),
            owes: has(OWES),
            joins,
            other,
            waker: (sleep.waker != 0).then_some((sleep.waker_pid, sleep.waker)),
            frames: frames.get(&sleep.place).cloned().unwrap_or_default(),
            count: slept.count,
            ns: slept.ns,
            longest_ns: slept.longest_ns,
        }
    }

    fn missing(&self) -> Vec<Missing> {
        let loss = self.programs.loss();
        let mut missing = Vec::new();
        let mut tell = |what: String| missing.push(fill!(Missing { signal: "why".into(), what }));
        if loss.overflow > 0 {
            tell(format!("{} sleeps, threads or sockets found no room and are not accounted for", loss.overflow));
        }
        if loss.missed_runs > 0 {
            tell(format!("the kernel skipped {} runs of the programs", loss.missed_runs));
        }
        if self.refused > 0 {
            tell(format!("{} processes were not followed: at most {} are", self.refused, super::programs::MAX_TARGETS));
        }
        if self.symbols.hidden {
            tell("names of the kernel's functions are hidden (kernel.kptr_restrict): some waits are \"other\"".into());
        }
        if !self.has_messages {
            tell("requests and answers are not followed: this needs Linux 6.3".into());
        }
        missing.extend(self.disks.missing());
        missing
    }
}

/// The connection that a thread polls, if it is the only descriptor: one to a server.
fn polled_socket(thread: &Thread) -> Option<u64> {
    let call = asleep::call(thread.pid, thread.tid).ok()??;
    let Doing::Polls { list, count: 1 } = call.doing() else { return None };
    let [fd, ..] = locks::memory(thread.pid, list)?;
    match asleep::target(thread.pid, fd)? {
        asleep::Target::Socket { inode } => Some(inode),
        _ => None,
    }
}

/// What is under way belongs to the account, too.
fn add_open(sleeps: &mut Vec<(Sleep, Slept)>, sleep: Sleep, open: u64) {
    let sleep = Sleep { waker: 0, waker_pid: 0, ..sleep };
    let same = |known: &&mut (Sleep, Slept)| known.0 == sleep;
    if let Some((_, slept)) = sleeps.iter_mut().find(same) {
        slept.ns += open;
        slept.longest_ns = slept.longest_ns.max(open);
        slept.count += 1;
    } else {
        sleeps.push((sleep, Slept { count: 1, ns: open, longest_ns: open }));
    }
}

fn is_switching(name: &str) -> bool {
    name.starts_with("bpf_")
        || name.starts_with("__bpf_")
        || name.starts_with("__traceiter_")
        || name.starts_with("trace_call_bpf")
}

/// The process of a thread.
fn process_of(tid: u32, kept: &Kept) -> u32 {
    if let Some(thread) = kept.threads.get(&tid) {
        return thread.pid;
    }
    state::process_of(tid).unwrap_or(tid)
}

/// It makes no system calls, and has no memory of its own.
fn is_kernel_thread(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("\nVmSize:"))
}

/// In the program, in the kernel.
fn ticks(pid: u32, tid: u32) -> Option<(u64, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    // Behind the name, which may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// The cgroup whose quota it has.
fn cpu_cgroup(pid: u32) -> String {
    cgroup_path(pid, "cpu", false).or_else(|| paths(pid).into_iter().next()).unwrap_or_default()
}
