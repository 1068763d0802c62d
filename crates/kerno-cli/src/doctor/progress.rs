use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use kerno::model::text::Escaped;
use textwrap::core::display_width;

/// Columns of the bar, where there is room.
const BAR: usize = 20;

/// Columns where the terminal does not say how many.
const WIDTH: usize = 80;

/// Shows on a terminal how much of the window has passed, and a line with what happens now.
///
/// The cursor waits at the start of the first line, so that the `^C` that the terminal shows is wiped with the rest. Libraries for
/// progress leave it at the right edge, where `^C` starts a line that stays.
pub(super) struct Progress {
    shown: Option<RefCell<Shown>>,
}

#[derive(Debug, Default)]
struct Shown {
    window: Duration,
    elapsed: Duration,
    /// What each signal has to say.
    words: String,
    /// There is something on the terminal.
    painted: bool,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        // A dumb terminal cannot go back to a line's start.
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let shown = !quiet && !dumb && std::io::stderr().is_terminal();
        Self { shown: shown.then(RefCell::default) }
    }

    pub(super) fn is_shown(&self) -> bool {
        self.shown.is_some()
    }

    /// Loading takes a second or two.
    pub(super) fn loading(&self) {
        self.update(|_| {});
    }

    /// A window of this length begins.
    pub(super) fn begin(&self, window: Duration) {
        self.update(|shown| *shown = Shown { window, painted: shown.painted, ..Shown::default() });
    }

    /// How often to update it.
    pub(super) fn refresh_interval(&self) -> Duration {
        if self.is_shown() { Duration::from_millis(250) } else { Duration::MAX }
    }

    pub(super) fn advance(&self, elapsed: Duration) {
        self.update(|shown| shown.elapsed = elapsed);
    }

    /// Sets what each signal reports, as far as it fits on the line.
    pub(super) fn show(&self, pulse: &[(&'static str, String)]) {
        self.update(|shown| shown.words = line(pulse));
    }

    fn update(&self, change: impl FnOnce(&mut Shown)) {
        if let Some(shown) = &self.shown {
            let mut shown = shown.borrow_mut();
            change(&mut shown);
            shown.painted = true;
            let width = terminal_size::terminal_size_of(std::io::stderr()).map_or(WIDTH, |(width, _)| width.0.into());
            // A line that ends at the edge may begin the next one.
            let [first, second] = shown.lines(width.saturating_sub(1));
            write(&format!("\r\x1b[2K\n\x1b[2K{second}\x1b[A\r{first}\r"));
        }
    }

    /// Leaves the terminal as it was.
    pub(super) fn clear(&self) {
        if let Some(shown) = &self.shown
            && std::mem::take(&mut shown.borrow_mut().painted)
        {
            write("\r\x1b[2K\n\x1b[2K\x1b[A");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Shown {
    /// Both lines, no wider than this.
    fn lines(&self, width: usize) -> [String; 2] {
        if self.window.is_zero() {
            return [cut("loading the programs into the kernel", width), String::new()];
        }
        let mut first = format!("watching {} of {}", short(self.elapsed), short(self.window));
        if display_width(&first) + BAR + 3 <= width {
            let part = (self.elapsed.as_secs_f64() / self.window.as_secs_f64()).clamp(0.0, 1.0);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to BAR")]
            let done = (part * BAR as f64) as usize;
            first += &format!(" [{:<BAR$}]", "=".repeat(done));
        }
        [cut(&first, width), cut(&self.words, width)]
    }
}

/// The terminal may be gone; then nobody needs this.
fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// The part of a line that fits into this many columns.
fn cut(text: &str, width: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += display_width(c.encode_utf8(&mut [0; 4]));
        used <= width
    };
    text.chars().take_while(fits).collect()
}

fn line(pulse: &[(&'static str, String)]) -> String {
    let parts = pulse.iter().map(|(signal, words)| format!("{signal} {}", Escaped(words.as_bytes())));
    parts.collect::<Vec<_>>().join(" | ")
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
    fn lines_are_no_wider_than_the_terminal() {
        let mut shown = Shown::default();
        assert_eq!(shown.lines(11), ["loading the", ""]);
        shown.window = Duration::from_secs(30);
        shown.elapsed = Duration::from_secs(13);
        shown.words = "disk sda 98 % busy, ä漢漢漢".to_owned();
        assert_eq!(shown.lines(79), ["watching 13s of 30s [========            ]", "disk sda 98 % busy, ä漢漢漢"]);
        assert_eq!(shown.lines(41)[0], "watching 13s of 30s");
        assert_eq!(shown.lines(24)[1], "disk sda 98 % busy, ä漢");
        for width in 0..90 {
            assert!(shown.lines(width).iter().all(|line| display_width(line) <= width), "{width}");
        }
        // A last look may come late.
        shown.elapsed = Duration::MAX;
        assert!(shown.lines(79)[0].ends_with(&format!("[{}]", "=".repeat(BAR))));
    }

    #[test]
    fn nothing_is_shown_where_nobody_looks() {
        let progress = Progress::new(true);
        progress.loading();
        progress.begin(Duration::MAX);
        progress.advance(Duration::MAX);
        progress.show(&[("tcp", String::new())]);
        progress.clear();
        assert!(!progress.is_shown());
    }
}
