//! What CONTRIBUTING.md and ARCHITECTURE.md say about the source must be true: code is the same as in the file that it names, files exist,
//! and each signal and each rule has what a new one is told to have.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names in a folder, of its folders or of its files.
fn names_in(folder: &str, folders: bool) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(Result::unwrap);
    let wanted = entries.filter(|entry| entry.path().is_dir() == folders);
    wanted.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// The blocks of code of a page that name a file: the file, and the code.
fn blocks(page: &str) -> Vec<(&str, String)> {
    let (mut found, mut lines) = (Vec::new(), page.lines());
    while let Some(line) = lines.next() {
        if let Some(info) = line.strip_prefix("```") {
            let code = lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            found.extend(info.split_once(' ').map(|(_, file)| (file, code)));
        }
    }
    found
}

/// The paths of files in backquotes, `{a,b}` written out.
fn paths(page: &str) -> Vec<String> {
    let places = ["crates/", "tools/", "xtask/", "docs/"];
    let quoted = page.split('`').skip(1).step_by(2);
    let mut found = Vec::new();
    for path in quoted.filter(|text| places.iter().any(|place| text.starts_with(place)) && !text.contains([' ', '*'])) {
        match path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
            Some((before, (names, after))) => {
                found.extend(names.split(',').map(|name| format!("{before}{name}{after}")));
            }
            None => found.push(path.to_owned()),
        }
    }
    found
}

#[test]
fn code_is_the_same_as_in_the_file_that_it_names() {
    let page = read("CONTRIBUTING.md");
    let blocks = blocks(&page);
    for (file, code) in &blocks {
        let source = read(file);
        let mut rest = source.as_str();
        for part in code.split("// ...\n") {
            let at = rest.find(part).unwrap_or_else(|| panic!("CONTRIBUTING.md differs from {file}:\n{part}"));
            rest = &rest[at + part.len()..];
        }
    }
    let shown: Vec<_> = blocks.iter().map(|(file, _)| *file).collect();
    let rule = "crates/kerno-doctor/src/rules/memory/example.rs";
    let list = "crates/kerno-doctor/src/rules/mod.rs";
    let signals = "crates/kerno-bpf/src/signals/mod.rs";
    assert_eq!(shown, [rule, list, "tools/lab/src/faults/descriptors.rs", signals]);
    // The rule is shown as a whole, without its tests.
    let source = read(rule);
    assert_eq!(blocks[0].1.trim_end(), source.split_once("\n#[cfg(test)]").unwrap().0.trim_end());
}

#[test]
fn files_exist() {
    let themes = names_in("crates/kerno-doctor/src/rules", true);
    let signals = names_in("crates/kerno-bpf/src/signals", true);
    assert!(themes.len() > 3 && signals.len() > 6, "{themes:?}, {signals:?}");
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let paths = paths(&read(page));
        assert!(paths.len() > 10, "{page}: {paths:?}");
        for path in paths {
            let once = BTreeSet::from([String::new()]);
            let names = match path.as_str() {
                path if path.contains("THEME") => &themes,
                path if path.contains("NAME") => &signals,
                _ => &once,
            };
            for name in names {
                let path = path.replace("THEME", name).replace("NAME", name);
                // The only signal without programs for its sums: file descriptors are counted with the tasks.
                let expected = !path.ends_with("fd_track_summary.bpf.c");
                assert_eq!(root().join(&path).exists(), expected, "{page}: {path}");
            }
        }
    }
}

#[test]
fn each_signal_is_a_folder_and_a_line() {
    let registry = read("crates/kerno-bpf/src/signals/mod.rs");
    let lines = registry.split_once("\nsignals! {\n").and_then(|(_, rest)| rest.split_once("\n}")).unwrap().0;
    let listed: BTreeSet<_> = lines.lines().map(|line| line.trim().split_once(':').unwrap().0.to_owned()).collect();
    assert_eq!(listed, names_in("crates/kerno-bpf/src/signals", true));
}

#[test]
fn each_rule_has_a_case_in_the_lab() {
    let faults = names_in("tools/lab/src/faults", false);
    let lab: String = faults.iter().map(|name| read(format!("tools/lab/src/faults/{name}"))).collect();
    for rule in kerno_doctor::rules() {
        // Only a hypervisor takes CPU time as a hypervisor does, and only `kerno start` follows objectives.
        let expected = !["cpu_steal", "objective_burn"].contains(&rule.id);
        assert_eq!(lab.contains(&format!("\"{}\"", rule.id)), expected, "{}", rule.id);
    }
    assert!(kerno_doctor::rule_by_id("major_faults").is_none(), "the example is not among the rules");
}
