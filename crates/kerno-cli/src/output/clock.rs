use std::io::{self, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use kerno::probe::clock::unix_offset_ns;

const NS: i128 = 1_000_000_000;

/// Shows the events' times as the time of day here.
pub(crate) struct WallClock {
    zone: TimeZone,
    /// Real time minus monotonic time. Changes when the clock is set and after every suspend.
    offset_ns: i128,
    /// It is to be taken anew.
    stale: bool,
    /// The second last shown and its text: a new one once a second, not once an event.
    second: i64,
    text: String,
}

impl WallClock {
    pub(crate) fn new() -> Self {
        Self { zone: TimeZone::system(), offset_ns: 0, stale: true, second: i64::MIN, text: String::new() }
    }

    /// Takes the clocks' distance anew at the next event: until then the machine may sleep, or its clock be set.
    pub(crate) fn refresh(&mut self) {
        self.stale = true;
    }

    /// Writes `13:05:09.123456`.
    pub(crate) fn write(&mut self, out: &mut impl Write, monotonic_ns: u64) -> io::Result<()> {
        if std::mem::take(&mut self.stale) {
            self.offset_ns = unix_offset_ns();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_time_of_day_here() {
        let mut clock = WallClock { zone: TimeZone::UTC, stale: false, ..WallClock::new() };
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
        let mut clock = WallClock { offset_ns: i128::from(i64::MAX) * NS, stale: false, ..WallClock::new() };
        let mut out = Vec::new();
        clock.write(&mut out, u64::MAX).unwrap();
        assert!(out.starts_with(b"--:--:--."));
    }

    #[test]
    fn the_distance_is_taken_anew_when_it_may_have_changed() {
        let mut clock = WallClock { offset_ns: 7, stale: false, ..WallClock::new() };
        clock.write(&mut Vec::new(), 0).unwrap();
        assert_eq!(clock.offset_ns, 7);
        clock.refresh();
        clock.write(&mut Vec::new(), 0).unwrap();
        assert!(clock.offset_ns > NS && !clock.stale);
    }
}
