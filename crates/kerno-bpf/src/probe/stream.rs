use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::time::Timespec;

use super::CancelToken;
use super::handle::Shared;
use crate::{RawEvent, RawEventBuf};

/// A reader sleeps at most this long before it looks by itself: rings below their wake-up mark wake nobody.
const TICK: Duration = Duration::from_millis(100);

/// And at first: who has just begun to watch need not wait so long for what is there already.
const FIRST_TICK: Duration = Duration::from_millis(2);

/// How long, after the programs were detached, to wait for the records that are still being written.
const SETTLE: Duration = Duration::from_millis(500);

/// Why a stream cannot be opened or continued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The signal is not loaded, or no longer.
    #[error("{0} is not loaded; load it first and keep it loaded")]
    NotLoaded(&'static str),
    /// Waiting for events failed.
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
}

/// The result of [`Events::next_batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// This many events were handed out.
    Events(usize),
    /// No event came in time.
    Idle,
    /// The handles are closed or stopped and everything is read, or the token was cancelled: no more will come.
    Ended,
}

/// The events of one or several loaded signals, oldest first within each.
///
/// Read them with [`for_each_raw`](Self::for_each_raw) or [`next_batch`](Self::next_batch), which lend the kernel's own memory, or as an
/// iterator of copies. Does not keep the signals loaded.
#[derive(Debug)]
pub struct Events {
    sources: Vec<Arc<Shared>>,
    epoll: OwnedFd,
    cancel: CancelToken,
    buffered: VecDeque<RawEventBuf>,
    /// How long to sleep next; grows up to [`TICK`].
    tick: Duration,
    ending_since: Option<Instant>,
}

impl Events {
    /// Most events that one batch takes from one signal before the next signal has its turn. A signal that fills it may have more
    /// waiting, older than what the others hand out in the same batch.
    pub const TURN: usize = 4096;

    pub(super) fn new(sources: Vec<Arc<Shared>>, cancel: &CancelToken) -> Result<Self, StreamError> {
        let wait = |errno: rustix::io::Errno| StreamError::Wait(errno.into());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(wait)?;
        let wake = epoll::EventData::new_u64(0);
        epoll::add(&epoll, cancel, wake, epoll::EventFlags::IN).map_err(wait)?;
        for source in &sources {
            // Edge-triggered: stop() leaves it set while the rest is read.
            epoll::add(&epoll, &source.ended, wake, epoll::EventFlags::IN | epoll::EventFlags::ET).map_err(wait)?;
            // Edge-triggered: what waits below the wake-up mark is for the tick, not for now.
            source
                .with_ring_fd(|fd| epoll::add(&epoll, fd, wake, epoll::EventFlags::IN | epoll::EventFlags::ET))
                .transpose()
                .map_err(wait)?;
        }
        Ok(Self {
            sources,
            epoll,
            cancel: cancel.clone(),
            buffered: VecDeque::new(),
            tick: FIRST_TICK,
            ending_since: None,
        })
    }

    /// Hands what is there to `f`, waiting up to `timeout` for the first event. Returns after one pass over the rings, or when `f`
    /// breaks. Events emitted while nothing waits may take a tenth of a second to show (see [`Options::wakeup_bytes`](crate::Options)).
    ///
    /// # Errors
    /// [`StreamError::Wait`] if the kernel refuses to wait, which happens only for lack of memory.
    pub fn next_batch(
        &mut self,
        timeout: Duration,
        mut f: impl FnMut(RawEvent<'_>) -> ControlFlow<()>,
    ) -> Result<Batch, StreamError> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if self.cancel.is_cancelled() {
                return Ok(Batch::Ended);
            }
            // Before the drain: what was emitted before the end is then read.
            let ended = self.sources.iter().all(|source| source.ended.is_set());
            let seen = self.drain(&mut f);
            if seen > 0 {
                return Ok(Batch::Events(seen));
            }
            if ended && self.settled() {
                return Ok(Batch::Ended);
            }
            let left = deadline.map_or(TICK, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(Batch::Idle);
            }
            self.wait(if ended { Duration::from_millis(1) } else { left.min(self.tick) })?;
            self.tick = TICK.min(2 * self.tick);
        }
    }

    /// Hands every event to `f` until it breaks, the handles are closed, or the token is cancelled.
    ///
    /// # Errors
    /// As [`next_batch`](Self::next_batch).
    pub fn for_each_raw(&mut self, mut f: impl FnMut(RawEvent<'_>) -> ControlFlow<()>) -> Result<(), StreamError> {
        let mut flow = ControlFlow::Continue(());
        while flow.is_continue() {
            let batch = self.next_batch(Duration::MAX, |raw| {
                flow = f(raw);
                flow
            })?;
            if batch == Batch::Ended {
                break;
            }
        }
        Ok(())
    }

    fn drain(&self, f: &mut impl FnMut(RawEvent<'_>) -> ControlFlow<()>) -> usize {
        let mut total = 0;
        for source in &self.sources {
            let event_type = source.event_type;
            let (seen, flow) = source.drain(Self::TURN, |data| f(RawEvent { event_type, data }));
            total += seen;
            if flow.is_break() {
                break;
            }
        }
        total
    }

    fn settled(&mut self) -> bool {
        let since = *self.ending_since.get_or_insert_with(|| {
            // Detaching does not wait for programs that run on other CPUs at that moment; this does, by an RCU grace period
            // (membarrier(2)). Where it is refused (nohz_full CPUs), waiting will have to do.
            if rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global).is_err() {
                std::thread::sleep(TICK / 10);
            }
            Instant::now()
        });
        since.elapsed() > SETTLE || self.sources.iter().all(|source| source.is_closed() || source.is_drained())
    }

    fn wait(&self, timeout: Duration) -> Result<(), StreamError> {
        let timeout = Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
        let mut ready = [MaybeUninit::<epoll::Event>::uninit(); 8];
        match epoll::wait(&self.epoll, &mut ready[..], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(StreamError::Wait(errno.into())),
        }
    }
}

/// Yields copies. Ends with the stream, or after an error.
impl Iterator for Events {
    type Item = Result<RawEventBuf, StreamError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.buffered.is_empty() {
            let mut buffered = std::mem::take(&mut self.buffered);
            let batch = self.next_batch(Duration::MAX, |raw| {
                buffered.push_back(raw.to_owned());
                ControlFlow::Continue(())
            });
            self.buffered = buffered;
            match batch {
                Ok(Batch::Events(_)) => {}
                Ok(Batch::Idle | Batch::Ended) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        self.buffered.pop_front().map(Ok)
    }
}
