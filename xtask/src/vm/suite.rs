//! The kernel tests on several kernels at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use kerno_kit::workspace;

use super::boot::{Guest, Machine, Outcome};
use super::build::build_static;
use super::image::Image;
use super::matrix::{self, CHECK, Column};
use super::packages::Kernel;
use super::{Vm, home, in_parallel};

/// How many times slower than a machine an emulated one is, about.
const SLOWNESS: u32 = 20;

/// Failed tests that are tried again, and how often. Emulated, a processor may stand still for longer than a test has patience; more failures
/// than this are no accident.
const MOST_TRIED_AGAIN: usize = 6;
const TIMES_AGAIN: usize = 2;

pub(super) fn run(args: &Vm, kernels: &[&Kernel], images: &BTreeMap<&'static str, Image>) -> anyhow::Result<()> {
    let mut programs =
        build_static(&["test", "--package", "kerno-bpf", "--test", "kernel", "--test", "lifecycle", "--no-run"])?;
    programs.extend(build_static(&["build", "--package", "kerno-cli", "--bin", "kerno"])?);
    let logs = home().join("logs");
    std::fs::create_dir_all(&logs)?;
    let outcomes = test_all(args, images, &programs, &logs);
    let of = |kernel: &&Kernel| Some(Column::new(kernel.line, &kernel.release, outcomes.get(kernel.line)?));
    let columns: Vec<Column> = kernels.iter().filter_map(of).collect();
    if args.test_args.is_empty() {
        matrix::print(&columns);
    }
    let failed = print_results(&outcomes, &columns, args.test_args.is_empty());
    if args.write {
        std::fs::write(workspace::root().join("docs/kernels.md"), matrix::page(&columns)?)?;
    }
    ensure!(failed.is_empty(), "failed on {}", failed.join(", "));
    Ok(())
}

fn test_all(
    args: &Vm,
    images: &BTreeMap<&'static str, Image>,
    programs: &[PathBuf],
    logs: &Path,
) -> BTreeMap<&'static str, Outcome> {
    let run = |(line, image): (&&'static str, &Image)| {
        let outcome = test_one(args, line, image, programs, logs);
        println!("{line:<8} {} in {:.0} s", outcome.summary(), outcome.seconds);
        (*line, outcome)
    };
    in_parallel(args.jobs, images.iter().collect(), run).into_iter().collect()
}

fn test_one(args: &Vm, line: &str, image: &Image, programs: &[PathBuf], logs: &Path) -> Outcome {
    let run = |words: &[String], log: &str| {
        let words: Vec<_> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
        let words = words.join(" ");
        let names = programs.iter().filter_map(|program| program.file_name()?.to_str());
        let tests = names
            .filter(|name| *name != "kerno")
            .map(|name| format!("/tmp/bin/{name} --test-threads 1 --show-output {words} || status=1"));
        let tests = tests.collect::<Vec<_>>().join("\n");
        let check = format!("echo \"{CHECK}$(/tmp/bin/kerno check --output json | tr -d '\\n')\"");
        let command = format!("status=0\nexport KERNO_TEST_SLOWNESS={SLOWNESS}\n{check}\n{tests}\nexit $status");
        Guest { image, machine: &Machine::of(args), files: programs, command: &command, log: &logs.join(log) }
            .run(Duration::from_secs(args.minutes * 60))
    };
    let mut outcome = run(&args.test_args, &format!("{line}.log"));
    if outcome.status.is_err() {
        println!("{line:<8} {}: all of it again", outcome.summary());
        outcome = run(&args.test_args, &format!("{line}-again.log"));
    }
    for _ in 0..TIMES_AGAIN {
        let failed: Vec<_> = outcome.failed_tests().into_iter().map(str::to_owned).collect();
        if !(1..=MOST_TRIED_AGAIN).contains(&failed.len()) {
            break;
        }
        println!("{line:<8} again: {}", failed.join(", "));
        let words: Vec<_> = ["--exact".to_owned()].into_iter().chain(failed).collect();
        outcome.again(run(&words, &format!("{line}-again.log")));
    }
    outcome
}

/// A line for each kernel; those that failed.
fn print_results(outcomes: &BTreeMap<&'static str, Outcome>, columns: &[Column], whole: bool) -> Vec<&'static str> {
    println!("\n{:<8} {:>7} {:>7} {:>8}  result", "kernel", "passed", "failed", "seconds");
    let mut lines = Vec::new();
    for (line, outcome) in outcomes {
        let (passed, failed) = outcome.counts();
        println!("{line:<8} {passed:>7} {failed:>7} {:>8.0}  {}", outcome.seconds, outcome.summary());
        for name in &outcome.passed_again {
            println!("         passed when tried again: {name}");
        }
        for name in outcome.failed_tests() {
            println!("         failed: {name}");
            for line in outcome.text_of_failed(name) {
                println!("           {line}");
            }
        }
        let complaint =
            columns.iter().find(|column| column.line == *line).and_then(Column::complaint).filter(|_| whole);
        if let Some(complaint) = &complaint {
            println!("         {complaint}");
        }
        if complaint.is_some() || !outcome.passed() {
            lines.push(*line);
        }
    }
    lines
}
