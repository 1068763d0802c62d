use std::fs;

/// Bytes of kernel memory of all maps that this process has open, by `memlock` in their fdinfo (Linux 4.10; exact from 6.4). `None` without
/// `/proc`.
pub fn kernel_memory_bytes() -> Option<u64> {
    let descriptors = fs::read_dir("/proc/self/fdinfo").ok()?;
    let infos = descriptors.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
    Some(infos.filter_map(|info| of_map(&info)).sum())
}

fn of_map(info: &str) -> Option<u64> {
    let value = |key| info.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    value("map_type:")?;
    value("memlock:")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::of_map;

    #[test]
    fn only_maps_count() {
        assert_eq!(
            of_map("pos:\t0\nflags:\t02000002\nmap_type:\t27\nmap_flags:\t0x0\nmemlock:\t4210968\nmap_id:\t5\n"),
            Some(4_210_968)
        );
        assert_eq!(of_map("pos:\t0\nprog_type:\t26\nmemlock:\t4096\n"), None);
        assert_eq!(of_map(""), None);
    }
}
