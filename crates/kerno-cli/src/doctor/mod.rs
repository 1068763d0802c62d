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
use kerno::model::Severity;
use kerno::model::Window;
use kerno::report::Report;
use kerno::{CancelToken, Host};

use crate::args::{ALL, DoctorArgs};
use crate::config::Config;
use crate::error::note;
use crate::{output, privileges, stop};
use print::Printer;
use progress::Progress;
use snapshot::Destination;
use watch::{Ended, watch};

/// How long it watches unless told otherwise.
const WINDOW: Duration = Duration::from_secs(30);

/// Windows that wait for being printed, at most.
const QUEUE: usize = 8;

/// Exit status when a finding is as severe as was asked for.
const FOUND: u8 = 1;

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.config.as_deref(), &args.set)?;
    if args.list_rules {
        output::print(list::rules(&config, args.output)?.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let worst = match &args.from {
        Some(file) => from_snapshot(args, &config, file)?,
        None => from_kernel(args, &config)?,
    };
    let fail_on = args.fail_on.or(config.doctor.fail_on).unwrap_or(Severity::Critical);
    let failed = args.exit_code && worst.is_some_and(|worst| worst >= fail_on);
    Ok(if failed { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
}

fn from_snapshot(args: &DoctorArgs, config: &Config, file: &std::path::Path) -> anyhow::Result<Option<Severity>> {
    let mut signals = snapshot::read(file)?;
    if is_redacted(args, config) {
        signals.processes.values_mut().for_each(|process| process.cmdline.clear());
    }
    let report = report(&signals, config);
    Printer::new(args.output, false).print(&report)?;
    Ok(report.worst())
}

/// Watches this machine; the worst of what was found.
fn from_kernel(args: &DoctorArgs, config: &Config) -> anyhow::Result<Option<Severity>> {
    let destination = args.save.as_deref().map(Destination::new).transpose()?;
    let cancel = CancelToken::new().context("cannot create an eventfd")?;
    let progress = Progress::new(args.quiet);
    stop::on_signal(cancel.clone(), progress.is_shown())?;
    progress.loading();
    let window = match args.continuous {
        true => args.interval.or(config.doctor.interval),
        false => args.duration.or(config.doctor.duration),
    };
    let window = window.unwrap_or(WINDOW);
    let engine = start(args, config, window)?;
    let windows = engine.subscribe(QUEUE).context("cannot create an eventfd")?;
    if cancel.is_cancelled() {
        bail!("ended before anything was seen");
    }
    // What is saved or decides the exit status is wanted also when nobody reads.
    let must_end = args.save.is_some() || args.exit_code;
    let mut printer = Printer::new(args.output, args.continuous);
    let (mut worst, mut lost) = (None, 0);
    loop {
        let (signals, partial) = match watch(&engine, &windows, window, &cancel, &progress, must_end) {
            Ended::InTime(window) => (Some(window), false),
            // Of a continuous watch's last window only a part was seen; not worth a comparison.
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
            engine.stop().context("cannot watch on")?;
            bail!("the watching ended by itself");
        };
        progress.clear();
        if let Some(destination) = &destination {
            destination.write(&signals)?;
        }
        let report = report(&signals, config);
        worst = worst.max(report.worst());
        printer.print(&report)?;
        if partial || !args.continuous {
            break;
        }
        let more = windows.lost() - std::mem::replace(&mut lost, windows.lost());
        if more > 0 && !args.quiet {
            note(&format!("note: {more} windows passed without a report: what is printed is read too slowly"));
        }
    }
    progress.clear();
    Ok(worst)
}

fn start(args: &DoctorArgs, config: &Config, window: Duration) -> anyhow::Result<Engine> {
    // The parsed BTF it holds goes before the signals load theirs.
    {
        let host = Host::detect();
        if let Some(lacking) = privileges::lacking(&host, "doctor") {
            bail!(lacking);
        }
        if !host.initial_pid_namespace && !args.quiet {
            note("note: this is not the host's pid namespace: process ids are the host's");
        }
    }
    let chosen = match (&args.signals[..], &config.doctor.signals) {
        ([], Some(configured)) => configured.clone(),
        (flags, _) => flags.to_vec(),
    };
    let signals = if chosen.iter().any(|name| name == ALL) { Vec::new() } else { chosen };
    let options = ObserverOptions { signals, redact: is_redacted(args, config) };
    Engine::start(options, window).context("cannot watch this machine")
}

fn is_redacted(args: &DoctorArgs, config: &Config) -> bool {
    args.redact || config.doctor.redact.unwrap_or(false)
}

fn report(signals: &Window, config: &Config) -> Report {
    Report::new(signals, judge(signals, &config.thresholds))
}
