//! Runs the kernel tests, statically linked, in virtual machines with the kernels that people run.

mod boot;
mod case;
mod conditions;
mod hard;
mod image;
mod packages;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;

use boot::{Guest, Machine, Outcome};
use packages::{Archive, LINES};

use crate::install::install;

#[derive(Args)]
pub(crate) struct Vm {
    /// Only these kernel lines, such as 6.1; `newest` is the newest there is [default: all]
    #[arg(long, value_name = "LINE", value_delimiter = ',')]
    kernel: Vec<String>,
    /// Say which kernels there are, and end
    #[arg(long)]
    list: bool,
    /// A shell in the virtual machine instead of the tests; with one kernel
    #[arg(long)]
    shell: bool,
    /// Instead of the kernel tests: under each hostile condition kerno works, or says what is missing
    #[arg(long)]
    conditions: bool,
    /// Instead of the kernel tests: what is unsafe on a machine in use, such as running out of memory or of disks
    #[arg(long)]
    hard: bool,
    /// With --conditions or --hard: each on every kernel
    #[arg(long, conflicts_with = "kernel")]
    all: bool,
    /// Virtual machines at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Minutes that one virtual machine may take
    #[arg(long, default_value_t = 20)]
    minutes: u64,
    /// More words for the kernel's command line, such as `lockdown=integrity`
    #[arg(long, default_value = "")]
    append: String,
    /// CPUs of each virtual machine
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// For the test program: a filter, `--skip NAME`, `--nocapture`, ...
    #[arg(last = true)]
    test_args: Vec<String>,
}

pub(crate) fn run(args: &Vm) -> anyhow::Result<()> {
    let home = target_directory().join("vm");
    install(["qemu-system-x86_64", "busybox", "cpio", "depmod", "zstd", "xz", "strip"].into_iter())?;
    let archive = Archive::open(&home.join("apt"))?;
    let kernels = archive.kernels()?;
    let names: Vec<_> = LINES.iter().map(|line| line.name).collect();
    if let Some(line) = args.kernel.iter().find(|line| !names.contains(&line.as_str())) {
        anyhow::bail!("no kernel line {line:?}; there are: {}", names.join(", "));
    }
    let chosen: Vec<_> = kernels
        .iter()
        .filter(|kernel| args.kernel.is_empty() || args.kernel.iter().any(|k| k == kernel.line))
        .filter(|kernel| !(args.conditions || args.hard) || args.list || case::need(args, kernel.line))
        .collect();
    if args.list {
        for kernel in &kernels {
            println!("{:<8} {}  ({})", kernel.line, kernel.release, kernel.packages.join(", "));
        }
        case::list();
        return Ok(());
    }
    let mut images = BTreeMap::new();
    for kernel in &chosen {
        let image = image::prepare(&archive, kernel, &home)?;
        println!("{:<8} {}  sha256 {}", kernel.line, kernel.release, image.checksum);
        images.insert(kernel.line, image);
    }
    if args.shell {
        ensure!(images.len() == 1, "--shell needs one kernel: --kernel LINE");
        for image in images.values() {
            Guest { image, machine: &machine(args), files: &[], command: "exec setsid cttyhack sh" }.shell()?;
        }
        return Ok(());
    }
    if args.conditions || args.hard {
        return case::run(args, &images);
    }
    let programs = build_static(&["--package", "kerno", "--test", "kernel", "--test", "lifecycle"])?;
    let outcomes = test_all(args, &images, &programs);
    print_matrix(&outcomes);
    let failed: Vec<_> = outcomes.iter().filter(|(_, outcome)| !outcome.passed()).map(|(line, _)| *line).collect();
    ensure!(failed.is_empty(), "tests failed on {}", failed.join(", "));
    Ok(())
}

fn test_all(
    args: &Vm,
    images: &BTreeMap<&'static str, image::Image>,
    programs: &[PathBuf],
) -> BTreeMap<&'static str, Outcome> {
    let queue = std::sync::Mutex::new(images.iter().collect::<std::collections::VecDeque<_>>());
    let outcomes = std::sync::Mutex::new(BTreeMap::new());
    let next = || queue.lock().ok().and_then(|mut queue| queue.pop_front());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while let Some((line, image)) = next() {
                    let started = Instant::now();
                    let outcome = test_one(args, image, programs);
                    println!("{line:<8} {} in {:.0} s", outcome.summary(), started.elapsed().as_secs_f64());
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.insert(*line, outcome);
                    }
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_default()
}

fn test_one(args: &Vm, image: &image::Image, programs: &[PathBuf]) -> Outcome {
    let words: Vec<_> = args.test_args.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    let words = words.join(" ");
    let runs: Vec<_> = programs
        .iter()
        .filter_map(|program| program.file_name()?.to_str())
        .map(|name| format!("/{name} {words} || status=1"))
        .collect();
    let command = format!("status=0\n{}\nexit $status", runs.join("\n"));
    Guest { image, machine: &machine(args), files: programs, command: &command }
        .run(Duration::from_secs(args.minutes * 60))
}

fn machine(args: &Vm) -> Machine<'_> {
    Machine { cpus: args.cpus, memory_mib: 1536, append: &args.append, qemu: &[] }
}

fn print_matrix(outcomes: &BTreeMap<&'static str, Outcome>) {
    println!("\n{:<8} {:>7} {:>7} {:>8}  result", "kernel", "passed", "failed", "seconds");
    for (line, outcome) in outcomes {
        let (passed, failed) = outcome.counts();
        println!("{line:<8} {passed:>7} {failed:>7} {:>8.0}  {}", outcome.seconds, outcome.summary());
        for name in outcome.failed_tests() {
            println!("         failed: {name}");
        }
    }
}

/// These tests' programs, and the command where they need it, with everything they use inside.
fn build_static(tests: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .arg("test")
        .args(tests)
        .arg("--no-run")
        .args(["--message-format", "json-render-diagnostics", "--target", &target])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // Emulated, what is not optimised takes minutes.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "2")
        .env("CARGO_TARGET_DIR", target_directory().join("vm/build"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the tests do not build statically");
    let programs: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .collect();
    ensure!(!programs.is_empty(), "cargo named no test program");
    // Their debug information is of no use in there and fills the memory.
    programs.iter().map(|program| stripped(program)).collect()
}

fn stripped(program: &Path) -> anyhow::Result<PathBuf> {
    let name = program.file_name().and_then(|name| name.to_str()).context("a program has a name")?;
    // kernel-0123456789abcdef
    let short = name.split('-').next().unwrap_or(name);
    let to = target_directory().join("vm").join(short);
    succeed(Command::new("strip").arg("-g").arg("-o").arg(&to).arg(program))?;
    Ok(to)
}

fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
