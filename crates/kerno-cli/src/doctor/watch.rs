use std::sync::Arc;
use std::time::{Duration, Instant};

use kerno::CancelToken;
use kerno::engine::{Engine, Next, Observer, Windows};
use kerno::model::Window;

use super::progress::Progress;
use crate::output;

/// The engine may be at a sample.
const PATIENCE: Duration = Duration::from_millis(100);

/// Why the watching ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The window is over.
    InTime(Arc<Window>),
    /// Somebody ended it.
    Stopped,
    /// Nobody reads what would be printed.
    Unread,
    /// The engine ended by itself.
    Failed,
}

/// Lets a window pass, and shows what happens. `must_end`: also when nobody reads.
pub(super) fn watch(
    engine: &Engine,
    windows: &Windows,
    window: Duration,
    cancel: &CancelToken,
    progress: &Progress,
    must_end: bool,
) -> Ended {
    let start = Instant::now();
    let interval = Observer::sampling_interval(window);
    let mut looked = start;
    progress.begin(window);
    loop {
        match windows.next_within(progress.refresh_interval().min(interval), cancel) {
            Next::Window(window) => return Ended::InTime(window),
            Next::Cancelled => return Ended::Stopped,
            Next::Ended => return Ended::Failed,
            Next::TimedOut => {}
        }
        progress.advance(start.elapsed().min(window));
        if looked.elapsed() < interval {
            continue;
        }
        looked = Instant::now();
        if progress.is_shown() {
            if let Some(overrun) = engine.overrun() {
                progress.show(&[(overrun.part, format!("takes long: {} s", overrun.for_.as_secs()))]);
            } else if let Some(words) = engine.pulse(PATIENCE) {
                progress.show(&words);
            }
        }
        if !must_end && output::is_closed() {
            return Ended::Unread;
        }
    }
}
