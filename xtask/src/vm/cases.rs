//! Runs that need a machine of their own making: each boots a kernel with what the case says, and runs the tests of its name in there
//! (`crates/kerno-cli/tests/vm`).

use std::collections::BTreeMap;

use anyhow::ensure;

use super::boot::Outcome;
use super::build::build_static;
use super::case::Case;
use super::conditions::CONDITIONS;
use super::hard::HARD;
use super::image::Image;
use super::{Vm, home, in_parallel};

pub(super) fn list() {
    for (option, cases) in [("--conditions", CONDITIONS), ("--hard", HARD)] {
        println!("\n{option}");
        for case in cases {
            println!("  {:<28} {}", case.tests, case.lines.join(" "));
        }
    }
}

/// The cases that were asked for.
fn chosen(args: &Vm) -> impl Iterator<Item = &'static Case> {
    let kinds = [(args.conditions, CONDITIONS), (args.hard, HARD)];
    let wanted =
        |case: &&Case| args.test_args.is_empty() || args.test_args.iter().any(|part| case.tests.contains(part));
    kinds.into_iter().filter(|(asked, _)| *asked).flat_map(|(_, cases)| cases).filter(wanted)
}

/// Whether it is cases that are to be run.
pub(super) const fn asked(args: &Vm) -> bool {
    args.conditions || args.hard
}

/// Whether one of them runs on this kernel line.
pub(super) fn need(args: &Vm, line: &str) -> bool {
    chosen(args).any(|case| case.runs_on(line, args))
}

/// Runs the cases that were asked for.
pub(super) fn run(args: &Vm, images: &BTreeMap<&'static str, Image>) -> anyhow::Result<()> {
    let cases: Vec<_> = chosen(args).collect();
    ensure!(!cases.is_empty(), "no case has {} in its name; --list has them all", args.test_args.join(" or "));
    let programs = build_static(&["test", "--package", "kerno-cli", "--features", "vm", "--test", "vm", "--no-run"])?;
    std::fs::create_dir_all(home().join("logs"))?;
    let runs =
        |case: &'static Case| images.iter().filter(|(line, _)| case.runs_on(line, args)).map(move |at| (case, at));
    let outcomes = in_parallel(args.jobs, cases.into_iter().flat_map(runs).collect(), |(case, (line, image))| {
        let outcome = case.run(args, line, image, &programs);
        println!("{:<28} {line:<8} {} in {:.0} s", case.tests, outcome.summary(), outcome.seconds);
        (case.tests, *line, outcome)
    });
    print(&outcomes);
    let failed: Vec<_> = outcomes.iter().filter(|(_, _, outcome)| !outcome.passed()).collect();
    let names: Vec<_> = failed.iter().map(|(tests, line, _)| format!("{tests} on {line}")).collect();
    ensure!(failed.is_empty(), "failed: {}", names.join(", "));
    Ok(())
}

fn print(outcomes: &[(&str, &str, Outcome)]) {
    println!("\n{:<28} {:<8} {:>7} {:>7} {:>8}  result", "case", "kernel", "passed", "failed", "seconds");
    for (tests, line, outcome) in outcomes {
        let (passed, failed) = outcome.counts();
        println!("{tests:<28} {line:<8} {passed:>7} {failed:>7} {:>8.0}  {}", outcome.seconds, outcome.summary());
        for name in outcome.failed_tests() {
            println!("         failed: {name}");
        }
    }
}
