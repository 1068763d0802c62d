use serde::{Deserialize, Serialize};

/// The most points that a [`Series`] keeps. When it is full, every second point is dropped.
const MAX_POINTS: usize = 128;

/// When series are joined: so many stretches of time at most, of each of which two points are kept, and one more at either end.
const MAX_STRETCHES: f64 = 62.0;

/// A quantity sampled over the window, as pairs of seconds since the start of the window and the value. Bounded: in long windows, points
/// are dropped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Series {
    points: Vec<(f64, f64)>,
}

/// A straight line through a [`Series`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Trend {
    /// Change per second.
    pub per_second: f64,
    /// The share of the variation that the line explains (R squared), 0 to 1.
    pub fit: f64,
    /// The number of points.
    pub points: usize,
}

impl Series {
    /// Adds a point. Times must not decrease.
    pub fn push(&mut self, seconds: f64, value: f64) {
        if self.points.len() >= MAX_POINTS {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.points.push((seconds, value));
    }

    /// Adds the points of a later series, whose times begin `shift` seconds after this one's. A first point at the time of this one's last
    /// is that same reading, and is left out. `origin` is when times begin, by a clock that both series have.
    ///
    /// Thinned evenly where there are many: of each stretch of time the lowest and the highest are kept, and the first and the last of
    /// all, so that extremes stay exact. It does not matter in which order neighbours are joined: stretches begin at multiples of their
    /// length, which is a power of two, and depends on nothing but the time from the first point to the last.
    pub(crate) fn append(&mut self, later: &Self, shift: f64, origin: f64) {
        const SAME_SECONDS: f64 = 1e-3;
        for (seconds, value) in &later.points {
            let seconds = seconds + shift;
            if self.points.last().is_none_or(|last| seconds - last.0 > SAME_SECONDS) {
                self.points.push((seconds, *value));
            }
        }
        self.thin(origin);
    }

    fn thin(&mut self, origin: f64) {
        let Some((first, last)) = self.points.first().zip(self.points.last()) else { return };
        let length = ((last.0 - first.0) / MAX_STRETCHES).max(f64::MIN_POSITIVE).log2().ceil().exp2();
        let stretch = |point: &(f64, f64)| ((point.0 + origin) / length).floor();
        let mut kept: Vec<(f64, f64)> = Vec::with_capacity(self.points.len().min(MAX_POINTS));
        let count = self.points.len();
        for (place, points) in self.points.chunk_by(|a, b| stretch(a) == stretch(b)).scan(0, |place, points| {
            let from = *place;
            *place += points.len();
            Some((from, points))
        }) {
            // Of equal ones those farthest apart.
            let lowest = points.iter().enumerate().min_by(|a, b| a.1.1.total_cmp(&b.1.1)).map(|(at, _)| at);
            let highest = points.iter().enumerate().max_by(|a, b| a.1.1.total_cmp(&b.1.1)).map(|(at, _)| at);
            let stays =
                |at: usize| Some(at) == lowest || Some(at) == highest || place + at == 0 || place + at + 1 == count;
            kept.extend(points.iter().enumerate().filter(|(at, _)| stays(*at)).map(|(_, point)| *point));
        }
        self.points = kept;
    }

    /// Moves all points by so many seconds.
    pub(crate) fn shift(&mut self, seconds: f64) {
        self.points.iter_mut().for_each(|point| point.0 += seconds);
    }

    /// Pairs of seconds since the start of the window and the value.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// The first value.
    pub fn first(&self) -> Option<f64> {
        self.points.first().map(|point| point.1)
    }

    /// The latest value.
    pub fn last(&self) -> Option<f64> {
        self.points.last().map(|point| point.1)
    }

    /// The latest value minus the first; 0 with fewer than two points.
    pub fn change(&self) -> f64 {
        self.last().zip(self.first()).map_or(0.0, |(last, first)| last - first)
    }

    /// The highest value.
    pub fn max(&self) -> Option<f64> {
        self.points.iter().map(|point| point.1).reduce(f64::max)
    }

    /// The lowest value.
    pub fn min(&self) -> Option<f64> {
        self.points.iter().map(|point| point.1).reduce(f64::min)
    }

    /// The mean of the values.
    #[allow(clippy::cast_precision_loss, reason = "at most 128")]
    pub fn mean(&self) -> Option<f64> {
        (!self.points.is_empty())
            .then(|| self.points.iter().map(|point| point.1).sum::<f64>() / self.points.len() as f64)
    }

    /// Fits a straight line by least squares; `None` with fewer than three points.
    #[allow(clippy::cast_precision_loss, reason = "at most 128")]
    pub fn trend(&self) -> Option<Trend> {
        let n = self.points.len();
        if n < 3 {
            return None;
        }
        let mean = |pick: fn(&(f64, f64)) -> f64| self.points.iter().map(pick).sum::<f64>() / n as f64;
        let (mean_t, mean_v) = (mean(|p| p.0), mean(|p| p.1));
        let sum = |f: &dyn Fn(f64, f64) -> f64| self.points.iter().map(|(t, v)| f(t - mean_t, v - mean_v)).sum::<f64>();
        let (tt, tv, vv) = (sum(&|t, _| t * t), sum(&|t, v| t * v), sum(&|_, v| v * v));
        if tt <= 0.0 {
            return None;
        }
        let fit = if vv > 0.0 { (tv * tv / (tt * vv)).clamp(0.0, 1.0) } else { 1.0 };
        Some(Trend { per_second: tv / tt, fit, points: n })
    }

    /// Seconds from the latest point until the line reaches `limit`; `None` if it leads away, is flat, or fits worse than `min_fit`.
    pub fn seconds_until(&self, limit: f64, min_fit: f64) -> Option<f64> {
        let trend = self.trend()?;
        let distance = limit - self.last()?;
        (trend.fit >= min_fit && trend.per_second * distance > 0.0).then(|| distance / trend.per_second)
    }

    /// When the value first reached `threshold`, in seconds since the start of the window.
    pub fn since_at_least(&self, threshold: f64) -> Option<f64> {
        self.points.iter().find(|point| point.1 >= threshold).map(|point| point.0)
    }
}

impl FromIterator<(f64, f64)> for Series {
    fn from_iter<I: IntoIterator<Item = (f64, f64)>>(points: I) -> Self {
        let mut series = Self::default();
        points.into_iter().for_each(|(seconds, value)| series.push(seconds, value));
        series
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_and_noise_is_not() {
        let line: Series = (0..10).map(|t| (f64::from(t), 100.0 + 5.0 * f64::from(t))).collect();
        let trend = line.trend().unwrap();
        assert!((trend.per_second - 5.0).abs() < 1e-9 && trend.fit > 0.999);
        assert!((line.seconds_until(195.0, 0.8).unwrap() - 10.0).abs() < 1e-6);
        assert_eq!(line.seconds_until(0.0, 0.8), None, "it leads away");
        let noise: Series = (0..10).map(|t| (f64::from(t), f64::from(t * 7919 % 13))).collect();
        assert_eq!(noise.seconds_until(1000.0, 0.8), None);
        let flat: Series = (0..10).map(|t| (f64::from(t), 1.0)).collect();
        assert_eq!(flat.seconds_until(2.0, 0.8), None);
    }

    #[test]
    fn long_series_stay_bounded() {
        let long: Series = (0..100_000).map(|t| (f64::from(t), f64::from(t))).collect();
        assert!(long.points().len() <= MAX_POINTS);
        assert_eq!((long.first(), long.last()), (Some(0.0), Some(99_999.0)));
        assert!(long.trend().unwrap().fit > 0.999);
    }
}
