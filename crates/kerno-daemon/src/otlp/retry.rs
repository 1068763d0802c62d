//! What became of a request, and when to try again.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Before the first further attempt. It doubles with each.
const FIRST: Duration = Duration::from_secs(1);

/// The longest time between attempts.
const LONGEST: Duration = Duration::from_secs(60);

/// The longest that a receiver may ask to wait.
const LONGEST_ASKED: Duration = Duration::from_secs(15 * 60);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The receiver has it, except so many that it rejected.
    Taken { rejected: u64, message: String },
    /// It may be tried again, not before that time has passed if the receiver says one.
    Later { why: String, after: Option<Duration> },
    /// The receiver does not want it.
    Refused { why: String },
}

/// Says when the next attempt is due.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    not_before: Option<Instant>,
}

impl Backoff {
    pub(super) fn failed(&mut self, after: Option<Duration>) {
        let own = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        // Many that failed at the same time shall not come back at the same time.
        let wait = match after {
            Some(after) => after.min(LONGEST_ASKED).mul_f64(1.0 + fastrand::f64() * 0.1),
            None => own.mul_f64(0.5 + fastrand::f64()),
        };
        self.not_before = Some(Instant::now() + wait);
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// When the next attempt may be made; `None` for now.
    pub(super) const fn not_before(&self) -> Option<Instant> {
        self.not_before
    }
}

/// `Retry-After`: seconds, or a date.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn attempts_become_rarer_and_are_spread() {
        let mut backoff = Backoff::default();
        let wait = |backoff: &Backoff| backoff.not_before().unwrap().duration_since(Instant::now()).as_secs_f64();
        for expected in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            backoff.failed(None);
            let wait = wait(&backoff);
            assert!(wait > expected * 0.45 && wait <= expected * 1.5, "{wait} {expected}");
        }
        for _ in 0..100 {
            backoff.failed(None);
        }
        assert!(wait(&backoff) <= 90.0);
        let waits: Vec<_> = (0..8)
            .map(|_| {
                backoff.failed(None);
                wait(&backoff)
            })
            .collect();
        assert!(waits.windows(2).any(|pair| (pair[0] - pair[1]).abs() > 0.5), "{waits:?}");
        backoff.failed(Some(Duration::from_secs(7)));
        assert!((6.9..7.8).contains(&wait(&backoff)));
        backoff.failed(Some(Duration::from_secs(1 << 40)));
        assert!(wait(&backoff) <= 15.0 * 60.0 * 1.1);
        backoff.succeeded();
        assert_eq!(backoff.not_before(), None);
    }

    #[test]
    fn receivers_say_how_long_in_seconds_or_as_a_date() {
        let now = httpdate::parse_http_date("Sun, 29 Nov 2026 03:02:00 GMT").unwrap();
        assert_eq!(retry_after(" 120 ", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 29 Nov 2026 03:02:30 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Sun, 29 Nov 2026 03:01:30 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }
}
