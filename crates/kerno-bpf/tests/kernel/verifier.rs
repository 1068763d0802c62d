//! How much work the kernel's verifier has with each program: past a million instructions it gives up
//! (`BPF_COMPLEXITY_LIMIT_INSNS`), and every kernel counts differently. Only its log tells on all of them (`verified_insns` came with
//! Linux 5.16), so a child that loads everything is traced, and each of its `BPF_PROG_LOAD` calls is given a log of statistics.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use aya::programs::loaded_programs;
use kerno_bpf::engine::{Observer, ObserverOptions};
use kerno_bpf::{LoaderSet, Options, signals};

use crate::support::Child;

const LIMIT: u64 = 1_000_000;

/// `BPF_PROG_LOAD` of bpf(2), and where its arguments lie in `union bpf_attr`.
const PROG_LOAD: u64 = 5;
const LOG_LEVEL: u64 = 24;
const PROG_NAME: u64 = 48;
/// Statistics only (Linux 5.2).
const LOG_STATS: u32 = 4;
const LOG_BYTES: u32 = 1 << 16;

/// Which signal the child is loading; behind them come the events and the summaries of all.
static LOADING: AtomicUsize = AtomicUsize::new(0);

/// What is loaded of several signals together.
const TOGETHER: [&str; 2] = ["together", "summaries"];

/// The name of what is loaded, by its number.
fn loading(number: usize) -> &'static str {
    signals::ALL.get(number).map_or_else(|| TOGETHER[number - signals::ALL.len()], |signal| signal.name)
}

/// One after the other; calls `loaded` while they are there.
fn load_everything(mut loaded: impl FnMut()) {
    for (number, signal) in signals::ALL.iter().enumerate() {
        LOADING.store(number, Ordering::SeqCst);
        let mut loader = (signal.loader)(Options::default());
        let _handle = loader.load().unwrap_or_else(|error| panic!("cannot load {}: {}", signal.name, error.reason()));
        loaded();
    }
    LOADING.store(signals::ALL.len(), Ordering::SeqCst);
    let mut set = LoaderSet::new(signals::ALL.iter().map(|signal| (signal.loader)(Options::default())).collect());
    set.load_all().unwrap_or_else(|error| panic!("cannot load all: {}", error.reason()));
    loaded();
    set.close();
    LOADING.store(signals::ALL.len() + 1, Ordering::SeqCst);
    let observer = Observer::start(ObserverOptions::default()).unwrap();
    loaded();
    drop(observer);
}

fn ptrace(request: libc::c_uint, pid: libc::pid_t, data: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: the requests used here take a number, or a place for the registers, as data.
    match unsafe { libc::ptrace(request, pid, std::ptr::null_mut::<libc::c_void>(), data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn registers(pid: libc::pid_t) -> libc::user_regs_struct {
    let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
    ptrace(libc::PTRACE_GETREGS, pid, registers.as_mut_ptr().cast()).unwrap();
    // SAFETY: a struct of numbers.
    unsafe { registers.assume_init() }
}

/// Runs to the next entry into or return from a call; `None` when the process has ended well.
fn next_stop(pid: libc::pid_t) -> Option<()> {
    loop {
        ptrace(libc::PTRACE_SYSCALL, pid, std::ptr::null_mut()).unwrap();
        let mut status = 0;
        // SAFETY: our own child; status is writable.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }, pid);
        if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 {
            return Some(());
        }
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            assert_eq!(status, 0, "the loading child failed");
            return None;
        }
    }
}

fn text(memory: &File, at: u64, length: usize) -> String {
    let mut bytes = vec![0; length];
    memory.read_exact_at(&mut bytes, at).unwrap();
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// Instructions that the verifier processed, by what was being loaded and the program's name (of which the kernel keeps 15 bytes).
fn processed() -> BTreeMap<(String, String), u64> {
    // At the same place in the child.
    let log = vec![0u8; LOG_BYTES as usize].leak().as_ptr() as u64;
    let mut child = Child::new(|_| {
        // With one CPU all is loaded by the thread that is traced.
        let mut cpus = rustix::thread::CpuSet::new();
        cpus.set(rustix::thread::sched_getcpu());
        rustix::thread::sched_setaffinity(None, &cpus).unwrap();
        ptrace(libc::PTRACE_TRACEME, 0, std::ptr::null_mut()).unwrap();
        // SAFETY: stops this process until its tracer goes on.
        unsafe { libc::raise(libc::SIGSTOP) };
        load_everything(|| {});
    });
    child.go();
    let pid = child.pid.cast_signed();
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) }, pid);
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    ptrace(libc::PTRACE_SETOPTIONS, pid, options as usize as *mut _).unwrap();
    let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem")).unwrap();

    let mut processed = BTreeMap::new();
    while next_stop(pid).is_some() {
        let call = registers(pid);
        if (call.orig_rax, call.rdi) != (libc::SYS_bpf.cast_unsigned(), PROG_LOAD) {
            continue;
        }
        let name = text(&memory, call.rsi + PROG_NAME, 16);
        let mut arguments = [LOG_STATS.to_ne_bytes(), LOG_BYTES.to_ne_bytes()].concat();
        arguments.extend(log.to_ne_bytes());
        memory.write_all_at(&arguments, call.rsi + LOG_LEVEL).unwrap();
        next_stop(pid).expect("the call returns");
        if registers(pid).rax.cast_signed() < 0 || !name.starts_with("on_") {
            continue;
        }
        let mut number = [0; size_of::<usize>()];
        memory.read_exact_at(&mut number, LOADING.as_ptr() as u64).unwrap();
        let loading = loading(usize::from_ne_bytes(number));
        let log = text(&memory, log, LOG_BYTES as usize);
        let count = log.split("processed ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        let count: u64 = count.parse().unwrap_or_else(|_| panic!("no count in the log of {name}: {log}"));
        let entry = processed.entry((loading.to_owned(), name)).or_default();
        *entry = count.max(*entry);
    }
    // Reaped by the last wait.
    std::mem::forget(child);
    processed
}

#[test]
fn every_program_is_far_from_the_verifiers_limit() {
    let processed = processed();
    for signal in signals::ALL.iter().map(|signal| signal.name).chain(TOGETHER) {
        assert!(processed.keys().any(|(loading, _)| loading == signal), "no program of {signal} was seen");
    }
    for ((loading, program), count) in &processed {
        println!("verified: {loading} {program} {count}");
    }
    let over: Vec<_> = processed.iter().filter(|(_, count)| **count > LIMIT / 2).collect();
    assert!(over.is_empty(), "over half of the limit of {LIMIT}: {over:?}");
}

/// Names and lengths of the programs that this process has loaded, as the verifier left them.
fn translated() -> Vec<(String, u32)> {
    let infos =
        fs::read_dir("/proc/self/fdinfo").unwrap().filter_map(|info| fs::read_to_string(info.ok()?.path()).ok());
    let ids: BTreeSet<u32> = infos
        .filter_map(|info| info.lines().find_map(|line| line.strip_prefix("prog_id:"))?.trim().parse().ok())
        .collect();
    let own = loaded_programs().filter_map(Result::ok).filter(|info| ids.contains(&info.id()));
    let mut found: Vec<_> =
        own.map(|info| (info.name_as_str().unwrap_or("?").to_owned(), info.size_translated().unwrap())).collect();
    found.sort_unstable();
    found
}

/// What never runs is cut out. A verifier that errs in what that is does not err each time: the outcome hangs on what was in the memory
/// that it was given.
#[test]
fn every_load_leaves_the_same_of_a_program() {
    let mut child = Child::new(|_| {
        let [first, second, third] = [(); 3].map(|()| {
            let mut found = Vec::new();
            load_everything(|| found.push(translated()));
            found
        });
        assert!(first.iter().all(|programs| !programs.is_empty()), "{first:?}");
        assert_eq!(first, second);
        assert_eq!(first, third);
    });
    child.go();
    assert_eq!(child.wait(), 0);
}
