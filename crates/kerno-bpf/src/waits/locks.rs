//! Who holds a lock: of a file, by `/proc/locks`; of a mutex, by the lock word in the program's memory.

use std::io;

use super::asleep::{FileLock, Futex};
use super::ends::{Ends, Holder, fdinfo};
use super::state::{thread_by_own_id, threads};

/// The most lines of `/proc/locks` that are kept.
const MAX_LOCKS: usize = 1 << 16;
/// The most threads of a process among which an owner is looked for.
const MAX_THREADS: usize = 512;
/// The most waiters that are told.
const MAX_WAITERS: usize = 64;

/// Which file: the numbers of its file system's device, and its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileId {
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
}

/// One line of `/proc/locks`: a lock, or a wish for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lock {
    /// The lock that it is about: the wishes for a lock have the number of the lock.
    number: u32,
    pub(crate) kind: FileLock,
    pub(crate) writes: bool,
    /// The process that asked for it; `None` for an OFD lock, which belongs to no process.
    pub(crate) pid: Option<u32>,
    pub(crate) file: FileId,
    /// It waits for the lock.
    pub(crate) waits: bool,
}

/// All locks of files.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    lines: Vec<Lock>,
    /// There were more than are kept.
    pub(crate) cut: bool,
}

impl Locks {
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string("/proc/locks")?))
    }

    fn parse(text: &str) -> Self {
        let mut all = text.lines().filter_map(parse_line);
        let lines: Vec<_> = all.by_ref().take(MAX_LOCKS).collect();
        Self { lines, cut: all.next().is_some() }
    }

    /// The wish of this process for a lock: of a file, if it is known which.
    pub(crate) fn wish_of(&self, pid: u32, kind: FileLock, inode: Option<u64>) -> Option<&Lock> {
        let is_it = |lock: &&Lock| {
            let same_file = inode.is_none_or(|inode| lock.file.inode == inode);
            // A wish for an OFD lock is nobody's.
            let same_process = if kind == FileLock::Ofd { inode.is_some() } else { lock.pid == Some(pid) };
            lock.waits && lock.kind == kind && same_file && same_process
        };
        self.lines.iter().find(is_it)
    }

    /// The lock that a wish waits for.
    pub(crate) fn held(&self, wish: &Lock) -> Option<&Lock> {
        self.lines.iter().find(|lock| lock.number == wish.number && !lock.waits)
    }

    /// How many wait for a lock, and the processes among them that are known.
    pub(crate) fn waiters(&self, held: &Lock) -> (usize, Vec<u32>) {
        let all: Vec<_> = self.lines.iter().filter(|lock| lock.number == held.number && lock.waits).collect();
        let mut pids: Vec<_> = all.iter().filter_map(|lock| lock.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids.truncate(MAX_WAITERS);
        (all.len(), pids)
    }

    /// All wishes.
    pub(crate) fn wishes(&self) -> impl Iterator<Item = &Lock> {
        self.lines.iter().filter(|lock| lock.waits)
    }
}

/// A line such as `1: -> POSIX  ADVISORY  WRITE 4711 08:01:5678 0 EOF`.
fn parse_line(line: &str) -> Option<Lock> {
    let (number, rest) = line.split_once(':')?;
    let mut words = rest.split_whitespace().peekable();
    let waits = words.next_if_eq(&"->").is_some();
    let kind = match words.next()? {
        "FLOCK" => FileLock::Flock,
        "POSIX" => FileLock::Posix,
        "OFDLCK" => FileLock::Ofd,
        "LEASE" | "DELEG" => FileLock::Lease,
        _ => return None,
    };
    let mut words = words.skip(1);
    let (access, pid, file) = (words.next()?, words.next()?, words.next()?);
    let mut parts = file.split(':');
    let mut hex = || u32::from_str_radix(parts.next()?, 16).ok();
    let device = (hex()?, hex()?);
    Some(Lock {
        number: number.trim().parse().ok()?,
        kind,
        writes: access == "WRITE",
        pid: pid.parse().ok().filter(|pid| *pid > 0),
        file: FileId { device, inode: parts.next()?.parse().ok()? },
        waits,
    })
}

/// The processes that have the open file which a lock belongs to. A lock of flock(2) or an OFD lock belongs to an open file, which
/// children inherit: who asked for it may be gone. `ends` knows who has the file open.
pub(crate) fn holders(held: &Lock, path: &str, ends: &Ends) -> Vec<Holder> {
    let has_it = |holder: &Holder| {
        let info = fdinfo(*holder).unwrap_or_default();
        let locks = info.lines().filter_map(|line| parse_line(line.strip_prefix("lock:")?.trim()));
        let mut same = locks.filter(|lock| !lock.waits && lock.kind == held.kind && lock.file.inode == held.file.inode);
        same.any(|lock| lock.pid == held.pid && lock.writes == held.writes)
    };
    ends.of_file(path, held.file.inode).into_iter().filter(has_it).collect()
}

/// Who has what a thread waits for at a futex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A lock that this thread holds.
    Lock { pid: u32, tid: u32 },
    /// The end of this thread, as pthread_join waits for it.
    End { pid: u32, tid: u32 },
    /// A lock that somebody holds, whom the word does not tell.
    Unknown,
}

/// `FUTEX_WAITERS` and `FUTEX_OWNER_DIED` in a word that holds a thread id.
const WAITERS: u32 = 1 << 31;
const TID_MASK: u32 = 0x3fff_ffff;
/// In the kind of a `pthread_mutex_t`: other processes may use it.
const SHARED: u32 = 0x80;

/// The owner of a futex; `None` if it is no lock that is held, such as a condition variable. Reads the words at its address in the
/// program's memory, and believes them only as far as they name a thread that is there.
pub(crate) fn owner(pid: u32, tid: u32, futex: Futex) -> Option<Owner> {
    let words = memory(pid, futex.address)?;
    let word = *words.first()?;
    let found = |own: u32| thread_by_own_id(pid, own, MAX_THREADS).filter(|owner| *owner != tid);
    let lock = |owner: u32| Owner::Lock { pid, tid: owner };
    match futex.command {
        // FUTEX_LOCK_PI, FUTEX_LOCK_PI2: the kernel's own protocol.
        6 | 13 => Some(found(word & TID_MASK).map_or(Owner::Unknown, lock)),
        // FUTEX_WAIT, FUTEX_WAIT_BITSET: it has changed since; the thread is about to wake up.
        0 | 9 if word != futex.expected => None,
        0 | 9 if word & WAITERS != 0 => found(word & TID_MASK).map(lock),
        // pthread_join: the kernel clears the word when the thread ends.
        0 | 9 if !futex.private && word > 2 => found(word).map(|tid| Owner::End { pid, tid }),
        // pthread_mutex_t of glibc: lock, count, owner, users, kind.
        0 if word == 2 => {
            let [_, _, owner, users, kind] = words;
            let plausible = owner != 0 && (1..=0x10000).contains(&users) && kind < 0x400;
            if !plausible {
                None
            } else if futex.private {
                found(owner).map(lock)
            } else if kind & SHARED != 0 {
                // In its memory, the id is that of its own namespace; of another process only our own namespace is looked at.
                found(owner).map(lock).or_else(|| shared_owner(pid, owner, futex.address))
            } else {
                None
            }
        }
        _ => None,
    }
}

/// A thread of another process that holds a mutex in shared memory: it has the same memory mapped.
fn shared_owner(pid: u32, owner: u32, address: u64) -> Option<Owner> {
    let status = std::fs::read(format!("/proc/{owner}/status")).ok()?;
    let status = String::from_utf8_lossy(&status).into_owned();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next_back()?.parse().ok()
    };
    let (process, own): (u32, u32) = (field("Tgid:")?, field("NSpid:")?);
    let memory = mapping(pid, address)?;
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
    let mapped = maps.lines().filter_map(parse_mapping).any(|(_, file)| file == memory);
    (own == owner && process != pid && mapped).then_some(Owner::Lock { pid: process, tid: owner })
}

/// Which file's memory lies at an address: device and inode. `None` for private memory.
fn mapping(pid: u32, address: u64) -> Option<(String, u64)> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    maps.lines().filter_map(parse_mapping).find(|(range, _)| range.contains(&address)).map(|(_, file)| file)
}

/// A line of `/proc/PID/maps` about a file.
fn parse_mapping(line: &str) -> Option<(std::ops::Range<u64>, (String, u64))> {
    let mut words = line.split_whitespace();
    let (begin, end) = words.next()?.split_once('-')?;
    let range = u64::from_str_radix(begin, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    let mut words = words.skip(2);
    let (device, inode) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    (inode != 0).then_some((range, (device, inode)))
}

/// Five words of a process's memory.
pub(crate) fn memory(pid: u32, address: u64) -> Option<[u32; 5]> {
    let mut words = [0u32; 5];
    let length = size_of_val(&words);
    let local = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: length };
    let remote = libc::iovec { iov_base: usize::try_from(address).ok()? as *mut libc::c_void, iov_len: length };
    // SAFETY: the local part is as long as is said; the kernel checks the address in the other process.
    let read = unsafe { libc::process_vm_readv(pid.cast_signed(), &raw const local, 1, &raw const remote, 1, 0) };
    // Less where the memory ends: the word itself must be there.
    (read >= 4).then_some(words)
}

/// The threads of a process that wait for the same word, beside the one.
pub(crate) fn waiters_at(pid: u32, futex: Futex) -> Vec<u32> {
    let waits = |tid: &u32| {
        let call = super::asleep::call(pid, *tid).ok().flatten();
        call.is_some_and(|call| call.doing() == super::asleep::Doing::Futex(futex))
    };
    threads(pid, MAX_THREADS).into_iter().filter(waits).take(MAX_WAITERS).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::waits::asleep::{Doing, Target, call, target};
    use crate::waits::testing::{Child, alone, eventually};

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let _alone = alone();
        let text = "1: POSIX  ADVISORY  WRITE 4711 08:01:5678 0 EOF\n\
            1: -> POSIX  ADVISORY  WRITE 4712 08:01:5678 0 EOF\n\
            1:  -> POSIX  ADVISORY  READ  4713 08:01:5678 0 EOF\n\
            2: OFDLCK ADVISORY  READ  -1 00:1c:99 0 10\n\
            3: LEASE  ACTIVE    READ  15 fe:00:12 0 EOF\nnonsense\n4: FLOCK";
        let locks = Locks::parse(text);
        assert_eq!(locks.lines.len(), 5);
        let wish = locks.wish_of(4713, FileLock::Posix, None).unwrap();
        let held = locks.held(wish).unwrap();
        assert_eq!((held.pid, held.writes, held.file), (Some(4711), true, FileId { device: (8, 1), inode: 5678 }));
        assert_eq!(locks.waiters(held), (2, vec![4712, 4713]));
        assert_eq!(locks.lines[3].pid, None);
        assert!(locks.wish_of(4711, FileLock::Posix, None).is_none());
    }

    /// A child that holds a lock of this kind, another that waits for it, and the file.
    fn contend(kind: FileLock) -> (Child, Child, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = std::ffi::CString::new(file.path().to_str().unwrap()).unwrap();
        let lock = || {
            // SAFETY: a path that ends with a zero, and a plain struct of which all zeros is a valid value.
            unsafe {
                let fd = libc::open(path.as_ptr(), libc::O_RDWR);
                let mut all: libc::flock = std::mem::zeroed();
                all.l_type = 1;
                match kind {
                    FileLock::Flock => libc::flock(fd, libc::LOCK_EX),
                    FileLock::Ofd => libc::fcntl(fd, libc::F_OFD_SETLKW, &raw mut all),
                    _ => libc::fcntl(fd, libc::F_SETLKW, &raw mut all),
                };
            }
        };
        let inode = rustix::fs::fstat(file.as_file()).unwrap().st_ino;
        let holder = Child::forked(lock);
        eventually(|| Locks::read().unwrap().lines.iter().find(|line| line.file.inode == inode).copied());
        (holder, Child::forked(lock), file)
    }

    #[test]
    fn the_holder_of_a_lock_of_a_file_is_found_for_its_waiter() {
        let _alone = alone();
        for kind in [FileLock::Flock, FileLock::Posix, FileLock::Ofd] {
            let (holder, waiter, file) = contend(kind);
            let pid = waiter.pid();
            let doing = eventually(|| match call(pid, pid).ok().flatten()?.doing() {
                Doing::LocksFile { fd, kind } => Some((fd, kind)),
                _ => None,
            });
            assert_eq!(doing.1, kind);
            let Some(Target::File { path, inode, .. }) = target(pid, doing.0) else { panic!("{kind:?}") };
            assert_eq!(path, file.path().to_str().unwrap());
            let locks = Locks::read().unwrap();
            let wish = locks.wish_of(pid, kind, Some(inode)).unwrap();
            let held = locks.held(wish).unwrap();
            assert_eq!(held.pid, (kind != FileLock::Ofd).then_some(holder.pid()), "{kind:?}");
            assert_eq!(locks.waiters(held).0, 1);
            let holders: Vec<_> = holders(held, &path, &Ends::scan()).iter().map(|holder| holder.pid).collect();
            assert_eq!(holders, [holder.pid()], "{kind:?}");
        }
    }

    #[test]
    fn a_lock_is_held_by_the_child_that_inherited_it() {
        let _alone = alone();
        let file = tempfile::NamedTempFile::new().unwrap();
        // SAFETY: a descriptor and a number.
        assert_eq!(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }, 0);
        let heir = Child::forked(|| {});
        let inode = rustix::fs::fstat(file.as_file()).unwrap().st_ino;
        let path = file.path().to_str().unwrap().to_owned();
        let held = *Locks::read().unwrap().lines.iter().find(|line| line.file.inode == inode).unwrap();
        let mut pids = eventually(|| {
            let pids: Vec<_> = holders(&held, &path, &Ends::scan()).iter().map(|holder| holder.pid).collect();
            (pids.len() == 2).then_some(pids)
        });
        pids.sort_unstable();
        let mut expected = [std::process::id(), heir.pid()];
        expected.sort_unstable();
        assert_eq!(pids, expected);
    }

    fn own_tid() -> u32 {
        rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()
    }

    /// Runs a thread that waits in a call to futex(2), and gives what is seen of it.
    fn waiting<T>(work: impl FnOnce() + Send, see: impl FnOnce(u32, Futex) -> T, end: impl FnOnce()) -> T {
        let (me, tid) = (std::process::id(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                tid.store(own_tid(), Ordering::Release);
                work();
            });
            let tid = eventually(|| Some(tid.load(Ordering::Acquire)).filter(|tid| *tid != 0));
            let futex = eventually(|| match call(me, tid).ok().flatten()?.doing() {
                Doing::Futex(futex) => Some(futex),
                _ => None,
            });
            let seen = see(tid, futex);
            end();
            seen
        })
    }

    struct Mutex(std::cell::UnsafeCell<libc::pthread_mutex_t>);
    // SAFETY: it is made to be used by several threads.
    unsafe impl Sync for Mutex {}

    #[test]
    fn the_owner_of_a_mutex_is_found() {
        let me = std::process::id();
        for (protocol, shared) in [(0, 0), (1, 0), (0, 1)] {
            let mutex = Mutex(std::cell::UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
            // SAFETY: a mutex that lives longer than the thread that uses it.
            unsafe {
                let mut attributes = std::mem::zeroed();
                libc::pthread_mutexattr_init(&raw mut attributes);
                libc::pthread_mutexattr_setprotocol(&raw mut attributes, protocol);
                libc::pthread_mutexattr_setpshared(&raw mut attributes, shared);
                libc::pthread_mutex_init(mutex.0.get(), &raw const attributes);
                libc::pthread_mutex_lock(mutex.0.get());
            }
            let mutex = &mutex;
            let seen = waiting(
                // SAFETY: as above.
                move || unsafe {
                    libc::pthread_mutex_lock(mutex.0.get());
                    libc::pthread_mutex_unlock(mutex.0.get());
                },
                |tid, futex| {
                    assert!(futex.may_be_lock(), "{futex:?}");
                    (owner(me, tid, futex), waiters_at(me, futex) == [tid])
                },
                // SAFETY: as above.
                || _ = unsafe { libc::pthread_mutex_unlock(mutex.0.get()) },
            );
            assert_eq!(seen, (Some(Owner::Lock { pid: me, tid: own_tid() }), true), "{protocol} {shared}");
        }
    }

    #[test]
    fn what_waits_for_an_event_has_no_owner() {
        let (mutex, event) = (std::sync::Mutex::new(false), std::sync::Condvar::new());
        let wait = || {
            let mut done = mutex.lock().unwrap();
            while !*done {
                done = event.wait(done).unwrap();
            }
        };
        let end = || {
            *mutex.lock().unwrap() = true;
            event.notify_all();
        };
        assert_eq!(waiting(wait, |tid, futex| owner(std::process::id(), tid, futex), end), None);
    }

    #[test]
    fn whoever_joins_a_thread_waits_for_its_end() {
        let me = std::process::id();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let tid = AtomicU32::new(0);
        let (stop, tid) = (&stop, &tid);
        std::thread::scope(|scope| {
            let worker = scope.spawn(move || {
                tid.store(own_tid(), Ordering::Release);
                while !stop.load(Ordering::Acquire) {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            });
            let seen = waiting(
                move || worker.join().unwrap(),
                |tid, futex| owner(me, tid, futex),
                || stop.store(true, Ordering::Release),
            );
            assert_eq!(seen, Some(Owner::End { pid: me, tid: tid.load(Ordering::Acquire) }));
        });
    }
}
