//! Which crate uses which, and which file of a crate uses which: arrows go one way.
//!
//! Crates stand in an order, and each uses only those before it. Files of a crate form no circles, except that a module and its own
//! parts may know each other. Circles that there are already stand in `known-circles.txt` beside this file; their number only falls.
//! Tests are left out: they may look at whatever uses what they test.

mod circles;
mod crates;
mod modules;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use kerno_kit::workspace;

use crate::metadata::{self, Package, Target};
use circles::Graph;

/// From a file to one that it uses, both relative to the workspace.
type Arrow = (PathBuf, PathBuf);

const HEAD: &str = "\
# Arrows between files that are part of a circle, one a line: FILE -> FILE THAT IT USES.
# Written by `cargo xtask arrows --write`, which refuses to add to their number. A circle that is not here fails CI.
";

/// Checks both kinds of arrows; with `write`, writes the list of known circles when it has become no longer.
pub(crate) fn run(write: bool) -> anyhow::Result<()> {
    let packages = metadata::packages()?;
    let wrong = crates::wrong_arrows(&packages);
    wrong.iter().for_each(|line| println!("{line}"));
    ensure!(wrong.is_empty(), "{} arrows between crates go the wrong way", wrong.len());
    println!("crates: {} in order", packages.len());

    let mut found = BTreeSet::new();
    let (mut files, mut number) = (0, 0);
    for package in &packages {
        let graph = graph(package)?;
        files += graph.files();
        let circles = graph.circles();
        number += circles.len();
        for circle in &circles {
            let arrows = graph.arrows_within(circle);
            println!("{}: a circle of {} files, {} arrows:", package.name, circle.len(), arrows.len());
            let way = graph.shortest_way_round(circle);
            println!("    shortest way round: {}", way.join(" -> "));
            found.extend(arrows);
        }
    }
    println!("files: {files}, circles: {number}, arrows in circles: {}", found.len());

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/arrows/known-circles.txt");
    let known = read(&fs::read_to_string(&path).unwrap_or_default())?;
    if write {
        let is_first = !path.exists();
        ensure!(
            is_first || found.len() <= known.len(),
            "{} arrows are in circles and {} were: the list only shrinks",
            found.len(),
            known.len()
        );
        fs::write(&path, written(&found))?;
        return Ok(());
    }
    compare(&known, &found)
}

/// The files of a crate's library and programs, and who uses whom.
fn graph(package: &Package) -> anyhow::Result<Graph> {
    let mut graph = Graph::default();
    for target in package.targets.iter().filter(|target| target.is_shipped()) {
        add(target, &mut graph).with_context(|| target.src_path.display().to_string())?;
    }
    Ok(graph)
}

fn add(target: &Target, graph: &mut Graph) -> anyhow::Result<()> {
    let tree = modules::Tree::read(&target.src_path)?;
    let relative = |path: &Path| path.strip_prefix(workspace::root()).unwrap_or(path).to_owned();
    for (file, module) in tree.files() {
        graph.file(relative(file), module.to_vec());
    }
    for (from, to) in names::arrows(&tree) {
        graph.arrow(relative(&from), relative(&to));
    }
    Ok(())
}

fn written(arrows: &BTreeSet<Arrow>) -> String {
    let mut text = HEAD.to_owned();
    for (from, to) in arrows {
        let _ = writeln!(text, "{} -> {}", from.display(), to.display());
    }
    text
}

fn read(text: &str) -> anyhow::Result<BTreeSet<Arrow>> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let arrow = |line: &str| {
        let (from, to) = line.split_once(" -> ").with_context(|| format!("not FILE -> FILE: {line}"))?;
        Ok((from.into(), to.into()))
    };
    lines.map(arrow).collect()
}

/// Fails when a circle has come, and when one has gone and is still in the list.
fn compare(known: &BTreeSet<Arrow>, found: &BTreeSet<Arrow>) -> anyhow::Result<()> {
    let list = |arrows: &[&Arrow]| {
        let by_file = arrows.iter().fold(BTreeMap::<_, Vec<_>>::new(), |mut map, (from, to)| {
            map.entry(from).or_default().push(to.display().to_string());
            map
        });
        by_file.into_iter().map(|(from, to)| format!("\n  {} -> {}", from.display(), to.join(", "))).collect::<String>()
    };
    let new: Vec<_> = found.difference(known).collect();
    let gone: Vec<_> = known.difference(found).collect();
    if !new.is_empty() {
        bail!(
            "{} arrows make a circle of files that was not there. Move what both sides need to a file below them:{}",
            new.len(),
            list(&new)
        );
    }
    ensure!(
        gone.is_empty(),
        "{} arrows of known circles are gone: run `cargo xtask arrows --write` and commit the shorter list:{}",
        gone.len(),
        list(&gone)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(arrows: &[(&str, &str)]) -> BTreeSet<Arrow> {
        arrows.iter().map(|(from, to)| (from.into(), to.into())).collect()
    }

    #[test]
    fn the_list_is_read_as_it_is_written() {
        let arrows = set(&[("a.rs", "b.rs"), ("b.rs", "a.rs")]);
        assert_eq!(read(&written(&arrows)).unwrap(), arrows);
        assert!(read("a.rs b.rs").is_err());
    }

    #[test]
    fn a_new_circle_and_a_list_that_is_too_long_both_fail() {
        let (known, found) = (set(&[("a.rs", "b.rs")]), set(&[("a.rs", "c.rs")]));
        assert!(compare(&known, &known).is_ok());
        assert!(compare(&known, &found).unwrap_err().to_string().contains("a.rs -> c.rs"));
        assert!(compare(&known, &set(&[])).unwrap_err().to_string().contains("--write"));
    }
}
