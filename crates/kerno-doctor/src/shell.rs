//! Quoting for shell commands.

/// Makes one word of a shell command from any text, with single quotes where needed. Unit names may contain backslashes, and mount
/// points may contain spaces.
pub(crate) fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Whether a systemd unit has settings for processes and can be restarted. Scopes are created by other programs, and slices only
/// group units.
pub(crate) fn is_service(unit: &str) -> bool {
    unit.ends_with(".service")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_one_word() {
        assert_eq!(["/mnt/a", "a.service", "8:16"].map(word), ["/mnt/a", "a.service", "8:16"]);
        assert_eq!(word("/mnt/it's b"), r"'/mnt/it'\''s b'");
        assert_eq!(word(r"app-gnome\x2dterminal.scope"), r"'app-gnome\x2dterminal.scope'");
        assert_eq!(word(""), "''");
        assert!(is_service("a.service") && !is_service("session-3.scope"));
    }
}
