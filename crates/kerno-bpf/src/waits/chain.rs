//! From a thread that waits to the one that all wait for: who has the other end, and what does that one wait for itself?

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::linux::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::asleep::{self, Call, Doing, FileLock, Futex, Target};
use super::ends::{self, Ends, Holder};
use super::locks::{self, FileId, Locks, Owner};
use super::net::{self, InetSocket, UnixSockets};
use super::state::{self, Condition, Named, Stat};

/// The most steps of a chain.
const MAX_STEPS: usize = 8;
/// The most processes at one other end that are looked at.
const MAX_PEERS: usize = 16;
/// The most threads of a process among which one that is stuck is looked for.
const MAX_THREADS: usize = 64;
/// The most network namespaces whose sockets are kept.
const MAX_NAMESPACES: usize = 16;

/// A thread in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) stat: Stat,
    pub(crate) condition: Condition,
    /// The call that it is in.
    pub(crate) call: Option<Call>,
    /// The kernel function that it sleeps in.
    pub(crate) wait_channel: Option<String>,
    /// What it waits for from the next one of the chain, or from nobody that could be found.
    pub(crate) waits: Option<Waits>,
}

/// What one thread waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waits {
    pub(crate) need: Need,
    pub(crate) thing: Thing,
    /// How many other processes could act as well, or hold the same.
    pub(crate) others: usize,
    /// How many wait for the same lock, this one included; 0 when it is no lock.
    pub(crate) waiters: usize,
}

/// What has to happen for a thread to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Somebody has to read: it is full.
    Room,
    /// Somebody has to write.
    Data,
    /// Somebody has to release a lock.
    Release,
    /// Somebody has to accept connections.
    Accept,
    /// A process or a thread has to end.
    End,
}

/// What lies between two threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Thing {
    Pipe {
        inode: u64,
    },
    Fifo {
        path: String,
    },
    /// A Unix socket, by the name of either end.
    Unix {
        name: Option<String>,
        datagrams: bool,
    },
    /// The listener of a Unix socket, with the connections that wait and its backlog.
    Listener {
        name: Option<String>,
        used: u32,
        backlog: u32,
    },
    Tcp {
        local: SocketAddr,
        remote: SocketAddr,
    },
    Terminal {
        path: String,
    },
    FileLock {
        kind: FileLock,
        path: Option<String>,
        file: FileId,
    },
    Mutex {
        address: u64,
    },
    Thread,
    Child,
}

/// A thread that waits, the one that it waits for, and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// The first is the one that was asked about, the last the one that all wait for.
    pub(crate) steps: Vec<Step>,
    /// The last one waits for this step: a deadlock.
    pub(crate) cycle: Option<usize>,
}

impl Chain {
    /// The one that all wait for.
    pub(crate) fn root(&self) -> Option<&Step> {
        self.steps.last()
    }

    /// What the first one waits for.
    pub(crate) fn first_wait(&self) -> Option<&Waits> {
        self.steps.first()?.waits.as_ref()
    }
}

/// What was found out once, for any number of chains at about the same moment.
#[derive(Debug, Default)]
pub(crate) struct Look {
    ends: OnceLock<Ends>,
    locks: OnceLock<Locks>,
    unix: Mutex<HashMap<u64, Arc<UnixSockets>>>,
    tcp: Mutex<HashMap<u64, Arc<Vec<InetSocket>>>>,
}

impl Look {
    /// Looks at descriptors and locks now, and at nothing else until it is needed.
    pub(crate) fn now() -> Self {
        Self::default()
    }

    pub(crate) fn ends(&self) -> &Ends {
        self.ends.get_or_init(Ends::scan)
    }

    pub(crate) fn locks(&self) -> &Locks {
        self.locks.get_or_init(|| Locks::read().unwrap_or_default())
    }

    pub(crate) fn unix(&self, pid: u32) -> Option<Arc<UnixSockets>> {
        cached(&self.unix, pid, |pid| UnixSockets::of(pid, false))
    }

    pub(crate) fn tcp(&self, pid: u32) -> Option<Arc<Vec<InetSocket>>> {
        cached(&self.tcp, pid, net::tcp_sockets)
    }

    /// The TCP sockets of all namespaces that were looked at.
    fn all_tcp(&self) -> Vec<Arc<Vec<InetSocket>>> {
        self.tcp.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// By network namespace.
fn cached<T>(known: &Mutex<HashMap<u64, Arc<T>>>, pid: u32, look: impl FnOnce(u32) -> io::Result<T>) -> Option<Arc<T>> {
    let namespace = std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.st_ino();
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = lock().get(&namespace) {
        return Some(Arc::clone(found));
    }
    let found = Arc::new(look(pid).ok()?);
    let mut known = lock();
    if known.len() < MAX_NAMESPACES {
        known.insert(namespace, Arc::clone(&found));
    }
    Some(found)
}

/// Follows what a thread waits for.
pub(crate) fn follow(look: &Look, pid: u32, tid: u32) -> io::Result<Chain> {
    let mut chain = Chain { steps: Vec::new(), cycle: None };
    let mut next = Some((pid, tid));
    while let Some((pid, tid)) = next.take() {
        chain.cycle = chain.steps.iter().position(|step| (step.pid, step.tid) == (pid, tid));
        if chain.cycle.is_some() || chain.steps.len() >= MAX_STEPS {
            break;
        }
        let (stat, condition) = match state::condition(pid, tid) {
            // The one that was asked about has gone.
            Err(error) if chain.steps.is_empty() => return Err(error),
            Err(_) => break,
            Ok(found) => found,
        };
        let sleeps = matches!(condition, Condition::Sleeps | Condition::Blocked);
        let call = sleeps.then(|| asleep::call(pid, tid).ok().flatten()).flatten();
        let wait_channel = sleeps.then(|| asleep::wait_channel(pid, tid)).flatten();
        let found = call.as_ref().and_then(|call| waits(look, pid, tid, call.doing()));
        let (waits, peer) = found.map_or((None, None), |(waits, peer)| (Some(waits), peer));
        chain.steps.push(Step { pid, tid, stat, condition, call, wait_channel, waits });
        next = peer;
    }
    Ok(chain)
}

/// What was waited for, and the thread that has to act, if it could be found.
type Found = (Waits, Option<(u32, u32)>);

fn waits(look: &Look, pid: u32, tid: u32, doing: Doing) -> Option<Found> {
    match doing {
        Doing::Writes(fd) => transfer(look, pid, fd, Need::Room),
        Doing::Reads(fd) => transfer(look, pid, fd, Need::Data),
        // It does not say which of the two it is that holds it up.
        Doing::Moves { to, .. } => transfer(look, pid, to, Need::Room),
        Doing::Connects(fd) => connect(look, pid, fd),
        Doing::LocksFile { fd, kind } => file_lock(look, pid, fd, kind),
        Doing::Futex(futex) => futex_owner(pid, tid, futex),
        Doing::Child(child) => child_of(pid, child),
        Doing::Accepts(_) | Doing::Polls { .. } | Doing::Rests | Doing::Other => None,
    }
}

const fn of(need: Need, thing: Thing, others: usize) -> Waits {
    Waits { need, thing, others, waiters: 0 }
}

/// A read or a write.
fn transfer(look: &Look, pid: u32, fd: u32, need: Need) -> Option<Found> {
    let (thing, holders) = match asleep::target(pid, fd)? {
        Target::Pipe { inode } => (Thing::Pipe { inode }, look.ends().of_pipe(inode).to_vec()),
        Target::Fifo { path, inode } => {
            let holders = look.ends().of_file(&path, inode);
            (Thing::Fifo { path }, holders)
        }
        Target::Socket { inode } => return socket(look, pid, inode, need),
        Target::Terminal { path } if need == Need::Room => {
            let number = path.strip_prefix("/dev/pts/").and_then(|number| number.parse().ok());
            let holders = number.map(|number| look.ends().of_terminal_master(number)).unwrap_or_default();
            let (peer, others) = pick(pid, &holders, need);
            return Some((of(need, Thing::Terminal { path }, others), peer));
        }
        Target::Terminal { .. } | Target::File { .. } | Target::Other { .. } => return None,
    };
    let holders: Vec<_> = holders.into_iter().filter(|holder| has_other_end(*holder, need)).collect();
    let (peer, others) = pick(pid, &holders, need);
    Some((of(need, thing, others), peer))
}

/// Whether a descriptor of a pipe is the end that is needed: the reading one for room, the writing one for data.
fn has_other_end(holder: Holder, need: Need) -> bool {
    ends::access(holder).is_some_and(|access| if need == Need::Room { access.reads } else { access.writes })
}

fn socket(look: &Look, pid: u32, inode: u64, need: Need) -> Option<Found> {
    let unix = look.unix(pid)?;
    if let Some(own) = unix.by_inode(inode) {
        // Whoever serves waits for the next request of a client as long as it takes.
        if need == Need::Data && own.name.is_some() {
            return None;
        }
        let peer = unix.by_inode(u64::from(own.peer)).filter(|_| own.peer != 0);
        let datagrams = own.kind == 2;
        let Some(peer) = peer else {
            let listener = unix.listener_of(inode)?;
            let thing =
                Thing::Listener { name: listener.name.clone(), used: listener.received, backlog: listener.sent };
            let (peer, others) = pick(pid, look.ends().of_socket(u64::from(listener.inode)), Need::Accept);
            return Some((of(Need::Accept, thing, others), peer));
        };
        let thing = Thing::Unix { name: peer.name.clone().or_else(|| own.name.clone()), datagrams };
        let (peer, others) = pick(pid, look.ends().of_socket(u64::from(peer.inode)), need);
        return Some((of(need, thing, others), peer));
    }
    let tcp = look.tcp(pid)?;
    let own = tcp.iter().find(|socket| socket.inode == inode)?;
    let serves = tcp.iter().any(|socket| socket.listens && socket.local.port() == own.local.port());
    if need == Need::Data && serves {
        return None;
    }
    let thing = Thing::Tcp { local: own.local, remote: own.remote };
    // In its own namespace, or in one that was looked at for another reason.
    let everywhere = look.all_tcp();
    let in_any = |find: &dyn Fn(&[InetSocket]) -> Option<InetSocket>| {
        find(&tcp).or_else(|| everywhere.iter().find_map(|all| find(all)))
    };
    match in_any(&|all| net::tcp_peer(all, own).copied()) {
        Some(peer) if peer.inode != 0 => {
            let (peer, others) = pick(pid, look.ends().of_socket(peer.inode), need);
            Some((of(need, thing, others), peer))
        }
        // The other end is not on this machine.
        None if !own.remote.ip().is_loopback() => Some((of(need, thing, 0), None)),
        // Nobody has accepted it.
        _ => {
            let listener = in_any(&|all| net::tcp_listener(all, own.remote).copied());
            let holders = listener.map(|listener| look.ends().of_socket(listener.inode)).unwrap_or_default();
            let (peer, others) = pick(pid, holders, Need::Accept);
            let need = if peer.is_some() { Need::Accept } else { need };
            Some((of(need, thing, others), peer))
        }
    }
}

/// A connect that lasts: the listener's queue is full.
fn connect(look: &Look, pid: u32, fd: u32) -> Option<Found> {
    let Target::Socket { inode } = asleep::target(pid, fd)? else { return None };
    let unix = look.unix(pid)?;
    unix.by_inode(inode)?;
    // The address is in the program's memory; what is full is a better guess than what is asked for now.
    let mut full = unix.all.iter().filter(|socket| socket.is_full());
    let (listener, None) = (full.next()?, full.next()) else { return None };
    let thing = Thing::Listener { name: listener.name.clone(), used: listener.received, backlog: listener.sent };
    let (peer, others) = pick(pid, look.ends().of_socket(u64::from(listener.inode)), Need::Accept);
    Some((of(Need::Accept, thing, others), peer))
}

fn file_lock(look: &Look, pid: u32, fd: u32, kind: FileLock) -> Option<Found> {
    let (path, inode) = match asleep::target(pid, fd)? {
        Target::File { path, inode, .. } | Target::Fifo { path, inode } => (Some(path), Some(inode)),
        _ => (None, None),
    };
    let locks = look.locks();
    let wish = locks.wish_of(pid, kind, inode)?;
    let held = locks.held(wish)?;
    let (waiters, _) = locks.waiters(held);
    // Of a lock that others have inherited with the open file, any of them may be the one that has it.
    let holders = match (kind, &path) {
        (FileLock::Flock | FileLock::Ofd, Some(path)) => locks::holders(held, path, look.ends()),
        _ => Vec::new(),
    };
    let asked = held.pid.filter(|asked| holders.is_empty() || holders.iter().any(|holder| holder.pid == *asked));
    let (peer, others) = match asked {
        Some(asked) => (Some((asked, acting_thread(asked))), holders.len().saturating_sub(1)),
        None => pick(pid, &holders, Need::Release),
    };
    let thing = Thing::FileLock { kind, path, file: held.file };
    Some((Waits { waiters, ..of(Need::Release, thing, others) }, peer))
}

fn futex_owner(pid: u32, tid: u32, futex: Futex) -> Option<Found> {
    match locks::owner(pid, tid, futex)? {
        Owner::Lock { pid: owner, tid } => {
            let waiters = locks::waiters_at(pid, futex).len().max(1);
            let waits = Waits { waiters, ..of(Need::Release, Thing::Mutex { address: futex.address }, 0) };
            Some((waits, Some((owner, tid))))
        }
        Owner::End { pid, tid } => Some((of(Need::End, Thing::Thread, 0), Some((pid, tid)))),
        Owner::Unknown => Some((of(Need::Release, Thing::Mutex { address: futex.address }, 0), None)),
    }
}

fn child_of(pid: u32, child: Option<u32>) -> Option<Found> {
    let children = state::children(pid);
    let peer = match child {
        Some(own) => state::process_by_own_id(pid, own)?,
        None => match children[..] {
            [only] => only,
            _ => return None,
        },
    };
    Some((of(Need::End, Thing::Child, 0), Some((peer, acting_thread(peer)))))
}

/// Of the processes that could act, the one that most likely should, and how many others there are. For data, any of several could write:
/// then nobody is named, unless none of them can.
fn pick(victim: u32, holders: &[Holder], need: Need) -> (Option<(u32, u32)>, usize) {
    let mut peers: Vec<Holder> = Vec::new();
    for holder in holders {
        if !peers.iter().any(|known| known.pid == holder.pid) {
            peers.push(*holder);
        }
    }
    peers.truncate(MAX_PEERS);
    // Its own copy is the answer only if nobody else has one.
    if need == Need::Data || peers.iter().any(|peer| peer.pid != victim) {
        peers.retain(|peer| peer.pid != victim);
    }
    let rank = |pid: u32| match state::condition(pid, pid) {
        Ok((_, Condition::Zombie)) | Err(_) => 3,
        Ok((_, condition)) if condition.is_held() => 0,
        Ok((_, Condition::Blocked)) => 1,
        Ok(_) => 2,
    };
    let mut ranked: Vec<_> = peers.iter().map(|peer| (rank(peer.pid), *peer)).collect();
    // Standard input is where programs read; a child is closer to it than whoever started it.
    ranked.sort_by_key(|(rank, peer)| (*rank, peer.fd != 0, std::cmp::Reverse(peer.pid)));
    let others = ranked.len().saturating_sub(1);
    let could_act = ranked.iter().any(|(rank, _)| *rank == 2);
    match ranked.first() {
        Some(_) if need == Need::Data && others > 0 && could_act => (None, others),
        Some((_, peer)) => (Some((peer.pid, acting_thread(peer.pid))), others),
        None => (None, 0),
    }
}

/// The thread of a process that tells most about why the process does nothing: the main one, unless that waits for others and one of
/// them is stuck.
fn acting_thread(pid: u32) -> u32 {
    let stuck = |tid: u32| match state::stat(pid, tid).map(|stat| stat.state) {
        Ok('D') => true,
        Ok('S') => asleep::call(pid, tid).ok().flatten().is_some_and(|call| match call.doing() {
            Doing::Writes(_) | Doing::LocksFile { .. } | Doing::Connects(_) => true,
            Doing::Futex(futex) => {
                futex.may_be_lock() && matches!(locks::owner(pid, tid, futex), Some(Owner::Lock { .. }))
            }
            _ => false,
        }),
        _ => false,
    };
    let main = state::stat(pid, pid);
    let waits = main.as_ref().is_ok_and(|stat| matches!(stat.state, 'S' | 'Z')) && !stuck(pid);
    if !waits {
        return pid;
    }
    let threads = state::threads(pid, MAX_THREADS);
    let alive = main.is_ok_and(|stat| stat.state != 'Z');
    let other = threads.iter().copied().find(|tid| *tid != pid && stuck(*tid));
    other.or_else(|| if alive { None } else { threads.iter().copied().find(|tid| *tid != pid) }).unwrap_or(pid)
}

/// A listener with connections that nobody has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// The name of a Unix socket, or the address of a TCP socket.
    pub(crate) at: Result<String, SocketAddr>,
    pub(crate) used: u64,
    /// `None` where it is not known.
    pub(crate) limit: Option<u64>,
}

/// The connections that wait at the listeners of a process.
pub(crate) fn backlogs(look: &Look, pid: u32) -> Vec<Backlog> {
    let inodes: Vec<u64> = look.ends().sockets_of(pid).map(|(inode, _)| inode).collect();
    let mut all = Vec::new();
    if inodes.is_empty() {
        return all;
    }
    for socket in look.unix(pid).iter().flat_map(|unix| unix.all.iter()) {
        if socket.listens && socket.received > 0 && inodes.contains(&u64::from(socket.inode)) {
            let at = Ok(socket.name.clone().unwrap_or_default());
            all.push(Backlog { at, used: socket.received.into(), limit: Some(socket.sent.into()) });
        }
    }
    for socket in look.tcp(pid).iter().flat_map(|tcp| tcp.iter()) {
        if socket.listens && socket.received > 0 && inodes.contains(&socket.inode) {
            all.push(Backlog { at: Err(socket.local), used: socket.received, limit: None });
        }
    }
    all
}

/// How much waits in the thing that a thread writes to, to see whether it moves: bytes, or datagrams as far as they tell.
pub(crate) fn level(pid: u32, fd: u32) -> Option<u64> {
    match asleep::target(pid, fd)? {
        Target::Pipe { .. } | Target::Fifo { .. } | Target::Terminal { .. } => waiting_bytes(pid, fd),
        Target::Socket { inode } => {
            if let Some(unix) = UnixSockets::of(pid, false).ok().filter(|unix| unix.by_inode(inode).is_some()) {
                return Some(unix.by_inode(inode)?.sent.into());
            }
            let tcp = net::tcp_sockets(pid).ok()?;
            let own = tcp.iter().find(|socket| socket.inode == inode)?;
            Some(own.sent)
        }
        _ => None,
    }
}

/// The bytes in a pipe, asked through a copy of the descriptor that lives for a moment.
fn waiting_bytes(pid: u32, fd: u32) -> Option<u64> {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    let process = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(pid.cast_signed())?,
        rustix::process::PidfdFlags::empty(),
    )
    .ok()?;
    // SAFETY: numbers only.
    let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) };
    let copy = i32::try_from(copy).ok().filter(|copy| *copy >= 0)?;
    // SAFETY: nobody else knows the descriptor that was just made.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes a number.
    let done = unsafe { libc::ioctl(copy.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    (done == 0).then(|| u64::try_from(bytes).unwrap_or(0))
}

impl Step {
    /// The process.
    pub(crate) fn named(&self) -> Named {
        Named { pid: self.pid, comm: self.stat.comm.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;
    use crate::waits::testing::{Child, alone, eventually};

    /// The chain from a child, once it waits for something.
    fn chain(child: &Child, need: Need) -> Chain {
        eventually(|| {
            let chain = follow(&Look::now(), child.pid(), child.pid()).ok()?;
            chain.first_wait().is_some_and(|waits| waits.need == need).then_some(chain)
        })
    }

    fn close(file: &impl std::os::fd::AsRawFd) {
        // SAFETY: of a child, which shares no memory with the test.
        unsafe { libc::close(file.as_raw_fd()) };
    }

    fn fill(mut file: impl std::io::Write) {
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    #[test]
    fn a_stopped_reader_is_the_end_of_a_pipeline_of_three() {
        let _alone = alone();
        let (first, second) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let reader = Child::forked(|| [close(&first.0), close(&first.1), close(&second.1)].iter().for_each(drop));
        let middle = Child::forked(|| {
            [close(&first.1), close(&second.0)].iter().for_each(drop);
            let mut bytes = [0; 4096];
            while (&first.0).read(&mut bytes).is_ok_and(|bytes| bytes > 0) {
                let _ = (&second.1).write_all(&bytes);
            }
        });
        let writer = Child::forked(|| {
            [close(&first.0), close(&second.0), close(&second.1)].iter().for_each(drop);
            fill(&first.1);
        });
        drop((first, second));
        let rests = |child: &Child| {
            asleep::call(child.pid(), child.pid()).ok().flatten().is_some_and(|call| call.doing() == Doing::Rests)
        };
        eventually(|| rests(&reader).then_some(()));
        reader.signal(libc::SIGSTOP);
        let found = eventually(|| {
            let found = chain(&writer, Need::Room);
            (found.root()?.condition == Condition::Stopped).then_some(found)
        });
        let pids: Vec<_> = found.steps.iter().map(|step| step.pid).collect();
        assert_eq!((pids, found.cycle), (vec![writer.pid(), middle.pid(), reader.pid()], None));
        assert!(matches!(found.first_wait().unwrap().thing, Thing::Pipe { .. }));
        let fd = match found.steps[0].call.as_ref().unwrap().doing() {
            Doing::Writes(fd) => fd,
            other => panic!("{other:?}"),
        };
        assert_eq!(level(writer.pid(), fd), Some(65536));
    }

    #[test]
    fn two_that_wait_for_each_other_are_a_cycle() {
        let _alone = alone();
        let (first, second) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let a = Child::forked(|| {
            [close(&first.0), close(&second.1)].iter().for_each(drop);
            fill(&first.1);
        });
        let b = Child::forked(|| {
            [close(&first.1), close(&second.0)].iter().for_each(drop);
            fill(&second.1);
        });
        drop((first, second));
        let found = eventually(|| Some(chain(&a, Need::Room)).filter(|chain| chain.cycle.is_some()));
        let pids: Vec<_> = found.steps.iter().map(|step| step.pid).collect();
        assert_eq!((pids, found.cycle), (vec![a.pid(), b.pid()], Some(0)));
    }

    #[test]
    fn readers_wait_for_a_writer_only_if_there_is_one() {
        let _alone = alone();
        let (read, write) = std::io::pipe().unwrap();
        let writer = Child::forked(|| close(&read));
        let reader = Child::forked(|| {
            close(&write);
            let _ = (&read).read(&mut [0]);
        });
        let me = std::process::id();
        // The test has the writing end, too.
        let found = chain(&reader, Need::Data);
        assert_eq!((found.steps.len(), found.first_wait().unwrap().others), (1, 1));
        drop(write);
        let found = chain(&reader, Need::Data);
        assert_eq!(found.root().map(|root| root.pid), Some(writer.pid()));
        assert!(found.steps.iter().all(|step| step.pid != me));
    }

    #[test]
    fn sockets_lead_to_the_process_that_does_not_read() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = UnixDatagram::bind(&path).unwrap();
        let server = Child::forked(|| {});
        let sender = Child::forked(|| {
            close(&log);
            let socket = UnixDatagram::unbound().unwrap();
            socket.connect(&path).unwrap();
            while socket.send(&[1; 100]).is_ok() {}
        });
        drop(log);
        let found = chain(&sender, Need::Room);
        let name = path.to_str().map(str::to_owned);
        assert_eq!(found.first_wait().unwrap().thing, Thing::Unix { name, datagrams: true });
        assert_eq!(found.root().map(|root| root.pid), Some(server.pid()));

        let (ours, theirs) = UnixStream::pair().unwrap();
        let reader = Child::forked(|| close(&ours));
        let writer = Child::forked(|| {
            close(&theirs);
            fill(&ours);
        });
        drop((ours, theirs));
        let found = chain(&writer, Need::Room);
        assert_eq!(found.root().map(|root| root.pid), Some(reader.pid()));
    }

    #[test]
    fn tcp_connections_lead_to_the_process_that_does_not_read() {
        let _alone = alone();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let server = Child::forked(|| close(&client));
        let writer = Child::forked(|| {
            close(&accepted);
            fill(&client);
        });
        drop((client, accepted));
        let found = chain(&writer, Need::Room);
        assert!(matches!(found.first_wait().unwrap().thing, Thing::Tcp { .. }));
        assert_eq!(found.root().map(|root| root.pid), Some(server.pid()));
    }

    #[test]
    fn a_full_backlog_is_the_listeners() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        // SAFETY: a smaller backlog for the listener.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let server = Child::forked(|| {});
        let client = Child::forked(|| {
            close(&listener);
            let connections: Vec<_> = (0..3).map(|_| UnixStream::connect(&path)).collect();
            drop(connections);
        });
        let socket = rustix::fs::fstat(&listener).unwrap().st_ino;
        drop(listener);
        let found = chain(&client, Need::Accept);
        assert_eq!(found.root().map(|root| root.pid), Some(server.pid()));
        let name = path.to_str().map(str::to_owned);
        assert_eq!(found.first_wait().unwrap().thing, Thing::Listener { name: name.clone(), used: 1, backlog: 0 });
        let look = Look::now();
        assert_eq!(look.ends().of_socket(socket).len(), 1);
        let expected = Backlog { at: Ok(name.unwrap()), used: 1, limit: Some(0) };
        assert_eq!(backlogs(&look, server.pid()), [expected]);
    }
}
