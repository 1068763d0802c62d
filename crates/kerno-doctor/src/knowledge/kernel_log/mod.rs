//! What the kernel's own messages mean: a table, written by hand, of what is in the kernel's source. Pure: text in, explanation out.
//!
//! An entry recognises its messages by patterns that are anchored at the start of the message. What is not in the table is not explained.

mod entry;
mod faults;
mod filesystems;
mod hardware;
mod lockups;
mod memory;
mod network;
mod pattern;
mod programs;
mod storage;
mod system;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::{Regex, RegexSet};
use serde::Serialize;

use crate::shell;
pub use entry::Entry;
use entry::Step;

/// The longest message that is looked at, in bytes: a record of the kernel's log has at most 1 KiB, and a log daemon puts a prefix before it.
pub const MAX_MESSAGE_BYTES: usize = 2048;

/// The tables, by theme.
const TABLES: &[&[Entry]] = &[
    lockups::TABLE,
    faults::TABLE,
    programs::TABLE,
    memory::TABLE,
    storage::TABLE,
    filesystems::TABLE,
    network::TABLE,
    hardware::TABLE,
    system::TABLE,
];

/// Every kind of message that is known, by theme.
///
/// ```
/// assert!(kerno_doctor::kernel_log::entries().any(|entry| entry.id == "hung_task"));
/// ```
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    TABLES.iter().copied().flatten()
}

/// What a message of the kernel means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// Which kind of message it is: the stable id of the entry.
    pub id: &'static str,
    /// What it is, in a few words.
    pub title: &'static str,
    /// The message, without what `dmesg` or a log daemon wrote before it. As it came: untrusted, and not escaped.
    pub message: String,
    /// What the message names, such as `pid`, `device` or `seconds`, by name. Untrusted, and not escaped.
    pub names: BTreeMap<String, String>,
    /// What the kernel says with it.
    pub meaning: &'static str,
    /// Why that happens.
    pub why: &'static str,
    /// What to do, in this order.
    pub steps: Vec<Advice>,
    /// The rules of the doctor that are about the same, by id.
    pub rules: &'static [&'static str],
    /// The file of the kernel's source that writes it.
    pub source: &'static str,
    /// The kernel from which on it is written so, where that is known and newer than 5.10.
    pub since: Option<&'static str>,
}

/// One thing to do about a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum Advice {
    /// A command that only reads.
    Look {
        /// The command, with what the message names filled in.
        command: String,
        /// What it is for.
        why: &'static str,
    },
    /// A command that changes something.
    Change {
        /// The command, with what the message names filled in.
        command: String,
        /// What it is for.
        why: &'static str,
    },
    /// What no single command does.
    Do {
        /// What to do.
        text: &'static str,
    },
}

/// Explains one line of the kernel's log; `None` if it is not in the table. What `dmesg`, `journalctl` or a log daemon writes before the
/// message (time, level, host) may be there. Only the first line of the text is read, and of that at most [`MAX_MESSAGE_BYTES`].
///
/// ```
/// use kerno_doctor::kernel_log::explain;
///
/// let found = explain("[ 363.2] INFO: task dd:456 blocked for more than 120 seconds.").unwrap();
/// assert_eq!((found.id, &*found.names["pid"]), ("hung_task", "456"));
/// assert!(explain("all is well").is_none());
/// ```
pub fn explain(text: &str) -> Option<Explanation> {
    let message = message(text);
    let pattern = COMPILED.set.matches(message).iter().next()?;
    let (entry, regex) = COMPILED.patterns.get(pattern)?;
    let found = regex.captures(message)?;
    let names: BTreeMap<String, String> = regex
        .capture_names()
        .flatten()
        .filter_map(|name| Some((name.to_owned(), found.name(name)?.as_str().to_owned())))
        .collect();
    Some(Explanation {
        id: entry.id,
        title: entry.title,
        message: message.to_owned(),
        meaning: entry.meaning,
        why: entry.why,
        steps: entry.steps.iter().filter_map(|step| advice(step, &names)).collect(),
        rules: entry.rules,
        source: entry.source,
        since: entry.since,
        names,
    })
}

/// The step with what the message names; `None` if it lacks something that the command needs.
fn advice(step: &Step, names: &BTreeMap<String, String>) -> Option<Advice> {
    Some(match *step {
        Step::Look(command, why) => Advice::Look { command: filled(command, names)?, why },
        Step::Change(command, why) => Advice::Change { command: filled(command, names)?, why },
        Step::Do(text) => Advice::Do { text },
    })
}

/// A command with its names filled in. Names are chosen by whoever may write to the log: those that a command could take for an option, or
/// a terminal for a control sequence, are in no command.
fn filled(command: &str, names: &BTreeMap<String, String>) -> Option<String> {
    let mut whole = String::new();
    let mut rest = command;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}')?;
        let value = names.get(name)?;
        let plain = value.chars().all(|c| c.is_ascii_graphic() || c == ' ') && !value.contains("..");
        if !plain || value.starts_with('-') {
            return None;
        }
        whole.push_str(before);
        let word = shell::word(value);
        // Quotes within quotes would end them.
        let quoted = whole.matches('\'').count() % 2 == 1;
        if quoted && word != *value {
            return None;
        }
        whole.push_str(&word);
        rest = after;
    }
    whole.push_str(rest);
    Some(whole)
}

/// The message of a line: bounded, and without what is written before it.
fn message(text: &str) -> &str {
    let line = text.trim_start_matches(['\n', '\r']).lines().next().unwrap_or_default();
    let mut end = line.len().min(MAX_MESSAGE_BYTES);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    let line = line[..end].trim();
    let prefix = COMPILED.prefix.as_ref().and_then(|prefix| prefix.find(line)).map_or(0, |found| found.end());
    line[prefix..].trim_start()
}

/// What a line may begin with: the time and host of a log daemon, a level as a number or as `dmesg -x` writes it, and times and callers in brackets.
const PREFIX: &str = r"(?x)^
    (?: (?: [A-Z][a-z]{2}\s+\d{1,2}\ [\d:]{8} | \d{4}-\d\d-\d\d[T\ ]\S+ )\ (?:\S+\ )?kernel:\s* )?
    (?: <\d{1,3}> )?
    (?: (?:kern|user|daemon)\s*:\s*[a-z]+\s*:\s* )?
    (?: \d{4}-\d\d-\d\dT\S+\s+ )?
    (?: \[ (?: \s*\d+\.\d+ | [A-Z][a-z]{2}\ [A-Z][a-z]{2}\s+\d+\ [\d:]{8}\ \d{4} | \s*[TC]\d+ ) \] \s* )*";

/// All patterns, ready to be matched.
struct Compiled {
    prefix: Option<Regex>,
    set: RegexSet,
    patterns: Vec<(&'static Entry, Regex)>,
}

// A pattern that does not compile is left out here; a test sees to it that there is none.
static COMPILED: LazyLock<Compiled> = LazyLock::new(|| {
    let patterns: Vec<_> = entries()
        .flat_map(|entry| entry.patterns.iter().map(move |pattern| (entry, pattern)))
        .filter_map(|(entry, pattern)| Some((entry, Regex::new(&pattern::regex(pattern)?).ok()?)))
        .collect();
    let set = RegexSet::new(patterns.iter().map(|(_, regex)| regex.as_str())).unwrap_or_else(|_| RegexSet::empty());
    Compiled { prefix: Regex::new(PREFIX).ok(), set, patterns }
});

#[cfg(test)]
mod tests;
