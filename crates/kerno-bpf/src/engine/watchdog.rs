//! Notices samples that take too long. While one lasts, other threads can ask; afterwards the window says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::cumulative::{Gap, Gaps};

/// How long a sample may take. Most take a few milliseconds, and some dozens with very many tasks or sockets.
const LIMIT: Duration = Duration::from_secs(1);

/// A sample that takes longer than a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Overrun {
    /// The part that it is in: the name of a signal, `tasks` or `processes`.
    pub part: &'static str,
    /// How long it has been in that part.
    pub lasted: Duration,
}

/// Where in a sample the engine is, for other threads.
#[derive(Debug)]
pub(super) struct Progress {
    epoch: Instant,
    /// When that part began, in nanoseconds since the epoch, plus 1; 0 between samples.
    since_ns: AtomicU64,
    part: AtomicUsize,
    parts: Vec<&'static str>,
}

impl Progress {
    /// The overrun, if one lasts.
    pub(super) fn overrun(&self) -> Option<Overrun> {
        let since_ns = self.since_ns.load(Ordering::Acquire).checked_sub(1)?;
        let lasted = self.epoch.elapsed().saturating_sub(Duration::from_nanos(since_ns));
        let part = self.parts.get(self.part.load(Ordering::Relaxed)).copied().unwrap_or_default();
        (lasted >= LIMIT).then_some(Overrun { part, lasted })
    }
}

/// Follows the samples of a window.
#[derive(Debug)]
pub(super) struct Watchdog {
    progress: Arc<Progress>,
    /// When the sample began, when its present part began, which that is, and its longest part so far.
    begun: Instant,
    entered: Instant,
    at: usize,
    longest_part: (Duration, usize),
    /// How many samples of the window took too long, and the longest with its longest part.
    overruns: u32,
    longest: (Duration, usize),
}

impl Watchdog {
    /// For samples of these parts.
    pub(super) fn new(parts: Vec<&'static str>) -> Self {
        let now = Instant::now();
        let progress = Progress { epoch: now, since_ns: AtomicU64::new(0), part: AtomicUsize::new(0), parts };
        let none = (Duration::ZERO, 0);
        Self {
            progress: Arc::new(progress),
            begun: now,
            entered: now,
            at: 0,
            longest_part: none,
            overruns: 0,
            longest: none,
        }
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// A sample begins.
    pub(super) fn begin(&mut self) {
        self.begun = Instant::now();
        self.longest_part = (Duration::ZERO, 0);
        self.move_to(0, self.begun);
    }

    /// The sample comes to this part.
    pub(super) fn enter(&mut self, part: &'static str) {
        let now = Instant::now();
        self.leave_part(now);
        let at = self.progress.parts.iter().position(|known| *known == part).unwrap_or(0);
        self.move_to(at, now);
    }

    /// The sample ends.
    pub(super) fn end(&mut self) {
        let now = Instant::now();
        self.leave_part(now);
        self.progress.since_ns.store(0, Ordering::Release);
        let took = now.saturating_duration_since(self.begun);
        if took >= LIMIT {
            self.overruns += 1;
            self.longest = self.longest.max((took, self.longest_part.1));
        }
    }

    fn move_to(&mut self, at: usize, now: Instant) {
        (self.at, self.entered) = (at, now);
        self.progress.part.store(at, Ordering::Relaxed);
        let since = now.saturating_duration_since(self.progress.epoch).as_nanos();
        self.progress.since_ns.store(u64::try_from(since).unwrap_or(u64::MAX - 1) + 1, Ordering::Release);
    }

    fn leave_part(&mut self, now: Instant) {
        let took = now.saturating_duration_since(self.entered);
        self.longest_part = self.longest_part.max((took, self.at));
    }

    /// Adds the samples of this window that took too long to what is missing: nothing else was read meanwhile.
    pub(super) fn tell(&mut self, gaps: &mut Gaps) {
        let (overruns, (longest, at)) = (std::mem::take(&mut self.overruns), std::mem::take(&mut self.longest));
        if overruns > 0 {
            let part = self.progress.parts.get(at).copied().unwrap_or_default();
            let took = format!("{:.1} s, most of it in {part}", longest.as_secs_f64());
            let reason = match overruns {
                1 => format!("a sample took {took}"),
                many => format!("{many} samples took more than a second each; the longest took {took}"),
            };
            gaps.add(Gap { what: "some seconds of what is read at intervals".to_owned(), reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerno_model::Window;

    #[test]
    fn an_overrun_is_told_while_it_lasts_and_afterwards() {
        let mut watchdog = Watchdog::new(vec!["tasks", "disk_io", "fd_track"]);
        let progress = watchdog.progress();
        watchdog.begin();
        assert_eq!(progress.overrun(), None);
        watchdog.enter("disk_io");
        std::thread::sleep(LIMIT + Duration::from_millis(100));
        let overrun = progress.overrun().expect("it lasts");
        assert!(overrun.part == "disk_io" && overrun.lasted >= LIMIT);
        watchdog.enter("fd_track");
        watchdog.end();
        assert_eq!(progress.overrun(), None);
        watchdog.begin();
        watchdog.end();
        let (mut gaps, mut window) = (Gaps::new("all"), Window::default());
        watchdog.tell(&mut gaps);
        gaps.tell(&mut window);
        assert!(window.missing[0].reason.starts_with("a sample took 1."), "{:?}", window.missing);
        assert!(window.missing[0].reason.ends_with("in disk_io"), "{:?}", window.missing);
        watchdog.tell(&mut gaps);
        gaps.tell(&mut window);
        assert_eq!(window.missing.len(), 1, "told once");
    }
}
