//! Numbers as people read them.

/// 4,211; one decimal below 10 that are no whole number.
pub fn count(number: f64) -> String {
    if number.abs() < 10.0 && (number - number.round()).abs() > 0.05 {
        return format!("{number:.1}");
    }
    let digits = format!("{:.0}", number.abs());
    let mut out = String::from(if number <= -0.5 { "-" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// 18.2 GiB
pub fn bytes(bytes: f64) -> String {
    let mut value = bytes;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value.abs() < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" || value.abs() >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// 0.4s, 12s, 3m 20s, 5h 10m, 3d 2h
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds")]
pub fn seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1}s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m {}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h {}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d {}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// 0.4 ms, 40 ms, 2.1 s
pub fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// 97 %, and 0.9 % below 10: with as many digits as it is worth. 100 % only when it is all.
pub fn share(share: f64) -> String {
    let value = share * 100.0;
    if value < 9.95 && (value - value.round()).abs() > 0.05 {
        return format!("{value:.1} %");
    }
    format!("{:.0} %", if share < 1.0 { value.round().min(99.0) } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        assert_eq!([4211.0, 0.0, 3.26, 12.4, -1500.0, 999.0].map(count), ["4,211", "0", "3.3", "12", "-1,500", "999"]);
        assert_eq!(
            [512.0, 1536.0, 19_541_900_000.0, 268_435_456.0].map(bytes),
            ["512 B", "1.5 KiB", "18.2 GiB", "256 MiB"]
        );
        assert_eq!([0.42, 40.0, 200.0, 18_600.0, 266_400.0].map(seconds), ["0.4s", "40s", "3m 20s", "5h 10m", "3d 2h"]);
        assert_eq!([0.44, 44.0, 2100.0].map(millis), ["0.4 ms", "44 ms", "2.1 s"]);
        assert_eq!([0.0091, 0.05, 0.968, 0.999, 1.0].map(share), ["0.9 %", "5 %", "97 %", "99 %", "100 %"]);
    }
}
