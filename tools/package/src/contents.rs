//! What is installed, and where.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, GzBuilder};
use kerno_kit::workspace;

/// A file of a package.
pub(crate) struct Entry {
    /// Without the slash that it begins with.
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) bytes: Vec<u8>,
    /// Whether it is the administrator's after it was installed.
    pub(crate) is_config: bool,
}

/// The files of all packages, sorted by path.
pub(crate) struct Contents(Vec<Entry>);

const PROGRAM: &str = "usr/bin/kerno";

/// Files of the checkout that are installed as they are.
const FILES: &[(&str, &str)] = &[
    ("deploy/systemd/kerno.service", "usr/lib/systemd/system/kerno.service"),
    ("deploy/systemd/kerno.sysusers", "usr/lib/sysusers.d/kerno.conf"),
    ("deploy/systemd/kerno.tmpfiles", "usr/lib/tmpfiles.d/kerno.conf"),
    ("deploy/systemd/kernel-log.conf", "usr/share/kerno/systemd/kernel-log.conf"),
    ("deploy/grafana/kerno.json", "usr/share/kerno/grafana/kerno.json"),
    ("deploy/prometheus/kerno.rules.yml", "usr/share/kerno/prometheus/kerno.rules.yml"),
];

/// The only one that is the administrator's.
const CONFIG: (&str, &str) = ("deploy/systemd/config.toml", "etc/kerno/config.toml");

/// The shells, and where each looks for completions.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/kerno"),
    ("zsh", "usr/share/zsh/vendor-completions/_kerno"),
    ("fish", "usr/share/fish/vendor_completions.d/kerno.fish"),
];

impl Contents {
    /// Takes the files of the checkout, and has the program itself write its manual and completions.
    pub(crate) fn gather(program: &Path) -> Result<Self> {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let mut entries = vec![Entry::new(PROGRAM, 0o755, read(program)?)];
        for (from, to) in FILES {
            entries.push(Entry::new(to, 0o644, read(&workspace::root().join(from))?));
        }
        let config = read(&workspace::root().join(CONFIG.0))?;
        entries.push(Entry { is_config: true, ..Entry::new(CONFIG.1, 0o640, config) });
        for (shell, to) in COMPLETIONS {
            entries.push(Entry::new(to, 0o644, run(program, &["completions", shell])?));
        }
        let manual = tempfile::tempdir()?;
        let directory = manual.path().to_str().context("the temporary directory's name is no text")?;
        run(program, &["manual", directory])?;
        for page in std::fs::read_dir(manual.path())? {
            let page = page?;
            let to = format!("usr/share/man/man1/{}.gz", page.file_name().to_string_lossy());
            entries.push(Entry::new(&to, 0o644, gzip(&read(&page.path())?)?));
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self(entries))
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.0
    }

    pub(crate) fn program(&self) -> &[u8] {
        self.0.iter().find(|entry| entry.path == PROGRAM).map_or(&[], |entry| &entry.bytes)
    }
}

impl Entry {
    pub(crate) fn new(path: &str, mode: u32, bytes: Vec<u8>) -> Self {
        Self { path: path.to_owned(), mode, bytes, is_config: false }
    }
}

/// What the program prints.
fn run(program: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{} {} failed", program.display(), args.join(" "));
    Ok(output.stdout)
}

/// Compressed without name and time, as small as it can be.
pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// A text of the checkout.
pub(crate) fn text(path: &str) -> Result<String> {
    std::fs::read_to_string(workspace::root().join(path)).with_context(|| format!("cannot read {path}"))
}
