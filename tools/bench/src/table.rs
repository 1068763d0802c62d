//! What every section gives: rows. They are printed as one table, or as JSON.
//!
//! A row is one figure: what was done (`subject`), with what (`variant`), how much (`value` in `unit`), and, where there is
//! something to compare with, how many times as much as that (`ratio`) and what it should be (`target`). Rows of one subject stand
//! together. What could not be measured is a row too, with the reason.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// The middle half of what was measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) first_quartile: f64,
    pub(super) third_quartile: f64,
    /// How many rounds it is of.
    pub(super) rounds: usize,
}

impl Spread {
    /// Of at least one finite value; what is none is left out.
    pub(super) fn of(values: &[f64]) -> anyhow::Result<Self> {
        let mut sorted: Vec<_> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        ensure!(!sorted.is_empty(), "nothing was measured");
        let at = |quarter: usize| sorted.get((sorted.len() - 1) * quarter / 4).copied().unwrap_or_default();
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            at(2)
        } else {
            sorted.get(middle - 1..=middle).unwrap_or_default().iter().sum::<f64>() / 2.0
        };
        let third = sorted.get(((sorted.len() - 1) * 3).div_ceil(4)).copied().unwrap_or_default();
        Ok(Self { median, first_quartile: at(1), third_quartile: third, rounds: sorted.len() })
    }

    /// Of a figure that is counted, not timed.
    pub(super) const fn exactly(value: f64) -> Self {
        Self { median: value, first_quartile: value, third_quartile: value, rounds: 1 }
    }
}

/// How many times as much as another variant of the same subject, per round.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Ratio {
    /// That variant.
    pub(super) to: String,
    #[serde(flatten)]
    pub(super) times: Spread,
}

impl Ratio {
    /// Per round, so that what changes between rounds cancels out.
    pub(super) fn of(values: &[f64], to: &str, others: &[f64]) -> anyhow::Result<Self> {
        let times: Vec<_> = values.iter().zip(others).map(|(value, other)| value / other).collect();
        Ok(Self { to: to.to_owned(), times: Spread::of(&times)? })
    }
}

/// What is promised: of the ratio, or of the value where there is no ratio.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// By the kernel's run-time statistics.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Counted {
    pub(super) ns: f64,
    /// Of programs.
    pub(super) runs: f64,
}

/// One line of the table.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Row {
    /// What was done: one operation, one load.
    pub(super) subject: String,
    /// With what beside it.
    pub(super) variant: String,
    /// Of the value: "ns added", "million/s", "% of a core", "KiB".
    pub(super) unit: String,
    pub(super) value: Option<Spread>,
    pub(super) ratio: Option<Ratio>,
    pub(super) target: Option<Target>,
    /// Whether the median meets the target.
    pub(super) met: Option<bool>,
    /// What the kernel itself counts for one operation, where it does.
    pub(super) counted: Option<Counted>,
    /// What else there is to say in a few words; why there is no value.
    pub(super) note: Option<String>,
}

impl Row {
    pub(super) fn new(
        subject: impl Into<String>,
        variant: impl Into<String>,
        unit: &'static str,
        value: Spread,
    ) -> Self {
        Self {
            subject: subject.into(),
            variant: variant.into(),
            unit: unit.to_owned(),
            value: Some(value),
            ratio: None,
            target: None,
            met: None,
            counted: None,
            note: None,
        }
    }

    /// For what does not run here, with the reason.
    pub(super) fn unavailable(subject: impl Into<String>, variant: impl Into<String>, why: impl Into<String>) -> Self {
        Self { value: None, note: Some(why.into()), ..Self::new(subject, variant, "", Spread::exactly(0.0)) }
    }

    pub(super) fn ratio(mut self, ratio: Ratio) -> Self {
        self.ratio = Some(ratio);
        self
    }

    /// After the ratio, if there is one: it is what the target is for.
    pub(super) fn target(mut self, target: Target) -> Self {
        let judged = self.ratio.as_ref().map(|ratio| &ratio.times).or(self.value.as_ref()).map(|spread| spread.median);
        self.met = judged.map(|value| match target {
            Target::AtMost(most) => value <= most,
            Target::AtLeast(least) => value >= least,
        });
        self.target = Some(target);
        self
    }

    pub(super) const fn counted(mut self, counted: Counted) -> Self {
        self.counted = Some(counted);
        self
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

/// A section's rows.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Section {
    pub(super) name: String,
    /// How it is measured, in a sentence or two.
    pub(super) about: String,
    pub(super) rows: Vec<Row>,
}

/// Goes up when a reader of the JSON has to change.
pub(super) const FORMAT: u32 = 1;

/// All that was measured, and where.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Table {
    /// [`FORMAT`].
    pub(super) format: u32,
    pub(super) kernel: String,
    pub(super) cpu: String,
    pub(super) cpus: usize,
    /// How many tasks wanted a CPU before it began: others disturb what is measured.
    pub(super) load_before: Option<f64>,
    pub(super) rounds: usize,
    pub(super) seconds: f64,
    pub(super) sections: Vec<Section>,
}

const VARIANT_WIDTH: usize = 45;
const TEXT_WIDTH: usize = 120;

impl Table {
    /// Where it was measured, and how the figures are written.
    fn head(&self) -> String {
        let load = self.load_before.map(|load| format!(", load {load:.1} before")).unwrap_or_default();
        format!(
            "Linux {}, {} x {}{load}; {} rounds, {:.0} s. Median (first..third quartile).",
            self.kernel, self.cpus, self.cpu, self.rounds, self.seconds
        )
    }

    pub(super) fn text(&self) -> String {
        let mut text = self.head() + "\n";
        for section in &self.sections {
            let about = format!("{}: {}", section.name.to_uppercase(), section.about);
            let _ = writeln!(text, "\n{}", textwrap::fill(&about, TEXT_WIDTH));
            let mut subject = "";
            for row in &section.rows {
                if row.subject != subject {
                    subject = &row.subject;
                    let _ = writeln!(text, "\n  {subject}");
                }
                text.push_str(&line(row));
            }
        }
        text + &self.verdict()
    }

    /// How many targets are met, and which are not.
    fn verdict(&self) -> String {
        let rows = || self.sections.iter().flat_map(|section| &section.rows);
        let met = rows().filter(|row| row.met == Some(true)).count();
        let missed: Vec<_> = rows().filter(|row| row.met == Some(false)).collect();
        let mut text = format!("\nTARGETS: {met} met, {} NOT MET\n", missed.len());
        for row in missed {
            let Cells { value, ratio, target, .. } = Cells::of(row);
            let figure = if ratio.is_empty() { format!("{value} {}", row.unit) } else { ratio };
            let _ = writeln!(text, "    {}; {}: {figure}, {target}", row.subject, row.variant);
        }
        text
    }

    /// A page for the documentation.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!(
            "<!-- Written by cargo xtask bench --output markdown. -->\n# What was measured\n\n{}\n[overhead.md](overhead.md) says what \
             it means.\n",
            self.head()
        );
        for section in &self.sections {
            let _ = write!(text, "\n## {}\n\n{}\n", section.name, textwrap::fill(&section.about, TEXT_WIDTH));
            let mut subject = "";
            for row in &section.rows {
                if row.subject != subject {
                    subject = &row.subject;
                    let _ = write!(text, "\n| {} | | ratio | target | |\n|---|---|---|---|---|\n", cell(subject));
                }
                let Cells { value, ratio, target, rest } = Cells::of(row);
                let value = format!("{value} {}", row.unit);
                let cells = [&row.variant, value.trim(), &ratio, &target, &rest].map(cell);
                let _ = writeln!(text, "| {} |", cells.join(" | "));
            }
        }
        text
    }

    /// What `json` gave.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let table: Self = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        ensure!(table.format == FORMAT, "{} has format {}, not {FORMAT}", path.display(), table.format);
        Ok(table)
    }

    pub(super) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }
}

/// What a row says, column by column.
struct Cells {
    value: String,
    ratio: String,
    target: String,
    rest: String,
}

impl Cells {
    fn of(row: &Row) -> Self {
        // Of "kerno summary: file_audit" what is before the colon: a subject has one such.
        let short = |name: &str| name.split(':').next().unwrap_or(name).to_owned();
        let ratio = row.ratio.as_ref().map(|ratio| format!("{} x {}", spread(&ratio.times), short(&ratio.to)));
        let target = match (row.target, row.met) {
            (Some(target), Some(met)) => {
                let (sign, limit) = match target {
                    Target::AtMost(most) => ("<=", most),
                    Target::AtLeast(least) => (">=", least),
                };
                format!("{sign} {}: {}", number(limit), if met { "met" } else { "NOT MET" })
            }
            _ => String::new(),
        };
        let counted = row.counted.map(|counted| format!("{} ns in {:.1} runs", number(counted.ns), counted.runs));
        let rest = [counted, row.note.clone()].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let value = row.value.as_ref().map_or_else(|| "not measured".to_owned(), spread);
        Self { value, ratio: ratio.unwrap_or_default(), target, rest }
    }
}

fn line(row: &Row) -> String {
    let (variant, unit) = (&row.variant, &row.unit);
    let Cells { value, ratio, target, rest } = Cells::of(row);
    let text = if row.value.is_none() {
        format!("    {variant:<VARIANT_WIDTH$} {value}: {rest}")
    } else {
        format!("    {variant:<VARIANT_WIDTH$} {value:>24} {unit:<9} {ratio:<35} {target:<16} {rest}")
    };
    text.trim_end().to_owned() + "\n"
}

fn spread(of: &Spread) -> String {
    if of.rounds == 1 {
        return number(of.median);
    }
    format!("{} ({}..{})", number(of.median), number(of.first_quartile), number(of.third_quartile))
}

/// In a table, and not taken for markup.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('>', "&gt;").replace('_', "\\_")
}

/// About three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.2}M", value / 1e6),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_middle_half_of_what_is_finite() {
        let spread = Spread::of(&[5.0, 1.0, f64::NAN, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!((spread.first_quartile, spread.median, spread.third_quartile, spread.rounds), (2.0, 3.0, 4.0, 5));
        assert_eq!(Spread::of(&[1.0, 4.0]).unwrap().median, 2.5);
        assert!(Spread::of(&[]).is_err());
    }

    #[test]
    fn a_target_is_of_the_ratio_where_there_is_one() {
        let row = || Row::new("open", "summary", "ns added", Spread::exactly(300.0));
        let ratio = Ratio::of(&[300.0, 330.0, 270.0], "timestamps", &[200.0, 220.0, 180.0]).unwrap();
        assert_eq!(ratio.times.median, 1.5);
        assert_eq!(row().ratio(ratio.clone()).target(Target::AtMost(1.5)).met, Some(true));
        assert_eq!(row().ratio(ratio).target(Target::AtMost(1.4)).met, Some(false));
        assert_eq!(row().target(Target::AtLeast(301.0)).met, Some(false));
        assert_eq!(Row::unavailable("open", "peer", "no headers").target(Target::AtMost(1.0)).met, None);
    }

    #[test]
    fn text_and_json_say_why_there_is_no_figure() {
        let rows = vec![
            Row::new("open", "summary", "ns added", Spread::exactly(300.0)).target(Target::AtMost(200.0)),
            Row::unavailable("open", "peer", "no headers"),
        ];
        let sections = vec![Section { name: "events".to_owned(), about: "about".to_owned(), rows }];
        let (kernel, cpu) = ("6.18".to_owned(), "one".to_owned());
        let table =
            Table { format: 1, kernel, cpu, cpus: 2, load_before: Some(0.5), rounds: 3, seconds: 1.0, sections };
        let text = table.text();
        assert!(text.contains("peer") && text.contains("not measured: no headers"), "{text}");
        assert!(text.contains("<= 200: NOT MET"), "{text}");
        assert!(
            text.contains("TARGETS: 0 met, 1 NOT MET\n    open; summary: 300 ns added, <= 200: NOT MET\n"),
            "{text}"
        );
        let page = table.markdown();
        assert!(page.contains("| open | | ratio | target | |") && page.contains("&lt;= 200: NOT MET"), "{page}");
        let json: serde_json::Value = serde_json::from_str(&table.json().unwrap()).unwrap();
        assert_eq!(json["sections"][0]["rows"][1]["note"], "no headers");
        assert_eq!(json["sections"][0]["rows"][0]["target"]["at_most"], 200.0);
        assert!(json["sections"][0]["rows"][1]["value"].is_null());
        let again: Table = serde_json::from_value(json).unwrap();
        assert_eq!(again.text(), text);
    }
}
