//! The thread of a sink: sends what is due, and tries again what failed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kerno_doctor::report::{IncidentReport, Notice};

use super::deliver::{Deliver, Failure, Keep, Receipt, SinkStatus, now_unix_ns};
use super::kinds::{deliver, manner};
use super::outbox::{Manner, Message, Outbox};
use super::settings::SinkSettings;

/// The first and the longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// An outbox that changes all the time is written so often.
const KEEP_EVERY: Duration = Duration::from_millis(200);

/// Messages that may go at once before the rate counts.
const BURST: f64 = 5.0;

/// Looks again after this, whatever there is: the wall clock may have been set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

pub(super) struct Sender {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    settings: SinkSettings,
    manner: Manner,
    keep: Option<Keep>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    outbox: Outbox,
    stop: bool,
    /// What changed since it was kept.
    dirty: bool,
    kept: Option<Instant>,
    delivered: u64,
    failed: u64,
    dropped: u64,
    retries: u64,
    /// Attempts that failed one after another.
    attempts: u32,
    not_before: Option<Instant>,
    failing: Option<String>,
    delivered_at: Option<Instant>,
    rate: Rate,
}

/// A bucket of tokens.
struct Rate {
    tokens: f64,
    at: Instant,
    per_second: f64,
}

impl Rate {
    fn new(per_minute: u32, now: Instant) -> Self {
        Self { tokens: BURST, at: now, per_second: f64::from(per_minute.max(1)) / 60.0 }
    }

    /// Takes one, or says when there will be one.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(BURST);
        self.at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / self.per_second))
    }
}

/// How long to wait after so many failures: twice as long each time, and by chance up to half more or less, so that many machines do not
/// come at once.
fn backoff(attempts: u32) -> Duration {
    let doubled = BACKOFF.0.saturating_mul(1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(BACKOFF.1).mul_f64(0.5 + fastrand::f64())
}

enum Plan {
    Stop,
    Wait(Duration),
    Send(Vec<Message>),
}

impl Sender {
    pub(super) fn start(settings: SinkSettings, outbox: Outbox, keep: Option<Keep>) -> std::io::Result<Self> {
        let (manner, deliver) = (manner(&settings), deliver(&settings));
        Self::with(settings, manner, deliver, outbox, keep)
    }

    fn with(
        settings: SinkSettings,
        manner: Manner,
        deliver: Box<dyn Deliver>,
        outbox: Outbox,
        keep: Option<Keep>,
    ) -> std::io::Result<Self> {
        let state = State {
            outbox,
            stop: false,
            dirty: false,
            kept: None,
            delivered: 0,
            failed: 0,
            dropped: 0,
            retries: 0,
            attempts: 0,
            not_before: None,
            failing: None,
            delivered_at: None,
            rate: Rate::new(settings.per_minute, Instant::now()),
        };
        let shared = Arc::new(Shared { settings, manner, keep, state: Mutex::new(state), changed: Condvar::new() });
        let theirs = Arc::clone(&shared);
        // Names of threads are cut after 15 bytes.
        let name = format!("sink {}", shared.settings.name);
        let thread = std::thread::Builder::new().name(name).spawn(move || theirs.run(deliver))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn offer(&self, notice: Notice, report: &IncidentReport, now_unix_ns: u64) {
        let wanted = self.shared.settings.wants(report);
        let mut state = self.shared.lock();
        let dropped = state.outbox.offer(notice, wanted, now_unix_ns);
        state.dropped += dropped;
        state.dirty = true;
        drop(state);
        if dropped > 0 {
            tracing::warn!(sink = self.shared.settings.name, dropped, "too many alerts wait; some are not told");
        }
        self.shared.changed.notify_all();
    }

    pub(super) fn status(&self) -> SinkStatus {
        let Shared { settings, manner, .. } = &*self.shared;
        let state = self.shared.lock();
        SinkStatus {
            name: settings.name.clone(),
            kind: settings.kind.name().to_owned(),
            waiting: state.outbox.waiting(manner, now_unix_ns()) as u64,
            delivered: state.delivered,
            failed: state.failed,
            dropped: state.dropped,
            retries: state.retries,
            failing: state.failing.clone(),
            delivered_seconds_ago: state.delivered_at.map(|at| at.elapsed().as_secs_f64()),
        }
    }

    /// Sends nothing more.
    pub(super) fn cancel(&self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
    }

    /// Waits for its end. A receiver that does not answer is not waited for: what it may have got is sent again by the next one.
    pub(super) fn stop(mut self, deadline: Instant) {
        self.cancel();
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            let _ = thread.join();
        }
        let mut state = self.shared.lock();
        self.shared.keep(&mut state);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is done under the lock that could leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut deliver: Box<dyn Deliver>) {
        let mut state = self.lock();
        loop {
            match self.plan(&mut state) {
                Plan::Stop => return self.keep(&mut state),
                Plan::Wait(time) => {
                    state = self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0;
                }
                Plan::Send(messages) => {
                    drop(state);
                    let result = deliver.send(&messages, now_unix_ns());
                    state = self.lock();
                    self.done(&mut state, &messages, result);
                }
            }
        }
    }

    fn plan(&self, state: &mut State) -> Plan {
        if state.stop {
            return Plan::Stop;
        }
        let now = Instant::now();
        let mut wait = LOOK_AGAIN;
        if state.dirty {
            match state.kept.map(|at| KEEP_EVERY.saturating_sub(at.elapsed())).filter(|left| !left.is_zero()) {
                Some(left) => wait = wait.min(left),
                None => self.keep(state),
            }
        }
        if let Some(at) = state.not_before.filter(|at| *at > now) {
            return Plan::Wait(wait.min(at - now));
        }
        let now_unix_ns = now_unix_ns();
        let (messages, next) = state.outbox.next(&self.manner, now_unix_ns);
        if messages.is_empty() {
            let next = next.map(|at| Duration::from_nanos(at.saturating_sub(now_unix_ns).max(1_000_000)));
            return Plan::Wait(next.map_or(wait, |next| wait.min(next)));
        }
        match state.rate.take(now) {
            Ok(()) => Plan::Send(messages),
            Err(left) => Plan::Wait(wait.min(left.max(Duration::from_millis(1)))),
        }
    }

    fn done(&self, state: &mut State, messages: &[Message], result: Result<Receipt, Failure>) {
        let sink = self.settings.name.as_str();
        // Alertmanager is told again and again that something goes on.
        let news = messages.iter().filter(|message| !message.again).count() as u64;
        match result {
            Ok(receipt) => {
                if state.failing.take().is_some() {
                    tracing::info!(sink, "alerts are delivered again");
                }
                state.delivered += u64::from(news > 0);
                state.delivered_at = Some(Instant::now());
                (state.attempts, state.not_before) = (0, None);
                state.outbox.told(messages, receipt.handle.as_ref(), now_unix_ns());
            }
            Err(Failure::Never { why }) => {
                tracing::error!(
                    sink,
                    incidents = messages.len(),
                    "the receiver refuses an alert, which is not sent again: {why}"
                );
                state.failed += 1;
                state.failing = Some(why);
                (state.attempts, state.not_before) = (0, None);
                state.outbox.told(messages, None, now_unix_ns());
            }
            Err(Failure::Later { why, after }) => {
                if state.failing.as_deref() != Some(&why) {
                    tracing::warn!(sink, "alerts wait, since they cannot be delivered: {why}");
                }
                state.retries += 1;
                state.failing = Some(why);
                state.attempts = state.attempts.saturating_add(1);
                let wait = backoff(state.attempts).max(after.unwrap_or_default());
                state.not_before = Some(Instant::now() + wait);
                return;
            }
        }
        state.dirty = true;
    }

    fn keep(&self, state: &mut State) {
        if !std::mem::take(&mut state.dirty) {
            return;
        }
        state.kept = Some(Instant::now());
        if let Some(keep) = &self.keep {
            keep(&self.settings.name, state.outbox.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_differ() {
        for attempts in 0..80 {
            let wait = backoff(attempts);
            assert!(wait >= BACKOFF.0 / 2 && wait <= BACKOFF.1 * 3 / 2, "{attempts}: {wait:?}");
        }
        assert!(backoff(5) >= Duration::from_secs(8));
        assert!((0..20).map(|_| backoff(5)).collect::<std::collections::BTreeSet<_>>().len() > 5);
    }

    #[test]
    fn the_rate_is_kept() {
        let begun = Instant::now();
        let mut rate = Rate::new(60, begun);
        let taken = (0..100).filter(|_| rate.take(begun).is_ok()).count();
        assert_eq!(taken, 5);
        assert!(rate.take(begun).unwrap_err() <= Duration::from_secs(1));
        let later = begun + Duration::from_secs(10);
        assert_eq!((0..100).filter(|_| rate.take(later).is_ok()).count(), 5, "a burst, not all that was saved");
        assert!(Rate::new(0, begun).take(begun).is_ok());
    }
}
