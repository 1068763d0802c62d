//! What the loop knows, for those who ask.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kerno_doctor::Thresholds;
use kerno_doctor::report::{IncidentReport, Report};
use kerno_model::catalogue::{AlertCounts, Daemon, Mark, OtlpCounts, Totals};
use kerno_model::metric::Sample;
use kerno_model::{
    CostOfObserving, Course, Finding, Incident, IncidentRecord, Missing, ObjectiveStatus, Severity, Window, fill,
};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::otlp::status::OtlpStatus;
use crate::sinks::deliver::SinkStatus;

/// Changes of incidents that a slow listener may be behind before it loses the oldest.
const CHANGES: usize = 256;

/// Readers of metrics whose place is remembered.
const MAX_READERS: usize = 16;

/// Windows may be late by so much before it counts as a failure: samples take long on a busy machine.
const LATE: Duration = Duration::from_secs(30);

/// How a running daemon is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct Status {
    /// The version of kerno that runs.
    pub kerno_version: String,
    /// Its process.
    pub pid: u32,
    /// The machine.
    pub hostname: String,
    /// Seconds since it started.
    pub uptime_seconds: f64,
    /// The length of a window in seconds.
    pub interval_seconds: f64,
    /// Windows that it has judged.
    pub windows: u64,
    /// Windows that came faster than they could be judged, and were dropped.
    pub windows_lost: u64,
    /// Seconds since the latest window ended; `None` before the first.
    pub latest_seconds_ago: Option<f64>,
    /// Open incidents, by severity.
    pub open_incidents: BTreeMap<String, usize>,
    /// The signals that are observed.
    pub observed: Vec<String>,
    /// What cannot be observed, and why.
    pub missing: Vec<Missing>,
    /// What observing cost in the latest window.
    pub cost: CostOfObserving,
    /// The store; `None` without one.
    pub store: Option<StoreStatus>,
    /// What is sent by the protocol of OpenTelemetry; `None` if nothing is.
    pub otlp: Option<OtlpStatus>,
    /// Where alerts go.
    pub sinks: Vec<SinkStatus>,
    /// How the objectives are doing.
    pub objectives: Vec<ObjectiveStatus>,
}

/// How writing to the store goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct StoreStatus {
    /// Where it is.
    pub directory: String,
    /// How much it takes.
    pub bytes: u64,
    /// How much it may take.
    pub cap_bytes: u64,
    /// Windows written since the start.
    pub written: u64,
    /// Windows that could not be written, or that came while writing took too long.
    pub lost: u64,
    /// Why it cannot be written to now; `None` if it can.
    pub failing: Option<String>,
}

/// A change of an incident, for those who listen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Change {
    /// What became of it.
    pub(crate) course: Course,
    /// The incident after the change.
    pub(crate) incident: IncidentReport,
}

/// What the loop shares with the threads that answer.
#[derive(Debug)]
pub(crate) struct Shared {
    known: Mutex<Known>,
    /// Connections refused since that was told.
    refused: AtomicU64,
    changes: broadcast::Sender<Arc<Change>>,
}

#[derive(Debug)]
struct Known {
    started: Instant,
    interval: Duration,
    windows: u64,
    lost: u64,
    latest: Option<(Arc<Window>, Instant)>,
    findings: Vec<Finding>,
    /// The incidents that are followed.
    records: Vec<IncidentRecord>,
    totals: Totals,
    readers: Vec<(String, Mark)>,
    thresholds: Thresholds,
    store: Option<StoreStatus>,
    /// What was told of the store and of windows that were lost.
    told: StoreStatus,
    told_lost: u64,
    otlp: Option<OtlpStatus>,
    told_otlp: OtlpStatus,
    sinks: Vec<SinkStatus>,
    /// What was told of them: delivered, failed, dropped, retries.
    told_sinks: [u64; 4],
    objectives: Vec<ObjectiveStatus>,
    /// Why it watches no more.
    ended: Option<String>,
}

/// What one window changed.
pub(crate) struct Judged<'a> {
    pub(crate) window: Arc<Window>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) records: Vec<IncidentRecord>,
    pub(crate) transitions: &'a [kerno_model::Transition],
    pub(crate) lost: u64,
    pub(crate) objectives: Vec<ObjectiveStatus>,
}

/// All series at a time.
pub(crate) struct Snapshot {
    /// Sorted by name.
    pub(crate) samples: Vec<Sample>,
    /// The window that it is of.
    pub(crate) mark: Mark,
    /// The end of that window, in nanoseconds since 1970.
    pub(crate) unix_ns: u64,
}

impl Known {
    /// Adds what the daemon counts of itself to the totals.
    fn tell_of_itself(&mut self, lost: u64, refused: u64, now_unix_ns: u64) {
        let store = self.store.clone();
        let now = store.clone().unwrap_or_default();
        let otlp = self.otlp.clone().unwrap_or_default();
        let told = std::mem::replace(&mut self.told_otlp, otlp.clone());
        let sending = self.otlp.is_some().then(|| {
            fill!(OtlpCounts {
                points_sent: otlp.points_sent - told.points_sent,
                points_lost: otlp.points_lost - told.points_lost,
                records_sent: otlp.records_sent - told.records_sent,
                records_lost: otlp.records_lost - told.records_lost,
                records_waiting: otlp.records_waiting,
                failures: otlp.failures - told.failures,
            })
        });
        let sum = |count: fn(&SinkStatus) -> u64| self.sinks.iter().map(count).sum::<u64>();
        let sinks =
            [sum(|sink| sink.delivered), sum(|sink| sink.failed), sum(|sink| sink.dropped), sum(|sink| sink.retries)];
        let since = |which: usize| sinks[which].saturating_sub(self.told_sinks[which]);
        let alerts = fill!(AlertCounts {
            delivered: since(0),
            failed: since(1),
            dropped: since(2),
            retries: since(3),
            waiting: sum(|sink| sink.waiting),
        });
        let daemon = fill!(Daemon {
            windows_lost: lost - self.told_lost,
            store_bytes: store.map(|store| store.bytes),
            store_limit_bytes: now.cap_bytes,
            store_writable: now.failing.is_none(),
            store_windows: now.written - self.told.written,
            store_windows_lost: now.lost - self.told.lost,
            connections_refused: refused,
            otlp: sending,
            alerts: Some(alerts).filter(|_| !self.sinks.is_empty()),
        });
        self.totals.add_daemon(&daemon, now_unix_ns);
        (self.told, self.told_lost, self.told_sinks) = (now, lost, sinks);
    }
}

impl Shared {
    /// A connection was closed because there were too many.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn new(interval: Duration, thresholds: Thresholds, records: Vec<IncidentRecord>) -> Self {
        let known = Known {
            started: Instant::now(),
            interval,
            windows: 0,
            lost: 0,
            latest: None,
            findings: Vec::new(),
            records,
            totals: Totals::new(),
            readers: Vec::new(),
            thresholds,
            store: None,
            told: StoreStatus::default(),
            told_lost: 0,
            otlp: None,
            told_otlp: OtlpStatus::default(),
            sinks: Vec::new(),
            told_sinks: [0; 4],
            objectives: Vec::new(),
            ended: None,
        };
        Self { known: Mutex::new(known), refused: AtomicU64::new(0), changes: broadcast::channel(CHANGES).0 }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing is done under the lock that could leave it half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a window changed, and tells those who listen.
    pub(crate) fn judged(&self, judged: Judged<'_>) {
        let followed = judged.records.iter().map(|record| &record.incident);
        let open: Vec<Incident> = followed.filter(|incident| incident.is_open()).cloned().collect();
        let changed: Vec<_> = judged
            .transitions
            .iter()
            .filter_map(|transition| {
                let record = judged.records.iter().find(|record| record.incident.id == transition.id)?;
                Some(Change { course: transition.course, incident: IncidentReport::of(record) })
            })
            .collect();
        let now_unix_ns = judged.window.span.end().unix_ns;
        let mut known = self.known();
        known.windows += 1;
        known.lost = judged.lost;
        known.totals.add(&judged.window);
        known.totals.add_incidents(&open, judged.transitions, now_unix_ns);
        known.totals.add_objectives(&judged.objectives, now_unix_ns);
        known.objectives = judged.objectives;
        known.tell_of_itself(judged.lost, self.refused.swap(0, Ordering::Relaxed), now_unix_ns);
        known.latest = Some((judged.window, Instant::now()));
        known.findings = judged.findings;
        known.records = judged.records;
        drop(known);
        for change in changed {
            // An error says that nobody listens.
            let _ = self.changes.send(Arc::new(change));
        }
    }

    pub(crate) fn configure(&self, interval: Duration, thresholds: Thresholds) {
        let mut known = self.known();
        known.interval = interval;
        known.thresholds = thresholds;
    }

    pub(crate) fn set_store(&self, store: StoreStatus) {
        self.known().store = Some(store);
    }

    pub(crate) fn set_otlp(&self, otlp: OtlpStatus) {
        self.known().otlp = Some(otlp);
    }

    pub(crate) fn set_sinks(&self, sinks: Vec<SinkStatus>) {
        self.known().sinks = sinks;
    }

    /// It watches no more.
    pub(crate) fn end(&self, why: String) {
        self.known().ended = Some(why);
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<Change>> {
        self.changes.subscribe()
    }

    pub(crate) fn thresholds(&self) -> Thresholds {
        self.known().thresholds.clone()
    }

    /// The incidents that are open or were of late.
    pub(crate) fn incidents(&self) -> Vec<IncidentRecord> {
        self.known().records.clone()
    }

    /// The report of the latest window; `None` before the first.
    pub(crate) fn report(&self) -> Option<Report> {
        let known = self.known();
        let (window, _) = known.latest.as_ref()?;
        Some(Report::new(window, &known.findings))
    }

    /// The latest window.
    pub(crate) fn latest(&self) -> Option<Arc<Window>> {
        self.known().latest.as_ref().map(|(window, _)| Arc::clone(window))
    }

    /// All series, with the largest values since this reader asked last.
    pub(crate) fn metrics(&self, reader: &str) -> Vec<Sample> {
        let mut known = self.known();
        let place = known.readers.iter().position(|(name, _)| name == reader);
        let (_, since) = place.map_or_else(|| (String::new(), Mark::default()), |place| known.readers.remove(place));
        if known.readers.len() >= MAX_READERS {
            known.readers.remove(0);
        }
        let now = known.totals.mark();
        known.readers.push((reader.to_owned(), now));
        known.totals.read(since)
    }

    /// All series as they are after the latest window, with the largest values since a reader read up to there; `None` if there was no window
    /// since.
    pub(crate) fn snapshot(&self, since: Mark) -> Option<Snapshot> {
        let known = self.known();
        let mark = known.totals.mark();
        let (window, _) = known.latest.as_ref().filter(|_| mark > since)?;
        Some(Snapshot { samples: known.totals.read(since), mark, unix_ns: window.span.end().unix_ns })
    }

    /// Why it does not work; `Ok` if it does.
    pub(crate) fn health(&self) -> Result<(), String> {
        let known = self.known();
        if let Some(why) = &known.ended {
            return Err(why.clone());
        }
        let since = known.latest.as_ref().map_or(known.started, |(_, at)| *at).elapsed();
        if since > known.interval * 3 + LATE {
            return Err(format!("no window for {} s", since.as_secs()));
        }
        Ok(())
    }

    /// Whether it has seen a window, and works.
    pub(crate) fn ready(&self) -> Result<(), String> {
        self.health()?;
        if self.known().latest.is_some() { Ok(()) } else { Err("the first window is not over".to_owned()) }
    }

    pub(crate) fn status(&self) -> Status {
        let known = self.known();
        let window = known.latest.as_ref().map(|(window, _)| window);
        let mut open_incidents: BTreeMap<String, usize> = [Severity::Critical, Severity::Warning, Severity::Info]
            .map(|severity| (severity.name().to_owned(), 0))
            .into();
        for incident in known.records.iter().map(|record| &record.incident).filter(|incident| incident.is_open()) {
            *open_incidents.entry(incident.severity.name().to_owned()).or_default() += 1;
        }
        Status {
            kerno_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            hostname: window.map_or_else(String::new, |window| window.host.hostname.clone()),
            uptime_seconds: known.started.elapsed().as_secs_f64(),
            interval_seconds: known.interval.as_secs_f64(),
            windows: known.windows,
            windows_lost: known.lost,
            latest_seconds_ago: known.latest.as_ref().map(|(_, at)| at.elapsed().as_secs_f64()),
            open_incidents,
            observed: window.map_or_else(Vec::new, |window| window.observed().into_iter().map(str::to_owned).collect()),
            missing: window.map_or_else(Vec::new, |window| window.missing.clone()),
            cost: window.map_or_else(CostOfObserving::default, |window| window.cost.clone()),
            store: known.store.clone(),
            otlp: known.otlp.clone(),
            sinks: known.sinks.clone(),
            objectives: known.objectives.clone(),
        }
    }
}
