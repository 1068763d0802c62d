//! `kerno explain`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, Read as _};
use std::process::ExitCode;

use anyhow::Context as _;
use kerno::kernel_log::{self, Explanation, MAX_MESSAGE_BYTES};
use kerno::model::text::Escaped;
use kerno::probe::clock::unix_offset_ns;
use kerno::report::{IncidentReport, TextStyle, explanation_markdown, explanation_text, rfc3339};
use serde::Serialize;

use crate::args::{ExplainArgs, PastArgs, ReportOutput};
use crate::error::note;
use crate::output::{self, Style};
use crate::past;

/// Exit status of what is not in the table.
const UNKNOWN: u8 = 1;

/// Most records of the kernel's log that are looked at: what it has with its usual size is less.
const MOST_RECORDS: usize = 1 << 16;

/// How long before and after its message an incident may be seen: a window's length, and some windows until it opens.
const ABOUT_NS: u64 = 120_000_000_000;

/// An explanation, and what is known of this one message.
#[derive(Serialize)]
struct Told {
    /// When it was written, as `2026-11-29T03:02:10Z`; of the machine's own log only.
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(flatten)]
    explanation: Explanation,
    /// How many such messages there are, also those that are not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<u64>,
    /// Incidents about the same at that time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    incidents: Vec<Matching>,
}

#[derive(Serialize)]
struct Matching {
    id: String,
    title: String,
}

/// A line of `--list`.
#[derive(Serialize)]
struct Listed {
    id: &'static str,
    title: &'static str,
    patterns: &'static [&'static str],
}

pub(crate) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    if args.list {
        list(args)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(most) = args.last {
        return newest(args, most.into());
    }
    if args.text == ["-"] {
        return lines(args);
    }
    match kernel_log::explain(&args.text.join(" ")) {
        Some(explanation) => show(args, &[Told { time: None, explanation, times: None, incidents: Vec::new() }]),
        None => unknown(args, "this message is not in the table"),
    }
}

fn list(args: &ExplainArgs) -> anyhow::Result<()> {
    let mut text = String::new();
    match args.output {
        ReportOutput::Json => {
            let all: Vec<_> = kernel_log::entries()
                .map(|entry| Listed { id: entry.id, title: entry.title, patterns: entry.patterns })
                .collect();
            text = serde_json::to_string_pretty(&all)? + "\n";
        }
        ReportOutput::Markdown => {
            text += "| id | what it is |\n|---|---|\n";
            for entry in kernel_log::entries() {
                let _ = writeln!(text, "| `{}` | {} |", entry.id, entry.title);
            }
        }
        ReportOutput::Text => {
            let width = kernel_log::entries().map(|entry| entry.id.len()).max().unwrap_or(0);
            for entry in kernel_log::entries() {
                let _ = writeln!(text, "{:width$}  {}", entry.id, entry.title);
            }
        }
    }
    output::print(text.as_bytes())
}

/// The newest messages of this machine that are known, the newest first.
fn newest(args: &ExplainArgs, most: usize) -> anyhow::Result<ExitCode> {
    let log = kernel_log::read(MOST_RECORDS)?;
    if log.overwritten > 0 {
        note(&format!("note: {} records were overwritten while the log was read", log.overwritten));
    }
    let offset_ns = unix_offset_ns();
    let mut told = Vec::new();
    for record in log.records.iter().rev() {
        let text = String::from_utf8_lossy(&record.text);
        // What a program writes there is no word of the kernel.
        for explanation in text.lines().rev().filter(|_| record.facility == 0).filter_map(kernel_log::explain) {
            let unix_ns = u64::try_from(offset_ns + i128::from(record.since_boot_ns)).unwrap_or(0);
            told.push((unix_ns, explanation));
        }
        if told.len() >= most {
            break;
        }
    }
    told.truncate(most);
    if told.is_empty() {
        return unknown(
            args,
            &format!("none of the {} records of this machine's kernel log is in the table", log.records.len()),
        );
    }
    let incidents = incidents(args);
    let told: Vec<_> = told
        .into_iter()
        .map(|(unix_ns, explanation)| {
            let incidents = matching(&incidents, &explanation, unix_ns);
            Told { time: Some(rfc3339(unix_ns)), explanation, times: None, incidents }
        })
        .collect();
    show(args, &told)
}

/// What the kerno that runs knows of; nothing if none runs, unless one was asked for.
fn incidents(args: &ExplainArgs) -> Vec<IncidentReport> {
    let past = PastArgs { store: None, socket: args.socket.clone() };
    match past::client(&past).and_then(|_| Ok(past::open(&past)?.incidents()?)) {
        Ok(incidents) => incidents,
        Err(error) => {
            if args.socket.is_some() {
                note(&format!("note: no incidents are shown: {error:#}"));
            }
            Vec::new()
        }
    }
}

/// The incidents of the rules that are about the same, at about that time.
fn matching(incidents: &[IncidentReport], explanation: &Explanation, unix_ns: u64) -> Vec<Matching> {
    let about = |incident: &&IncidentReport| {
        let begun = incident.opened_unix_ns.saturating_sub(ABOUT_NS);
        let ended =
            incident.closed_unix_ns.unwrap_or(u64::MAX).min(incident.last_seen_unix_ns).saturating_add(ABOUT_NS);
        explanation.rules.contains(&&*incident.rule) && (begun..=ended).contains(&unix_ns)
    };
    let told =
        |incident: &IncidentReport| Matching { id: incident.id.as_str().to_owned(), title: incident.title.clone() };
    incidents.iter().filter(about).map(told).collect()
}

/// Each kind of message on standard input once, in the order in which it first comes.
fn lines(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let mut input = std::io::stdin().lock();
    let (mut seen, mut told): (BTreeSet<&str>, Vec<Told>) = (BTreeSet::new(), Vec::new());
    let (mut line, mut count) = (Vec::new(), 0_u64);
    loop {
        line.clear();
        // Of a line that is longer only the begin is kept.
        let limit = 2 * MAX_MESSAGE_BYTES;
        let read =
            input.by_ref().take(limit as u64).read_until(b'\n', &mut line).context("cannot read standard input")?;
        if read == 0 {
            break;
        }
        if read == limit && !line.ends_with(b"\n") {
            input.skip_until(b'\n').context("cannot read standard input")?;
        }
        count += 1;
        let Some(explanation) = kernel_log::explain(&String::from_utf8_lossy(&line)) else { continue };
        if seen.insert(explanation.id) {
            told.push(Told { time: None, explanation, times: Some(1), incidents: Vec::new() });
        } else if let Some(of_kind) = told.iter_mut().find(|told| told.explanation.id == explanation.id) {
            of_kind.times = of_kind.times.map(|times| times + 1);
        }
    }
    if told.is_empty() {
        return unknown(args, &format!("none of these {count} lines is in the table"));
    }
    show(args, &told)
}

fn show(args: &ExplainArgs, told: &[Told]) -> anyhow::Result<ExitCode> {
    let style = TextStyle { width: output::width(), color: Style::of_stdout().has_colour() };
    let text = match args.output {
        ReportOutput::Json => serde_json::to_string_pretty(told)? + "\n",
        ReportOutput::Text => told
            .iter()
            .map(|told| beside(told, explanation_text(&told.explanation, &style), "  "))
            .collect::<Vec<_>>()
            .join("\n"),
        ReportOutput::Markdown => told
            .iter()
            .map(|told| beside(told, explanation_markdown(&told.explanation), ""))
            .collect::<Vec<_>>()
            .join("\n"),
    };
    output::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The explanation with what is known of this message.
fn beside(told: &Told, mut text: String, indent: &str) -> String {
    if let Some(time) = &told.time {
        let _ = writeln!(text, "{indent}Written about {time}.");
    }
    if let Some(times @ 2..) = told.times {
        let _ = writeln!(text, "{indent}{times} lines are of this kind; this is the first.");
    }
    for incident in &told.incidents {
        let (id, title) = (&incident.id, Escaped(incident.title.as_bytes()));
        let _ = writeln!(text, "{indent}Incident {id} at that time: {title}");
    }
    text
}

/// Says that it is not known, and what to do then. JSON is an empty list.
fn unknown(args: &ExplainArgs, what: &str) -> anyhow::Result<ExitCode> {
    if args.output == ReportOutput::Json {
        output::print(b"[]\n")?;
    }
    note(&format!(
        "{what}, so kerno says nothing of what it means. `kerno explain --list` shows what is known; for others search the kernel's source for \
         the words that do not vary, and run `kerno doctor` to see what is wrong now"
    ));
    Ok(ExitCode::from(UNKNOWN))
}
