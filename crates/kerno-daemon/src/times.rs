//! Times that people ask for.

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

const NS: i128 = 1_000_000_000;

/// A stretch of wall-clock time, in nanoseconds since 1970: from the first to before the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its start.
    pub from_ns: u64,
    /// Its end.
    pub to_ns: u64,
}

impl Range {
    /// The time up to `to_ns`, of that length.
    pub fn before(to_ns: u64, length: Duration) -> Self {
        let length = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        Self { from_ns: to_ns.saturating_sub(length), to_ns }
    }
}

/// A moment as people write it, in nanoseconds since 1970:
///
/// - a time of day here, which is the latest one that is not in the future: `03:02`, `03:02:10`
/// - a date, or a date and time here: `2026-11-28`, `2026-11-28 03:02`
/// - a time with its zone: `2026-11-28T03:02:00Z`, `2026-11-28T03:02:00+01:00`
/// - how long ago: `10 min ago`, `2h ago`; `now`
/// - seconds since 1970: `@1764385320`
///
/// # Errors
/// What was expected.
pub fn parse_moment(text: &str, now: &Zoned) -> Result<u64, String> {
    let text = text.trim();
    let moment = moment(text, now).ok_or_else(|| {
        "expected a time such as 03:02, \"2026-11-28 03:02\", 2026-11-28T03:02:00Z or \"10 min ago\"".to_owned()
    })?;
    u64::try_from(moment).map_err(|_| "is before 1970 or too far in the future".to_owned())
}

fn moment(text: &str, now: &Zoned) -> Option<i128> {
    if text == "now" {
        return Some(now.timestamp().as_nanosecond());
    }
    if let Some(seconds) = text.strip_prefix('@') {
        let seconds: f64 = seconds.parse().ok()?;
        #[allow(clippy::cast_possible_truncation, reason = "within the bounds that are checked")]
        return (seconds.is_finite() && seconds.abs() < 1e11).then_some((seconds * 1e9) as i128);
    }
    if let Some(ago) = text.strip_suffix("ago") {
        let ago: SignedDuration = ago.trim().parse().ok()?;
        return Some(now.timestamp().as_nanosecond() - ago.as_nanos());
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp.as_nanosecond());
    }
    let here = |at: DateTime, zone: TimeZone| Some(at.to_zoned(zone).ok()?.timestamp().as_nanosecond());
    let zone = || now.time_zone().clone();
    if text.contains('-') {
        let at = match text.parse::<DateTime>() {
            Ok(at) => at,
            Err(_) => text.parse::<Date>().ok()?.to_datetime(Time::midnight()),
        };
        return here(at, zone());
    }
    let time: Time =
        if text.matches(':').count() == 1 { format!("{text}:00") } else { text.to_owned() }.parse().ok()?;
    let today = here(now.date().to_datetime(time), zone())?;
    if today <= now.timestamp().as_nanosecond() {
        return Some(today);
    }
    here(now.date().yesterday().ok()?.to_datetime(time), zone())
}

/// The same moment for the command line of a query: whole nanoseconds, or what [`parse_moment`] reads. Programs may ask for times at which there
/// cannot be anything: those are the first or the last.
pub(crate) fn of_query(text: &str, now: &Zoned) -> Result<u64, String> {
    match text.parse::<u64>() {
        // Whoever writes seconds or milliseconds means no moment in 1970.
        Ok(number) if i128::from(number) > 100_000_000 * NS => Ok(number),
        Ok(number) => Ok(number.saturating_mul(1_000_000_000)),
        Err(_) => match moment(text.trim(), now) {
            Some(moment) => Ok(u64::try_from(moment.max(0)).unwrap_or(u64::MAX)),
            None => parse_moment(text, now),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        "2026-11-29T08:00:00+01:00[Europe/Berlin]".parse().unwrap()
    }

    fn parsed(text: &str) -> String {
        let moment = parse_moment(text, &now()).unwrap();
        Timestamp::from_nanosecond(moment.into()).unwrap().to_string()
    }

    #[test]
    fn moments_as_people_write_them() {
        assert_eq!(parsed("03:02"), "2026-11-29T02:02:00Z");
        assert_eq!(parsed("03:02:10"), "2026-11-29T02:02:10Z");
        assert_eq!(parsed("23:30"), "2026-11-28T22:30:00Z", "last night");
        assert_eq!(parsed("2026-11-28"), "2026-11-27T23:00:00Z");
        assert_eq!(parsed("2026-11-28 03:02"), "2026-11-28T02:02:00Z");
        assert_eq!(parsed("2026-11-28T03:02:00Z"), "2026-11-28T03:02:00Z");
        assert_eq!(parsed("2026-11-28T03:02:00+02:00"), "2026-11-28T01:02:00Z");
        assert_eq!(parsed("10 min ago"), "2026-11-29T06:50:00Z");
        assert_eq!(parsed("2h ago"), "2026-11-29T05:00:00Z");
        assert_eq!(parsed("now"), "2026-11-29T07:00:00Z");
        assert_eq!(parsed("@1764385320"), "2025-11-29T03:02:00Z");
    }

    #[test]
    fn others_are_refused() {
        for bad in [
            "",
            "ago",
            "x",
            "25:00",
            "3",
            "-1",
            "yesterday-ish",
            "@",
            "@nan",
            "@-5",
            "@1e300",
            "2026-13-01",
            "1900-01-01",
            "ago ago",
        ] {
            assert!(parse_moment(bad, &now()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_query_may_have_plain_numbers() {
        assert_eq!(of_query("1764385320", &now()), Ok(1_764_385_320_000_000_000));
        assert_eq!(of_query("1764385320000000000", &now()), Ok(1_764_385_320_000_000_000));
        assert!(of_query("03:02", &now()).is_ok());
        assert_eq!(of_query("1900-01-01T00:00:00Z", &now()), Ok(0), "nothing was observed then");
        assert_eq!(of_query("3264-10-28T01:33:16Z", &now()), Ok(u64::MAX));
        assert!(of_query("yesterday-ish", &now()).is_err());
    }
}
