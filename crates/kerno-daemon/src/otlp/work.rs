//! The thread that sends: when what is due, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use kerno_model::catalogue::Mark;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::message::{LogRecord, LogsRequest, MetricsRequest, Resource, Scope};
use super::metrics::Known;
use super::retry::{Backoff, Sent};
use super::settings::{OtlpSettings, Signal, Target};
use super::status::OtlpStatus;
use super::transport::Transport;
use super::{FLUSH, Feed, logs, metrics, resource};
use crate::state::Shared;

/// The most records of one request.
const BATCH: usize = 100;

/// The most bytes of them: receivers of gRPC take 4 MiB, unless they are told otherwise.
const BATCH_BYTES: usize = 1 << 20;

/// Windows do not end to the millisecond.
const EARLY: Duration = Duration::from_millis(500);

/// What is sent of metrics.
struct Metrics {
    lane: Lane,
    /// When they are due.
    due: Instant,
    /// The window up to which the receiver has read.
    read: Mark,
    /// The series that the receiver knows.
    known: Known,
}

/// What is sent of incidents.
struct Logs {
    lane: Lane,
    /// Those that are tried now.
    batch: Vec<LogRecord>,
}

/// The way to one receiver.
struct Lane {
    target: Target,
    transport: Option<Transport>,
    backoff: Backoff,
}

pub(super) struct Work {
    settings: OtlpSettings,
    resource: (Resource, Scope),
    feed: Arc<Feed>,
    shared: Arc<Shared>,
    metrics: Option<Metrics>,
    logs: Option<Logs>,
    status: OtlpStatus,
    /// Records that receivers did not want.
    rejected: u64,
}

impl Work {
    pub(super) fn new(settings: OtlpSettings, targets: Vec<Target>, feed: Arc<Feed>, shared: Arc<Shared>) -> Self {
        let resource = resource::resource(&settings, &|name| std::env::var(name).ok());
        let mut work = Self {
            settings,
            resource: (resource, resource::scope()),
            feed,
            shared,
            metrics: None,
            logs: None,
            status: OtlpStatus::default(),
            rejected: 0,
        };
        for target in targets {
            let url = Some(target.url.to_string());
            let lane = Lane { target, transport: None, backoff: Backoff::default() };
            match lane.target.signal {
                Signal::Metrics => {
                    work.status.metrics_endpoint = url;
                    let (read, known) = (Mark::default(), Known::default());
                    work.metrics = Some(Metrics { lane, due: Instant::now(), read, known });
                }
                Signal::Logs => {
                    work.status.logs_endpoint = url;
                    work.logs = Some(Logs { lane, batch: Vec::new() });
                }
            }
        }
        work.tell();
        work
    }

    /// Sends until it is told to stop, and a little longer.
    pub(super) async fn run(&mut self, stop: watch::Receiver<bool>) {
        let mut told = stop.clone();
        let late = async {
            let _ = told.wait_for(|stop| *stop).await;
            tokio::time::sleep(FLUSH).await;
        };
        tokio::select! {
            () = self.send(stop) => {}
            () = late => {}
        }
        self.tell();
        let left = self.status.records_waiting;
        if left > 0 {
            tracing::warn!(records = left, "OpenTelemetry: changes of incidents could not be sent before the end");
        }
    }

    async fn send(&mut self, mut stop: watch::Receiver<bool>) {
        let feed = Arc::clone(&self.feed);
        loop {
            let next = self.next();
            tokio::select! {
                () = async { match next { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {}
                () = feed.wake.notified() => {}
                _ = stop.wait_for(|stop| *stop) => {
                    // Once more, also what is not due.
                    self.logs_until_none().await;
                    self.send_metrics().await;
                    return;
                }
            }
            let now = Instant::now();
            let is_time = |backoff: &Backoff| backoff.not_before().is_none_or(|at| at <= now);
            if self.logs.as_ref().is_some_and(|logs| is_time(&logs.lane.backoff)) {
                self.logs_until_none().await;
            }
            if self.metrics.as_ref().is_some_and(|metrics| metrics.due <= now + EARLY && is_time(&metrics.lane.backoff))
            {
                self.send_metrics().await;
            }
            self.tell();
        }
    }

    /// When something is to be done though nothing new comes: only what failed is tried again by itself.
    fn next(&self) -> Option<Instant> {
        let lanes = [self.metrics.as_ref().map(|metrics| &metrics.lane), self.logs.as_ref().map(|logs| &logs.lane)];
        lanes.into_iter().flatten().filter_map(|lane| lane.backoff.not_before()).min()
    }

    async fn logs_until_none(&mut self) {
        while self.send_logs().await {}
    }

    /// Sends what waits, or a part of it; whether it did.
    async fn send_logs(&mut self) -> bool {
        let Some(logs) = &mut self.logs else { return false };
        if logs.batch.is_empty() {
            let mut given = self.feed.given();
            let mut bytes = 0;
            while let Some(record) = given.records.front() {
                bytes += record.encoded_len();
                if !logs.batch.is_empty() && (logs.batch.len() >= BATCH || bytes > BATCH_BYTES) {
                    break;
                }
                logs.batch.extend(given.records.pop_front());
            }
        }
        if logs.batch.is_empty() {
            return false;
        }
        let count = logs.batch.len() as u64;
        let request: LogsRequest = logs::request(logs.batch.clone(), self.resource.clone());
        let sent = logs.lane.send(&self.settings, request).await;
        let later = self.judge(Signal::Logs, &sent, count);
        let Some(logs) = &mut self.logs else { return false };
        if later {
            return false;
        }
        logs.batch.clear();
        true
    }

    /// Sends the latest state, if there is a newer one than was sent.
    async fn send_metrics(&mut self) {
        let Some(metrics) = &mut self.metrics else { return };
        let Some(snapshot) = self.shared.snapshot(metrics.read) else {
            // There will be one when a window is over.
            metrics.lane.backoff.succeeded();
            return;
        };
        let form = self.settings.histograms;
        let written =
            metrics::request(&snapshot.samples, &metrics.known, snapshot.unix_ns, form, self.resource.clone());
        let (count, known) = (written.points, written.known);
        let request: MetricsRequest = written.request;
        let sent = metrics.lane.send(&self.settings, request).await;
        let later = self.judge(Signal::Metrics, &sent, count);
        let Some(metrics) = &mut self.metrics else { return };
        if matches!(sent, Sent::Taken { .. }) {
            // What is the largest since the last reading is so until somebody has read it.
            (metrics.read, metrics.known) = (snapshot.mark, known);
        }
        if !later {
            let now = Instant::now();
            metrics.due = (metrics.due + self.settings.interval).max(now);
        }
    }

    /// Counts what became of a request with so many points or records; whether it is to be tried again.
    fn judge(&mut self, signal: Signal, sent: &Sent, count: u64) -> bool {
        let (taken, failing, lane) = match signal {
            Signal::Metrics => (
                &mut self.status.points_sent,
                &mut self.status.metrics_failing,
                self.metrics.as_mut().map(|metrics| &mut metrics.lane),
            ),
            Signal::Logs => (
                &mut self.status.records_sent,
                &mut self.status.logs_failing,
                self.logs.as_mut().map(|logs| &mut logs.lane),
            ),
        };
        let Some(lane) = lane else { return false };
        let (name, url) = (signal.name(), lane.target.url.to_string());
        let lost = match sent {
            Sent::Taken { rejected, message } => {
                let rejected = (*rejected).min(count);
                *taken += count - rejected;
                lane.backoff.succeeded();
                self.status.latest_unix_ns = u64::try_from(jiff::Timestamp::now().as_nanosecond()).ok();
                if failing.take().is_some() {
                    tracing::info!(signal = name, receiver = url, "OpenTelemetry: sent again");
                }
                if rejected > 0 {
                    tracing::warn!(
                        signal = name,
                        receiver = url,
                        rejected,
                        "OpenTelemetry: the receiver rejected a part: {message}"
                    );
                } else if !message.is_empty() {
                    tracing::info!(signal = name, receiver = url, "OpenTelemetry: the receiver says: {message}");
                }
                rejected
            }
            Sent::Later { why, after } => {
                self.status.failures += 1;
                lane.backoff.failed(*after);
                if failing.as_ref() != Some(why) {
                    tracing::warn!(signal = name, receiver = url, "OpenTelemetry: cannot send, tries again: {why}");
                }
                *failing = Some(why.clone());
                return true;
            }
            Sent::Refused { why } => {
                self.status.failures += 1;
                // Of metrics the next state may be welcome, after the usual time.
                lane.backoff.succeeded();
                if failing.as_ref() != Some(why) {
                    tracing::error!(
                        signal = name,
                        receiver = url,
                        dropped = count,
                        "OpenTelemetry: the receiver refuses: {why}"
                    );
                }
                *failing = Some(why.clone());
                count
            }
        };
        match signal {
            Signal::Metrics => self.status.points_lost += lost,
            Signal::Logs => self.rejected += lost,
        }
        false
    }

    fn tell(&mut self) {
        let given = self.feed.given();
        let (waiting, dropped) = (given.records.len(), given.lost);
        drop(given);
        let batch = self.logs.as_ref().map_or(0, |logs| logs.batch.len());
        self.status.records_waiting = (waiting + batch) as u64;
        self.status.records_lost = self.rejected + dropped;
        self.shared.set_otlp(self.status.clone());
    }
}

impl Lane {
    async fn send<M: prost::Message + Clone + Default + 'static>(
        &mut self,
        settings: &OtlpSettings,
        message: M,
    ) -> Sent {
        let headers = match settings.read_headers() {
            Ok(headers) => headers,
            Err(why) => return Sent::Later { why, after: None },
        };
        if self.transport.is_none() {
            // Certificates may be there later.
            match Transport::new(&self.target, settings) {
                Ok(transport) => self.transport = Some(transport),
                Err(why) => return Sent::Later { why, after: None },
            }
        }
        let Some(transport) = &self.transport else { return Sent::Later { why: String::new(), after: None } };
        // Name look-ups may take longer than the client thinks.
        let limit = settings.outbound.timeout + Duration::from_secs(1);
        let sent = timeout(limit, transport.send(headers, message)).await;
        sent.unwrap_or_else(|_| Sent::Later { why: format!("no answer within {limit:?}"), after: None })
    }
}
