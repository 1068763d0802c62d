//! Short windows of the real observer, merged, against one long window of another observer beside it, and against the workload's own
//! counts.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kerno_bpf::engine::Observer;
use kerno_model::{ErrnoCount, FdProcess, FileProcess, SyncStat, TcpPeer, Window};

use crate::support::{self, Child, compare, preempts_programs};

const SIGNALS: [&str; 5] = ["syscall_latency", "tcp_monitor", "sched_delay", "fd_track", "file_audit"];
const WINDOWS: u32 = 5;
const SECOND: Duration = Duration::from_secs(1);

/// What the child does again and again, and how often in each round.
const ROUNDS: u64 = 23;
const CALLS: u64 = 211;
const OPENS: u64 = 5;
const FAILED: u64 = 13;
const KEPT: u64 = 3;
const PORT: u16 = 5017;

/// Calls are counted machine-wide and tests run side by side, so each test makes one of its own, which nothing else makes often.
fn priority_min() {
    // SAFETY: it has no effects.
    unsafe { libc::syscall(libc::SYS_sched_get_priority_min, 0) };
}

fn io_priority() {
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_ioprio_get, 1, 0) };
}

/// Some of everything, for about a fifth of a second.
fn round(listener: &TcpListener, file: &std::fs::File) {
    (0..CALLS).for_each(|_| priority_min());
    // SAFETY: paths that live, a descriptor of ours; what is opened first is closed, and the last ones are to leak.
    unsafe {
        for _ in 0..OPENS {
            libc::close(libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY));
        }
        (0..FAILED).for_each(|_| assert_eq!(libc::open(c"/no/such/file".as_ptr(), libc::O_RDONLY), -1));
        (0..KEPT).for_each(|_| assert!(libc::dup(file.as_raw_fd()) >= 0));
        assert_eq!(libc::fsync(file.as_raw_fd()), 0);
    }
    let mut client = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, PORT)).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    drop(client);
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    std::thread::sleep(Duration::from_millis(190));
}

/// What is told of the child.
struct Told<'a> {
    calls: u64,
    in_histogram: u64,
    opens: &'a FileProcess,
    syncs: &'a SyncStat,
    descriptors: &'a FdProcess,
    peer: &'a TcpPeer,
    run_ns: u64,
    voluntary: u64,
    skipped: u64,
}

fn told(window: &Window, pid: u32) -> Told<'_> {
    let calls = window.syscall_latency.as_ref().unwrap();
    let stat = calls.by_name("sched_get_priority_min").find(|stat| !stat.compat).unwrap();
    let peers = &window.tcp_monitor.as_ref().unwrap().peers;
    let used = window.processes[&pid].used;
    Told {
        calls: stat.calls,
        in_histogram: stat.latency.count(),
        opens: window.file_audit.as_ref().unwrap().processes.iter().find(|process| process.pid == pid).unwrap(),
        syncs: calls.syncs.iter().find(|sync| sync.pid == pid).unwrap(),
        descriptors: window.fd_track.as_ref().unwrap().processes.iter().find(|process| process.pid == pid).unwrap(),
        peer: peers.iter().find(|peer| peer.port == PORT && peer.outgoing).unwrap(),
        run_ns: used.run_ns,
        voluntary: used.voluntary,
        skipped: window.cost.loss.values().map(|loss| loss.missed_runs).sum(),
    }
}

/// One window a second, merged. `ends` is called before each window does.
fn watch(observer: &mut Observer, mut ends: impl FnMut()) -> Window {
    let mut merged: Option<Window> = None;
    for _ in 0..WINDOWS {
        for _ in 0..4 {
            std::thread::sleep(SECOND / 4);
            observer.sample().unwrap();
        }
        ends();
        let window = observer.finish().unwrap();
        match &mut merged {
            None => merged = Some(window),
            Some(merged) => merged.merge(&window).unwrap(),
        }
    }
    merged.unwrap()
}

fn run_ns(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn short_windows_say_together_what_a_long_one_says() {
    let path = std::env::temp_dir().join(format!("kerno-merging-{}", std::process::id()));
    let mut child = Child::new(|link| {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, PORT)).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        link.tell(0);
        link.wait();
        (0..ROUNDS).for_each(|_| round(&listener, &file));
        link.tell(0);
        link.wait();
    });
    child.go();
    child.heard();
    // The long window begins before the short ones and ends after them, and the child works within all.
    let mut long = support::observer(&SIGNALS);
    let mut short = support::observer(&SIGNALS);
    let run_before = run_ns(child.pid);
    child.go();
    let mut merged = watch(&mut short, || {});
    child.heard();
    let run = run_ns(child.pid) - run_before;
    merged.merge(&short.finish().unwrap()).unwrap();
    let whole = long.finish().unwrap();
    let (ours, truth) = (told(&merged, child.pid), told(&whole, child.pid));

    let skipped = ours.skipped + truth.skipped;
    assert!(skipped == 0 || preempts_programs(), "{skipped} runs of programs were missed");
    let near = |ours: u64, truth: u64| ours.abs_diff(truth) <= skipped;
    let calls = ROUNDS * CALLS;
    println!("compared: merging | calls | {} | {} | a window over all, of {calls} made", ours.calls, truth.calls);
    for told in [&ours, &truth] {
        // A few may be somebody else's.
        assert!((calls..calls + 50).contains(&(told.calls + skipped)), "{} of {calls}", told.calls);
        assert_eq!(told.in_histogram, told.calls);
    }
    let opens = ROUNDS * (OPENS + FAILED);
    assert!(near(ours.opens.opens, opens) && near(truth.opens.opens, opens), "{:?} {:?}", ours.opens, truth.opens);
    if skipped == 0 {
        compare("merging", "opens", ours.opens.opens, opens, "the caller");
        compare("merging", "failures in a row", ours.opens.same_path, ROUNDS * FAILED, "the caller");
        assert_eq!(ours.opens.errors, [ErrnoCount::new(libc::ENOENT, ROUNDS * FAILED)]);
        let alike = |opens: &FileProcess| FileProcess { first_failed_ns: 0, ..opens.clone() };
        assert_eq!(alike(ours.opens), alike(truth.opens));
        assert!(ours.opens.first_failed_ns.abs_diff(truth.opens.first_failed_ns) < 10_000_000);
        compare("merging", "calls of fsync", ours.syncs.calls, ROUNDS, "the caller");
        assert_eq!(ours.syncs.calls, truth.syncs.calls);
        for told in [&ours, &truth] {
            let counts = (told.peer.connections, told.peer.open, told.peer.sent_segments);
            assert_eq!(counts, (ROUNDS, Some(0), ROUNDS), "{:?}", told.peer);
            // Whose one was that a window's end meets between the process's close and the kernel's is not known.
            let [owner] = &told.peer.owners[..] else { panic!("{:?}", told.peer) };
            let known = ROUNDS - u64::from(WINDOWS)..=ROUNDS;
            assert!(owner.pid == child.pid && known.contains(&owner.connections), "{:?}", told.peer);
        }
    }
    compare("merging", "CPU time", ours.run_ns, run, "schedstat");
    assert_eq!((ours.run_ns, ours.voluntary), (truth.run_ns, truth.voluntary));
    compare("merging", "growth of descriptors", ours.descriptors.open.change(), (ROUNDS * KEPT) as f64, "the caller");
    assert_eq!(ours.descriptors.open.change(), truth.descriptors.open.change());
    // More samples see more of those that are open for a moment only.
    let most = |told: &Told<'_>| told.descriptors.open.max().unwrap();
    assert!(most(&truth) <= most(&ours) && most(&ours) <= truth.descriptors.open.last().unwrap() + 3.0);

    let notes = merged.merged.as_ref().unwrap();
    assert_eq!((notes.windows, notes.gaps.len(), merged.span.unwatched_seconds), (WINDOWS + 1, 0, 0.0));
    assert!(merged.span.started_ns >= whole.span.started_ns && merged.span.end() <= whole.span.end());
    child.go();
    assert_eq!(child.wait(), 0);
}

/// A number that parent and child share.
fn shared() -> &'static AtomicU64 {
    // SAFETY: a fresh anonymous mapping, zeroed and aligned, which is never unmapped.
    unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        &*page.cast::<AtomicU64>()
    }
}

#[test]
fn merged_counts_lie_between_the_truth_before_and_after() {
    let made = shared();
    let mut child = Child::new(|_| {
        loop {
            for _ in 0..50 {
                io_priority();
                made.fetch_add(1, Ordering::SeqCst);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    child.go();
    let now = || made.load(Ordering::SeqCst);
    let calls = |window: &Window| {
        let calls = window.syscall_latency.as_ref().unwrap().by_name("ioprio_get").filter(|stat| !stat.compat);
        calls.map(|stat| (stat.calls, stat.latency.count())).next().unwrap()
    };
    let outer = now();
    let mut long = support::observer(&["syscall_latency"]);
    let mut short = support::observer(&["syscall_latency"]);
    let within = now();
    let mut till = 0;
    let merged = watch(&mut short, || till = now());
    let whole = long.finish().unwrap();
    let after = now();
    let (ours, of_long) = (calls(&merged), calls(&whole));
    let skipped: u64 = [&merged, &whole].iter().flat_map(|w| w.cost.loss.values()).map(|loss| loss.missed_runs).sum();
    println!(
        "compared: merging | calls while windows end | {} | {}..{} | the caller",
        ours.0,
        till - within,
        after - outer
    );
    assert!(till - within > 1000, "the child works");
    // One call is made and not counted yet; a few may be somebody else's. Counts and histograms are read one after the other.
    for calls in [ours.0, ours.1, of_long.0, of_long.1] {
        assert!(calls + skipped + 1 >= till - within && calls <= after - outer + 50, "{ours:?} {of_long:?}");
    }
    assert!(ours.0 <= of_long.0 + skipped, "{ours:?} {of_long:?}");
    // SAFETY: our child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(child.pid.cast_signed(), libc::SIGKILL) }, 0);
    child.wait();
}
