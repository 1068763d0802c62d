use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use kerno::{Batch, Events, RawEvent, StreamError};

use super::merge::Merge;
use super::tally::Tally;
use crate::args::TraceArgs;
use crate::output::{self, EventWriter, Written};

/// Why a trace ended before its time.
#[derive(Debug)]
pub(super) enum PassError {
    Write(io::Error),
    Stream(StreamError),
}

impl From<io::Error> for PassError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl From<StreamError> for PassError {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

/// From the rings to standard output.
pub(super) struct Session {
    sink: Sink,
    /// Puts the events of several rings in order; one ring's need none.
    merge: Option<Merge>,
}

/// Writes until it has written enough.
struct Sink {
    writer: EventWriter,
    tally: Tally,
    limit: u64,
}

impl Sink {
    fn is_full(&self) -> bool {
        self.tally.total() >= self.limit
    }

    fn event(&mut self, raw: RawEvent<'_>) -> io::Result<()> {
        match self.writer.write(raw)? {
            Written::Yes => self.tally.add(raw.event_type),
            Written::Undecodable => self.tally.add_undecodable(),
        }
        Ok(())
    }
}

impl Session {
    pub(super) fn new(args: &TraceArgs, signals: usize) -> io::Result<Self> {
        let writer = EventWriter::new(args.output)?;
        let sink = Sink { writer, tally: Tally::default(), limit: args.count.unwrap_or(u64::MAX) };
        Ok(Self { sink, merge: (signals > 1).then(Merge::default) })
    }

    /// Whether as many events are written as were asked for.
    pub(super) fn is_full(&self) -> bool {
        self.sink.is_full()
    }

    /// Reads and writes what is there, waiting up to `timeout` for something.
    pub(super) fn pass(&mut self, events: &mut Events, timeout: Duration) -> Result<Batch, PassError> {
        let sink = &mut self.sink;
        let batch = match &mut self.merge {
            None => direct(events, timeout, sink)?,
            Some(merge) => merged(events, timeout, merge, sink)?,
        };
        sink.writer.flush()?;
        if batch == Batch::Idle && output::is_closed() {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        Ok(batch)
    }

    /// Writes what was held back.
    pub(super) fn finish(mut self) -> Result<Tally, PassError> {
        if let Some(merge) = &mut self.merge {
            write_due(merge, false, &mut self.sink)?;
            self.sink.writer.flush()?;
        }
        Ok(self.sink.tally)
    }
}

fn direct(events: &mut Events, timeout: Duration, sink: &mut Sink) -> Result<Batch, PassError> {
    let mut written = Ok(());
    let batch = events.next_batch(timeout, |raw| {
        written = sink.event(raw);
        if written.is_err() || sink.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    written?;
    Ok(batch)
}

fn merged(events: &mut Events, timeout: Duration, merge: &mut Merge, sink: &mut Sink) -> Result<Batch, PassError> {
    merge.begin();
    // What is held back is due with the next pass, also when that finds nothing.
    let timeout = if merge.is_empty() { timeout } else { Duration::ZERO };
    let batch = events.next_batch(timeout, |raw| {
        merge.push(raw);
        ControlFlow::Continue(())
    })?;
    // A stream ends for the programs' being stopped too, and then there is more to read.
    write_due(merge, batch != Batch::Idle, sink)?;
    Ok(batch)
}

fn write_due(merge: &mut Merge, more: bool, sink: &mut Sink) -> io::Result<()> {
    let mut written = Ok(());
    merge.take(more, |raw| {
        if sink.is_full() {
            return ControlFlow::Break(());
        }
        written = sink.event(raw);
        if written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    written
}
