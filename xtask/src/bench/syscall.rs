use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf};
use kerno::{Filter, Handle, Loader, Options, SyscallLatencyLoader};

use super::{Spread, getppids, pin};

const CALLS: usize = 300_000;

enum Loaded {
    Nothing,
    Floor { _programs: Ebpf },
    Kerno { _handle: Handle },
}

type Variant = (&'static str, Box<dyn Fn() -> anyhow::Result<Loaded>>);

pub(super) fn run(rounds: usize) -> anyhow::Result<()> {
    let object = crate::bpf::compile_to_temp(Path::new("../../xtask/src/bench/floor.bpf.c"))?;
    let btf = std::rc::Rc::new(Btf::from_sys_fs()?);
    let floor = |enter: &'static str, exit: &'static str| {
        let (object, btf) = (object.clone(), std::rc::Rc::clone(&btf));
        move || -> anyhow::Result<Loaded> {
            let mut programs = Ebpf::load(&object)?;
            for (name, hook) in [(exit, "sys_exit"), (enter, "sys_enter")] {
                let program: &mut BtfTracePoint = programs.program_mut(name).context("in floor.bpf.c")?.try_into()?;
                program.load(hook, &btf)?;
                program.attach()?;
            }
            Ok(Loaded::Floor { _programs: programs })
        }
    };
    let kerno = |filter: Filter| {
        move || -> anyhow::Result<Loaded> {
            let options = Options { filter: filter.clone(), exclude_self: false, ..Options::default() };
            Ok(Loaded::Kerno { _handle: SyscallLatencyLoader::new(options).load()? })
        }
    };
    let variants: Vec<Variant> = vec![
        ("no probe", Box::new(|| Ok(Loaded::Nothing))),
        ("empty enter + exit", Box::new(floor("empty_enter", "empty_exit"))),
        ("two timestamps (the floor)", Box::new(floor("stamp_enter", "stamp_exit"))),
        (
            "kerno, slower than an hour",
            Box::new(kerno(Filter { min_latency: Some(Duration::from_secs(3600)), ..Filter::default() })),
        ),
        ("kerno, another process", Box::new(kerno(Filter { pids: vec![u32::MAX], ..Filter::default() }))),
        ("kerno, another call", Box::new(kerno(Filter { syscalls: vec!["reboot".into()], ..Filter::default() }))),
        ("kerno, every call into the ring", Box::new(kerno(Filter::default()))),
    ];
    pin(1)?;
    let mut ns = vec![Vec::new(); variants.len()];
    for round in 0..rounds + 1 {
        for ((_, load), ns) in variants.iter().zip(&mut ns) {
            let loaded = load()?;
            getppids(CALLS / 10);
            let start = Instant::now();
            getppids(CALLS);
            // The first round warms up.
            if round > 0 {
                ns.push(start.elapsed().as_secs_f64() * 1e9 / CALLS as f64);
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
