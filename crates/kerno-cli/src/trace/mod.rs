//! `kerno trace`: from the command line to the summary line.

mod merge;
mod select;
mod session;
mod tally;

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kerno::{Batch, CancelToken, Host, LoaderSet};

use crate::args::TraceArgs;
use crate::error::note;
use crate::{output, privileges, stop};
use select::Selection;
use session::{PassError, Session};
use tally::Tally;

/// How often an idle trace checks whether its reader is still there.
const LOOK: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let selection = Selection::new(args);
    let loaders = selection.loaders(args)?;
    let cancel = CancelToken::new().context("cannot create an eventfd")?;
    stop::on_signal(cancel.clone(), false)?;
    let mut set = LoaderSet::new(loaders);
    load(&mut set, selection.lenient)?;

    match trace(args, &set, &cancel) {
        Ok((tally, elapsed)) => note(&tally.summary(set.handles(), elapsed)),
        Err(PassError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(PassError::Write(error)) => return Err(output::unwritable(error)),
        Err(PassError::Stream(error)) => return Err(error.into()),
    }
    set.close();
    Ok(ExitCode::SUCCESS)
}

fn load(set: &mut LoaderSet, lenient: bool) -> anyhow::Result<()> {
    // The index of the kernel's types that it holds goes when everything is loaded.
    let host = Host::detect();
    if let Some(lacking) = privileges::lacking(&host, "trace") {
        bail!(lacking);
    }
    if !host.initial_pid_namespace {
        note("note: this is not the pid namespace of the host: process ids are those of the host, also for --pid");
    }
    if lenient {
        let unavailable = set.load_available();
        if set.handles().is_empty() {
            let reasons: Vec<_> = unavailable.iter().map(ToString::to_string).collect();
            bail!("no signal can be loaded here: {}", reasons.join("; "));
        }
        for signal in unavailable {
            note(&format!("note: cannot trace {signal}"));
        }
        Ok(())
    } else {
        set.load_all().map_err(Into::into)
    }
}

/// Writes events until the trace ends. Returns what was written, and in what time it was emitted.
fn trace(args: &TraceArgs, set: &LoaderSet, cancel: &CancelToken) -> Result<(Tally, Duration), PassError> {
    let started = Instant::now();
    let deadline = args.duration.and_then(|duration| started.checked_add(duration));
    let mut session = Session::new(args, set.handles().len())?;
    let mut events = set.events(cancel)?;
    while !session.is_full() {
        let left = deadline.map_or(LOOK, |deadline| deadline.saturating_duration_since(Instant::now()).min(LOOK));
        if left.is_zero() || session.pass(&mut events, left)? == Batch::Ended {
            break;
        }
    }
    let elapsed = started.elapsed();
    set.stop();
    // A token of its own: what was emitted until the end is still read after a Ctrl-C.
    let mut rest = set.events(&CancelToken::new()?)?;
    while !session.is_full() && session.pass(&mut rest, LOOK)? != Batch::Ended {}
    Ok((session.finish()?, elapsed))
}
