//! `kerno why`.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use kerno::model::WhyReport;
use kerno::report::{why_folded, why_markdown, why_text};
use kerno::why::{Target, WhyOptions, WhyWatch, explain};
use kerno::{CancelToken, Host};

use crate::args::{WhyArgs, WhyOutput};
use crate::{output, privileges, stop};

/// How often it looks at what is only seen by looking.
const STEP: Duration = Duration::from_millis(300);
/// How often what is shown live is refreshed.
const REFRESH: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    let host = Host::detect();
    if let Some(lacking) = privileges::lacking(&host, "why") {
        bail!(lacking);
    }
    let cancel = CancelToken::new()?;
    stop::on_signal(cancel.clone(), false)?;
    let mut options = WhyOptions::new(target(args));
    options.depth = args.depth;
    let mut watch = WhyWatch::start(options, &host)?;
    let (begun, mut shown) = (Instant::now(), Instant::now());
    while begun.elapsed() < args.duration && !cancel.is_cancelled() && !watch.is_over() {
        cancel.wait(STEP.min(args.duration.saturating_sub(begun.elapsed())));
        watch.step()?;
        if args.live && shown.elapsed() >= REFRESH {
            shown = Instant::now();
            refresh(&explain(&watch.observe()?))?;
        }
    }
    let report = explain(&watch.observe()?);
    if args.live {
        refresh(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::print(text(args, &report)?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn target(args: &WhyArgs) -> Target {
    let named = |name: &String| match name.parse() {
        Ok(pid) => Target::Pid(pid),
        Err(_) => Target::Name(name.clone()),
    };
    let others = [
        args.unit.clone().map(Target::Unit),
        args.cgroup.clone().map(Target::Cgroup),
        args.container.clone().map(Target::Container),
        args.port.map(Target::Port),
    ];
    // Clap has seen to it that there is one.
    args.target.as_ref().map(named).or_else(|| others.into_iter().flatten().next()).unwrap_or(Target::Pid(0))
}

fn text(args: &WhyArgs, report: &WhyReport) -> anyhow::Result<String> {
    Ok(match args.output {
        _ if args.folded => why_folded(report),
        WhyOutput::Text => why_text(report),
        WhyOutput::Json => serde_json::to_string_pretty(report)? + "\n",
        WhyOutput::Markdown => why_markdown(report),
    })
}

fn refresh(report: &WhyReport) -> anyhow::Result<()> {
    // Home, and away with what was there.
    let screen = format!("\x1b[H\x1b[J{}", why_text(report));
    std::io::stdout().write_all(screen.as_bytes())?;
    std::io::stdout().flush()?;
    Ok(())
}
