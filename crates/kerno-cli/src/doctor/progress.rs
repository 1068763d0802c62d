use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kerno::event::text::Escaped;

/// What the watching person sees: how far it is, and a line of what happens. Only on a terminal.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        // A dumb terminal cannot go back to a line's start.
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let shown = !quiet && !dumb && std::io::stderr().is_terminal();
        Self { bar: shown.then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())) }
    }

    pub(super) fn is_shown(&self) -> bool {
        self.bar.is_some()
    }

    /// Loading takes a second or two.
    pub(super) fn loading(&self) {
        if let Some(bar) = &self.bar {
            bar.set_style(style("{wide_msg}"));
            bar.set_message("loading the programs into the kernel");
            bar.tick();
        }
    }

    /// A window of this length begins.
    pub(super) fn begin(&self, window: Duration) {
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(milliseconds(window));
            bar.set_style(style("watching {prefix} [{bar:20}]\n{wide_msg}"));
            bar.set_message("");
            self.total(window, Duration::ZERO);
        }
    }

    /// How often it must be told how far it is.
    pub(super) fn refresh_interval(&self) -> Duration {
        if self.bar.is_some() { Duration::from_millis(250) } else { Duration::MAX }
    }

    pub(super) fn advance(&self, elapsed: Duration) {
        if let Some(bar) = &self.bar {
            let window = Duration::from_millis(bar.length().unwrap_or(0));
            self.total(window, elapsed);
            bar.set_position(milliseconds(elapsed));
        }
    }

    fn total(&self, window: Duration, elapsed: Duration) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("{} of {}", short(elapsed), short(window)));
        }
    }

    /// What each signal has to say; as much as the line holds.
    pub(super) fn show(&self, pulse: &[(&'static str, String)]) {
        if let Some(bar) = &self.bar {
            bar.set_message(line(pulse));
        }
    }

    /// Leaves the terminal as it was.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A template of ours is sound; were it not, the default would do.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ")
}

fn line(pulse: &[(&'static str, String)]) -> String {
    let parts = pulse.iter().map(|(signal, words)| format!("{signal} {}", Escaped(words.as_bytes())));
    parts.collect::<Vec<_>>().join(" | ")
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// `7s`, `2m 05s`, `1h 00m`; tenths for windows of no seconds.
fn short(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{:.1}s", time.as_secs_f64()),
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ ..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        seconds => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let shown = [0, 7, 60, 125, 3600, 90_061].map(|seconds| short(Duration::from_secs(seconds)));
        assert_eq!(shown, ["0.0s", "7s", "1m 00s", "2m 05s", "1h 00m", "25h 01m"]);
        assert_eq!(short(Duration::from_millis(450)), "0.5s");
    }

    #[test]
    fn a_pulse_is_one_harmless_line() {
        assert_eq!(line(&[]), "");
        let pulse = [("tcp", "3 opened/s".to_owned()), ("disk", "a\x1b[31m\n".to_owned())];
        assert_eq!(line(&pulse), "tcp 3 opened/s | disk a\\x1b[31m\\x0a");
    }

    #[test]
    fn nothing_is_shown_where_nobody_looks() {
        let progress = Progress::new(true);
        progress.loading();
        progress.begin(Duration::MAX);
        progress.advance(Duration::MAX);
        progress.show(&[("tcp", String::new())]);
        progress.clear();
        assert!(progress.bar.is_none());
    }
}
