//! Values of flags as people write them.

use std::os::linux::fs::MetadataExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::time::Duration;

/// `500ms`, `10s`, `2m`, `1h30m`, `100us`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let example = "expected a number with a unit, such as 500us, 20ms, 10s, 2m or 1h";
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(example.to_owned());
    }
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| example.to_owned())?;
    Duration::try_from(parsed).map_err(|_| example.to_owned())
}

/// As [`duration`], but not zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|d| if d.is_zero() { Err("must be longer than zero".to_owned()) } else { Ok(d) })
}

/// `03:02`, `2026-11-28 03:02`, `10 min ago`: nanoseconds since 1970.
pub(crate) fn moment(text: &str) -> Result<u64, String> {
    kerno_daemon::parse_moment(text, &jiff::Zoned::now())
}

/// `1GiB`, `512 MiB`: any number of bytes.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let example = "expected a size such as 512MiB or 1GiB";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| example.to_owned())?;
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(example.to_owned()),
    };
    // No disk is as large as the largest.
    Ok(number.saturating_mul(factor))
}

/// `4MiB`, `256K`, `65536`: binary units only, since a ring's size is a power of two.
pub(crate) fn size(text: &str) -> Result<u32, String> {
    let whole = bytes(text).map_err(|_| "expected a size such as 64KiB, 4MiB or 65536".to_owned())?;
    u32::try_from(whole)
        .ok()
        .filter(|bytes| bytes.is_power_of_two() && (4096..=1 << 30).contains(bytes))
        .ok_or_else(|| "must be a power of two between 4KiB and 1GiB".to_owned())
}

/// `259:0` or `/dev/nvme0n1`.
pub(crate) fn device(text: &str) -> Result<(u32, u32), String> {
    if let Some((major, minor)) = text.split_once(':') {
        // The kernel's own limits: 12 and 20 bits (linux/kdev_t.h).
        if let (Ok(major @ 0..=0xfff), Ok(minor @ 0..=0xf_ffff)) = (major.parse(), minor.parse()) {
            return Ok((major, minor));
        }
    }
    if !text.starts_with('/') {
        return Err("expected MAJOR:MINOR as in /proc/partitions, or a device such as /dev/sda".to_owned());
    }
    let metadata = std::fs::metadata(text).map_err(|error| error.to_string())?;
    if !metadata.file_type().is_block_device() {
        return Err("is not a block device".to_owned());
    }
    let dev = metadata.st_rdev();
    Ok((rustix::fs::major(dev), rustix::fs::minor(dev)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("100us"), Ok(Duration::from_micros(100)));
        assert_eq!(duration("0.5s"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bad in ["", "10", "-1s", "s", "10 parsecs", "\x1b[31m", "999999999999999999999h", "1s ago", "NaN"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        assert!(positive_duration("0ms").is_err());
    }

    #[test]
    fn sizes_are_powers_of_two() {
        assert_eq!(size("4MiB"), Ok(4 << 20));
        assert_eq!(size("64 k"), Ok(64 << 10));
        assert_eq!(size("65536"), Ok(65536));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        for bad in ["", "0", "5000", "2048", "2GiB", "4MB", "MiB", "-4KiB", "18446744073709551615G", "4KiBs", "é"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn devices_by_number_or_file() {
        assert_eq!(device("259:0"), Ok((259, 0)));
        for bad in ["", ":", "8", "8:", "4096:0", "0:1048576", "-1:0", "sda", "/dev/null", "/dev", "/no/such", "/a:b"] {
            assert!(device(bad).is_err(), "{bad:?}");
        }
    }
}
