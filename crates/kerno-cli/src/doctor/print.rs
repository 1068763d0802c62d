use kerno::doctor::incidents::{self, Incidents};
use kerno::model::{Finding, Window};
use kerno::report::{self, Change, Report, TextStyle};

use crate::args::ReportOutput;
use crate::output::{self, Style, WIDTHS, width};

/// Prints reports, and from the second on what changed.
pub(super) struct Printer {
    output: ReportOutput,
    continuous: bool,
    printed: u64,
    incidents: Incidents,
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
        Self { output, continuous, printed: 0, incidents: Incidents::default() }
    }

    /// Reports printed so far.
    pub(super) fn printed(&self) -> u64 {
        self.printed
    }

    /// Prints what was found in a window, and gives the report.
    pub(super) fn print(&mut self, window: &Window, findings: &[Finding]) -> anyhow::Result<Report> {
        let report = Report::new(window, findings);
        let first = self.printed == 0;
        let changes = self.continuous.then(|| self.changes(window, findings)).filter(|_| !first);
        let text = match self.output {
            ReportOutput::Json if self.continuous => {
                serde_json::to_string(&Round { report: &report, changes: changes.as_deref() })? + "\n"
            }
            ReportOutput::Json => serde_json::to_string_pretty(&report)? + "\n",
            ReportOutput::Markdown => self.separated(markdown_changes(changes.as_deref()) + &report::markdown(&report)),
            ReportOutput::Text => {
                let style = TextStyle { width: width(), color: Style::of_stdout().has_colour() };
                self.separated(text_changes(changes.as_deref(), &style) + &report::text(&report, &style))
            }
        };
        output::print(text.as_bytes())?;
        self.printed += 1;
        Ok(report)
    }

    /// What this window changes about the incidents that it is compared with.
    fn changes(&mut self, window: &Window, findings: &[Finding]) -> Vec<Change> {
        let before = std::mem::take(&mut self.incidents);
        let (incidents, transitions) = incidents::step(before, window, findings);
        self.incidents = incidents;
        transitions.iter().map(|transition| Change::of(transition, window)).collect()
    }

    /// With an empty line before all but the first.
    fn separated(&self, text: String) -> String {
        if self.printed == 0 { text } else { format!("\n{text}") }
    }
}

fn text_changes(changes: Option<&[Change]>, style: &TextStyle) -> String {
    match changes {
        None => String::new(),
        Some([]) => "no change\n\n".to_owned(),
        Some(changes) => report::changes_text(changes, style) + "\n",
    }
}

fn markdown_changes(changes: Option<&[Change]>) -> String {
    match changes {
        None => String::new(),
        Some([]) => "No change.\n\n".to_owned(),
        // Indented: shown as it is, whatever titles hold.
        Some(changes) => {
            let text = report::changes_text(changes, &TextStyle { width: *WIDTHS.end(), color: false });
            text.lines().map(|line| format!("    {line}\n")).collect::<String>() + "\n"
        }
    }
}
