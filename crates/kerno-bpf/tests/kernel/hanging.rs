//! Beside a mount whose server never answers, and processes that hang in it: windows come in time and say what is missing.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kerno_bpf::CancelToken;
use kerno_bpf::engine::{Engine, Next, ObserverOptions, Windows};
use kerno_model::Window;

use crate::fd_summary::{leak_files, set_fd_limit};
use crate::fuse::{DeadMount, SIZE, alone_with_mounts};
use crate::support::{Child, slowness};

const WINDOW: Duration = Duration::from_secs(1);

fn map(file: &std::fs::File) -> u64 {
    // SAFETY: a new mapping of its own.
    let address = unsafe {
        libc::mmap(std::ptr::null_mut(), SIZE as usize, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
    };
    assert_ne!(address, libc::MAP_FAILED);
    address as u64
}

/// Waits until a process has a thread in such a state, as a letter of /proc/PID/stat.
fn until_in_state(pid: u32, states: &str) {
    let deadline = Instant::now() + Duration::from_secs(20 * slowness());
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let state = stat.rsplit_once(") ").unwrap().1.chars().next().unwrap();
        if states.contains(state) {
            return;
        }
        assert!(Instant::now() < deadline, "{pid} is in state {state}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn next(windows: &Windows) -> Arc<Window> {
    let limit = WINDOW + Duration::from_secs(4 * slowness());
    match windows.next_within(limit, &CancelToken::new().unwrap()) {
        Next::Window(window) => window,
        other => panic!("no window in {limit:?}: {other:?}"),
    }
}

fn missing<'a>(window: &'a Window, what: &str) -> Option<&'a kerno_model::Missing> {
    window.missing.iter().find(|missing| missing.what.contains(what))
}

#[test]
fn windows_come_in_time_beside_a_dead_mount() {
    if !alone_with_mounts("hanging::windows_come_in_time_beside_a_dead_mount") {
        return;
    }
    // Born before the mount, so that none holds the server's descriptor; and dropped after it, when they can end.
    let place = tempfile::NamedTempFile::new().unwrap();
    let read_path = || std::path::PathBuf::from(std::fs::read_to_string(place.path()).unwrap());
    let mut in_stat = Child::new(|link| {
        link.tell(0);
        let _ = std::fs::metadata(read_path().join("anything"));
        link.tell(1);
        link.wait();
    });
    let mut in_open = Child::new(|link| {
        link.tell(0);
        let _ = std::fs::File::open(read_path().join("something"));
        link.tell(1);
        link.wait();
    });
    // One whose memory is locked: named in every window, since it has nearly all descriptors that it may have.
    let mut locked = Child::new(|link| {
        link.close_inherited();
        set_fd_limit(256, 256);
        leak_files(236);
        let file = std::fs::File::open(read_path().join("there")).unwrap();
        link.tell(map(&file));
        link.wait();
        // It waits for whoever reads its memory.
        map(&file);
        link.tell(1);
        link.wait();
    });
    let mut reader = Child::new(|link| {
        link.tell(0);
        link.wait();
        let text = std::fs::read_to_string(place.path()).unwrap();
        let (pid, address) = text.split_once(' ').unwrap();
        let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
        memory.seek(SeekFrom::Start(address.parse().unwrap())).unwrap();
        let _ = memory.read(&mut [0; 8]);
        link.tell(1);
        link.wait();
    });

    let mount = DeadMount::new();
    std::fs::write(place.path(), mount.path().to_str().unwrap()).unwrap();
    locked.go();
    let address = locked.heard();
    for child in [&mut in_stat, &mut in_open, &mut reader] {
        child.go();
        child.heard();
    }
    // A fault that may not let go of the lock on the memory, for it is not of that memory's process.
    until_in_state(reader.pid, "S");
    std::fs::write(place.path(), format!("{} {address}", locked.pid)).unwrap();
    reader.go();
    std::thread::sleep(Duration::from_millis(200));
    until_in_state(reader.pid, "SD");
    locked.go();
    until_in_state(locked.pid, "D");
    // The truth: its command line cannot be read.
    let (told, cmdline) = std::sync::mpsc::channel();
    let path = format!("/proc/{}/cmdline", locked.pid);
    let stuck = std::thread::spawn(move || told.send(std::fs::read(path).unwrap()));
    assert!(cmdline.recv_timeout(Duration::from_millis(300)).is_err(), "the command line can be read");

    let engine = Engine::start(ObserverOptions::default()).unwrap();
    let windows = engine.subscribe(4).unwrap();
    engine.watch(WINDOW);
    for number in 0..5 {
        let window = next(&windows);
        assert!(window.span.seconds >= 1.0 && window.span.seconds < 1.0 + 3.0 * slowness() as f64, "{:?}", window.span);
        assert_eq!(window.observed().len(), kerno_bpf::signals::ALL.len());
        let process = window.process(locked.pid).expect("it is named");
        assert_eq!(process.cmdline, "");
        let lines = missing(&window, "command line").unwrap_or_else(|| panic!("{number}: {:?}", window.missing));
        assert!(lines.reason.contains(&format!("/proc/{}", locked.pid)), "{lines:?}");
        assert!(lines.reason.contains("no answer for"), "{lines:?}");
        // Others are known.
        let known = window.processes.values().filter(|process| !process.cmdline.is_empty()).count();
        assert!(known > 0, "{:?}", window.processes.keys());
        if number >= 2 {
            let blocked = &window.sched_delay.as_ref().unwrap().blocked;
            assert!(blocked.iter().any(|task| task.tid == locked.pid && task.at_end), "{blocked:?}");
            assert!(missing(&window, "some files of /proc").is_some(), "{:?}", window.missing);
        }
    }
    assert_eq!(engine.overrun(), None);

    // Another engine waits for the same answers; it ends at once all the same.
    let another = Engine::start(ObserverOptions::default()).unwrap();
    let its_windows = another.subscribe(1).unwrap();
    another.watch(Duration::from_millis(200));
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    drop(another);
    println!("it ended in {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_millis(500 * slowness()), "{:?}", begun.elapsed());
    while its_windows.try_next().is_some() {}
    assert!(matches!(its_windows.next_within(Duration::ZERO, &CancelToken::new().unwrap()), Next::Ended));

    // When it is over the answer comes, and is used.
    drop(mount);
    for child in [&mut in_stat, &mut in_open, &mut reader, &mut locked] {
        assert_eq!(child.heard(), 1);
    }
    assert!(!cmdline.recv_timeout(Duration::from_secs(20)).unwrap().is_empty());
    stuck.join().unwrap().unwrap();
    let known = (0..5).map(|_| next(&windows)).find(|window| missing(window, "command line").is_none());
    let window = known.expect("it is known by now");
    assert!(!window.process(locked.pid).unwrap().cmdline.is_empty());
    assert!(missing(&window, "some files of /proc").is_none(), "{:?}", window.missing);
    let begun = Instant::now();
    engine.stop().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20 * slowness()));
    for child in [&mut in_stat, &mut in_open, &mut reader, &mut locked] {
        child.go();
        assert_eq!(child.wait(), 0);
    }
}

#[test]
fn nothing_is_left_behind_when_it_fails() {
    if !alone_with_mounts("hanging::nothing_is_left_behind_when_it_fails") {
        return;
    }
    let place = tempfile::NamedTempFile::new().unwrap();
    let (mut pid, mut mounted) = (0, std::path::PathBuf::new());
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut child = Child::new(|link| {
            link.tell(0);
            let path = std::fs::read_to_string(place.path()).unwrap();
            let _ = std::fs::metadata(std::path::Path::new(&path).join("anything"));
            link.wait();
        });
        pid = child.pid;
        let mount = DeadMount::new();
        mounted = mount.path().to_owned();
        std::fs::write(place.path(), mount.path().to_str().unwrap()).unwrap();
        child.go();
        child.heard();
        std::thread::sleep(Duration::from_millis(100));
        panic!("as a test that fails");
    }));
    assert!(failed.is_err());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the child is still there");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(mounted.to_str().unwrap()) && !mounted.exists());
}
