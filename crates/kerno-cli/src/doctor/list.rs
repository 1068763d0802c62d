//! Every rule with its thresholds and its reasoning. `docs/rules.md` is made by this, and a test compares.

use std::fmt::Write as _;

use kerno::doctor::{self, Rule, ThresholdInfo};
use kerno::model::Unit;

use super::print;
use crate::args::ReportOutput;
use crate::config::Config;
use crate::output::Style;

#[derive(serde::Serialize)]
struct RuleEntry<'a> {
    id: &'static str,
    signal: &'static str,
    title: String,
    about: String,
    thresholds: Vec<ThresholdEntry<'a>>,
}

#[derive(serde::Serialize)]
struct ThresholdEntry<'a> {
    name: &'static str,
    /// In force.
    value: f64,
    default: f64,
    min: f64,
    max: f64,
    unit: Unit,
    about: String,
    /// Where the value was set; null for the default.
    set_by: Option<&'a str>,
}

pub(super) fn rules(config: &Config, output: ReportOutput) -> anyhow::Result<String> {
    let entries: Vec<_> = doctor::rules().map(|rule| RuleEntry::new(rule, config)).collect();
    Ok(match output {
        ReportOutput::Json => serde_json::to_string_pretty(&entries)? + "\n",
        ReportOutput::Markdown => markdown(&entries),
        ReportOutput::Text => text(&entries, Style::of_stdout()),
    })
}

impl<'a> RuleEntry<'a> {
    fn new(rule: &'static Rule, config: &'a Config) -> Self {
        let threshold = |info: &'static ThresholdInfo| {
            let (value, set_by) = config.threshold(rule, info);
            ThresholdEntry {
                name: info.name,
                value,
                default: info.default,
                min: info.min,
                max: info.max,
                unit: info.unit,
                about: one_line(info.about),
                set_by,
            }
        };
        Self {
            id: rule.id,
            signal: rule.signal,
            title: one_line(rule.title),
            about: one_line(rule.about),
            thresholds: rule.thresholds.iter().map(threshold).collect(),
        }
    }
}

/// Without the source's line breaks.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text(rules: &[RuleEntry<'_>], style: Style) -> String {
    let mut text = String::new();
    let width = print::width();
    let wrapped = |indent: &str, words: &str| {
        let options = textwrap::Options::new(width).initial_indent(indent).subsequent_indent(indent);
        textwrap::fill(words, options)
    };
    for rule in rules {
        let (bold, dim, cyan, reset) = (style.bold(), style.dim(), style.cyan(), style.reset());
        let _ = writeln!(text, "{bold}{}{reset} {dim}({}){reset}", rule.id, rule.signal);
        let _ = writeln!(text, "{}", wrapped("  ", &sentence(&rule.title)));
        let _ = writeln!(text, "{}", wrapped("  ", &rule.about));
        for threshold in &rule.thresholds {
            let set = threshold.set_by.map_or_else(String::new, |by| format!(", set by {by}"));
            let default = if threshold.set_by.is_some() {
                format!("default {}, ", number(threshold.default))
            } else {
                String::new()
            };
            let range = format!("{} to {}", number(threshold.min), number(threshold.max));
            let _ = writeln!(
                text,
                "    {cyan}{}{reset} = {} {dim}{}; {default}{range}{set}{reset}",
                threshold.name,
                number(threshold.value),
                unit(threshold.unit),
            );
            let _ = writeln!(text, "{}", wrapped("      ", &threshold.about));
        }
        text.push('\n');
    }
    text
}

fn markdown(rules: &[RuleEntry<'_>]) -> String {
    let mut text = String::from(
        "# Rules\n\nWhat `kerno doctor` looks for. Each threshold can be set in the [configuration](config.md): \
         `[rules.RULE]` with `THRESHOLD = VALUE` in the file, `KERNO_RULE__THRESHOLD=VALUE` in the environment, or \
         `--set RULE.THRESHOLD=VALUE`.\n\nMade by `kerno doctor --list-rules --output markdown`; do not edit.\n",
    );
    let any_set = rules.iter().flat_map(|rule| &rule.thresholds).any(|threshold| threshold.set_by.is_some());
    for rule in rules {
        let _ = write!(
            text,
            "\n## {}\n\n**{}** Signal: `{}`.\n\n{}\n",
            rule.id,
            cell(&sentence(&rule.title)),
            rule.signal,
            rule.about
        );
        if rule.thresholds.is_empty() {
            continue;
        }
        let (head, line) = if any_set { (" now |", "---|") } else { ("", "") };
        let _ = write!(text, "\n| threshold | default |{head} allowed | unit | |\n|---|---|{line}---|---|---|\n");
        for threshold in &rule.thresholds {
            let now = match threshold.set_by {
                Some(by) => format!(" {} ({}) |", number(threshold.value), cell(by)),
                None if any_set => " |".to_owned(),
                None => String::new(),
            };
            let _ = writeln!(
                text,
                "| `{}` | {} |{now} {} to {} | {} | {} |",
                threshold.name,
                number(threshold.default),
                number(threshold.min),
                number(threshold.max),
                unit(threshold.unit),
                cell(&threshold.about),
            );
        }
    }
    text
}

/// In a table, a bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn sentence(title: &str) -> String {
    let mut chars = title.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let end = if title.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{first}{}{end}", chars.as_str())
}

/// As it may be typed.
fn number(number: f64) -> String {
    if number.abs() >= 1e15 { format!("{number:e}") } else { number.to_string() }
}

const fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "count",
        Unit::PerSecond => "per second",
        Unit::Ratio => "share, 0 to 1",
        Unit::Times => "times",
        Unit::Seconds => "seconds",
        Unit::Milliseconds => "milliseconds",
        Unit::Microseconds => "microseconds",
        Unit::Bytes => "bytes",
        Unit::BytesPerSecond => "bytes per second",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<RuleEntry<'static>> {
        let threshold = |name, set_by| ThresholdEntry {
            name,
            value: 2e15,
            default: 0.25,
            min: 0.0,
            max: 1e300,
            unit: Unit::Ratio,
            about: "either | or".to_owned(),
            set_by,
        };
        vec![
            RuleEntry {
                id: "disk_full",
                signal: "disk_io",
                title: "a file system fills up".to_owned(),
                about: "Because it says so. ".repeat(8).trim().to_owned(),
                thresholds: vec![threshold("first", None), threshold("second", Some("/etc/kerno/config.toml:3"))],
            },
            RuleEntry { id: "x", signal: "y", title: "Z?".to_owned(), about: String::new(), thresholds: vec![] },
        ]
    }

    #[test]
    fn text_fits_and_tells_what_was_set() {
        let text = text(&entries(), Style::of_stdout());
        assert!(text.starts_with("disk_full (disk_io)\n  A file system fills up.\n  Because it says so."), "{text}");
        assert!(text.contains("    first = 2e15 share, 0 to 1; 0 to 1e300\n      either | or\n"), "{text}");
        assert!(text.contains("default 0.25, 0 to 1e300, set by /etc/kerno/config.toml:3\n"), "{text}");
        assert!(text.contains("\nx (y)\n  Z?\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 120), "{text}");
    }

    #[test]
    fn markdown_has_a_column_for_what_was_set_only_then() {
        let all = markdown(&entries());
        assert!(all.contains("| `first` | 0.25 | | 0 to 1e300 | share, 0 to 1 | either \\| or |"), "{all}");
        assert!(all.contains("| `second` | 0.25 | 2e15 (/etc/kerno/config.toml:3) | 0"), "{all}");
        let mut rules = entries();
        rules[0].thresholds.truncate(1);
        let defaults = markdown(&rules);
        assert!(defaults.contains("| `first` | 0.25 | 0 to 1e300 |"), "{defaults}");
        assert!(defaults.ends_with("## x\n\n**Z?** Signal: `y`.\n\n\n"), "{defaults:?}");
    }

    #[test]
    fn source_line_breaks_do_not_show() {
        assert_eq!(one_line("a\n   b\tc "), "a b c");
    }
}
