//! Descriptors as the summary counts them, against `/proc/PID/fd`, and leaks of the tests' own.

use std::fs::File;
use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use kerno_bpf::engine::Observer;
use kerno_doctor::report::Diagnosis;
use kerno_model::FdProcess;
use kerno_model::Window;

use crate::support::{Child, Link, compare, observer, slowness};

/// Samples as `doctor` does in a short window.
pub fn watch(observer: &mut Observer, window: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < window {
        std::thread::sleep(Duration::from_millis(150));
        observer.sample().unwrap();
    }
}

pub fn findings(signals: &Window, id: &str) -> Vec<Diagnosis> {
    let mut all = crate::support::diagnose(signals);
    let below: Vec<_> = all.iter().flat_map(|finding| finding.consequences.clone()).collect();
    all.extend(below);
    all.retain(|finding| finding.id == id);
    all
}

pub fn set_fd_limit(soft: u64, hard: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: limit is readable.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

pub fn fd_hard_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: limit is writable.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    limit.rlim_max
}

/// Opens one more descriptor and forgets it.
fn leak_file(path: &str) -> i32 {
    File::open(path).unwrap().into_raw_fd()
}

fn leak_dup(fd: i32, at_least: i32) -> i32 {
    // SAFETY: a new descriptor that nobody owns.
    let new = unsafe { libc::fcntl(fd, libc::F_DUPFD, at_least) };
    assert!(new >= at_least);
    new
}

pub fn leak_files(count: i32) {
    for _ in 0..count {
        leak_file("/etc/hostname");
    }
}

fn leak_dups(count: i32) {
    for _ in 0..count {
        leak_dup(2, 3);
    }
}

fn close(fd: i32) {
    // SAFETY: a descriptor that the caller opened and nobody else owns.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

fn truth(pid: u32) -> f64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as f64
}

fn process(signals: &Window, pid: u32) -> Option<&FdProcess> {
    signals.fd_track.as_ref().unwrap().processes.iter().find(|process| process.pid == pid)
}

#[test]
fn counts_are_those_of_procfs_at_every_step() {
    // Only with privileges may a process go above what it was given.
    let most = fd_hard_limit().min(80_002);
    let top = i32::try_from(most).unwrap() - 2;
    let steps: [Box<dyn Fn()>; 6] = [
        Box::new(|| leak_files(60)),
        Box::new(|| leak_dups(500)),
        // Far up: the table grows to a size that is no multiple of what is read at a time, mostly empty.
        Box::new(move || {
            for at_least in [1500, top / 2, top] {
                leak_dup(2, at_least);
            }
        }),
        Box::new(|| (100..400).for_each(close)),
        Box::new(move || leak_dups(top - 1000)),
        Box::new(move || close(top)),
    ];
    let count = steps.len();
    let mut child = Child::new(|link| {
        link.close_inherited();
        set_fd_limit(most - 1, most);
        link.tell(0);
        for step in steps {
            link.wait();
            step();
            link.tell(0);
        }
        link.wait();
    });
    child.go();
    child.heard();
    let mut observer = observer(&["fd_track"]);
    let mut expected = vec![truth(child.pid)];
    for _ in 0..count {
        child.go();
        child.heard();
        expected.push(truth(child.pid));
        observer.sample().unwrap();
    }
    let signals = observer.finish().unwrap();
    expected.push(truth(child.pid));
    let process = process(&signals, child.pid).expect("it has most of all");
    let seen: Vec<_> = process.open.points().iter().map(|point| point.1).collect();
    compare(
        "fd_track",
        "descriptors open, summary",
        seen.last().copied().unwrap_or_default(),
        expected[expected.len() - 1],
        "/proc/PID/fd",
    );
    assert_eq!(seen, expected);
    assert_eq!((process.soft_limit, process.hard_limit), (most - 1, most));
    assert!(signals.fd_track.as_ref().unwrap().open.last().unwrap() >= *expected.last().unwrap());
    child.go();
    assert_eq!(child.wait(), 0);
}

#[test]
fn threads_that_outlive_their_leader_keep_its_descriptors() {
    let mut child = Child::new(|link| {
        link.close_inherited();
        set_fd_limit(256, 256);
        leak_files(200);
        std::thread::spawn(|| std::thread::sleep(Duration::from_secs(60)));
        link.tell(0);
        // SAFETY: ends this thread alone, without running anything of Rust's.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
    child.go();
    child.heard();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.pid)).unwrap();
    while !state().contains(") Z ") {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut observer = observer(&["fd_track"]);
    let signals = observer.finish().unwrap();
    let process = process(&signals, child.pid).expect("it is near its limit");
    // Its report pipe and wait pipe, standard error, and what it opened: its threads' own directory tells.
    let threads = std::fs::read_dir(format!("/proc/{}/task", child.pid)).unwrap().flatten();
    let counts = threads.filter_map(|thread| Some(std::fs::read_dir(thread.path().join("fd")).ok()?.count()));
    assert_eq!(process.open.last(), Some(counts.max().unwrap() as f64));
    assert!(process.open.last() >= Some(200.0) && process.soft_limit == 256);
}

/// A child that does something again and again until it is killed.
fn leaking(every: Duration, mut leak: impl FnMut(&mut Link)) -> Child {
    let mut child = Child::new(move |link| {
        link.close_inherited();
        set_fd_limit(4096, 4096);
        link.tell(0);
        loop {
            leak(link);
            std::thread::sleep(every);
        }
    });
    child.go();
    child.heard();
    child
}

#[test]
fn leaks_are_found_with_what_is_leaked_and_steady_processes_are_not() {
    let every = Duration::from_millis(20);
    let sockets = leaking(every, |_| {
        // SAFETY: a new descriptor that nobody owns.
        assert!(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) } >= 0);
    });
    let files = leaking(every, |_| leak_files(1));
    let eventfds = leaking(every, |_| {
        // SAFETY: a new descriptor that nobody owns.
        assert!(unsafe { libc::eventfd(0, 0) } >= 0);
    });
    let dups = leaking(every, {
        let mut own = None;
        move |_| {
            let fd = *own.get_or_insert_with(|| leak_file("/etc/passwd"));
            leak_dup(fd, 3);
        }
    });
    let mut level = 0;
    let settled = leaking(every, move |_| {
        level += 1;
        if level < 25 {
            leak_files(10);
        }
    });
    let churning = leaking(Duration::from_millis(1), |_| close(leak_file("/etc/hostname")));
    let mut observer = observer(&["fd_track"]);
    let mut window = || {
        watch(&mut observer, Duration::from_millis(3500));
        observer.finish().unwrap()
    };
    let mut signals = window();
    // Emulated, what is open may come too late for the first windows, which say so.
    let is_late = |signals: &Window| signals.missing.iter().any(|missing| missing.signal == "fd_track");
    for _ in 0..3 {
        if slowness() > 1 && is_late(&signals) {
            signals = window();
        }
    }
    let found = findings(&signals, "fd_leak");
    let of = |child: &Child| found.iter().filter(|finding| finding.culprit.pid == Some(child.pid)).collect::<Vec<_>>();
    for (child, what) in [
        (&sockets, "leaks sockets: "),
        (&files, "leaks files: "),
        (&eventfds, "leaks eventfds: "),
        (&dups, "leaks duplicates of /etc/passwd: "),
    ] {
        let [finding] = of(child)[..] else {
            panic!("{what}: {:?}\n{:#?}", of(child), process(&signals, child.pid));
        };
        assert!(finding.title.contains(what), "{what}: {}", finding.title);
        let process = process(&signals, child.pid).unwrap();
        let eta = finding.eta.as_ref().unwrap();
        let left = 4096.0 - process.open.last().unwrap();
        // No faster than one each 20 ms.
        assert!(eta.seconds >= left / 55.0, "{eta:?}");
        assert!(process.kinds[0].growth > 0 && process.kinds[0].count as f64 <= truth(child.pid));
    }
    for child in [&settled, &churning] {
        assert!(of(child).is_empty(), "{:?}", of(child));
    }
}

#[test]
fn a_process_near_its_own_limit_is_found() {
    let mut child = Child::new(|link| {
        link.close_inherited();
        set_fd_limit(200, 400);
        leak_files(185);
        link.tell(0);
        link.wait();
    });
    child.go();
    child.heard();
    let mut observer = observer(&["fd_track"]);
    let signals = observer.finish().unwrap();
    let open = truth(child.pid);
    let found = findings(&signals, "fd_exhaustion");
    let finding = found.iter().find(|finding| finding.culprit.pid == Some(child.pid)).expect("it is found");
    assert!(finding.title.contains(&format!("{open} of 200 open")), "{}", finding.title);
    let command = format!("prlimit --pid {} --nofile=1024:1024", child.pid);
    assert!(finding.fixes.iter().any(|fix| fix.command == command), "{:?}", finding.fixes);
    child.go();
    assert_eq!(child.wait(), 0);
}
