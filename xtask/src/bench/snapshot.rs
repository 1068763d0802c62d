//! How long everything takes to read out, by part, and how that grows with what there is to read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kerno::summary::{Observer, ObserverOptions};

use super::child::Child;
use super::table::{Row, Spread, Target};
use super::{crowd, step};

pub(super) const ABOUT: &str = "One look at everything, and the end of a window: all tasks, descriptors, sockets, cgroups, disks and \
                                every map of every signal, while writers go on. CPU time, and the wall's in the last rows.";

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
    let mut rows = Vec::new();
    for crowd in CROWDS.iter().filter(|crowd| crowd.name.contains(only)) {
        step(format_args!("snapshot: {}", crowd.name))?;
        let _sleepers: Vec<Child> = crowd::connected(crowd.connected, crowd.connections)?
            .into_iter()
            .chain(crowd::processes(crowd.processes - crowd.connected, crowd.files)?)
            .collect();
        let _cgroups = crowd::Cgroups::make(crowd.cgroups)?;
        rows.extend(measure(crowd.name, rounds)?);
    }
    Ok(rows)
}

#[derive(Default)]
struct Part {
    sampling: Vec<f64>,
    ending: Vec<f64>,
}

fn measure(name: &str, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let mut observer = Observer::start(ObserverOptions::default())?;
    // The first windows find out who everybody is.
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(1100));
        observer.sample()?;
        observer.finish()?;
    }
    let mut parts: BTreeMap<String, Part> = BTreeMap::new();
    let mut add = |part: &str, window: bool, seconds: f64| {
        let part = parts.entry(part.to_owned()).or_default();
        if window { &mut part.ending } else { &mut part.sampling }.push(seconds * 1e3);
    };
    for _ in 0..rounds {
        // Accept queues are looked at once a second.
        std::thread::sleep(Duration::from_millis(1050));
        for window in [false, true] {
            let before = observer.spent().clone();
            let start = Instant::now();
            if window {
                observer.finish()?;
            } else {
                observer.sample()?;
            }
            add("all of it, by the wall's clock", window, start.elapsed().as_secs_f64());
            let mut all = 0.0;
            for (part, now) in observer.spent() {
                let earlier = before.get(part).copied().unwrap_or_default();
                let took = now.windows - earlier.windows + now.sampling - earlier.sampling;
                add(part, window, took);
                all += took;
            }
            add("all of it, CPU time", window, all);
        }
    }
    let mut rows = Vec::new();
    for (part, took) in &parts {
        let together = part.starts_with("all of it, CPU");
        for (what, took) in [("a sample", &took.sampling), ("a window's end", &took.ending)] {
            let row = Row::new(format!("{what} with: {name}"), part, "ms", Spread::of(took)?);
            rows.push(if together { row.target(Target::AtMost(20.0)) } else { row });
        }
    }
    // Rows of one subject stand together.
    rows.sort_by(|a, b| a.subject.cmp(&b.subject));
    Ok(rows)
}
