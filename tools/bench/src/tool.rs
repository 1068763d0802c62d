//! What the command itself uses, CPU and memory, beside loads of two sizes, and so how that grows.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kerno::CancelToken;
use kerno::engine::{Observer, ObserverOptions};
use kerno_kit::cargo::command_beside;

use super::crowd::{self, Paced};
use super::events::peer::Running;
use super::step;
use super::table::{Ratio, Row, Spread, Target};

pub(super) const ABOUT: &str = "CPU time of the process itself (what its programs cost on hooks is for those who cause the events), in \
                                windows of 5 s, and its memory. Growth is between two sizes of a load: cost is proportional to size to \
                                the power of the order.";

/// `BPF_MAP_TYPE_RINGBUF` and `BPF_MAP_TYPE_PERF_EVENT_ARRAY`: the ways by which events reach user space.
const CARRIES_EVENTS: [u32; 2] = [27, 4];

const WINDOW: Duration = Duration::from_secs(5);
/// Of which each load has so many: cgroups are walked every 20 s.
const WINDOWS: usize = 4;
/// Processes that appeared are not known yet in the first window.
const SETTLE: Duration = Duration::from_secs(6);
/// Less than this many percent of a core more than at rest is noise.
const NOISE_PERCENT: f64 = 0.1;

struct Load {
    /// Singular.
    of: &'static str,
    sizes: [usize; 2],
    make: fn(usize) -> anyhow::Result<Made>,
    /// At most so many percent of a core at the second size, for the doctor.
    target: Option<f64>,
    /// Whether to look at what each part of the doctor takes.
    parts: bool,
}

enum Made {
    Standing { _load: Box<dyn Any> },
    Paced(Paced),
}

fn standing<T: 'static>(load: T) -> Made {
    Made::Standing { _load: Box::new(load) }
}

const LOADS: &[Load] = &[
    Load {
        of: "system call a second",
        sizes: [100_000, 1_000_000],
        make: |size| Paced::calls(size).map(Made::Paced),
        target: Some(3.0),
        parts: false,
    },
    Load {
        of: "switch a second",
        sizes: [50_000, 100_000],
        make: |size| Paced::switches(size).map(Made::Paced),
        target: None,
        parts: false,
    },
    Load {
        of: "process",
        sizes: [5_000, 10_000],
        make: |size| crowd::processes(size, 0).map(standing),
        target: None,
        parts: true,
    },
    Load {
        of: "open descriptor",
        sizes: [50_000, 100_000],
        make: |size| crowd::processes(100, size / 100).map(standing),
        target: None,
        parts: false,
    },
    Load {
        of: "socket",
        sizes: [25_000, 50_000],
        make: |size| crowd::connected(100, size / 200).map(standing),
        target: None,
        parts: false,
    },
    Load {
        of: "cgroup",
        sizes: [500, 1_000],
        make: |size| crowd::Cgroups::make(size).map(standing),
        target: None,
        parts: true,
    },
];

/// What is watched, and what was seen of it.
struct Tool {
    name: &'static str,
    running: Running,
    targets: bool,
    at_rest: Vec<f64>,
    cpu: Vec<Row>,
    memory: Vec<Row>,
    growth: Vec<Row>,
}

impl Tool {
    fn start(name: &'static str, args: &[&str], targets: bool) -> anyhow::Result<Self> {
        let running = Running::start(command_beside()?.as_os_str(), args)?;
        let (at_rest, cpu, memory, growth) = Default::default();
        Ok(Self { name, running, targets, at_rest, cpu, memory, growth })
    }

    /// User and kernel, of all its threads, those that ended too.
    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both get places of their own to write to.
        let told = unsafe {
            libc::clock_getcpuclockid(self.running.pid().cast_signed(), &raw mut clock) == 0
                && libc::clock_gettime(clock, &raw mut time) == 0
        };
        ensure!(told, "{} has ended; run it by hand to see why", self.name);
        Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
    }

    fn memory_mib(&self, what: &str) -> anyhow::Result<f64> {
        memory_mib(self.running.pid(), what)
    }

    /// Maps, rings among them, and the kernel memory of all in MiB.
    fn maps(&self) -> anyhow::Result<(usize, usize, f64)> {
        let mut maps = BTreeMap::new();
        for info in fs::read_dir(format!("/proc/{}/fdinfo", self.running.pid()))?.flatten() {
            let text = fs::read_to_string(info.path()).unwrap_or_default();
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
            if let (Some(kind), Some(id)) = (field("map_type:"), field("map_id:")) {
                maps.insert(id, (u32::try_from(kind)?, field("memlock:").unwrap_or(0)));
            }
        }
        let rings = maps.values().filter(|(kind, _)| CARRIES_EVENTS.contains(kind)).count();
        let bytes: u64 = maps.values().map(|(_, bytes)| bytes).sum();
        Ok((maps.len(), rings, bytes as f64 / f64::from(1 << 20)))
    }

    fn subject(&self, what: &str) -> String {
        format!("{}: {what}", self.name)
    }

    fn at_rest(&mut self, percent: Vec<f64>) -> anyhow::Result<()> {
        let row = Row::new(self.subject("CPU"), "at rest", "% of core", Spread::of(&percent)?);
        self.cpu.push(if self.targets { row.target(Target::AtMost(1.0)) } else { row });
        self.at_rest = percent;
        let resident = Spread::exactly(self.memory_mib("VmRSS:")?);
        let row = Row::new(self.subject("memory"), "resident, at rest", "MiB", resident);
        self.memory.push(row.target(Target::AtMost(60.0)));
        let (maps, rings, mib) = self.maps()?;
        let row = Row::new(self.subject("memory"), "maps in the kernel", "MiB", Spread::exactly(mib));
        self.memory.push(row.target(Target::AtMost(64.0)).note(format!("{maps} maps")));
        let row = Row::new(self.subject("memory"), "rings among them", "", Spread::exactly(rings as f64));
        self.memory.push(if self.targets { row.target(Target::AtMost(0.0)) } else { row });
        Ok(())
    }

    fn beside(&mut self, load: &Load, size: usize, percent: &[f64], reached: Option<f64>) -> anyhow::Result<()> {
        let name = format!("{} {}", thousands(size), plural(load.of));
        let mut row = Row::new(self.subject("CPU"), &name, "% of core", Spread::of(percent)?);
        match load.target.filter(|_| self.targets && size == load.sizes[1]) {
            Some(limit) => row = row.target(Target::AtMost(limit)),
            None => row = row.ratio(Ratio::of(percent, "at rest", &self.at_rest)?),
        }
        if let Some(reached) = reached {
            row = row.note(format!("{} reached", thousands(reached as usize)));
        }
        self.cpu.push(row);
        if size == load.sizes[1] {
            let resident = Spread::exactly(self.memory_mib("VmRSS:")?);
            self.memory.push(Row::new(self.subject("memory"), format!("resident, {name}"), "MiB", resident));
        }
        Ok(())
    }

    /// From what each of two sizes costs.
    fn grows(&mut self, load: &Load, sizes: [f64; 2], percent: &[Vec<f64>]) -> anyhow::Result<()> {
        let rest = Spread::of(&self.at_rest)?.median;
        let more =
            |i: usize| -> anyhow::Result<f64> { Ok(Spread::of(percent.get(i).context("a size")?)?.median - rest) };
        let (small, large) = (more(0)?, more(1)?);
        // A percent of a core is 10 ms a second.
        let each = Spread::exactly((large * 1e7 / sizes[1]).max(0.0));
        let row = Row::new(self.subject("growth of CPU time"), format!("of each {}", load.of), "ns/s", each);
        self.growth.push(if large < NOISE_PERCENT {
            row.note("none to be seen")
        } else if small < NOISE_PERCENT {
            row.note("order not to be told")
        } else {
            row.note(format!("order {:.1}", (large / small).ln() / (sizes[1] / sizes[0]).ln()))
        });
        Ok(())
    }
}

pub(super) fn rows() -> anyhow::Result<Vec<Row>> {
    step(format_args!("the tool: start"))?;
    lift_limits()?;
    let mut tools = [
        Tool::start("kerno doctor --continuous", &["doctor", "--continuous", "--interval", "5s"], true)?,
        Tool::start(
            "kerno trace all, another process",
            &["trace", "all", "--pid", "4000000", "--output", "json"],
            false,
        )?,
    ];
    let mut rows = Vec::new();
    step(format_args!("the tool: at rest"))?;
    std::thread::sleep(SETTLE);
    let percent = watch(&tools, || 0)?.0;
    for (tool, percent) in tools.iter_mut().zip(percent) {
        tool.at_rest(percent)?;
    }
    rows.extend(parts("at rest")?);
    for load in LOADS {
        let mut seen = vec![Vec::new(); tools.len()];
        let mut reached = load.sizes.map(|size| size as f64);
        for (i, size) in load.sizes.into_iter().enumerate() {
            step(format_args!("the tool: {} {}", thousands(size), plural(load.of)))?;
            let made = (load.make)(size)?;
            std::thread::sleep(SETTLE);
            let count = || match &made {
                Made::Paced(paced) => paced.done(),
                Made::Standing { .. } => 0,
            };
            let (percent, done) = watch(&tools, count)?;
            let rate = matches!(made, Made::Paced(_)).then_some(done);
            if let (Some(rate), Some(reached)) = (rate, reached.get_mut(i)) {
                *reached = rate;
            }
            for ((tool, percent), seen) in tools.iter_mut().zip(percent).zip(&mut seen) {
                tool.beside(load, size, &percent, rate)?;
                seen.push(percent);
            }
            if load.parts && i == 1 {
                rows.extend(parts(&format!("{} {} more", thousands(size), plural(load.of)))?);
            }
        }
        for (tool, seen) in tools.iter_mut().zip(&seen) {
            tool.grows(load, reached, seen)?;
        }
    }
    let mut all = Vec::new();
    for tool in tools {
        let most =
            Row::new(tool.subject("memory"), "resident, the most", "MiB", Spread::exactly(tool.memory_mib("VmHWM:")?));
        all.extend([tool.cpu, tool.memory, vec![most], tool.growth].concat());
    }
    all.extend(rows);
    Ok(all)
}

/// Percent of a core in each window, by tool; and how much `count` went up in a second.
fn watch(tools: &[Tool], count: impl Fn() -> u64) -> anyhow::Result<(Vec<Vec<f64>>, f64)> {
    let mut percent = vec![Vec::new(); tools.len()];
    let (first, began) = (count(), Instant::now());
    for _ in 0..WINDOWS {
        let start = Instant::now();
        let before = tools.iter().map(Tool::cpu_seconds).collect::<Result<Vec<_>, _>>()?;
        std::thread::sleep(WINDOW);
        for ((tool, before), percent) in tools.iter().zip(before).zip(&mut percent) {
            percent.push((tool.cpu_seconds()? - before) / start.elapsed().as_secs_f64() * 100.0);
        }
    }
    Ok((percent, (count() - first) as f64 / began.elapsed().as_secs_f64()))
}

/// CPU time of each part in this process, over one window.
fn parts(beside: &str) -> anyhow::Result<Vec<Row>> {
    let mut observer = Observer::start(ObserverOptions::default())?;
    // The first window finds out who everybody is.
    std::thread::sleep(Duration::from_secs(1));
    observer.finish()?;
    let before = observer.spent().clone();
    let samples = observer.watch(WINDOW, &CancelToken::new()?)?.span.samples;
    let subject = format!("kerno doctor by part, {beside}, {samples} samples in {} s", WINDOW.as_secs());
    let parts = observer.spent().iter().map(|(part, now)| {
        let earlier = before.get(part).copied().unwrap_or_default();
        let a_sample = (now.sampling - earlier.sampling) * 1e6 / f64::from(samples.max(2) - 1);
        let a_window = (now.windows - earlier.windows) * 1e3;
        Row::new(&subject, *part, "us/sample", Spread::exactly(a_sample))
            .note(format!("{a_window:.2} ms at a window's end"))
    });
    Ok(parts.collect())
}

/// A line of its status in /proc.
pub(super) fn memory_mib(pid: u32, what: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).with_context(|| format!("no {what}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// A thousand descriptors in a process are more than the usual soft limit has room for.
fn lift_limits() -> anyhow::Result<()> {
    const NEEDED: libc::rlim_t = 2048;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes to the place it gets.
    ensure!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0, "no limit of descriptors");
    ensure!(limit.rlim_max >= NEEDED, "the hard limit of descriptors is {}: {NEEDED} are needed", limit.rlim_max);
    limit.rlim_cur = limit.rlim_cur.max(NEEDED);
    // SAFETY: a plain call with a valid struct.
    let lifted = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    ensure!(lifted == 0, "cannot lift the limit of descriptors");
    Ok(())
}

/// `process a second` becomes `processes a second`.
fn plural(of: &str) -> String {
    let (noun, rest) = of.split_once(" a second").map_or((of, ""), |(noun, _)| (noun, " a second"));
    let ending = if noun.ends_with('s') || noun.ends_with("ch") { "es" } else { "s" };
    format!("{noun}{ending}{rest}")
}

fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_are_written_as_people_do() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(["process", "switch a second", "socket"].map(plural), ["processes", "switches a second", "sockets"]);
    }
}
