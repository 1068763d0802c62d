//! Runs the kernel tests, statically linked, in virtual machines with the kernels that people run.

mod boot;
mod build;
mod case;
mod cases;
mod conditions;
mod hard;
mod image;
mod matrix;
mod packages;
mod suite;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, ensure};
use clap::Args;
use kerno_kit::install::install;
use kerno_kit::workspace;

use boot::{Guest, Machine};
use packages::{Archive, LINES};

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
    /// Write what the run of all tests showed to docs/kernels.md
    #[arg(long, conflicts_with_all = ["test_args", "conditions", "hard"])]
    write: bool,
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
        .filter(|kernel| !cases::asked(args) || cases::need(args, kernel.line))
        .collect();
    if args.list {
        for kernel in &kernels {
            println!("{:<8} {}  ({})", kernel.line, kernel.release, kernel.packages.join(", "));
        }
        cases::list();
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
            Guest {
                image,
                machine: &Machine::of(args),
                files: &[],
                command: "exec setsid cttyhack sh",
                log: Path::new(""),
            }
            .shell()?;
        }
        return Ok(());
    }
    if cases::asked(args) {
        return cases::run(args, &images);
    }
    suite::run(args, &chosen, &images)
}

/// Does each of these, so many at a time; the results in the same order.
fn in_parallel<T: Send, R: Send>(jobs: usize, items: Vec<T>, run: impl Fn(T) -> R + Sync) -> Vec<R> {
    let (queue, results) = (Mutex::new(items.into_iter().enumerate()), Mutex::new(BTreeMap::new()));
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some((number, item)) = next() {
                    let result = run(item);
                    if let Ok(mut results) = results.lock() {
                        results.insert(number, result);
                    }
                }
            });
        }
    });
    results.into_inner().unwrap_or_default().into_values().collect()
}

fn home() -> PathBuf {
    workspace::target().join("vm")
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
