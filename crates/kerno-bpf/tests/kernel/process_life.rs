//! The events of processes against what wait4, /proc and the processes themselves tell.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};

use kerno_bpf::{Counters, Event as _, Filter, LifeEvent, LifeOp, Options, ProcessLifeLoader};
use kerno_model::WaitStatus;

use crate::support::{
    Child, Link, Run, compare_but_for_skipped, monotonic_ns, observe, options, preempts_programs, scaled, set_comm,
};

/// A user that nobody else is: what its processes do is all that a filter on it tells.
fn user() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    1_000_000_000 + std::process::id() * 64 % 100_000_000 + NEXT.fetch_add(1, Ordering::Relaxed)
}

fn become_user(uid: u32) {
    // SAFETY: plain calls; the whole process is this thread.
    assert_eq!(unsafe { libc::setresuid(uid, uid, uid) }, 0, "needs CAP_SETUID");
}

/// Forks; the work must end the child.
pub fn fork(work: impl FnOnce()) -> i32 {
    // SAFETY: the child runs the work and ends.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        work();
        exit(99);
    }
    pid
}

pub fn exit(code: i32) -> ! {
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(code) }
}

/// Ends by SIGSEGV, which the runtime of tests handles.
pub fn crash() {
    // SAFETY: the default action of a signal, and that signal to this process.
    unsafe {
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        libc::raise(libc::SIGSEGV);
    }
}

/// Executes a program; only comes back if it cannot.
pub fn exec(args: &[&CStr]) {
    let pointers: Vec<_> = args.iter().map(|arg| arg.as_ptr()).chain([std::ptr::null()]).collect();
    // SAFETY: strings that live, and a null at the end.
    unsafe { libc::execv(pointers[0], pointers.as_ptr()) };
}

/// Waits for a child: its status.
pub fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: status is writable.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}

/// Runs a child's work as a user of its own and gives the events of that user; what the work tells is in the list, to the first 0.
fn as_user(work: impl FnOnce(&mut Link)) -> (u32, Vec<LifeEvent>, Vec<u64>) {
    let uid = user();
    let mut child = Child::new(move |link| {
        set_comm("kerno-lives");
        become_user(uid);
        work(link);
        link.tell(0);
        link.wait();
    });
    let mut told = Vec::new();
    let filter = Filter { uids: vec![uid], ..Filter::default() };
    let events = observe(ProcessLifeLoader::new(options(filter)), || {
        child.go();
        while let value @ 1.. = child.heard() {
            told.push(value);
        }
    });
    child.go();
    assert_eq!(child.wait(), 0, "the child's work failed");
    (child.pid, events, told)
}

fn of(events: &[LifeEvent], op: LifeOp) -> impl Iterator<Item = &LifeEvent> {
    events.iter().filter(move |event| event.op == op)
}

/// A process and its wait status in one number.
fn known(pid: i32, status: i32) -> u64 {
    u64::from(pid.cast_unsigned()) << 32 | u64::from(status.cast_unsigned())
}

fn endings(told: &[u64]) -> BTreeMap<u32, u32> {
    told.iter().map(|told| ((told >> 32) as u32, *told as u32)).collect()
}

/// The ends that were told, and their truth; where programs are skipped some may be missing.
fn assert_endings(events: &[LifeEvent], told: &[u64]) {
    let truth = endings(told);
    let ours: Vec<_> = of(events, LifeOp::Exit).collect();
    for event in &ours {
        assert_eq!(truth.get(&event.pid), Some(&event.status), "{event}");
        assert_eq!(event.ending(), Some(WaitStatus(event.status)));
    }
    compare_but_for_skipped("process_life", "ends, events", ours.len() as u64, truth.len() as u64, 1, "wait4");
}

#[test]
fn every_fork_exec_and_exit_is_told_once_with_every_field() {
    let count = scaled(101);
    let before = monotonic_ns();
    let (pid, events, told) = as_user(move |link| {
        for number in 0..count {
            let script = CString::new(format!("exit {}", number % 7)).unwrap();
            let child = fork(|| exec(&[c"/bin/sh", c"-c", &script, c"", c"an argument"]));
            link.tell(known(child, wait(child)));
        }
    });
    let after = monotonic_ns();
    let truth = endings(&told);
    let parent = pid;
    let uid = events[0].uid;
    for op in [LifeOp::Fork, LifeOp::Exec, LifeOp::Exit] {
        let number = of(&events, op).count() as u64;
        compare_but_for_skipped("process_life", &format!("{op}s, events"), number, count as u64, 1, "the caller");
    }
    let mut born = BTreeMap::new();
    for event in &events {
        assert!(truth.contains_key(&event.pid), "{event}");
        assert!(before <= event.start_ns && event.start_ns <= event.timestamp_ns && event.timestamp_ns <= after);
        assert_eq!((event.parent_pid(), event.uid), (parent, uid));
        assert_eq!(event.ancestors[0].comm.to_string(), "kerno-lives");
        assert_eq!(event.ancestors[1].pid, std::process::id());
        assert_eq!(*born.entry(event.pid).or_insert(event.start_ns), event.start_ns, "one start a process");
        assert!(event.cgroup_id > 0);
        match event.op {
            LifeOp::Fork => {
                assert_eq!((event.starter_pid, event.comm().as_ref(), event.no_exec), (parent, "kerno-lives", true));
                assert!(event.args().next().is_none() && event.filename().is_empty());
            }
            LifeOp::Exec => {
                let code = WaitStatus(truth[&event.pid]).code().unwrap();
                let script = format!("exit {code}");
                let args: Vec<_> = event.args().collect();
                assert_eq!(args, [b"/bin/sh".as_slice(), b"-c", script.as_bytes(), b"", b"an argument"]);
                assert_eq!((event.filename().as_ref(), event.comm().as_ref()), ("/bin/sh", "sh"));
                assert!(!event.args_truncated() && event.lived_ns == 0);
            }
            LifeOp::Exit => {
                assert_eq!(event.lived_ns, event.timestamp_ns - event.start_ns);
                assert_eq!((event.comm().as_ref(), event.no_exec, event.oom_killed), ("sh", false, false));
            }
        }
    }
    assert_endings(&events, &told);
}

#[test]
fn long_arguments_are_cut_and_counted() {
    let long = CString::new(vec![b'x'; 5000]).unwrap();
    let (_, events, _) = as_user(move |_| {
        let child = fork(|| exec(&[c"/bin/true", &long]));
        assert_eq!(wait(child), 0);
    });
    let Some(event) = of(&events, LifeOp::Exec).next() else { return assert!(preempts_programs()) };
    assert_eq!(event.args_bytes as usize, "/bin/true".len() + 1 + 5001);
    assert!(event.args_truncated());
    let args: Vec<_> = event.args().collect();
    assert_eq!((args[0], args[1].len()), (b"/bin/true".as_slice(), 256 - 10));
}

fn thread(work: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::Builder::new().stack_size(128 << 10).spawn(work).unwrap()
}

/// Ends the calling thread and nothing else of its process.
fn exit_thread(code: i32) -> ! {
    // SAFETY: nothing of this thread is used any more.
    unsafe { libc::syscall(libc::SYS_exit, code) };
    unreachable!()
}

#[test]
fn a_process_of_many_threads_ends_once() {
    let rounds = scaled(23);
    let (_, events, told) = as_user(move |link| {
        for round in 0..rounds {
            let child = fork(|| {
                let threads: Vec<_> = (0..13).map(|_| thread(std::thread::yield_now)).collect();
                match round % 3 {
                    // All end by themselves, the leader last.
                    0 => threads.into_iter().for_each(|thread| thread.join().unwrap()),
                    // The leader first: another one ends the process.
                    1 => {
                        thread(|| {
                            std::thread::sleep(std::time::Duration::from_millis(5));
                            exit(42)
                        });
                        exit_thread(0);
                    }
                    // All at once.
                    _ => {}
                }
                exit(7);
            });
            link.tell(known(child, wait(child)));
        }
    });
    assert_endings(&events, &told);
    let forks = of(&events, LifeOp::Fork).count() as u64;
    compare_but_for_skipped("process_life", "forks beside threads, events", forks, rounds as u64, 1, "the caller");
}

#[test]
fn a_thread_that_executes_a_program_is_no_end_of_its_process() {
    let (_, events, told) = as_user(|link| {
        for _ in 0..7 {
            let child = fork(|| {
                thread(|| exec(&[c"/bin/sh", c"-c", c"exit 5"]));
                loop {
                    std::thread::park();
                }
            });
            link.tell(known(child, wait(child)));
        }
    });
    assert_endings(&events, &told);
    let execs: Vec<_> = of(&events, LifeOp::Exec).collect();
    compare_but_for_skipped("process_life", "execs of threads, events", execs.len() as u64, 7, 1, "the caller");
    for exec in execs {
        assert!(endings(&told).contains_key(&exec.pid) && exec.comm() == "sh", "{exec}");
        let fork = of(&events, LifeOp::Fork).find(|fork| fork.pid == exec.pid);
        assert!(fork.is_none_or(|fork| fork.start_ns == exec.start_ns), "the process is as old as it was");
    }
}

#[test]
fn signals_and_core_dumps_are_what_wait_tells() {
    let (_, events, told) = as_user(|link| {
        let signals = [libc::SIGKILL, libc::SIGTERM, libc::SIGSEGV, libc::SIGABRT, libc::SIGHUP, libc::SIGSYS, 40];
        for (number, signal) in signals.into_iter().enumerate() {
            let child = fork(|| {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                // SAFETY: a limit, and a signal to this process.
                unsafe {
                    if number % 2 == 0 {
                        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                    }
                    std::env::set_current_dir("/tmp").unwrap();
                    libc::signal(signal, libc::SIG_DFL);
                    libc::kill(libc::getpid(), signal);
                }
            });
            link.tell(known(child, wait(child)));
        }
    });
    assert_endings(&events, &told);
    for event in of(&events, LifeOp::Exit) {
        assert!(event.failed() && event.no_exec && event.comm() == "kerno-lives", "{event}");
        assert_eq!(event.ending().unwrap().dumped(), event.status & 0x80 != 0);
    }
}

#[test]
fn the_parent_is_the_one_at_that_time_and_the_starter_stays() {
    let (pid, events, told) = as_user(|link| {
        // A daemon's double fork: the grandchild is adopted when its parent ends.
        let (mut ends, mut byte) = ([0; 2], [0u8; 4]);
        // SAFETY: room for two descriptors, and a buffer of four bytes.
        unsafe { assert_eq!(libc::pipe(ends.as_mut_ptr()), 0) };
        let middle = fork(|| {
            // SAFETY: a new session of this process.
            unsafe { libc::setsid() };
            let grandchild = fork(|| {
                std::thread::sleep(std::time::Duration::from_millis(50));
                exit(3);
            });
            // SAFETY: four bytes of a number.
            unsafe { libc::write(ends[1], grandchild.to_ne_bytes().as_ptr().cast(), 4) };
            exit(0);
        });
        assert_eq!(wait(middle), 0);
        // SAFETY: a buffer of four bytes.
        unsafe { assert_eq!(libc::read(ends[0], byte.as_mut_ptr().cast(), 4), 4) };
        link.tell(known(middle, i32::from_ne_bytes(byte)));
        // A sibling rather than a child.
        let middle = fork(|| {
            // SAFETY: as fork, with a flag.
            let sibling = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) };
            if sibling == 0 {
                exit(0);
            }
            exit(0);
        });
        assert_eq!(wait(middle), 0);
        let mut status = 0;
        // SAFETY: status is writable.
        let sibling = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        link.tell(known(middle, sibling));
        std::thread::sleep(std::time::Duration::from_millis(150));
    });
    if preempts_programs() && events.len() < 8 {
        return;
    }
    let find = |op, pid| of(&events, op).find(|event| event.pid == pid).unwrap();
    let [double, sibling] = &told[..] else { panic!("{told:?}") };
    let (middle, grandchild) = ((double >> 32) as u32, *double as u32);
    let fork = find(LifeOp::Fork, grandchild);
    assert_eq!((fork.parent_pid(), fork.starter_pid), (middle, middle));
    let exit = find(LifeOp::Exit, grandchild);
    assert!(exit.parent_pid() != middle && exit.parent_pid() != pid, "adopted: {exit}");
    assert_eq!(exit.ending().unwrap().code(), Some(3));
    let (middle, sibling) = ((sibling >> 32) as u32, *sibling as u32);
    let fork = find(LifeOp::Fork, sibling);
    assert_eq!((fork.parent_pid(), fork.starter_pid), (pid, middle));
}

#[test]
fn processes_of_a_namespace_have_the_machines_ids() {
    let uid = user();
    let mut child = Child::new(move |link| {
        // SAFETY: children of this process are in a namespace of their own from now on.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0, "needs CAP_SYS_ADMIN");
        let init = fork(|| {
            become_user(uid);
            let child = fork(|| exit(9));
            assert_eq!(child, 2, "its id in the namespace");
            assert_eq!(WaitStatus(wait(child).cast_unsigned()).code(), Some(9));
            exit(0);
        });
        assert_eq!(wait(init), 0);
        link.tell(u64::from(init.cast_unsigned()));
    });
    let filter = Filter { uids: vec![uid], ..Filter::default() };
    let mut init = 0;
    let events: Vec<LifeEvent> = observe(ProcessLifeLoader::new(options(filter)), || {
        child.go();
        init = child.heard() as u32;
        assert_eq!(child.wait(), 0);
    });
    if preempts_programs() && events.len() < 3 {
        return;
    }
    let inner = of(&events, LifeOp::Fork).next().unwrap();
    assert!(inner.pid > 2 && inner.starter_pid == init && inner.parent_pid() == init, "{inner}");
    let exit = of(&events, LifeOp::Exit).find(|event| event.pid == inner.pid).unwrap();
    assert_eq!((exit.ending().unwrap().code(), exit.parent_pid()), (Some(9), init));
}

#[test]
fn filters_leave_out_the_others() {
    let codes = |link: &mut Link| {
        for code in [0, 1, 0, 2, 0] {
            let child = fork(|| exit(code));
            link.tell(known(child, wait(child)));
        }
    };
    let run = |filter: fn(u32) -> Filter| {
        let mut child = Child::new(move |link| {
            set_comm("kerno-filter");
            codes(link);
            link.tell(0);
        });
        let filter = Filter { pids: Vec::new(), ..filter(child.pid) };
        let mut told = Vec::new();
        let events: Vec<LifeEvent> = observe(ProcessLifeLoader::new(options(filter)), || {
            child.go();
            while let value @ 1.. = child.heard() {
                told.push(value);
            }
            assert_eq!(child.wait(), 0);
        });
        (events, endings(&told))
    };
    let comm = |_| Filter { comms: vec!["kerno-filter".into()], ..Filter::default() };
    let (events, truth) = run(comm);
    let of_them = events.iter().filter(|event| truth.contains_key(&event.pid)).count() as u64;
    // The child itself ends, too.
    compare_but_for_skipped("process_life", "events by name", of_them, 10, 1, "the caller");
    let (events, truth) =
        run(|_| Filter { errors_only: true, comms: vec!["kerno-filter".into()], ..Filter::default() });
    assert!(events.iter().all(|event| event.failed() && event.op == LifeOp::Exit));
    let failed = truth.values().filter(|status| **status != 0).count() as u64;
    compare_but_for_skipped("process_life", "failed ends, events", events.len() as u64, failed, 1, "wait4");
}

#[test]
fn a_full_ring_loses_no_count() {
    let uid = user();
    let count = scaled(211);
    let mut child = Child::new(move |_| {
        become_user(uid);
        (0..count).for_each(|_| assert_eq!(wait(fork(|| exit(0))), 0));
    });
    let filter = Filter { uids: vec![uid], ..Filter::default() };
    let options = Options { filter, ring_bytes: 64 << 10, ..Options::default() };
    let run = Run::start(ProcessLifeLoader::new(options));
    child.run();
    let (events, counters): (_, Counters) = run.finish_with_counters();
    crate::support::take_skipped(&counters);
    assert_eq!(events.len() as u64 + counters.lost, counters.emitted);
    // The child's own end as well.
    compare_but_for_skipped(
        "process_life",
        "attempts, full ring",
        counters.emitted,
        2 * count as u64 + 1,
        1,
        "the caller",
    );
    assert!(counters.lost > 0 || count < 100, "{counters:?}");
}

beside_all! {
    every_fork_exec_and_exit_is_told_once_with_every_field
    a_process_of_many_threads_ends_once
    signals_and_core_dumps_are_what_wait_tells
    a_full_ring_loses_no_count
}
