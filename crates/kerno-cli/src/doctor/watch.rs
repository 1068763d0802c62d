use std::sync::Arc;
use std::time::{Duration, Instant};

use kerno::CancelToken;
use kerno::engine::{Engine, Next, Observer, Windows};
use kerno::model::Window;

use super::progress::Progress;
use crate::output;

/// How long to wait for the engine to say what happens: it may be taking a sample.
const PATIENCE: Duration = Duration::from_millis(100);

/// Why the watching ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The window is over.
    InTime(Arc<Window>),
    /// A signal or Ctrl-C ended it.
    Stopped,
    /// Nobody reads what would be printed.
    Unread,
    /// The engine ended by itself.
    Failed,
}

/// Waits for the end of a window, and shows what happens meanwhile. With `must_end`, waits even if nobody reads the output.
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
                progress.show(&[(overrun.part, format!("takes long to read: {} s", overrun.lasted.as_secs()))]);
            } else if let Some(words) = engine.pulse(PATIENCE) {
                progress.show(&words);
            }
        }
        if !must_end && output::is_closed() {
            return Ended::Unread;
        }
    }
}
