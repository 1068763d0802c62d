use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kerno::summary::{Observer, ObserverOptions};

use super::crowd;

/// `BPF_MAP_TYPE_RINGBUF` and `BPF_MAP_TYPE_PERF_EVENT_ARRAY`: the ways by which events reach user space.
const CARRIES_EVENTS: [u32; 2] = [27, 4];

/// `kerno doctor --continuous`, ended when dropped.
struct Doctor {
    child: Child,
    started: Instant,
}

impl Drop for Doctor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Doctor {
    fn start(interval: &str) -> anyhow::Result<Self> {
        let kerno = std::env::current_exe()?.with_file_name("kerno");
        ensure!(kerno.exists(), "{} is not built", kerno.display());
        let started = Instant::now();
        let child = Command::new(&kerno)
            .args(["doctor", "--continuous", "--interval", interval])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", kerno.display()))?;
        Ok(Self { child, started })
    }

    /// Of all its threads, those that ended too; user and kernel, without the programs on hooks, which others pay for.
    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both get places of their own to write to.
        let told = unsafe {
            libc::clock_getcpuclockid(self.child.id().cast_signed(), &raw mut clock) == 0
                && libc::clock_gettime(clock, &raw mut time) == 0
        };
        ensure!(told, "kerno has ended; run it by hand to see why");
        Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
    }

    fn resident_kib(&self, what: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what)).with_context(|| format!("no {what}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    fn links(&self) -> usize {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.child.id())).into_iter().flatten().flatten();
        let targets = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        targets.filter(|target| target.to_string_lossy().contains("bpf_link")).count()
    }

    /// Its maps: how many of each type, and the kernel memory of all.
    fn maps(&self) -> anyhow::Result<(BTreeMap<u32, usize>, u64)> {
        let (mut types, mut bytes) = (BTreeMap::new(), 0);
        for info in fs::read_dir(format!("/proc/{}/fdinfo", self.child.id()))?.flatten() {
            let text = fs::read_to_string(info.path()).unwrap_or_default();
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
            if let Some(kind) = field("map_type:") {
                *types.entry(u32::try_from(kind)?).or_default() += 1;
                bytes += field("memlock:").unwrap_or(0);
            }
        }
        Ok((types, bytes))
    }
}

pub(super) fn run(watch: Duration, windows: u64) -> anyhow::Result<()> {
    let doctor = start()?;
    std::thread::sleep(Duration::from_secs(2));
    let (types, bytes) = doctor.maps()?;
    let carriers: usize = CARRIES_EVENTS.iter().filter_map(|kind| types.get(kind)).sum();
    let all: usize = types.values().sum();
    println!("{all} maps, {carriers} of them rings; {:.1} MiB of kernel memory\n", bytes as f64 / f64::from(1 << 20));
    ensure!(carriers == 0, "the summary plane has a ring");
    println!("CPU time of the process itself, % of one core, windows of 5 s:");
    beside(&doctor, watch, "at rest", || Ok(()))?;
    beside(&doctor, watch, "1 M getppid/s", || crowd::calls(1_000_000))?;
    beside(&doctor, watch, "100 k switches/s", || crowd::switches(100_000))?;
    beside(&doctor, watch, "2,000 processes, 20,000 fds", || crowd::processes(2000, 10))?;
    println!("{} KiB resident, {} KiB at most\n", doctor.resident_kib("VmRSS:")?, doctor.resident_kib("VmHWM:")?);
    drop(doctor);
    parts("at rest")?;
    {
        let _crowd = crowd::processes(4000, 2)?;
        parts("with 4,000 processes more")?;
    }
    {
        let _cgroups = crowd::Cgroups::make(1000)?;
        parts("with 1,000 cgroups more")?;
    }
    memory(windows)
}

/// From exec to the last program attached.
fn start() -> anyhow::Result<Doctor> {
    let doctor = Doctor::start("5s")?;
    let mut grew = Vec::new();
    while doctor.started.elapsed() < Duration::from_secs(3) {
        let links = doctor.links();
        if grew.last().is_none_or(|(_, before)| links > *before) {
            grew.push((doctor.started.elapsed(), links));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let (last, links) = grew.last().context("nothing was attached")?;
    ensure!(*links > 0, "nothing was attached");
    println!("{:.0} ms from exec until all {links} programs on hooks were attached", last.as_secs_f64() * 1e3);
    Ok(doctor)
}

fn beside<T>(
    doctor: &Doctor,
    watch: Duration,
    name: &str,
    load: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<()> {
    let load = load()?;
    // It does not know the processes yet.
    std::thread::sleep(Duration::from_secs(6));
    let (before, start) = (doctor.cpu_seconds()?, Instant::now());
    std::thread::sleep(watch);
    let percent = (doctor.cpu_seconds()? - before) / start.elapsed().as_secs_f64() * 100.0;
    println!("  {name:<30}{percent:>6.2}");
    drop(load);
    Ok(())
}

/// CPU time of each part in this process, over one window.
fn parts(name: &str) -> anyhow::Result<()> {
    const WINDOW: Duration = Duration::from_secs(5);
    let mut observer = Observer::start(ObserverOptions::default())?;
    // The first window finds out who everybody is.
    std::thread::sleep(Duration::from_secs(1));
    observer.finish()?;
    let before = observer.spent().clone();
    let start = Instant::now();
    loop {
        let interval = observer.next_interval(WINDOW);
        if start.elapsed() + interval >= WINDOW {
            break;
        }
        std::thread::sleep(interval);
        observer.sample()?;
    }
    std::thread::sleep(WINDOW.saturating_sub(start.elapsed()));
    let samples = observer.finish()?.window.samples;
    println!("CPU time by part, {name}, {samples} samples in {} s:", WINDOW.as_secs());
    println!("  {:<18}{:>14}{:>14}", "", "us a sample", "ms a window");
    let (mut sampling, mut windows) = (0.0, 0.0);
    for (part, now) in observer.spent() {
        let earlier = before.get(part).copied().unwrap_or_default();
        let (a_sample, a_window) = (now.sampling - earlier.sampling, now.windows - earlier.windows);
        println!("  {part:<18}{:>14.0}{:>14.2}", a_sample * 1e6 / f64::from(samples.max(2) - 1), a_window * 1e3);
        sampling += a_sample;
        windows += a_window;
    }
    let share = (sampling + windows) / WINDOW.as_secs_f64() * 100.0;
    let a_sample = sampling * 1e6 / f64::from(samples.max(2) - 1);
    println!("  {:<18}{a_sample:>14.0}{:>14.2}  {share:.2} % of one core\n", "together", windows * 1e3);
    Ok(())
}

/// Whether its memory grows.
fn memory(windows: u64) -> anyhow::Result<()> {
    let doctor = Doctor::start("500ms")?;
    let mut points = Vec::new();
    for window in 0..windows {
        std::thread::sleep(Duration::from_millis(500));
        points.push((window as f64, doctor.resident_kib("VmRSS:")? as f64));
    }
    // In the first tenth it learns who is there.
    let settled = points.split_off(points.len() / 10);
    let (first, last) = (settled.first().context("no windows")?, settled.last().context("no windows")?);
    let count = settled.len() as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| settled.iter().map(pick).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = settled.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let variance: f64 = settled.iter().map(|point| (point.0 - x).powi(2)).sum();
    println!(
        "resident memory over {windows} windows of 0.5 s: {:.0} KiB after a tenth of them, {:.0} KiB at the end, {:+.2} KiB a window",
        first.1,
        last.1,
        covariance / variance
    );
    Ok(())
}
