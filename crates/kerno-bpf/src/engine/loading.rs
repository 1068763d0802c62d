//! Loads signals, those that share hooks together.

use super::sampler::Sampler;
use super::tasks::Tasks;
use crate::calls::summaries::{self, SUMMARIES};
use crate::probe::{Host, LoadError, parallel};
use crate::signals::SignalInfo;
use kerno_model::{Missing, fill};

/// A signal that is loaded, with what reads it.
pub(super) type Running = (&'static SignalInfo, Box<dyn Sampler>);

/// What is loaded at once.
enum Work {
    Tasks,
    Signal(&'static SignalInfo),
    /// Signals that have hooks in common.
    Together(Vec<&'static SignalInfo>),
}

/// What came of it.
enum Part {
    Tasks(Box<Result<Tasks, LoadError>>),
    Signal(&'static SignalInfo, Result<Box<dyn Sampler>, LoadError>),
}

impl Work {
    /// All that there is to load for these signals.
    fn of(wanted: Vec<&'static SignalInfo>) -> Vec<Self> {
        let (mut sharing, mut alone): (Vec<&SignalInfo>, Vec<_>) = wanted.into_iter().partition(|info| is_shared(info));
        sharing.sort_by_key(|info| SUMMARIES.number(info.name));
        let mut all = Vec::new();
        if sharing.len() > 1 {
            all.push(Self::Together(sharing));
        } else {
            alone.extend(sharing);
        }
        all.extend(alone.into_iter().map(Self::Signal));
        all
    }

    fn load(self, host: &Host) -> Vec<Part> {
        let alone = |info: &'static SignalInfo| Part::Signal(info, (info.sampler)(host));
        match self {
            Self::Tasks => vec![Part::Tasks(Box::new(Tasks::load(host)))],
            Self::Signal(info) => vec![alone(info)],
            Self::Together(infos) => {
                match summaries::samplers(host, &infos.iter().map(|info| info.name).collect::<Vec<_>>()) {
                    Ok(loaded) => infos
                        .into_iter()
                        .zip(loaded.into_iter().map(Ok))
                        .map(|(info, sampler)| Part::Signal(info, sampler))
                        .collect(),
                    // What the kernel does not take of several signals it may take of one.
                    Err(_) => infos.into_iter().map(alone).collect(),
                }
            }
        }
    }
}

/// Whether a signal has hooks in common with others.
fn is_shared(info: &SignalInfo) -> bool {
    SUMMARIES.number(info.name).is_some()
}

/// The signals whose programs change when this one comes or goes, of those that run: it and those that share hooks with it.
pub(super) fn concerned<'a>(info: &'a SignalInfo) -> impl Fn(&SignalInfo) -> bool + 'a {
    move |other| other.name == info.name || (is_shared(info) && is_shared(other))
}

/// What came of loading.
pub(super) struct Loaded {
    /// `None` if they were not asked for.
    pub(super) tasks: Option<Result<Tasks, LoadError>>,
    /// Attached, in the order of the signals.
    pub(super) running: Vec<Running>,
    /// Those that cannot run here, and the first reason.
    pub(super) refused: Vec<Missing>,
    pub(super) first_error: Option<LoadError>,
}

/// Loads the tasks and these signals.
pub(super) fn everything(wanted: Vec<&'static SignalInfo>, host: &Host) -> Loaded {
    let mut work = vec![Work::Tasks];
    work.extend(Work::of(wanted));
    load(work, host)
}

/// Loads these signals.
pub(super) fn signals(wanted: Vec<&'static SignalInfo>, host: &Host) -> Loaded {
    load(Work::of(wanted), host)
}

fn load(work: Vec<Work>, host: &Host) -> Loaded {
    let mut loaded = Loaded { tasks: None, running: Vec::new(), refused: Vec::new(), first_error: None };
    for part in parallel::each(work, |work| work.load(host)).into_iter().flatten() {
        match part {
            Part::Tasks(tasks) => loaded.tasks = Some(*tasks),
            Part::Signal(info, Ok(sampler)) => loaded.running.push((info, sampler)),
            Part::Signal(info, Err(error)) => loaded.refuse(info, error),
        }
    }
    loaded.running.sort_by_key(|(info, _)| info.event_type);
    for (info, mut sampler) in std::mem::take(&mut loaded.running) {
        match sampler.attach() {
            Ok(()) => loaded.running.push((info, sampler)),
            Err(error) => loaded.refuse(info, error),
        }
    }
    loaded
}

impl Loaded {
    fn refuse(&mut self, info: &SignalInfo, error: LoadError) {
        self.refused.push(fill!(Missing { signal: info.name.into(), what: "all".into(), reason: error.reason() }));
        self.first_error.get_or_insert(error);
    }
}
