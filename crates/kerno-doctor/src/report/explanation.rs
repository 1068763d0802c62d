//! What a message of the kernel means, for people.

use std::fmt::Write as _;

use kerno_model::text::Escaped;

use super::TextStyle;
use crate::kernel_log::{Advice, Explanation};

/// As text for a terminal, with wrapped lines; commands are never wrapped. Untrusted bytes are escaped.
pub fn explanation_text(found: &Explanation, style: &TextStyle) -> String {
    let (bold, dim, end) = if style.color { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let wrapped = |text: &str, first: &str, rest: &str| {
        let options = textwrap::Options::new(style.width.max(20)).initial_indent(first).subsequent_indent(rest);
        textwrap::fill(text, options)
    };
    let mut text = format!("{dim}{}{end}\n", Escaped(found.message.as_bytes()));
    let _ = writeln!(text, "{bold}{}{end}", wrapped(&format!("{}: {}", found.id, found.title), "", "  "));
    let _ = writeln!(text, "\n{}", wrapped(found.meaning, "  ", "  "));
    let _ = writeln!(text, "\n{}", wrapped(&format!("Why: {}", found.why), "  ", "       "));
    text.push('\n');
    for step in &found.steps {
        match step {
            Advice::Look { command, why } => {
                let _ = writeln!(text, "  look    {bold}{command}{end}\n{}", wrapped(why, "          ", "          "));
            }
            Advice::Change { command, why } => {
                let _ = writeln!(text, "  change  {bold}{command}{end}\n{}", wrapped(why, "          ", "          "));
            }
            Advice::Do { text: advice } => {
                let _ = writeln!(text, "{}", wrapped(advice, "  do      ", "          "));
            }
        }
    }
    if !found.rules.is_empty() {
        let _ =
            writeln!(text, "\n{}", wrapped(&format!("Rules about the same: {}.", found.rules.join(", ")), "  ", "  "));
    }
    let _ = writeln!(text, "{}", wrapped(&origin(found), "  ", "  "));
    text
}

/// As Markdown, for chats and tickets. Untrusted bytes are escaped, and stand in code.
pub fn explanation_markdown(found: &Explanation) -> String {
    let mut text = format!("### {}: {}\n\n    {}\n", found.id, found.title, Escaped(found.message.as_bytes()));
    let _ = write!(text, "\n{}\n\nWhy: {}\n\n", found.meaning, found.why);
    for step in &found.steps {
        let _ = match step {
            Advice::Look { command, why } => writeln!(text, "- look: {} {why}", code(command)),
            Advice::Change { command, why } => writeln!(text, "- change: {} {why}", code(command)),
            Advice::Do { text: advice } => writeln!(text, "- {advice}"),
        };
    }
    text.push('\n');
    if !found.rules.is_empty() {
        let rules: Vec<_> = found.rules.iter().map(|rule| format!("`{rule}`")).collect();
        let _ = writeln!(text, "Rules about the same: {}.", rules.join(", "));
    }
    let _ = writeln!(text, "{}", origin(found));
    text
}

fn origin(found: &Explanation) -> String {
    match found.since {
        Some(since) => format!("Written by {}, since Linux {since}.", found.source),
        None => format!("Written by {}.", found.source),
    }
}

/// A command as code, whatever backquotes it has.
fn code(command: &str) -> String {
    if command.contains('`') { format!("`` {command} ``") } else { format!("`{command}`") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_log::{entries, explain};

    #[test]
    fn untrusted_bytes_are_escaped_and_lines_are_not_too_long() {
        for entry in entries() {
            for example in entry.examples {
                let found = explain(example).unwrap();
                let text = explanation_text(&found, &TextStyle { width: 80, color: false });
                for line in
                    text.lines().skip(1).filter(|line| !line.starts_with("  look ") && !line.starts_with("  change "))
                {
                    assert!(textwrap::core::display_width(line) <= 80, "{line}");
                }
                assert!(text.contains(entry.meaning.split(' ').next().unwrap()));
            }
        }
        let found = explain("I/O error, dev \u{1b}[31m`x`, sector 7 op 0x0:(READ)").unwrap();
        for text in [explanation_text(&found, &TextStyle { width: 80, color: false }), explanation_markdown(&found)] {
            assert!(!text.contains('\u{1b}') && text.contains("\\x1b[31m"), "{text}");
        }
    }
}
