//! Debian's kernels, through an apt configuration of our own: the system's package sources stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// A kernel line and where Debian has it.
pub(super) struct Line {
    pub(super) name: &'static str,
    suite: &'static str,
    /// What the release begins with; the newest there is when empty.
    prefix: &'static str,
}

/// The long-term lines that distributions ship, and the newest there is.
pub(super) const LINES: [Line; 5] = [
    Line { name: "5.10", suite: "bullseye-security", prefix: "5.10." },
    Line { name: "6.1", suite: "bookworm-security", prefix: "6.1." },
    Line { name: "6.12", suite: "bookworm-security", prefix: "6.12." },
    Line { name: "6.18", suite: "trixie-backports", prefix: "6.18." },
    Line { name: "newest", suite: "trixie-backports", prefix: "" },
];

/// A kernel to test on.
pub(super) struct Kernel {
    pub(super) line: &'static str,
    /// As `uname -r` will say.
    pub(super) release: String,
    /// In newer lines an image is split into several.
    pub(super) packages: Vec<String>,
}

pub(super) struct Archive {
    config: PathBuf,
    home: PathBuf,
}

const FLAVOUR: &str = "-cloud-amd64";

impl Archive {
    /// Makes the configuration and reads the lists of packages.
    pub(super) fn open(home: &Path) -> anyhow::Result<Self> {
        for folder in ["lists/partial", "cache/archives/partial", "download"] {
            fs::create_dir_all(home.join(folder))?;
        }
        let home = home.canonicalize()?;
        let sources = home.join("sources.list");
        let mut text = String::new();
        for suite in LINES.iter().map(|line| line.suite).collect::<std::collections::BTreeSet<_>>() {
            let repository = repository(if suite.ends_with("-security") { "debian-security" } else { "debian" })?;
            text +=
                &format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {repository} {suite} main\n");
        }
        fs::write(&sources, text)?;
        let config = home.join("apt.conf");
        let show = |path: &Path| path.display().to_string();
        fs::write(
            &config,
            format!(
                "Dir::State \"{home}\";\nDir::State::status \"/dev/null\";\nDir::Cache \"{home}/cache\";\n\
                 Dir::Etc::sourcelist \"{sources}\";\nDir::Etc::sourceparts \"-\";\nAPT::Architecture \"amd64\";\n\
                 APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n",
                home = show(&home),
                sources = show(&sources),
            ),
        )?;
        let archive = Self { config, home };
        archive.apt("apt-get", &["update", "-qq"])?;
        Ok(archive)
    }

    /// The newest of each line.
    pub(super) fn kernels(&self) -> anyhow::Result<Vec<Kernel>> {
        let names = self.apt("apt-cache", &["pkgnames", "linux-"])?;
        let releases: Vec<&str> = names
            .lines()
            .filter_map(|name| name.strip_prefix("linux-image-"))
            .filter(|release| {
                release.ends_with(FLAVOUR) && release.split('.').count() > 2 && !release.contains("deb11.")
            })
            .collect();
        LINES
            .iter()
            .map(|line| {
                let newest = releases
                    .iter()
                    .filter(|release| release.starts_with(line.prefix))
                    .max_by_key(|release| version(release))
                    .with_context(|| format!("Debian's {} has no kernel {}", line.suite, line.name))?;
                let parts = ["image", "binary", "modules", "base"];
                let packages = parts
                    .iter()
                    .map(|part| format!("linux-{part}-{newest}"))
                    .filter(|package| names.lines().any(|name| name == package))
                    .collect();
                Ok(Kernel { line: line.name, release: (*newest).to_owned(), packages })
            })
            .collect()
    }

    /// Fetches packages, or finds them fetched before; the files.
    pub(super) fn fetch(&self, packages: &[String]) -> anyhow::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for package in packages {
            let folder = self.home.join("download").join(package);
            if !folder.exists() {
                let partial = self.home.join("download").join(format!("{package}.partial"));
                let _ = fs::remove_dir_all(&partial);
                fs::create_dir_all(&partial)?;
                let output = Command::new("apt-get")
                    .args(["download", "-qq", package])
                    .env("APT_CONFIG", &self.config)
                    .current_dir(&partial)
                    .output()?;
                ensure!(output.status.success(), "cannot fetch {package}: {}", String::from_utf8_lossy(&output.stderr));
                fs::rename(&partial, &folder)?;
            }
            files.extend(fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path())));
        }
        Ok(files)
    }

    fn apt(&self, tool: &str, args: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(tool).args(args).env("APT_CONFIG", &self.config).output()?;
        ensure!(output.status.success(), "{tool} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Numbers of a release in order of weight: `6.12.117+deb12` is 6, 12, 117, 12.
fn version(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Where this machine gets its Debian packages from.
fn repository(name: &str) -> anyhow::Result<String> {
    let output = Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().map(|line| line.trim_end_matches('/')).find(|line| line.ends_with(&format!("/{name}")));
    found
        .map(str::to_owned)
        .with_context(|| format!("this machine's apt has no {name} repository; it must be a Debian"))
}
