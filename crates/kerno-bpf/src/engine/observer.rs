use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::budget::Budget;
use super::cpu_clock;
use super::cumulative::{Gap, Gaps};
use super::error::WatchError;
use super::governing::Governing;
use super::host_facts::Machine;
use super::identities::Identities;
use super::kernel_log::KernelLogWatch;
use super::limit_watch::{Around, LimitWatch};
use super::loading::{self, Loaded, Running};
use super::naming::worth_naming;
use super::pacing::{self, Due, Pacer};
use super::resolver::Resolver;
use super::sampler::Tick;
use super::tasks::Tasks;
use super::unseen::unseen;
use super::watchdog::{Progress, Watchdog};
use crate::probe::clock::{monotonic_ns, unix_offset_ns};
use crate::probe::{CancelToken, Host};
use crate::signals::{self, SignalInfo};
use kerno_model::{CostOfObserving, Missing, SCHEMA_VERSION, Span, Window};
use kerno_model::{SummaryLoss, fill};

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

/// CPU time of one part of observing, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Of the samples.
    pub sampling: f64,
    /// Of beginning and ending windows.
    pub windows: f64,
}

/// Shares the CPU time of watching out among what is done in turn.
struct Stopwatch(f64);

impl Stopwatch {
    fn start() -> Self {
        Self(cpu_clock::seconds())
    }

    /// Since the start or the last lap.
    fn lap(&mut self) -> f64 {
        let now = cpu_clock::seconds();
        now - std::mem::replace(&mut self.0, now)
    }
}

/// How often in a row reading the tasks may fail, less one.
const MAX_UNWALKED: u32 = 8;

/// The parts of a sample that belong to no signal.
const TASKS: &str = "tasks";
const PROCESSES: &str = "processes";
const GOVERNOR: &str = "budget";

/// Watches the machine through every signal's summary, in the thread that calls it. Dropping it removes everything from the kernel.
///
/// An [`Engine`](super::Engine) watches in a thread of its own, for any number of consumers.
pub struct Observer {
    options: ObserverOptions,
    machine: Machine,
    tasks: Tasks,
    samplers: Vec<Running>,
    /// Signals that cannot run.
    unloaded: Vec<Missing>,
    missing: Vec<Missing>,
    /// What concerns all signals and could not be read in this window.
    gaps: Gaps,
    /// Samples in a row for which the tasks could not be walked.
    unwalked: u32,
    identities: Identities,
    limits: LimitWatch,
    kernel_log: KernelLogWatch,
    resolver: Resolver,
    watchdog: Watchdog,
    started_ns: u64,
    samples: u32,
    /// CPU time of the latest sample, in seconds.
    sample_cost: f64,
    /// Of this window so far.
    cpu_seconds: f64,
    spent: BTreeMap<&'static str, Spent>,
    loss_before: BTreeMap<&'static str, SummaryLoss>,
    /// Holds the cost within a budget, if there is one.
    governing: Option<Governing>,
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
        Self::start_until(options, Arc::default())
    }

    /// [`start`](Self::start), with plans for this host.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    #[doc(hidden)]
    pub fn start_on(options: ObserverOptions, host: Host) -> Result<Self, WatchError> {
        Self::start_with(options, host, Arc::default())
    }

    /// [`start`](Self::start). Once `stop` is set, it waits for no answers any more: it is about to be dropped.
    pub(super) fn start_until(options: ObserverOptions, stop: Arc<AtomicBool>) -> Result<Self, WatchError> {
        options.wanted()?;
        Self::start_with(options, Host::detect(), stop)
    }

    fn start_with(options: ObserverOptions, host: Host, stop: Arc<AtomicBool>) -> Result<Self, WatchError> {
        let Loaded { tasks, running: samplers, refused: unloaded, first_error } =
            loading::everything(options.wanted()?, &host);
        if let (true, Some(error)) = (samplers.is_empty(), first_error) {
            return Err(error.into());
        }
        let mut tasks = tasks.unwrap_or_else(|| Tasks::load(&host))?;
        let resolver = Resolver::new(stop);
        let machine = Machine::new(&host, &resolver);
        drop(host);
        tasks.sample(0.0, monotonic_ns()).map_err(WatchError::Tasks)?;
        tasks.begin();
        let parts =
            [TASKS, PROCESSES, GOVERNOR].into_iter().chain(samplers.iter().map(|(info, _)| info.name)).collect();
        let mut observer = Self {
            options,
            machine,
            tasks,
            samplers,
            unloaded,
            missing: Vec::new(),
            gaps: Gaps::new("all"),
            unwalked: 0,
            identities: Identities::default(),
            limits: LimitWatch::default(),
            kernel_log: KernelLogWatch::default(),
            resolver,
            watchdog: Watchdog::new(parts),
            started_ns: 0,
            samples: 0,
            sample_cost: 0.0,
            cpu_seconds: 0.0,
            spent: BTreeMap::new(),
            loss_before: BTreeMap::new(),
            governing: None,
        };
        observer.look_at_what_is_unseen();
        observer.kernel_log.begin();
        observer.begin(monotonic_ns());
        Ok(observer)
    }

    /// What is known by now not to be observed here; [`Window::missing`] has what shows while a window passes, too.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// How often to [`sample`](Self::sample) in a window of this length: often enough for a trend, seldom enough to cost little.
    pub fn sampling_interval(window: Duration) -> Duration {
        pacing::sampling_interval(window)
    }

    /// CPU time that each part took since the start, by the name of the signal. All signals share `tasks` (reading them) and `processes` (who
    /// is who).
    pub const fn spent(&self) -> &BTreeMap<&'static str, Spent> {
        &self.spent
    }

    /// CPU time of the latest sample, in seconds.
    pub(super) const fn sample_cost(&self) -> f64 {
        self.sample_cost
    }

    /// From now on it may cost so much.
    pub(super) fn limit(&mut self, budget: Budget) {
        match &mut self.governing {
            Some(governing) => governing.set(budget),
            None => self.governing = Some(Governing::new(budget)),
        }
    }

    /// Whether something has to go, or may come back, which happens when the window ends.
    pub(super) fn wants_an_end(&self) -> bool {
        self.governing.as_ref().is_some_and(Governing::wants_an_end)
    }

    /// How many times more seldom than usual samples are to be taken.
    pub(super) fn thinned(&self) -> u32 {
        self.governing.as_ref().map_or(1, Governing::thinned)
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        self.watchdog.progress()
    }

    /// Privileges and mounts can change while it runs.
    fn look_at_what_is_unseen(&mut self) {
        let running: Vec<&str> = self.samplers.iter().map(|(info, _)| info.name).collect();
        let detached = self.governing.iter().flat_map(|governing| governing.missing(monotonic_ns()));
        self.missing = self.unloaded.iter().cloned().chain(detached).chain(unseen(&running)).collect();
    }

    fn begin(&mut self, started_ns: u64) {
        self.started_ns = started_ns;
        self.samples = 1;
        self.cpu_seconds = 0.0;
        self.loss_before = self.samplers.iter().map(|(info, sampler)| (info.name, sampler.loss())).collect();
        let tick = Tick { seconds: 0.0, now_ns: started_ns, left: None, tasks: &self.tasks, resolver: &self.resolver };
        let mut watch = Stopwatch::start();
        for (info, sampler) in &mut self.samplers {
            self.watchdog.enter(info.name);
            sampler.begin(&tick);
            let took = watch.lap();
            self.spent.entry(info.name).or_default().windows += took;
            self.cpu_seconds += took;
        }
        self.watchdog.end();
    }

    /// Reads what has to be read repeatedly. [`watch`](Self::watch) calls it as often as a window needs; a program with a loop of its own
    /// calls it every [`sampling_interval`](Self::sampling_interval).
    ///
    /// # Errors
    /// [`WatchError::Tasks`] when the kernel's tasks could not be read many times in a row. One failure is no error: what processes used
    /// comes with the next sample.
    pub fn sample(&mut self) -> Result<(), WatchError> {
        self.sample_with(None)
    }

    /// [`sample`](Self::sample), when it is known how many more samples this window has, its end's included: what would make the end take long is
    /// then done in parts.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn sample_with(&mut self, left: Option<usize>) -> Result<(), WatchError> {
        self.resolver.begin();
        self.watchdog.begin();
        let result = self.look(left);
        self.watchdog.end();
        result
    }

    fn look(&mut self, left: Option<usize>) -> Result<(), WatchError> {
        let now_ns = monotonic_ns();
        let seconds = seconds_between(self.started_ns, now_ns);
        let mut watch = Stopwatch::start();
        let begun = watch.0;
        self.walk_tasks(seconds, now_ns)?;
        self.spent.entry(TASKS).or_default().sampling += watch.lap();
        self.samples += 1;
        self.watchdog.enter(PROCESSES);
        self.identities.notice(self.tasks.processes(), &self.resolver);
        self.spent.entry(PROCESSES).or_default().sampling += watch.lap();
        let tick = Tick { seconds, now_ns, left, tasks: &self.tasks, resolver: &self.resolver };
        for (info, sampler) in &mut self.samplers {
            self.watchdog.enter(info.name);
            sampler.sample(&tick);
            self.spent.entry(info.name).or_default().sampling += watch.lap();
        }
        self.watchdog.enter(PROCESSES);
        let failures = self.samplers.iter_mut().flat_map(|(_, sampler)| sampler.failures()).collect();
        let around = Around { tasks: &self.tasks, identities: &self.identities, resolver: &self.resolver };
        self.limits.notice(failures, around, now_ns);
        self.kernel_log.sample(now_ns);
        self.spent.entry(PROCESSES).or_default().sampling += watch.lap();
        if let Some(governing) = &mut self.governing {
            self.watchdog.enter(GOVERNOR);
            governing.meter(now_ns, self.samples, &self.samplers);
            self.spent.entry(GOVERNOR).or_default().sampling += watch.lap();
        }
        self.sample_cost = watch.0 - begun;
        self.cpu_seconds += self.sample_cost;
        Ok(())
    }

    fn walk_tasks(&mut self, seconds: f64, now_ns: u64) -> Result<(), WatchError> {
        let Err(error) = self.tasks.sample(seconds, now_ns) else {
            self.unwalked = 0;
            return Ok(());
        };
        self.unwalked += 1;
        if self.unwalked >= MAX_UNWALKED {
            return Err(WatchError::Tasks(error));
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
        let mut pacer = Pacer::begin(window);
        loop {
            let (due, wait) = pacer.next();
            if cancel.wait(wait) || due == Due::End {
                return self.finish();
            }
            self.sample_with(Some(pacer.left()))?;
            pacer.sampled(self.sample_cost);
        }
    }

    /// A few words from each signal on what happens now: (signal's short name, words).
    pub fn pulse(&mut self) -> Vec<(&'static str, String)> {
        let now_ns = monotonic_ns();
        let words = |(info, sampler): &mut Running| Some((info.alias, sampler.pulse(now_ns)?));
        self.samplers.iter_mut().filter_map(words).collect()
    }

    /// Ends the window, gives all that was observed in it, and begins the next one.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn finish(&mut self) -> Result<Window, WatchError> {
        self.sample_with(Some(0))?;
        self.resolver.begin();
        self.watchdog.begin();
        let now_ns = monotonic_ns();
        let seconds = seconds_between(self.started_ns, now_ns);
        let mut watch = Stopwatch::start();
        let begun = watch.0;
        if let Err(late) = self.machine.refresh(&self.resolver) {
            self.gaps.add(Gap { what: "the operating system and virtualisation".to_owned(), reason: late.to_string() });
        }
        self.look_at_what_is_unseen();
        self.spent.entry(PROCESSES).or_default().windows += watch.lap();
        let mut signals = fill!(Window {
            schema_version: SCHEMA_VERSION,
            kerno_version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.machine.facts().clone(),
            span: fill!(Span {
                started_unix: unix_seconds(self.started_ns),
                started_ns: self.started_ns,
                seconds,
                samples: self.samples,
            }),
            missing: self.missing.clone(),
        });
        let tick = Tick { seconds, now_ns, left: Some(0), tasks: &self.tasks, resolver: &self.resolver };
        for (info, sampler) in &mut self.samplers {
            self.watchdog.enter(info.name);
            sampler.finish(&tick, &mut signals);
            self.spent.entry(info.name).or_default().windows += watch.lap();
        }
        self.watchdog.enter(PROCESSES);
        let around = Around { tasks: &self.tasks, identities: &self.identities, resolver: &self.resolver };
        self.limits.finish(&mut signals, around);
        self.kernel_log.sample(now_ns);
        self.kernel_log.finish(&mut self.gaps, &mut signals);
        self.name_processes(&mut signals);
        if let (true, Some(life)) = (self.options.redact, &mut signals.process_life) {
            life.programs.iter_mut().for_each(|program| program.args.clear());
        }
        self.tell_gaps(&mut signals);
        self.spent.entry(PROCESSES).or_default().windows += watch.lap();
        signals.cost = self.cost(self.cpu_seconds + watch.0 - begun);
        let _ = watch.lap();
        if let Some(governing) = &mut self.governing {
            self.watchdog.enter(GOVERNOR);
            governing.window_ended(now_ns, &mut self.samplers, &mut signals);
        }
        let governed = watch.lap();
        self.spent.entry(GOVERNOR).or_default().windows += governed;
        self.watchdog.enter(TASKS);
        self.tasks.begin();
        let took = watch.lap();
        self.spent.entry(TASKS).or_default().windows += took;
        // What was read at this window's end is the next one's begin.
        self.begin(now_ns);
        self.cpu_seconds += governed + took;
        Ok(signals)
    }

    fn name_processes(&mut self, signals: &mut Window) {
        let accounts = worth_naming(signals, &self.tasks);
        self.identities.prepare(&accounts, &self.resolver);
        let redact = self.options.redact;
        let described = accounts.iter().map(|account| (account.row.pid, self.identities.describe(account, redact)));
        signals.processes.extend(described);
        self.identities.tell_unanswered(&mut self.gaps);
    }

    fn tell_gaps(&mut self, signals: &mut Window) {
        self.watchdog.tell(&mut self.gaps);
        let hanging = self.resolver.hanging();
        if hanging > 0 {
            let threads = if hanging == 1 {
                "1 thread of kerno hangs".to_owned()
            } else {
                format!("{hanging} threads of kerno hang")
            };
            let reason = format!("{threads} in a system call: a process, a disk or a server does not respond");
            self.gaps.add(Gap { what: "some files of /proc and /sys, and some file systems".to_owned(), reason });
        }
        self.gaps.tell(signals);
        // If something is missing for two reasons, the first is enough.
        let mut told = BTreeSet::new();
        signals.missing.retain(|missing| told.insert((missing.signal.clone(), missing.what.clone())));
    }

    fn cost(&self, cpu_seconds: f64) -> CostOfObserving {
        let mut loss = BTreeMap::new();
        for (info, sampler) in &self.samplers {
            let lost = sampler.loss() - self.loss_before.get(info.name).copied().unwrap_or_default();
            if lost != SummaryLoss::default() {
                loss.insert(info.name.to_owned(), lost);
            }
        }
        fill!(CostOfObserving { cpu_seconds, resident_bytes: resident_bytes(), loss })
    }
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
}
