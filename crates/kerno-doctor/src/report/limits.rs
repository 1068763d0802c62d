//! Limits in words: a table for people, and one for tickets.

use std::fmt::Write as _;

use kerno_model::amount::{quantity, share, span};
use kerno_model::text::Escaped;
use kerno_model::{LimitHolder, LimitLine, LimitScope, LimitsReport};

/// The most holders of a line.
const MAX_HOLDERS: usize = 2;

fn escaped(text: &str) -> String {
    Escaped(text.as_bytes()).to_string()
}

fn head(report: &LimitsReport) -> String {
    let trend =
        if report.seconds > 0.0 { format!(", with growth over {}", span(report.seconds)) } else { String::new() };
    match report.pid {
        Some(pid) => format!(
            "Limits of {} ({pid}), in its namespaces and its cgroup, the fullest first{trend}",
            escaped(&report.comm)
        ),
        None => {
            format!("Limits of the machine, as this user, cgroup and namespaces have them, the fullest first{trend}")
        }
    }
}

/// `pids.max of cgroup /a`.
fn name(line: &LimitLine) -> String {
    let place = escaped(&line.limit.place);
    let of = match line.limit.scope {
        _ if place.is_empty() => String::new(),
        LimitScope::User => format!(" of user {place}"),
        LimitScope::Cgroup => format!(" of {place}"),
        LimitScope::Destination => format!(" towards {place}"),
        LimitScope::NetNamespace
        | LimitScope::PidNamespace
        | LimitScope::UserNamespace
        | LimitScope::IpcNamespace
        | LimitScope::MountNamespace => format!(" of namespace {place}"),
        _ => format!(" {place}"),
    };
    format!("{}{of}", line.name)
}

#[allow(clippy::cast_precision_loss, reason = "shown")]
fn amount(line: &LimitLine, value: u64) -> String {
    quantity(value as f64, line.limit.unit.unit())
}

fn holder(line: &LimitLine, holder: &LimitHolder) -> String {
    let who =
        if holder.pid == 0 { escaped(&holder.comm) } else { format!("{} ({})", escaped(&holder.comm), holder.pid) };
    let zombies = if holder.zombies > 0 { format!(", {} zombies", holder.zombies) } else { String::new() };
    format!("{who} {}{zombies}", amount(line, holder.amount))
}

/// Who has most, and when it will be full.
fn notes(line: &LimitLine) -> (String, String) {
    let itself = line.limit.scope == LimitScope::Process;
    let holders: Vec<_> =
        line.limit.holders.iter().take(MAX_HOLDERS).filter(|_| !itself).map(|known| holder(line, known)).collect();
    let left = match line.seconds_left {
        Some(seconds) => format!("full in {}", span(seconds)),
        None if line.limit.is_full() => "full".to_owned(),
        None => String::new(),
    };
    (holders.join(", "), left)
}

/// For people.
pub fn limits_text(report: &LimitsReport) -> String {
    let mut text = format!("{}\n\n", head(report));
    let mut rows = vec![["USED", "OF", "LEFT", "FULL", "LIMIT", "TIME LEFT", "WHO HAS MOST"].map(str::to_owned)];
    for line in &report.limits {
        let (holders, left) = notes(line);
        rows.push([
            amount(line, line.limit.used),
            amount(line, line.limit.limit),
            amount(line, line.headroom),
            share(line.limit.share()),
            name(line),
            left,
            holders,
        ]);
    }
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Numbers to the right.
            let _ = if column < 4 { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// For chats and tickets.
pub fn limits_markdown(report: &LimitsReport) -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let mut text = format!(
        "## {}\n\n| limit | used | of | left | full | time left | who has most |\n|---|---:|---:|---:|---:|---|---|\n",
        head(report)
    );
    for line in &report.limits {
        let (holders, left) = notes(line);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {left} | {} |",
            cell(&name(line)),
            amount(line, line.limit.used),
            amount(line, line.limit.limit),
            amount(line, line.headroom),
            share(line.limit.share()),
            cell(&holders)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerno_model::{LimitUse, Resource, fill};

    #[test]
    fn a_line_says_how_full_who_and_when() {
        let mut limit = LimitUse::new(Resource::Pids, LimitScope::Cgroup, 45, 60).at("/k");
        limit.holders =
            vec![LimitHolder { pid: 9, comm: "a|\u{1b}b".into(), amount: 40, zombies: 39, ..LimitHolder::default() }];
        let mut report = crate::limits::report(Some((9, "init")), vec![limit], None);
        report.seconds = 2.0;
        report.limits =
            report.limits.into_iter().map(|line| fill!(LimitLine { seconds_left: Some(90.0), ..line })).collect();
        let text = limits_text(&report);
        assert!(text.starts_with("Limits of init (9), in its namespaces"), "{text}");
        let line = text.lines().last().unwrap();
        assert!(
            line.contains("45  60    15  75 %  pids.max of /k  full in 1 min 30 s  a|\\x1bb (9) 40, 39 zombies"),
            "{line:?}"
        );
        let markdown = limits_markdown(&report);
        assert!(
            markdown.contains(
                "| pids.max of /k | 45 | 60 | 15 | 75 % | full in 1 min 30 s | a\\|\\x1bb (9) 40, 39 zombies |"
            ),
            "{markdown}"
        );
    }
}
