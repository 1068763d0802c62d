//! Decides when to sample, for an observer and for an engine.

use std::time::{Duration, Instant};

/// The time between two samples, in units of the CPU time of one.
const SAMPLING_SHARE: f64 = 100.0;
/// The least samples of a window, however long they take: trends need some.
const MIN_SAMPLES: u32 = 8;

/// How often to sample a window of this length: often enough for a trend, seldom enough to cost little.
pub(super) fn sampling_interval(window: Duration) -> Duration {
    (window / 24).clamp(Duration::from_millis(200), Duration::from_secs(2))
}

/// The interval after a sample that took this much CPU time, in seconds: long enough (with very many tasks) that sampling takes about 1 % of
/// a CPU at most, but short enough for a few samples in a window.
fn next_interval(window: Duration, sample_cost: f64) -> Duration {
    let usual = sampling_interval(window);
    let affordable = Duration::try_from_secs_f64(sample_cost * SAMPLING_SHARE).unwrap_or(usual);
    usual.max(affordable.min(window / MIN_SAMPLES))
}

/// What is next in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Sample,
    /// The end of the window, which takes the last sample itself.
    End,
}

/// Says when the samples of a window are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacer {
    window: Duration,
    begun: Instant,
    interval: Duration,
    /// Samples are taken so many times more seldom than usual.
    thinned: u32,
    /// When the next sample is due, from the beginning of the window.
    next: Duration,
}

impl Pacer {
    /// A window of this length begins now.
    pub(super) fn begin(window: Duration) -> Self {
        let interval = sampling_interval(window);
        Self { window, begun: Instant::now(), interval, thinned: 1, next: interval }
    }

    /// The next window, of the same length, begins now.
    pub(super) fn again(self) -> Self {
        let mut next = Self::begin(self.window);
        next.thin(self.thinned);
        next
    }

    /// Samples are taken so many times more seldom than usual, from now on.
    pub(super) fn thin(&mut self, times: u32) {
        self.thinned = times;
        self.interval = sampling_interval(self.window).saturating_mul(times);
        self.next = self.next.max(self.interval);
    }

    /// Changes the length of the window.
    pub(super) fn set_window(&mut self, window: Duration) {
        self.window = window;
        self.interval = sampling_interval(window).saturating_mul(self.thinned);
        self.next = self.next.min(self.begun.elapsed().saturating_add(self.interval));
    }

    /// What is due next, and in how long.
    pub(super) fn next(&self) -> (Due, Duration) {
        self.next_at(self.begun.elapsed())
    }

    fn next_at(&self, elapsed: Duration) -> (Due, Duration) {
        let sample = self.next.saturating_add(self.interval / 2) < self.window;
        let (due, at) = if sample { (Due::Sample, self.next) } else { (Due::End, self.window) };
        // A sample that is so late that the window is over is not taken.
        if elapsed >= self.window { (Due::End, Duration::ZERO) } else { (due, at.saturating_sub(elapsed)) }
    }

    /// How many samples the window has after the one that is due now, its end's included, if they take as long as the latest.
    pub(super) fn left(&self) -> usize {
        let (mut at, mut left) = (self.next, 1);
        while at.saturating_add(self.interval + self.interval / 2) < self.window {
            at += self.interval;
            left += 1;
        }
        left
    }

    /// A sample was taken, which took this much CPU time, in seconds.
    pub(super) fn sampled(&mut self, cost: f64) {
        self.sampled_at(self.begun.elapsed(), cost);
    }

    fn sampled_at(&mut self, elapsed: Duration, cost: f64) {
        self.interval = next_interval(self.window, cost).saturating_mul(self.thinned);
        // A sample that was late is not made up for.
        while self.next <= elapsed {
            self.next = self.next.saturating_add(self.interval);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinned_samples_are_as_many_times_fewer() {
        let times = |thinned| {
            let mut pacer = Pacer::begin(Duration::from_secs(24));
            pacer.thin(thinned);
            let (mut taken, mut at) = (0, Duration::ZERO);
            while let (Due::Sample, wait) = pacer.next_at(at) {
                at += wait;
                pacer.sampled_at(at, 0.0);
                taken += 1;
            }
            taken
        };
        assert_eq!([times(1), times(2), times(4), times(8), times(1000)], [23, 11, 5, 2, 0]);
    }

    #[test]
    fn dear_samples_are_taken_more_seldom() {
        let window = Duration::from_secs(30);
        assert_eq!(next_interval(window, 0.0), Duration::from_millis(1250));
        assert_eq!(next_interval(window, 0.010), Duration::from_millis(1250));
        assert_eq!(next_interval(window, 0.020), Duration::from_secs(2));
        // A window without samples tells nothing.
        assert_eq!(next_interval(window, 5.0), window / 8);
        assert_eq!(next_interval(window, f64::NAN), Duration::from_millis(1250));
    }

    /// When the samples and the end of a window come, in milliseconds, if each sample takes this many seconds of a CPU.
    fn moments(window_ms: u64, cost: f64) -> Vec<u128> {
        let mut pacer = Pacer::begin(Duration::from_millis(window_ms));
        let (mut now, mut moments) = (Duration::ZERO, Vec::new());
        loop {
            let (due, wait) = pacer.next_at(now);
            now += wait;
            moments.push(now.as_millis());
            if due == Due::End {
                return moments;
            }
            now += Duration::from_secs_f64(cost);
            pacer.sampled_at(now, cost);
        }
    }

    #[test]
    fn what_is_left_of_a_window_is_known() {
        let mut pacer = Pacer::begin(Duration::from_secs(1));
        for (at_ms, left) in [(200, 4), (400, 3), (600, 2), (800, 1)] {
            assert_eq!((pacer.left(), pacer.next_at(Duration::from_millis(at_ms)).0), (left, Due::Sample));
            pacer.sampled_at(Duration::from_millis(at_ms + 1), 0.0);
        }
        assert_eq!(pacer.next_at(Duration::from_millis(801)).0, Due::End);
        assert_eq!(Pacer::begin(Duration::from_secs(30)).left(), 23);
    }

    #[test]
    fn a_window_is_sampled_evenly_and_ends_in_time() {
        assert_eq!(moments(1000, 0.0), [200, 400, 600, 800, 1000]);
        assert_eq!(moments(100, 0.0), [100]);
        assert_eq!(moments(30_000, 0.0).len(), 24);
        // 1 % of a CPU, and not more samples to make up for late ones.
        let dear = moments(30_000, 0.03);
        assert_eq!(dear[..3], [1250, 4250, 7250], "{dear:?}");
        assert_eq!(dear.last(), Some(&30_000));
        // Samples longer than the window.
        assert_eq!(moments(1000, 5.0), [200, 5200]);
    }
}
