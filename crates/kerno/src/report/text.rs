use std::fmt::Write as _;

use super::{Change, Report};
use crate::event::text::Escaped;

/// How text is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextStyle {
    /// Columns.
    pub width: usize,
    /// With ANSI colours.
    pub color: bool,
}

/// The report for a terminal or a pipe. What comes from the machine is escaped.
pub fn text(report: &Report, style: &TextStyle) -> String {
    let _ = style;
    let mut out = String::new();
    for finding in &report.findings {
        let _ = writeln!(out, "{} {}", finding.severity.name().to_uppercase(), Escaped(finding.title.as_bytes()));
    }
    out
}

/// What changed since the report before, for a terminal or a pipe.
pub fn changes_text(changes: &[Change], style: &TextStyle) -> String {
    let _ = style;
    let mut out = String::new();
    for change in changes {
        let _ = writeln!(out, "{} {}", change.course.name(), Escaped(change.finding.title.as_bytes()));
    }
    out
}
