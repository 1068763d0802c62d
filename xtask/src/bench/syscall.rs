use std::time::Duration;

use aya::Ebpf;
use kerno::summary::{Observer, ObserverOptions};
use kerno::{Filter, Handle, Loader, Options, SyscallLatencyLoader};

use super::child::in_child;
use super::floor::Floor;
use super::{Spread, getppids, pin};

const CALLS: usize = 300_000;

enum Loaded {
    Nothing,
    Floor { _programs: Ebpf },
    Kerno { _handle: Handle },
    Summary { _observer: Box<Observer> },
}

type Variant = (&'static str, Box<dyn Fn() -> anyhow::Result<Loaded>>);

/// CPU time of this process: what others do on the same CPU meanwhile does not count.
fn cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

/// Nanoseconds a call, in a process of its own: summaries leave out the process that reads them.
fn ns_per_call() -> anyhow::Result<f64> {
    in_child(|| {
        getppids(CALLS / 10);
        let start = cpu_seconds();
        getppids(CALLS);
        Ok((cpu_seconds() - start) * 1e9 / CALLS as f64)
    })
}

pub(super) fn run(rounds: usize) -> anyhow::Result<()> {
    let floor = Floor::compile()?;
    let floor = |enter: &'static str, exit: &'static str| {
        let floor = floor.clone();
        move || Ok(Loaded::Floor { _programs: floor.attach(&[(exit, "sys_exit"), (enter, "sys_enter")])? })
    };
    let kerno = |filter: Filter| {
        move || -> anyhow::Result<Loaded> {
            let options = Options { filter: filter.clone(), exclude_self: false, ..Options::default() };
            Ok(Loaded::Kerno { _handle: SyscallLatencyLoader::new(options).load()? })
        }
    };
    let summary = |signals: &'static [&'static str]| {
        move || -> anyhow::Result<Loaded> {
            let signals = signals.iter().map(|name| (*name).to_owned()).collect();
            let observer = Observer::start(ObserverOptions { signals, ..ObserverOptions::default() })?;
            Ok(Loaded::Summary { _observer: Box::new(observer) })
        }
    };
    let variants: Vec<Variant> = vec![
        ("no probe", Box::new(|| Ok(Loaded::Nothing))),
        ("empty enter + exit", Box::new(floor("empty_enter", "empty_exit"))),
        ("two timestamps (the floor)", Box::new(floor("stamp_sys_enter", "stamp_sys_exit"))),
        (
            "kerno, slower than an hour",
            Box::new(kerno(Filter { min_latency: Some(Duration::from_secs(3600)), ..Filter::default() })),
        ),
        ("kerno, another process", Box::new(kerno(Filter { pids: vec![u32::MAX], ..Filter::default() }))),
        ("kerno, another call", Box::new(kerno(Filter { syscalls: vec!["reboot".into()], ..Filter::default() }))),
        ("kerno, every call into the ring", Box::new(kerno(Filter::default()))),
        ("summary of syscall_latency", Box::new(summary(&["syscall_latency"]))),
        ("summary of file_audit", Box::new(summary(&["file_audit"]))),
        ("summaries of all signals", Box::new(summary(&[]))),
    ];
    pin(1)?;
    let mut ns = vec![Vec::new(); variants.len()];
    for round in 0..rounds + 1 {
        for ((_, load), ns) in variants.iter().zip(&mut ns) {
            let loaded = load()?;
            let took = ns_per_call()?;
            // The first round warms up.
            if round > 0 {
                ns.push(took);
            }
            drop(loaded);
        }
    }
    // Per round, so that a change of the machine's speed between rounds cancels out.
    let added: Vec<Vec<f64>> =
        ns.iter().map(|of| of.iter().zip(&ns[0]).map(|(with, without)| with - without).collect()).collect();
    println!("added ns per getppid(), {rounds} interleaved rounds of {CALLS} calls; median (min..max)\n");
    println!("{:<34}{:>24}{:>12}{:>14}", "", "added ns", "x empty", "x timestamps");
    for (i, (name, _)) in variants.iter().enumerate() {
        let spread = Spread::of(added[i].clone());
        let ratio = |to: usize| Spread::of(added[i].iter().zip(&added[to]).map(|(a, b)| a / b).collect()).median;
        let text = format!("{:.0} ({:.0}..{:.0})", spread.median, spread.min, spread.max);
        if i == 0 {
            println!("{name:<34}{:>24}", format!("base {:.0} ns", Spread::of(ns[0].clone()).median));
        } else {
            println!("{name:<34}{text:>24}{:>12.2}{:>14.2}", ratio(1), ratio(2));
        }
    }
    Ok(())
}
