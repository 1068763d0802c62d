//! Text from untrusted bytes: any program on the machine can choose names and paths.

use std::fmt::{self, Write as _};

/// The bytes before the first NUL; all of them if there is none.
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

/// Displays bytes so that a terminal shows them but does not obey them. Escapes control characters (C0, C1, DEL), bidirectional
/// overrides, backslashes and invalid UTF-8. Pads on the right to the given width, in characters.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

/// Characters that reorder or hide the text around them (Unicode TR 36, "bidirectional text spoofing").
const fn deceives(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = 0;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                written += match c {
                    '\\' => write_counted(f, format_args!("\\\\"))?,
                    c if c.is_ascii_control() => write_counted(f, format_args!("\\x{:02x}", u32::from(c)))?,
                    c if c.is_control() || deceives(c) => write_counted(f, format_args!("{}", c.escape_unicode()))?,
                    c => {
                        f.write_char(c)?;
                        1
                    }
                };
            }
            for byte in chunk.invalid() {
                written += write_counted(f, format_args!("\\x{byte:02x}"))?;
            }
        }
        for _ in written..f.width().unwrap_or(0) {
            f.write_char(' ')?;
        }
        Ok(())
    }
}

fn write_counted(f: &mut fmt::Formatter<'_>, args: fmt::Arguments<'_>) -> Result<usize, fmt::Error> {
    struct Counter<'a, 'b>(&'a mut fmt::Formatter<'b>, usize);
    impl fmt::Write for Counter<'_, '_> {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            self.1 += s.len();
            self.0.write_str(s)
        }
    }
    let mut counter = Counter(f, 0);
    counter.write_fmt(args)?;
    Ok(counter.1)
}

/// Displays a duration with three significant digits and its unit: `870ns`, `1.27us`, `35.1ms`, `2.50s`.
#[derive(Clone, Copy, Debug)]
pub struct Latency(pub std::time::Duration);

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
        let (value, unit) = match ns {
            0..1_000 => return f.pad(&format!("{ns}ns")),
            1_000..1_000_000 => (ns as f64 / 1e3, "us"),
            1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
            _ => (ns as f64 / 1e9, "s"),
        };
        let decimals = match value {
            v if v < 9.995 => 2,
            v if v < 99.95 => 1,
            _ => 0,
        };
        f.pad(&format!("{value:.decimals$}{unit}"))
    }
}

/// Displays a positive error number by its name and meaning: `ENOENT (No such file or directory)`.
#[derive(Clone, Copy, Debug)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (crate::errno::name(self.0), crate::errno::description(self.0)) {
            (Some(name), Some(description)) => write!(f, "{name} ({description})"),
            _ => write!(f, "errno {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        let shown = |bytes: &[u8]| Escaped(bytes).to_string();
        assert_eq!(shown(b"plain name"), "plain name");
        assert_eq!(shown("naïve 漢".as_bytes()), "naïve 漢");
        assert_eq!(shown(b"\x1b[31mred\n"), "\\x1b[31mred\\x0a");
        assert_eq!(shown(b"a\\x1b"), "a\\\\x1b");
        assert_eq!(shown("\u{9b}1m\u{202e}".as_bytes()), "\\u{9b}1m\\u{202e}");
        assert_eq!(shown(b"\xff\xfe"), "\\xff\\xfe");
        assert_eq!(format!("{:<6}|", Escaped(b"\x07a")), "\\x07a |");
        assert_eq!(format!("{:<3}|", Escaped("漢".as_bytes())), "漢  |");
    }

    #[test]
    fn latencies_have_three_digits() {
        let shown = |ns| Latency(Duration::from_nanos(ns)).to_string();
        assert_eq!(shown(0), "0ns");
        assert_eq!(shown(999), "999ns");
        assert_eq!(shown(1_270), "1.27us");
        assert_eq!(shown(35_100_000), "35.1ms");
        assert_eq!(shown(999_999), "1000us");
        assert_eq!(shown(2_500_000_000), "2.50s");
    }
}
