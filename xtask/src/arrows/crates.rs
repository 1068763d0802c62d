//! Arrows between the crates of the workspace.

use std::path::Path;

use crate::metadata::Package;

/// The crates that are shipped, each of which uses only those before it.
const ORDER: &[&str] =
    &["kerno-model", "kerno-doctor", "kerno-bpf", "kerno-store", "kerno-daemon", "kerno", "kerno-cli"];

/// Developer commands and what they share. None of the above uses them; of each other they use only what stands here.
const TOOLS: &[Tool] = &[
    Tool { name: "kerno-kit", tools: &[], library: false },
    // It makes the objects that the library is built from.
    Tool { name: "xtask", tools: &["kerno-kit"], library: false },
    Tool { name: "kerno-package", tools: &["kerno-kit"], library: false },
    Tool { name: "kerno-lab", tools: &["kerno-kit"], library: true },
    Tool { name: "kerno-soak", tools: &["kerno-kit"], library: true },
    Tool { name: "kerno-bench", tools: &["kerno-kit"], library: true },
];

struct Tool {
    name: &'static str,
    tools: &'static [&'static str],
    /// Whether it may use the crates that are shipped.
    library: bool,
}

/// What is not as it should be, a line each. All kinds of dependencies count: a test that needs a later crate belongs there.
pub(super) fn wrong_arrows(packages: &[Package]) -> Vec<String> {
    let mut wrong = Vec::new();
    for package in packages {
        let uses: Vec<_> = package
            .dependencies
            .iter()
            .filter(|dependency| dependency.path.is_some())
            .map(|dependency| dependency.name.as_str())
            .collect();
        wrong.extend(problems(&package.name, package.folder(), &uses));
    }
    wrong
}

fn problems(name: &str, folder: &Path, uses: &[&str]) -> Vec<String> {
    let place = |name: &str| ORDER.iter().position(|other| *other == name);
    let allowed: Box<dyn Fn(&str) -> bool> = if let Some(at) = place(name) {
        Box::new(move |other| place(other).is_some_and(|other| other < at))
    } else if let Some(tool) = TOOLS.iter().find(|tool| tool.name == name) {
        Box::new(move |other| tool.tools.contains(&other) || tool.library && place(other).is_some())
    } else {
        return vec![format!(
            "{name} ({}) has no place: add it to ORDER or TOOLS in xtask/src/arrows/crates.rs",
            folder.display()
        )];
    };
    let back = uses.iter().filter(|other| !allowed(other));
    back.map(|other| format!("{name} must not use {other}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(name: &str, uses: &[&str]) -> usize {
        problems(name, Path::new("crates/a"), uses).len()
    }

    #[test]
    fn a_crate_uses_only_those_before_it() {
        assert_eq!(number("kerno-cli", &["kerno", "kerno-model"]), 0);
        assert_eq!(number("kerno-model", &["kerno-doctor"]), 1);
        assert_eq!(number("kerno", &["kerno"]), 1);
        assert_eq!(number("kerno-new", &[]), 1);
    }

    #[test]
    fn tools_stand_outside() {
        assert_eq!(number("kerno-lab", &["kerno-kit", "kerno", "kerno-model"]), 0);
        assert_eq!(number("kerno-lab", &["kerno-bench"]), 1);
        assert_eq!(number("xtask", &["kerno-kit"]), 0);
        assert_eq!(number("xtask", &["kerno"]), 1);
        assert_eq!(number("kerno", &["kerno-kit"]), 1);
    }
}
