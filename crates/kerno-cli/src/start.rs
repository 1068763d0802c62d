//! `kerno start`: from the command line to the daemon.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context as _, bail};
use kerno::engine::Budget;
use kerno::{CancelToken, Host};
use kerno_daemon::{Daemon, Settings, confine};
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use crate::args::{ALL, Output, StartArgs};
use crate::config::Config;
use crate::error::note;
use crate::{output, privileges, stop};

/// What stands for a store, a socket or an address that is not wanted.
const OFF: &str = "off";

pub(crate) fn run(args: &StartArgs) -> anyhow::Result<ExitCode> {
    let (settings, log) = settings(args)?;
    Daemon::check(&settings)?;
    if args.check_config {
        output::print(b"the configuration is good\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let host = Host::detect();
    if let Some(lacking) = privileges::lacking(&host, "start") {
        bail!(lacking);
    }
    drop(host);
    start_log(log);
    // Before there is another thread.
    confine::process();
    let cancel = CancelToken::new().context("cannot create an eventfd")?;
    stop::on_signal_after(confine::thread, cancel.clone(), false)?;
    let (reload, reloads) = channel();
    on_hangup(args.clone(), reload)?;
    let daemon = Daemon::start(settings)?;
    daemon.run(&cancel, &reloads)?;
    Ok(ExitCode::SUCCESS)
}

/// SIGHUP reads the settings again. Settings with a mistake change nothing.
fn on_hangup(args: StartArgs, reload: Sender<Settings>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGHUP]).context("cannot handle signals")?;
    let wait = move || {
        confine::thread();
        for _ in signals.forever() {
            let settings = settings(&args).and_then(|(settings, _)| {
                Daemon::check(&settings)?;
                Ok(settings)
            });
            match settings {
                Ok(settings) => drop(reload.send(settings)),
                Err(error) => note(&format!("the configuration is not taken: {error:#}")),
            }
        }
    };
    std::thread::Builder::new().name("kerno-reload".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}

fn start_log(form: Output) {
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    // An error says that there is a log already, which cannot be.
    let _ = match form {
        Output::Json => builder.json().flatten_event(true).try_init(),
        Output::Text => builder.try_init(),
    };
}

fn settings(args: &StartArgs) -> anyhow::Result<(Settings, Output)> {
    let config = Config::load(args.config.as_deref(), &args.set)?;
    config.check_sinks()?;
    let (sinks, redaction) = (config.sinks().cloned().collect(), config.redaction()?);
    let Config { thresholds, start, otlp, objectives, .. } = config;
    let defaults = Settings::default();
    let signals = match (&args.signals[..], start.signals) {
        ([], configured) => configured.unwrap_or_default(),
        (flags, _) => flags.to_vec(),
    };
    let mut keep = defaults.keep;
    if let Some(size) = start.store_size {
        keep.cap_bytes = size;
    }
    let listen = |name: &str, chosen: Option<&String>, default| chosen.map_or(Ok(default), |text| address(name, text));
    let settings = Settings {
        interval: args.interval.or(start.interval).unwrap_or(defaults.interval),
        signals: if signals.iter().any(|name| name == ALL) { Vec::new() } else { signals },
        redact: args.redact || start.redact.unwrap_or(false),
        store: place(args.store.as_ref().or(start.store.as_ref()), defaults.store),
        keep,
        socket: place(args.socket.as_ref().or(start.socket.as_ref()), defaults.socket),
        http: listen("http", args.http.as_ref().or(start.http.as_ref()), defaults.http)?,
        guard: start.guard,
        health: listen("health", args.health.as_ref().or(start.health.as_ref()), defaults.health)?,
        budget: Budget {
            kernel_share: start.max_kernel_share.unwrap_or(defaults.budget.kernel_share),
            cpu_share: start.max_cpu_share.unwrap_or(defaults.budget.cpu_share),
            ..defaults.budget
        },
        otlp: otlp.settings(&|name| std::env::var(name).ok())?,
        thresholds,
        objectives,
        sinks,
        redaction,
        confine: true,
    };
    Ok((settings, args.log.or(start.log).unwrap_or(Output::Text)))
}

fn place(chosen: Option<&PathBuf>, default: Option<PathBuf>) -> Option<PathBuf> {
    match chosen {
        Some(path) if path == Path::new(OFF) => None,
        Some(path) => Some(path.clone()),
        None => default,
    }
}

fn address(name: &str, text: &str) -> anyhow::Result<Option<SocketAddr>> {
    if text == OFF {
        return Ok(None);
    }
    let expected = || format!("{name}: {text:?} is no address; expected one such as 127.0.0.1:7653, or \"off\"");
    text.parse().map(Some).with_context(expected)
}
