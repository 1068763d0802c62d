//! Prints errors and notes: one line each on standard error, whatever they contain.

use std::fmt::Write as _;
use std::io::Write as _;

use kerno::model::text::Escaped;

/// Exit status of an error; clap's usage errors have the same.
pub(crate) const STATUS: u8 = 2;

/// Prints an error with its causes.
pub(crate) fn print(error: &anyhow::Error) {
    note(&format!("{error:#}"));
}

/// Prints a line that starts with the name of the command. Ignores a closed standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "kerno: {}", one_line(text));
}

/// The text without control sequences. Of many lines (the verifier's log), the first and the last that gives a reason.
pub(crate) fn one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut line = lines.next().unwrap_or_default().to_owned();
    // The verifier's last line is its statistics.
    if let Some(last) = lines.rfind(|line| !line.starts_with("processed ") && !line.starts_with("verification time")) {
        let _ = write!(line, " ... {last}");
    }
    // Escaped doubles backslashes, which escaped text in the message may have by now.
    line.split('\\').map(|part| Escaped(part.as_bytes()).to_string()).collect::<Vec<_>>().join("\\")
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn errors_are_one_harmless_line() {
        assert_eq!(one_line("plain"), "plain");
        assert_eq!(one_line(""), "");
        assert_eq!(one_line("a\x1b[31mb\\x07"), "a\\x1b[31mb\\x07");
        let log = "program on_x: refused\n0: (b7) r0 = 0\nR1 invalid mem access\nprocessed 3 insns (limit 1000000)\n";
        assert_eq!(one_line(log), "program on_x: refused ... R1 invalid mem access");
    }
}
