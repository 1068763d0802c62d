use std::fs::File;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use kerno::summary::{Observer, ObserverOptions};

use super::child::{PingPong, in_child};
use super::floor::Floor;
use super::{Spread, pin};

struct Case {
    signal: &'static str,
    /// Where the floor's programs are: what no latency on this path can do without.
    hooks: &'static [&'static str],
    unit: &'static str,
    work: fn(&str) -> anyhow::Result<f64>,
}

const CASES: &[Case] = &[
    Case {
        signal: "sched_delay",
        hooks: &["sched_switch", "sched_wakeup", "sched_wakeup_new"],
        unit: "2 switches and 2 wake-ups",
        work: ping_pong,
    },
    Case {
        signal: "disk_io",
        hooks: &["block_rq_insert", "block_rq_issue", "block_rq_complete"],
        unit: "direct read of 4 KiB",
        work: direct_reads,
    },
    Case { signal: "tcp_monitor", hooks: &["inet_sock_set_state"], unit: "connection, both ends", work: connections },
    Case { signal: "file_audit", hooks: &["sys_exit"], unit: "open and close", work: opens },
];

pub(super) fn run(rounds: usize) -> anyhow::Result<()> {
    let floor = Floor::compile()?;
    let disk = LoopDevice::new()?;
    pin(1)?;
    println!("added ns in the kernel, {rounds} interleaved rounds; median (first..third quartile)\n");
    println!("{:<13}{:<27}{:>9}{:>20}{:>20}{:>9}", "", "per", "bare ns", "timestamps", "summary", "ratio");
    for case in CASES {
        let mut ns: [Vec<f64>; 3] = Default::default();
        let (mut stamps, mut summary) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let bare = (case.work)(&disk.path)?;
            let floor = {
                let _programs = floor.stamp(case.hooks)?;
                (case.work)(&disk.path)?
            };
            let kerno = {
                let options = ObserverOptions { signals: vec![case.signal.to_owned()], ..ObserverOptions::default() };
                let _observer = Observer::start(options)?;
                (case.work)(&disk.path)?
            };
            // The first warms up.
            if round > 0 {
                ns.iter_mut().zip([bare, floor, kerno]).for_each(|(all, one)| all.push(one));
                stamps.push(floor - bare);
                summary.push(kerno - bare);
            }
        }
        let middle = |values: &[f64]| Spread::of(values.to_vec()).median;
        println!(
            "{:<13}{:<27}{:>9.0}{:>20}{:>20}{:>9.2}",
            case.signal,
            case.unit,
            middle(&ns[0]),
            quartiles(&stamps),
            quartiles(&summary),
            middle(&summary) / middle(&stamps)
        );
    }
    Ok(())
}

fn quartiles(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: usize| sorted.get((sorted.len() * share / 4).min(sorted.len().saturating_sub(1))).copied();
    let at = |share| at(share).unwrap_or(f64::NAN);
    format!("{:.0} ({:.0}..{:.0})", at(2), at(1), at(3))
}

fn timed(count: usize, mut work: impl FnMut(usize) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    work(count / 10)?;
    let start = Instant::now();
    work(count)?;
    Ok(start.elapsed().as_nanos() as f64 / count as f64)
}

/// Nobody else on this CPU meanwhile.
fn first_in_line() -> anyhow::Result<()> {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: a plain call with a valid struct.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
    ensure!(result == 0, "no real-time priority");
    Ok(())
}

fn ping_pong(_: &str) -> anyhow::Result<f64> {
    in_child(|| {
        first_in_line()?;
        let mut pair = PingPong::start()?;
        timed(20_000, |count| pair.rounds(count))
    })
}

fn direct_reads(device: &str) -> anyhow::Result<f64> {
    in_child(|| {
        let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(device)?;
        // O_DIRECT wants it aligned.
        let mut room = vec![0u8; 8192];
        let start = room.as_ptr().align_offset(4096);
        let page = room.get_mut(start..start + 4096).context("room for a page")?;
        timed(4000, |count| {
            for i in 0..count {
                file.read_exact_at(page, (i % 1024) as u64 * 4096)?;
            }
            Ok(())
        })
    })
}

fn connections(_: &str) -> anyhow::Result<f64> {
    in_child(|| {
        first_in_line()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let to = listener.local_addr()?;
        timed(1500, |count| {
            for _ in 0..count {
                let here = TcpStream::connect(to)?;
                let (mut there, _) = listener.accept()?;
                drop(here);
                // Whoever reads the end closes second, and does not wait in TIME_WAIT.
                there.read_exact(&mut [0]).err().context("an end")?;
            }
            Ok(())
        })
    })
}

fn opens(_: &str) -> anyhow::Result<f64> {
    in_child(|| {
        first_in_line()?;
        timed(50_000, |count| {
            for _ in 0..count {
                File::open("/dev/null")?;
            }
            Ok(())
        })
    })
}

/// A loop device over a file in memory.
struct LoopDevice {
    path: String,
    _file: tempfile::NamedTempFile,
}

impl LoopDevice {
    fn new() -> anyhow::Result<Self> {
        let file = tempfile::NamedTempFile::new_in("/dev/shm")?;
        std::fs::write(file.path(), vec![7; 8 << 20])?;
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file.path()).output()?;
        ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { path: String::from_utf8(output.stdout)?.trim().to_owned(), _file: file })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.path]).status();
    }
}
