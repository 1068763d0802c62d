//! The benchmarks: every figure beside what it is compared with, in one interleaved run. Never part of the tests: machines are noisy.

mod allocations;
mod child;
mod churn;
mod cpus;
mod crowd;
mod events;
mod mounts;
mod snapshot;
mod soak;
mod start;
mod stream;
mod table;
mod tool;

use std::fmt;
use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use kerno_kit::clang::compile_to_memory;
use kerno_kit::install::install;

use table::Table;

/// Measure, as root, and print a table: what watching costs, beside other tools in the same run
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Bench {
    /// Which sections [default: all but soak and churn]
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// In the sections events, programs and snapshot: only operations with this in their name
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// How often each variant is measured, in turns
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// With the section churn: for so many seconds
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(50..))]
    seconds: u64,
    /// With the section start: also build from clean, which takes minutes
    #[arg(long)]
    build: bool,
    /// Measure nothing, print what --output json gave
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sections", "only", "rounds", "seconds", "build"])]
    from: Option<PathBuf>,
    /// A table, a page of Markdown, or a JSON object
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Markdown,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// What each signal adds to an event in the kernel, and what other tools add
    Events,
    /// The same by the kernel's own count, by program, with their sizes
    Programs,
    /// From a ring that another CPU fills to typed events and JSON: loss, wake-ups, allocations
    Stream,
    /// How long reading everything out takes beside crowds of processes, descriptors, sockets and cgroups
    Snapshot,
    /// CPU and memory of the command beside loads, and how they grow
    Tool,
    /// How soon it runs, and how large it is
    Start,
    /// Whether its memory grows over 200 s; only when asked for
    Soak,
    /// Whether anything grows while processes, threads and connections come and go; only when asked for
    Churn,
}

fn main() -> ExitCode {
    match run(&Bench::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(bench: &Bench) -> anyhow::Result<()> {
    let table = match &bench.from {
        Some(path) => Table::read(path)?,
        None => measure(bench)?,
    };
    let text = match bench.output {
        Output::Text => table.text(),
        Output::Markdown => table.markdown(),
        Output::Json => table.json()? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print")
}

fn measure(bench: &Bench) -> anyhow::Result<Table> {
    ensure!(rustix::process::geteuid().is_root(), "programs are loaded into the kernel: run it as root");
    let asked = |section| bench.sections.is_empty() || bench.sections.contains(&section);
    let rounds = usize::from(bench.rounds);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED))?;
    }
    let start = Instant::now();
    let load_before = fs::read_to_string("/proc/loadavg")?.split(' ').next().and_then(|load| load.parse().ok());
    if let Err(error) = mounts::complete() {
        // Some of the other tools then get a line that says what they miss.
        eprintln!("without the file systems that tracing tools need: {error:#}");
    }
    if let Err(error) = install(["syscount", "syscount-bpfcc", "bpftrace", "losetup"].into_iter()) {
        // Each of them gets a line that says so.
        eprintln!("without the tools to compare with: {error:#}");
    }
    let mut sections = Vec::new();
    let mut add = |name: &str, about: &str, rows| {
        sections.push(table::Section { name: name.to_owned(), about: about.to_owned(), rows });
    };
    if asked(Section::Events) || asked(Section::Programs) {
        let outcomes = events::measure(if asked(Section::Events) { rounds } else { 0 }, &bench.only)?;
        if asked(Section::Events) {
            let rows = outcomes.iter().map(events::Outcome::rows).collect::<Result<Vec<_>, _>>()?;
            add("events", events::ABOUT, rows.concat());
        }
        if asked(Section::Programs) {
            add("programs", events::ABOUT_PROGRAMS, outcomes.iter().flat_map(events::Outcome::program_rows).collect());
        }
    }
    if asked(Section::Stream) {
        add("stream", stream::ABOUT, stream::rows(rounds)?);
    }
    // The sections before this have chosen one.
    cpus::unpin()?;
    if asked(Section::Tool) {
        add("tool", tool::ABOUT, tool::rows()?);
    }
    if asked(Section::Snapshot) {
        add("snapshot", snapshot::ABOUT, snapshot::rows(rounds, &bench.only)?);
    }
    if asked(Section::Start) {
        add("start", start::ABOUT, start::rows(rounds, bench.build)?);
    }
    if bench.sections.contains(&Section::Soak) {
        add("soak", soak::ABOUT, soak::rows()?);
    }
    if bench.sections.contains(&Section::Churn) {
        add("churn", churn::ABOUT, churn::rows(std::time::Duration::from_secs(bench.seconds))?);
    }
    step(format_args!(""))?;
    Ok(Table {
        format: table::FORMAT,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        cpu: cpus::model()?,
        cpus: cpus::measured() + 1,
        load_before,
        rounds,
        seconds: start.elapsed().as_secs_f64(),
        sections,
    })
}

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Says what comes next, on the terminal's last line, if there is one. An error if that is not wanted any more: whatever was made
/// for a measurement is then taken away.
fn step(what: fmt::Arguments<'_>) -> anyhow::Result<()> {
    let mut error = std::io::stderr();
    if error.is_terminal() {
        let _ = write!(error, "\r\x1b[K{what}");
    }
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// The object of an eBPF program beside this file.
fn compiled(name: &str) -> anyhow::Result<Vec<u8>> {
    compile_to_memory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name))
}

fn getppids(count: usize) {
    for _ in 0..count {
        // Through syscall(2): the C library's wrapper is not asked to cache it.
        let _ = rustix::process::getppid();
    }
}

/// Of this thread: seconds of CPU time, and how often it waited.
fn thread_usage() -> (f64, u64) {
    // SAFETY: all zeroes is a valid value, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage
    };
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    (time.tv_sec as f64 + time.tv_nsec as f64 / 1e9, usage.ru_nvcsw.cast_unsigned())
}
