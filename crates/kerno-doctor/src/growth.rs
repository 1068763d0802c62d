//! Tells steady growth from what merely rose: a burst that is over, a level that was reached, noise.

use kerno_model::{Series, Window};

/// Fewer points, or a shorter time, prove nothing.
const MIN_POINTS: usize = 6;
const MIN_SECONDS: f64 = 1.8;
/// A change of no more than this share of all growth still counts as the initial level.
const STILL_FLAT: f64 = 0.02;
/// In the last third of the time it must keep up at least this share of its pace.
const STILL_GOING: f64 = 0.5;

/// Thresholds of growth are meant for windows up to this length. Over longer ones a trend is believed for longer, in proportion.
pub(crate) const SHORT_SECONDS: f64 = 30.0;

/// No trend is believed for longer than this: work changes with the time of day.
const LONGEST_SECONDS: f64 = 12.0 * 3600.0;

/// From this length on, a window shows how use changes with the time of day, which looks like growth.
pub(crate) const LONG_SECONDS: f64 = 600.0;

/// For how many seconds a trend in this window is believed, if it is for `seconds` in a short one.
pub(crate) fn horizon(window: &Window, seconds: f64) -> f64 {
    (seconds * (window.covered_seconds() / SHORT_SECONDS).max(1.0)).min(LONGEST_SECONDS.max(seconds))
}

/// What grew goes on growing in the last part of the window: one whose last point is older than this share of it is over, or not looked at
/// any more.
const LATE: f64 = 0.2;

/// Whether a series was still looked at when the window ended.
pub(crate) fn is_current(window: &Window, series: &Series) -> bool {
    let last = series.points().last().map_or(0.0, |point| point.0);
    window.covered_seconds() - last <= (window.covered_seconds() * LATE).max(SHORT_SECONDS)
}

/// Whether a quantity that grew to `level`, by `net`, has been as high before and came down again: a saw-tooth, such as of a garbage
/// collector or of logs that are rotated. That it does so again is no news until it is higher than it ever was.
pub(crate) fn was_here_before(past: &Series, level: f64, net: f64) -> bool {
    let mut highest = f64::NEG_INFINITY;
    past.points().iter().any(|(_, value)| {
        highest = highest.max(*value);
        highest >= level && *value <= level - net / 2.0
    })
}

/// A quantity that grew until the end of the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Growth {
    pub(crate) per_second: f64,
    /// How well a straight line fits (R squared), 0 to 1.
    pub(crate) fit: f64,
    /// The total growth since it began.
    pub(crate) net: f64,
    /// When the growth began, in seconds since the start of the window; `None` if it grew from the start.
    pub(crate) since: Option<f64>,
    /// The latest value.
    pub(crate) last: f64,
}

/// The growth of a series that follows a straight line (R squared of at least `min_fit`) from some moment to the end of the window.
pub(crate) fn steady_growth(series: &Series, min_fit: f64) -> Option<Growth> {
    let points = series.points();
    let (first, last) = (series.first()?, series.last()?);
    let net = last - first;
    if net <= 0.0 {
        return None;
    }
    let began = points.iter().rposition(|point| point.1 <= first + STILL_FLAT * net)?;
    let growing: Series = points.get(began..)?.iter().copied().collect();
    let ((from, low), (to, _)) = growing.points().first().zip(growing.points().last()).map(|(a, b)| (*a, *b))?;
    if growing.points().len() < MIN_POINTS || to - from < MIN_SECONDS {
        return None;
    }
    let trend = growing.trend()?;
    let third = to - (to - from) / 3.0;
    let before = growing.points().iter().rev().find(|point| point.0 <= third)?;
    let late = (last - before.1) / (to - before.0).max(1e-3);
    let growth = Growth {
        per_second: trend.per_second,
        fit: trend.fit,
        net: last - low,
        since: (began > 1).then_some(from),
        last,
    };
    (trend.fit >= min_fit && trend.per_second > 0.0 && late >= STILL_GOING * trend.per_second).then_some(growth)
}

impl Growth {
    /// Seconds until it reaches `limit`; 0 if it has already.
    pub(crate) fn seconds_until(&self, limit: f64) -> f64 {
        ((limit - self.last) / self.per_second).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(value: impl Fn(f64) -> f64) -> Series {
        (0..25).map(|i| f64::from(i) * 0.2).map(|t| (t, value(t))).collect()
    }

    #[test]
    fn steady_growth_is_found_with_its_pace() {
        let growth = steady_growth(&series(|t| (100.0 + 12.0 * t).floor()), 0.9).unwrap();
        assert!((growth.per_second - 12.0).abs() < 0.5 && growth.fit > 0.99 && growth.since.is_none());
        assert!((growth.seconds_until(1024.0) - (1024.0 - 157.0) / 12.0).abs() < 5.0);
        // Half-way through the window.
        let late = steady_growth(&series(|t| 100.0 + 50.0 * (t - 2.0).max(0.0)), 0.9).unwrap();
        assert!((late.since.unwrap() - 2.0).abs() < 0.21 && (late.per_second - 50.0).abs() < 2.0, "{late:?}");
    }

    #[test]
    fn a_saw_tooth_was_here_before_and_a_leak_was_not() {
        let teeth = series(|t| 100.0 + 40.0 * (t % 1.5));
        assert!(was_here_before(&teeth, 150.0, 40.0));
        assert!(!was_here_before(&teeth, 200.0, 40.0), "it is higher than ever");
        assert!(!was_here_before(&series(|t| 100.0 + t), 104.8, 4.8));
        assert!(!was_here_before(&series(|t| 100.0 + t + (t * 20.0).sin()), 104.0, 4.8), "noise");
    }

    #[test]
    fn what_rose_and_settled_is_none() {
        assert_eq!(steady_growth(&series(|t| 100.0 + 50.0 * t.min(3.0)), 0.9), None, "a ramp that ended");
        assert_eq!(steady_growth(&series(|t| if t < 1.0 { 10.0 } else { 410.0 }), 0.9), None, "a step");
        assert_eq!(steady_growth(&series(|t| 500.0 * (1.0 - (-t).exp())), 0.9), None, "a level that is reached");
        assert_eq!(steady_growth(&series(|t| 100.0 + 40.0 * (t * 7.0).sin()), 0.9), None, "up and down");
        assert_eq!(steady_growth(&series(|_| 100.0), 0.9), None, "flat");
        assert_eq!(steady_growth(&series(|t| 100.0 - t), 0.9), None, "falling");
        assert_eq!(steady_growth(&series(|t| if t < 4.5 { 1.0 } else { 99.0 * t }), 0.9), None, "only just begun");
    }
}
