use crate::EventType;
use crate::calls;
use crate::event::syscall_names;
use crate::probe::{FilterKind, Group, Hook, Host, LoadError, Options, Plan, Signal, SignalLoader};

/// Loads `fd_track`: [`FdEvent`](crate::FdEvent)s.
pub type FdTrackLoader = SignalLoader<FdTrack>;

/// The signal's marker.
#[derive(Debug)]
pub struct FdTrack;

/// The calls that change descriptors, by how each tells which: the values of `CALL_*` in the C source.
const CALLS: &[(u8, &[&str])] = &[
    (
        1,
        &[
            "accept",
            "accept4",
            "creat",
            "dup",
            "epoll_create",
            "epoll_create1",
            "eventfd",
            "eventfd2",
            "fanotify_init",
            "fsmount",
            "fsopen",
            "fspick",
            "inotify_init",
            "inotify_init1",
            "memfd_create",
            "memfd_secret",
            "mq_open",
            "open",
            "open_by_handle_at",
            "open_tree",
            "open_tree_attr",
            "openat",
            "openat2",
            "perf_event_open",
            "pidfd_getfd",
            "pidfd_open",
            "socket",
            "timerfd_create",
            "userfaultfd",
        ],
    ),
    (2, &["close"]),
    (3, &["close_range"]),
    (4, &["dup2", "dup3"]),
    (5, &["fcntl", "fcntl64"]),
    (6, &["pipe", "pipe2"]),
    (7, &["socketpair"]),
    (8, &["signalfd", "signalfd4"]),
    (9, &["bpf"]),
    (10, &["seccomp"]),
    (11, &["landlock_create_ruleset"]),
    (12, &["io_uring_setup"]),
    (13, &["clone"]),
    (14, &["clone3"]),
    (15, &["recvmsg"]),
    (16, &["recvmmsg", "recvmmsg_time64"]),
    (17, &["getsockopt"]),
    (18, &["ioctl"]),
    (19, &["execve", "execveat"]),
    (20, &["socketcall"]),
];

/// How many elements its maps have: threads in `dup2` and `ioctl` (`PENDING_SLOTS` in calls.h), execs between their snapshot and
/// their end, processes that end and requests that accept again and again, of each at once.
const MAPS: [(&str, u32); 4] = [("pending", 1 << 16), ("execs", 64), ("dead_tables", 1024), ("accepting", 1024)];

/// Which part of a call's name list decides whether a source other than a call is asked for.
const SOURCES: [(&str, &[&str]); 3] = [
    ("cfg_exec", &["execve", "execveat"]),
    ("cfg_exit", &["exit", "exit_group"]),
    ("cfg_io_uring", &["io_uring_enter"]),
];

impl Signal for FdTrack {
    const NAME: &'static str = "fd_track";
    const TYPE: EventType = EventType::FdTrack;
    const OBJECT: &'static [u8] = aya::include_bytes_aligned!("../../../objects/fd_track.bpf.o");
    const GROUP: Option<&'static Group> = Some(&calls::EVENTS);
    const FILTERS: &'static [FilterKind] =
        &[FilterKind::Pids, FilterKind::Comms, FilterKind::Uids, FilterKind::Cgroups, FilterKind::Syscalls];

    fn hooks(host: &Host, plan: &mut Plan) -> Result<(), LoadError> {
        // What ends before what begins: a beginning that nothing would take up would be stale when it is next read.
        plan.attach("on_sched_process_exit", Hook::Tracepoint("sched_process_exit"));
        plan.attach("on_sched_process_exec", Hook::Tracepoint("sched_process_exec"));
        plan.attach("on_sys_exit", Hook::Tracepoint("sys_exit"));
        plan.attach("on_sys_enter", Hook::Tracepoint("sys_enter"));
        if host.tracepoint_arity("sched_prepare_exec").is_some() {
            plan.attach("on_sched_prepare_exec", Hook::Tracepoint("sched_prepare_exec"));
        } else {
            plan.set("cfg_exec_at_entry", &1u8);
        }
        if let Some(flag) = host.enum_value("IO_RING_F_COMPAT") {
            plan.set("cfg_ring_compat", &flag);
        }
        let completion = host.uring_completion_arity();
        match completion {
            Some(3) => plan.attach("on_io_uring_complete", Hook::Tracepoint("io_uring_complete")),
            Some(7) => plan.attach("on_io_uring_complete_in_pieces", Hook::Tracepoint("io_uring_complete")),
            _ => {}
        }
        if completion.is_some() && host.tracepoint_arity("io_uring_submit_req") == Some(1) {
            plan.attach("on_io_uring_submit_req", Hook::Tracepoint("io_uring_submit_req"));
        }
        Ok(())
    }

    fn knobs(options: &Options, plan: &mut Plan) -> Result<(), LoadError> {
        plan.map_entries.extend(MAPS);
        let asked = &options.filter.syscalls;
        for name in asked {
            syscall_names::numbers_asked_for(name)?;
        }
        let is_asked = |name: &str| asked.is_empty() || asked.iter().any(|asked| asked == name);
        let (mut native, mut compat) = ([0u8; syscall_names::MAX_SYSCALLS], [0u8; syscall_names::MAX_SYSCALLS]);
        for (kind, names) in CALLS {
            for name in names.iter().filter(|name| is_asked(name)) {
                let (native_nr, compat_nr) = syscall_names::numbers(name);
                for (table, nr) in [(&mut native, native_nr), (&mut compat, compat_nr)] {
                    if let Some(entry) = nr.and_then(|nr| table.get_mut(nr as usize)) {
                        *entry = *kind;
                    }
                }
            }
        }
        plan.set("cfg_calls", &native);
        plan.set("cfg_compat_calls", &compat);
        for (knob, names) in SOURCES {
            plan.set(knob, &u8::from(names.iter().any(|name| is_asked(name))));
        }
        Ok(())
    }
}
