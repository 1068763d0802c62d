use std::time::{Duration, Instant};

use kerno::CancelToken;
use kerno::engine::Observer;

use super::progress::Progress;
use crate::output;

/// Why the watching ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The window is over.
    InTime,
    /// A signal or Ctrl-C ended it.
    Stopped,
    /// Nobody reads what would be printed.
    Unread,
}

/// Lets a window pass, and samples meanwhile. With `must_end`, goes on even if nobody reads the output.
pub(super) fn watch(
    observer: &mut Observer,
    window: Duration,
    cancel: &CancelToken,
    progress: &Progress,
    must_end: bool,
) -> anyhow::Result<Ended> {
    let start = Instant::now();
    let mut interval = Observer::sampling_interval(window);
    let mut next_sample = interval;
    progress.begin(window);
    loop {
        let elapsed = start.elapsed();
        if elapsed >= window {
            return Ok(Ended::InTime);
        }
        // `finish` takes the sample at the window's end.
        let target = if next_sample + interval / 2 < window { next_sample } else { window };
        if elapsed >= target {
            observer.sample()?;
            interval = observer.next_interval(window);
            // A late sample is not made up for.
            while next_sample <= start.elapsed() {
                next_sample += interval;
            }
            if progress.is_shown() {
                progress.show(&observer.pulse());
            }
            if !must_end && output::is_closed() {
                return Ok(Ended::Unread);
            }
            continue;
        }
        let rest = (target - elapsed).min(progress.refresh_interval());
        progress.advance(elapsed);
        if cancel.wait(rest) {
            return Ok(Ended::Stopped);
        }
    }
}
