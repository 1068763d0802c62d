//! Numbers as people read them. All durations, sizes, rates and shares are formatted here, for titles, evidence, the output of
//! commands, and pages.

use crate::Unit;

/// A number with three significant digits, or more for integers, with thousands separated: `0.0123`, `1.23`, `12.3`, `123`, `12,345`.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() { "unknown".into() } else { "without limit".into() };
    }
    let decimals: usize = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.9995 => 2,
        v if v >= 0.0995 => 3,
        v if v > 0.0 => 4,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    let mut separated = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            separated.push(',');
        }
        separated.push(digit);
    }
    separated
}

/// A quantity with its unit: `1.2 GiB`, `35 ms`, `12 %`.
pub fn quantity(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count => number(value),
        Unit::PerSecond => format!("{}/s", number(value)),
        Unit::Ratio => share(value),
        Unit::Times => format!("{}x", number(value)),
        Unit::Seconds => span(value),
        Unit::Milliseconds => span(value / 1e3),
        Unit::Microseconds => span(value / 1e6),
        Unit::Bytes => bytes(value),
        Unit::BytesPerSecond => format!("{}/s", bytes(value)),
    }
}

/// A share, 0 to 1, in per cent: `96.8 %`. A share below 1 never becomes `100 %`.
pub fn share(share: f64) -> String {
    let shown = if share < 1.0 { share.min(0.999) } else { share };
    format!("{} %", number(shown * 100.0))
}

/// A duration in milliseconds, formatted like [`span`].
pub fn millis(ms: f64) -> String {
    span(ms / 1e3)
}

/// A duration in seconds: `870 ns`, `1.27 us`, `35 ms`, `2.5 s`, `2 min 5 s`, `3 h 10 min`, `12 d 4 h`.
pub fn span(seconds: f64) -> String {
    /// From the longest: its length in seconds and name, then those of the next smaller unit.
    const LONG: &[(f64, &str, f64, &str)] =
        &[(86_400.0, "d", 3_600.0, "h"), (3_600.0, "h", 60.0, "min"), (60.0, "min", 1.0, "s")];
    if !seconds.is_finite() {
        return number(seconds);
    }
    if seconds < 0.0 {
        return format!("-{}", span(-seconds));
    }
    for (size, name, part_size, part_name) in LONG {
        // A value that rounds to a full unit is shown as one.
        let parts = (seconds / part_size).round();
        let per_whole = size / part_size;
        if parts >= per_whole {
            let whole = (parts / per_whole).floor();
            let rest = parts - whole * per_whole;
            let rest = if rest > 0.0 { format!(" {rest} {part_name}") } else { String::new() };
            return format!("{whole} {name}{rest}");
        }
    }
    let (value, name) = match seconds {
        0.0 => (0.0, "s"),
        s if s < 0.999_5e-6 => (s * 1e9, "ns"),
        s if s < 0.999_5e-3 => (s * 1e6, "us"),
        s if s < 0.999_5 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{} {name}", number(value))
}

/// A size in bytes: `870 B`, `1.2 GiB`.
pub fn bytes(value: f64) -> String {
    const UNITS: &[&str] = &["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut size = value;
    let mut unit = "B";
    for larger in UNITS {
        if size.abs() < 1023.5 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    format!("{} {unit}", number(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_three_digits_and_a_unit() {
        let cases = [
            (1_288_490_188.8, Unit::Bytes, "1.2 GiB"),
            (1024.0, Unit::Bytes, "1 KiB"),
            (1023.9, Unit::Bytes, "1 KiB"),
            (512.0, Unit::Bytes, "512 B"),
            (35.0, Unit::Milliseconds, "35 ms"),
            (0.5, Unit::Milliseconds, "500 us"),
            (999.9, Unit::Milliseconds, "1 s"),
            (0.12, Unit::Ratio, "12 %"),
            (0.0123, Unit::Ratio, "1.23 %"),
            (12_345.0, Unit::Count, "12,345"),
            (1_234_567.0, Unit::PerSecond, "1,234,567/s"),
            (0.25, Unit::PerSecond, "0.25/s"),
            (3.21, Unit::Times, "3.21x"),
            (0.0, Unit::Seconds, "0 s"),
            (59.97, Unit::Seconds, "1 min"),
            (125.0, Unit::Seconds, "2 min 5 s"),
            (3_600.0, Unit::Seconds, "1 h"),
            (11_400.0, Unit::Seconds, "3 h 10 min"),
            (1_051_200.0, Unit::Seconds, "12 d 4 h"),
            (10_485_760.0, Unit::BytesPerSecond, "10 MiB/s"),
            (f64::NAN, Unit::Count, "unknown"),
            (f64::INFINITY, Unit::Seconds, "without limit"),
        ];
        for (value, unit, text) in cases {
            assert_eq!(quantity(value, unit), text, "{value} {unit:?}");
        }
    }

    #[test]
    fn only_all_is_all() {
        assert_eq!(
            [0.0091, 0.05, 0.9684, 0.9999, 1.0, 1.5].map(share),
            ["0.91 %", "5 %", "96.8 %", "99.9 %", "100 %", "150 %"]
        );
    }
}
