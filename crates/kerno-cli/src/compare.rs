//! `kerno compare`.

use std::fmt::Write as _;
use std::process::ExitCode;

use kerno::doctor::{Difference, compare};
use kerno::model::amount::{bytes, number, span};
use kerno::model::text::Escaped;

use crate::args::{CompareArgs, Output};
use crate::{output, past};

pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let past = past::open(&args.past)?;
    let [before, after] = [args.with, args.at].map(|at| past.window(past::about(at, args.length)));
    let differences = compare(&before?, &after?);
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&differences)? + "\n",
        Output::Text if differences.is_empty() => "no difference by more than half\n".to_owned(),
        Output::Text => table(&differences, args.top),
    };
    output::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn table(differences: &[Difference], top: usize) -> String {
    let rows: Vec<[String; 4]> = differences.iter().take(top).map(row).collect();
    let head = ["BEFORE", "AFTER", "CHANGE", "OF"].map(str::to_owned);
    let width = |column: usize| rows.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (before, after, change) = (width(0), width(1), width(2));
    let mut text = String::new();
    for row in [&head].into_iter().chain(&rows) {
        let _ = writeln!(text, "{:>before$}  {:>after$}  {:>change$}  {}", row[0], row[1], row[2], row[3]);
    }
    if differences.len() > top {
        let _ = writeln!(text, "and {} more: --top shows them", differences.len() - top);
    }
    text
}

fn row(difference: &Difference) -> [String; 4] {
    let labels: Vec<_> =
        difference.labels.iter().map(|(name, value)| format!("{name}={}", Escaped(value.as_bytes()))).collect();
    let what = if matches!(difference.what, "p50" | "p99") { format!(" {}", difference.what) } else { String::new() };
    let labels = if labels.is_empty() { String::new() } else { format!(" {{{}}}", labels.join(", ")) };
    let change = match difference.factor {
        factor if factor.is_infinite() => "new".to_owned(),
        0.0 => "gone".to_owned(),
        factor if factor > 1.0 => format!("{}x", number(factor)),
        factor => format!("1/{}", number(1.0 / factor)),
    };
    [
        value(difference, difference.before),
        value(difference, difference.after),
        change,
        format!("{}{what}{labels}", difference.metric),
    ]
}

fn value(difference: &Difference, value: f64) -> String {
    match difference.unit.as_str() {
        "seconds" => span(value),
        "seconds/s" => format!("{}/s", span(value)),
        "bytes" => bytes(value),
        "bytes/s" => format!("{}/s", bytes(value)),
        "ratio" => format!("{} %", number(value * 100.0)),
        unit if unit.ends_with("/s") => format!("{}/s", number(value)),
        _ => number(value),
    }
}
