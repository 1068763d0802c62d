use std::io::{self, Write};

use kerno::TASK_COMM_LEN;
use kerno::signals::{self, TypedEvent};

use super::Style;
use super::clock::WallClock;

/// Lines for people: time, signal, process, and what happened.
pub(super) struct Text {
    pub(super) clock: WallClock,
    style: Style,
    /// Of the signal's column.
    width: usize,
}

impl Text {
    pub(super) fn new(style: Style) -> Self {
        let width = signals::ALL.iter().map(|signal| signal.alias.len()).max().unwrap_or(0);
        Self { clock: WallClock::new(), style, width: width.max("SIGNAL".len()) }
    }

    pub(super) fn header(&self, out: &mut impl Write) -> io::Result<()> {
        let (bold, reset, width) = (self.style.bold(), self.style.reset(), self.width);
        writeln!(out, "{bold}{:<15} {:<width$} {:>7} {:<TASK_COMM_LEN$} EVENT{reset}", "TIME", "SIGNAL", "PID", "COMM")
    }

    pub(super) fn line(&mut self, out: &mut impl Write, event: &TypedEvent<'_>) -> io::Result<()> {
        let (style, width) = (self.style, self.width);
        let reset = style.reset();
        out.write_all(style.dim().as_bytes())?;
        self.clock.write(out, event.timestamp_ns())?;
        write!(out, "{reset} {}{:<width$}{reset} ", style.cyan(), super::alias(event.event_type()))?;
        match event.pid() {
            0 => write!(out, "{:>7} ", "-")?,
            pid => write!(out, "{pid:>7} ")?,
        }
        let comm = event.task_comm();
        if comm.as_bytes().is_empty() {
            write!(out, "{:<TASK_COMM_LEN$} ", "-")?;
        } else {
            write!(out, "{comm:<TASK_COMM_LEN$} ")?;
        }
        if event.failed() { writeln!(out, "{}{event}{reset}", style.red()) } else { writeln!(out, "{event}") }
    }
}
