use std::fmt::Write as _;

use super::Report;

/// The report as Markdown.
pub fn markdown(report: &Report) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let _ = writeln!(out, "- **{}** {}", finding.severity, finding.title);
    }
    out
}
