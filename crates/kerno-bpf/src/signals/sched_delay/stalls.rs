//! Threads that stand still because others do not do their part. The tasks tell which threads have not run; what each of these waits for
//! is read once a sleep, and only where that may be another's fault is looked who that is.

mod queries;
mod told;

pub(crate) use told::standing_state;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{FastMap, Gap, Gaps, Question, Tick, proc_has_host_pids};
use crate::waits::asleep::{self, Doing, Target};
use crate::waits::chain::{self, Chain, Look, Step};
use crate::waits::dns::Askers;
use crate::waits::net::UnixSockets;
use crate::waits::state::{self, Condition};
use kerno_model::{DnsWait, FullListener, HeldProcess, ListenerHolder, Stall};

use queries::Queries;
use told::{of_condition, stall};

/// The most stalls, held processes and full listeners, each, that are named.
const MAX_NAMED: usize = 32;
/// A sleep is looked at from this length on.
const LONG_NS: u64 = 2_000_000_000;
/// A stall lasts for this share of the window at least.
const SHARE: f64 = 0.5;
/// The most threads that one sample asks for their call, and how long that may take.
const MAX_ASKED: usize = 256;
const ASKING: Duration = Duration::from_millis(20);
/// Threads that are asked in one question.
const CHUNK: usize = 64;
/// The most threads that are followed at the end of a window.
const MAX_FOLLOWED: usize = 64;
/// The most processes with a listener that are named.
const MAX_HOLDERS: usize = 8;
/// The most processes whose other ends are looked for among those that read or wait for a child.
const MAX_STUCK: usize = 32;
/// The most cgroups that are asked whether they are frozen.
const MAX_CGROUPS: usize = 256;
/// Descriptors are looked at again after this time.
const LOOK_AGE: Duration = Duration::from_secs(6);
/// They are looked at first this many samples before the end of a window: on a large machine it takes longer than one sample waits.
const LOOK_AHEAD: usize = 3;
/// Listeners are looked at in so many samples of each window.
const LISTENER_LOOKS: u32 = 4;

/// One sleep: a thread, and how often it had run before.
type Sleep = (u32, u64, u64);

/// What a sleep is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Waits for something that may take any time.
    Idle,
    /// Waits for something that somebody else should do soon: a write, a lock, a connect.
    Pushes(Doing),
    /// Waits for what somebody else may do or not: a read, a child.
    Pulls(Doing),
    /// Waits for an answer of this DNS server.
    Asks(SocketAddr),
}

/// Another look at the same thing shows whether it moves.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    first: Option<u64>,
    moves: bool,
}

#[derive(Debug, Default)]
pub(super) struct Stalls {
    /// What each sleep is for, and in which round it was last met; those that are over are forgotten.
    known: FastMap<Sleep, (Kind, u32)>,
    round: u32,
    /// Threads that could not be asked in this window.
    lost: usize,
    /// Sleeps of the latest sample that have not been asked yet.
    unasked: usize,
    look: Option<(Instant, Arc<Look>)>,
    levels: HashMap<Sleep, Level>,
    /// Processes in cgroups that are frozen, by cgroup.
    frozen: HashMap<u64, (String, String)>,
    frozen_looked: bool,
    listeners: HashMap<u64, FullListener>,
    listener_looks: u32,
    queries: Queries,
    begun_ns: u64,
}

/// What the end of a window says.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) stalls: Vec<Stall>,
    pub(super) held: Vec<HeldProcess>,
    pub(super) full_listeners: Vec<FullListener>,
    pub(super) dns_waits: Vec<DnsWait>,
}

/// A thread that has slept long, and since when.
#[derive(Clone, Copy, Debug)]
struct Sleeper {
    sleep: Sleep,
    pid: u32,
    since_ns: u64,
    uninterruptible: bool,
}

impl Stalls {
    pub(super) fn begin(&mut self, now_ns: u64) {
        self.begun_ns = now_ns;
        self.levels.clear();
        self.frozen.clear();
        self.frozen_looked = false;
        self.listeners.clear();
        self.listener_looks = 0;
        self.queries.begin();
    }

    pub(super) fn sample(&mut self, tick: &Tick<'_>) {
        // Else these ids are others' in /proc.
        if !proc_has_host_pids() {
            return;
        }
        let sleepers = sleepers(tick, LONG_NS);
        self.ask(tick, &sleepers);
        self.note_queries(tick, &sleepers);
        self.look_at_levels(tick, &sleepers);
        self.look_ahead(tick, &sleepers);
        // Not all of it in one sample: a window has about 24.
        let looks = LISTENER_LOOKS.min(tick.left.map_or(LISTENER_LOOKS, |left| u32::try_from(left / 5).unwrap_or(0)));
        if self.listener_looks == 0 || self.listener_looks < LISTENER_LOOKS.saturating_sub(looks) {
            self.look_at_listeners(tick);
        }
    }

    fn note_queries(&mut self, tick: &Tick<'_>, sleepers: &[Sleeper]) {
        for sleeper in sleepers {
            if let Some((Kind::Asks(server), _)) = self.known.get(&sleeper.sleep) {
                self.queries.note(tick, sleeper, *server);
            }
        }
    }

    /// Has descriptors looked at in time for the end of the window, if it will need them.
    fn look_ahead(&mut self, tick: &Tick<'_>, sleepers: &[Sleeper]) {
        if tick.left.is_none_or(|left| left > LOOK_AHEAD) {
            return;
        }
        let pushes = |sleeper: &Sleeper| matches!(self.known.get(&sleeper.sleep), Some((Kind::Pushes(_), _)));
        let held = || {
            let long = |since_ns| tick.now_ns.saturating_sub(since_ns) >= LONG_NS;
            tick.tasks.still().any(|(row, since_ns)| row.is_held() && !row.is_kernel_thread() && long(since_ns))
        };
        if sleepers.iter().any(pushes) || held() {
            let _ = self.current_look(tick);
        }
    }

    /// Finds out what those sleep for that have not been asked yet, as many as one sample may.
    fn ask(&mut self, tick: &Tick<'_>, sleepers: &[Sleeper]) {
        self.round = self.round.wrapping_add(1);
        let mut new = Vec::new();
        for sleeper in sleepers {
            match self.known.get_mut(&sleeper.sleep) {
                Some(known) => known.1 = self.round,
                None => new.push(*sleeper),
            }
        }
        if self.known.len() > sleepers.len() {
            let round = self.round;
            self.known.retain(|_, (_, met)| *met == round);
        }
        // Whoever fell asleep last is more likely part of what goes wrong now than what has slept for hours.
        new.sort_unstable_by_key(|sleeper| (!sleeper.uninterruptible, std::cmp::Reverse(sleeper.since_ns)));
        let begun = Instant::now();
        let mut asked = 0;
        for some in new.chunks(CHUNK) {
            let Some(first) = some.first().filter(|_| asked < MAX_ASKED && begun.elapsed() < ASKING) else { break };
            let threads: Vec<_> = some.iter().map(|sleeper| (sleeper.pid, sleeper.sleep.0)).collect();
            let kinds = move || {
                let mut askers = Askers::default();
                threads.into_iter().map(|(pid, tid)| kind(pid, tid, &mut askers)).collect::<Vec<_>>()
            };
            let answer = tick.resolver.ask(Question::Calls(first.sleep.0, first.sleep.2), kinds);
            asked += some.len();
            // One of them hangs: none of these is asked again in its sleep.
            self.lost += if answer.is_err() { some.len() } else { 0 };
            let kinds = answer.unwrap_or_else(|_| vec![Kind::Idle; some.len()]);
            for (sleeper, kind) in some.iter().zip(kinds) {
                self.known.insert(sleeper.sleep, (kind, self.round));
            }
        }
        self.unasked = new.len().saturating_sub(asked);
    }

    /// Notes how much waits in what the long sleepers write to.
    fn look_at_levels(&mut self, tick: &Tick<'_>, sleepers: &[Sleeper]) {
        let writers = sleepers.iter().filter_map(|sleeper| match self.known.get(&sleeper.sleep) {
            Some((Kind::Pushes(Doing::Writes(fd)), _)) => Some((*sleeper, *fd)),
            Some((Kind::Pushes(Doing::Moves { to, .. }), _)) => Some((*sleeper, *to)),
            _ => None,
        });
        let writers: Vec<_> = writers.take(MAX_FOLLOWED).collect();
        let questions = writers.iter().map(|(sleeper, fd)| {
            let (pid, fd) = (sleeper.pid, *fd);
            (Question::Level(sleeper.sleep.0, sleeper.sleep.2), move || chain::level(pid, fd))
        });
        for ((sleeper, _), answer) in writers.iter().zip(tick.resolver.ask_all(questions)) {
            let Ok(Some(now)) = answer else { continue };
            let level = self.levels.entry(sleeper.sleep).or_default();
            level.moves |= level.first.is_some_and(|first| first != now);
            level.first.get_or_insert(now);
        }
    }

    fn look_at_listeners(&mut self, tick: &Tick<'_>) {
        self.listener_looks += 1;
        let own = std::process::id();
        let Ok(Some(found)) = tick.resolver.ask(Question::Listeners, move || UnixSockets::of(own, true).ok()) else {
            return;
        };
        let mut new = false;
        for socket in found.all {
            let inode = u64::from(socket.inode);
            if socket.is_full() && (self.listeners.len() < MAX_NAMED || self.listeners.contains_key(&inode)) {
                new |= !self.listeners.contains_key(&inode);
                let known = self.listeners.entry(inode).or_default();
                known.inode = inode;
                known.name = socket.name.unwrap_or_default();
                known.queued = known.queued.max(socket.received);
                known.backlog = socket.sent;
                known.full += 1;
            }
        }
        // Now, since whoever listens may be gone at the end.
        if let Some(look) = if new { self.current_look(tick) } else { None } {
            self.name_holders(&look);
        }
    }

    /// Says whose the listeners are that were full.
    fn name_holders(&mut self, look: &Look) {
        for listener in self.listeners.values_mut().filter(|listener| listener.holders.is_empty()) {
            let mut holders = look.ends().of_socket(listener.inode).to_vec();
            // The one that began to listen, mostly; workers have it from there.
            holders.sort_unstable();
            holders.dedup_by_key(|holder| holder.pid);
            listener.holders = holders.iter().take(MAX_HOLDERS).map(|holder| named(holder.pid)).collect();
        }
    }

    /// Looks once a window which cgroups are frozen: in each that has processes, one is asked.
    fn look_for_frozen(&mut self, tick: &Tick<'_>) {
        if std::mem::replace(&mut self.frozen_looked, true) {
            return;
        }
        let mut of_cgroups: FastMap<u64, u32> = FastMap::default();
        for (row, since_ns) in tick.tasks.still() {
            let asleep = !row.is_kernel_thread() && !row.is_dead() && since_ns <= self.begun_ns.max(row.start_ns);
            if asleep && row.is_leader() && of_cgroups.len() < MAX_CGROUPS {
                of_cgroups.entry(row.cgroup_id).or_insert(row.pid);
            }
        }
        let questions = of_cgroups.iter().map(|(cgroup, pid)| {
            let pid = *pid;
            (Question::Frozen(*cgroup), move || state::frozen(pid))
        });
        let answers = tick.resolver.ask_all(questions);
        for (cgroup, answer) in of_cgroups.keys().zip(answers) {
            if let Ok(Some(frozen)) = answer {
                self.frozen.insert(*cgroup, frozen);
            }
        }
    }

    /// Descriptors, locks and sockets as they were a short time ago.
    fn current_look(&mut self, tick: &Tick<'_>) -> Option<Arc<Look>> {
        if let Some((taken, look)) = &self.look
            && taken.elapsed() < LOOK_AGE
        {
            return Some(Arc::clone(look));
        }
        let look = tick.resolver.ask(Question::Ends, || {
            let look = Look::now();
            look.ends();
            Arc::new(look)
        });
        let look = look.ok()?;
        self.look = Some((Instant::now(), Arc::clone(&look)));
        Some(look)
    }

    /// What the window says: who stood still for most of it, and who did not let them go on.
    pub(super) fn take(&mut self, tick: &Tick<'_>, gaps: &mut Gaps) -> Standing {
        let mut standing = Standing::default();
        if !proc_has_host_pids() {
            return standing;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a duration")]
        let long_ns = ((tick.seconds * SHARE * 1e9) as u64).max(LONG_NS);
        let all = sleepers(tick, LONG_NS);
        let sleepers = sleepers(tick, long_ns);
        self.ask(tick, &sleepers);
        self.unasked += std::mem::take(&mut self.lost);
        if self.unasked > 0 {
            let what = "what some long sleeps are for".to_owned();
            gaps.add(Gap {
                what,
                reason: format!(
                    "{} threads slept that were not asked: too many at once, or no answer came",
                    self.unasked
                ),
            });
        }
        self.look_for_frozen(tick);
        self.note_queries(tick, &all);
        standing.dns_waits = self.queries.take(|sleep| all.iter().any(|sleeper| sleeper.sleep == *sleep));
        if self.queries.beyond > 0 {
            let what = "some waits for DNS servers".to_owned();
            gaps.add(Gap { what, reason: "there are more than are kept".into() });
        }
        let mut held = self.held(tick, long_ns);
        let of = |want: fn(&Kind) -> bool| {
            let wanted = |sleeper: &&Sleeper| self.known.get(&sleeper.sleep).is_some_and(|(kind, _)| want(kind));
            sleepers.iter().filter(wanted).copied().collect::<Vec<_>>()
        };
        let mut pushing = of(|kind| matches!(kind, Kind::Pushes(_)));
        let pulling = of(|kind| matches!(kind, Kind::Pulls(_)));
        let blocked: Vec<u32> = sleepers.iter().filter(|sleeper| sleeper.uninterruptible).map(|s| s.pid).collect();
        let nothing = pushing.is_empty() && held.is_empty() && blocked.is_empty() && self.listeners.is_empty();
        if nothing && standing.dns_waits.is_empty() {
            self.look = None;
            return standing;
        }
        let Some(look) = self.current_look(tick) else {
            let what = "whom sleeping threads wait for".to_owned();
            gaps.add(Gap { what, reason: "looking at all descriptors takes too long".into() });
            return standing;
        };
        if look.ends().unseen > 0 {
            let what = "descriptors of some processes".to_owned();
            gaps.add(Gap { what, reason: format!("{} processes were not looked at", look.ends().unseen) });
        }
        // A process that is frozen sleeps in some call; what holds it up is not the call.
        pushing.retain(|sleeper| !held.iter().any(|held| held.pid == sleeper.pid));
        let stuck: Vec<u32> =
            held.iter().map(|held| held.pid).chain(pushing.iter().map(|s| s.pid)).chain(blocked).collect();
        let related = related(tick, &look, &stuck);
        let pulling =
            pulling.into_iter().filter(|sleeper| related.contains(&sleeper.pid) && !stuck.contains(&sleeper.pid));
        pushing.extend(pulling);
        if pushing.len() > MAX_FOLLOWED {
            let what = "whom some sleeping threads wait for".to_owned();
            gaps.add(Gap { what, reason: format!("{} more than are followed", pushing.len() - MAX_FOLLOWED) });
            pushing.truncate(MAX_FOLLOWED);
        }
        self.follow(tick, &look, &pushing, &mut standing);
        self.name_listeners(&look, &mut standing);
        queries::name_servers(tick, &look, &mut standing.dns_waits);
        let steps = standing.stalls.iter().flat_map(|stall| &stall.chain).map(|step| step.pid);
        let waited_for: HashSet<u32> = steps.chain(standing.dns_waits.iter().map(|wait| wait.server_pid)).collect();
        let questions = held.iter().take(MAX_STUCK).map(|held| {
            let (look, pid) = (Arc::clone(&look), held.pid);
            (Question::Backlogs(pid), move || chain::backlogs(&look, pid))
        });
        let backlogs = tick.resolver.ask_all(questions);
        for (held, found) in held.iter_mut().zip(backlogs) {
            for backlog in found.unwrap_or_default() {
                let queued = u32::try_from(backlog.used).unwrap_or(u32::MAX);
                if held.listener.is_none() || queued > held.queued {
                    held.listener = Some(backlog.at.unwrap_or_else(|at| at.to_string()));
                }
                held.queued = held.queued.saturating_add(queued);
            }
        }
        // Those that nobody has to do with are left in peace: a shell's stopped jobs, a debugger at work.
        held.retain(|held| held.queued > 0 || waited_for.contains(&held.pid));
        held.sort_by_key(|held| (std::cmp::Reverse(held.queued), held.since_ns, held.pid));
        held.truncate(MAX_NAMED);
        standing.held = held;
        standing
    }

    /// The processes that were held for so long.
    fn held(&self, tick: &Tick<'_>, long_ns: u64) -> Vec<HeldProcess> {
        let mut found = Vec::new();
        for (row, since_ns) in tick.tasks.still() {
            let slept_ns = tick.now_ns.saturating_sub(since_ns.min(last_ran(row.arrived_ns, since_ns)));
            if !row.is_leader() || row.is_kernel_thread() || row.is_dead() || slept_ns < long_ns {
                continue;
            }
            let frozen = self.frozen.get(&row.cgroup_id);
            if (row.is_held() || frozen.is_some()) && found.len() < 8 * MAX_NAMED {
                found.push((row.pid, row.comm, since_ns.min(last_ran(row.arrived_ns, since_ns))));
            }
        }
        let questions = found.iter().map(|(pid, ..)| {
            let pid = *pid;
            (Question::Condition(pid), move || state::condition(pid, pid).ok().map(|(_, condition)| condition))
        });
        let answers = tick.resolver.ask_all(questions);
        let held = found.iter().zip(answers).filter_map(|((pid, comm, since_ns), answer)| {
            let condition = answer.ok().flatten().filter(Condition::is_held)?;
            let step = of_condition(&condition);
            Some(HeldProcess {
                pid: *pid,
                comm: comm.to_str_lossy().into_owned(),
                state: step.state,
                tracer: step.tracer,
                tracer_comm: step.tracer_comm,
                cgroup: step.cgroup,
                thaw_file: step.thaw_file,
                since_ns: *since_ns,
                seconds: seconds(tick.now_ns.saturating_sub(*since_ns)),
                at_end: true,
                ..HeldProcess::default()
            })
        });
        held.collect()
    }

    /// Follows those that may be held up by others, and keeps those that are.
    fn follow(&self, tick: &Tick<'_>, look: &Arc<Look>, sleepers: &[Sleeper], standing: &mut Standing) {
        let questions = sleepers.iter().map(|sleeper| {
            let (look, pid, tid) = (Arc::clone(look), sleeper.pid, sleeper.sleep.0);
            (Question::Waits(tid, sleeper.sleep.2), move || chain::follow(&look, pid, tid).ok())
        });
        let answers = tick.resolver.ask_all(questions);
        for (sleeper, answer) in sleepers.iter().zip(answers) {
            let Ok(Some(chain)) = answer else { continue };
            let moves = self.moves(tick, sleeper, &chain);
            if let Some(stall) = stall(tick, sleeper, &chain, moves)
                && standing.stalls.len() < MAX_NAMED
            {
                standing.stalls.push(stall);
            }
        }
        standing.stalls.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then(a.tid.cmp(&b.tid)));
    }

    /// Whether something goes on between a sleeper and the one that it waits for, however slowly: what one of them writes to changes, one in
    /// between has run, or one was not there yet when it fell asleep.
    fn moves(&self, tick: &Tick<'_>, sleeper: &Sleeper, chain: &Chain) -> bool {
        let changes = |step: &Step| {
            let mut levels = self.levels.iter().filter(|(sleep, _)| sleep.0 == step.tid);
            levels.any(|(_, level)| level.moves)
        };
        let is_new = |step: &Step| {
            tick.tasks.thread(step.tid).is_none_or(|row| row.start_ns > sleeper.since_ns.saturating_add(LONG_NS))
        };
        let ran = |step: &Step| match tick.tasks.still_since(step.tid) {
            Some((_, since_ns)) => tick.now_ns.saturating_sub(since_ns) < LONG_NS.min(tick_ns(tick)),
            None => true,
        };
        let between = chain.steps.len().saturating_sub(2);
        chain.steps.iter().any(changes)
            || chain.steps.iter().skip(1).any(is_new)
            || chain.steps.iter().skip(1).take(between).any(ran)
    }

    /// The listeners that were full.
    fn name_listeners(&mut self, look: &Look, standing: &mut Standing) {
        self.name_holders(look);
        let looks = self.listener_looks;
        let listeners = std::mem::take(&mut self.listeners).into_values();
        standing.full_listeners = listeners.map(|listener| FullListener { looks, ..listener }).collect();
        standing.full_listeners.sort_by(|a, b| b.full.cmp(&a.full).then(a.inode.cmp(&b.inode)));
    }
}

fn named(pid: u32) -> ListenerHolder {
    ListenerHolder { pid, comm: state::name(pid).unwrap_or_default() }
}

/// The threads of programs that have slept for so long, and our own not among them.
fn sleepers(tick: &Tick<'_>, long_ns: u64) -> Vec<Sleeper> {
    let own = std::process::id();
    let long = tick.tasks.still().filter(|(row, since_ns)| {
        let program = !row.is_kernel_thread() && !row.is_dead() && row.pid != own;
        program && !row.is_held() && tick.now_ns.saturating_sub(*since_ns) >= long_ns.min(tick_ns(tick))
    });
    let sleeper = long.filter_map(|(row, since_ns)| {
        let since_ns = since_ns.min(last_ran(row.arrived_ns, since_ns));
        (tick.now_ns.saturating_sub(since_ns) >= long_ns).then(|| Sleeper {
            sleep: (row.tid, row.start_ns, row.waits),
            pid: row.pid,
            since_ns,
            uninterruptible: row.is_uninterruptible(),
        })
    });
    sleeper.collect()
}

/// The length of the window so far: who has slept all of it has slept for most of it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a duration")]
fn tick_ns(tick: &Tick<'_>) -> u64 {
    ((tick.seconds * SHARE).max(0.0) * 1e9) as u64
}

/// When a thread last got a CPU, by that CPU's clock, which runs with `CLOCK_MONOTONIC` but for milliseconds; unless it stands still
/// while the machine is suspended. Then it is not known.
const fn last_ran(arrived_ns: u64, since_ns: u64) -> u64 {
    if arrived_ns > 0 && arrived_ns < since_ns { arrived_ns } else { since_ns }
}

#[allow(clippy::cast_precision_loss, reason = "a duration")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// What a sleep is for.
fn kind(pid: u32, tid: u32, askers: &mut Askers) -> Kind {
    let Ok(doing) = asleep::doing(pid, tid) else { return Kind::Idle };
    if let Some(server) = askers.asked(pid, doing) {
        return Kind::Asks(server);
    }
    let leads_to_another = |fd: u32, writes: bool| {
        let target = asleep::target(pid, fd);
        let ends = matches!(target, Some(Target::Pipe { .. } | Target::Fifo { .. } | Target::Socket { .. }));
        ends || (writes && matches!(target, Some(Target::Terminal { .. })))
    };
    match doing {
        Doing::Writes(fd) if leads_to_another(fd, true) => Kind::Pushes(doing),
        Doing::Moves { to, .. } if leads_to_another(to, true) => Kind::Pushes(doing),
        Doing::Reads(fd) if leads_to_another(fd, false) => Kind::Pulls(doing),
        Doing::Connects(_) | Doing::LocksFile { .. } => Kind::Pushes(doing),
        Doing::Futex(futex) if futex.may_be_lock() => Kind::Pushes(doing),
        Doing::Child(_) => Kind::Pulls(doing),
        _ => Kind::Idle,
    }
}

/// The processes that may wait for one of those that are stuck: at the other ends of what these have open, and their parents.
fn related(tick: &Tick<'_>, look: &Look, stuck: &[u32]) -> HashSet<u32> {
    let mut related = HashSet::new();
    let stuck: HashSet<u32> = stuck.iter().copied().take(MAX_STUCK).collect();
    if stuck.is_empty() {
        return related;
    }
    for pid in &stuck {
        related.extend(tick.tasks.process(*pid).map(|process| process.row.parent_pid));
    }
    look.ends().beside(&stuck, &mut related);
    for pid in &stuck {
        let inodes: HashSet<u64> = look.ends().sockets_of(*pid).map(|(inode, _)| inode).collect();
        if inodes.is_empty() {
            continue;
        }
        if let Some(unix) = look.unix(*pid) {
            let peers = unix.all.iter().filter(|socket| inodes.contains(&u64::from(socket.peer)));
            peers.for_each(|socket| related.extend(holders(look, socket.inode.into())));
            let waiting = unix.all.iter().filter(|socket| inodes.contains(&u64::from(socket.inode)));
            waiting
                .flat_map(|socket| &socket.waiting)
                .for_each(|client| related.extend(holders(look, (*client).into())));
        }
        if let Some(tcp) = look.tcp(*pid) {
            let own: Vec<_> = tcp.iter().filter(|socket| inodes.contains(&socket.inode)).collect();
            for peer in tcp.iter().filter(|socket| socket.inode != 0 && !socket.listens) {
                let to_it = |own: &&crate::waits::net::InetSocket| {
                    (own.local == peer.remote && own.remote == peer.local)
                        || (own.listens && own.local.port() == peer.remote.port())
                };
                if own.iter().any(to_it) {
                    related.extend(holders(look, peer.inode));
                }
            }
        }
    }
    related
}

fn holders(look: &Look, socket: u64) -> impl Iterator<Item = u32> + '_ {
    look.ends().of_socket(socket).iter().map(|holder| holder.pid)
}
