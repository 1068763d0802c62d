//! Patterns of the table as regular expressions.

use std::fmt::Write as _;

/// The regular expression of a pattern; `None` if the pattern is not well formed.
pub(super) fn regex(pattern: &str) -> Option<String> {
    let mut regex = "^".to_owned();
    let mut rest = pattern;
    while let Some((literal, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}')?;
        regex.push_str(&regex::escape(literal));
        // What ends a pattern goes to the end of the line.
        let any = if after.is_empty() { ".+" } else { ".+?" };
        let (name, kind) = match name.split_once(':') {
            None => (name, any),
            Some((name, "n")) => (name, "[0-9]+"),
            Some((name, "x")) => (name, "(?:0x)?[0-9a-fA-F]+"),
            Some((name, "w")) => (name, r"\S+"),
            Some(_) => return None,
        };
        if name == "_" {
            regex.push_str(".*?");
        } else if !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            write!(regex, "(?P<{name}>{kind})").ok()?;
        } else {
            return None;
        }
        rest = after;
    }
    regex.push_str(&regex::escape(rest));
    Some(regex)
}

#[cfg(test)]
mod tests {
    use super::regex;

    #[test]
    fn patterns_are_literal_but_for_names() {
        assert_eq!(regex("a.b {pid:n}").unwrap(), r"^a\.b (?P<pid>[0-9]+)");
        assert_eq!(regex("[{what}] {_}x {rest}").unwrap(), r"^\[(?P<what>.+?)\] .*?x (?P<rest>.+)");
        assert_eq!(regex("{a:q}").or(regex("{open")).or(regex("{}")).or(regex("{A}")), None);
    }
}
