//! Circles in a graph of files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use super::Arrow;

/// Files, the module that each is, and which uses which.
#[derive(Default)]
pub(super) struct Graph {
    modules: BTreeMap<PathBuf, Vec<String>>,
    arrows: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

impl Graph {
    pub(super) fn file(&mut self, file: PathBuf, module: Vec<String>) {
        self.modules.insert(file, module);
    }

    pub(super) fn arrow(&mut self, from: PathBuf, to: PathBuf) {
        if from != to {
            self.arrows.entry(from).or_default().insert(to);
        }
    }

    pub(super) fn files(&self) -> usize {
        self.modules.len()
    }

    /// Files that lead to each other, apart from a module and its own parts. The largest such groups: each file is in one at most.
    pub(super) fn circles(&self) -> Vec<BTreeSet<PathBuf>> {
        self.circles_of(&self.modules.keys().cloned().collect())
    }

    fn circles_of(&self, files: &BTreeSet<PathBuf>) -> Vec<BTreeSet<PathBuf>> {
        let mut circles = Vec::new();
        for group in self.groups(files) {
            match group.iter().find(|head| group.iter().all(|file| self.is_part(file, head))) {
                // A module with its own parts; these may still have circles without it.
                Some(head) => {
                    let parts = group.iter().filter(|file| *file != head).cloned().collect();
                    circles.extend(self.circles_of(&parts));
                }
                None => circles.push(group),
            }
        }
        circles
    }

    fn is_part(&self, file: &Path, head: &Path) -> bool {
        let module = |file: &Path| self.modules.get(file).map(Vec::as_slice).unwrap_or_default();
        module(file).starts_with(module(head))
    }

    /// Groups of two and more in which every file leads to every other.
    fn groups(&self, files: &BTreeSet<PathBuf>) -> Vec<BTreeSet<PathBuf>> {
        let reached: BTreeMap<_, _> = files.iter().map(|file| (file, self.reached(file, files))).collect();
        let leads =
            |from: &PathBuf, to: &PathBuf| reached.get(from).is_some_and(|reached: &BTreeSet<_>| reached.contains(to));
        let mut groups = Vec::new();
        let mut left = files.clone();
        while let Some(file) = left.pop_first() {
            let group: BTreeSet<_> =
                left.iter().filter(|other| leads(&file, other) && leads(other, &file)).cloned().collect();
            if !group.is_empty() {
                left.retain(|other| !group.contains(other));
                groups.push(group.into_iter().chain([file]).collect());
            }
        }
        groups
    }

    fn next<'a>(&'a self, file: &Path, within: &'a BTreeSet<PathBuf>) -> impl Iterator<Item = &'a PathBuf> {
        self.arrows.get(file).into_iter().flatten().filter(|to| within.contains(*to))
    }

    fn reached(&self, from: &Path, within: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
        let mut reached = BTreeSet::new();
        let mut queue: Vec<_> = self.next(from, within).collect();
        while let Some(file) = queue.pop() {
            if reached.insert(file.clone()) {
                queue.extend(self.next(file, within));
            }
        }
        reached
    }

    pub(super) fn arrows_within(&self, circle: &BTreeSet<PathBuf>) -> Vec<Arrow> {
        circle.iter().flat_map(|from| self.next(from, circle).map(|to| (from.clone(), to.clone()))).collect()
    }

    /// The fewest files that one can name of a circle; the first is the last, too.
    pub(super) fn shortest_way_round(&self, circle: &BTreeSet<PathBuf>) -> Vec<String> {
        let ways = circle.iter().filter_map(|file| self.way_back(file, circle));
        let shortest = ways.min_by_key(Vec::len).unwrap_or_default();
        shortest.iter().map(|file| file.display().to_string()).collect()
    }

    fn way_back(&self, start: &PathBuf, within: &BTreeSet<PathBuf>) -> Option<Vec<PathBuf>> {
        let mut ways = VecDeque::from([vec![start.clone()]]);
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop_front() {
            for to in self.next(way.last()?, within) {
                let longer = || way.iter().chain([to]).cloned().collect::<Vec<_>>();
                if to == start {
                    // A module and its parts are no circle.
                    if !way.iter().any(|head| way.iter().all(|file| self.is_part(file, head))) {
                        return Some(longer());
                    }
                } else if seen.insert(to) {
                    ways.push_back(longer());
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files are named as their modules: `a/b` is the module b in a.
    fn graph(arrows: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for (from, to) in arrows {
            for file in [from, to] {
                graph.file(file.into(), file.split('/').map(str::to_owned).collect());
            }
            graph.arrow(from.into(), to.into());
        }
        graph
    }

    fn circles(arrows: &[(&str, &str)]) -> Vec<Vec<String>> {
        let names = |circle: &BTreeSet<PathBuf>| circle.iter().map(|file| file.display().to_string()).collect();
        graph(arrows).circles().iter().map(names).collect()
    }

    #[test]
    fn arrows_one_way_are_no_circle() {
        assert!(circles(&[("a", "b"), ("b", "c"), ("a", "c")]).is_empty());
    }

    #[test]
    fn files_that_lead_to_each_other_are_one() {
        assert_eq!(circles(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]), [["a", "b", "c"]]);
        assert_eq!(circles(&[("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")]).len(), 2);
    }

    #[test]
    fn a_module_and_its_parts_may_know_each_other() {
        assert!(circles(&[("a", "a/b"), ("a/b", "a"), ("a", "a/c"), ("a/c", "a")]).is_empty());
        assert!(circles(&[("a", "a/b/c"), ("a/b/c", "a/b"), ("a/b", "a")]).is_empty());
    }

    #[test]
    fn its_parts_among_themselves_may_not() {
        let arrows = [("a", "a/b"), ("a/b", "a"), ("a/b", "a/c"), ("a/c", "a/b")];
        assert_eq!(circles(&arrows), [["a/b", "a/c"]]);
    }

    #[test]
    fn a_way_through_another_module_is_one() {
        let arrows = [("a", "a/b"), ("a/b", "x"), ("x", "a")];
        assert_eq!(circles(&arrows), [["a", "a/b", "x"]]);
        let graph = graph(&arrows);
        let circle = graph.circles().remove(0);
        assert_eq!(graph.shortest_way_round(&circle).len(), 4);
        assert_eq!(graph.arrows_within(&circle).len(), 3);
    }
}
