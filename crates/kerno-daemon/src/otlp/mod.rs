//! Sends metrics, and changes of incidents as log records, by the protocol of OpenTelemetry (OTLP).
//!
//! A thread of its own sends, so that no receiver delays anything. Changes of incidents wait in a bounded queue; of metrics only the latest
//! state counts, which is taken when it is sent. What is dropped is counted.

mod logs;
mod message;
mod metrics;
mod resource;
mod retry;
pub(crate) mod settings;
pub(crate) mod status;
#[cfg(test)]
mod tests;
mod transport;
mod work;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kerno_doctor::redaction::Redaction;
use kerno_model::{IncidentRecord, Transition};
use tokio::sync::{Notify, watch};

use crate::state::Shared;
use message::LogRecord;
use settings::{OtlpSettings, Signal};
use work::Work;

/// How long what waits may still be sent when the daemon stops.
pub(crate) const FLUSH: Duration = Duration::from_secs(1);

/// What the loop hands over to the thread that sends.
#[derive(Debug, Default)]
struct Feed {
    given: Mutex<Given>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Given {
    records: VecDeque<LogRecord>,
    /// Those that had no room.
    lost: u64,
}

impl Feed {
    fn given(&self) -> MutexGuard<'_, Given> {
        // Nothing is done under the lock that could leave it half done.
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that sends.
#[derive(Debug)]
pub(crate) struct Otlp {
    feed: Arc<Feed>,
    /// The most records that wait; `None` if none are sent.
    room: Option<usize>,
    redaction: Redaction,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Otlp {
    /// Sends from now on, without what `redaction` hides.
    ///
    /// # Errors
    /// If there is no thread left.
    pub(crate) fn start(settings: OtlpSettings, redaction: Redaction, shared: Arc<Shared>) -> std::io::Result<Self> {
        let feed = Arc::new(Feed::default());
        let targets = settings.targets().map_err(std::io::Error::other)?;
        let room = targets.iter().any(|target| target.signal == Signal::Logs).then_some(settings.queue);
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(2)
            .thread_name("kerno otlp")
            .build()?;
        let mut work = Work::new(settings, targets, Arc::clone(&feed), shared);
        let run = move || {
            runtime.block_on(work.run(stopped));
            // A request that is not answered is not waited for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("kerno otlp".into()).spawn(run)?;
        Ok(Self { feed, room, redaction, stop, thread: Some(thread) })
    }

    /// A window was judged, and this changed. Never waits.
    pub(crate) fn offer(&self, transitions: &[Transition], records: &[IncidentRecord]) {
        if let Some(room) = self.room
            && !transitions.is_empty()
        {
            let now = u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0);
            let of = |transition: &Transition| {
                let record = records.iter().find(|record| record.incident.id == transition.id)?;
                Some(logs::record(transition, record, now, &self.redaction))
            };
            let new: Vec<_> = transitions.iter().filter_map(of).collect();
            let mut given = self.feed.given();
            given.records.extend(new);
            while given.records.len() > room {
                given.records.pop_front();
                given.lost += 1;
            }
        }
        self.feed.wake.notify_one();
    }

    /// Begins to stop: what waits is sent once more.
    pub(crate) fn stopping(&self) {
        let _ = self.stop.send(true);
    }

    /// Ends when all is sent, or at this time.
    pub(crate) fn stop(mut self, deadline: Instant) {
        self.stopping();
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            let _ = thread.join();
        }
    }
}

/// The beginning of a text, in whole characters.
fn shortened(text: &str, most_bytes: usize) -> &str {
    let end = (0..=most_bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}
