//! What `/proc/PID/status` and `/proc/PID/limits` say.

use super::View;

/// What a line of `/proc/PID/status` says, the first word.
pub(super) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
}

pub(super) fn real_uid(status: &str) -> Option<u32> {
    field(status, "Uid:")?.parse().ok()
}

/// A soft limit, by its name in `/proc/PID/limits`; `None` without one.
pub(super) fn limit(view: &View, name: &str) -> Option<u64> {
    let text = view.text("limits")?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().find_map(soft)?
}

/// The first word that is a value; inner `None` if it is unlimited. The names have several words, without digits.
fn soft(word: &str) -> Option<Option<u64>> {
    if word == "unlimited" { Some(None) } else { word.parse().ok().map(Some) }
}
