//! The clocks as the kernel's programs have them. A time namespace (time_namespaces(7), Linux 5.6) shifts what a process in it reads
//! from `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME`, but never `bpf_ktime_get_ns`.

use std::fs;
use std::sync::OnceLock;

use rustix::time::{ClockId, Timespec, clock_gettime};

const NS: i128 = 1_000_000_000;

/// The initial time namespace (`PROC_TIME_INIT_INO`, linux/proc_ns.h).
const INITIAL: &str = "time:[4026531834]";

/// By how much this process's clocks are ahead of those of the initial time namespace, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shift {
    monotonic_ns: i128,
    boottime_ns: i128,
}

impl Shift {
    /// A process stays in its time namespace from its start, so this is read once.
    fn own() -> Self {
        static OWN: OnceLock<Shift> = OnceLock::new();
        *OWN.get_or_init(|| {
            let link = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).ok();
            let (own, of_children) = (link("time"), link("time_for_children"));
            // The file tells of the namespace that children will be in, which is our own unless we made one for them.
            if own.as_ref().is_none_or(|own| own.as_os_str() == INITIAL) || own != of_children {
                return Self::default();
            }
            Self::parse(&fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default())
        })
    }

    /// Lines such as `monotonic  5000  0`: clock, seconds, nanoseconds.
    fn parse(text: &str) -> Self {
        let of = |clock: &str| {
            let mut words = text.lines().map(str::split_whitespace).find_map(|mut words| {
                let named = words.next() == Some(clock);
                named.then_some(words)
            })?;
            Some(words.next()?.parse::<i128>().ok()? * NS + words.next()?.parse::<i128>().ok()?)
        };
        Self { monotonic_ns: of("monotonic").unwrap_or(0), boottime_ns: of("boottime").unwrap_or(0) }
    }
}

fn read(clock: ClockId) -> i128 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    i128::from(tv_sec) * NS + i128::from(tv_nsec)
}

/// Time since the machine started, without what it was suspended, in nanoseconds: the clock of every event, whatever time namespace
/// this process is in.
pub fn monotonic_ns() -> u64 {
    u64::try_from(read(ClockId::Monotonic) - Shift::own().monotonic_ns).unwrap_or(0)
}

/// Time since the machine started, with what it was suspended, in nanoseconds; whatever time namespace this process is in.
pub fn boottime_ns() -> u64 {
    u64::try_from(read(ClockId::Boottime) - Shift::own().boottime_ns).unwrap_or(0)
}

/// What to add to [`monotonic_ns`] for the time since 1970, in nanoseconds. It changes when the clock is set and with every suspend, so
/// take it anew.
pub fn unix_offset_ns() -> i128 {
    let before = read(ClockId::Monotonic);
    let unix = read(ClockId::Realtime);
    let after = read(ClockId::Monotonic);
    unix - i128::midpoint(before, after) + Shift::own().monotonic_ns
}

/// By how much times of `/proc` that count from the machine's start (`starttime` of `/proc/PID/stat`) are ahead for this process, in
/// nanoseconds.
pub(crate) fn boottime_shift_ns() -> i128 {
    Shift::own().boottime_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_are_read_as_the_kernel_writes_them() {
        let text = "monotonic        5000         7\nboottime           -3 500000000\n";
        assert_eq!(Shift::parse(text), Shift { monotonic_ns: 5000 * NS + 7, boottime_ns: -3 * NS + 500_000_000 });
        for nothing in ["", "monotonic", "monotonic x 0", "realtime 1 1"] {
            assert_eq!(Shift::parse(nothing), Shift::default(), "{nothing}");
        }
    }

    #[test]
    fn clocks_go_together() {
        let unix = i128::from(monotonic_ns()) + unix_offset_ns();
        assert!((read(ClockId::Realtime) - unix).abs() < NS / 10);
        assert!(monotonic_ns() <= boottime_ns());
    }
}
