//! Every read of an observer is made to fail once, in the running kernel and beside an observer of which none fails. Needs root, as the
//! tests in tests/kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kerno_model::Window;
use serde_json::Value;

use super::{Hierarchy, Observer, ObserverOptions};
use crate::probe::faults;

/// A process that makes a bit of everything until it is dropped.
struct Load {
    pid: libc::pid_t,
    /// How many rounds it has done, in memory shared with it.
    rounds: &'static AtomicU64,
}

/// How many files a round opens at least.
const OPENS: u64 = 40;

impl Load {
    fn start() -> Self {
        let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let size = size_of::<AtomicU64>();
        // SAFETY: a mapping of its own, aligned to a page, zeroed by the kernel.
        let rounds =
            unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, shared, -1, 0) };
        assert_ne!(rounds, libc::MAP_FAILED);
        // SAFETY: mapped, aligned, and never unmapped.
        let rounds: &'static AtomicU64 = unsafe { &*rounds.cast() };
        // A directory on a disk, where there is one.
        let directory: PathBuf = env!("CARGO_MANIFEST_DIR").into();
        let sure = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = sure.local_addr().unwrap();
        // SAFETY: the child goes through the loop and is killed; glibc keeps malloc usable after fork.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let round = || -> std::io::Result<()> {
                let mut file = tempfile::tempfile_in(&directory).or_else(|_| tempfile::tempfile())?;
                for _ in 0..OPENS / 2 {
                    let _ = std::fs::File::open("/no/such/file");
                    let _ = std::fs::File::options().write(true).open("/dev/full")?.write_all(b"x");
                }
                file.write_all(&[7; 1 << 16])?;
                file.sync_all()?;
                let mut near = TcpStream::connect(address)?;
                let (_far, _) = sure.accept()?;
                near.write_all(&[7; 1 << 14])?;
                std::thread::sleep(Duration::from_millis(1));
                rounds.fetch_add(1, Ordering::Relaxed);
                Ok(())
            };
            while round().is_ok() {}
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(1) };
        }
        Self { pid, rounds }
    }

    fn pid(&self) -> u32 {
        self.pid.cast_unsigned()
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Waits until it has done so many rounds more: on a busy machine, held back by its quota, one can take longer than a window.
    fn wait_for(&self, more: u64) {
        let (goal, deadline) = (self.rounds() + more, Instant::now() + Duration::from_secs(20));
        while self.rounds() < goal {
            assert!(Instant::now() < deadline, "the load has stopped at {} of {goal} rounds", self.rounds());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // SAFETY: our own child, not yet waited for.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

/// A cgroup with a limit that is not reached, for the load: so that these are read, too. Removed at the end.
struct Limited(PathBuf);

impl Limited {
    fn new(controller: &str, v1: (&str, &str), v2: (&str, &str), load: &Load) -> Self {
        let hierarchy = Hierarchy::of_controller(controller).expect("a hierarchy with the controller");
        if hierarchy.v2 {
            std::fs::write(hierarchy.mount.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
        }
        let directory = hierarchy.mount.join(format!("kerno-gaps-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let limited = Self(directory);
        let (file, limit) = if hierarchy.v2 { v2 } else { v1 };
        std::fs::write(limited.0.join(file), limit).unwrap();
        std::fs::write(limited.0.join("cgroup.procs"), load.pid.to_string()).unwrap();
        limited
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // Of two controllers in one hierarchy the second has removed it.
        while std::fs::remove_dir(&self.0).is_err_and(|error| error.kind() != std::io::ErrorKind::NotFound) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whatever counts from zero in each window.
const COUNTS: &[&str] = &[
    "accepted",
    "bytes",
    "calls",
    "closed",
    "count",
    "direct_reclaims",
    "direct_scanned_pages",
    "failed",
    "flushes",
    "involuntary",
    "kills_total",
    "limit_hits",
    "major_faults",
    "oom_kills",
    "opened",
    "opens",
    "periods",
    "read_bytes",
    "refaulted_pages",
    "repeated",
    "requests",
    "retransmitted_segments",
    "run_ns",
    "sent_segments",
    "slow",
    "slow_total_ns",
    "swapped_out_pages",
    "switches",
    "throttled_ns",
    "throttled_periods",
    "total_ns",
    "voluntary",
    "wait_ns",
    "waits",
    "write_bytes",
];

/// The sums of all counts in a window, by part and name.
fn sums(window: &Window) -> BTreeMap<(String, String), f64> {
    fn add(value: &Value, part: &str, sums: &mut BTreeMap<(String, String), f64>) {
        match value {
            Value::Array(values) => values.iter().for_each(|value| add(value, part, sums)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value.as_f64() {
                        Some(number) if COUNTS.contains(&name.as_str()) => {
                            *sums.entry((part.to_owned(), name.clone())).or_default() += number;
                        }
                        _ => add(value, part, sums),
                    }
                }
            }
            _ => {}
        }
    }
    let mut all = BTreeMap::new();
    let window = serde_json::to_value(window).unwrap();
    for (part, value) in window.as_object().unwrap() {
        if !["host", "span", "missing", "cost"].contains(&part.as_str()) {
            add(value, part, &mut all);
        }
    }
    all
}

fn observer() -> Observer {
    Observer::start(ObserverOptions::default()).expect("the observer starts; these tests need root")
}

/// Two observers whose windows are cut at the same moments, as nearly as can be.
struct Both<'a> {
    failing: Observer,
    control: Observer,
    load: &'a Load,
    /// How many rounds the load had done when the last window of the failing one was about to end.
    rounds: u64,
}

impl Both<'_> {
    fn window(&mut self) -> (Window, Window) {
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(25));
            self.load.wait_for(2);
            self.failing.sample().unwrap();
            // What fails is this thread's reads: those of the control are another's.
            std::thread::scope(|scope| scope.spawn(|| self.control.sample().unwrap()).join().unwrap());
        }
        self.rounds = self.load.rounds();
        let failing = self.failing.finish().unwrap();
        let control = std::thread::scope(|scope| scope.spawn(|| self.control.finish().unwrap()).join().unwrap());
        (failing, control)
    }
}

fn told(window: &Window) -> BTreeSet<(String, String)> {
    window.missing.iter().map(|missing| (missing.signal.clone(), missing.what.clone())).collect()
}

#[test]
fn a_read_that_fails_is_told_and_the_next_window_has_no_more_than_what_came() {
    // Declared first, so dropped last: cgroups can be removed when nobody is in them any more.
    let (_cpu, _memory);
    let load = Load::start();
    _cpu = Limited::new("cpu", ("cpu.cfs_quota_us", "60000"), ("cpu.max", "60000 100000"), &load);
    _memory = Limited::new("memory", ("memory.limit_in_bytes", "256M"), ("memory.max", "256M"), &load);
    let mut both = Both { failing: observer(), control: observer(), load: &load, rounds: 0 };
    // So that everything since the beginning is much more than what comes in two windows.
    for _ in 0..12 {
        both.window();
    }
    let usual = told(&both.window().0);
    let mut tested = BTreeSet::new();
    // More may come to be read as time passes.
    while let Some(name) = faults::passed().into_iter().find(|name| !tested.contains(name)) {
        // The rounds between these two are within the two windows.
        let before = load.rounds();
        faults::fail(Some(&name));
        let (failed, control_failed) = both.window();
        let times = faults::fail(None);
        let (after, control_after) = both.window();
        tested.insert(name.clone());
        if times == 0 {
            continue;
        }
        // Names, places and the like may be missing without a word; what is counted may not.
        let unsaid =
            ["cgroup.procs", "sockstat", "sockstat6", "carrier", "netdev_max_backlog"].contains(&name.as_str());
        // What is read as a window begins is told when it ends.
        let more: BTreeSet<_> =
            told(&failed).union(&told(&after)).filter(|told| !usual.contains(told)).cloned().collect();
        assert!(unsaid || !more.is_empty(), "{name} failed {times} times and nothing is told to be missing");
        println!("{name}: {times} times, {more:?}");
        let (found, first, second) = (sums(&after), sums(&control_failed), sums(&control_after));
        for (count, found) in found {
            let truth = first.get(&count).unwrap_or(&0.0) + second.get(&count).unwrap_or(&0.0);
            let slack = if count.1.ends_with("_ns") { 2e8 } else { 200.0 };
            assert!(found <= 2.0 * truth + slack, "after {name} failed: {count:?} is {found}, of {truth} at most");
        }
        // And nothing is lost: what one window could not tell is in the next.
        let opens = |window: &Window| {
            let part = window.file_audit.as_ref().unwrap();
            part.processes.iter().find(|process| process.pid == load.pid()).map_or(0, |process| process.opens)
        };
        // One round may have begun before the first window.
        let (seen, made) = (opens(&failed) + opens(&after), (both.rounds - before - 1) * OPENS);
        assert!(seen >= made, "around the failure of {name} {seen} opens of {made} are told of");
    }
    let used = if Hierarchy::of_controller("memory").unwrap().v2 { "memory.current" } else { "memory.usage_in_bytes" };
    for name in [
        used,
        "cpu.stat",
        "errors",
        "offenders",
        "syncs",
        "openers",
        "on_task",
        "meminfo",
        "vmstat",
        "stat",
        "snmp",
        "netstat",
    ] {
        assert!(tested.contains(name), "{name} is not among {tested:?}");
    }
}

#[test]
fn unreadable_memory_is_not_used_up_memory() {
    let mut observer = Observer::start(ObserverOptions { signals: vec!["oom_track".into()], redact: false }).unwrap();
    faults::fail(Some("meminfo"));
    // The first look of this window was before.
    drop(observer.finish().unwrap());
    observer.sample().unwrap();
    let window = observer.finish().unwrap();
    assert!(faults::fail(None) >= 3);
    let part = window.oom_track.unwrap();
    assert!(part.available_bytes.points().is_empty(), "{:?}", part.available_bytes);
    assert!(part.total_bytes > 1 << 24, "that does not change so often: {}", part.total_bytes);
    let missing = window.missing.iter().find(|missing| missing.what == "memory available").expect("it is told");
    assert!(missing.reason.contains("os error 5"), "{missing:?}");
}

#[test]
fn tasks_that_cannot_be_walked_are_an_error_only_when_it_lasts() {
    let mut observer = Observer::start(ObserverOptions { signals: vec!["fd_track".into()], redact: false }).unwrap();
    faults::fail(Some("on_task"));
    observer.sample().unwrap();
    let window = observer.finish().unwrap();
    assert!(window.missing.iter().any(|missing| missing.signal == "all" && missing.what.contains("processes used")));
    let lasting = (0..20).find_map(|_| observer.sample().err());
    assert!(lasting.is_some());
    faults::fail(None);
    observer.sample().unwrap();
    let window = observer.finish().unwrap();
    assert!(!window.processes.is_empty());
}
