//! `kerno incidents`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use kerno::CancelToken;
use kerno::model::IncidentState;
use kerno::report::{IncidentFilter, IncidentReport, TextStyle, incident_text, incidents_text};
use serde::Deserialize;

use crate::args::{IncidentsAction, IncidentsArgs, ReportOutput};
use crate::error::note;
use crate::output::{self, Style};
use crate::{past, stop};

pub(crate) fn run(args: &IncidentsArgs) -> anyhow::Result<ExitCode> {
    match &args.action {
        None | Some(IncidentsAction::List) => list(args)?,
        Some(IncidentsAction::Show { id }) => show(args, id)?,
        Some(IncidentsAction::Follow) => follow(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(args: &IncidentsArgs) -> anyhow::Result<()> {
    let mut incidents = past::open(&args.past)?.incidents()?;
    let filter = filter(args);
    incidents.retain(|incident| filter.passes(incident));
    let text = match args.output {
        ReportOutput::Json => serde_json::to_string_pretty(&incidents)? + "\n",
        ReportOutput::Text if incidents.is_empty() => "no incidents\n".to_owned(),
        ReportOutput::Text => incidents_text(&incidents, &style()),
        ReportOutput::Markdown => fenced(&incidents_text(&incidents, &PLAIN)),
    };
    output::print(text.as_bytes())
}

fn show(args: &IncidentsArgs, id: &str) -> anyhow::Result<()> {
    let incidents = past::open(&args.past)?.incidents()?;
    let found: Vec<_> = incidents.iter().filter(|incident| incident.id.as_str().starts_with(id)).collect();
    let exact = found.iter().find(|incident| incident.id.as_str() == id);
    let incident = match (exact, &found[..]) {
        (Some(incident), _) | (None, [incident]) => *incident,
        (None, []) => bail!("no incident {id:?}; `kerno incidents` lists them"),
        (None, several) => bail!("{} incidents begin with {id:?}; write more of the id", several.len()),
    };
    let text = match args.output {
        ReportOutput::Json => serde_json::to_string_pretty(incident)? + "\n",
        ReportOutput::Text => incident_text(incident, &style()),
        ReportOutput::Markdown => fenced(&incident_text(incident, &PLAIN)),
    };
    output::print(text.as_bytes())
}

/// A change as the daemon sends it, or how many were lost.
#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Change { course: String, incident: Box<IncidentReport> },
    Lost { lost: u64 },
}

fn follow(args: &IncidentsArgs) -> anyhow::Result<()> {
    if args.past.store.is_some() {
        bail!("a store tells of no changes: follow the kerno that runs, with --socket");
    }
    // A stop ends the process: there is nothing to clean up.
    let cancel = CancelToken::new().context("cannot create an eventfd")?;
    let ended = cancel.clone();
    stop::on_signal(cancel, false)?;
    std::thread::Builder::new()
        .name("kerno-stop".into())
        .spawn(move || {
            while !ended.wait(std::time::Duration::from_secs(3600)) {}
            std::process::exit(0);
        })
        .context("cannot start a thread")?;
    let filter = filter(args);
    for line in past::client(&args.past)?.follow()? {
        let line = line.context("the kerno that ran is gone")?;
        match serde_json::from_str(&line).context("a change cannot be read")? {
            Told::Lost { lost } => note(&format!("note: {lost} changes are not shown: the output is read too slowly")),
            Told::Change { incident, .. } if !filter.passes(&incident) => {}
            Told::Change { .. } if args.output == ReportOutput::Json => output::print((line + "\n").as_bytes())?,
            Told::Change { course, incident } => {
                let text = incidents_text(std::slice::from_ref(&*incident), &style());
                output::print(format!("{course}: {text}").as_bytes())?;
            }
        }
        if output::is_closed() {
            return Ok(());
        }
    }
    bail!("the kerno that ran has ended")
}

fn filter(args: &IncidentsArgs) -> IncidentFilter {
    let state = match (args.open, args.closed) {
        (true, _) => Some(IncidentState::Open),
        (_, true) => Some(IncidentState::Closed),
        _ => None,
    };
    let (rule, unit) = (args.rule.clone(), args.unit.clone());
    IncidentFilter { state, severity: args.severity, rule, unit, from_unix_ns: args.since, to_unix_ns: args.until }
}

/// For chats: lines as long as they are.
const PLAIN: TextStyle = TextStyle { width: 120, color: false };

fn style() -> TextStyle {
    TextStyle { width: output::width(), color: Style::of_stdout().has_colour() }
}

/// As a block that Markdown shows as it is.
fn fenced(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}
