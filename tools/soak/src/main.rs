//! The soak: `kerno start` for a while beside a load that makes and ends processes, threads, connections, files and cgroups, with whoever asks it
//! all the time. What it holds may not grow, and what was made has to be what it tells.

mod daemon;
mod judge;
mod load;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use kerno_kit::cargo::command_beside;

use daemon::{Daemon, Held};
use load::{Kind, Load};

/// Run `kerno start` for long under load, as root, and say what grew and what was lost
#[derive(Parser)]
#[command(name = "cargo xtask soak", bin_name = "cargo xtask soak")]
struct Args {
    /// How long
    #[arg(long = "for", default_value = "3m", value_parser = time)]
    length: Duration,
    /// The length of kerno's windows
    #[arg(long, default_value = "2s", value_parser = time)]
    interval: Duration,
    /// System calls a second
    #[arg(long, default_value_t = 200_000)]
    rate: u64,
    /// The kerno to try, instead of building this one
    #[arg(long)]
    kerno: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// One part of the load, in a process of its own: until its standard input ends
    #[command(hide = true)]
    Load { kind: Kind, rate: u64 },
}

/// How often it is looked what kerno holds.
const LOOK: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Part::Load { kind, rate }) = args.part {
        return load::run(kind, rate);
    }
    match soak(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| "expected a time such as 3m or 1h".to_owned())?;
    Duration::try_from(parsed).ok().filter(|time| !time.is_zero()).ok_or_else(|| "must be longer than zero".to_owned())
}

fn soak(args: &Args) -> Result<bool> {
    let kerno = match &args.kerno {
        Some(path) => path.clone(),
        None => command_beside()?,
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("cannot handle signals")?;
    }
    let mut daemon = Daemon::start(&kerno, args.interval)?;
    let mut loads = Load::all(args.rate)?;
    let begun = Instant::now();
    let mut held: Vec<Held> = Vec::new();
    let mut asked = 0;
    let mut next = begun + LOOK;
    while begun.elapsed() < args.length {
        if stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        daemon.ask(asked)?;
        asked += 1;
        if Instant::now() >= next {
            held.push(daemon.held()?);
            next += LOOK;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let made: Vec<_> = loads.iter_mut().map(Load::end).collect::<Result<_>>()?;
    // The window that runs has the last of it.
    std::thread::sleep(args.interval * 2 + Duration::from_secs(1));
    let told = daemon.told()?;
    let status = daemon.status()?;
    let stopped = daemon.stop()?;
    judge::print(&held, &made, &told, &status, stopped, asked)
}
