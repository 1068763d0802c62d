//! `kerno limits`.

use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kerno::limits::{report, survey};
use kerno::model::LimitUse;
use kerno::report::{limits_markdown, limits_text};

use crate::args::{LimitsArgs, ReportOutput};
use crate::output;

/// A process or a file system that does not answer holds up a reading for ever.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(args: &LimitsArgs) -> anyhow::Result<ExitCode> {
    let earlier = if args.once { None } else { Some((read(args.pid)?, Instant::now())) };
    if earlier.is_some() {
        std::thread::sleep(args.duration);
    }
    let now = read(args.pid)?;
    let comm = args.pid.map(|pid| std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default());
    let comm = comm.map(|name| String::from_utf8_lossy(name.trim_ascii_end()).into_owned()).unwrap_or_default();
    let seconds = earlier.as_ref().map_or(0.0, |(_, at)| at.elapsed().as_secs_f64());
    let before = earlier.as_ref().map(|(limits, _)| (limits.as_slice(), seconds));
    let report = report(args.pid.map(|pid| (pid, comm.as_str())), now, before);
    let text = match args.output {
        ReportOutput::Text => limits_text(&report),
        ReportOutput::Json => serde_json::to_string_pretty(&report)? + "\n",
        ReportOutput::Markdown => limits_markdown(&report),
    };
    output::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// In a thread of its own, which is left alone if it hangs.
fn read(pid: Option<u32>) -> anyhow::Result<Vec<LimitUse>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new().name("kerno limits".into()).spawn(move || sender.send(survey(pid)))?;
    match receiver.recv_timeout(PATIENCE) {
        Ok(limits) => limits.with_context(|| format!("no process {}", pid.unwrap_or(0))),
        Err(_) => bail!("no answer for {} s: a process or a file system hangs", PATIENCE.as_secs()),
    }
}
