//! What a run on several kernels showed: which hooks each signal used, which tests passed, which figures were compared with the
//! kernel's own, and what each program cost the verifier. Printed, and written as `docs/kernels.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::Context as _;
use serde::Deserialize;

use super::boot::Outcome;

/// What the guest prints before what `kerno check --output json` says.
pub(super) const CHECK: &str = "@check ";

/// The signals, and how the names of their tests begin.
const SIGNALS: [(&str, &[&str]); 9] = [
    ("syscall_latency", &["syscall_"]),
    ("tcp_monitor", &["tcp_"]),
    ("oom_track", &["oom_"]),
    ("disk_io", &["disk_"]),
    ("sched_delay", &["sched_"]),
    ("fd_track", &["fd_"]),
    ("file_audit", &["file_"]),
    ("dns_query", &["dns_"]),
    ("process_life", &["process_life"]),
];

/// The page around the tables; each `{{NAME}}` is replaced.
const PAGE: &str = include_str!("kernels.md");

#[derive(Deserialize)]
struct Check {
    signals: Vec<Checked>,
}

#[derive(Deserialize)]
struct Checked {
    signal: String,
    available: bool,
    reason: Option<String>,
    hooks: Vec<String>,
}

/// A figure of ours and what it was held against.
struct Compared {
    ours: String,
    truth: String,
    source: String,
}

/// What one kernel showed.
pub(super) struct Column {
    pub(super) line: &'static str,
    /// Its line by numbers, such as 7.3 for the newest.
    head: String,
    release: String,
    check: Option<Check>,
    /// Tests passed and failed, by signal; those of no one signal under the empty name.
    tests: BTreeMap<&'static str, (usize, usize)>,
    compared: BTreeMap<(String, String), Compared>,
    /// Instructions processed, by what was loaded and the program.
    verified: BTreeMap<(String, String), u64>,
}

impl Column {
    pub(super) fn new(line: &'static str, release: &str, outcome: &Outcome) -> Self {
        let mut column = Self {
            line,
            head: release.splitn(3, '.').take(2).collect::<Vec<_>>().join("."),
            release: release.to_owned(),
            check: None,
            tests: BTreeMap::new(),
            compared: BTreeMap::new(),
            verified: BTreeMap::new(),
        };
        for (name, passed) in outcome.tests() {
            let of = |(_, begins): &&(_, &[&str])| begins.iter().any(|begin| name.starts_with(begin));
            let counts = column.tests.entry(SIGNALS.iter().find(of).map_or("", |signal| signal.0)).or_default();
            *(if passed { &mut counts.0 } else { &mut counts.1 }) += 1;
        }
        for line in &outcome.output {
            column.take(line);
        }
        column
    }

    fn take(&mut self, line: &str) {
        if let Some(json) = line.strip_prefix(CHECK) {
            self.check = serde_json::from_str(json).ok();
        } else if let Some(rest) = line.strip_prefix("compared: ") {
            if let [signal, figure, ours, truth, source] = rest.split(" | ").collect::<Vec<_>>()[..] {
                let [ours, truth, source] = [ours, truth, source].map(str::to_owned);
                self.compared.insert((signal.to_owned(), figure.to_owned()), Compared { ours, truth, source });
            }
        } else if let Some(rest) = line.strip_prefix("verified: ")
            && let [loading, program, count] = rest.split(' ').collect::<Vec<_>>()[..]
        {
            self.verified.insert((loading.to_owned(), program.to_owned()), count.parse().unwrap_or(0));
        }
    }

    fn checked(&self, signal: &str) -> Option<&Checked> {
        self.check.as_ref()?.signals.iter().find(|checked| checked.signal == signal)
    }

    /// Why this kernel is not as it should be, if so, apart from failed tests.
    pub(super) fn complaint(&self) -> Option<String> {
        let Some(check) = &self.check else { return Some("kerno check said nothing".to_owned()) };
        let missing = check.signals.iter().find(|checked| !checked.available)?;
        Some(format!("{}: {}", missing.signal, missing.reason.as_deref().unwrap_or("not available")))
    }
}

/// A table in Markdown that is also legible as it is: a name, then a cell for each kernel.
fn table(columns: &[Column], head: &str, rows: impl Iterator<Item = (String, Vec<String>)>) -> String {
    let mut lines =
        vec![[head.to_owned()].into_iter().chain(columns.iter().map(|column| column.head.clone())).collect()];
    lines.extend(rows.map(|(name, cells)| [name].into_iter().chain(cells).collect::<Vec<_>>()));
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..=columns.len()).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text += "|\n";
        if number == 0 {
            widths.iter().for_each(|width| text += &format!("|{}", "-".repeat(width + 2)));
            text += "|\n";
        }
    }
    text
}

fn signals(columns: &[Column]) -> String {
    let cell = |column: &Column, signal: &str| {
        let (passed, failed) = column.tests.get(signal).copied().unwrap_or_default();
        let available = column.checked(signal).is_some_and(|checked| checked.available);
        match (available, failed) {
            (true, 0) => format!("yes, {passed} tests"),
            (true, _) => format!("{failed} of {} tests fail", passed + failed),
            (false, _) => "no".to_owned(),
        }
    };
    let row = |(signal, _): &(&str, &[&str])| {
        (format!("`{signal}`"), columns.iter().map(|column| cell(column, signal)).collect())
    };
    table(columns, "signal", SIGNALS.iter().map(row))
}

fn hooks(columns: &[Column]) -> String {
    let mut text = String::new();
    for (signal, _) in SIGNALS {
        let used: Vec<BTreeSet<&str>> = columns
            .iter()
            .map(|column| {
                column
                    .checked(signal)
                    .into_iter()
                    .flat_map(|checked| checked.hooks.iter().map(String::as_str))
                    .collect()
            })
            .collect();
        let all: BTreeSet<&str> = used.iter().flatten().copied().collect();
        let (everywhere, some): (Vec<&str>, Vec<&str>) =
            all.iter().partition(|hook| used.iter().all(|used| used.contains(*hook)));
        let everywhere: Vec<_> = everywhere.iter().map(|hook| format!("`{hook}`")).collect();
        let _ = writeln!(text, "**{signal}**, on all: {}.\n", everywhere.join(", "));
        if !some.is_empty() {
            let row = |hook: &&str| {
                let cell = |used: &BTreeSet<&str>| if used.contains(*hook) { "yes" } else { "" }.to_owned();
                (format!("`{hook}`"), used.iter().map(cell).collect())
            };
            text += &table(columns, "and", some.iter().map(row));
            text += "\n";
        }
    }
    text.trim_end().to_owned()
}

fn compared(columns: &[Column]) -> String {
    let keys: BTreeSet<_> = columns.iter().flat_map(|column| column.compared.keys()).collect();
    let rows = keys.into_iter().map(|key| {
        let source = columns.iter().find_map(|column| column.compared.get(key)).map_or("", |compared| &compared.source);
        let cell = |column: &Column| match column.compared.get(key) {
            Some(Compared { ours, truth, .. }) if ours == truth => format!("{ours} ="),
            Some(Compared { ours, truth, .. }) => format!("{ours} of {truth}"),
            None => String::new(),
        };
        (format!("`{}`: {} ({source})", key.0, key.1), columns.iter().map(cell).collect())
    });
    table(columns, "figure, and who tells the truth", rows)
}

fn verified(columns: &[Column]) -> String {
    let keys: BTreeSet<_> = columns.iter().flat_map(|column| column.verified.keys()).collect();
    let rows = keys.into_iter().map(|key| {
        let cell = |column: &Column| column.verified.get(key).map(u64::to_string).unwrap_or_default();
        (format!("{} `{}`", key.0, key.1), columns.iter().map(cell).collect())
    });
    table(columns, "program", rows)
}

/// For the terminal.
pub(super) fn print(columns: &[Column]) {
    println!("\n{}\n{}\n{}\n{}", signals(columns), hooks(columns), compared(columns), verified(columns));
}

/// The page of the documentation.
pub(super) fn page(columns: &[Column]) -> anyhow::Result<String> {
    let releases = columns.iter().map(|column| format!("- {}: `{}`", column.head, column.release)).collect::<Vec<_>>();
    let parts = [
        ("{{RELEASES}}", releases.join("\n")),
        ("{{SIGNALS}}", signals(columns)),
        ("{{HOOKS}}", hooks(columns)),
        ("{{COMPARED}}", compared(columns)),
        ("{{VERIFIED}}", verified(columns)),
    ];
    let mut page = PAGE.to_owned();
    for (name, text) in parts {
        let at = page.find(name).with_context(|| format!("the page has no {name}"))?;
        page.replace_range(at..at + name.len(), text.trim_end());
    }
    Ok(page)
}
