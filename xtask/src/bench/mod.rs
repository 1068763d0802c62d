//! Benchmarks: they print ratios measured side by side in one run. Never part of the tests: machines are noisy.

mod child;
mod crowd;
mod doctor;
mod floor;
mod hooks;
mod idle;
mod ring;
mod syscall;
#[allow(dead_code, reason = "the sections that fill it follow")]
mod table;

use std::time::Duration;

use anyhow::Context;
use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Added nanoseconds per getppid(), against programs that do nothing and programs that only take two timestamps
    Syscall {
        /// Rounds; each runs every variant once
        #[arg(long, default_value_t = 21)]
        rounds: usize,
    },
    /// Records a second from the ring to typed events, on one core
    Ring {
        /// Rounds
        #[arg(long, default_value_t = 7)]
        rounds: usize,
    },
    /// CPU and memory of an idle `kerno trace` of every signal with a filter that matches nothing
    Idle {
        /// Seconds to watch
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// What `kerno doctor` costs: CPU at rest and under load, memory, start, and what each part of it takes
    Doctor {
        /// Seconds to watch it beside each load
        #[arg(long, default_value_t = 15)]
        seconds: u64,
        /// Windows of half a second over which its memory must stay as it is
        #[arg(long, default_value_t = 200)]
        windows: u64,
    },
    /// What each signal's summary adds per event in the kernel, against programs that only take timestamps on the same hooks
    Hooks {
        /// Rounds; each runs every variant once
        #[arg(long, default_value_t = 15)]
        rounds: usize,
    },
}

pub(crate) fn run(bench: &Bench) -> anyhow::Result<()> {
    match *bench {
        Bench::Syscall { rounds } => syscall::run(rounds),
        Bench::Ring { rounds } => ring::run(rounds),
        Bench::Doctor { seconds, windows } => doctor::run(Duration::from_secs(seconds), windows),
        Bench::Hooks { rounds } => hooks::run(rounds),
        Bench::Idle { seconds } => idle::run(Duration::from_secs(seconds)),
    }
}

/// Keeps this thread on one CPU, so that variants are compared on the same one.
fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("cannot run on CPU {cpu} alone"))
}

fn getppids(count: usize) {
    for _ in 0..count {
        // Through syscall(2): the C library's wrapper is not asked to cache it.
        let _ = rustix::process::getppid();
    }
}

/// Least, middle and most.
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
        Self { min: at(0), median: at(values.len() / 2), max: at(values.len().saturating_sub(1)) }
    }
}
