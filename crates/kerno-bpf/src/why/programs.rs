//! The programs: what is loaded, and what they keep.

use std::collections::{HashMap, HashSet};
use std::io;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::event::{Comm, syscall_names};
use crate::probe::{Hook, Host, KernelHash, LoadError, Object, Plan, SummaryPrograms};

/// `CALL_*` in sleep.h, and the calls of each kind.
const CALLS: &[(u8, &[&str])] = &[
    (
        1,
        &[
            "read",
            "write",
            "readv",
            "writev",
            "pread64",
            "pwrite64",
            "preadv",
            "pwritev",
            "preadv2",
            "pwritev2",
            "recvfrom",
            "recvmsg",
            "recvmmsg",
            "sendto",
            "sendmsg",
            "sendmmsg",
            "accept",
            "accept4",
            "connect",
            "fsync",
            "fdatasync",
            "sync_file_range",
            "syncfs",
            "ioctl",
            "fcntl",
            "fcntl64",
            "flock",
            "sendfile",
            "sendfile64",
            "splice",
            "tee",
            "vmsplice",
            "ftruncate",
            "fallocate",
            "getdents",
            "getdents64",
            "fstat",
            "fstat64",
            "newfstat",
            "fstatfs",
            "fchmod",
            "fchown",
            "readahead",
            "copy_file_range",
            "lseek",
            "close",
        ],
    ),
    (2, &["futex", "futex_time64"]),
    (3, &["poll", "ppoll", "ppoll_time64"]),
    (4, &["select", "_newselect", "pselect6", "pselect6_time64"]),
    (5, &["epoll_wait", "epoll_pwait", "epoll_pwait2"]),
    (6, &["nanosleep", "clock_nanosleep", "clock_nanosleep_time64"]),
    (7, &["wait4", "waitid", "waitpid"]),
    (8, &["pause", "rt_sigsuspend", "sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64"]),
    (
        9,
        &[
            "open",
            "stat",
            "stat64",
            "lstat",
            "lstat64",
            "statfs",
            "statfs64",
            "access",
            "chdir",
            "mkdir",
            "rmdir",
            "unlink",
            "rename",
            "link",
            "symlink",
            "readlink",
            "chmod",
            "chown",
            "lchown",
            "truncate",
            "creat",
            "execve",
            "utimes",
            "getxattr",
            "lgetxattr",
            "setxattr",
            "listxattr",
            "umount2",
            "swapoff",
        ],
    ),
    (
        10,
        &[
            "openat",
            "openat2",
            "newfstatat",
            "fstatat64",
            "statx",
            "faccessat",
            "faccessat2",
            "mkdirat",
            "unlinkat",
            "renameat",
            "renameat2",
            "linkat",
            "readlinkat",
            "fchmodat",
            "fchownat",
            "utimensat",
            "execveat",
            "name_to_handle_at",
            "mount",
        ],
    ),
];

/// Mirror of `struct sleep` in why.h, where the fields are explained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Sleep {
    pub(super) place: u64,
    pub(super) object: u64,
    pub(super) device: u32,
    pub(super) tid: u32,
    pub(super) other: u32,
    pub(super) waker: u32,
    pub(super) waker_pid: u32,
    pub(super) call: i32,
    pub(super) fd: i32,
    pub(super) flags: u16,
    pub(super) kind: u8,
    pub(super) pad: u8,
}

/// `SLEEPS_*` in why.h.
pub(super) mod flags {
    pub(in crate::why) const DEEPLY: u16 = 0x01;
    pub(in crate::why) const STOPPED: u16 = 0x02;
    pub(in crate::why) const TRACED: u16 = 0x04;
    pub(in crate::why) const FROZEN: u16 = 0x08;
    pub(in crate::why) const AWAITS: u16 = 0x10;
    pub(in crate::why) const OWES: u16 = 0x20;
    pub(in crate::why) const COMPAT: u16 = 0x40;
    pub(in crate::why) const JOINS: u16 = 0x80;
    pub(in crate::why) const LOCKED: u16 = 0x100;
}

/// Mirror of `struct slept`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Slept {
    pub(super) count: u64,
    pub(super) ns: u64,
    pub(super) longest_ns: u64,
}

/// Mirror of `struct thread`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Thread {
    pub(super) began_ns: u64,
    pub(super) since_ns: u64,
    pub(super) ended_ns: u64,
    pub(super) start_ns: u64,
    pub(super) run_ns: u64,
    pub(super) wait_ns: u64,
    pub(super) throttled_ns: u64,
    pub(super) throttled_mark: u64,
    pub(super) lock: u64,
    pub(super) awaited: [u64; 4],
    pub(super) sleep: Sleep,
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) state: u32,
    pub(super) lock_holder: u32,
    pub(super) owes: u32,
    pub(super) looked: u32,
    pub(super) parent: u32,
    pub(super) pad: u32,
    pub(super) comm: Comm,
}

pub(super) const RUNS: u32 = 1;
pub(super) const WAITS: u32 = 2;
pub(super) const SLEEPS: u32 = 3;
pub(super) const ENDED: u32 = 4;

/// Mirror of `struct cpu_wait_key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct CpuWait {
    pub(super) tid: u32,
    pub(super) holder: u32,
}

/// Mirror of `struct socket_row` in sockets.h.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct SocketRow {
    pub(super) sock: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) awaiting_since_ns: u64,
    pub(super) awaited_ns: u64,
    pub(super) owing_since_ns: u64,
    pub(super) owed_ns: u64,
    pub(super) peer_inode: u64,
    pub(super) unanswered: u32,
    pub(super) awaiting_tid: u32,
    pub(super) owing_tid: u32,
    pub(super) pid: u32,
    pub(super) netns: u32,
    pub(super) family: u16,
    pub(super) kind: u16,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
    pub(super) role: u8,
    pub(super) state: u8,
    pub(super) pad: [u8; 2],
    pub(super) local: [u8; 16],
    pub(super) remote: [u8; 16],
    pub(super) path: [u8; 104],
}

/// `MAX_FRAMES` in place.h.
pub(super) const MAX_FRAMES: usize = 28;
/// `PATH_LEN` in sleep.h.
pub(super) const PATH_LEN: usize = 128;
/// `TARGET_SLOTS` in why.h.
const TARGET_SLOTS: u32 = 1 << 16;
/// What a slot with a target of ours counts from: it must not become 0 when children of targets end.
const SLOT_BASE: u32 = 1 << 20;
/// `MAX_TARGETS`
pub(super) const MAX_TARGETS: usize = 1024;

/// What is loaded on this kernel, and onto which hooks.
pub(crate) fn plan(host: &Host) -> (Object, Plan) {
    let data = aya::include_bytes_aligned!("../../objects/why.bpf.o");
    let mut plan = Plan::default();
    plan.attach("on_task", Hook::Iterator("task"));
    plan.attach("on_file", Hook::Iterator("task_file"));
    plan.attach("on_sched_switch", Hook::Tracepoint("sched_switch"));
    plan.attach("on_sched_waking", Hook::Tracepoint("sched_waking"));
    plan.attach("on_sched_wakeup_new", Hook::Tracepoint("sched_wakeup_new"));
    // Since 5.19, since 6.3.
    for (program, hook) in [
        ("on_contention_begin", "contention_begin"),
        ("on_contention_end", "contention_end"),
        ("on_sock_send_length", "sock_send_length"),
        ("on_sock_recv_length", "sock_recv_length"),
    ] {
        if host.tracepoint_arity(hook).is_some() {
            plan.attach(program, Hook::Tracepoint(hook));
        }
    }
    let mut native = [0u8; syscall_names::MAX_SYSCALLS];
    let mut compat = native;
    for (kind, names) in CALLS {
        for name in *names {
            let numbers: (Option<u32>, Option<u32>) = syscall_names::numbers(name);
            for (table, number) in [(&mut native, numbers.0), (&mut compat, numbers.1)] {
                if let Some(place) = number.and_then(|number| table.get_mut(number as usize)) {
                    *place = *kind;
                }
            }
        }
    }
    plan.set("cfg_calls", &native);
    plan.set("cfg_compat_calls", &compat);
    (Object { name: "why", data }, plan)
}

/// The programs, attached.
#[derive(Debug)]
pub(super) struct Programs {
    programs: SummaryPrograms,
    targets: KernelHash<u32, u32>,
    threads: KernelHash<u32, Thread>,
    sleeps: KernelHash<Sleep, Slept>,
    cpu_waits: KernelHash<CpuWait, u64>,
    sockets: KernelHash<u64, SocketRow>,
    places: KernelHash<u64, [u64; MAX_FRAMES]>,
    paths: KernelHash<u64, [u8; PATH_LEN]>,
    watched: HashSet<u32>,
    /// How many targets share a slot.
    slots: HashMap<u32, u32>,
    listeners: HashSet<u16>,
    buffer: Vec<u8>,
}

/// All that the programs have kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) threads: HashMap<u32, Thread>,
    pub(super) sleeps: HashMap<Sleep, Slept>,
    pub(super) cpu_waits: HashMap<CpuWait, u64>,
    pub(super) sockets: HashMap<u64, SocketRow>,
    pub(super) places: HashMap<u64, [u64; MAX_FRAMES]>,
    pub(super) paths: HashMap<u64, [u8; PATH_LEN]>,
}

impl Programs {
    pub(super) fn attach(host: &Host) -> Result<Self, LoadError> {
        let (object, plan) = plan(host);
        let mut programs = SummaryPrograms::load(object, plan, host)?;
        let this = Self {
            targets: programs.hash("targets")?,
            threads: programs.hash("threads")?,
            sleeps: programs.hash("sleeps")?,
            cpu_waits: programs.hash("cpu_waits")?,
            sockets: programs.hash("sockets")?,
            places: programs.hash("places")?,
            paths: programs.hash("paths")?,
            programs,
            watched: HashSet::new(),
            slots: HashMap::new(),
            listeners: HashSet::new(),
            buffer: Vec::new(),
        };
        let mut this = this;
        this.programs.attach()?;
        Ok(this)
    }

    /// From now on these are followed, too. Returns how many there was no room for.
    pub(super) fn follow(&mut self, pids: impl IntoIterator<Item = u32>) -> io::Result<usize> {
        let mut refused = 0;
        let before = self.watched.len();
        for pid in pids {
            if self.watched.contains(&pid) {
                continue;
            }
            if self.watched.len() >= MAX_TARGETS {
                refused += 1;
                continue;
            }
            // Those that end give their place back in the kernel, where their children take one, too: a slot only ever becomes larger here.
            let slot = pid & (TARGET_SLOTS - 1);
            let sharing = self.slots.entry(slot).or_insert(SLOT_BASE);
            *sharing += 1;
            self.programs.tell_at("target_slots", slot, *sharing)?;
            self.targets.set(&pid, &1)?;
            self.watched.insert(pid);
        }
        if self.watched.len() > before {
            self.programs.iterate("on_task", &mut self.buffer)?;
            self.programs.iterate("on_file", &mut self.buffer)?;
            self.programs.iterate("on_task", &mut self.buffer)?;
        }
        Ok(refused)
    }

    pub(super) fn follows(&self, pid: u32) -> bool {
        self.watched.contains(&pid)
    }

    /// Ports on which somebody listens: whoever uses them has taken the connection.
    pub(super) fn listeners(&mut self, ports: impl IntoIterator<Item = u16>) -> io::Result<()> {
        for port in ports {
            if self.listeners.insert(port) {
                self.programs.tell_at("listeners", u32::from(port), 1)?;
            }
        }
        Ok(())
    }

    pub(super) fn read(&self) -> io::Result<Kept> {
        Ok(Kept {
            threads: self.threads.read()?,
            sleeps: self.sleeps.read()?,
            cpu_waits: self.cpu_waits.read()?,
            sockets: self.sockets.read()?,
            places: self.places.read()?,
            paths: self.paths.read()?,
        })
    }

    pub(super) fn loss(&self) -> kerno_model::SummaryLoss {
        self.programs.loss()
    }
}
