//! Whether anything grows while processes, threads and connections come and go, and whether any start time is a stale one.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use anyhow::ensure;
use kerno::engine::{Observer, ObserverOptions};
use kerno::{CancelToken, LoaderSet, Options, TypedEvent, signals};

use super::child::{Child, spawn};
use super::step;
use super::table::{Row, Spread, Target};
use super::tool::memory_mib;

pub(super) const ABOUT: &str = "All events and all summaries of all signals in this process, beside processes, threads and connections that \
                                come and go without a pause. A latency longer than the run is one from a start that was not the \
                                call's own.";

const WINDOW: Duration = Duration::from_secs(5);
/// `BPF_MAP_GET_NEXT_KEY`
const NEXT_KEY: libc::c_long = 4;
/// Keys of ours are shorter.
const MAX_KEY_BYTES: usize = 512;

/// What is held at a moment.
#[derive(Clone, Copy, Default)]
struct Held {
    /// Without what is mapped of the kernel's, which counts as resident from its first use on.
    resident_mib: f64,
    maps_mib: f64,
    entries: usize,
}

/// What the events told.
#[derive(Default)]
struct Seen {
    events: u64,
    timed: u64,
    longest_ns: u64,
    stale: u64,
}

impl Seen {
    fn event(&mut self, event: &TypedEvent<'_>, began_ns: u64) {
        self.events += 1;
        let (at_ns, took_ns) = match event {
            TypedEvent::SyscallLatency(event) => (event.timestamp_ns, event.latency_ns),
            TypedEvent::SchedDelay(event) => (event.timestamp_ns, event.runq_delay_ns),
            TypedEvent::DiskIo(event) => (event.timestamp_ns, event.latency_ns.max(event.queue_ns)),
            TypedEvent::TcpMonitor(event) => (event.timestamp_ns, event.latency_ns.max(event.duration_ns)),
            _ => return,
        };
        self.timed += 1;
        self.longest_ns = self.longest_ns.max(took_ns);
        // What began before us was not seen to begin.
        self.stale += u64::from(took_ns > at_ns.saturating_sub(began_ns));
    }
}

pub(super) fn rows(time: Duration) -> anyhow::Result<Vec<Row>> {
    let before: Vec<u32> = map_ids();
    let began_ns = monotonic_ns();
    let options = Options { ring_bytes: 16 << 20, ..Options::default() };
    let mut set = LoaderSet::new(signals::ALL.iter().map(|signal| (signal.loader)(options.clone())).collect());
    set.load_all()?;
    let mut events = set.events(&CancelToken::new()?)?;
    let mut observer = Observer::start(ObserverOptions::default())?;
    let mut seen = Seen::default();
    let churn = churn()?;
    let (start, mut window, mut most, mut held) = (Instant::now(), Instant::now(), Held::default(), Vec::new());
    let mut look = |observer: &mut Observer, seen: &mut Seen, until: &dyn Fn() -> bool| -> anyhow::Result<()> {
        while !until() {
            events.next_batch(Duration::from_millis(50), |raw| {
                if let Ok(event) = raw.decode() {
                    seen.event(&event, began_ns);
                }
                ControlFlow::Continue(())
            })?;
            if window.elapsed() < WINDOW {
                continue;
            }
            window = Instant::now();
            // The most there is stands just before the end of a window takes it away.
            let now = Held {
                resident_mib: memory_mib(std::process::id(), "RssAnon:")?,
                maps_mib: maps_mib()?,
                entries: entries(&before),
            };
            observer.finish()?;
            held.push(now);
            most.entries = most.entries.max(now.entries);
            step(format_args!("churn: {} s of {}", start.elapsed().as_secs(), time.as_secs()))?;
        }
        Ok(())
    };
    look(&mut observer, &mut seen, &|| start.elapsed() >= time)?;
    drop(churn);
    let stopped = Instant::now();
    // Two windows: the second ends with nobody left of the first.
    look(&mut observer, &mut seen, &|| stopped.elapsed() >= 2 * WINDOW + Duration::from_secs(1))?;
    let after = entries(&before);
    let lost: u64 = set.handles().iter().map(|handle| handle.counters().lost).sum();
    drop(set);
    ensure!(held.len() >= 8, "too short: {} windows", held.len());
    let quarter = held.get(held.len() / 4).copied().unwrap_or_default();
    let end = held.get(held.len() - 3).copied().unwrap_or_default();
    let subject = format!("{} s of churn", time.as_secs());
    let exactly = |what: &str, unit, value: f64| Row::new(&subject, what, unit, Spread::exactly(value));
    Ok(vec![
        exactly("latencies longer than the run", "events", seen.stale as f64).target(Target::AtMost(0.0)).note(
            format!(
                "of {} with a duration, {} events in all ({lost} lost); the longest {:.1} s",
                seen.timed,
                seen.events,
                seen.longest_ns as f64 / 1e9
            ),
        ),
        exactly("memory of maps, growth from a quarter to the end", "MiB", end.maps_mib - quarter.maps_mib)
            .target(Target::AtMost(0.5))
            .note(format!("{:.1} MiB at the end", end.maps_mib)),
        exactly("own memory, growth from a quarter to the end", "MiB", end.resident_mib - quarter.resident_mib)
            .target(Target::AtMost(4.0))
            .note(format!("{:.1} MiB at the end", end.resident_mib)),
        exactly("elements of hash maps, the most", "elements", most.entries as f64)
            .note(format!("{} after a quarter, {} at the end", quarter.entries, end.entries)),
        exactly("elements left after it", "elements", after as f64).target(Target::AtMost(1000.0)),
    ])
}

/// Processes that end at once, threads that do, and connections.
fn churn() -> anyhow::Result<Vec<Child>> {
    let forks = spawn(|| {
        loop {
            // SAFETY: the child ends at once, and is waited for.
            unsafe {
                let pid = libc::fork();
                if pid == 0 {
                    let _ = fs::File::open("/dev/null");
                    libc::_exit(0);
                }
                libc::waitpid(pid, std::ptr::null_mut(), 0);
            }
        }
    })?;
    let threads = spawn(|| {
        loop {
            let _ = std::thread::spawn(|| drop(fs::metadata("/dev/null"))).join();
        }
    })?;
    let connections = spawn(|| {
        let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { return };
        let Ok(to) = listener.local_addr() else { return };
        loop {
            let Ok(here) = TcpStream::connect(to) else { continue };
            let Ok((there, _)) = listener.accept() else { continue };
            // With a reset, so that no port waits.
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            // SAFETY: a plain call with a valid struct.
            unsafe {
                let bytes = size_of::<libc::linger>() as libc::socklen_t;
                libc::setsockopt(
                    here.as_fd().as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_LINGER,
                    (&raw const linger).cast(),
                    bytes,
                );
            }
            drop(here);
            drop(there);
            // One that is refused, too.
            let _ = TcpStream::connect("127.0.0.1:1");
        }
    })?;
    Ok(vec![forks, threads, connections])
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

fn map_ids() -> Vec<u32> {
    aya::maps::loaded_maps().flatten().map(|info| info.id()).collect()
}

/// Kernel memory of all maps of this process.
fn maps_mib() -> anyhow::Result<f64> {
    let mut maps = BTreeMap::new();
    for info in fs::read_dir("/proc/self/fdinfo")?.flatten() {
        let text = fs::read_to_string(info.path()).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        if let Some((id, bytes)) = field("map_id:").zip(field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum::<u64>() as f64 / f64::from(1 << 20))
}

/// Elements of all hash maps of this process.
fn entries(before: &[u32]) -> usize {
    let mut ours = std::collections::BTreeSet::new();
    for info in fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten() {
        let text = fs::read_to_string(info.path()).unwrap_or_default();
        ours.extend(text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse::<u32>().ok()));
    }
    let mut count = 0;
    for info in aya::maps::loaded_maps().flatten() {
        use aya::maps::MapType::{Hash, LruHash};
        let hash = info.map_type().is_ok_and(|kind| matches!(kind, Hash | LruHash));
        if hash && ours.contains(&info.id()) && !before.contains(&info.id()) {
            let Ok(fd) = info.fd() else { continue };
            count += elements(fd.as_fd().as_raw_fd(), info.max_entries());
        }
    }
    count
}

/// By going from key to key; those that come or go meanwhile may count or not.
fn elements(map: libc::c_int, most: u32) -> usize {
    let (mut key, mut next, mut first, mut count) = ([0u8; MAX_KEY_BYTES], [0u8; MAX_KEY_BYTES], true, 0);
    loop {
        let mut attributes = [0u64; 4];
        attributes[0] = u64::from(map.cast_unsigned());
        attributes[1] = if first { 0 } else { key.as_ptr() as u64 };
        attributes[2] = next.as_mut_ptr() as u64;
        // SAFETY: both keys have room for the longest.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, NEXT_KEY, attributes.as_mut_ptr(), size_of_val(&attributes)) };
        if result != 0 || count > most as usize {
            return count;
        }
        (first, count) = (false, count + 1);
        key = next;
    }
}
