//! Tells steady growth from what merely rose: a burst that is over, a level that was reached, noise.

use kerno_model::Series;

/// Fewer points, or a shorter time, prove nothing.
const MIN_POINTS: usize = 6;
const MIN_SECONDS: f64 = 1.8;
/// A change of no more than this share of all growth still counts as the initial level.
const STILL_FLAT: f64 = 0.02;
/// In the last third of the time it must keep up at least this share of its pace.
const STILL_GOING: f64 = 0.5;

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
