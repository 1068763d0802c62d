use std::io::{self, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::time::{ClockId, Timespec, clock_gettime};

const NS: i128 = 1_000_000_000;

/// Shows the events' `CLOCK_MONOTONIC` as the time of day here.
pub(crate) struct WallClock {
    zone: TimeZone,
    /// Real time minus monotonic time. Changes when the clock is set and after every suspend.
    offset_ns: i128,
    /// The second last shown and its text: a new one once a second, not once an event.
    second: i64,
    text: String,
}

impl WallClock {
    pub(crate) fn new() -> Self {
        let mut clock = Self { zone: TimeZone::system(), offset_ns: 0, second: i64::MIN, text: String::new() };
        clock.refresh();
        clock
    }

    /// Reads the difference of the clocks again.
    pub(crate) fn refresh(&mut self) {
        let before = nanoseconds(clock_gettime(ClockId::Monotonic));
        let real = nanoseconds(clock_gettime(ClockId::Realtime));
        let after = nanoseconds(clock_gettime(ClockId::Monotonic));
        self.offset_ns = real - i128::midpoint(before, after);
    }

    /// Writes `13:05:09.123456`.
    pub(crate) fn write(&mut self, out: &mut impl Write, monotonic_ns: u64) -> io::Result<()> {
        let real = self.offset_ns + i128::from(monotonic_ns);
        let second = i64::try_from(real.div_euclid(NS)).unwrap_or(i64::MAX);
        if second != self.second {
            self.second = second;
            self.text = match Timestamp::from_second(second) {
                Ok(timestamp) => timestamp.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string(),
                // Past the year 9999: the record is nonsense, and the line should still show.
                Err(_) => "--:--:--".to_owned(),
            };
        }
        write!(out, "{}.{:06}", self.text, real.rem_euclid(NS) / 1000)
    }
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * NS + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_time_of_day_here() {
        let mut clock = WallClock { zone: TimeZone::UTC, ..WallClock::new() };
        clock.offset_ns = 1_000_000_000 * NS - 500;
        let mut shown = |ns| {
            let mut out = Vec::new();
            clock.write(&mut out, ns).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(500), "01:46:40.000000");
        assert_eq!(shown(123_456_500), "01:46:40.123456");
        assert_eq!(shown(499), "01:46:39.999999");
        assert_eq!(shown(1_000_000_500), "01:46:41.000000");
        assert_eq!(shown(u64::MAX).len(), 15);
        clock.zone = TimeZone::fixed(jiff::tz::offset(2));
        clock.second = i64::MIN;
        let mut out = Vec::new();
        clock.write(&mut out, 500).unwrap();
        assert_eq!(out, b"03:46:40.000000");
    }

    #[test]
    fn nonsense_times_still_show() {
        let mut clock = WallClock::new();
        clock.offset_ns = i128::from(i64::MAX) * NS;
        let mut out = Vec::new();
        clock.write(&mut out, u64::MAX).unwrap();
        assert!(out.starts_with(b"--:--:--."));
    }

    #[test]
    fn the_offset_is_the_systems() {
        let clock = WallClock::new();
        let now = nanoseconds(clock_gettime(ClockId::Monotonic)) + clock.offset_ns;
        let real = nanoseconds(clock_gettime(ClockId::Realtime));
        assert!((real - now).abs() < 100_000_000);
    }
}
