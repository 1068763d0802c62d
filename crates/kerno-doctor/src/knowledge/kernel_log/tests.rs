//! That the table is right in itself; what it says of the kernel is checked by reading.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::{Advice, COMPILED, Explanation, entries, explain};
use crate::rule_by_id;

fn found(text: &str) -> Explanation {
    explain(text).unwrap_or_else(|| panic!("{text:?} is not in the table"))
}

#[test]
fn every_pattern_is_understood() {
    let all: usize = entries().map(|entry| entry.patterns.len()).sum();
    assert_eq!(COMPILED.patterns.len(), all);
    assert_eq!(COMPILED.set.len(), all);
    assert!(COMPILED.prefix.is_some());
}

#[test]
fn every_entry_recognises_its_examples_and_no_other_does() {
    let mut wrong = Vec::new();
    for entry in entries() {
        assert!(!entry.examples.is_empty(), "{}", entry.id);
        for example in entry.examples {
            let claimed: BTreeSet<_> =
                COMPILED.set.matches(example).iter().map(|index| COMPILED.patterns[index].0.id).collect();
            if claimed != BTreeSet::from([entry.id]) {
                wrong.push((entry.id, example, claimed));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn entries_are_whole_and_their_rules_exist() {
    let mut ids = BTreeSet::new();
    for entry in entries() {
        assert!(ids.insert(entry.id), "{} twice", entry.id);
        let name = entry.id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        assert!(name, "{}", entry.id);
        for text in [entry.title, entry.meaning, entry.why, entry.source] {
            assert!(!text.is_empty() && text.trim() == text, "{}: {text:?}", entry.id);
        }
        assert!(entry.meaning.ends_with('.') && entry.why.ends_with('.'), "{}", entry.id);
        assert!(!entry.steps.is_empty(), "{}: what is to be done?", entry.id);
        for rule in entry.rules {
            assert!(rule_by_id(rule).is_some(), "{}: there is no rule {rule}", entry.id);
        }
    }
    assert!(ids.len() >= 60, "{}", ids.len());
}

/// A command that no message fills in would never be seen.
#[test]
fn every_step_is_told_for_some_example() {
    let mut untold = Vec::new();
    for entry in entries() {
        let told: BTreeSet<_> = entry
            .examples
            .iter()
            .flat_map(|example| explain(example).map(|found| found.steps).unwrap_or_default())
            .map(|step| match step {
                Advice::Look { why, .. } | Advice::Change { why, .. } => why,
                Advice::Do { text } => text,
            })
            .collect();
        for step in entry.steps {
            let (super::Step::Look(_, why) | super::Step::Change(_, why) | super::Step::Do(why)) = step;
            if !told.contains(why) {
                untold.push((entry.id, step));
            }
        }
    }
    assert!(untold.is_empty(), "{untold:#?}");
}

#[test]
fn names_are_taken_out_and_put_into_commands() {
    let hung = found("INFO: task kworker/u8:2:1187 blocked for more than 245 seconds.");
    let name = |name: &str| hung.names[name].as_str();
    assert_eq!((name("process"), name("pid"), name("seconds")), ("kworker/u8:2", "1187", "245"));
    let Advice::Look { command, .. } = &hung.steps[0] else { panic!("{hung:?}") };
    assert_eq!(command, "cat /proc/1187/stack");
    let killed = found("Out of memory: Killed process 12 (a b) c) total-vm:1kB, anon-rss:2kB, file-rss:0kB");
    assert_eq!(killed.names["process"], "a b) c");
}

#[test]
fn what_logs_write_before_a_message_does_not_matter() {
    let message = "TCP: too many orphaned sockets";
    for line in [
        "[12345.678901] TCP: too many orphaned sockets",
        "[    0.000001][    T1] TCP: too many orphaned sockets",
        "[Sun Nov 29 20:51:10 2026] TCP: too many orphaned sockets",
        "<6>[   12.345678] TCP: too many orphaned sockets",
        "kern  :info  : [   12.345678] TCP: too many orphaned sockets",
        "2026-11-29T20:51:10,123456+00:00 TCP: too many orphaned sockets",
        "Nov 29 20:51:10 web-1 kernel: TCP: too many orphaned sockets",
        "Nov  2 20:51:10 web-1 kernel: [12345.678901] TCP: too many orphaned sockets",
        "2026-11-29T20:51:10+0000 web-1 kernel: TCP: too many orphaned sockets\nmore",
        "\n  TCP: too many orphaned sockets  ",
    ] {
        let found = found(line);
        assert_eq!((found.id, &*found.message), ("tcp_orphans", message), "{line:?}");
    }
}

#[test]
fn what_only_looks_like_a_message_is_not_explained() {
    for text in [
        "",
        "all is well",
        "my log says: INFO: task dd:456 blocked for more than 120 seconds.",
        "INFO: task dd blocked for more than 120 seconds.",
        "I/O error",
        "Out of memory",
        "EXT4-fs (sda1): mounted filesystem 1b2c r/w with ordered data mode. Quota mode: none.",
        "XFS (dm-0): Ending clean mount",
        "usb 1-1: new high-speed USB device number 3 using xhci_hcd",
        "nvme nvme0: 4/0/0 default/read/poll queues",
    ] {
        assert_eq!(explain(text), None, "{text:?}");
    }
}

#[test]
fn names_that_could_harm_are_in_no_command() {
    for device in ["\u{1b}[31m", "-rf", "a/../b"] {
        let error = found(&format!("I/O error, dev {device}, sector 1 op 0x0:(READ)"));
        assert_eq!(error.names["device"], device);
        assert!(error.steps.iter().all(|step| matches!(step, Advice::Do { .. })), "{error:?}");
    }
    let quoted = found("I/O error, dev $(reboot), sector 1 op 0x0:(READ)");
    let Advice::Look { command, .. } = &quoted.steps[1] else { panic!("{quoted:?}") };
    assert_eq!(command, "smartctl -a /dev/'$(reboot)'");
    let within = found("usb 1;reboot: USB disconnect, device number 5");
    assert_eq!(within.steps.len(), 1, "not within the quotes of another word: {within:?}");
}

proptest! {
    #[test]
    fn any_text_is_borne(text in ".{0,400}") {
        let _ = explain(&text);
    }

    /// Messages that are cut off, or have anything put into them.
    #[test]
    fn any_part_of_a_message_is_borne(index in 0usize..1000, cut in 0usize..300, noise in ".{0,20}") {
        let all: Vec<_> = entries().flat_map(|entry| entry.examples).collect();
        let example = all[index % all.len()];
        let cut = (0..=cut.min(example.len())).rev().find(|at| example.is_char_boundary(*at)).unwrap();
        let _ = explain(&format!("{}{noise}{}", &example[..cut], &example[cut..]));
        let _ = explain(&example[..cut]);
    }
}

#[test]
fn long_lines_take_no_long_time() {
    let begun = std::time::Instant::now();
    for start in ["INFO: task ", "I/O error, dev ", "traps: ", "x"] {
        for fill in ["a:1 blocked ", ": ", "[", "9"] {
            let _ = explain(&format!("{start}{}", fill.repeat(200_000)));
        }
    }
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

/// `docs/kernel-messages.md`. Set `KERNO_WRITE_DOCS=1` to write it anew.
#[test]
fn the_page_is_current() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/kernel-messages.md");
    let page = page();
    if std::env::var_os("KERNO_WRITE_DOCS").is_some() {
        std::fs::write(file, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(file).unwrap_or_default() == page,
        "docs/kernel-messages.md: write it anew with `KERNO_WRITE_DOCS=1 cargo test -p kerno-doctor --lib kernel_log`"
    );
}

fn page() -> String {
    let mut page = format!(
        "# Messages of the kernel\n\n\
         `kerno explain` knows {} kinds of messages that Linux writes to its log: `kerno explain 'TEXT'` explains one, `kerno explain --last` the newest of\n\
         this machine, `dmesg | kerno explain -` all of a log. It needs no network. What is not here is not explained: it never guesses.\n\n\
         This page is made from the table in `crates/kerno-doctor/src/knowledge/kernel_log/` by\n\
         `KERNO_WRITE_DOCS=1 cargo test -p kerno-doctor --lib kernel_log`; the same test fails if it is stale.\n",
        entries().count()
    );
    for entry in entries() {
        write!(page, "\n## {}\n\n{}.\n\n", entry.id, capital(entry.title)).unwrap();
        for example in entry.examples {
            writeln!(page, "    {example}").unwrap();
        }
        write!(page, "\n{}\n\nWhy: {}\n\n", entry.meaning, entry.why).unwrap();
        for step in entry.steps {
            match step {
                super::Step::Look(command, why) => writeln!(page, "- look: `{command}` {why}"),
                super::Step::Change(command, why) => writeln!(page, "- change: `{command}` {why}"),
                super::Step::Do(text) => writeln!(page, "- {text}"),
            }
            .unwrap();
        }
        write!(page, "\nWritten by `{}`", entry.source).unwrap();
        if let Some(since) = entry.since {
            write!(page, ", since Linux {since}").unwrap();
        }
        page.push('.');
        if !entry.rules.is_empty() {
            let rules: Vec<_> = entry.rules.iter().map(|rule| format!("[`{rule}`](rules.md#{rule})")).collect();
            write!(page, " Rules: {}.", rules.join(", ")).unwrap();
        }
        page.push('\n');
    }
    page
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + characters.as_str())
}
