//! Where the time of processes went, against what they really did: real chains of waits, each with its known root.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kerno_bpf::Host;
use kerno_bpf::why::{Target, WhyOptions, WhyWatch};
use kerno_doctor::why::explain;
use kerno_model::{ThreadTime, TimeKind, WhyLink, WhyReport};

use crate::cgroups::Cgroup;
use crate::fuse::DeadMount;
use crate::support::{Child, slowness};

/// What the time of a thread that was watched may not be accounted for, as a share.
const UNACCOUNTED: f64 = 0.02;
/// By how much a share may differ from the truth. Emulated CPUs take their own time for each step.
fn tolerance() -> f64 {
    if slowness() > 1 { 0.12 } else { 0.03 }
}

fn watch(pid: u32, seconds: f64) -> WhyReport {
    let mut watch = WhyWatch::start(WhyOptions::new(Target::Pid(pid)), &Host::detect()).expect("why can be watched");
    let end = Instant::now() + Duration::from_secs_f64(seconds * if slowness() > 1 { 3.0 } else { 1.0 });
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        watch.step().unwrap();
    }
    let report = explain(&watch.observe().unwrap());
    for thread in report.threads.iter().chain(&report.others) {
        let sum: f64 = thread.spent.iter().map(|spent| spent.seconds).sum();
        assert!(
            (sum - thread.wall_seconds).abs() <= UNACCOUNTED * thread.wall_seconds.max(0.5),
            "{sum} s of {} s are accounted for: {thread:?}",
            thread.wall_seconds
        );
        assert!(share_of(thread, TimeKind::Other) < 0.05, "too much is unknown: {thread:?}");
    }
    report
}

fn share_of(thread: &ThreadTime, kind: TimeKind) -> f64 {
    let spent = thread.spent.iter().filter(|spent| spent.kind == kind);
    spent.map(|spent| spent.seconds).sum::<f64>() / thread.wall_seconds
}

fn thread(report: &WhyReport, tid: u32) -> &ThreadTime {
    report.threads.iter().chain(&report.others).find(|thread| thread.tid == tid).expect("the thread was watched")
}

fn steps(report: &WhyReport) -> Vec<(Option<u32>, TimeKind)> {
    report.chain.iter().map(|link| (link.pid, link.kind)).collect()
}

fn root(report: &WhyReport) -> &WhyLink {
    report.root.as_ref().expect("there is a root")
}

fn nap(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// Holds a lock of this file nearly always.
fn lock_holder(path: &Path) -> Child {
    let path = path.to_owned();
    Child::new(move |link| {
        link.close_inherited();
        let file = File::create(path).unwrap();
        lock(&file, libc::LOCK_EX);
        link.tell(1);
        loop {
            nap(200);
            lock(&file, libc::LOCK_UN);
            nap(2);
            lock(&file, libc::LOCK_EX);
        }
    })
}

fn lock(file: &File, operation: i32) {
    // SAFETY: the descriptor is open.
    assert_eq!(unsafe { libc::flock(file.as_raw_fd(), operation) }, 0);
}

/// Answers each byte when it has had the lock of this file.
fn backend(socket: &Path, file: &Path) -> Child {
    let (socket, file) = (socket.to_owned(), file.to_owned());
    Child::new(move |link| {
        link.close_inherited();
        let listener = UnixListener::bind(socket).unwrap();
        let file = File::open(file).unwrap();
        link.tell(1);
        let (mut client, _) = listener.accept().unwrap();
        let mut byte = [0];
        while client.read(&mut byte).unwrap() == 1 {
            lock(&file, libc::LOCK_EX);
            lock(&file, libc::LOCK_UN);
            client.write_all(&byte).unwrap();
        }
    })
}

/// Asks a backend for each byte. Tells its port.
fn proxy(socket: &Path) -> Child {
    let socket = socket.to_owned();
    Child::new(move |link| {
        link.close_inherited();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        link.tell(u64::from(listener.local_addr().unwrap().port()));
        let (mut client, _) = listener.accept().unwrap();
        let mut backend = UnixStream::connect(socket).unwrap();
        let mut byte = [0];
        while client.read(&mut byte).unwrap() == 1 {
            backend.write_all(&byte).unwrap();
            backend.read_exact(&mut byte).unwrap();
            client.write_all(&byte).unwrap();
        }
    })
}

fn client(port: u16) -> Child {
    Child::new(move |link| {
        link.close_inherited();
        let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
        link.tell(1);
        let mut byte = [7];
        loop {
            server.write_all(&byte).unwrap();
            server.read_exact(&mut byte).unwrap();
        }
    })
}

fn started(mut child: Child) -> (Child, u64) {
    child.go();
    let told = child.heard();
    (child, told)
}

#[test]
fn a_chain_over_tcp_a_unix_socket_and_a_lock_ends_at_its_holder() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, file) = (directory.path().join("socket"), directory.path().join("lock"));
    let (holder, _) = started(lock_holder(&file));
    let (backend, _) = started(backend(&socket, &file));
    let (proxy, port) = started(proxy(&socket));
    let (client, _) = started(client(u16::try_from(port).unwrap()));
    let report = watch(client.pid, 4.0);
    assert_eq!(
        steps(&report),
        [
            (Some(client.pid), TimeKind::Tcp),
            (Some(proxy.pid), TimeKind::UnixSocket),
            (Some(backend.pid), TimeKind::Lock),
            (Some(holder.pid), TimeKind::Timer),
        ],
        "{report:#?}"
    );
    assert!(report.chain.iter().all(|link| link.share > 1.0 - 2.0 * tolerance()), "{:?}", report.chain);
    assert_eq!(report.chain[1].on.object, socket.to_str().unwrap());
    assert_eq!(report.chain[2].on.object, file.to_str().unwrap());
    assert!(!report.cycle);
}

#[test]
fn all_of_a_threads_time_is_accounted_for() {
    let mut child = Child::new(|link| {
        link.close_inherited();
        link.tell(1);
        loop {
            let end = Instant::now() + Duration::from_millis(30);
            while Instant::now() < end {}
            nap(60);
        }
    });
    child.go();
    child.heard();
    let report = watch(child.pid, 3.0);
    let thread = thread(&report, child.pid);
    let cpu = share_of(thread, TimeKind::CpuUser) + share_of(thread, TimeKind::CpuSystem);
    let busy = cpu + share_of(thread, TimeKind::CpuWait);
    // It burns by the clock, whether it has the CPU or not.
    assert!((busy - 1.0 / 3.0).abs() < tolerance(), "{busy}: {thread:?}");
    assert!((share_of(thread, TimeKind::Timer) - 2.0 / 3.0).abs() < tolerance(), "{thread:?}");
}

#[test]
fn a_slow_stage_of_a_pipeline_is_its_root() {
    let mut last_read: Option<std::os::fd::OwnedFd> = None;
    let mut stages = Vec::new();
    for stage in 0..5 {
        let (read, write) = rustix_pipe();
        let input = last_read.replace(read);
        let mut child = Child::new(move |link| {
            // What it inherited of others stays open in others, too: only its own two ends count.
            let (input, output) = (input.map(File::from), File::from(write));
            let kept: Vec<_> = input.iter().chain([&output]).map(std::os::fd::AsRawFd::as_raw_fd).collect();
            link.close_inherited_but(&kept);
            link.tell(1);
            let (mut input, mut output) = (input, output);
            let mut bytes = [0; 4096];
            loop {
                if let Some(input) = &mut input
                    && input.read(&mut bytes).unwrap() == 0
                {
                    return;
                }
                if stage == 3 {
                    nap(20);
                }
                output.write_all(&bytes).unwrap();
            }
        });
        child.go();
        child.heard();
        stages.push(child);
    }
    let mut sink = File::from(last_read.unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0; 4096];
            while sink.read(&mut bytes).unwrap_or(0) > 0 {}
        });
        let report = watch(stages[0].pid, 4.0);
        let expected: Vec<_> = stages[..4].iter().map(|stage| Some(stage.pid)).collect();
        let pids: Vec<_> = report.chain.iter().map(|link| link.pid).collect();
        drop(stages);
        assert_eq!(pids, expected, "{report:#?}");
        assert_eq!(root(&report).kind, TimeKind::Timer);
        assert!(report.chain[..3].iter().all(|link| link.kind == TimeKind::Pipe), "{:?}", report.chain);
    });
}

fn rustix_pipe() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: room for the two descriptors, which nobody else owns.
    unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (std::os::fd::FromRawFd::from_raw_fd(fds[0]), std::os::fd::FromRawFd::from_raw_fd(fds[1]))
    }
}

struct Mutexes(std::cell::UnsafeCell<[libc::pthread_mutex_t; 2]>);

// SAFETY: mutexes are made to be shared.
unsafe impl Sync for Mutexes {}

impl Mutexes {
    const fn new() -> Self {
        Self(std::cell::UnsafeCell::new([libc::PTHREAD_MUTEX_INITIALIZER; 2]))
    }

    fn lock(&self, which: usize) {
        // SAFETY: initialised, and never moved: it is a static.
        unsafe { assert_eq!(libc::pthread_mutex_lock(self.0.get().cast::<libc::pthread_mutex_t>().add(which)), 0) };
    }

    fn unlock(&self, which: usize) {
        // SAFETY: as above; locked by this thread.
        unsafe { assert_eq!(libc::pthread_mutex_unlock(self.0.get().cast::<libc::pthread_mutex_t>().add(which)), 0) };
    }
}

fn tid() -> u64 {
    // SAFETY: no arguments.
    u64::try_from(unsafe { libc::syscall(libc::SYS_gettid) }).unwrap()
}

#[test]
fn a_mutex_names_the_thread_that_holds_it() {
    static MUTEXES: Mutexes = Mutexes::new();
    let mut child = Child::new(|link| {
        link.close_inherited();
        let holder = std::thread::spawn(|| {
            loop {
                MUTEXES.lock(0);
                nap(150);
                MUTEXES.unlock(0);
                nap(3);
            }
        });
        nap(20);
        link.tell(tid());
        loop {
            MUTEXES.lock(0);
            MUTEXES.unlock(0);
            if holder.is_finished() {
                return;
            }
        }
    });
    child.go();
    let waiter = u32::try_from(child.heard()).unwrap();
    let report = watch(child.pid, 3.0);
    let first = &report.chain[0];
    assert_eq!((first.tid, first.kind), (Some(waiter), TimeKind::Lock), "{report:#?}");
    assert!(first.on.tid.is_some_and(|holder| holder != waiter), "{first:?}");
    assert_eq!((root(&report).tid, root(&report).kind), (first.on.tid, TimeKind::Timer), "{report:#?}");
}

/// Rust's own mutex does not store its owner: whoever ends the waits is the one.
#[test]
fn a_lock_that_does_not_store_its_owner_is_known_by_who_wakes() {
    static MUTEX: Mutex<()> = Mutex::new(());
    let mut child = Child::new(|link| {
        link.close_inherited();
        std::thread::spawn(|| {
            loop {
                let guard = MUTEX.lock();
                nap(100);
                drop(guard);
                nap(5);
            }
        });
        nap(20);
        link.tell(tid());
        loop {
            drop(MUTEX.lock());
        }
    });
    child.go();
    let waiter = u32::try_from(child.heard()).unwrap();
    let report = watch(child.pid, 3.0);
    // An emulated CPU spins longer before it sleeps.
    assert!(share_of(thread(&report, waiter), TimeKind::Lock) > if slowness() > 1 { 0.3 } else { 0.7 }, "{report:#?}");
    assert_eq!(root(&report).kind, TimeKind::Timer, "{report:#?}");
    assert_ne!(root(&report).tid, Some(waiter));
}

#[test]
fn two_threads_that_wait_for_each_other_are_a_circle() {
    static MUTEXES: Mutexes = Mutexes::new();
    let mut child = Child::new(|link| {
        link.close_inherited();
        let threads = [(0, 1), (1, 0)].map(|(first, second)| {
            std::thread::spawn(move || {
                MUTEXES.lock(first);
                nap(100);
                MUTEXES.lock(second);
            })
        });
        nap(300);
        link.tell(1);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    child.go();
    child.heard();
    let report = watch(child.pid, 2.0);
    assert!(report.cycle, "{report:#?}");
    let locked = report.chain.iter().filter(|link| link.kind == TimeKind::Lock && link.share > 0.9);
    assert_eq!(locked.count(), 2, "{report:#?}");
}

#[test]
fn two_processes_that_lock_two_files_crosswise_are_a_circle() {
    let directory = tempfile::tempdir().unwrap();
    let files = [0, 1].map(|number| directory.path().join(format!("file-{number}")));
    let children = [(0, 1), (1, 0)].map(|(first, second)| {
        let (first, second) = (files[first].clone(), files[second].clone());
        let (child, _) = started(Child::new(move |link| {
            link.close_inherited();
            let (first, second) = [first, second].map(|path| File::create(path).unwrap()).into();
            lock(&first, libc::LOCK_EX);
            link.tell(1);
            link.wait();
            lock(&second, libc::LOCK_EX);
        }));
        child
    });
    let mut children = children;
    children.iter_mut().for_each(Child::go);
    nap(200);
    let report = watch(children[0].pid, 2.0);
    assert!(report.cycle, "{report:#?}");
    let pids: Vec<_> = report.chain.iter().map(|link| link.pid).collect();
    assert_eq!(pids, [Some(children[0].pid), Some(children[1].pid)], "{report:#?}");
    for child in &children {
        // SAFETY: our own child.
        unsafe { libc::kill(child.pid.cast_signed(), libc::SIGKILL) };
    }
}

/// A server in accept and a client of nobody: both have nothing to do.
#[test]
fn a_server_without_clients_is_idle() {
    let (server, _) = started(Child::new(|link| {
        link.close_inherited();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        link.tell(1);
        drop(listener.accept());
    }));
    let report = watch(server.pid, 1.5);
    assert!(report.chain.is_empty() && report.root.is_none(), "{report:#?}");
    assert!(share_of(thread(&report, server.pid), TimeKind::Idle) > 0.98, "{report:#?}");
}

/// Slept before anybody watched, and sleeps on.
#[test]
fn a_stopped_server_is_the_root_of_its_client() {
    let (server, port) = started(Child::new(|link| {
        link.close_inherited();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        link.tell(u64::from(listener.local_addr().unwrap().port()));
        let (mut client, _) = listener.accept().unwrap();
        let mut byte = [0];
        while client.read(&mut byte).unwrap() == 1 {
            client.write_all(&byte).unwrap();
        }
    }));
    let (client, _) = started(client(u16::try_from(port).unwrap()));
    nap(100);
    // SAFETY: our own child.
    unsafe { libc::kill(server.pid.cast_signed(), libc::SIGSTOP) };
    nap(100);
    let report = watch(client.pid, 2.0);
    // SAFETY: as above.
    unsafe { libc::kill(server.pid.cast_signed(), libc::SIGKILL) };
    assert_eq!(
        steps(&report),
        [(Some(client.pid), TimeKind::Tcp), (Some(server.pid), TimeKind::Stopped)],
        "{report:#?}"
    );
}

#[test]
fn a_dead_fuse_server_is_told_with_its_mount() {
    let mount = DeadMount::new();
    let path = mount.path().join("nowhere");
    let mut child = Child::new(move |link| {
        link.close_inherited();
        link.tell(1);
        let _ = std::fs::metadata(&path);
    });
    let mut watch =
        WhyWatch::start(WhyOptions::new(Target::Pid(child.pid)), &Host::detect()).expect("why can be watched");
    child.go();
    child.heard();
    for _ in 0..8 {
        nap(200);
        watch.step().unwrap();
    }
    let report = explain(&watch.observe().unwrap());
    drop(mount);
    let first = &report.chain[0];
    assert_eq!(first.kind, TimeKind::Fuse, "{report:#?}");
    assert!(first.on.detail.contains("fuse"), "{first:?}");
}

#[test]
fn a_quota_is_told_from_a_busy_machine() {
    let group = Cgroup::with_cpu_quota(20_000, 100_000, "why-quota");
    let mut child = Child::new(|link| {
        link.close_inherited();
        link.tell(1);
        loop {
            std::hint::spin_loop();
        }
    });
    group.add(child.pid);
    child.go();
    child.heard();
    nap(300);
    let report = watch(child.pid, 3.0);
    let share = share_of(thread(&report, child.pid), TimeKind::Throttled);
    // Less where others want the CPU, too.
    assert!((0.5..0.85).contains(&share), "{share}: {report:#?}");
    assert_eq!(root(&report).kind, TimeKind::Throttled);
}
