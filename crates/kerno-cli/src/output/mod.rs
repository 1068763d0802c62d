//! Writing events and reports to standard output.

mod clock;
mod style;
mod text;

use std::io::{self, BufWriter, StdoutLock, Write};
use std::os::fd::AsFd as _;

use kerno::{EventType, RawEvent, signals};
use rustix::event::{PollFd, PollFlags};

use crate::args::Output;
pub(crate) use style::Style;
use text::Text;

/// Large enough that a burst of events is few writes.
const BUFFER_BYTES: usize = 256 << 10;

/// Columns where no terminal says how many.
const WIDTH: usize = 80;

/// Columns of text that still reads well.
pub(crate) const WIDTHS: std::ops::RangeInclusive<usize> = 40..=120;

/// The columns of reports: those of the terminal, as far as they read well.
pub(crate) fn width() -> usize {
    let terminal = terminal_size::terminal_size_of(std::io::stdout());
    terminal.map_or(WIDTH, |(width, _)| usize::from(width.0).clamp(*WIDTHS.start(), *WIDTHS.end()))
}

/// The short name of the signal that an event belongs to.
pub(crate) fn alias(event_type: EventType) -> &'static str {
    signals::by_event_type(event_type).map_or(event_type.name(), |signal| signal.alias)
}

/// Prints a finished text. A closed pipe is not an error.
pub(crate) fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unwritable(error)),
        _ => Ok(()),
    }
}

/// Whether nobody reads standard output any more. A pipe shows that without a write.
pub(crate) fn is_closed() -> bool {
    let stdout = io::stdout();
    let mut poll = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty())];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut poll, Some(&now)).is_ok() && poll[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// A failed write as an error for people.
pub(crate) fn unwritable(error: io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context("cannot write to standard output")
}

/// Standard output, one line an event.
pub(crate) struct EventWriter {
    out: BufWriter<StdoutLock<'static>>,
    format: Format,
}

enum Format {
    Text(Box<Text>),
    Json,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    /// Its bytes are no event: objects and decoders do not match.
    Undecodable,
}

impl EventWriter {
    pub(crate) fn new(output: Output) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
        let format = match output {
            Output::Json => Format::Json,
            Output::Text => {
                let style = Style::of_stdout();
                let text = Text::new(style);
                if style.is_terminal() {
                    text.header(&mut out)?;
                    out.flush()?;
                }
                Format::Text(Box::new(text))
            }
        };
        Ok(Self { out, format })
    }

    pub(crate) fn write(&mut self, raw: RawEvent<'_>) -> io::Result<Written> {
        let Ok(event) = raw.decode() else {
            return Ok(Written::Undecodable);
        };
        match &mut self.format {
            Format::Text(text) => text.line(&mut self.out, &event)?,
            Format::Json => {
                serde_json::to_writer(&mut self.out, &event)?;
                self.out.write_all(b"\n")?;
            }
        }
        Ok(Written::Yes)
    }

    /// Ends a batch: flushes what was written.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if let Format::Text(text) = &mut self.format {
            text.clock.refresh();
        }
        self.out.flush()
    }
}
