//! `/proc/meminfo` (proc_meminfo(5)).

/// Its text now; empty if it cannot be read.
pub(crate) fn read() -> String {
    std::fs::read_to_string("/proc/meminfo").unwrap_or_default()
}

/// The value of a line in bytes, by name without the colon; `None` if there is no such line.
pub(crate) fn bytes_of(meminfo: &str, name: &str) -> Option<u64> {
    let rest =
        |line: &'_ str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse().ok());
    let kib: u64 = meminfo.lines().find_map(rest)??;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_whole_name() {
        let text =
            "MemTotal:       24684100 kB\nSwapTotal:            1020 kB\nHugePages_Total:       3\nDirty: many\n";
        assert_eq!(bytes_of(text, "MemTotal"), Some(24_684_100 * 1024));
        assert_eq!(bytes_of(text, "SwapTotal"), Some(1020 * 1024));
        for missing in ["Mem", "Total", "HugePages_Total", "Dirty", "MemFree"] {
            assert_eq!(bytes_of(text, missing), None, "{missing}");
        }
        assert_eq!(bytes_of("MemTotal: 18014398509481984 kB\n", "MemTotal"), None);
        assert!(bytes_of(&read(), "MemTotal") > Some(1 << 24));
    }
}
