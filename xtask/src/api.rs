//! The public API of the libraries, one line an item, so that a change of it is seen in review.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use kerno_kit::{cargo::cargo, workspace};

use crate::metadata;

/// Where the lists are.
const FOLDER: &str = "docs/api";

/// Writes the lists of all libraries that users can depend on, or compares them with what is committed.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let folder = workspace::root().join(FOLDER);
    let packages = metadata::packages()?;
    let libraries: Vec<_> = packages.iter().filter(|package| package.is_public_library()).collect();
    let mut wanted = BTreeSet::new();
    let mut changed = Vec::new();
    fs::create_dir_all(&folder)?;
    for library in libraries {
        let name = format!("{}.txt", library.name);
        let path = folder.join(&name);
        let now = items(&library.name)?;
        println!("{FOLDER}/{name}: {} items", now.len());
        if check {
            let committed = fs::read_to_string(&path).unwrap_or_default();
            changed.extend(difference(&committed, &now).into_iter().map(|line| format!("{}: {line}", library.name)));
        } else {
            fs::write(&path, now.iter().map(|item| format!("{item}\n")).collect::<String>())?;
        }
        wanted.insert(name);
    }
    for stale in stale(&folder, &wanted)? {
        if check {
            changed.push(format!("{FOLDER}/{stale}: there is no such library"));
        } else {
            fs::remove_file(folder.join(stale))?;
        }
    }
    if !changed.is_empty() {
        changed.iter().for_each(|line| println!("{line}"));
        bail!(
            "the public API is not what {FOLDER} says: {} differences (- gone, + new). If they are meant, run \
             `cargo xtask api`, commit what it writes, and say so in CHANGELOG.md",
            changed.len()
        );
    }
    Ok(())
}

/// Each public item with its signature, sorted. Left out are implementations that every type has, and the functions in derived ones:
/// that a trait is derived says all of them.
fn items(package: &str) -> anyhow::Result<BTreeSet<String>> {
    let json = document(package)?;
    let list = |derived: bool| -> anyhow::Result<BTreeSet<String>> {
        let api = public_api::Builder::from_rustdoc_json(&json)
            .omit_blanket_impls(true)
            .omit_auto_trait_impls(true)
            .omit_auto_derived_impls(!derived)
            .build()
            .with_context(|| format!("{}: it is read in the form that Rust 1.95 writes", json.display()))?;
        Ok(api.items().map(ToString::to_string).collect())
    };
    let mut items = list(false)?;
    items.extend(list(true)?.into_iter().filter(|item| item.starts_with("impl")));
    Ok(items)
}

/// Has rustdoc describe a library, with all its features, and gives the file.
fn document(package: &str) -> anyhow::Result<PathBuf> {
    let root = workspace::root();
    let status = cargo()
        .args(["rustdoc", "--quiet", "--package", package, "--lib", "--all-features"])
        .args(["--", "-Z", "unstable-options", "--output-format", "json", "--cap-lints", "allow"])
        .env("RUSTDOC", root.join(".cargo/rustdoc-json"))
        .status()?;
    ensure!(status.success(), "rustdoc cannot describe {package}");
    Ok(workspace::target().join("doc").join(format!("{}.json", package.replace('-', "_"))))
}

/// Lines that went and lines that came.
fn difference(committed: &str, now: &BTreeSet<String>) -> Vec<String> {
    let before: BTreeSet<_> = committed.lines().map(str::to_owned).collect();
    let gone = before.difference(now).map(|line| format!("- {line}"));
    gone.chain(now.difference(&before).map(|line| format!("+ {line}"))).collect()
}

/// Lists of libraries that are no more.
fn stale(folder: &Path, wanted: &BTreeSet<String>) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".txt") && !wanted.contains(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn what_went_and_what_came_is_told() {
        let now = ["pub fn a()", "pub fn c(u32)"].map(str::to_owned).into();
        assert_eq!(difference("pub fn a()\npub fn c()\n", &now), ["- pub fn c()", "+ pub fn c(u32)"]);
        assert!(difference("pub fn a()\npub fn c(u32)\n", &now).is_empty());
    }
}
