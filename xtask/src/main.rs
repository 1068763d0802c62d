//! Developer commands: `cargo xtask --help`.

mod api;
mod arrows;
mod bpf;
mod btf;
mod metadata;
mod vm;

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use kerno_kit::cargo;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of kerno")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compile the eBPF programs into crates/kerno-bpf/objects (needs clang-19, llvm-19, libbpf-dev)
    Bpf {
        /// Compile elsewhere and fail when a committed object differs
        #[arg(long)]
        check: bool,
    },
    /// Take from Debian's kernels the types that the eBPF programs name, for the tests that need no such kernel
    Btf,
    /// Write the libraries' public API to docs/api, one line an item
    Api {
        /// Write nothing, and fail when it is not what is committed
        #[arg(long)]
        check: bool,
    },
    /// Fail when a crate uses one that stands after it, or files of a crate form a circle that is not known
    Arrows {
        /// Write the list of known circles, when there are no more of them
        #[arg(long)]
        write: bool,
    },
    /// Make faults for real, as root, run `kerno doctor` beside each, and say how good it was
    #[command(disable_help_flag = true)]
    Lab(Passed),
    /// Run `kerno start` for long under load, as root, and say what grew and what was lost
    #[command(disable_help_flag = true)]
    Soak(Passed),
    /// Run the kernel tests in virtual machines, one a kernel line (installs qemu from Debian)
    Vm(vm::Vm),
    /// Make packages, an image and lists of what is in them, in target/package
    #[command(disable_help_flag = true)]
    Package(Passed),
    /// Measure, as root, and print a table: what watching costs, beside other tools in the same run
    #[command(disable_help_flag = true)]
    Bench(Passed),
}

/// What a command in a crate of its own gets; it has its own `--help`.
#[derive(clap::Args)]
struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Bpf { check } => bpf::run(check),
        Command::Api { check } => api::run(check),
        Command::Arrows { write } => arrows::run(write),
        Command::Btf => btf::run(),
        Command::Vm(vm) => vm::run(&vm),
        Command::Lab(Passed { args }) => become_program("kerno-lab", &args),
        Command::Soak(Passed { args }) => become_program("kerno-soak", &args),
        Command::Package(Passed { args }) => package(&args),
        Command::Bench(Passed { args }) => become_program("kerno-bench", &args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// It has kerno built itself, static, and needs none beside it.
fn package(args: &[OsString]) -> anyhow::Result<()> {
    become_built(&cargo::build_program("kerno-package", false)?, args)
}

/// Becomes a program in a crate of its own. Those need the library, which needs the objects, which this program makes.
fn become_program(package: &str, args: &[OsString]) -> anyhow::Result<()> {
    // Whoever names a kerno needs no other.
    let names_one = |arg: &OsString| arg.to_str().is_some_and(|arg| arg == "--kerno" || arg.starts_with("--kerno="));
    become_built(&cargo::build_program(package, !args.iter().any(names_one))?, args)
}

fn become_built(program: &std::path::Path, args: &[OsString]) -> anyhow::Result<()> {
    Err(std::process::Command::new(program).args(args).exec())
        .with_context(|| format!("cannot run {}", program.display()))
}
