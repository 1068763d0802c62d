use kerno::report::{self, Change, Course, Report, TextStyle};

use crate::args::ReportOutput;
use crate::output::{self, Style};

/// Columns where no terminal says how many.
const WIDTH: usize = 80;

/// Columns of text that still reads well.
const WIDTHS: std::ops::RangeInclusive<usize> = 40..=120;

/// Prints reports, and from the second on what changed.
pub(super) struct Printer {
    output: ReportOutput,
    continuous: bool,
    printed: u64,
    before: Option<Report>,
}

/// A report among others.
#[derive(serde::Serialize)]
struct Round<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// Null in the first.
    changes: Option<&'a [Change]>,
}

impl Printer {
    pub(super) fn new(output: ReportOutput, continuous: bool) -> Self {
        Self { output, continuous, printed: 0, before: None }
    }

    /// Reports printed so far.
    pub(super) fn printed(&self) -> u64 {
        self.printed
    }

    pub(super) fn print(&mut self, report: &Report) -> anyhow::Result<()> {
        let changes = self.before.as_ref().map(|before| report::compare(before, report));
        let text = match self.output {
            ReportOutput::Json if self.continuous => {
                serde_json::to_string(&Round { report, changes: changes.as_deref() })? + "\n"
            }
            ReportOutput::Json => serde_json::to_string_pretty(report)? + "\n",
            ReportOutput::Markdown => self.separated(markdown_changes(changes.as_deref()) + &report::markdown(report)),
            ReportOutput::Text => {
                let style = TextStyle { width: width(), color: Style::of_stdout().has_colour() };
                self.separated(text_changes(changes.as_deref(), &style) + &report::text(report, &style))
            }
        };
        output::print(text.as_bytes())?;
        self.printed += 1;
        if self.continuous {
            self.before = Some(report.clone());
        }
        Ok(())
    }

    /// With an empty line before all but the first.
    fn separated(&self, text: String) -> String {
        if self.printed == 0 { text } else { format!("\n{text}") }
    }
}

/// What is the same as before is in the report.
fn noteworthy(changes: &[Change]) -> Vec<Change> {
    changes.iter().filter(|change| change.course != Course::Unchanged).cloned().collect()
}

fn text_changes(changes: Option<&[Change]>, style: &TextStyle) -> String {
    match changes.map(noteworthy) {
        None => String::new(),
        Some(changes) if changes.is_empty() => "no change\n\n".to_owned(),
        Some(changes) => report::changes_text(&changes, style) + "\n",
    }
}

fn markdown_changes(changes: Option<&[Change]>) -> String {
    match changes.map(noteworthy) {
        None => String::new(),
        Some(changes) if changes.is_empty() => "No change.\n\n".to_owned(),
        // Indented: shown as it is, whatever titles hold.
        Some(changes) => {
            let text = report::changes_text(&changes, &TextStyle { width: *WIDTHS.end(), color: false });
            text.lines().map(|line| format!("    {line}\n")).collect::<String>() + "\n"
        }
    }
}

pub(super) fn width() -> usize {
    let terminal = terminal_size::terminal_size_of(std::io::stdout());
    terminal.map_or(WIDTH, |(width, _)| usize::from(width.0).clamp(*WIDTHS.start(), *WIDTHS.end()))
}
