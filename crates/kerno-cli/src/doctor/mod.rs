//! `kerno doctor`: from the command line to the report.

mod list;
mod print;
mod progress;
mod snapshot;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kerno::doctor::judge;
use kerno::engine::{Engine, ObserverOptions};
use kerno::model::{Severity, Window};
use kerno::{CancelToken, Host};

use crate::args::{ALL, DoctorArgs};
use crate::config::Config;
use crate::error::note;
use crate::{output, past, privileges, stop};
use print::Printer;
use progress::Progress;
use snapshot::Destination;
use watch::{Ended, watch};

/// How long it watches by default.
const WINDOW: Duration = Duration::from_secs(30);

/// The most windows that wait to be printed.
const QUEUE: usize = 8;

/// Exit status if a finding is at least as severe as `--fail-on`.
const FOUND: u8 = 1;

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.config.as_deref(), &args.set)?;
    if args.list_rules {
        output::print(list::rules(&config, args.output)?.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let worst = match (&args.from, past::range(args)) {
        (Some(file), _) => judged(args, &config, snapshot::read(file)?)?,
        (None, Some(range)) => judged(args, &config, past::window(&args.past, range)?)?,
        (None, None) => from_kernel(args, &config)?,
    };
    let fail_on = args.fail_on.or(config.doctor.fail_on).unwrap_or(Severity::Critical);
    let failed = args.exit_code && worst.is_some_and(|worst| worst >= fail_on);
    Ok(if failed { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
}

/// Reports on what was observed before.
fn judged(args: &DoctorArgs, config: &Config, mut signals: Window) -> anyhow::Result<Option<Severity>> {
    if let Some(file) = &args.save {
        Destination::new(file)?.write(&signals)?;
    }
    if is_redacted(args, config) {
        signals.processes.values_mut().for_each(|process| process.cmdline.clear());
    }
    let findings = judge(&signals, &config.thresholds);
    Ok(Printer::new(args.output, false).print(&signals, &findings)?.worst())
}

/// Watches this machine. Returns the worst severity that was found.
fn from_kernel(args: &DoctorArgs, config: &Config) -> anyhow::Result<Option<Severity>> {
    let destination = args.save.as_deref().map(Destination::new).transpose()?;
    let cancel = CancelToken::new().context("cannot create an eventfd")?;
    let progress = Progress::new(args.quiet);
    stop::on_signal(cancel.clone(), progress.is_shown())?;
    progress.loading();
    let engine = start(args, config)?;
    let windows = engine.subscribe(QUEUE).context("cannot create an eventfd")?;
    if cancel.is_cancelled() {
        bail!("stopped before anything was seen");
    }
    let window = match args.continuous {
        true => args.interval.or(config.doctor.interval),
        false => args.duration.or(config.doctor.duration),
    };
    let window = window.unwrap_or(WINDOW);
    // The saved file and the exit status are wanted even if nobody reads the output.
    let must_end = args.save.is_some() || args.exit_code;
    engine.watch(window);
    let mut printer = Printer::new(args.output, args.continuous);
    let (mut worst, mut lost) = (None, 0);
    loop {
        let (signals, partial) = match watch(&engine, &windows, window, &cancel, &progress, must_end) {
            Ended::InTime(window) => (Some(window), false),
            // The last window of a continuous watch is incomplete: not worth a comparison.
            Ended::Stopped if printer.printed() > 0 => break,
            Ended::Stopped => {
                engine.cut();
                (windows.recv(), true)
            }
            Ended::Unread => break,
            Ended::Failed => (None, true),
        };
        let Some(signals) = signals else {
            progress.clear();
            return engine.stop().context("cannot watch this machine any longer").map(|()| worst);
        };
        progress.clear();
        if let Some(destination) = &destination {
            destination.write(&signals)?;
        }
        let findings = judge(&signals, &config.thresholds);
        worst = worst.max(printer.print(&signals, &findings)?.worst());
        if partial || !args.continuous {
            break;
        }
        let lost_by_now = windows.lost();
        let more = lost_by_now - std::mem::replace(&mut lost, lost_by_now);
        if more > 0 && !args.quiet {
            note(&format!("note: no report for {more} windows: the output is read too slowly"));
        }
    }
    progress.clear();
    Ok(worst)
}

fn start(args: &DoctorArgs, config: &Config) -> anyhow::Result<Engine> {
    let host = Host::detect();
    if let Some(lacking) = privileges::lacking(&host, "doctor") {
        bail!(lacking);
    }
    if !host.initial_pid_namespace && !args.quiet {
        note("note: this is not the host's pid namespace: process ids are the host's");
    }
    let chosen = match (&args.signals[..], &config.doctor.signals) {
        ([], Some(configured)) => configured.clone(),
        (flags, _) => flags.to_vec(),
    };
    let signals = if chosen.iter().any(|name| name == ALL) { Vec::new() } else { chosen };
    let options = ObserverOptions { signals, redact: is_redacted(args, config) };
    // It finds the index of the kernel's types that this host holds.
    let engine = Engine::start(options).context("cannot watch this machine");
    drop(host);
    engine
}

fn is_redacted(args: &DoctorArgs, config: &Config) -> bool {
    args.redact || config.doctor.redact.unwrap_or(false)
}
