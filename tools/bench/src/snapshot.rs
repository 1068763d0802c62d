//! How long everything takes to read out, by part, and how that grows with what there is to read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use aya::programs::Iter;
use aya::{Btf, Ebpf};
use kerno::engine::{Observer, ObserverOptions};

use super::child::Child;
use super::table::{Ratio, Row, Spread, Target};
use super::{compiled, crowd, step, thread_usage};

pub(super) const ABOUT: &str = "One look at everything, and the end of a window: all tasks, descriptors, sockets, cgroups, disks and \
                                every map of every signal, while writers go on. CPU time, and the wall's in the last rows. \
                                What it is a multiple of are the kernel's own walks over the same, with programs that do nothing.";

/// What a sample walks over, and then what a window's end does.
const WALKS: [&str; 3] = ["task", "task_file", "tcp"];
const WALKS_OF_A_SAMPLE: usize = 1;
const BARE: &str = "all of the kernel's walks alone";

/// What there is to read.
struct Crowd {
    name: &'static str,
    processes: usize,
    /// Of those processes, so many have connections, each so many.
    connected: usize,
    connections: usize,
    /// Descriptors of those without.
    files: usize,
    cgroups: usize,
}

const NOBODY: Crowd = Crowd { name: "at rest", processes: 0, connected: 0, connections: 0, files: 0, cgroups: 0 };

const CROWDS: [Crowd; 5] = [
    NOBODY,
    Crowd { name: "10,000 processes, 100,000 descriptors", processes: 10_000, files: 10, ..NOBODY },
    Crowd { name: "50,000 sockets of 100 processes", processes: 100, connected: 100, connections: 250, ..NOBODY },
    Crowd { name: "1,000 cgroups", cgroups: 1000, ..NOBODY },
    Crowd {
        name: "10,000 processes, 100,000 descriptors, 50,000 sockets, 1,000 cgroups",
        processes: 10_000,
        connected: 5000,
        connections: 5,
        files: 10,
        cgroups: 1000,
    },
];

/// Those with so much in their names.
pub(super) fn rows(rounds: usize, only: &str) -> anyhow::Result<Vec<Row>> {
    let mut walks = Walks::new()?;
    let mut rows = Vec::new();
    for crowd in CROWDS.iter().filter(|crowd| crowd.name.contains(only)) {
        step(format_args!("snapshot: {}", crowd.name))?;
        let _sleepers: Vec<Child> = crowd::connected(crowd.connected, crowd.connections)?
            .into_iter()
            .chain(crowd::processes(crowd.processes - crowd.connected, crowd.files)?)
            .collect();
        let _cgroups = crowd::Cgroups::make(crowd.cgroups)?;
        rows.extend(measure(crowd.name, &mut walks, rounds)?);
    }
    Ok(rows)
}

/// The kernel's walks, with a program each that does nothing.
struct Walks(Ebpf);

impl Walks {
    fn new() -> anyhow::Result<Self> {
        let object = compiled("walk.bpf.c")?;
        let mut loaded = Ebpf::load(&object)?;
        let btf = Btf::from_sys_fs()?;
        for name in WALKS {
            Self::program(&mut loaded, name)?.load(name, &btf)?;
        }
        Ok(Self(loaded))
    }

    fn program<'a>(loaded: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Iter> {
        Ok(loaded.program_mut(&format!("walk_{name}")).with_context(|| format!("no walk over {name}"))?.try_into()?)
    }

    /// Milliseconds of CPU time.
    fn take(&mut self, name: &str) -> anyhow::Result<f64> {
        let program = Self::program(&mut self.0, name)?;
        let link = program.attach()?;
        let mut file = program.take_link(link)?.into_file()?;
        let before = thread_usage().0;
        // Where there is very much to walk over it stops now and then, to let others have their turn.
        while let Err(error) = std::io::copy(&mut file, &mut std::io::sink()) {
            ensure!(error.raw_os_error() == Some(libc::EAGAIN), "the walk over {name}: {error}");
        }
        Ok((thread_usage().0 - before) * 1e3)
    }
}

/// How many samples a window has, and how long after one another. Accept queues are looked at once a second.
const SAMPLES: usize = 12;
const INTERVAL: Duration = Duration::from_millis(90);

#[derive(Default)]
struct Part {
    sampling: Vec<f64>,
    ending: Vec<f64>,
}

fn measure(name: &str, walks: &mut Walks, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let mut observer = Observer::start(ObserverOptions::default())?;
    // The first windows find out who everybody is.
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(1100));
        observer.sample()?;
        observer.finish()?;
    }
    let mut parts: BTreeMap<String, Part> = BTreeMap::new();
    let mut walked = Part::default();
    let mut each = WALKS.map(|name| (name, Vec::new()));
    let mut add = |part: &str, window: bool, seconds: f64| {
        let part = parts.entry(part.to_owned()).or_default();
        if window { &mut part.ending } else { &mut part.sampling }.push(seconds * 1e3);
    };
    for _ in 0..rounds {
        let mut before = observer.spent().clone();
        let mut slowest = Duration::ZERO;
        let mut wall = Duration::ZERO;
        for left in (1..=SAMPLES).rev() {
            std::thread::sleep(INTERVAL);
            let start = Instant::now();
            observer.sample_with(Some(left))?;
            slowest = slowest.max(start.elapsed());
            wall += start.elapsed();
        }
        for window in [false, true] {
            let mut samples = SAMPLES as f64;
            if window {
                std::thread::sleep(INTERVAL);
                let start = Instant::now();
                observer.finish()?;
                wall = start.elapsed();
                samples = 1.0;
            } else {
                add("the longest, by the wall's clock", window, slowest.as_secs_f64());
            }
            add("all of it, by the wall's clock", window, wall.as_secs_f64() / samples);
            let mut all = 0.0;
            for (part, now) in observer.spent() {
                let earlier = before.get(part).copied().unwrap_or_default();
                let took = (now.windows - earlier.windows + now.sampling - earlier.sampling) / samples;
                add(part, window, took);
                all += took;
            }
            add("all of it, CPU time", window, all);
            before = observer.spent().clone();
        }
        let took = WALKS.iter().map(|name| walks.take(name)).collect::<anyhow::Result<Vec<_>>>()?;
        walked.sampling.push(took.iter().take(WALKS_OF_A_SAMPLE).sum());
        walked.ending.push(took.iter().sum());
        each.iter_mut().zip(&took).for_each(|((_, all), took)| all.push(*took));
    }
    let mut rows = Vec::new();
    for (part, took) in &parts {
        let together = part.starts_with("all of it, CPU");
        for (what, took, walks) in
            [("a sample", &took.sampling, &walked.sampling), ("a window's end", &took.ending, &walked.ending)]
        {
            let subject = format!("{what} with: {name}");
            if took.is_empty() {
                continue;
            }
            let row = Row::new(&subject, part, "ms", Spread::of(took)?);
            if !together {
                rows.push(row);
                continue;
            }
            rows.push(row.target(Target::AtMost(20.0)));
            rows.push(Row::new(&subject, BARE, "ms", Spread::of(walks)?));
            rows.push(Row::new(&subject, "all of it, times those", "", Ratio::of(took, BARE, walks)?.times));
        }
    }
    for (walk, took) in &each {
        rows.push(Row::new(format!("the kernel's walks alone with: {name}"), *walk, "ms", Spread::of(took)?));
    }
    // Rows of one subject stand together.
    rows.sort_by(|a, b| a.subject.cmp(&b.subject));
    Ok(rows)
}
