//! How long the programs are, so that none grows unnoticed: `docs/instructions.md`, made of the committed objects and the stored kernels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use super::{KERNELS, PLANNED, assert_none, in_crate, knobs};

/// What a program may grow by without a word.
const GROWTH_PERCENT: usize = 10;

/// By object and program: words in the object, and on each kernel those that can run there; `None` where it is not loaded.
type Lengths = BTreeMap<String, Vec<Option<usize>>>;

fn page() -> PathBuf {
    in_crate("../../docs/instructions.md")
}

fn measured() -> Lengths {
    let mut lengths = Lengths::new();
    for planned in PLANNED.iter() {
        let (_, plan) = planned.kernel.plans.iter().find(|(object, _)| object.name == planned.object.name).unwrap();
        // Everything as by default, but for our own process id, which each run has.
        let knobs = knobs(planned.object.data, plan, |knob| knob.starts_with("cfg_") && knob != "cfg_self_tgid");
        let row = lengths
            .entry(format!("{} `{}`", planned.object.name, planned.program))
            .or_insert_with(|| vec![None; KERNELS.len() + 1]);
        let at = KERNELS.iter().position(|kernel| kernel.line == planned.kernel.line).unwrap();
        row[0] = Some(planned.linked.instructions(planned.program).len());
        row[at + 1] = Some(planned.linked.reach(planned.program, &knobs).words);
    }
    lengths
}

fn written(lengths: &Lengths) -> String {
    let mut text = String::from(
        "# Lengths of the programs\n\n\
        The length of each program with the functions it calls, in words of 8 bytes, as the kernel counts instructions: in the committed object, and\n\
        on each kernel of `crates/kerno-bpf/tests/btf` where it can run with default settings. The kernel removes dead code when it loads a program,\n\
        and adds a few instructions for each look-up in a map. How many of them an event executes is another matter:\n\
        [what watching costs](overhead.md). [kernels.md](kernels.md) has the work of the verifier.\n\n\
        Written by `KERNO_WRITE_DOCS=1 cargo test -p kerno-bpf --lib instructions`. Without the variable the same test fails if a program is not in\n\
        this table, or is more than a tenth longer than here.\n\n",
    );
    let lines = KERNELS.iter().map(|kernel| format!("{}.{}", kernel.line.major, kernel.line.minor));
    let head: Vec<_> = ["program".to_owned(), "object".to_owned()].into_iter().chain(lines).collect();
    let rows = lengths.iter().map(|(name, row)| {
        let cells = row.iter().map(|cell| cell.map_or_else(String::new, |words| words.to_string()));
        std::iter::once(name.clone()).chain(cells).collect::<Vec<_>>()
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = rows.iter().map(|row| row[0].len()).max().unwrap();
    for (i, row) in rows.iter().enumerate() {
        write!(text, "| {:<width$} |", row[0]).unwrap();
        row[1..].iter().for_each(|cell| write!(text, " {cell:>6} |").unwrap());
        text.push('\n');
        if i == 0 {
            writeln!(text, "|{}|{}", "-".repeat(width + 2), "-------:|".repeat(row.len() - 1)).unwrap();
        }
    }
    text
}

fn read(text: &str) -> Lengths {
    let rows = text.lines().filter(|line| line.contains(" `on_"));
    rows.map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let name = cells.next().unwrap().to_owned();
        (name, cells.map(|cell| cell.parse().ok()).collect())
    })
    .collect()
}

/// Why the table is not true any more.
fn grown(known: &Lengths, now: &Lengths) -> BTreeSet<String> {
    let mut failures = BTreeSet::new();
    let columns: Vec<_> = std::iter::once("the object".to_owned())
        .chain(KERNELS.iter().map(|kernel| format!("Linux {}", kernel.line)))
        .collect();
    for (name, row) in now {
        let Some(before) = known.get(name) else {
            failures.insert(format!("{name} is not in docs/instructions.md"));
            continue;
        };
        for (i, column) in columns.iter().enumerate() {
            match (before.get(i).copied().flatten(), row[i]) {
                (None, Some(_)) => {
                    failures.insert(format!("{name}: docs/instructions.md has nothing for {column}"));
                }
                (Some(before), Some(words)) if words * 100 > before * (100 + GROWTH_PERCENT) => {
                    failures.insert(format!("{name}: {words} words for {column}, {before} in docs/instructions.md"));
                }
                (Some(_), None) => {
                    failures.insert(format!("{name}: is not loaded on {column}, and docs/instructions.md says so"));
                }
                _ => {}
            }
        }
    }
    let gone = known.keys().filter(|name| !now.contains_key(*name));
    failures.extend(gone.map(|name| format!("docs/instructions.md has {name}, which is no program")));
    failures
}

#[test]
fn no_program_grew_unnoticed() {
    let now = measured();
    assert!(now.len() > 60, "only {} programs", now.len());
    if std::env::var_os("KERNO_WRITE_DOCS").is_some() {
        std::fs::write(page(), written(&now)).unwrap();
    }
    let mut failures = grown(&read(&std::fs::read_to_string(page()).unwrap()), &now);
    if !failures.is_empty() {
        failures.insert("write it anew: KERNO_WRITE_DOCS=1 cargo test -p kerno-bpf --lib instructions".to_owned());
    }
    assert_none(&failures);
}

#[test]
fn growth_and_missing_programs_are_seen() {
    let now = measured();
    let (name, row) = now.iter().next().unwrap();
    let seen = |change: &dyn Fn(&mut Lengths)| {
        let mut table = read(&written(&now));
        assert_eq!(table, now);
        change(&mut table);
        grown(&table, &now).len()
    };
    assert_eq!(seen(&|_| {}), 0);
    assert_eq!(seen(&|table| drop(table.remove(name))), 1);
    assert_eq!(seen(&|table| drop(table.insert("none `on_nothing`".to_owned(), row.clone()))), 1);
    let tenth_less = |words: usize| words * 100 / (100 + GROWTH_PERCENT);
    assert_eq!(seen(&|table| table.get_mut(name).unwrap()[0] = row[0].map(|words| tenth_less(words) - 1)), 1);
    assert_eq!(seen(&|table| table.get_mut(name).unwrap()[0] = row[0].map(|words| tenth_less(words) + 1)), 0);
}
