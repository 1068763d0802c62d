//! Developer commands: `cargo xtask --help`.

#[cfg(feature = "bench")]
mod bench;
mod bpf;
mod btf;
mod install;
mod lab;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Make faults for real, as root, run `kerno doctor` beside each, and say how good it was
    Lab(lab::Args),
    /// Run the kernel tests in virtual machines, one a kernel line (installs qemu from Debian)
    Vm(vm::Vm),
    /// Measure, as root, and print a table: what watching costs, beside other tools in the same run
    #[cfg(feature = "bench")]
    Bench(bench::Bench),
    /// Measure, as root, and print a table: what watching costs, beside other tools in the same run
    #[cfg(not(feature = "bench"))]
    #[command(disable_help_flag = true)]
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Bpf { check } => bpf::run(check),
        Command::Btf => btf::run(),
        Command::Lab(args) => lab::run(&args),
        Command::Vm(vm) => vm::run(&vm),
        #[cfg(feature = "bench")]
        Command::Bench(bench) => bench::run(&bench),
        #[cfg(not(feature = "bench"))]
        Command::Bench { args } => run_optimised("bench", &args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs this program again, optimised and with what the command needs built in.
#[cfg(not(feature = "bench"))]
fn run_optimised(command: &str, args: &[String]) -> anyhow::Result<()> {
    let cargo = |args: &[&str]| -> anyhow::Result<()> {
        let status = std::process::Command::new(env!("CARGO")).args(args).status()?;
        anyhow::ensure!(status.success(), "cargo {} failed", args.join(" "));
        Ok(())
    };
    cargo(&["build", "--quiet", "--release", "--package", "kerno-cli"])?;
    let mut all = vec!["run", "--quiet", "--release", "--package", "xtask", "--features", "bench", "--", command];
    all.extend(args.iter().map(String::as_str));
    cargo(&all)
}
