//! Titles of findings: what is wrong, and the numbers that are known.

/// `WHAT: NUMBER, NUMBER`, with those numbers that the finding has; only `WHAT` when it has none.
pub(crate) fn title(what: &str, numbers: impl IntoIterator<Item = Option<String>>) -> String {
    let known: Vec<String> = numbers.into_iter().flatten().collect();
    if known.is_empty() { what.to_owned() } else { format!("{what}: {}", known.join(", ")) }
}
