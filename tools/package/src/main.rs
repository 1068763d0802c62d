//! Makes what people install: a static program, `.deb`, `.rpm`, a tarball, an OCI image, a list of what is in it, and checksums.
//!
//! The same commit and program give the same bytes, whoever packages them and when: times come from the commit, entries are sorted, owners are fixed.

mod archive;
mod build;
mod contents;
mod deb;
mod image;
mod redhat;
mod sbom;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use sha2::{Digest as _, Sha256};

use contents::Contents;

/// Who answers for the packages.
const MAINTAINER: &str = "Kerno maintainers <kerno-project@users.noreply.github.com>";
const HOMEPAGE: &str = "https://github.com/kerno-project/kerno";
const SUMMARY: &str = "says why a Linux machine is slow or failing, from the kernel";
const DESCRIPTION: &str = "Kerno watches the kernel with eBPF and says what is wrong, who causes it,\n\
     and what to do. It reports once (kerno doctor), or watches all the time\n\
     (kerno start), follows incidents, remembers them, and serves metrics for\n\
     Prometheus and OpenTelemetry.";

/// Make packages of kerno for this machine's processor.
#[derive(Parser)]
#[command(name = "cargo xtask package")]
struct Args {
    /// Where they are written
    #[arg(long, value_name = "DIR", default_value = "target/package")]
    out: PathBuf,
    /// Package this program instead of building one
    #[arg(long, value_name = "FILE")]
    kerno: Option<PathBuf>,
    /// Call the packages so, for tests of upgrades
    #[arg(long, value_name = "VERSION", hide = true)]
    version: Option<String>,
}

/// What all packages have in common.
struct Release {
    version: String,
    /// Of the last commit, seconds since 1970.
    epoch: u32,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("package: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let out = kerno_kit::workspace::root().join(&args.out);
    let program = match &args.kerno {
        Some(program) => std::path::absolute(program)?,
        None => build::build()?,
    };
    build::ensure_static(&program)?;
    let version = args.version.clone().unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
    let release = Release { version, epoch: build::epoch()? };
    let contents = Contents::gather(&program)?;
    let (version, arch) = (&release.version, std::env::consts::ARCH);
    let sbom = sbom::cyclonedx(&release)?;
    let name = format!("kerno-{version}-{arch}-linux");
    let files = [
        (format!("kerno_{version}-1_{}.deb", deb::architecture(arch)?), deb::package(&release, &contents)?),
        (format!("kerno-{version}-1.{arch}.rpm"), redhat::package(&release, &contents)?),
        (format!("{name}.tar.gz"), archive::tarball(&release, &contents, &name)?),
        (format!("{name}-oci.tar"), image::layout(&release, &contents)?),
        (format!("kerno-{version}.cdx.json"), sbom),
        (format!("kerno-{arch}"), contents.program().to_vec()),
    ];
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut sums = String::new();
    for (name, bytes) in &files {
        std::fs::write(out.join(name), bytes).with_context(|| format!("cannot write {name}"))?;
        println!("{:>11}  {name}", bytes.len());
        let _ = writeln!(sums, "{}  {name}", hex(&Sha256::digest(bytes)));
    }
    ensure!(!sums.is_empty(), "nothing was made");
    std::fs::write(out.join("SHA256SUMS"), sums)?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
