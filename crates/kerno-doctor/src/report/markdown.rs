//! The report for an incident channel or a ticket.

use std::fmt::Write as _;

use super::words::{
    clock, clock_ms, cost, date, first_evidence, looked_for, losses, machine, name, one_line, particulars, since,
    unseen, verbatim, verdict,
};
use super::{Diagnosis, Fix, Report};
use kerno_model::amount::{quantity, span};
use kerno_model::{Safety, Span, Unit};

/// Renders the report as Markdown (`CommonMark`, with tables as GitHub, GitLab and Mattermost support them). Text from the machine
/// is escaped, so that it cannot link, mention, embed or format anything.
pub fn markdown(report: &Report) -> String {
    let mut out = String::new();
    write_report(&mut out, report).map(|()| out).unwrap_or_default()
}

type Written = Result<(), std::fmt::Error>;

fn write_report(out: &mut String, report: &Report) -> Written {
    let window = &report.window;
    let (day, begin) = (date(window.started_unix), clock(window.started_unix));
    let length = super::watched(window);
    writeln!(out, "## {}: {}\n", plain(&report.host.hostname), plain(&verdict(report)))?;
    let [system, hardware] = machine(report);
    writeln!(out, "- **Span:** {day} {begin} UTC, {length}")?;
    writeln!(out, "- **Host:** {}; {}", plain(&system), plain(&hardware))?;
    writeln!(out, "- **Observed by:** kerno {}, {}", plain(&report.kerno_version), plain(&cost(report)))?;
    for loss in losses(report) {
        writeln!(out, "- **Lost:** {}", plain(&loss))?;
    }
    for missing in &report.missing {
        writeln!(out, "- **Not seen:** {}", plain(&unseen(missing)))?;
    }
    if report.healthy {
        writeln!(out, "\nLooked at:\n")?;
        for (signal, what) in looked_for(report) {
            let what = if what.is_empty() { String::new() } else { format!(": {}", plain(&what)) };
            writeln!(out, "- {}{what}", plain(&signal))?;
        }
    }
    for (index, finding) in report.findings.iter().enumerate() {
        let severity = finding.severity.name().to_uppercase();
        writeln!(out, "\n### {}. {severity}: {}\n", index + 1, plain(&finding.title))?;
        write_finding(out, finding, window)?;
    }
    Ok(())
}

fn write_finding(out: &mut String, finding: &Diagnosis, window: &Span) -> Written {
    let mut who: Vec<String> = name(&finding.culprit).map(|name| format!("**{}**", plain(&name))).into_iter().collect();
    who.extend(particulars(&finding.culprit).iter().map(|(label, value)| format!("{label} {}", code(value))));
    if !who.is_empty() {
        writeln!(out, "- **Who:** {}", who.join(", "))?;
    }
    writeln!(out, "- **Since:** {}", since(finding, window))?;
    if let Some(eta) = &finding.eta {
        let fit = quantity(eta.fit, Unit::Ratio);
        writeln!(out, "- **Soon:** {} in {} (trend fit {fit})", plain(&eta.what), span(eta.seconds))?;
    }
    for (label, words) in [("Why", &finding.cause), ("Impact", &finding.impact)] {
        if !words.is_empty() {
            writeln!(out, "- **{label}:** {}", plain(words))?;
        }
    }
    let sure = quantity(finding.confidence, Unit::Ratio);
    writeln!(out, "- **Rule:** {}, {sure} sure", code(&finding.id))?;
    if !finding.evidence.is_empty() {
        writeln!(out, "\n| Evidence | Measured | Threshold |\n|---|---:|---:|")?;
        for evidence in &finding.evidence {
            let threshold = evidence.threshold.map(|at| quantity(at, evidence.unit)).unwrap_or_default();
            writeln!(out, "| {} | {} | {threshold} |", plain(&evidence.what), quantity(evidence.value, evidence.unit))?;
        }
    }
    let exemplars = finding.exemplars.iter().map(|exemplar| (exemplar.seconds, &exemplar.what));
    write_times(out, "Examples", exemplars, window)?;
    write_times(out, "Timeline", finding.chain.iter().map(|step| (step.seconds, &step.what)), window)?;
    if !finding.victims.is_empty() {
        writeln!(out, "\n**Affected**\n")?;
        for victim in &finding.victims {
            writeln!(out, "- {}", plain(&one_line(victim)))?;
        }
    }
    if !finding.consequences.is_empty() {
        writeln!(out, "\n**Consequences**\n")?;
        for consequence in &finding.consequences {
            write_consequence(out, consequence, 0)?;
        }
    }
    let of = |effect: Safety| finding.fixes.iter().filter(move |fix| fix.effect == effect).collect::<Vec<_>>();
    write_fixes(out, "Look next (changes nothing)", &of(Safety::ReadOnly))?;
    write_fixes(out, "Then, with care (CHANGES the system)", &of(Safety::Changing))
}

fn write_times<'a>(
    out: &mut String,
    head: &str,
    moments: impl Iterator<Item = (f64, &'a String)>,
    window: &Span,
) -> Written {
    for (index, (seconds, what)) in moments.enumerate() {
        if index == 0 {
            writeln!(out, "\n**{head}**\n")?;
        }
        let when = if seconds > 0.0 { clock_ms(window.started_unix + seconds) } else { "before".to_owned() };
        writeln!(out, "- {when} {}", plain(what))?;
    }
    Ok(())
}

fn write_consequence(out: &mut String, finding: &Diagnosis, depth: usize) -> Written {
    let indent = "  ".repeat(depth);
    let evidence = first_evidence(finding).map(|evidence| format!(" ({})", plain(&evidence))).unwrap_or_default();
    writeln!(out, "{indent}- {}: {}{evidence}", finding.severity, plain(&finding.title))?;
    finding.consequences.iter().try_for_each(|consequence| write_consequence(out, consequence, depth + 1))
}

fn write_fixes(out: &mut String, head: &str, fixes: &[&Fix]) -> Written {
    if fixes.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n**{head}**\n")?;
    for fix in fixes {
        writeln!(out, "- {}: {}", code(&fix.command), plain(&fix.why))?;
    }
    Ok(())
}

/// Makes plain text: escapes control characters, and Markdown characters with a backslash.
fn plain(text: &str) -> String {
    const SPECIAL: &[char] = &['\\', '`', '*', '[', ']', '<', '>', '#', '|', '~', '&'];
    let shown = verbatim(text);
    let mut out = String::with_capacity(shown.len());
    let mut last = ' ';
    for (index, c) in shown.char_indices() {
        let rest = shown.get(index..).unwrap_or_default();
        let in_word = last.is_alphanumeric();
        // An underscore within a word has no meaning; bare addresses become links.
        let special = SPECIAL.contains(&c) || (c == '_' && !in_word);
        if special || rest.starts_with("://") || (c == '.' && out.ends_with("www")) {
            out.push('\\');
        }
        out.push(c);
        if c == '@' && !in_word {
            // Chats notify people by @name whatever precedes it.
            out.push('\u{200b}');
        }
        last = c;
    }
    out
}

/// Formats text as code, with a fence longer than any run of backticks in it.
fn code(text: &str) -> String {
    let text = verbatim(text);
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') || text.is_empty() { " " } else { "" };
    format!("{fence}{pad}{text}{pad}{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_format_or_link() {
        assert_eq!(plain("a*b_c"), "a\\*b_c");
        assert_eq!(plain("_x_"), "\\_x_");
        assert_eq!(plain("[a](http://x)"), "\\[a\\](http\\://x)");
        assert_eq!(plain("www.x.org"), "www\\.x.org");
        assert_eq!(plain("<!here> @all #1"), "\\<!here\\> @\u{200b}all \\#1");
        assert_eq!(plain("postgresql@15: 1.2 s"), "postgresql@15: 1.2 s");
        assert_eq!(plain("a|b"), "a\\|b");
        assert_eq!(plain("`rm`"), "\\`rm\\`");
        assert_eq!(plain("a\nb\x1b"), "a\\\\x0ab\\\\x1b");
    }

    #[test]
    fn code_ends_where_it_should() {
        assert_eq!(code("ls -l"), "`ls -l`");
        assert_eq!(code("a `b` c"), "``a `b` c``");
        assert_eq!(code("``"), "``` `` ```");
        assert_eq!(code("a\nb"), "`a\\x0ab`");
    }
}
