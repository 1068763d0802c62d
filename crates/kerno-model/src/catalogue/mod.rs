//! All numbers that Kerno gives to others: what they are, and their values in a window. `docs/metrics.md` is made from it.
//!
//! [`samples`] has the numbers of one window, for a terminal, a page or an objective. [`Totals`] adds up windows for those who take
//! running totals, as Prometheus and OpenTelemetry do.
//!
//! Labels whose values are names from the machine have a bound: the first by weight have series of their own, and one with the value `other`
//! has exactly the rest. So a node has at most [`MAX_SERIES`](crate::metric::MAX_SERIES) series, whatever runs on it.

mod daemon;
mod incidents;
mod objectives;
mod processes;
mod select;
mod totals;
mod window;

#[cfg(test)]
mod tests;

use crate::metric::{Describe, Give, Metric, Sample, Weighed};
use crate::{Incident, ObjectiveStatus, Transition, Window};

pub use daemon::{AlertCounts, Daemon, OtlpCounts};
pub use objectives::MAX_OBJECTIVES;
use select::Selections;
pub use totals::{Mark, Totals};

/// The parts of a window that have numbers. A new signal adds a line.
static PARTS: &[&dyn InWindow] = &[
    &Of { name: "syscall_latency", part: |window| window.syscall_latency.as_ref() },
    &Of { name: "tcp_monitor", part: |window| window.tcp_monitor.as_ref() },
    &Of { name: "oom_track", part: |window| window.oom_track.as_ref() },
    &Of { name: "disk_io", part: |window| window.disk_io.as_ref() },
    &Of { name: "sched_delay", part: |window| window.sched_delay.as_ref() },
    &Of { name: "fd_track", part: |window| window.fd_track.as_ref() },
    &Of { name: "file_audit", part: |window| window.file_audit.as_ref() },
    &Of { name: "dns_query", part: |window| window.dns_query.as_ref() },
    &Of { name: "process_life", part: |window| window.process_life.as_ref() },
    &Of { name: "processes", part: |window| Some(&window.processes) },
    &Of { name: "window", part: |window| Some(window) },
];

/// A part of a window by its name.
struct Of<P: 'static> {
    name: &'static str,
    part: fn(&Window) -> Option<&P>,
}

/// [`Of`] any part.
trait InWindow: Sync {
    fn description(&self) -> Part;
    fn is_in(&self, window: &Window) -> bool;
    fn give(&self, window: &Window, give: &mut Give<'_>);
}

impl<P: Describe> InWindow for Of<P> {
    fn description(&self) -> Part {
        Part::of::<P>(self.name)
    }

    fn is_in(&self, window: &Window) -> bool {
        (self.part)(window).is_some() && !window.missing.iter().any(|missing| missing.signal == self.name)
    }

    fn give(&self, window: &Window, give: &mut Give<'_>) {
        if let Some(part) = (self.part)(window) {
            give.part(part);
        }
    }
}

/// What a part of the catalogue describes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Part {
    /// The name of the signal or of another field of a window; `incidents` for what is not of a window.
    pub name: &'static str,
    /// What it is about, in a few words.
    pub about: &'static str,
    /// Its numbers.
    pub metrics: Vec<&'static Metric>,
    /// What has a number and is no metric, by its path, and why. `*` stands for any name.
    pub left_out: &'static [(&'static str, &'static str)],
}

impl Part {
    fn of<P: Describe + ?Sized>(name: &'static str) -> Self {
        let metrics = P::METRICS.iter().map(|described| &described.metric).collect();
        Self { name, about: P::ABOUT, metrics, left_out: P::LEFT_OUT }
    }
}

/// The whole catalogue.
pub fn parts() -> Vec<Part> {
    let of_incidents = [Part::of::<[Incident]>("incidents"), Part::of::<[Transition]>("changes of incidents")];
    let of_daemon = [Part::of::<Daemon>("daemon"), Part::of::<[ObjectiveStatus]>("objectives")];
    parts_of_windows().into_iter().chain(of_incidents).chain(of_daemon).collect()
}

/// The part of the catalogue that is taken from windows.
pub fn parts_of_windows() -> Vec<Part> {
    PARTS.iter().map(|part| part.description()).collect()
}

/// Whether a window has the whole part that a number is of. Then a counter without a series is one that stands still.
pub fn observed_whole(window: &Window, metric: &Metric) -> bool {
    let is_of = |part: &&&dyn InWindow| part.description().metrics.iter().any(|known| known.name == metric.name);
    PARTS.iter().find(is_of).is_some_and(|part| part.is_in(window))
}

/// All numbers of the catalogue.
pub fn metrics() -> Vec<&'static Metric> {
    parts().into_iter().flat_map(|part| part.metrics).collect()
}

/// The number of this name, as in [`Metric::name`] or as Prometheus has it ([`Metric::prometheus`]).
pub fn find(name: &str) -> Option<&'static Metric> {
    metrics().into_iter().find(|metric| metric.name == name || metric.prometheus() == name)
}

/// The numbers of one window, sorted by the order of the catalogue and by labels. Counters and histograms have what was added in the window.
pub fn samples(window: &Window) -> Vec<Sample> {
    Selections::default().bound(weighed(window))
}

/// The numbers of one window with all names that it has, for what makes no series of them, such as an objective for one unit. Only what the
/// window itself lists is bounded.
pub fn samples_by_name(window: &Window) -> Vec<Sample> {
    select::added_up(weighed(window).into_iter().map(|weighed| weighed.sample))
}

/// The numbers of incidents: those that are open now.
pub fn incident_samples(open: &[Incident]) -> Vec<Sample> {
    Selections::default().bound(given(open))
}

fn weighed(window: &Window) -> Vec<Weighed> {
    let mut all = Vec::new();
    let started = (window.span.moment(0.0).unix_ns, window.span.started_ns);
    let mut give = Give::new(window.span.seconds, started, &window.processes, &mut all);
    PARTS.iter().for_each(|part| part.give(window, &mut give));
    all
}

/// The numbers of something that is not of a window.
fn given<P: Describe + ?Sized>(part: &P) -> Vec<Weighed> {
    let mut all = Vec::new();
    Give::new(0.0, (0, 0), &std::collections::BTreeMap::new(), &mut all).part(part);
    all
}
