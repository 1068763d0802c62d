//! Numbers as people read them.

pub(super) use crate::doctor::shell::word as quoted;

/// `1.2 GB`
pub(super) fn bytes(bytes: f64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes / unit >= 10.0 => format!("{:.0} {name}", bytes / unit),
        Some((unit, name)) => format!("{:.1} {name}", bytes / unit),
        None => format!("{bytes:.0} bytes"),
    }
}

/// `40 s`, `7 min`
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}

/// `0.4 ms`, `40 ms`, `2.1 s`
pub(super) fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// A share as a whole number of percent, rounded down: 100 % only when it is all.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", (share * 100.0).floor())
}


#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([bytes(512.0), bytes(1.5e6), bytes(2.5e10)], ["512 bytes", "1.5 MB", "25 GB"]);
        assert_eq!([duration(40.2), duration(400.0), duration(90_000.0)], ["40 s", "7 min", "25 h"]);
        assert_eq!([millis(0.44), millis(44.0), millis(2100.0)], ["0.4 ms", "44 ms", "2.1 s"]);
        assert_eq!([percent(0.999), percent(1.0)], ["99 %", "100 %"]);
        assert_eq!([quoted("/mnt/a"), quoted("/mnt/it's b")], ["/mnt/a", r"'/mnt/it'\''s b'"]);
    }
}
