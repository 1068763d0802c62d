//! `kerno alert`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use kerno::report::IncidentFilter;
use kerno_daemon::{Client, DEFAULT_SOCKET, SinkSettings, SinkStatus, send_test};
use serde::Serialize;

use crate::args::{AlertAction, AlertArgs, Output};
use crate::config::Config;
use crate::output;

pub(crate) fn run(args: &AlertArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.config.as_deref(), &[])?;
    let sinks: Vec<_> = config.sinks().collect();
    match &args.action {
        AlertAction::List { output, socket } => list(&sinks, *output, socket.as_deref())?,
        AlertAction::Test { name } => test(&sinks, name)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn test(sinks: &[&SinkSettings], name: &str) -> anyhow::Result<()> {
    let Some(sink) = sinks.iter().find(|sink| sink.name == name) else {
        let names: Vec<_> = sinks.iter().map(|sink| sink.name.as_str()).collect();
        let there = if names.is_empty() { "none; add a [[sink]] to it".to_owned() } else { names.join(", ") };
        bail!("the configuration has no sink {name:?}; it has: {there}");
    };
    let answer = send_test(sink)
        .map_err(|why| anyhow!("the test was not delivered to {name} ({}): {why}", sink.kind.place()))?;
    output::print(format!("delivered to {name} ({}): {answer}\n", sink.kind.place()).as_bytes())
}

/// A sink for programs.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    kind: &'a str,
    place: String,
    gets: String,
    /// `None` if no kerno runs, or if it does not know the sink yet.
    status: Option<&'a SinkStatus>,
}

fn list(sinks: &[&SinkSettings], form: Output, socket: Option<&Path>) -> anyhow::Result<()> {
    // Without one that runs, only the configuration is known.
    let status = Client::connect(socket.unwrap_or(Path::new(DEFAULT_SOCKET))).and_then(|client| client.status());
    let status = status.map(|status| status.sinks).ok();
    let shown: Vec<_> = sinks
        .iter()
        .map(|sink| Shown {
            name: &sink.name,
            kind: sink.kind.name(),
            place: sink.kind.place(),
            gets: gets(sink),
            status: status.iter().flatten().find(|status| status.name == sink.name),
        })
        .collect();
    let text = match form {
        Output::Json => serde_json::to_string_pretty(&shown)? + "\n",
        Output::Text if shown.is_empty() => "no sinks; add a [[sink]] to the configuration\n".to_owned(),
        Output::Text => shown.iter().map(|one| line(one, status.is_some())).collect(),
    };
    output::print(text.as_bytes())
}

fn line(shown: &Shown<'_>, runs: bool) -> String {
    let Shown { name, kind, place, gets, status } = shown;
    let how = match status {
        None if runs => "kerno does not know it; start it again".to_owned(),
        None => "no kerno runs".to_owned(),
        Some(SinkStatus { waiting, delivered, failed, dropped, failing, .. }) => {
            let why = failing.as_ref().map(|why| format!("; failing: {why}")).unwrap_or_default();
            format!("{delivered} delivered, {waiting} waiting, {failed} refused, {dropped} dropped{why}")
        }
    };
    format!("{name}\n  {kind}, {place}\n  gets {gets}\n  {how}\n")
}

/// Which incidents a sink gets, in words.
fn gets(sink: &SinkSettings) -> String {
    let mut parts = Vec::new();
    let of = |value: fn(&IncidentFilter) -> Option<&String>| {
        let mut values: Vec<_> = sink.filters.iter().filter_map(value).cloned().collect();
        values.dedup();
        values.sort();
        values.dedup();
        values.join(", ")
    };
    parts.push(match sink.filters.iter().find_map(|filter| filter.severity) {
        Some(least) => format!("incidents, {} or worse", least.name()),
        None => "all incidents".to_owned(),
    });
    let (rules, units) = (of(|filter| filter.rule.as_ref()), of(|filter| filter.unit.as_ref()));
    parts.extend((!rules.is_empty()).then(|| format!("of the rules {rules}")));
    parts.extend((!units.is_empty()).then(|| format!("of {units}")));
    parts.push(if sink.symptoms { "with those that others explain" } else { "root causes only" }.to_owned());
    parts.join(", ")
}
