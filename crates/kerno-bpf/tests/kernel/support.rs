//! What the kernel tests share: children that wait for a go, and a run from load to the last event.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use kerno_bpf::engine::{Observer, ObserverOptions};
use kerno_bpf::probe::{Prepared, prepare_all};
use kerno_bpf::{
    Batch, CancelToken, Counters, Event, Filter, Handle, Host, LoadError, Loader, Options, RawEventBuf, signals,
};
use rustix::event::{PollFd, PollFlags};

/// A forked child that waits until it is told to go, does its work and exits. Forked rather than started, so that the work is a
/// closure and nothing else happens in the process; the work must not use what other threads may have locked at the fork (stdout).
pub struct Child {
    pub pid: u32,
    go: Option<File>,
    report: File,
    waited: bool,
}

/// What a child's work can say back, and where it may pause for its parent.
pub struct Link {
    go: File,
    report: File,
}

impl Link {
    /// Tells the parent a number.
    pub fn tell(&mut self, value: u64) {
        self.report.write_all(&value.to_ne_bytes()).unwrap();
    }

    /// Closes what the child inherited, its standard files and this link apart: other tests run in the same process, so what it has
    /// open at a fork is anyone's.
    pub fn close_inherited(&self) {
        self.close_inherited_but(&[]);
    }

    /// As [`close_inherited`](Self::close_inherited), but these stay open.
    pub fn close_inherited_but(&self, descriptors: &[i32]) {
        let own = [2, self.go.as_raw_fd(), self.report.as_raw_fd()];
        let mut kept: Vec<_> = own.iter().chain(descriptors).map(|fd| fd.cast_unsigned()).chain([u32::MAX]).collect();
        kept.sort_unstable();
        for pair in kept.windows(2).filter(|pair| pair[1] - pair[0] > 1) {
            let last = if pair[1] == u32::MAX { u32::MAX } else { pair[1] - 1 };
            // SAFETY: in the child nothing else uses these descriptors.
            assert_eq!(unsafe { libc::close_range(pair[0] + 1, last, 0) }, 0);
        }
    }

    /// Waits for the parent's next [`Child::go`].
    pub fn wait(&mut self) {
        self.go.read_exact(&mut [0]).unwrap();
    }
}

/// Whether this process is a forked child.
static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// What a test prints is kept in its process until it fails; a child's would be lost. The hook is set before the first fork and takes
/// no lock: a child is born with those locked that another thread held, a panicking one that of the hook itself.
fn tell_panics_of_children() {
    let of_tests = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if IN_CHILD.load(Ordering::Relaxed) {
            // SAFETY: nobody closes the standard error.
            let stderr = unsafe { BorrowedFd::borrow_raw(libc::STDERR_FILENO) };
            let _ = rustix::io::write(stderr, format!("in a child: {panic}\n").as_bytes());
        } else {
            of_tests(panic);
        }
    }));
}

/// How long a child may take for what it is waited for. The slowest take seconds; one that waits for ever tells where.
fn patience() -> Duration {
    Duration::from_secs(if slowness() > 1 { 900 } else { 120 })
}

fn pipe() -> (File, File) {
    let mut fds = [0; 2];
    // SAFETY: fds has room for the two descriptors, which nobody else owns.
    let (read, write) = unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    };
    (read.into(), write.into())
}

/// Writes to each page of the stack that the work may use, so that none is still shared with the parent. QEMU before 8 stores a wrong value when an
/// instruction such as `setno MEM` faults, as the first write to a shared page does: it has forgotten by then what was compared.
#[inline(never)]
fn write_to_stack() {
    let mut pages = [0_u8; 256 << 10];
    for at in (0..pages.len()).step_by(rustix::param::page_size()) {
        // SAFETY: within the array.
        unsafe { pages.as_mut_ptr().add(at).write_volatile(1) };
    }
    std::hint::black_box(&mut pages);
}

impl Child {
    /// Forks; the work starts at the first [`go`](Self::go).
    pub fn new(work: impl FnOnce(&mut Link)) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(tell_panics_of_children);
        let (go_read, go_write) = pipe();
        let (report_read, report_write) = pipe();
        // SAFETY: the child runs only the closure and ends with _exit; glibc keeps malloc usable after fork.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork failed");
        if pid == 0 {
            IN_CHILD.store(true, Ordering::Relaxed);
            write_to_stack();
            drop((go_write, report_read));
            let mut link = Link { go: go_read, report: report_write };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                link.wait();
                work(&mut link);
            }));
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(i32::from(result.is_err())) };
        }
        Self { pid: pid.cast_unsigned(), go: Some(go_write), report: report_read, waited: false }
    }

    /// Lets the child run (to its next wait).
    pub fn go(&mut self) {
        self.go.as_mut().unwrap().write_all(&[1]).unwrap();
    }

    /// A number the child told.
    pub fn heard(&mut self) -> u64 {
        self.expect_soon(&self.report);
        let mut bytes = [0; 8];
        self.report.read_exact(&mut bytes).expect("the child tells a number");
        u64::from_ne_bytes(bytes)
    }

    /// Waits for the end; the raw wait status.
    pub fn wait(&mut self) -> i32 {
        let child = rustix::process::Pid::from_raw(self.pid.cast_signed()).unwrap();
        self.expect_soon(&rustix::process::pidfd_open(child, rustix::process::PidfdFlags::empty()).unwrap());
        let mut status = 0;
        // SAFETY: status is writable; the pid is our child.
        let pid = unsafe { libc::waitpid(self.pid.cast_signed(), &raw mut status, 0) };
        assert_eq!(pid, self.pid.cast_signed());
        self.waited = true;
        status
    }

    /// Waits until the child's descriptor can be read; says where the child is if that never comes.
    fn expect_soon(&self, descriptor: &impl AsFd) {
        let deadline = Instant::now() + patience();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(descriptor, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&left.try_into().unwrap())) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) => {
                    let about =
                        |file| std::fs::read_to_string(format!("/proc/{}/{file}", self.pid)).unwrap_or_default();
                    panic!("the child does not get on: {}{}", about("syscall"), about("stack"));
                }
                result => return assert_eq!(result, Ok(1)),
            }
        }
    }

    /// Goes and waits; the child must succeed.
    pub fn run(&mut self) {
        self.go();
        assert_eq!(self.wait(), 0, "the child's work failed");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.waited {
            // SAFETY: kills and reaps our own child, which has not been waited for.
            unsafe {
                libc::kill(self.pid.cast_signed(), libc::SIGKILL);
                libc::waitpid(self.pid.cast_signed(), std::ptr::null_mut(), 0);
            }
        }
    }
}

thread_local! {
    /// Whether this test's signals are loaded beside all others, as users do it.
    static BESIDE_ALL: Cell<bool> = const { Cell::new(false) };
}

/// Whether a signal has hooks in common with others.
fn meets_others(signal: &str) -> bool {
    ["syscall_latency", "fd_track", "file_audit", "tcp_monitor", "process_life", "dns_query"].contains(&signal)
}

/// Runs a test with its signals beside all others, with which they share programs then.
pub fn beside_all(test: impl FnOnce()) {
    struct AsBefore;
    impl Drop for AsBefore {
        fn drop(&mut self) {
            BESIDE_ALL.set(false);
        }
    }
    BESIDE_ALL.set(true);
    let _as_before = AsBefore;
    test();
}

thread_local! {
    /// What this test loads for, where that is not simply this machine.
    static HOST: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// Whether this is a test of a machine that is said to lack something.
pub fn lacks_something() -> bool {
    HOST.with_borrow(Option::is_some)
}

/// Runs a test as if the kernel lacked these tracepoints or functions: what it loads then is what other kernels are given.
pub fn without(hooks: &[&'static str], test: impl FnOnce()) {
    struct AsBefore;
    impl Drop for AsBefore {
        fn drop(&mut self) {
            HOST.set(None);
        }
    }
    HOST.set(Some(hooks.iter().fold(Host::detect(), |host, name| host.without(name))));
    let _as_before = AsBefore;
    test();
}

/// An observer of these signals.
pub fn observer(signals: &[&str]) -> Observer {
    let signals = signals.iter().filter(|_| !BESIDE_ALL.get()).map(|name| (*name).to_owned()).collect();
    let options = ObserverOptions { signals, ..ObserverOptions::default() };
    let host = HOST.with_borrow(Clone::clone).unwrap_or_else(Host::detect);
    Observer::start_on(options, host).expect("the observer starts")
}

/// How many times slower than a machine this one is, when it is an emulated one: `KERNO_TEST_SLOWNESS`.
pub fn slowness() -> u64 {
    std::env::var("KERNO_TEST_SLOWNESS").map_or(1, |text| text.parse().expect("KERNO_TEST_SLOWNESS is a number"))
}

/// How often to repeat what is repeated only to be thorough. What is compared stays exact.
pub fn scaled(count: usize) -> usize {
    (count / usize::try_from(slowness()).unwrap()).max(1)
}

/// Holds a figure of a signal's against its truth, and prints both.
pub fn compare<T: PartialEq + std::fmt::Debug + std::fmt::Display>(
    signal: &str,
    figure: &str,
    ours: T,
    truth: T,
    source: &str,
) {
    println!("compared: {signal} | {figure} | {ours} | {truth} | {source}");
    assert_eq!(ours, truth, "{signal}: {figure}, which {source} tells");
}

thread_local! {
    /// Runs of programs that the kernel skipped since this test began, or its round.
    static SKIPPED: Cell<u64> = const { Cell::new(0) };
}

/// Whether a task may lose its CPU in the middle of a program, and the kernel skip that program for others on that CPU meanwhile.
pub fn preempts_programs() -> bool {
    kerno_bpf::probe::running_kernel().preempts_programs()
}

/// How many runs of programs the kernel skipped while the last signal was loaded.
pub fn skipped_runs() -> u64 {
    SKIPPED.get()
}

/// Programs that are not preempted are never skipped; what was skipped of others is told by [`skipped_runs`].
pub fn take_skipped(counters: &Counters) {
    assert!(counters.missed_runs == 0 || preempts_programs(), "{} runs of programs were missed", counters.missed_runs);
    SKIPPED.set(counters.missed_runs);
}

/// Holds a figure of a signal's against its truth where runs may have been skipped, of which each can have taken this much from the
/// figure. Without any it must be the truth.
pub fn compare_but_for_skipped(signal: &str, figure: &str, ours: u64, truth: u64, each: u64, source: &str) {
    println!("compared: {signal} | {figure} | {ours} | {truth} | {source}");
    let skipped = skipped_runs() * each;
    assert!(
        ours <= truth && truth <= ours + skipped,
        "{signal}: {figure}: {ours}, and {skipped} at most were skipped, of {truth}, which {source} tells"
    );
}

/// Where busy tasks are to run: as many as these on any CPU; where tasks are preempted in programs at most one a CPU, each pinned to
/// its own, since what they do is to be counted exactly.
pub fn places_of_busy(count: usize) -> Vec<Option<usize>> {
    if preempts_programs() { allowed_cpus().into_iter().take(count).map(Some).collect() } else { vec![None; count] }
}

/// Runs a test in which more tasks have work than the test's own, again if need be: where programs are preempted, and runs were skipped
/// in the round that failed.
pub fn unless_skipped(test: impl Fn()) {
    for round in 1.. {
        SKIPPED.set(0);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(&test)) {
            Ok(()) => return,
            Err(panic) if round == 8 || skipped_runs() == 0 => std::panic::resume_unwind(panic),
            Err(_) => eprintln!("{} runs of programs were skipped: another round", skipped_runs()),
        }
    }
}

/// The CPUs that this process may use.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: the set is writable and of the size given; its bits are read within it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set), 0);
        (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect()
    }
}

/// Pins the calling thread (and what it creates) to one CPU.
pub fn pin(cpu: usize) {
    pin_task(0, cpu);
}

/// Pins a thread, 0 for the calling one, to one CPU.
pub fn pin_task(tid: libc::pid_t, cpu: usize) {
    // SAFETY: the set is initialised and of the size given.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        assert_eq!(libc::sched_setaffinity(tid, size_of::<libc::cpu_set_t>(), &raw const set), 0);
    }
}

/// Keeps the kernel's parsed BTF from test to test: under emulation it takes longer to parse than most tests take.
fn keep_btf() {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(Host::detect);
}

/// Options with a filter and nothing else changed.
pub fn options(filter: Filter) -> Options {
    Options { filter, ..Options::default() }
}

/// Only this process.
pub fn pid(pid: u32) -> Filter {
    Filter { pids: vec![pid], ..Filter::default() }
}

/// A loaded signal whose events are gathered.
pub struct Run<L> {
    pub loader: L,
    pub handle: Handle,
    /// The other signals, where the test is to be [`beside_all`] of them.
    pub _others: Vec<Handle>,
}

impl<L: Loader> Run<L> {
    pub fn start(mut loader: L) -> Self {
        keep_btf();
        if let Some(host) = HOST.with_borrow(Clone::clone) {
            loader.set_host(host);
        }
        if BESIDE_ALL.get() {
            return Self::beside_all(loader);
        }
        let handle = loader.load().unwrap_or_else(|error| panic!("cannot load {}: {}", loader.name(), error.reason()));
        Self { loader, handle, _others: Vec::new() }
    }

    /// Those that it can meet on a hook. They have no filter, so that all have to do with what the test does. Nobody reads what they
    /// tell.
    fn beside_all(mut loader: L) -> Self {
        let others = signals::ALL.iter().filter(|signal| signal.name != loader.name() && meets_others(signal.name));
        let mut others: Vec<_> = others.map(|signal| (signal.loader)(Options::default())).collect();
        if let Some(host) = HOST.with_borrow(Clone::clone) {
            others.iter_mut().for_each(|other| other.set_host(host.clone()));
        }
        let name = loader.name();
        let first = std::iter::once(&mut loader as &mut dyn Loader);
        let others = others.iter_mut().map(|other| &mut **other as &mut dyn Loader);
        let prepared = prepare_all(first.chain(others)).into_iter();
        let attach = |prepared: Result<Prepared, LoadError>| prepared.and_then(Prepared::attach);
        let mut handles = prepared.map(|signal| {
            attach(signal).unwrap_or_else(|error| panic!("cannot load {name} beside all others: {}", error.reason()))
        });
        let handle = handles.next().unwrap();
        let others = handles.collect();
        Self { loader, handle, _others: others }
    }

    /// Detaches, reads everything, checks that nothing was lost and that the accounting is exact.
    pub fn finish(self) -> Vec<RawEventBuf> {
        let (events, counters) = self.finish_with_counters();
        assert_eq!(counters.lost, 0, "events were lost");
        take_skipped(&counters);
        events
    }

    pub fn finish_with_counters(self) -> (Vec<RawEventBuf>, Counters) {
        let mut stream = self.loader.events(&CancelToken::new().unwrap()).unwrap();
        self.handle.stop();
        let mut events = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        while stream
            .next_batch(Duration::from_secs(1), |raw| {
                events.push(raw.to_owned());
                ControlFlow::Continue(())
            })
            .unwrap()
            != Batch::Ended
        {
            assert!(Instant::now() < deadline, "the stream does not end");
        }
        let counters = self.handle.counters();
        assert_eq!(counters.emitted, self.handle.seen() + counters.lost, "seen + lost = emitted");
        (events, counters)
    }
}

/// Loads, runs the work, and returns the typed events.
pub fn observe<E: Event + Copy>(loader: impl Loader, work: impl FnOnce()) -> Vec<E> {
    let run = Run::start(loader);
    work();
    run.finish().iter().map(|raw| *raw.as_raw().decode_as::<E>().unwrap()).collect()
}

/// Context switches of process 1 so far.
pub fn init_switches() -> u64 {
    let tasks = std::fs::read_dir("/proc/1/task").unwrap().flatten();
    let text: String = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok()).collect();
    let counts = text.lines().filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
    counts.map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum()
}

/// Runs a test of what is handled in interrupts, again if need be. The kernels of some virtual machines run no tracing program
/// while a thread of process 1 is current, and an interrupt is handled on top of whatever thread it finds: then an event is not
/// shown to any tool. A failure counts at once when process 1 did not run meanwhile and no run was skipped, and in the end in any case.
pub fn unless_init_ran(test: impl Fn()) {
    for round in 1.. {
        let before = init_switches();
        SKIPPED.set(0);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(&test)) {
            Ok(()) => return,
            Err(panic) if round == 4 || (init_switches() == before && skipped_runs() == 0) => {
                std::panic::resume_unwind(panic)
            }
            Err(_) => eprintln!("process 1 ran meanwhile, or {} runs were skipped: another round", skipped_runs()),
        }
    }
}

/// `CLOCK_MONOTONIC` now, in nanoseconds: the clock of every event.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// What the calling thread, its process or its children have used so far: `who` of getrusage(2).
pub fn usage(who: i32) -> libc::rusage {
    // SAFETY: the struct is writable and may be zero.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(who, &raw mut usage), 0);
        usage
    }
}

/// Naps until this thread left the CPU so often: a nap whose time is over before the thread is asleep takes no switch.
pub fn nap_until_switched(times: u64) {
    let left = || usage(libc::RUSAGE_THREAD).ru_nvcsw.cast_unsigned();
    let before = left();
    while left() - before < times {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Sets the calling thread's name.
pub fn set_comm(name: &str) {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: a string that ends with NUL.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) }, 0);
}

#[test]
fn children_are_born_while_another_thread_panics() {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = std::panic::catch_unwind(|| panic!("as a test that fails"));
            }
        });
        let born = std::panic::catch_unwind(|| (0..scaled(100)).for_each(|_| Child::new(|_| {}).run()));
        done.store(true, Ordering::Relaxed);
        born.unwrap();
    });
}

/// What is wrong in a window, in words.
#[allow(dead_code, reason = "not every user of this file judges")]
pub(crate) fn diagnose(window: &kerno_model::Window) -> Vec<kerno_doctor::report::Diagnosis> {
    kerno_doctor::report::Report::new(window, &kerno_doctor::judge(window, &kerno_doctor::Thresholds::default()))
        .findings
}
