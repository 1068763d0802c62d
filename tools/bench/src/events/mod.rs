//! What watching adds to an event, in the kernel: by how much a tight loop of it slows down, and by the kernel's own count.

mod case;
mod floor;
pub(super) mod peer;
mod stats;
mod workload;

use std::any::Any;

use anyhow::{Context, ensure};
use kerno::engine::{Observer, ObserverOptions};
use kerno::{Options, signals};
use kerno_kit::cargo::command_beside;

use super::table::{Ratio, Row, Spread, Target};
use super::{cpus, step, table};
use case::{CASES, Case, Events, Peer};
use floor::Floor;
use workload::{KernelWorkers, Kind, LoopDevice, Workload};

pub(super) const ABOUT: &str = "CPU time that programs add to one operation: a tight loop, alone on its CPU, each variant between two \
                                runs without any program; of each run the first quartile of short slices. The last column is what the kernel \
                                counts itself (BPF_ENABLE_STATS, which adds to every run), in another pass, and the processor's count of \
                                instructions where it lets us count. A target of another \
                                tool is how many times as much as the summary it has to add.";

pub(super) const ABOUT_PROGRAMS: &str = "By the kernel's own count (BPF_ENABLE_STATS, whose own cost is in it): a run of each program of \
                                         kerno beside the same loops, and its size. The kernel keeps 15 \
                                         characters of a name.";

const TIMESTAMPS: &str = "timestamps";

/// Slices of about a millisecond in a measurement.
const SLICES: u32 = 48;

/// What may be attached.
enum Programs {
    Empty,
    Timestamps,
    /// Without the hooks that need no time.
    OnlyTimed,
    HashRing,
    Summary(&'static [&'static str]),
    Events(&'static Events),
    Trace(&'static str),
    Peer(&'static Peer),
}

/// Attached as long as this lives.
struct Attached {
    _what: Box<dyn Any>,
    /// Who has the programs.
    pid: u32,
}

struct Variant {
    name: String,
    programs: Programs,
    target: Option<f64>,
    /// Nanoseconds an operation takes longer, by round.
    added: Vec<f64>,
    /// Instructions an operation takes more, by round, where they are counted.
    instructions: Vec<f64>,
    /// Why it cannot run here.
    error: Option<String>,
    counted: Vec<Counted>,
}

/// One program, by the kernel's count.
struct Counted {
    name: String,
    runs_per_operation: f64,
    ns_per_run: f64,
    translated_bytes: u32,
    jited_bytes: u32,
}

/// A case and what it gave.
pub(super) struct Outcome {
    case: &'static Case,
    bare: Vec<f64>,
    bare_instructions: Vec<f64>,
    /// Why there are no instructions.
    uncounted: Option<String>,
    variants: Vec<Variant>,
}

/// Times every case with every variant, `rounds` times; with no rounds only the kernel's count is taken.
pub(super) fn measure(rounds: usize, only: &str) -> anyhow::Result<Vec<Outcome>> {
    let floor = Floor::compile()?;
    let disk = LoopDevice::new()?;
    cpus::pin(cpus::others())?;
    let cases: Vec<_> = CASES.iter().filter(|case| case.kind.subject().contains(only)).collect();
    ensure!(!cases.is_empty(), "no operation has {only:?} in its name: {}", subjects());
    cases.into_iter().map(|case| measure_case(case, &floor, &disk, rounds).context(case.kind.subject())).collect()
}

fn subjects() -> String {
    CASES.iter().map(|case| case.kind.subject()).collect::<Vec<_>>().join("; ")
}

fn measure_case(case: &'static Case, floor: &Floor, disk: &LoopDevice, rounds: usize) -> anyhow::Result<Outcome> {
    let mut variants = variants(case);
    // One CPU does it all, one request after the other is queued: else how many are done at a time depends on who is faster.
    let _workers = matches!(case.kind, Kind::DirectReads).then(|| KernelWorkers::on(cpus::measured())).transpose()?;
    let mut workload = Workload::start(case.kind, &disk.path)?;
    workload.measure(SLICES)?;
    let (mut bare, mut bare_instructions) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut before = workload.measure(SLICES)?;
        for variant in variants.iter_mut().filter(|variant| variant.error.is_none()) {
            step(format_args!("{}, round {} of {rounds}: {}", case.kind.subject(), round + 1, variant.name))?;
            let attached = match attach(case, &variant.programs, floor) {
                Ok(attached) => attached,
                Err(error) => {
                    variant.error = Some(format!("{error:#}"));
                    continue;
                }
            };
            let with = workload.measure(SLICES)?;
            drop(attached);
            let after = workload.measure(SLICES)?;
            // Between two runs without, so that a change of the machine's speed cancels out.
            variant.added.push(with.ns - f64::midpoint(before.ns, after.ns));
            bare.push(after.ns);
            if let [Some(before), Some(with), Some(after)] = [&before, &with, &after].map(|of| of.instructions) {
                variant.instructions.push(with - f64::midpoint(before, after));
                bare_instructions.push(after);
            }
            before = after;
        }
    }
    for variant in variants.iter_mut().filter(|variant| variant.error.is_none()) {
        step(format_args!("{}, by the kernel's count: {}", case.kind.subject(), variant.name))?;
        match attach(case, &variant.programs, floor) {
            Ok(attached) => variant.counted = count(&mut workload, attached.pid)?,
            Err(error) => variant.error = Some(format!("{error:#}")),
        }
    }
    let uncounted = workload.uncounted();
    Ok(Outcome { case, bare, bare_instructions, uncounted, variants })
}

fn variants(case: &'static Case) -> Vec<Variant> {
    let mut all = Vec::new();
    let mut add = |name: &str, programs, target| {
        let name = name.to_owned();
        all.push(Variant {
            name,
            programs,
            target,
            added: Vec::new(),
            instructions: Vec::new(),
            error: None,
            counted: Vec::new(),
        });
    };
    add("empty programs", Programs::Empty, None);
    add(TIMESTAMPS, Programs::Timestamps, None);
    if !case.untimed_hooks.is_empty() {
        add("timestamps, and nobody named", Programs::OnlyTimed, None);
    }
    for summary in case.summaries {
        add(summary.name, Programs::Summary(summary.signals), summary.target);
    }
    for events in case.events {
        add(events.name, Programs::Events(events), None);
    }
    for signal in case.traces {
        add(&format!("kerno trace {signal} > /dev/null"), Programs::Trace(signal), None);
    }
    if !case.ring_hooks.is_empty() {
        add("common design: hash map and ring", Programs::HashRing, Some(case.ring_ratio));
    }
    for peer in case.peers {
        add(peer.name, Programs::Peer(peer), Some(1.0));
    }
    all
}

fn attach(case: &Case, programs: &Programs, floor: &Floor) -> anyhow::Result<Attached> {
    let ours = |what| Ok(Attached { _what: what, pid: std::process::id() });
    let running = |running: peer::Running| {
        let pid = running.pid();
        Ok(Attached { _what: Box::new(running), pid })
    };
    match programs {
        Programs::Empty => ours(Box::new(floor.attach(&[("empty", case.hooks), ("empty", case.untimed_hooks)])?)),
        Programs::Timestamps => ours(Box::new(floor.attach(&[("stamp", case.hooks), ("empty", case.untimed_hooks)])?)),
        Programs::OnlyTimed => ours(Box::new(floor.attach(&[("stamp", case.hooks)])?)),
        Programs::HashRing => ours(Box::new(floor.hash_ring(case.ring_hooks)?)),
        Programs::Summary(signals) => {
            let signals = signals.iter().map(|name| (*name).to_owned()).collect();
            ours(Box::new(Observer::start(ObserverOptions { signals, ..ObserverOptions::default() })?))
        }
        Programs::Events(events) => {
            let options = Options { filter: (events.filter)(), exclude_self: false, ..Options::default() };
            let signal = signals::by_name(events.signal).with_context(|| format!("no signal {}", events.signal))?;
            let mut loader = (signal.loader)(options);
            ours(Box::new(loader.load()?))
        }
        Programs::Trace(signal) => running(peer::Running::start(command_beside()?.as_os_str(), &["trace", signal])?),
        Programs::Peer(peer) => running(peer::Running::start(peer.program.as_ref(), peer.args)?),
    }
}

/// Each program of a process while the loop runs.
fn count(workload: &mut Workload, pid: u32) -> anyhow::Result<Vec<Counted>> {
    let ids = stats::of_process(pid);
    let _counting = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
    let before = stats::read(&ids);
    let operations = workload.measure(SLICES)?.operations;
    let after = stats::read(&ids);
    let mut counted: Vec<_> = after
        .into_iter()
        .filter_map(|(id, program)| {
            let earlier = before.get(&id)?;
            let (runs, ns) = (program.runs - earlier.runs, program.run_ns - earlier.run_ns);
            (runs > 0).then(|| Counted {
                name: program.name,
                runs_per_operation: runs as f64 / operations,
                ns_per_run: ns as f64 / runs as f64,
                translated_bytes: program.translated_bytes,
                jited_bytes: program.jited_bytes,
            })
        })
        .collect();
    counted.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(counted)
}

impl Outcome {
    /// The section `events`.
    pub(super) fn rows(&self) -> anyhow::Result<Vec<Row>> {
        let subject = self.case.kind.subject();
        let mut bare = Row::new(subject, "no program", "ns", Spread::of(&self.bare)?);
        if !self.bare_instructions.is_empty() {
            bare = bare.note(format!("{:.0} instructions", Spread::of(&self.bare_instructions)?.median));
        } else if let Some(why) = &self.uncounted {
            bare = bare.note(why);
        }
        let mut rows = vec![bare];
        let named = |name: &str| self.variants.iter().find(|variant| variant.name == name);
        let floor = named(TIMESTAMPS).context("no floor")?;
        let summary = self.case.summaries.first().and_then(|summary| named(summary.name)).context("no summary")?;
        for variant in &self.variants {
            if let Some(error) = &variant.error {
                rows.push(Row::unavailable(subject, &variant.name, error.as_str()));
                continue;
            }
            let mut row = Row::new(subject, &variant.name, "ns added", Spread::of(&variant.added)?);
            row = row.counted(variant.counted.iter().fold(table::Counted { ns: 0.0, runs: 0.0 }, |sum, program| {
                let runs = program.runs_per_operation;
                table::Counted { ns: sum.ns + program.ns_per_run * runs, runs: sum.runs + runs }
            }));
            if !variant.instructions.is_empty() {
                row = row.note(format!("{:+.0} instructions", Spread::of(&variant.instructions)?.median));
            }
            rows.push(match variant.programs {
                Programs::Timestamps => row,
                Programs::HashRing | Programs::Peer(_) => against(row, variant, summary, true)?,
                _ => against(row, variant, floor, false)?,
            });
        }
        Ok(rows)
    }

    /// The section `programs`.
    pub(super) fn program_rows(&self) -> Vec<Row> {
        let ours = |variant: &&Variant| {
            matches!(variant.programs, Programs::Summary(_) | Programs::Events(_) | Programs::Timestamps)
        };
        let mut rows = Vec::new();
        for variant in self.variants.iter().filter(ours) {
            for program in &variant.counted {
                let subject = format!("{}; {}", self.case.kind.subject(), variant.name);
                rows.push(Row::new(subject, &program.name, "ns a run", Spread::exactly(program.ns_per_run)).note(
                    format!(
                        "{:.2} runs an operation; {} instructions, {} bytes of machine code",
                        program.runs_per_operation,
                        program.translated_bytes / 8,
                        program.jited_bytes
                    ),
                ));
            }
        }
        rows
    }
}

/// Compares a variant with another. Where that one adds nothing that can be told from noise, there is no ratio.
fn against(row: Row, variant: &Variant, other: &Variant, at_least: bool) -> anyhow::Result<Row> {
    if other.error.is_some() {
        return Ok(row);
    }
    let noise = Spread::of(&other.added)?;
    if noise.first_quartile > 0.0 {
        let row = row.ratio(Ratio::of(&variant.added, &other.name, &other.added)?);
        return Ok(match variant.target {
            Some(limit) => row.target(if at_least { Target::AtLeast(limit) } else { Target::AtMost(limit) }),
            None => row,
        });
    }
    Ok(match variant.target {
        Some(_) if at_least => row.target(Target::AtLeast(noise.median.max(0.0))),
        Some(limit) => row.target(Target::AtMost(limit * noise.median.max(0.0))),
        None => row,
    })
}
