use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::cumulative::{Gap, Gaps};
use super::error::WatchError;
use super::identities::Identities;
use super::tasks::{ProcessAccount, Tasks};
use super::unseen::unseen;
use crate::probe::clock::{monotonic_ns, unix_offset_ns};
use crate::probe::{CancelToken, Host, LoadError, parallel};
use crate::signals::{self, SignalInfo};
use kerno_model::{CostOfObserving, HostFacts, Missing, SCHEMA_VERSION, Span, Window};
use kerno_model::{SummaryLoss, fill};

/// What is loaded at once.
enum Part {
    Tasks(Box<Result<Tasks, LoadError>>),
    Signal(&'static SignalInfo, Result<Box<dyn Sampler>, LoadError>),
}

/// What to observe.
#[derive(Clone, Debug, Default)]
pub struct ObserverOptions {
    /// The signals by name or alias ([`signals::by_name`]); empty for all.
    pub signals: Vec<String>,
    /// Leave out command lines, which may hold secrets.
    pub redact: bool,
}

impl ObserverOptions {
    /// The signals that are wanted, each once.
    fn wanted(&self) -> Result<Vec<&'static SignalInfo>, WatchError> {
        let mut found = Vec::new();
        for name in &self.signals {
            let unknown = || {
                let names: Vec<_> = signals::ALL.iter().map(|signal| signal.name).collect();
                WatchError::UnknownSignal { name: name.clone(), known: names.join(", ") }
            };
            found.push(signals::by_name(name).ok_or_else(unknown)?.name);
        }
        Ok(signals::ALL.iter().filter(|info| found.is_empty() || found.contains(&info.name)).collect())
    }
}

/// One signal's part: programs in the kernel and what is looked at beside them.
pub(crate) trait Sampler: Send {
    /// Attaches what was loaded: from here on the kernel adds up.
    fn attach(&mut self) -> Result<(), LoadError>;

    /// Begins a window. The first one takes what has been added up so far as its zero; a later one may go on where `finish` ended
    /// the one before.
    fn begin(&mut self, tick: &Tick<'_>);

    /// Looks at what only shows by looking. The last one of a window comes just before `finish`.
    fn sample(&mut self, tick: &Tick<'_>);

    /// Ends the window: puts its part into `signals`, and begins the next one.
    fn finish(&mut self, tick: &Tick<'_>, signals: &mut Window);

    /// A few words on what happens now, such as `12 k calls/s`, for a person who watches: whatever only this needs is read here, so
    /// that it costs nothing where nobody watches.
    fn pulse(&mut self, _now_ns: u64) -> Option<String> {
        None
    }

    /// What the kernel side could not hold since it was loaded.
    fn loss(&self) -> SummaryLoss;
}

/// The moment of a sample.
#[derive(Debug)]
pub(crate) struct Tick<'a> {
    /// Seconds since the window began.
    pub(crate) seconds: f64,
    /// `CLOCK_MONOTONIC` now.
    pub(crate) now_ns: u64,
    /// Every task, sampled just now.
    pub(crate) tasks: &'a Tasks,
}

/// CPU time of one part of observing, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Of the samples.
    pub sampling: f64,
    /// Of beginning and ending windows.
    pub windows: f64,
}

/// Shares a process's CPU time out among what it does in turn.
struct Stopwatch(f64);

impl Stopwatch {
    fn start() -> Self {
        Self(cpu_seconds())
    }

    /// Since the start or the last lap.
    fn lap(&mut self) -> f64 {
        let now = cpu_seconds();
        now - std::mem::replace(&mut self.0, now)
    }
}

/// So often in a row may walking the tasks fail.
const MAX_UNWALKED: u32 = 8;
/// Sampling takes at most one in so many of the time.
const SAMPLING_SHARE: f64 = 100.0;
/// Samples that a window has at least: what is found by trends needs some.
const MIN_SAMPLES: u32 = 8;

fn next_interval(window: Duration, sample_cost: f64) -> Duration {
    let usual = Observer::sampling_interval(window);
    let affordable = Duration::try_from_secs_f64(sample_cost * SAMPLING_SHARE).unwrap_or(usual);
    usual.max(affordable.min(window / MIN_SAMPLES))
}

/// Watches the machine through every signal's summary. Dropping it removes everything from the kernel.
pub struct Observer {
    options: ObserverOptions,
    host: HostFacts,
    tasks: Tasks,
    samplers: Vec<(&'static SignalInfo, Box<dyn Sampler>)>,
    missing: Vec<Missing>,
    /// What concerns all signals and could not be read in this window.
    gaps: Gaps,
    /// Samples in a row for which the tasks could not be walked.
    unwalked: u32,
    identities: Identities,
    started_ns: u64,
    samples: u32,
    /// CPU time of the latest sample, in seconds.
    sample_cost: f64,
    spent: BTreeMap<&'static str, Spent>,
    cpu_before: f64,
    loss_before: BTreeMap<&'static str, SummaryLoss>,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.samplers.iter().map(|(info, _)| info.name).collect();
        f.debug_struct("Observer").field("signals", &names).finish_non_exhaustive()
    }
}

impl Observer {
    /// Loads and attaches all that can run here and begins the first window. A signal that cannot run is told of in
    /// [`Window::missing`].
    ///
    /// # Errors
    /// [`WatchError::Load`] when nothing can run: no privileges, no BTF, or not one of the signals.
    /// [`WatchError::UnknownSignal`] when a signal is asked for that there is not.
    pub fn start(options: ObserverOptions) -> Result<Self, WatchError> {
        options.wanted()?;
        Self::start_on(options, Host::detect())
    }

    /// [`start`](Self::start), with plans for this host.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    #[doc(hidden)]
    pub fn start_on(options: ObserverOptions, host: Host) -> Result<Self, WatchError> {
        let wanted = options.wanted()?;
        let parts = std::iter::once(None).chain(wanted.into_iter().map(Some)).collect();
        let parts = parallel::each(parts, |part: Option<&'static SignalInfo>| match part {
            None => Part::Tasks(Box::new(Tasks::load(&host))),
            Some(info) => Part::Signal(info, (info.sampler)(&host)),
        });
        let mut tasks = None;
        let mut missing = Vec::new();
        let mut samplers: Vec<(&'static SignalInfo, Box<dyn Sampler>)> = Vec::new();
        let mut first_error = None;
        for part in parts {
            match part {
                Part::Tasks(loaded) => tasks = Some((*loaded)?),
                Part::Signal(info, Ok(sampler)) => samplers.push((info, sampler)),
                Part::Signal(info, Err(error)) => {
                    missing.push(fill!(Missing {
                        signal: info.name.into(),
                        what: "all".into(),
                        reason: error.reason(),
                    }));
                    first_error.get_or_insert(error);
                }
            }
        }
        samplers.retain_mut(|(info, sampler)| match sampler.attach() {
            Ok(()) => true,
            Err(error) => {
                missing.push(fill!(Missing { signal: info.name.into(), what: "all".into(), reason: error.reason() }));
                first_error.get_or_insert(error);
                false
            }
        });
        if let (true, Some(error)) = (samplers.is_empty(), first_error) {
            return Err(error.into());
        }
        let mut tasks = tasks.map_or_else(|| Tasks::load(&host), Ok)?;
        let running: Vec<&str> = samplers.iter().map(|(info, _)| info.name).collect();
        missing.extend(unseen(&running));
        let facts = super::host_facts(&host);
        drop(host);
        let now_ns = monotonic_ns();
        tasks.sample(0.0, now_ns).map_err(WatchError::Tasks)?;
        tasks.begin();
        let mut observer = Self {
            options,
            host: facts,
            tasks,
            samplers,
            missing,
            gaps: Gaps::new("all"),
            unwalked: 0,
            identities: Identities::default(),
            started_ns: 0,
            samples: 0,
            sample_cost: 0.0,
            spent: BTreeMap::new(),
            cpu_before: 0.0,
            loss_before: BTreeMap::new(),
        };
        observer.begin(monotonic_ns());
        Ok(observer)
    }

    /// What is known by now not to be observed here; [`Window::missing`] has what shows while a window passes, too.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// How often to [`sample`](Self::sample) in a window of this length: often enough for a trend, seldom enough to cost little.
    pub fn sampling_interval(window: Duration) -> Duration {
        (window / 24).clamp(Duration::from_millis(200), Duration::from_secs(2))
    }

    /// How long to wait for the next sample: longer than [`sampling_interval`](Self::sampling_interval) where the latest one took
    /// long (very many tasks), so that sampling takes at most about 1 % of a CPU; but a window has a few samples whatever they cost.
    pub fn next_interval(&self, window: Duration) -> Duration {
        next_interval(window, self.sample_cost)
    }

    /// CPU time that each part took since the start, in this process, by the signal's name; `tasks` (walking them all) and
    /// `processes` (who is who) are shared by all signals.
    pub const fn spent(&self) -> &BTreeMap<&'static str, Spent> {
        &self.spent
    }

    fn begin(&mut self, started_ns: u64) {
        self.started_ns = started_ns;
        self.samples = 1;
        self.cpu_before = cpu_seconds();
        self.loss_before = self.samplers.iter().map(|(info, sampler)| (info.name, sampler.loss())).collect();
        let tick = Tick { seconds: 0.0, now_ns: self.started_ns, tasks: &self.tasks };
        let mut watch = Stopwatch::start();
        for (info, sampler) in &mut self.samplers {
            sampler.begin(&tick);
            self.spent.entry(info.name).or_default().windows += watch.lap();
        }
    }

    /// Looks at what only shows by looking twice. Call it every [`next_interval`](Self::next_interval).
    ///
    /// # Errors
    /// [`WatchError::Tasks`] when the kernel's tasks could not be read many times in a row. One failure is no error: what processes used
    /// comes with the next sample.
    pub fn sample(&mut self) -> Result<(), WatchError> {
        let now_ns = monotonic_ns();
        let seconds = seconds_between(self.started_ns, now_ns);
        let mut watch = Stopwatch::start();
        let begun = watch.0;
        self.walk_tasks(seconds, now_ns)?;
        self.spent.entry("tasks").or_default().sampling += watch.lap();
        self.samples += 1;
        self.identities.notice(self.tasks.processes());
        self.spent.entry("processes").or_default().sampling += watch.lap();
        let tick = Tick { seconds, now_ns, tasks: &self.tasks };
        for (info, sampler) in &mut self.samplers {
            sampler.sample(&tick);
            self.spent.entry(info.name).or_default().sampling += watch.lap();
        }
        self.sample_cost = watch.0 - begun;
        Ok(())
    }

    fn walk_tasks(&mut self, seconds: f64, now_ns: u64) -> Result<(), LoadError> {
        let Err(error) = self.tasks.sample(seconds, now_ns) else {
            self.unwalked = 0;
            return Ok(());
        };
        self.unwalked += 1;
        if self.unwalked >= MAX_UNWALKED {
            return Err(LoadError::Io("cannot read the tasks", error));
        }
        self.gaps.add(Gap { what: "what processes used until the last sample".to_owned(), reason: error.to_string() });
        Ok(())
    }

    /// Lets a window of this length pass, with [`sample`](Self::sample) as often as it needs, and [`finish`](Self::finish)es it.
    /// When it is cancelled it ends early, with what was seen by then.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn watch(&mut self, window: Duration, cancel: &CancelToken) -> Result<Window, WatchError> {
        let begun = Instant::now();
        let interval = Self::sampling_interval(window);
        loop {
            let rest = window.saturating_sub(begun.elapsed());
            // The last sample is that of `finish`.
            let last = rest < interval + interval / 2;
            if cancel.wait(if last { rest } else { interval }) || last {
                return self.finish();
            }
            self.sample()?;
        }
    }

    /// A few words from each signal on what happens now: (signal's short name, words).
    pub fn pulse(&mut self) -> Vec<(&'static str, String)> {
        let now_ns = monotonic_ns();
        let words =
            |(info, sampler): &mut (&'static SignalInfo, Box<dyn Sampler>)| Some((info.alias, sampler.pulse(now_ns)?));
        self.samplers.iter_mut().filter_map(words).collect()
    }

    /// Ends the window, gives all that was observed in it, and begins the next one.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn finish(&mut self) -> Result<Window, WatchError> {
        self.sample()?;
        let now_ns = monotonic_ns();
        let seconds = seconds_between(self.started_ns, now_ns);
        let mut signals = fill!(Window {
            schema_version: SCHEMA_VERSION,
            kerno_version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.host.clone(),
            span: fill!(Span {
                started_unix: unix_seconds(self.started_ns),
                started_ns: self.started_ns,
                seconds,
                samples: self.samples,
            }),
            missing: self.missing.clone(),
        });
        let tick = Tick { seconds, now_ns, tasks: &self.tasks };
        let mut watch = Stopwatch::start();
        for (info, sampler) in &mut self.samplers {
            sampler.finish(&tick, &mut signals);
            self.spent.entry(info.name).or_default().windows += watch.lap();
        }
        self.gaps.tell(&mut signals);
        told_once(&mut signals.missing);
        self.name_processes(&mut signals);
        self.spent.entry("processes").or_default().windows += watch.lap();
        signals.cost = self.cost();
        let _ = watch.lap();
        self.tasks.begin();
        self.spent.entry("tasks").or_default().windows += watch.lap();
        // What was read at this window's end is the next one's begin.
        self.begin(now_ns);
        Ok(signals)
    }

    fn cost(&self) -> CostOfObserving {
        let mut loss = BTreeMap::new();
        for (info, sampler) in &self.samplers {
            let lost = sampler.loss() - self.loss_before.get(info.name).copied().unwrap_or_default();
            if lost != SummaryLoss::default() {
                loss.insert(info.name.to_owned(), lost);
            }
        }
        fill!(CostOfObserving { cpu_seconds: cpu_seconds() - self.cpu_before, resident_bytes: resident_bytes(), loss })
    }

    /// Adds whom the signals name, and whoever used most of anything.
    fn name_processes(&mut self, signals: &mut Window) {
        /// How many of the heaviest users of each thing.
        const TOP: usize = 10;
        let mut pids: BTreeSet<u32> = named_pids(signals);
        let uses: [fn(&ProcessAccount) -> u64; 9] = [
            |p| p.used.run_ns,
            |p| p.used.wait_ns,
            |p| p.used.read_bytes,
            |p| p.used.write_bytes,
            |p| p.used.io_delay_ns,
            |p| p.used.reclaim_delay_ns,
            |p| p.used.major_faults,
            |p| p.row.anon_pages,
            |p| p.used.involuntary,
        ];
        let mut all: Vec<_> = self.tasks.processes().collect();
        for used in uses {
            all.sort_unstable_by_key(|process| std::cmp::Reverse(used(process)));
            pids.extend(all.iter().take(TOP).filter(|process| used(process) > 0).map(|process| process.row.pid));
        }
        // Their parents, for who started them.
        let parents: Vec<_> = pids.iter().filter_map(|pid| Some(self.tasks.process(*pid)?.row.parent_pid)).collect();
        pids.extend(parents);
        for pid in pids {
            if let Some(account) = self.tasks.process(pid) {
                signals.processes.insert(pid, self.identities.describe(account, self.options.redact));
            }
        }
    }
}

/// Of what is missing for two reasons, the first.
fn told_once(missing: &mut Vec<Missing>) {
    let mut told = BTreeSet::new();
    missing.retain(|missing| told.insert((missing.signal.clone(), missing.what.clone())));
}

fn named_pids(signals: &Window) -> BTreeSet<u32> {
    let mut pids = BTreeSet::new();
    let mut add = |pid: u32| {
        if pid != 0 {
            pids.insert(pid);
        }
    };
    let parts = [
        signals.syscall_latency.as_ref().map(|part| part.pids()),
        signals.tcp_monitor.as_ref().map(|part| part.pids()),
        signals.oom_track.as_ref().map(|part| part.pids()),
        signals.disk_io.as_ref().map(|part| part.pids()),
        signals.sched_delay.as_ref().map(|part| part.pids()),
        signals.fd_track.as_ref().map(|part| part.pids()),
        signals.file_audit.as_ref().map(|part| part.pids()),
    ];
    parts.into_iter().flatten().flatten().for_each(&mut add);
    pids
}

/// A moment of the kernel's clock in seconds since 1970, as the clock on the wall is set now.
#[allow(clippy::cast_precision_loss, reason = "microseconds are kept")]
fn unix_seconds(monotonic_ns: u64) -> f64 {
    (i128::from(monotonic_ns) + unix_offset_ns()) as f64 / 1e9
}

#[allow(clippy::cast_precision_loss, reason = "a window's length")]
fn seconds_between(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.saturating_sub(from_ns) as f64 / 1e9
}

#[allow(clippy::cast_precision_loss, reason = "seconds")]
fn cpu_seconds() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::ErrorKind;

    #[test]
    fn an_unknown_signal_is_not_taken_for_none() {
        let wanted = |names: &[&str]| {
            let signals = names.iter().map(|name| (*name).to_owned()).collect();
            let options = ObserverOptions { signals, redact: false };
            options.wanted().map(|found| found.iter().map(|info| info.name).collect::<Vec<_>>())
        };
        assert_eq!(wanted(&[]).unwrap().len(), signals::ALL.len());
        assert_eq!(wanted(&["tcp", "disk_io", "tcp_monitor"]).unwrap(), ["tcp_monitor", "disk_io"]);
        let error = wanted(&["tcp", "nope"]).unwrap_err();
        assert!(error.to_string().contains("no signal \"nope\"; there are: syscall_latency, "), "{error}");
        assert_eq!(error.kind(), ErrorKind::Options);
    }

    #[test]
    fn an_observer_may_move_to_a_thread() {
        fn is_send<T: Send>() {}
        is_send::<Observer>();
        is_send::<Window>();
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
}
