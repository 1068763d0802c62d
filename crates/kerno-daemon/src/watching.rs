//! The daemon: from its settings to the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use kerno_bpf::CancelToken;
use kerno_bpf::engine::{Engine, Next, ObserverOptions, WatchError, Windows};
use kerno_doctor::incidents::{self, Incidents};
use kerno_doctor::{Trends, ranked, words};
use kerno_model::catalogue::MAX_OBJECTIVES;
use kerno_model::{Change, Course, Incident, IncidentId, IncidentRecord, Moment, Severity, Transition, Window};
use kerno_store::{Reader, Store, StoreError};
use sd_notify::NotifyState;

use crate::api::{Api, BindError, GuardError, Listeners};
use crate::changes::{Changes, WindowChanges};
use crate::confine;
use crate::explain::explain;
use crate::objectives::Followed;
use crate::otlp::{FLUSH, Otlp};
use crate::past::INCIDENTS;
use crate::settings::{INTERVALS, Settings};
use crate::sinks::Sinks;
use crate::sinks::outbox::Outbox;
use crate::sinks::settings::{MAX_SINKS, SinkSettings};
use crate::state::{Judged, Shared};
use crate::times::Range;
use crate::writer::{OUTBOX, Writer, outbox_name};

/// Windows that wait to be judged.
const QUEUE: usize = 32;

/// How often the loop looks whether something is to be done besides windows.
const TURN: Duration = Duration::from_millis(500);

/// What was seen in this time before a restart is taken into account for slow trends.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How long a stop waits for a message that is being sent.
const SENDING: Duration = Duration::from_millis(300);

/// How long a stop waits for the store, and for clients.
const PATIENCE: Duration = Duration::from_millis(700);

/// Why the daemon could not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// A setting is impossible.
    #[error("{0}")]
    Setting(String),
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[from] StoreError),
    /// HTTP cannot be served as it is asked for.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// A socket or an address cannot be used.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// This machine cannot be watched, or not any longer.
    #[error("cannot watch this machine")]
    Watch(#[from] WatchError),
    /// There is no thread or descriptor left.
    #[error("cannot start")]
    Start(#[source] std::io::Error),
}

/// A daemon that has loaded and opened everything it needs.
pub struct Daemon {
    settings: Settings,
    engine: Engine,
    windows: Windows,
    shared: Arc<Shared>,
    trends: Trends,
    incidents: Incidents,
    objectives: Followed,
    changes: Changes,
    of_windows: WindowChanges,
    /// What changed before each incident that is followed.
    changed: BTreeMap<IncidentId, Vec<Change>>,
    /// Signals that are out of the kernel for their cost.
    detached: BTreeSet<String>,
    sinks: Sinks,
    writer: Option<Writer>,
    api: Api,
    otlp: Option<Otlp>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Daemon {
    /// Checks settings without starting anything.
    ///
    /// # Errors
    /// [`DaemonError::Setting`] or [`DaemonError::Guard`] for the first one that is impossible.
    pub fn check(settings: &Settings) -> Result<(), DaemonError> {
        if !INTERVALS.contains(&settings.interval) {
            return Err(DaemonError::Setting(format!(
                "the interval is {:?}; it may be {:?} to {:?}",
                settings.interval,
                INTERVALS.start(),
                INTERVALS.end()
            )));
        }
        if let Some(http) = settings.http {
            settings.guard.check(http)?;
        }
        if let Some(otlp) = &settings.otlp {
            otlp.check().map_err(DaemonError::Setting)?;
        }
        if settings.sinks.len() > MAX_SINKS {
            let count = settings.sinks.len();
            return Err(DaemonError::Setting(format!("{count} sinks are too many; there may be {MAX_SINKS}")));
        }
        let mut names = BTreeSet::new();
        for sink in &settings.sinks {
            sink.check().map_err(|why| DaemonError::Setting(format!("sink {:?}: {why}", sink.name)))?;
            if !names.insert(&sink.name) {
                return Err(DaemonError::Setting(format!("two sinks are named {:?}", sink.name)));
            }
        }
        if settings.objectives.len() > MAX_OBJECTIVES {
            let count = settings.objectives.len();
            return Err(DaemonError::Setting(format!(
                "{count} objectives are too many; there may be {MAX_OBJECTIVES}"
            )));
        }
        let mut names = BTreeSet::new();
        for objective in &settings.objectives {
            let named = |why: String| DaemonError::Setting(format!("objective {:?}: {why}", objective.name));
            objective.check().map_err(|error| named(error.to_string()))?;
            if !names.insert(&objective.name) {
                return Err(DaemonError::Setting(format!("two objectives are named {:?}", objective.name)));
            }
        }
        Ok(())
    }

    /// Opens the store, the socket and the address, loads all that can run here, and takes up the incidents that were open when it was
    /// stopped. The first window begins.
    ///
    /// # Errors
    /// The first of these that fails.
    pub fn start(settings: Settings) -> Result<Self, DaemonError> {
        Self::check(&settings)?;
        let store = match &settings.store {
            Some(directory) => {
                let (mut store, notes) = Store::open(directory, settings.keep.clone())?;
                for note in notes {
                    tracing::warn!(directory = %directory.display(), "store: {note}");
                }
                forget_outboxes(&mut store, &settings);
                Some((store, directory.clone()))
            }
            None => None,
        };
        let incidents = match &store {
            Some((store, _)) => store.state::<Incidents>(INCIDENTS)?.unwrap_or_default(),
            None => Incidents::default(),
        };
        let reader = store.as_ref().map(|(store, _)| store.reader());
        let listeners = Listeners::bind(&settings)?;
        let changed = reader.as_ref().map_or_else(BTreeMap::new, |reader| changes_of(reader, &incidents));
        let records = records(&incidents, &changed);
        let shared = Arc::new(Shared::new(settings.interval, settings.thresholds.clone(), records.clone()));
        let writable = directories(&settings);
        let to_write = confine::to_write(&writable);
        if settings.confine {
            confine::watching(to_write).map_err(|error| DaemonError::Start(error.into()))?;
        }
        let options = ObserverOptions { signals: settings.signals.clone(), redact: settings.redact };
        let engine = Engine::start(options)?;
        for missing in engine.missing() {
            tracing::warn!(signal = missing.signal, "not observed: {}: {}", missing.what, missing.reason);
        }
        let windows = engine.subscribe(QUEUE).map_err(DaemonError::Start)?;
        engine.limit(settings.budget);
        engine.watch(settings.interval);
        let trends = reader.as_ref().map_or_else(Trends::default, remembered);
        let of_windows = reader.as_ref().map_or_else(WindowChanges::default, last_window);
        let objectives = Followed::start(settings.objectives.clone(), reader.as_ref(), &settings.thresholds);
        let changes = Changes::start().map_err(DaemonError::Start)?;
        // What starts from here on has nothing to do with the kernel.
        if settings.confine {
            confine::rest(&writable, to_write);
        }
        let otlp = settings.otlp.clone().map(|otlp| Otlp::start(otlp, settings.redaction.clone(), Arc::clone(&shared)));
        let otlp = otlp.transpose().map_err(DaemonError::Start)?;
        let kept =
            |sink: &SinkSettings| reader.as_ref().map_or_else(Outbox::default, |reader| outbox(reader, &sink.name));
        let outboxes: Vec<_> = settings.sinks.iter().map(kept).collect();
        let api =
            Api::start(listeners, Arc::clone(&shared), reader, &settings.redaction).map_err(DaemonError::Start)?;
        let writer = match store {
            Some((store, directory)) => {
                Some(Writer::start(store, &directory, Arc::clone(&shared)).map_err(DaemonError::Start)?)
            }
            None => None,
        };
        let detached = BTreeSet::new();
        let keep = writer.as_ref().map(Writer::keep);
        let sinks = Sinks::start(&settings.sinks, outboxes, &settings.redaction, keep.as_ref(), &records)
            .map_err(DaemonError::Start)?;
        shared.set_sinks(sinks.status());
        Ok(Self {
            settings,
            engine,
            windows,
            shared,
            trends,
            incidents,
            objectives,
            changes,
            of_windows,
            changed,
            detached,
            sinks,
            writer,
            api,
            otlp,
        })
    }

    /// Where HTTP is served; `None` if it is not. Of port 0, the one that was given.
    pub fn http(&self) -> Option<SocketAddr> {
        self.api.http()
    }

    /// Where health is told to everybody; `None` if it is not. Of port 0, the one that was given.
    pub fn health(&self) -> Option<SocketAddr> {
        self.api.health()
    }

    /// Watches until it is cancelled. Settings that arrive meanwhile are taken over as far as that is possible while it runs.
    ///
    /// # Errors
    /// Why it cannot watch any longer.
    pub fn run(mut self, cancel: &CancelToken, reloads: &Receiver<Settings>) -> Result<(), DaemonError> {
        tracing::info!(
            interval_seconds = self.settings.interval.as_secs_f64(),
            store = self.settings.store.as_ref().map(|path| path.display().to_string()),
            socket = self.settings.socket.as_ref().map(|path| path.display().to_string()),
            http = self.api.http().map(|http| http.to_string()),
            health = self.api.health().map(|health| health.to_string()),
            "watching"
        );
        notify(&[NotifyState::Ready]);
        let result = self.watch(cancel, reloads);
        notify(&[NotifyState::Stopping]);
        tracing::info!("stopping");
        self.stop(result)
    }

    fn watch(&mut self, cancel: &CancelToken, reloads: &Receiver<Settings>) -> Result<(), DaemonError> {
        let watchdog = sd_notify::watchdog_enabled().map(|every| every / 3);
        let (mut told, mut late) = (Instant::now(), false);
        loop {
            match self.windows.next_within(TURN, cancel) {
                Next::Window(window) => self.judge(window),
                Next::TimedOut => {}
                Next::Cancelled => return Ok(()),
                // Stopping gives the reason.
                Next::Ended => return Err(DaemonError::Watch(WatchError::Failed)),
            }
            if let Ok(settings) = reloads.try_recv() {
                self.reload(settings);
            }
            let overrun = self.engine.overrun();
            if let Some(overrun) = overrun.as_ref().filter(|_| !late) {
                tracing::warn!(part = overrun.part, seconds = overrun.lasted.as_secs_f64(), "a sample takes long");
            }
            late = overrun.is_some();
            self.shared.set_sinks(self.sinks.status());
            // An engine that hangs is to be started again by whoever supervises.
            if watchdog.is_some_and(|every| told.elapsed() >= every) && self.shared.health().is_ok() {
                told = Instant::now();
                notify(&[NotifyState::Watchdog]);
            }
        }
    }

    fn judge(&mut self, window: Arc<Window>) {
        self.tell_detached(&window);
        let mut findings = self.trends.judge(&window, &self.settings.thresholds);
        let missed = self.objectives.judge(&window, &self.settings.thresholds);
        if !missed.is_empty() {
            findings.extend(missed);
            findings = ranked(findings);
        }
        let before = std::mem::take(&mut self.incidents);
        let (incidents, transitions) = incidents::step(before, &window, &findings);
        self.incidents = incidents;
        transitions.iter().for_each(log);
        self.changes.add(self.of_windows.look(&window));
        self.remember_changes(&transitions);
        let records = records(&self.incidents, &self.changed);
        let is_changed = |record: &&IncidentRecord| transitions.iter().any(|one| one.id == record.incident.id);
        let changed: Vec<_> = records.iter().filter(is_changed).cloned().collect();
        self.sinks.offer(&changed);
        self.shared.set_sinks(self.sinks.status());
        let lost = self.windows.lost();
        let objectives = self.objectives.status();
        let told =
            Judged { window: Arc::clone(&window), findings, records, transitions: &transitions, lost, objectives };
        self.shared.judged(told);
        if let Some(otlp) = &self.otlp {
            otlp.offer(&transitions, &changed);
        }
        if let Some(writer) = &self.writer {
            // Those that go on are seen longer, which is no change.
            let goes_on = !changed.is_empty() || self.incidents.open().next().is_some();
            writer.offer(window, changed, goes_on.then(|| self.incidents.clone()));
            if let Some(kept) = self.objectives.due() {
                writer.keep_budgets(kept);
            }
        }
    }

    /// Logs which signals went out of the kernel, or came back.
    fn tell_detached(&mut self, window: &Window) {
        let (before, now) = (&self.detached, &window.cost.detached);
        for signal in now.difference(before) {
            let reason = window.missing.iter().find(|missing| missing.signal == *signal).map(|missing| &missing.reason);
            tracing::warn!(signal, "not observed for now: {}", reason.map_or("its cost", String::as_str));
        }
        for signal in before.difference(now) {
            tracing::info!(signal, "observed again");
        }
        self.detached.clone_from(now);
    }

    /// Looks what changed before each incident that opened.
    fn remember_changes(&mut self, transitions: &[Transition]) {
        for transition in transitions.iter().filter(|transition| transition.course == Course::Opened) {
            let began = transition.finding.since.map_or(transition.at, |since| since.min(transition.at));
            // What came between its begin and its first window may have to do with it too.
            let changes = self.changes.before(Moment { unix_ns: transition.at.unix_ns, ..began });
            self.changed.insert(transition.id.clone(), changes);
        }
        let followed: BTreeSet<_> = self.incidents.all().map(|incident| &incident.id).collect();
        self.changed.retain(|id, _| followed.contains(id));
    }

    fn reload(&mut self, settings: Settings) {
        notify(&[NotifyState::Reloading]);
        let ours = &self.settings;
        let fixed = [
            ("signals", ours.signals != settings.signals),
            ("redact", ours.redact != settings.redact),
            ("store", ours.store != settings.store || ours.keep != settings.keep),
            ("socket", ours.socket != settings.socket),
            ("http", ours.http != settings.http || ours.guard != settings.guard || ours.health != settings.health),
            ("otlp", ours.otlp != settings.otlp),
            ("sink", ours.sinks != settings.sinks),
            ("redaction", ours.redaction != settings.redaction),
        ];
        for (name, changed) in fixed {
            if changed {
                tracing::warn!(setting = name, "this setting changes when kerno is started again");
            }
        }
        if settings.interval != ours.interval {
            self.engine.watch(settings.interval);
        }
        if settings.budget != ours.budget {
            self.engine.limit(settings.budget);
        }
        if settings.objectives != ours.objectives {
            self.objectives.replace(settings.objectives.clone());
        }
        if settings.thresholds != ours.thresholds {
            self.trends.forget_findings();
        }
        let Settings { interval, thresholds, budget, objectives, .. } = settings;
        self.shared.configure(interval, thresholds.clone());
        (self.settings.interval, self.settings.budget) = (interval, budget);
        (self.settings.thresholds, self.settings.objectives) = (thresholds, objectives);
        tracing::info!(interval_seconds = interval.as_secs_f64(), "settings read again");
        notify(&[NotifyState::Ready]);
    }

    fn stop(self, result: Result<(), DaemonError>) -> Result<(), DaemonError> {
        if let Err(error) = &result {
            self.shared.end(error.to_string());
        }
        // It sends what it can while the others stop.
        let deadline = Instant::now() + FLUSH + Duration::from_millis(100);
        if let Some(otlp) = &self.otlp {
            otlp.stopping();
        }
        let stopped = self.engine.stop();
        // What was sent until now is kept by the writer.
        self.sinks.stop(SENDING);
        self.api.stop(PATIENCE);
        if let Some(writer) = &self.writer {
            writer.keep_budgets(self.objectives.last());
        }
        if let Some(writer) = self.writer
            && !writer.stop(PATIENCE)
        {
            tracing::error!("the store did not take everything in time");
        }
        if let Some(otlp) = self.otlp {
            otlp.stop(deadline);
        }
        stopped.map_err(DaemonError::Watch).and(result)
    }
}

/// Where files are made and removed while it runs: the store, and the socket's directory.
fn directories(settings: &Settings) -> Vec<&Path> {
    let socket = settings.socket.as_deref().and_then(Path::parent);
    let named = settings.store.as_deref().into_iter().chain(socket);
    // The parent of a bare name is "", which is here.
    named.map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path }).collect()
}

/// What a sink still had to tell.
fn outbox(reader: &Reader, name: &str) -> Outbox {
    reader
        .state(&outbox_name(name))
        .unwrap_or_else(|error| {
            tracing::error!(sink = name, "what the sink had to tell cannot be read: {}", explain(&error));
            None
        })
        .unwrap_or_default()
}

/// Removes what sinks had to tell that are not set any longer.
fn forget_outboxes(store: &mut Store, settings: &Settings) {
    let wanted: BTreeSet<_> = settings.sinks.iter().map(|sink| outbox_name(&sink.name)).collect();
    for name in store.states().into_iter().filter(|name| name.starts_with(OUTBOX) && !wanted.contains(name)) {
        if let Err(error) = store.forget_state(&name) {
            tracing::warn!(name, "cannot be removed from the store: {}", explain(&error));
        }
    }
}

/// The incidents that are followed, each with what changed before it.
fn records(incidents: &Incidents, changed: &BTreeMap<IncidentId, Vec<Change>>) -> Vec<IncidentRecord> {
    let record = |incident: &Incident| {
        let mut record = IncidentRecord::new(incident.clone());
        record.changes = changed.get(&incident.id).cloned().unwrap_or_default();
        record
    };
    incidents.all().map(record).collect()
}

/// What was seen of late, by a daemon before.
fn remembered(reader: &Reader) -> Trends {
    let mut trends = Trends::default();
    let now = jiff::Timestamp::now().as_nanosecond();
    let past = Range::before(u64::try_from(now).unwrap_or(0), REMEMBERED);
    for window in reader.windows(past.from_ns, past.to_ns) {
        match window {
            Ok(window) => trends.remember(&window),
            Err(error) => tracing::warn!("store: {}", explain(&error)),
        }
    }
    trends
}

/// What the machine was like when it was last watched.
fn last_window(reader: &Reader) -> WindowChanges {
    let newest = reader.status().ok().and_then(|status| status.newest);
    let range = newest.map(|newest| Range::before(newest.saturating_add(1), Duration::from_secs(1)));
    let window = range.and_then(|range| reader.windows(range.from_ns, range.to_ns).flatten().last());
    window.map_or_else(WindowChanges::default, |window| WindowChanges::after(&window))
}

/// What changed before the incidents that are followed, as it was kept.
fn changes_of(reader: &Reader, incidents: &Incidents) -> BTreeMap<IncidentId, Vec<Change>> {
    let followed: BTreeSet<_> = incidents.all().map(|incident| &incident.id).collect();
    let kept = reader.incidents().unwrap_or_default().into_iter();
    kept.filter(|record| followed.contains(&record.incident.id))
        .map(|record| (record.incident.id, record.changes))
        .collect()
}

fn log(transition: &Transition) {
    let title = words(&transition.finding).title;
    let (id, rule) = (transition.id.as_str(), transition.finding.rule.as_str());
    let (course, severity) = (transition.course.name(), transition.severity.name());
    let is_bad = matches!(transition.course, Course::Opened | Course::Reopened | Course::Worse);
    if is_bad && transition.severity >= Severity::Warning {
        tracing::warn!(incident = id, rule, course, severity, "{title}");
    } else {
        tracing::info!(incident = id, rule, course, severity, "{title}");
    }
}

/// Tells systemd; without it, nobody.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}
