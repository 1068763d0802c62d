//! The fault lab: makes faults for real, runs the built `kerno doctor` beside each, and says how good it was.
//!
//! A fault counts only when something other than the doctor shows that it took place. Nothing is left behind, also when it is
//! interrupted; what a killed lab left is removed by the next.

mod case;
mod faults;
mod healthy;
mod record;
mod report;
mod scene;
mod score;
mod stage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use kerno_doctor::corpus;
use kerno_kit::cargo::command_beside;
use kerno_kit::install::install;
use kerno_kit::workspace;

use case::{Case, Staged};
use scene::Scene;
use score::{Score, Verdict};

/// Faults that rules find and that cannot be made on just any machine. Their rules are tested with made-up windows.
const NOT_MADE: &[(&str, &str)] = &[("cpu_steal", "needs a hypervisor that takes CPU time away")];

/// What every scene is made with.
const ALWAYS: [&str; 2] = ["setpriv", "python3"];

/// Make faults for real, as root, run `kerno doctor` beside each, and say how good it was
#[derive(Parser)]
#[command(name = "cargo xtask lab", bin_name = "cargo xtask lab")]
struct Args {
    /// How long the doctor watches each
    #[arg(long, default_value = "5s", value_parser = seconds)]
    window: Duration,
    /// Only those whose name has this in it; may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// Only each so many-th, as 1/2 and 2/2 are the two halves
    #[arg(long, value_name = "K/N", value_parser = part)]
    part: Option<(usize, usize)>,
    /// Show what there is, and do nothing
    #[arg(long)]
    list: bool,
    /// Only loads that nothing is wrong with
    #[arg(long, conflicts_with = "faults_only")]
    healthy_only: bool,
    /// Only faults
    #[arg(long)]
    faults_only: bool,
    /// The kerno to try, instead of building this one
    #[arg(long)]
    kerno: Option<PathBuf>,
    /// Try once more what is not right: other work on a machine may be to blame. The sums are those of the first tries
    #[arg(long)]
    again: bool,
    /// How to print the scorecard
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Keep the report of each here, as NAME.json
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Record each that is right, for the tests of the rules: its window, and what was found in it. In tests/corpus of the workspace
    /// unless told otherwise
    #[arg(long, value_name = "DIR", conflicts_with = "rehearse")]
    record: Option<Option<PathBuf>>,
    /// Only make each fault and see that it takes place; run no doctor
    #[arg(long)]
    rehearse: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Output {
    Text,
    Json,
    /// As docs/accuracy.md has it
    Markdown,
}

impl Args {
    /// Where to record, if that was asked for.
    fn corpus(&self) -> Option<PathBuf> {
        let given = self.record.as_ref()?;
        Some(given.clone().unwrap_or_else(|| workspace::root().join(corpus::FOLDER)))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let seconds: f64 = number.parse().map_err(|_| "a number of seconds, such as 5s".to_owned())?;
    if (1.0..=600.0).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err("1s to 600s".to_owned()) }
}

fn part(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once('/').and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
    let valid = |(part, of): &(usize, usize)| (1..=*of).contains(part);
    numbers.filter(valid).ok_or_else(|| "a part and how many there are, such as 1/2".to_owned())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let is_chosen =
        |case: &&'static Case| args.only.is_empty() || args.only.iter().any(|part| case.name.contains(part.as_str()));
    // Kinds stand together, so that each part has some of all.
    let in_part = |(place, _): &(usize, &'static Case)| args.part.is_none_or(|(part, of)| place % of == part - 1);
    let of_part = |all: Box<dyn Iterator<Item = &'static Case>>| all.enumerate().filter(in_part).map(|(_, case)| case);
    let faults = of_part(Box::new(faults::all())).filter(|_| !args.healthy_only).filter(is_chosen);
    let healthy = of_part(Box::new(healthy::all())).filter(|_| !args.faults_only).filter(is_chosen);
    if args.list {
        println!("Faults:");
        faults.for_each(|case| println!("  {:<26} {}", case.name, case.about));
        println!("Healthy loads:");
        healthy.for_each(|case| println!("  {:<26} {}", case.name, case.about));
        println!("Not made here:");
        NOT_MADE.iter().for_each(|(name, why)| println!("  {name:<26} {why}"));
        return Ok(());
    }
    ensure!(rustix::process::geteuid().is_root(), "the lab needs root");
    let chosen: Vec<(bool, &Case)> = faults.map(|case| (false, case)).chain(healthy.map(|case| (true, case))).collect();
    ensure!(!chosen.is_empty(), "nothing has such a name; --list shows what there is");
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    stage::sweep();
    install(chosen.iter().flat_map(|(_, case)| case.needs.iter().copied()).chain(ALWAYS))?;
    let kerno = match &args.kerno {
        Some(path) => path.clone(),
        None if args.rehearse => PathBuf::new(),
        None => command_beside()?,
    };
    if let Some(dir) = &args.keep {
        std::fs::create_dir_all(dir)?;
    }
    if let Some(dir) = args.corpus() {
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join(corpus::INDEX), index())?;
    }
    let text = args.output == Output::Text;
    if text {
        println!("{}", score::head());
    }
    let mut scores = Vec::new();
    let mut wrong = 0;
    for (is_healthy, case) in chosen {
        for try_number in 1.. {
            let score = one(case, is_healthy, &kerno, args, &interrupted);
            if interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            if text {
                println!("{}", score::line(&score));
                score.notes.iter().for_each(|note| println!("    {note}"));
            }
            let is_right = score.verdict == Verdict::Right;
            let is_last = is_right || !args.again || try_number == 2;
            wrong += usize::from(is_last && !is_right);
            if try_number == 1 {
                scores.push(score);
            }
            if is_last {
                break;
            }
        }
    }
    let total = score::total(&scores);
    match args.output {
        Output::Json => println!("{}", serde_json::json!({ "scores": scores, "total": total })),
        Output::Markdown => print!("{}", markdown(args, &scores, &total)),
        Output::Text if args.rehearse => {}
        Output::Text => {
            println!("\nfaults right {}/{}", total.faults.right, total.faults.of);
            println!("healthy loads left in peace {}/{}", total.healthy.right, total.healthy.of);
            println!("not injected or failed {}", total.not_injected);
            println!("with the 95 % confidence interval:");
            for (name, share) in [("precision", total.precision), ("recall", total.recall), ("culprit", total.culprit)]
            {
                println!("  {name:<9} {share}");
            }
        }
    }
    ensure!(wrong == 0, "{wrong} of {} are not right", scores.len());
    Ok(())
}

/// How good the doctor was, for docs/accuracy.md.
fn markdown(args: &Args, scores: &[Score], total: &score::Total) -> String {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let about: std::collections::HashMap<_, _> =
        faults::all().chain(healthy::all()).map(|case| (case.name, case.about)).collect();
    let mut text = format!(
        "# How accurate the doctor is\n\nWritten by `cargo xtask lab --output markdown` (as root); not to be edited. Each fault is made for real, with \
         real programs where there are any, and something other than the doctor shows that it took place. It is right when the doctor's first \
         root cause is the right one with the right culprit, and nothing false stands beside it. The loads must raise no alarm. The doctor \
         watches for {} s. Linux {kernel}, {} CPUs; each case was tried once.\n\n\
         | | share | right | of | 95 % confidence interval |\n|---|---|---|---|---|\n",
        args.window.as_secs_f64(),
        std::thread::available_parallelism().map_or(1, usize::from),
    );
    let mut row = |name: &str, share: score::Share| {
        let score::Share { of, right, share, low, high } = share;
        text.push_str(&format!("| {name} | {share:.3} | {right} | {of} | {low:.2} to {high:.2} |\n"));
    };
    row("precision: root causes told that are there", total.precision);
    row("recall: root causes that are there and told, with the right culprit", total.recall);
    row("culprit: of those told, with the right one", total.culprit);
    row("faults right as a whole", total.faults);
    row("loads left in peace", total.healthy);
    for (title, is_healthy) in [("Faults", false), ("Healthy loads", true)] {
        text.push_str(&format!("\n## {title}\n\n| name | what happens | to be found | verdict |\n|---|---|---|---|\n"));
        for score in scores.iter().filter(|score| score.healthy == is_healthy) {
            let expected = if is_healthy { "nothing".to_owned() } else { score.expected.join(", ") };
            let about = about.get(score.name.as_str()).copied().unwrap_or_default();
            text.push_str(&format!("| `{}` | {about} | {expected} | {} |\n", score.name, score.verdict.name()));
        }
    }
    text.push_str("\n## Not made here\n\n");
    NOT_MADE.iter().for_each(|(name, why)| {
        text.push_str(&format!("- `{name}`: {why}. Its rule is tested with made-up windows.\n"))
    });
    text
}

/// The names of all cases, one a line, for whoever cannot ask the lab.
fn index() -> String {
    faults::all().chain(healthy::all()).map(|case| format!("{}\n", case.name)).collect()
}

/// Runs one, and cleans up.
fn one(case: &Case, is_healthy: bool, kerno: &Path, args: &Args, interrupted: &Arc<AtomicBool>) -> Score {
    let begin = Instant::now();
    let failed = |error: anyhow::Error, verdict| {
        Score::without_report(case.name, is_healthy, verdict, format!("{error:#}"), begin.elapsed().as_secs_f64())
    };
    let limit = args.window + Duration::from_secs(75);
    let mut scene = match Scene::new(args.window, limit, Arc::clone(interrupted)) {
        Ok(scene) => scene,
        Err(error) => return failed(error, Verdict::Failed),
    };
    let staged = match (case.stage)(&mut scene) {
        Ok(staged) => staged,
        Err(error) => return failed(error, Verdict::NotInjected),
    };
    watch(case, staged, &mut scene, kerno, args, begin).unwrap_or_else(|error| failed(error, Verdict::Failed))
}

fn watch(
    case: &Case,
    mut staged: Staged,
    scene: &mut Scene,
    kerno: &Path,
    args: &Args,
    begin: Instant,
) -> Result<Score> {
    scene.look_at_families();
    staged.proofs.iter_mut().try_for_each(case::Proof::begin)?;
    let said = if args.rehearse {
        scene.sleep(scene.window)?;
        None
    } else {
        Some(report::diagnose(kerno, scene)?)
    };
    let truth = staged.truth(scene.families());
    let proofs: Vec<_> = staged.proofs.iter().map(case::Proof::end).collect();
    let took_place = proofs.iter().all(|(holds, _)| *holds) && scene.is_running();
    let mut notes: Vec<_> = proofs.into_iter().map(|(_, note)| note).collect();
    if !scene.is_running() {
        notes.push("a load ended early".to_owned());
    }
    let seconds = begin.elapsed().as_secs_f64();
    let Some(said) = said else {
        let verdict = if took_place { Verdict::Right } else { Verdict::NotInjected };
        notes.push(scene.log());
        return Ok(Score::without_report(case.name, staged.expected.is_empty(), verdict, notes.join("; "), seconds));
    };
    if let Some(dir) = &args.keep {
        std::fs::write(dir.join(format!("{}.json", case.name)), serde_json::to_vec_pretty(&said.json)?)?;
    }
    let mut score = score::score(case.name, &truth, &said.report.findings, seconds);
    if !took_place {
        score.verdict = Verdict::NotInjected;
        notes.push(scene.log());
    }
    if score.verdict != Verdict::Right {
        score.notes.push(format!("took place: {}", notes.join("; ")));
    }
    if let Some(dir) = args.corpus() {
        if score.verdict == Verdict::Right {
            record::write(&dir, case, truth, &said, scene).with_context(|| format!("cannot record {}", case.name))?;
        } else {
            score.notes.push("not recorded, for it is not right".to_owned());
        }
    }
    Ok(score)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_knows_every_case() {
        let path = workspace::root().join(corpus::FOLDER).join(corpus::INDEX);
        let listed = std::fs::read_to_string(&path).unwrap_or_default();
        let (listed, cases): (Vec<_>, Vec<_>) =
            (listed.lines().collect(), faults::all().chain(healthy::all()).collect());
        let new: Vec<_> = cases.iter().map(|case| case.name).filter(|name| !listed.contains(name)).collect();
        assert!(
            new.is_empty(),
            "new cases must be recorded, so that the rules are tested on them without root: run `cargo xtask lab --record --only {}` as \
             root, on a machine with nothing else to do, and commit what it writes to {}: {new:?}",
            new.first().unwrap_or(&"NAME"),
            corpus::FOLDER
        );
        assert_eq!(
            listed.join("\n") + "\n",
            index(),
            "{} lists cases that are no more, or in another order",
            path.display()
        );
    }
}
