//! What a process used, as the tasks' walk adds it up, against what procfs and the process's own clock say.

use std::io::Write as _;
use std::time::{Duration, Instant};

use kerno_bpf::engine::Observer;
use kerno_model::{Process, Window};

use crate::fd_summary::{leak_files, set_fd_limit};
use crate::support::{Child, Link, observer};

/// A child that is sure to be named in the signals, since it is near its limit of descriptors; asleep at both ends of the window.
fn observed(work: impl FnOnce(&mut Link)) -> (Child, Observer) {
    let mut child = Child::new(|link| {
        link.close_inherited();
        set_fd_limit(256, 256);
        leak_files(240);
        link.tell(0);
        link.wait();
        work(link);
        link.tell(0);
        link.wait();
    });
    child.go();
    child.heard();
    asleep(child.pid);
    (child, observer(&["fd_track"]))
}

/// Waits until a process sleeps, so that its accounts stand still.
fn asleep(pid: u32) {
    while !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") S ") {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn named(signals: &Window, pid: u32) -> &Process {
    signals.process(pid).expect("a process that a signal names")
}

fn spin(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Time on a CPU, time waiting for one, and times it got one.
fn schedstat(pid: u32) -> [u64; 3] {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let mut fields = text.split_whitespace().map(|field| field.parse().unwrap());
    [(); 3].map(|()| fields.next().unwrap())
}

/// CPU time of a whole process, its ended threads too.
fn cpu_clock(pid: u32) -> u64 {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both point to room for what is written.
    unsafe {
        assert_eq!(libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock), 0);
        assert_eq!(libc::clock_gettime(clock, &raw mut time), 0);
    }
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

fn io(pid: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap();
    line.parse().unwrap()
}

#[test]
fn cpu_time_and_waits_are_those_of_schedstat() {
    let (mut child, mut observer) = observed(|_| {
        for _ in 0..20 {
            spin(Duration::from_millis(10));
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let before = schedstat(child.pid);
    child.go();
    std::thread::sleep(Duration::from_millis(100));
    observer.sample().unwrap();
    child.heard();
    asleep(child.pid);
    let after = schedstat(child.pid);
    let signals = observer.finish().unwrap();
    let used = named(&signals, child.pid).used;
    let expected: Vec<_> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!([used.run_ns, used.wait_ns, used.waits], expected[..]);
    assert!(used.run_ns > 20_000_000 && used.voluntary >= 20);
}

#[test]
fn threads_that_ended_count_once() {
    let (mut child, mut observer) = observed(|link| {
        let path = std::env::temp_dir();
        let work = move || {
            let mut file = tempfile::tempfile_in(&path).unwrap_or_else(|_| std::fs::File::open("/dev/null").unwrap());
            file.write_all(&[7; 1 << 20]).unwrap();
            spin(Duration::from_millis(30));
        };
        // Descriptors are short here: one thread at a time.
        for _ in 0..3 {
            std::thread::spawn(work.clone()).join().unwrap();
        }
        let lasting = std::thread::spawn({
            let work = work.clone();
            move || {
                work();
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        link.tell(0);
        lasting.join().unwrap();
    });
    let before = (cpu_clock(child.pid), io(child.pid, "write_bytes"));
    child.go();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(20));
        observer.sample().unwrap();
    }
    child.heard();
    observer.sample().unwrap();
    child.heard();
    asleep(child.pid);
    let after = (cpu_clock(child.pid), io(child.pid, "write_bytes"));
    let signals = observer.finish().unwrap();
    let process = named(&signals, child.pid);
    assert_eq!(process.used.run_ns, after.0 - before.0);
    assert_eq!(process.used.write_bytes, after.1 - before.1);
    assert_eq!(process.threads, 1);
}

#[test]
fn memory_of_a_process_is_that_of_procfs() {
    let (mut child, mut observer) = observed(|_| crate::oom_track::use_memory(64 << 20, libc::MAP_PRIVATE));
    child.go();
    child.heard();
    asleep(child.pid);
    let signals = observer.finish().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let expected = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
    let seen = named(&signals, child.pid).anon_bytes;
    // Each CPU may hold back some pages.
    let slack = 64 * 4096 * 2 * std::thread::available_parallelism().unwrap().get() as u64;
    assert!(seen.abs_diff(expected) <= slack && seen > 60 << 20, "{seen} {expected}");
}

#[test]
fn a_process_that_began_and_ended_between_samples_of_the_window_is_kept() {
    let mut observer = observer(&["fd_track"]);
    let mut child = Child::new(|link| {
        spin(Duration::from_millis(400));
        link.tell(0);
        link.wait();
    });
    child.go();
    child.heard();
    observer.sample().unwrap();
    child.go();
    assert_eq!(child.wait(), 0);
    let signals = observer.finish().unwrap();
    // Unless many others used more.
    if let Some(process) = signals.process(child.pid) {
        assert!(!process.alive && process.used.run_ns > 50_000_000, "{process:?}");
    } else {
        assert!(signals.processes.values().filter(|process| process.used.run_ns > 50_000_000).count() >= 10);
    }
}
