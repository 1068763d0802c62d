//! The report for a terminal or a pipe.

use textwrap::core::display_width;
use textwrap::{Options, WordSeparator, WordSplitter};

use super::words::{
    clock, clock_ms, cost, date, first_evidence, looked_for, losses, machine, name, one_line, particulars, safe, since,
    unseen, verbatim, verdict,
};
use super::{Change, Culprit, Diagnosis, Evidence, Fix, IncidentReport, Report};
use kerno_model::amount::{quantity, span};
use kerno_model::{Course, Safety, Severity, Span, Unit};

/// How text is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextStyle {
    /// Width in columns.
    pub width: usize,
    /// Whether to use ANSI colours.
    pub color: bool,
}

/// The widths that are used; wider text is hard to read.
const WIDTHS: std::ops::RangeInclusive<usize> = 40..=120;

/// Styles of text, as ANSI sequences (SGR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paint {
    Plain,
    Bold,
    Dim,
    Critical,
    Warning,
    Info,
    Good,
}

impl Paint {
    const fn sequence(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "\x1b[1m",
            Self::Dim => "\x1b[2m",
            Self::Critical => "\x1b[1;31m",
            Self::Warning => "\x1b[1;33m",
            Self::Info => "\x1b[1;36m",
            Self::Good => "\x1b[1;32m",
        }
    }

    const fn of(severity: Severity) -> Self {
        match severity {
            Severity::Critical => Self::Critical,
            Severity::Warning => Self::Warning,
            Severity::Info => Self::Info,
        }
    }
}

/// Renders the report for a terminal or a pipe. Text from the machine is escaped.
pub fn text(report: &Report, style: &TextStyle) -> String {
    let mut page = Page::new(style);
    header(&mut page, report);
    page.blank();
    let paint = report.worst().map_or(Paint::Good, |worst| if report.healthy { Paint::Good } else { Paint::of(worst) });
    page.set(0, 0, &verdict(report), paint);
    if report.healthy {
        healthy(&mut page, report);
    }
    // A single one follows in the next line anyway.
    if report.findings.len() > 1 {
        for (index, finding) in report.findings.iter().enumerate() {
            page.labelled(2, &(index + 1).to_string(), 3, &safe(&finding.title), Paint::of(finding.severity));
        }
    }
    for finding in &report.findings {
        page.blank();
        set_finding(&mut page, finding, &report.window);
    }
    page.out
}

/// Renders one finding of a report, as [`text`] shows it.
pub fn finding_text(finding: &Diagnosis, report: &Report, style: &TextStyle) -> String {
    let mut page = Page::new(style);
    set_finding(&mut page, finding, &report.window);
    page.out
}

/// Renders changes for a terminal or a pipe, one per line; new and worse ones first.
pub fn changes_text(changes: &[Change], style: &TextStyle) -> String {
    let mut page = Page::new(style);
    let mut sorted: Vec<&Change> = changes.iter().collect();
    sorted.sort_by_key(|change| change.course);
    for change in sorted {
        let (word, paint) = match change.course {
            Course::Opened => ("NEW", Paint::of(change.finding.severity)),
            Course::Reopened => ("AGAIN", Paint::of(change.finding.severity)),
            Course::Worse => ("WORSE", Paint::of(change.finding.severity)),
            Course::Better => ("BETTER", Paint::Good),
            _ => ("RESOLVED", Paint::Good),
        };
        let told = change.before.filter(|_| matches!(change.course, Course::Worse | Course::Better));
        let was = told.map(|before| {
            let past = |excess| quantity(excess, Unit::Times);
            format!(
                " [was {}, {} its threshold; now {}]",
                before.severity,
                past(before.excess),
                past(change.finding.excess)
            )
        });
        let line = format!("{}: {}{}", change.finding.severity, safe(&change.finding.title), was.unwrap_or_default());
        page.labelled(0, word, 10, &line, paint);
    }
    page.out
}

/// Renders incidents for a terminal or a pipe, a few lines each, in their order.
pub fn incidents_text(incidents: &[IncidentReport], style: &TextStyle) -> String {
    let mut page = Page::new(style);
    for incident in incidents {
        let paint = if incident.closed.is_none() { Paint::of(incident.severity) } else { Paint::Dim };
        let state = if incident.closed.is_none() { "OPEN" } else { "CLOSED" };
        page.labelled(0, state, 10, &format!("{}: {}", incident.severity, safe(&incident.title)), paint);
        page.set(10, 10, &safe(&format!("{}, {}", life(incident), incident.id)), Paint::Dim);
    }
    page.out
}

/// Renders one incident for a terminal or a pipe: its life, and its finding at its worst.
pub fn incident_text(incident: &IncidentReport, style: &TextStyle) -> String {
    const LABELS: usize = 10;
    let mut page = Page::new(style);
    page.labelled(0, "Incident", LABELS, &safe(incident.id.as_str()), Paint::Bold);
    page.labelled(0, "State", LABELS, &life(incident), Paint::Plain);
    if incident.first.title != incident.title {
        page.labelled(0, "At first", LABELS, &safe(&incident.first.title), Paint::Plain);
    }
    if incident.last.title != incident.title {
        page.labelled(0, "At last", LABELS, &safe(&incident.last.title), Paint::Plain);
    }
    page.out.push('\n');
    set_finding(&mut page, &incident.finding, &incident.span());
    if !incident.changes.is_empty() {
        page.set(2, 2, "What changed before", Paint::Bold);
        for change in &incident.changes {
            let at = change.at.get(11..19).unwrap_or(&change.at);
            page.labelled(4, at, 10, &safe(&change.what), Paint::Plain);
        }
    }
    page.out
}

/// Its life: `open since 2026-11-29 03:02:10 UTC, lasted 4 min`.
fn life(incident: &IncidentReport) -> String {
    let time = |text: &str| text.replace('T', " ").replace('Z', " UTC");
    let state = if incident.closed.is_none() { "open since" } else { "closed, began" };
    let again = match incident.reopened {
        0 => String::new(),
        1 => ", came back once".to_owned(),
        times => format!(", came back {times} times"),
    };
    format!("{state} {}, lasted {}{again}", time(&incident.opened), incident.lasted())
}

fn header(page: &mut Page, report: &Report) {
    let window = &report.window;
    let title = format!(
        "kerno {} on {}, {} {} UTC, watched {}",
        safe(&report.kerno_version),
        safe(&report.host.hostname),
        date(window.started_unix),
        clock(window.started_unix),
        super::watched(window),
    );
    page.set(0, 2, &title, Paint::Bold);
    let [system, hardware] = machine(report);
    page.labelled(2, "Host", 10, &safe(&system), Paint::Plain);
    page.labelled(2, "", 10, &safe(&hardware), Paint::Plain);
    page.labelled(2, "Own cost", 10, &cost(report), Paint::Plain);
    for loss in losses(report) {
        page.labelled(2, "Lost", 10, &safe(&loss), Paint::Warning);
    }
    for missing in &report.missing {
        page.labelled(2, "Not seen", 10, &safe(&unseen(missing)), Paint::Warning);
    }
}

fn healthy(page: &mut Page, report: &Report) {
    page.set(2, 2, "Looked at:", Paint::Plain);
    for (signal, what) in looked_for(report) {
        page.labelled(4, &safe(&signal), 17, &safe(&what), Paint::Plain);
    }
    if !report.missing.is_empty() {
        page.set(2, 2, "Problems in what was not seen (above) are possible.", Paint::Warning);
    }
}

fn set_finding(page: &mut Page, finding: &Diagnosis, window: &Span) {
    const LABELS: usize = 9;
    page.labelled(0, &finding.severity.name().to_uppercase(), 10, &safe(&finding.title), Paint::of(finding.severity));
    let sure = quantity(finding.confidence, Unit::Ratio);
    page.set(10, 10, &safe(&format!("{}, {sure} sure", finding.id)), Paint::Dim);
    culprit(page, &finding.culprit);
    page.labelled(2, "Since", LABELS, &since(finding, window), Paint::Plain);
    if let Some(eta) = &finding.eta {
        #[allow(clippy::cast_precision_loss, reason = "a time of day")]
        let at = eta.at_unix_ns.map(|at| at as f64 / 1e9);
        let at = clock(at.unwrap_or(window.started_unix + window.covered_seconds() + eta.seconds));
        let fit = quantity(eta.fit, Unit::Ratio);
        let line = format!("{} in {}, at {at} UTC (trend fit {fit})", safe(&eta.what), span(eta.seconds));
        page.labelled(2, "Soon", LABELS, &line, Paint::Bold);
    }
    for (label, what) in [("Why", &finding.cause), ("Impact", &finding.impact)] {
        if !what.is_empty() {
            page.labelled(2, label, LABELS, &safe(what), Paint::Plain);
        }
    }
    evidence(page, &finding.evidence);
    if !finding.exemplars.is_empty() {
        page.set(2, 2, "Examples", Paint::Bold);
        for exemplar in &finding.exemplars {
            page.labelled(
                4,
                &clock_ms(window.started_unix + exemplar.seconds),
                14,
                &safe(&exemplar.what),
                Paint::Plain,
            );
        }
    }
    if !finding.chain.is_empty() {
        page.set(2, 2, "Timeline", Paint::Bold);
        for step in &finding.chain {
            let when = clock_ms(window.started_unix + step.seconds);
            let when = if step.seconds > 0.0 { when.as_str() } else { "before" };
            // The title is already shown above.
            let what = if step.what == finding.title { "this began" } else { step.what.as_str() };
            page.labelled(4, when, 14, &safe(what), Paint::Plain);
        }
    }
    if !finding.victims.is_empty() {
        page.set(2, 2, "Affected", Paint::Bold);
        for victim in &finding.victims {
            page.set(4, 6, &safe(&one_line(victim)), Paint::Plain);
        }
    }
    if !finding.consequences.is_empty() {
        page.set(2, 2, "Consequences", Paint::Bold);
        for consequence in &finding.consequences {
            follows(page, consequence, 4);
        }
    }
    fixes(page, &finding.fixes);
}

fn culprit(page: &mut Page, culprit: &Culprit) {
    const LABELS: usize = 9;
    let named = name(culprit);
    let particulars = particulars(culprit);
    let Some(first) = named.map(|name| safe(&name)).or_else(|| particulars.is_empty().then(|| "unknown".to_owned()))
    else {
        // Only a place is known: one line is enough.
        for (index, (label, value)) in particulars.iter().enumerate() {
            page.labelled(
                2,
                if index == 0 { "Where" } else { "" },
                LABELS,
                &format!("{label} {}", verbatim(value)),
                Paint::Plain,
            );
        }
        return;
    };
    page.labelled(2, "Who", LABELS, &first, Paint::Bold);
    for (label, value) in particulars {
        page.labelled(2 + LABELS, label, 10, &cut(&verbatim(&value)), Paint::Plain);
    }
}

/// Cuts text that is too long to read. JSON has all of it.
fn cut(text: &str) -> String {
    const READABLE: usize = 200;
    match text.char_indices().nth(READABLE) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default().trim_end_matches('…')),
        None => text.to_owned(),
    }
}

/// Shows a finding under another one: its title and first measurement, then the findings under it.
fn follows(page: &mut Page, finding: &Diagnosis, indent: usize) {
    page.labelled(indent, finding.severity.name(), 9, &safe(&finding.title), Paint::of(finding.severity));
    if let Some(evidence) = first_evidence(finding) {
        page.set(indent + 9, indent + 11, &safe(&evidence), Paint::Dim);
    }
    for consequence in &finding.consequences {
        follows(page, consequence, indent + 2);
    }
}

/// Shows the measurements as a table.
fn evidence(page: &mut Page, all: &[Evidence]) {
    if all.is_empty() {
        return;
    }
    let value = |evidence: &Evidence| quantity(evidence.value, evidence.unit);
    let threshold = |evidence: &Evidence| evidence.threshold.map(|at| quantity(at, evidence.unit)).unwrap_or_default();
    let widest = |column: &dyn Fn(&Evidence) -> String, head: &str| {
        all.iter().map(|evidence| display_width(&column(evidence))).max().unwrap_or(0).max(head.len())
    };
    let with_threshold = all.iter().any(|evidence| evidence.threshold.is_some());
    let (value_width, threshold_width) = (widest(&value, "measured"), widest(&threshold, "threshold"));
    let figures = 2 + value_width + if with_threshold { 2 + threshold_width } else { 0 };
    let what_width = page.width.saturating_sub(4 + figures).max(16);
    // No wider than needed, so that the eye can follow the line.
    let widest_what = all.iter().map(|evidence| display_width(&safe(&evidence.what))).max().unwrap_or(0);
    let what_width = what_width.min(widest_what.max(20));
    let figures = |value: &str, threshold: &str| {
        let threshold = if with_threshold { format!("  {threshold:>threshold_width$}") } else { String::new() };
        format!("  {value:>value_width$}{threshold}").trim_end().to_owned()
    };
    let head = format!("{:<1$}{2}", "Evidence", what_width + 2, figures("measured", "threshold"));
    page.line(2, &head, Paint::Bold);
    for item in all {
        let words = safe(&item.what);
        let lines = wrap(&words, Options::new(what_width));
        for (index, line) in lines.iter().enumerate() {
            // The figures go next to the last line, where reading ends.
            if index + 1 == lines.len() {
                let pad = " ".repeat(what_width.saturating_sub(display_width(line)));
                page.line(4, &format!("{line}{pad}{}", figures(&value(item), &threshold(item))), Paint::Plain);
            } else {
                page.line(4, line, Paint::Plain);
            }
        }
    }
}

/// Shows the commands to run next, those that change nothing first.
fn fixes(page: &mut Page, all: &[Fix]) {
    let of = |effect: Safety| all.iter().filter(move |fix| fix.effect == effect);
    if of(Safety::ReadOnly).next().is_some() {
        page.set(2, 2, "Look next (changes nothing)", Paint::Bold);
        for fix in of(Safety::ReadOnly) {
            // Never wrapped, so that it can be copied.
            page.line(4, &format!("$ {}", verbatim(&fix.command)), Paint::Plain);
            page.set(6, 6, &safe(&fix.why), Paint::Dim);
        }
    }
    if of(Safety::Changing).next().is_some() {
        page.set(2, 2, "Then, with care (CHANGES the system)", Paint::Warning);
        for fix in of(Safety::Changing) {
            page.line(4, &format!("! {}", verbatim(&fix.command)), Paint::Warning);
            page.set(6, 6, &safe(&fix.why), Paint::Dim);
        }
    }
}

/// Wraps text only at spaces, so that paths and ids can be copied, and never between a number and its unit.
fn wrap(text: &str, options: Options<'_>) -> Vec<String> {
    const UNITS: &[&str] =
        &["%", "ns", "us", "ms", "s", "min", "h", "d", "B", "KiB", "MiB", "GiB", "TiB", "KiB/s", "MiB/s", "GiB/s"];
    /// A space where the line must not break; becomes a plain space afterwards.
    const TIE: char = '\u{a0}';
    let mut tied = String::with_capacity(text.len());
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            let unit = word.trim_end_matches([',', ';', '.', ':', ')', ']']);
            let number = tied.ends_with(|c: char| c.is_ascii_digit());
            tied.push(if number && UNITS.contains(&unit) { TIE } else { ' ' });
        }
        tied.push_str(word);
    }
    let options = options.word_separator(WordSeparator::AsciiSpace).word_splitter(WordSplitter::NoHyphenation);
    textwrap::wrap(&tied, options).into_iter().map(|line| line.replace(TIE, " ")).collect()
}

/// Collects lines of bounded width.
struct Page {
    out: String,
    width: usize,
    color: bool,
}

impl Page {
    fn new(style: &TextStyle) -> Self {
        Self { out: String::new(), width: style.width.clamp(*WIDTHS.start(), *WIDTHS.end()), color: style.color }
    }

    fn blank(&mut self) {
        self.out.push('\n');
    }

    /// Adds a line as it is, whatever its width.
    fn line(&mut self, indent: usize, line: &str, paint: Paint) {
        self.out.extend(std::iter::repeat_n(' ', indent));
        self.paint(line, paint);
        self.out.push('\n');
    }

    /// Adds a paragraph, with one indent for the first line and another one for the rest.
    fn set(&mut self, first: usize, others: usize, text: &str, paint: Paint) {
        if text.is_empty() {
            return;
        }
        let (first, others) = (" ".repeat(first), " ".repeat(others));
        let options = Options::new(self.width).initial_indent(&first).subsequent_indent(&others);
        for line in wrap(text, options) {
            let words = line.trim_start();
            self.line(line.len() - words.len(), words, paint);
        }
    }

    /// Adds a paragraph next to a label, in a column of its own. Colours for severities apply to the label, other paints to the text.
    fn labelled(&mut self, indent: usize, label: &str, column: usize, text: &str, paint: Paint) {
        let column = column.max(display_width(label) + 1);
        let start = indent + column;
        let width = self.width.saturating_sub(start).max(16);
        let lines = wrap(text, Options::new(width));
        let pad = " ".repeat(column.saturating_sub(display_width(label)));
        let both = matches!(paint, Paint::Critical | Paint::Warning | Paint::Info | Paint::Good | Paint::Dim);
        self.out.extend(std::iter::repeat_n(' ', indent));
        self.paint(label, if both { paint } else { Paint::Dim });
        let text_paint = if both { Paint::Bold } else { paint };
        let text_paint = if paint == Paint::Dim { Paint::Dim } else { text_paint };
        for (index, line) in lines.iter().enumerate() {
            if !line.is_empty() {
                self.out.push_str(&if index == 0 { pad.clone() } else { " ".repeat(start) });
            }
            self.paint(line, text_paint);
            self.out.push('\n');
        }
        if lines.is_empty() {
            self.out.push('\n');
        }
    }

    fn paint(&mut self, text: &str, paint: Paint) {
        if self.color && paint != Paint::Plain && !text.is_empty() {
            self.out.push_str(paint.sequence());
            self.out.push_str(text);
            self.out.push_str("\x1b[0m");
        } else {
            self.out.push_str(text);
        }
    }
}
