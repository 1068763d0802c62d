//! Runs the kernel tests, statically linked, in virtual machines with the kernels that people run.

mod boot;
mod image;
mod packages;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;

use boot::{Guest, Outcome};
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

/// How many times slower than a machine an emulated one is, about.
const SLOWNESS: u32 = 20;

/// What unpacks a kernel and makes what it starts from.
const TOOLS: [&str; 8] = ["busybox", "cpio", "depmod", "zstd", "xz", "lz4", "strip", "mkfs.ext4"];

/// A kernel of the matrix, fetched and unpacked.
pub(crate) struct Unpacked {
    /// As `uname -r` would say.
    pub(crate) release: String,
    pub(crate) packages: Vec<PathBuf>,
    pub(crate) vmlinux: PathBuf,
}

/// The newest kernel of each line.
pub(crate) fn unpack() -> anyhow::Result<Vec<Unpacked>> {
    let home = home();
    install(TOOLS.into_iter())?;
    let archive = Archive::open(&home.join("apt"))?;
    let unpack = |kernel: packages::Kernel| {
        let vmlinux = image::prepare(&archive, &kernel, &home)?.vmlinux;
        Ok(Unpacked { packages: archive.fetch(&kernel.packages)?, release: kernel.release, vmlinux })
    };
    archive.kernels()?.into_iter().map(unpack).collect()
}

pub(crate) fn run(args: &Vm) -> anyhow::Result<()> {
    let home = home();
    install(TOOLS.into_iter().chain(["qemu-system-x86_64"]))?;
    let archive = Archive::open(&home.join("apt"))?;
    let kernels = archive.kernels()?;
    let names: Vec<_> = LINES.iter().map(|line| line.name).collect();
    if let Some(line) = args.kernel.iter().find(|line| !names.contains(&line.as_str())) {
        anyhow::bail!("no kernel line {line:?}; there are: {}", names.join(", "));
    }
    let chosen: Vec<_> = kernels
        .iter()
        .filter(|kernel| args.kernel.is_empty() || args.kernel.iter().any(|k| k == kernel.line))
        .collect();
    if args.list {
        for kernel in &kernels {
            println!("{:<8} {}  ({})", kernel.line, kernel.release, kernel.packages.join(", "));
        }
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
            Guest { image, args, files: &[], command: "exec setsid cttyhack sh", log: Path::new("") }.shell()?;
        }
        return Ok(());
    }
    let programs = build_static()?;
    let logs = home.join("logs");
    std::fs::create_dir_all(&logs)?;
    let outcomes = test_all(args, &images, &programs, &logs);
    print_matrix(&outcomes);
    let failed: Vec<_> = outcomes.iter().filter(|(_, outcome)| !outcome.passed()).map(|(line, _)| *line).collect();
    ensure!(failed.is_empty(), "tests failed on {}", failed.join(", "));
    Ok(())
}

fn test_all(
    args: &Vm,
    images: &BTreeMap<&'static str, image::Image>,
    programs: &[PathBuf],
    logs: &Path,
) -> BTreeMap<&'static str, Outcome> {
    let queue = std::sync::Mutex::new(images.iter().collect::<std::collections::VecDeque<_>>());
    let outcomes = std::sync::Mutex::new(BTreeMap::new());
    let next = || queue.lock().ok().and_then(|mut queue| queue.pop_front());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while let Some((line, image)) = next() {
                    let started = Instant::now();
                    let log = logs.join(format!("{line}.log"));
                    let outcome = test_one(args, image, programs, &log);
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

fn test_one(args: &Vm, image: &image::Image, programs: &[PathBuf], log: &Path) -> Outcome {
    let words: Vec<_> = args.test_args.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    let words = words.join(" ");
    let runs: Vec<_> = programs
        .iter()
        .filter_map(|program| program.file_name()?.to_str())
        .map(|name| format!("/tmp/bin/{name} {words} || status=1"))
        .collect();
    let command = format!("status=0\nexport KERNO_TEST_SLOWNESS={SLOWNESS}\n{}\nexit $status", runs.join("\n"));
    Guest { image, args, files: programs, command: &command, log }.run(Duration::from_secs(args.minutes * 60))
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

/// The test programs that need the kernel, with everything they use inside.
fn build_static() -> anyhow::Result<Vec<PathBuf>> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["test", "--package", "kerno", "--test", "kernel", "--test", "lifecycle", "--no-run"])
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

fn home() -> PathBuf {
    target_directory().join("vm")
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
