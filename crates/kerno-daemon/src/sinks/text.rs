//! Text that has to fit: cut between characters, and marked as cut.

/// What cut text ends with.
pub(super) const CUT: &str = "… (cut)";

/// Writes a character as a service wants it.
pub(super) type Escape = fn(char, &mut String);

/// As it is.
pub(super) fn plain(c: char, out: &mut String) {
    out.push(c);
}

/// The text as `escape` writes it, in at most so many characters; what is cut is a character as a whole.
pub(super) fn fitted(text: &str, most: usize, escape: Escape) -> String {
    cut(text, most, escape, |text| text.chars().count())
}

/// The same in at most so many bytes.
pub(super) fn fitted_bytes(text: &str, most: usize) -> String {
    cut(text, most, plain, str::len)
}

fn cut(text: &str, most: usize, escape: Escape, length: fn(&str) -> usize) -> String {
    let (mut out, mut piece, mut used) = (String::new(), String::new(), 0);
    // Where the mark still fits.
    let room = most.saturating_sub(length(CUT));
    let mut last = 0;
    for c in text.chars() {
        piece.clear();
        escape(c, &mut piece);
        used += length(&piece);
        if used > most {
            out.truncate(last);
            if length(CUT) <= most {
                out.push_str(CUT);
            }
            return out;
        }
        out.push_str(&piece);
        if used <= room {
            last = out.len();
        }
    }
    out
}

/// Lines of one text, at most so many characters long.
pub(super) fn lines(lines: &[String], before: &str, most: usize, escape: Escape) -> String {
    let text: Vec<_> = lines.iter().map(|line| format!("{before}{line}")).collect();
    fitted(&text.join("\n"), most, escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(c: char, out: &mut String) {
        if c == '<' { out.push_str("&lt;") } else { out.push(c) }
    }

    #[test]
    fn text_is_cut_between_characters_and_says_so() {
        assert_eq!(fitted("short", 5, plain), "short");
        assert_eq!(fitted("0123456789abc", 10, plain), "012… (cut)");
        assert_eq!(fitted("<<<<", 16, html), "&lt;&lt;&lt;&lt;");
        assert_eq!(fitted("<<<<", 15, html), "&lt;&lt;… (cut)");
        for most in 0..40 {
            let text = "é漢<字🦀".repeat(8);
            assert!(fitted(&text, most, html).chars().count() <= most);
            assert!(fitted_bytes(&text, most).len() <= most);
            assert!(!fitted(&text, most, html).contains("&l…"));
        }
        assert_eq!(fitted_bytes("漢字漢字漢字", 18), "漢字漢字漢字");
        assert_eq!(fitted_bytes("漢字漢字漢字", 17), "漢字… (cut)");
    }
}
