//! Chains and states as a window tells them.

use crate::engine::Tick;
use crate::waits::asleep::FileLock;
use crate::waits::chain::{Chain, Need, Step, Thing, Waits};
use crate::waits::state::Condition;
use kerno_model::{Address, Awaited, AwaitedKind, Stall, StallNeed, StallStep, StandingState};

use super::{LONG_NS, Sleeper, last_ran, seconds};

/// The stall that a chain shows, if somebody else is the reason for it.
pub(super) fn stall(tick: &Tick<'_>, sleeper: &Sleeper, chain: &Chain, moves: bool) -> Option<Stall> {
    let first = chain.steps.first()?;
    // It may have woken up in the meantime.
    if first.condition.is_held() || !matches!(first.condition, Condition::Sleeps | Condition::Blocked) {
        return None;
    }
    let waits = first.waits.as_ref()?;
    let deadlock = chain.cycle.is_some();
    let root = chain.root()?;
    let held_up = |step: &Step| {
        step.condition.is_held()
            || step.condition == Condition::Blocked
            || step.waits.as_ref().is_some_and(|waits| matches!(waits.need, Need::Room | Need::Release | Need::Accept))
    };
    let fault = match waits.need {
        Need::Room | Need::Release | Need::Accept => true,
        Need::Data | Need::End => deadlock || chain.steps.iter().skip(1).any(held_up),
    };
    // Whoever waits for data or an end that nobody owes waits by design.
    let owed = chain.steps.len() > 1 || matches!(waits.need, Need::Room | Need::Release | Need::Accept);
    // A deadlock of threads that only wait for each other's data or ends is a protocol that we do not know.
    let hard = !deadlock
        || chain
            .steps
            .iter()
            .skip(chain.cycle.unwrap_or(0))
            .any(|step| step.waits.as_ref().is_some_and(|waits| matches!(waits.need, Need::Room | Need::Release)));
    if !fault || !owed || !hard || (root.pid == std::process::id() && chain.steps.len() > 1) {
        return None;
    }
    let closing = chain.cycle.and_then(|place| chain.steps.get(place));
    Some(Stall {
        pid: sleeper.pid,
        tid: sleeper.sleep.0,
        comm: first.stat.comm.clone(),
        seconds: seconds(tick.now_ns.saturating_sub(sleeper.since_ns)),
        since_ns: sleeper.since_ns,
        at_end: true,
        call: first.call.as_ref().and_then(|call| call.name()).unwrap_or_default().to_owned(),
        awaits: awaited(waits),
        moves,
        // The one that closes a circle stands at its end, too.
        chain: chain.steps.iter().skip(1).chain(closing).map(|step| model_step(tick, step)).collect(),
        deadlock,
    })
}

fn model_step(tick: &Tick<'_>, step: &Step) -> StallStep {
    let still_ns =
        tick.tasks.still_since(step.tid).map_or(0, |(row, since_ns)| since_ns.min(last_ran(row.arrived_ns, since_ns)));
    let stat = &step.stat;
    StallStep {
        pid: step.pid,
        tid: step.tid,
        comm: stat.comm.clone(),
        call: step.call.as_ref().and_then(|call| call.name()).map(str::to_owned),
        wait_channel: step.wait_channel.clone(),
        still_since_ns: if tick.now_ns.saturating_sub(still_ns) >= LONG_NS { still_ns } else { 0 },
        interactive: stat.terminal != 0 && stat.foreground_group == stat.group,
        awaits: step.waits.as_ref().map(awaited),
        ..of_condition(&step.condition)
    }
}

/// What a process does, in a word.
pub(crate) fn standing_state(condition: &Condition) -> StandingState {
    of_condition(condition).state
}

pub(super) fn of_condition(condition: &Condition) -> StallStep {
    let state = match condition {
        Condition::Runs => StandingState::Runs,
        Condition::Sleeps => StandingState::Sleeps,
        Condition::Blocked => StandingState::Blocked,
        Condition::Stopped => StandingState::Stopped,
        Condition::Traced { by } => {
            let (tracer, tracer_comm) = by.clone().map_or_else(Default::default, |by| (by.pid, by.comm));
            return StallStep { state: StandingState::Traced, tracer, tracer_comm, ..StallStep::default() };
        }
        Condition::Frozen { cgroup, file } => {
            let (cgroup, thaw_file) = (Some(cgroup.clone()), Some(file.clone()));
            return StallStep { state: StandingState::Frozen, cgroup, thaw_file, ..StallStep::default() };
        }
        Condition::Zombie => StandingState::Zombie,
    };
    StallStep { state, ..StallStep::default() }
}

fn awaited(waits: &Waits) -> Awaited {
    let need = match waits.need {
        Need::Room => StallNeed::Room,
        Need::Data => StallNeed::Data,
        Need::Release => StallNeed::Release,
        Need::Accept => StallNeed::Accept,
        Need::End => StallNeed::End,
    };
    let some = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let base = Awaited { need, waiters: some(waits.waiters), others: some(waits.others), ..Awaited::default() };
    let named = |kind, name: &Option<String>| Awaited { kind, name: name.clone(), ..base.clone() };
    match &waits.thing {
        Thing::Pipe { inode } => Awaited { id: *inode, ..named(AwaitedKind::Pipe, &None) },
        Thing::Fifo { path } => named(AwaitedKind::Fifo, &Some(path.clone())),
        Thing::Unix { name, datagrams: true } => named(AwaitedKind::UnixDatagrams, name),
        Thing::Unix { name, .. } => named(AwaitedKind::UnixSocket, name),
        Thing::Listener { name, used, backlog } => {
            Awaited { queued: *used, backlog: *backlog, ..named(AwaitedKind::UnixListener, name) }
        }
        Thing::Tcp { local, remote } => {
            let (local, remote) = (Some(Address::from(*local)), Some(Address::from(*remote)));
            Awaited { local, remote, ..named(AwaitedKind::Tcp, &None) }
        }
        Thing::Terminal { path } => named(AwaitedKind::Terminal, &Some(path.clone())),
        Thing::FileLock { kind, path, file } => {
            let kind = match kind {
                FileLock::Flock => AwaitedKind::Flock,
                FileLock::Posix => AwaitedKind::PosixLock,
                FileLock::Ofd => AwaitedKind::OfdLock,
                FileLock::Lease => AwaitedKind::Lease,
            };
            Awaited { id: file.inode, ..named(kind, path) }
        }
        Thing::Mutex { address } => Awaited { id: *address, ..named(AwaitedKind::Mutex, &None) },
        Thing::Thread => named(AwaitedKind::Thread, &None),
        Thing::Child => named(AwaitedKind::Child, &None),
    }
}
