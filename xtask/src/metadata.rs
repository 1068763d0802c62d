//! The workspace's crates, as cargo sees them.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use kerno_kit::cargo::cargo;
use kerno_kit::workspace;
use serde::Deserialize;

/// A crate of the workspace.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    manifest_path: PathBuf,
    /// `None`: it may be published.
    publish: Option<Vec<String>>,
    pub(crate) targets: Vec<Target>,
    pub(crate) dependencies: Vec<Dependency>,
}

/// A library, a program, a test.
#[derive(Deserialize)]
pub(crate) struct Target {
    pub(crate) kind: Vec<String>,
    pub(crate) src_path: PathBuf,
}

/// What a crate names in its manifest, for whatever purpose.
#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Where it is, when it is no crate of a registry.
    pub(crate) path: Option<PathBuf>,
}

impl Package {
    /// Its folder, relative to the workspace's.
    pub(crate) fn folder(&self) -> &Path {
        let folder = self.manifest_path.parent().unwrap_or(&self.manifest_path);
        folder.strip_prefix(workspace::root()).unwrap_or(folder)
    }

    /// Whether users can depend on it.
    pub(crate) fn is_public_library(&self) -> bool {
        self.publish.is_none() && self.targets.iter().any(Target::is_library)
    }
}

impl Target {
    pub(crate) fn is_library(&self) -> bool {
        self.kind.iter().any(|kind| kind == "lib")
    }

    /// Whether it is a library or a program, not a test, an example or a build script.
    pub(crate) fn is_shipped(&self) -> bool {
        self.kind.iter().any(|kind| kind == "lib" || kind == "bin")
    }
}

/// All crates of the workspace, by name.
pub(crate) fn packages() -> anyhow::Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let output = cargo().args(["metadata", "--no-deps", "--format-version", "1"]).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    let mut metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    metadata.packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(metadata.packages)
}
