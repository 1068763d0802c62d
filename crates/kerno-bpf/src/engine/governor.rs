//! Holds what watching costs within its budget: which signal has to go, and when it may be tried again. Decides only; the observer does it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::budget::Budget;
use super::meter::Shares;

/// A signal goes when programs took too much in so many spans in a row: a burst is none of the machine's troubles.
const SPANS: u32 = 2;
/// From this part of the budget on, programs are metered all the time.
const NEAR: f64 = 0.5;
/// A signal is tried again only while the others take less than this part of the budget.
const CALM: f64 = 0.8;
/// The longest that a signal stays out, in patiences.
const LONGEST: u32 = 30;
/// One that could stay for so many times as long as it had been out, and a few spans, has a clean record again.
const PROVEN: u32 = 4;
/// Samples are taken so many times more seldom, at most.
const MOST_THINNED: u32 = 8;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Detach(&'static str),
    Attach(&'static str),
}

/// A signal that had to go, of late or still.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Record {
    /// What its programs took.
    pub(super) share: f64,
    /// For how long it goes out.
    wait: Duration,
    /// When it went, or came back.
    since_ns: u64,
    pub(super) is_out: bool,
}

#[derive(Debug)]
pub(super) struct Governor {
    budget: Budget,
    over: u32,
    near: bool,
    records: BTreeMap<&'static str, Record>,
    /// Samples are taken so many times more seldom.
    thinned: u32,
}

impl Governor {
    pub(super) const fn new(budget: Budget) -> Self {
        Self { budget, over: 0, near: true, records: BTreeMap::new(), thinned: 1 }
    }

    pub(super) const fn set(&mut self, budget: Budget) {
        self.budget = budget;
    }

    pub(super) const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Whether to meter without a pause.
    pub(super) fn is_alert(&self, now_ns: u64) -> bool {
        let is_new = |record: &Record| !record.is_out && record.lasted(now_ns) < self.budget.patience;
        self.near || self.records.values().any(is_new)
    }

    /// Signals that are out, with what they took.
    pub(super) fn out(&self) -> impl Iterator<Item = (&'static str, &Record)> {
        self.records.iter().filter(|(_, record)| record.is_out).map(|(signal, record)| (*signal, record))
    }

    /// What the programs took in a span, and what follows.
    pub(super) fn metered(&mut self, now_ns: u64, shares: &Shares) -> Option<Action> {
        let total: f64 = shares.values().sum();
        let limit = self.budget.kernel_share;
        self.near = total > limit * NEAR;
        self.forgive(now_ns);
        if total > limit {
            self.over += 1;
            let dearest = shares.iter().max_by(|a, b| a.1.total_cmp(b.1))?;
            return (self.over >= SPANS && *dearest.1 > 0.0).then(|| self.detach(now_ns, dearest.0, *dearest.1));
        }
        self.over = 0;
        if total > limit * CALM {
            return None;
        }
        let due = self.records.iter().filter(|(_, record)| record.is_out && record.is_over(now_ns));
        due.min_by_key(|(_, record)| record.since_ns).map(|(signal, _)| Action::Attach(signal))
    }

    fn detach(&mut self, now_ns: u64, signal: &'static str, share: f64) -> Action {
        let shortest = self.budget.patience;
        let longest = shortest.saturating_mul(LONGEST);
        let again = |record: &Record| record.wait.saturating_mul(2).min(longest);
        let wait = self.records.get(signal).map_or(shortest, again);
        self.records.insert(signal, Record { share, wait, since_ns: now_ns, is_out: true });
        self.over = 0;
        Action::Detach(signal)
    }

    /// A signal runs again.
    pub(super) fn attached(&mut self, now_ns: u64, signal: &'static str) {
        if let Some(record) = self.records.get_mut(signal) {
            (record.is_out, record.since_ns) = (false, now_ns);
        }
    }

    /// A signal could not be loaded again: it waits as if it had had to go.
    pub(super) fn refused(&mut self, now_ns: u64, signal: &'static str) {
        let share = self.records.get(signal).map_or(0.0, |record| record.share);
        let _ = self.detach(now_ns, signal, share);
    }

    /// Forgets those that have been back for long.
    fn forgive(&mut self, now_ns: u64) {
        self.records.retain(|_, record| record.is_out || !record.is_proven(now_ns));
    }

    /// A window is over in which watching took this share of one CPU: how many times more seldom samples are to be taken.
    pub(super) fn spent(&mut self, share: f64) -> u32 {
        if share > self.budget.cpu_share {
            self.thinned = (self.thinned * 2).min(MOST_THINNED);
        } else if share < self.budget.cpu_share / 3.0 {
            self.thinned = (self.thinned / 2).max(1);
        }
        self.thinned
    }
}

impl Record {
    fn lasted(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(now_ns.saturating_sub(self.since_ns))
    }

    fn is_over(&self, now_ns: u64) -> bool {
        self.lasted(now_ns) >= self.wait
    }

    fn is_proven(&self, now_ns: u64) -> bool {
        self.lasted(now_ns) >= self.wait.saturating_mul(PROVEN)
    }

    /// How long it is until it is tried again.
    pub(super) fn left(&self, now_ns: u64) -> Duration {
        self.wait.saturating_sub(self.lasted(now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn shares(calls: f64, disks: f64) -> Shares {
        [("calls", calls), ("disks", disks)].into()
    }

    #[test]
    fn the_dearest_goes_and_comes_back_when_it_is_calm() {
        let mut governor = Governor::new(Budget::default());
        assert_eq!(governor.metered(0, &shares(0.03, 0.001)), None, "one span may be a burst");
        assert_eq!(governor.metered(SECOND, &shares(0.001, 0.001)), None);
        assert!(!governor.is_alert(SECOND));
        assert_eq!(governor.metered(2 * SECOND, &shares(0.03, 0.001)), None);
        assert!(governor.is_alert(2 * SECOND));
        assert_eq!(governor.metered(3 * SECOND, &shares(0.03, 0.001)), Some(Action::Detach("calls")));
        assert_eq!(
            governor.out().map(|(signal, record)| (signal, record.share)).collect::<Vec<_>>(),
            [("calls", 0.03)]
        );
        let rest: Shares = [("disks", 0.001)].into();
        assert_eq!(governor.metered(30 * SECOND, &rest), None);
        // What is left takes too much for another.
        assert_eq!(governor.metered(63 * SECOND, &[("disks", 0.018)].into()), None);
        assert_eq!(governor.metered(64 * SECOND, &rest), Some(Action::Attach("calls")));
        governor.attached(64 * SECOND, "calls");
        assert_eq!(governor.out().count(), 0);
        governor.metered(65 * SECOND, &rest);
        assert!(governor.is_alert(65 * SECOND) && !governor.is_alert(124 * SECOND), "it has to prove itself");
    }

    #[test]
    fn one_that_has_to_go_again_stays_out_longer() {
        let mut governor = Governor::new(Budget::default());
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..7 {
            assert_eq!(governor.metered(now, &shares(0.1, 0.0)), None);
            assert_eq!(governor.metered(now + SECOND, &shares(0.1, 0.0)), Some(Action::Detach("calls")));
            let gone = now + SECOND;
            now = gone;
            while governor.metered(now, &Shares::new()).is_none() {
                now += 10 * SECOND;
            }
            waits.push((now - gone) / SECOND);
            governor.attached(now, "calls");
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 1800, 1800]);
        // Calm for long, it has a clean record.
        now += 7200 * SECOND;
        assert_eq!(governor.metered(now, &shares(0.001, 0.0)), None);
        assert!(!governor.is_alert(now));
        governor.metered(now, &shares(0.1, 0.0));
        governor.metered(now, &shares(0.1, 0.0));
        assert_eq!(governor.metered(now + 60 * SECOND, &Shares::new()), Some(Action::Attach("calls")));
    }

    #[test]
    fn one_that_cannot_be_loaded_again_waits() {
        let mut governor = Governor::new(Budget::default());
        governor.metered(0, &shares(0.1, 0.0));
        governor.metered(0, &shares(0.1, 0.0));
        assert_eq!(governor.metered(60 * SECOND, &Shares::new()), Some(Action::Attach("calls")));
        governor.refused(60 * SECOND, "calls");
        assert_eq!(governor.metered(120 * SECOND, &Shares::new()), None);
        assert_eq!(governor.metered(180 * SECOND, &Shares::new()), Some(Action::Attach("calls")));
    }

    #[test]
    fn samples_are_thinned_while_they_cost_too_much() {
        let mut governor = Governor::new(Budget::default());
        let taken: Vec<u32> =
            [0.004, 0.02, 0.015, 0.012, 0.011, 0.008, 0.003, 0.001].map(|share| governor.spent(share)).into();
        assert_eq!(taken, [1, 2, 4, 8, 8, 8, 4, 2]);
    }
}
