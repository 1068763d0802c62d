//! Stores a number of each process at each sample in little memory: there may be ten thousand processes, and most numbers never change.

use kerno_model::Series;

/// The most samples that are kept; if there are more, every second one is dropped.
const MAX_SAMPLES: usize = 128;

/// When the samples of a window were taken, for all tracks.
#[derive(Clone, Debug, Default)]
pub(crate) struct SampleTimes {
    seconds: Vec<f64>,
}

/// One quantity of one process: its value at each sample from the first that found the process.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    /// The first sample's number.
    first: u32,
    /// How many samples found `value` before it first changed.
    steady: u32,
    value: u32,
    /// Those after that.
    changed: Vec<u32>,
    /// What a value of 1 stands for.
    unit: u32,
}

impl SampleTimes {
    pub(crate) fn clear(&mut self) {
        self.seconds.clear();
    }

    /// Adds a sample. Returns true if times were dropped: then [`thin`](Track::thin) all tracks.
    pub(crate) fn push(&mut self, seconds: f64) -> bool {
        let full = self.seconds.len() >= MAX_SAMPLES;
        if full {
            let mut keep = false;
            self.seconds.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.seconds.push(seconds);
        full
    }

    /// The number of the latest sample.
    fn latest(&self) -> u32 {
        u32::try_from(self.seconds.len().saturating_sub(1)).unwrap_or(0)
    }
}

impl Track {
    pub(crate) const fn new(unit: u32) -> Self {
        Self { first: 0, steady: 0, value: 0, changed: Vec::new(), unit }
    }

    /// Forgets all values.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.unit);
    }

    fn len(&self) -> u32 {
        self.steady + u32::try_from(self.changed.len()).unwrap_or(0)
    }

    /// Adds the latest sample's value.
    pub(crate) fn push(&mut self, times: &SampleTimes, value: u64) {
        let (latest, value) = (times.latest(), u32::try_from(value).unwrap_or(u32::MAX));
        if self.steady == 0 {
            (self.first, self.steady, self.value) = (latest, 1, value);
            return;
        }
        // A sample that did not find the process keeps the value before it.
        let before = self.changed.last().copied().unwrap_or(self.value);
        while self.first + self.len() < latest {
            self.add(before);
        }
        self.add(value);
    }

    fn add(&mut self, value: u32) {
        if self.changed.is_empty() && value == self.value {
            self.steady += 1;
        } else {
            self.changed.push(value);
        }
    }

    /// Drops the values of the times that were dropped: those with odd numbers.
    pub(crate) fn thin(&mut self) {
        let old = std::mem::replace(self, Self::new(self.unit));
        for (number, value) in (old.first..).zip(old.values()).filter(|(number, _)| number % 2 == 0) {
            if self.steady == 0 {
                (self.first, self.steady, self.value) = (number / 2, 1, value);
            } else {
                self.add(value);
            }
        }
    }

    fn values(&self) -> impl Iterator<Item = u32> {
        std::iter::repeat_n(self.value, self.steady as usize).chain(self.changed.iter().copied())
    }

    /// The latest value.
    pub(crate) fn last(&self) -> Option<f64> {
        let value = self.changed.last().copied().or((self.steady > 0).then_some(self.value))?;
        Some(f64::from(value) * f64::from(self.unit))
    }

    /// The first value.
    pub(crate) fn first(&self) -> Option<f64> {
        (self.steady > 0).then(|| f64::from(self.value) * f64::from(self.unit))
    }

    /// How often in a row it grew until now, not counting samples without a change.
    pub(crate) fn rises(&self) -> usize {
        let mut rises = 0;
        let mut later = None;
        for value in self.changed.iter().rev().chain([&self.value]) {
            match later {
                Some(later) if later < *value => break,
                Some(later) if later > *value => rises += 1,
                _ => {}
            }
            later = Some(*value);
        }
        rises
    }

    /// With the times.
    pub(crate) fn series(&self, times: &SampleTimes) -> Series {
        let seconds = times.seconds.iter().skip(self.first as usize);
        seconds.zip(self.values()).map(|(at, value)| (*at, f64::from(value) * f64::from(self.unit))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a plain list would hold after so many samples of `value(i)`, from sample `born` on.
    fn tracked(samples: u32, born: u32, value: impl Fn(u32) -> u64) -> (Track, Series) {
        let (mut times, mut track) = (SampleTimes::default(), Track::new(2));
        for i in 0..samples {
            if times.push(f64::from(i)) {
                track.thin();
            }
            if i >= born {
                track.push(&times, value(i));
            }
        }
        let series = track.series(&times);
        (track, series)
    }

    #[test]
    fn a_track_is_the_series_of_what_was_pushed() {
        for samples in [1, 2, 5, 127, 128, 129, 400, 1000] {
            for born in [0, 1, 3, 130] {
                let value = |i: u32| u64::from(if i < 200 { 7 } else { i });
                let (track, series) = tracked(samples, born, value);
                for (at, got) in series.points() {
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a sample's number")]
                    let expected = 2.0 * value(*at as u32) as f64;
                    assert_eq!(*got, expected, "{samples} samples, born at {born}, at {at}");
                }
                if samples > born {
                    assert_eq!(series.last(), track.last());
                    assert_eq!(series.points().last().unwrap().0, f64::from(samples - 1));
                    assert!(series.points().len() <= MAX_SAMPLES);
                }
                if samples <= MAX_SAMPLES as u32 {
                    assert_eq!(series.points().len(), samples.saturating_sub(born) as usize);
                }
            }
        }
    }

    #[test]
    fn a_sample_that_missed_the_process_repeats_the_value() {
        let (mut times, mut track) = (SampleTimes::default(), Track::new(1));
        for (at, value) in [(0, Some(1)), (1, Some(5)), (2, None), (3, Some(6))] {
            times.push(f64::from(at));
            if let Some(value) = value {
                track.push(&times, value);
            }
        }
        assert_eq!(track.series(&times).points(), [(0.0, 1.0), (1.0, 5.0), (2.0, 5.0), (3.0, 6.0)]);
    }

    #[test]
    fn rises_end_where_it_fell() {
        let rises = |values: &[u64]| {
            let (mut times, mut track) = (SampleTimes::default(), Track::new(1));
            for value in values {
                times.push(0.0);
                track.push(&times, *value);
            }
            track.rises()
        };
        assert_eq!(rises(&[1, 1, 1]), 0);
        assert_eq!(rises(&[1, 2, 2, 3]), 2);
        assert_eq!(rises(&[1, 9, 2, 3, 4]), 2);
        assert_eq!(rises(&[4, 3]), 0);
        assert_eq!(rises(&[]), 0);
    }

    #[test]
    fn steady_processes_hold_no_list() {
        let (track, series) = tracked(1000, 0, |_| 3);
        assert!(track.changed.capacity() == 0);
        assert_eq!(series.first(), Some(6.0));
    }
}
