//! What an entry of the table has.

/// A kind of message of the kernel.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// Its stable id.
    pub id: &'static str,
    /// What it is, in a few words.
    pub title: &'static str,
    /// How it is recognised, from the start of the message: text as it is, `{name}` for what varies, `{name:n}` for a decimal and `{name:x}`
    /// for a hexadecimal number, `{name:w}` for what has no white space, and `{_}` for what is of no interest. More may follow.
    pub patterns: &'static [&'static str],
    /// Messages as kernels write them.
    pub examples: &'static [&'static str],
    /// What the kernel says with it.
    pub meaning: &'static str,
    /// Why that happens.
    pub why: &'static str,
    pub(super) steps: &'static [Step],
    /// The rules of the doctor that are about the same, by id.
    pub rules: &'static [&'static str],
    /// The file of the kernel's source that writes it.
    pub source: &'static str,
    /// The kernel from which on it is written so, where that is known and newer than 5.10.
    pub since: Option<&'static str>,
}

/// What to do; commands with `{name}` where the message names it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A command that only reads, and what it is for.
    Look(&'static str, &'static str),
    /// A command that changes something, and what it is for.
    Change(&'static str, &'static str),
    /// What no single command does.
    Do(&'static str),
}
