use std::collections::VecDeque;
use std::time::Duration;

use kerno_model::{Moment, Verdict};
use serde::{Deserialize, Serialize};

/// The buckets of the last hour and of the last six, in milliseconds.
const FINE_MS: u64 = 30_000;
const COARSE_MS: u64 = 180_000;

/// How many buckets the whole period has at most.
const OF_PERIOD: u64 = 300;

const HOUR_MS: u64 = 3_600_000;

/// The stretches of time that rates are told of, with their names.
pub(crate) const TOLD: [(&str, u64); 4] = [("5m", 300_000), ("30m", 1_800_000), ("1h", HOUR_MS), ("6h", 6 * HOUR_MS)];

/// The share of a stretch that has to be bad when the budget is so large that even being bad all the time uses it up slowly.
const NEARLY_ALL: f64 = 0.95;

/// How soon a budget will be used up, as the workbook of Google's SREs has it (chapter 5): two stretches of time each. The long one
/// says that it matters, the short one that it still goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Speed {
    /// Over 6 h and 30 min.
    Slow,
    /// Over 1 h and 5 min.
    Fast,
}

impl Speed {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Fast => "fast",
        }
    }

    /// The short and the long stretch, with their names.
    pub(crate) const fn stretches(self) -> [(&'static str, u64); 2] {
        match self {
            Self::Slow => [TOLD[1], TOLD[3]],
            Self::Fast => [TOLD[0], TOLD[2]],
        }
    }
}

/// When something was, by the clocks of the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Clock {
    boot: String,
    monotonic_ns: u64,
    /// The wall clock, but never earlier than it was.
    unix_ns: u64,
}

/// Times by verdict, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Times {
    pub(crate) good: f64,
    pub(crate) bad: f64,
    pub(crate) none: f64,
}

/// Number, and milliseconds that were good, bad and without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bucket(u64, u64, u64, u64);

/// The latest stretch of time, in buckets of equal length. Those without anything are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Buckets {
    width_ms: u64,
    span_ms: u64,
    buckets: VecDeque<Bucket>,
}

impl Buckets {
    fn new(width_ms: u64, span_ms: u64) -> Self {
        Self { width_ms: width_ms.max(1), span_ms, buckets: VecDeque::new() }
    }

    /// Adds times that ended at `at_ms`, which is never before the one that was added last.
    fn add(&mut self, at_ms: u64, more: Bucket) {
        let number = at_ms / self.width_ms;
        match self.buckets.back_mut() {
            Some(last) if last.0 >= number => {
                last.1 = last.1.saturating_add(more.1);
                last.2 = last.2.saturating_add(more.2);
                last.3 = last.3.saturating_add(more.3);
            }
            _ => self.buckets.push_back(Bucket(number, more.1, more.2, more.3)),
        }
        let first = at_ms.saturating_sub(self.span_ms) / self.width_ms;
        while self.buckets.front().is_some_and(|bucket| bucket.0 < first) {
            self.buckets.pop_front();
        }
    }

    /// What there was in the last `span_ms` before `now_ms`. Of the bucket in which that begins, as much as is in it.
    #[allow(clippy::cast_precision_loss, reason = "milliseconds")]
    fn last(&self, span_ms: u64, now_ms: u64) -> Times {
        let from = now_ms.saturating_sub(span_ms);
        let mut times = Times::default();
        for Bucket(number, good, bad, none) in &self.buckets {
            let end = number.saturating_mul(self.width_ms).saturating_add(self.width_ms);
            let part = (end.saturating_sub(from) as f64 / self.width_ms as f64).min(1.0);
            times.good += *good as f64 * part;
            times.bad += *bad as f64 * part;
            times.none += *none as f64 * part;
        }
        times
    }
}

/// How long an objective was met and missed, over its period and of late. Bounded, whatever the period is: some 550 buckets.
///
/// Time is that of the monotonic clock, so that a step of the wall clock neither brings a budget back nor takes it. From one boot to
/// the next it is that of the wall clock, if that went on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    over_ms: u64,
    /// Milliseconds from the first window on.
    elapsed_ms: u64,
    clock: Option<Clock>,
    hour: Buckets,
    six_hours: Buckets,
    period: Buckets,
    /// How fast it is used up, if it is.
    #[serde(default)]
    alert: Option<Speed>,
}

impl Budget {
    /// Of which nothing is used.
    pub fn new(over: Duration) -> Self {
        let over_ms = u64::try_from(over.as_millis()).unwrap_or(u64::MAX).max(HOUR_MS);
        Self {
            over_ms,
            elapsed_ms: 0,
            clock: None,
            hour: Buckets::new(FINE_MS, HOUR_MS),
            six_hours: Buckets::new(COARSE_MS, 6 * HOUR_MS),
            period: Buckets::new((over_ms / OF_PERIOD).max(FINE_MS), over_ms),
            alert: None,
        }
    }

    /// The same with another period. What was kept is checked on the way: it may have been written by anybody.
    #[must_use]
    pub fn over(&self, over: Duration) -> Self {
        let mut new = Self::new(over);
        let of = |from: &Buckets, to: &mut Buckets| {
            let mut last = 0;
            for bucket in &from.buckets {
                let at = bucket.0.saturating_mul(from.width_ms.max(1));
                if at >= last && at <= self.elapsed_ms {
                    last = at;
                    to.add(at, *bucket);
                }
            }
        };
        of(&self.hour, &mut new.hour);
        of(&self.six_hours, &mut new.six_hours);
        of(&self.period, &mut new.period);
        (new.elapsed_ms, new.clock, new.alert) = (self.elapsed_ms, self.clock.clone(), self.alert);
        new
    }

    /// Adds what a window of so many seconds, which ended then, in that boot, says. One that does not follow what was added before is not
    /// taken: false.
    pub fn add(&mut self, boot: &str, end: Moment, seconds: f64, verdict: Verdict) -> bool {
        let length = milliseconds(seconds);
        let passed = match &self.clock {
            None => Some(length),
            Some(last) if last.boot == boot => {
                end.monotonic_ns.checked_sub(last.monotonic_ns).filter(|ns| *ns > 0).map(|ns| ns / 1_000_000)
            }
            // What was between two boots, only the wall clock knows. One that was set back makes no time pass but the window's own.
            Some(last) => Some((end.unix_ns.saturating_sub(last.unix_ns) / 1_000_000).max(length)),
        };
        let Some(passed) = passed else { return false };
        self.elapsed_ms = self.elapsed_ms.saturating_add(passed);
        let unix_ns = self
            .clock
            .as_ref()
            .map_or(end.unix_ns, |last| last.unix_ns.saturating_add(passed.saturating_mul(1_000_000)).max(end.unix_ns));
        self.clock = Some(Clock { boot: boot.to_owned(), monotonic_ns: end.monotonic_ns, unix_ns });
        let more = match verdict {
            Verdict::Good => Bucket(0, length, 0, 0),
            Verdict::Bad => Bucket(0, 0, length, 0),
            Verdict::NoData => Bucket(0, 0, 0, length),
        };
        for buckets in [&mut self.hour, &mut self.six_hours, &mut self.period] {
            buckets.add(self.elapsed_ms, more);
        }
        true
    }

    /// Whether something that ended then is later than all that was added; false if nothing was.
    pub(crate) fn is_before(&self, end: Moment) -> bool {
        self.clock.as_ref().is_some_and(|last| last.unix_ns < end.unix_ns)
    }

    /// What there was in the whole period.
    pub(crate) fn in_period(&self) -> Times {
        self.last(self.over_ms)
    }

    /// How much of the period has passed since the first window, in milliseconds.
    pub(crate) fn known_ms(&self) -> u64 {
        self.elapsed_ms.min(self.over_ms)
    }

    fn last(&self, span_ms: u64) -> Times {
        let span_ms = span_ms.min(self.over_ms);
        let buckets = match span_ms {
            _ if span_ms == self.over_ms && span_ms > 6 * HOUR_MS => &self.period,
            ..=HOUR_MS => &self.hour,
            _ if span_ms <= 6 * HOUR_MS => &self.six_hours,
            _ => &self.period,
        };
        buckets.last(span_ms, self.elapsed_ms)
    }

    /// The share of the budget that is left; negative if more was used than there is. What was bad counts against the whole period, as if the
    /// rest of it were good.
    #[allow(clippy::cast_precision_loss, reason = "milliseconds")]
    pub fn remaining(&self, share: f64) -> f64 {
        1.0 - self.in_period().bad / (self.over_ms as f64 * (1.0 - share))
    }

    /// How many times as fast as it lasts the budget was used over the latest milliseconds.
    #[allow(clippy::cast_precision_loss, reason = "milliseconds")]
    pub fn burn(&self, span_ms: u64, share: f64) -> f64 {
        let span_ms = span_ms.min(self.over_ms);
        self.last(span_ms).bad / (span_ms as f64 * (1.0 - share))
    }

    /// Whether it is used too fast, now that a window was added: so many times as fast as it lasts, over both stretches. What was so
    /// goes on while nothing good was seen in the short stretch, as long as the long one says so: silence is no recovery.
    pub fn judge(&mut self, share: f64, fast: f64, slow: f64) -> Option<Speed> {
        let too_fast = |speed: Speed, factor: f64| {
            let factor = least(factor, share);
            let [(_, short), (_, long)] = speed.stretches();
            let nothing_good = self.last(short).good <= 0.0;
            let goes_on = nothing_good && self.alert.is_some_and(|was| was == Speed::Fast || speed == Speed::Slow);
            self.burn(long, share) >= factor && (goes_on || self.burn(short, share) >= factor)
        };
        self.alert = if too_fast(Speed::Fast, fast) {
            Some(Speed::Fast)
        } else if too_fast(Speed::Slow, slow) {
            Some(Speed::Slow)
        } else {
            None
        };
        self.alert
    }

    /// How fast it is used up, as it was last judged; `None` if it lasts.
    pub fn alert(&self) -> Option<Speed> {
        self.alert
    }
}

/// From which rate on a budget is used too fast: what was asked for, or nearly all of the time if even that is slower.
pub(crate) fn least(factor: f64, share: f64) -> f64 {
    factor.min(NEARLY_ALL / (1.0 - share))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "negative ones become 0")]
fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1e3).round() as u64
}
