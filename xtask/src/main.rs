//! Developer commands: `cargo xtask --help`.

mod bench;
mod bpf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer commands of kerno")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compile the eBPF programs into crates/kerno/objects (needs clang-19, llvm-19, libbpf-dev)
    Bpf {
        /// Compile elsewhere and fail when a committed object differs
        #[arg(long)]
        check: bool,
    },
    /// Measure, and print ratios (as root; build with --release: cargo run --release -p xtask -- bench ...)
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Bpf { check } => bpf::run(check),
        Command::Bench(bench) => bench::run(&bench),
    }
}
