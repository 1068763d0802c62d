//! How soon it runs, and how large it is.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use kerno_kit::cargo::{cargo, command_beside};
use kerno_kit::workspace;

use super::events::peer::Running;
use super::step;
use super::table::{Ratio, Row, Spread, Target};

pub(super) const ABOUT: &str = "From exec until all programs are attached, and until the first event is on standard output; sizes of \
                                what is installed.";

struct Starter {
    name: &'static str,
    program: String,
    args: &'static [&'static str],
    seconds: Vec<f64>,
    error: Option<String>,
}

pub(super) fn rows(rounds: usize, build: bool) -> anyhow::Result<Vec<Row>> {
    let command = command_beside()?.to_string_lossy().into_owned();
    let starter = |name, program: &str, args| Starter {
        name,
        program: program.to_owned(),
        args,
        seconds: Vec::new(),
        error: None,
    };
    let mut starters = [
        starter("kerno trace syscall", &command, &["trace", "syscall"]),
        starter("kerno trace all", &command, &["trace", "all"]),
        starter("kerno doctor", &command, &["doctor", "--duration", "60s"]),
        starter("syscount -L (libbpf-tools)", "syscount", &["-L"]),
        starter("runqlat (libbpf-tools)", "runqlat", &[]),
        starter("syscount-bpfcc -L", "syscount-bpfcc", &["-L"]),
        starter(
            "bpftrace, two programs",
            "bpftrace",
            &[
                "-e",
                "tracepoint:raw_syscalls:sys_enter { @s[tid] = nsecs; } tracepoint:raw_syscalls:sys_exit { delete(@s[tid]); }",
            ],
        ),
    ];
    let mut first_event = Vec::new();
    for round in 0..rounds {
        step(format_args!("start, round {} of {rounds}", round + 1))?;
        for starter in starters.iter_mut().filter(|starter| starter.error.is_none()) {
            match Running::start(starter.program.as_ref(), starter.args) {
                Ok(running) => starter.seconds.push(running.attached_after.as_secs_f64() * 1e3),
                Err(error) => starter.error = Some(format!("{error:#}")),
            }
        }
        first_event.push(until_the_first_event(&command)?);
    }
    let [ours, ..] = &starters;
    let (base, ours) = (ours.name, ours.seconds.clone());
    let mut rows = Vec::new();
    for starter in &starters {
        const SUBJECT: &str = "exec until attached";
        rows.push(match &starter.error {
            Some(error) => Row::unavailable(SUBJECT, starter.name, error.as_str()),
            None if starter.name == base => Row::new(SUBJECT, starter.name, "ms", Spread::of(&starter.seconds)?),
            None => Row::new(SUBJECT, starter.name, "ms", Spread::of(&starter.seconds)?).ratio(Ratio::of(
                &starter.seconds,
                base,
                &ours,
            )?),
        });
    }
    rows.push(Row::new("exec until the first event", base, "ms", Spread::of(&first_event)?));
    for (name, path) in
        [("kerno", command.as_str()), ("bpftrace", "/usr/bin/bpftrace"), ("syscount", "/usr/sbin/syscount")]
    {
        rows.push(match fs::metadata(path) {
            Ok(data) => Row::new("binary", name, "MiB", Spread::exactly(data.len() as f64 / f64::from(1 << 20))),
            Err(error) => Row::unavailable("binary", name, format!("{path}: {error}")),
        });
    }
    if build {
        rows.push(build_from_clean()?);
    }
    Ok(rows)
}

/// Milliseconds until the first byte of the first event's line.
fn until_the_first_event(command: &str) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut child = Command::new(command)
        .args(["trace", "syscall", "--count", "1", "--output", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {command}"))?;
    let read = child.stdout.take().context("its output")?.read_exact(&mut [0]);
    let took = start.elapsed();
    child.wait()?;
    read.context("kerno trace ended without an event")?;
    Ok(took.as_secs_f64() * 1e3)
}

/// Everything compiled, nothing downloaded.
fn build_from_clean() -> anyhow::Result<Row> {
    step(format_args!("start: cargo build --release from clean"))?;
    let target = tempfile::tempdir_in(workspace::target())?;
    let start = Instant::now();
    let status = cargo()
        .args(["build", "--quiet", "--release", "--offline", "--package", "kerno-cli", "--target-dir"])
        .arg(target.path())
        .status()?;
    ensure!(status.success(), "cargo build failed");
    Ok(Row::new(
        "cargo build --release",
        "from clean, nothing to download",
        "s",
        Spread::exactly(start.elapsed().as_secs_f64()),
    )
    .target(Target::AtMost(300.0)))
}
