//! What a sleep was spent in, from the call, the object and the functions of the kernel.

use kerno_model::{BlockedTask, TimeKind, WaitedFor, WaitsFor, WhyProcess, fill};

use super::observed::{Family, Held, Object, Observation, ObservedSleep, ObservedThread};
use crate::knowledge::wait_channels::{place, waits_for};

/// Calls that a server waits in for work.
const TAKES_WORK: &[&str] = &["accept", "accept4"];
/// Calls that send.
const SENDS: &[&str] = &[
    "write",
    "writev",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "sendfile",
    "sendfile64",
    "splice",
];
/// Calls that lock files.
const FILE_LOCKS: &[&str] = &["flock", "fcntl", "fcntl64"];

/// Functions that say what is waited for, before anything else does. The innermost frame that matches decides.
const PLACES: &[(&str, TimeKind)] = &[
    ("mem_cgroup_oom_synchronize", TimeKind::Memory),
    ("mem_cgroup_handle_over_high", TimeKind::Memory),
    ("__mem_cgroup_handle_over_high", TimeKind::Memory),
    ("try_to_free_", TimeKind::Memory),
    ("shrink_", TimeKind::Memory),
    ("reclaim_throttle", TimeKind::Memory),
    ("throttle_direct_reclaim", TimeKind::Memory),
    ("compact_zone", TimeKind::Memory),
    ("migrate_pages", TimeKind::Memory),
    ("do_swap_page", TimeKind::Memory),
    ("swap_read", TimeKind::Memory),
    ("balance_dirty_pages", TimeKind::Disk),
    ("handle_userfault", TimeKind::Userfault),
    ("fanotify_", TimeKind::Fanotify),
    ("wait_for_vfork_done", TimeKind::Child),
    ("coredump_", TimeKind::Other),
    ("do_coredump", TimeKind::Other),
    ("locks_lock_inode_wait", TimeKind::Lock),
    ("posix_lock_inode_wait", TimeKind::Lock),
    ("flock_lock_inode_wait", TimeKind::Lock),
    ("do_semtimedop", TimeKind::Lock),
    ("eventfd_", TimeKind::Event),
    ("io_cqring_wait", TimeKind::Idle),
    ("read_events", TimeKind::Disk),
    ("inotify_read", TimeKind::Idle),
    ("signalfd_", TimeKind::Idle),
    ("timerfd_", TimeKind::Timer),
    ("n_tty_read", TimeKind::Idle),
    ("n_tty_write", TimeKind::Pipe),
    ("do_msgrcv", TimeKind::Idle),
    ("wq_sleep", TimeKind::Idle),
    ("kvm_vcpu_", TimeKind::Idle),
    ("fuse_dev_do_read", TimeKind::Idle),
    ("wait_for_partner", TimeKind::Pipe),
    ("fifo_open", TimeKind::Pipe),
    ("do_syslog", TimeKind::Idle),
    ("devkmsg_read", TimeKind::Idle),
];

/// Judges one kind of sleep.
pub(super) fn judge(sleep: &ObservedSleep, thread: &ObservedThread, seen: &Observation) -> (TimeKind, WaitedFor) {
    let mut on = fill!(WaitedFor { call: sleep.call.unwrap_or_default().to_owned() });
    let named = |pid: u32| WhyProcess { pid, comm: seen.names.get(&pid).cloned().unwrap_or_default() };
    match &sleep.held {
        Held::Stopped => return (TimeKind::Stopped, on),
        Held::Traced(tracer) => {
            on.processes = vec![named(*tracer)];
            return (TimeKind::Traced, on);
        }
        Held::Frozen(cgroup) => {
            on.object.clone_from(cgroup);
            return (TimeKind::Frozen, on);
        }
        Held::No => {}
    }
    let task = fill_task(sleep);
    on.place = place(&task).unwrap_or_default().to_owned();
    let by_place = by_place(sleep);
    let kind = match (&sleep.object, by_place) {
        (Object::Lock, _) => {
            lock(sleep, &named, &mut on);
            TimeKind::Lock
        }
        (object, Some(kind)) => {
            describe(object, &mut on);
            who_ended(sleep, thread, &named, &mut on);
            match kind {
                TimeKind::Lock => holders(object, &mut on),
                // Frames of an event or of completions: work, unless somebody waits for an answer.
                TimeKind::Event if !sleep.owes && !sleep.awaits && on.processes.is_empty() => {
                    return (TimeKind::Idle, on);
                }
                TimeKind::Event if !on.processes.is_empty() => return (TimeKind::Thread, on),
                _ => {}
            }
            kind
        }
        (object, None) => by_object(object, sleep, thread, &named, &mut on),
    };
    if kind != TimeKind::Other {
        return (kind, on);
    }
    (by_meaning(&task, sleep, &mut on), on)
}

fn fill_task(sleep: &ObservedSleep) -> BlockedTask {
    BlockedTask { stack: sleep.frames.to_vec(), ..BlockedTask::default() }
}

fn by_place(sleep: &ObservedSleep) -> Option<TimeKind> {
    let near = sleep.frames.iter().take(16);
    near.filter_map(|frame| PLACES.iter().find(|(name, _)| frame.starts_with(name))).map(|(_, kind)| *kind).next()
}

/// By what is known of the kernel's functions in general.
fn by_meaning(task: &BlockedTask, sleep: &ObservedSleep, on: &mut WaitedFor) -> TimeKind {
    match waits_for(task) {
        WaitsFor::Storage | WaitsFor::PageLock | WaitsFor::Thaw => TimeKind::Disk,
        WaitsFor::Memory => TimeKind::Memory,
        WaitsFor::Fuse => TimeKind::Fuse,
        WaitsFor::Nfs | WaitsFor::Smb => TimeKind::NetworkFs,
        WaitsFor::Lock => TimeKind::Lock,
        _ if matches!(sleep.object, Object::File { .. }) && sleep.deeply => TimeKind::Disk,
        _ => {
            if on.place.is_empty() && sleep.call.is_none() {
                on.detail = "not in a system call".into();
            }
            TimeKind::Other
        }
    }
}

fn describe(object: &Object, on: &mut WaitedFor) {
    match object {
        Object::File { path, device, servers, mount, filesystem, .. } => {
            on.object.clone_from(path);
            on.device.clone_from(device);
            on.processes.clone_from(servers);
            if !servers.is_empty() || filesystem.starts_with("fuse") || filesystem.starts_with("nfs") {
                on.detail = format!("{filesystem} mounted on {mount}");
            }
        }
        Object::Pipe { name, others } => {
            on.object.clone_from(name);
            on.processes.clone_from(others);
        }
        Object::Socket { address, peers, .. } => {
            on.object.clone_from(address);
            on.processes.clone_from(peers);
        }
        Object::Device { name } => on.object.clone_from(name),
        Object::Futex { address, .. } => on.object = format!("futex {address:#x}"),
        Object::Poll(Some(socket)) => describe(socket, on),
        Object::Child { children } => on.processes.clone_from(children),
        Object::Unknown | Object::Poll(None) | Object::Timer | Object::Signal | Object::Lock => {}
    }
}

/// The process or thread that ended the sleep, if it is not the thread itself.
fn who_ended(sleep: &ObservedSleep, thread: &ObservedThread, named: &impl Fn(u32) -> WhyProcess, on: &mut WaitedFor) {
    if let Some((pid, tid)) = sleep.waker.filter(|(_, tid)| *tid != thread.tid) {
        if on.processes.is_empty() {
            on.processes = vec![named(pid)];
        }
        if pid == thread.pid {
            on.tid = Some(tid);
        }
    }
}

fn lock(sleep: &ObservedSleep, named: &impl Fn(u32) -> WhyProcess, on: &mut WaitedFor) {
    on.detail = "lock of the kernel".into();
    if let Some((pid, tid)) = sleep.other {
        on.processes = vec![named(pid)];
        on.tid = Some(tid);
    }
}

fn holders(object: &Object, on: &mut WaitedFor) {
    if let Object::File { lock_holders, .. } = object {
        on.processes.clone_from(lock_holders);
        on.detail = "lock of the file".into();
    }
}

fn by_object(
    object: &Object,
    sleep: &ObservedSleep,
    thread: &ObservedThread,
    named: &impl Fn(u32) -> WhyProcess,
    on: &mut WaitedFor,
) -> TimeKind {
    let call = sleep.call.unwrap_or_default();
    describe(object, on);
    match object {
        Object::File { .. } if FILE_LOCKS.contains(&call) && !sleep.deeply => {
            holders(object, on);
            TimeKind::Lock
        }
        Object::Pipe { others, .. } => {
            let alone = others.is_empty() && sleep.waker.is_none_or(|(pid, _)| pid == thread.pid);
            if alone && !SENDS.contains(&call) {
                // Its own pipe: how event loops and signal handlers wake themselves.
                who_ended(sleep, thread, named, on);
                return if on.tid.is_some() { TimeKind::Thread } else { TimeKind::Idle };
            }
            if others.is_empty() {
                who_ended(sleep, thread, named, on);
            }
            TimeKind::Pipe
        }
        Object::Socket { family, .. } => {
            server_itself(sleep, thread, named, on);
            socket(*family, sleep, call, on)
        }
        Object::Futex { locked, .. } => futex(*locked, sleep, thread, named, on),
        Object::Poll(awaited) => poll(awaited.as_deref(), sleep, thread, named, on),
        Object::Timer => TimeKind::Timer,
        Object::Child { .. } => {
            if let Some((pid, _)) = sleep.waker.filter(|_| on.processes.len() != 1) {
                on.processes = vec![named(pid)];
            }
            TimeKind::Child
        }
        Object::Signal => TimeKind::Idle,
        Object::Device { .. } => TimeKind::Other,
        Object::Lock | Object::File { .. } | Object::Unknown => TimeKind::Other,
    }
}

const fn of_family(family: Family) -> TimeKind {
    match family {
        Family::Tcp => TimeKind::Tcp,
        Family::Udp => TimeKind::Udp,
        Family::Unix => TimeKind::UnixSocket,
        Family::Other => TimeKind::Idle,
    }
}

/// Whoever sent the answer, where only the listener is known: its child for this connection, which is gone by now.
fn server_itself(
    sleep: &ObservedSleep,
    thread: &ObservedThread,
    named: &impl Fn(u32) -> WhyProcess,
    on: &mut WaitedFor,
) {
    let Some((pid, _)) = sleep.waker.filter(|(pid, _)| *pid != thread.pid) else { return };
    let waker = named(pid);
    if !waker.comm.is_empty()
        && on.processes.iter().all(|process| process.comm == waker.comm)
        && !on.processes.is_empty()
    {
        on.processes = vec![waker];
    }
}

fn socket(family: Family, sleep: &ObservedSleep, call: &str, on: &mut WaitedFor) -> TimeKind {
    let waits = call == "connect" || SENDS.contains(&call) || sleep.awaits || sleep.owes;
    if TAKES_WORK.contains(&call) || !waits {
        on.processes.clear();
        return TimeKind::Idle;
    }
    of_family(family)
}

fn futex(
    locked: bool,
    sleep: &ObservedSleep,
    thread: &ObservedThread,
    named: &impl Fn(u32) -> WhyProcess,
    on: &mut WaitedFor,
) -> TimeKind {
    if let Some((pid, tid)) = sleep.other {
        on.processes = vec![named(pid)];
        on.tid = Some(tid);
        if sleep.joins {
            on.detail = "until it ends".into();
            return TimeKind::Thread;
        }
        return TimeKind::Lock;
    }
    if locked {
        who_ended(sleep, thread, named, on);
        return TimeKind::Lock;
    }
    who_ended(sleep, thread, named, on);
    // Without a waker nothing came all the time: a worker without work.
    if on.processes.is_empty() { TimeKind::Idle } else { TimeKind::Thread }
}

fn poll(
    awaited: Option<&Object>,
    sleep: &ObservedSleep,
    thread: &ObservedThread,
    named: &impl Fn(u32) -> WhyProcess,
    on: &mut WaitedFor,
) -> TimeKind {
    if let Some(Object::Socket { family, .. }) = awaited {
        server_itself(sleep, thread, named, on);
        return of_family(*family);
    }
    if !sleep.owes {
        return TimeKind::Idle;
    }
    who_ended(sleep, thread, named, on);
    if on.tid.is_some() { TimeKind::Thread } else { TimeKind::Event }
}
