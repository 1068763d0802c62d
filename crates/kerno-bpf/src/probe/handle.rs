use std::fmt;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{Map, MapData};

use super::cancel::Flag;
use super::counters::Counters;
use super::error::LoadError;
use super::programs::{Share, SignalCounters};
use super::ring::Ring;
use crate::EventType;

/// Keeps a signal loaded. Closing or dropping it detaches the programs and removes them and their maps from the kernel.
///
/// Signals of a [`LoaderSet`](crate::LoaderSet) may share programs: these, and their maps, stay until the last of their signals is
/// stopped, and emit nothing for the others meanwhile.
#[derive(Debug)]
pub struct Handle {
    pub(super) shared: std::sync::Arc<Shared>,
    hooks: Vec<String>,
}

impl Handle {
    /// The type of its events.
    pub fn event_type(&self) -> EventType {
        self.shared.event_type
    }

    /// What the kernel counted so far; after [`close`](Self::close), what it had counted until then.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Records handed to readers so far.
    pub fn seen(&self) -> u64 {
        self.shared.seen()
    }

    /// The hooks that its programs are attached to, such as `tp_btf/sys_enter`.
    pub fn hooks(&self) -> &[String] {
        &self.hooks
    }

    /// The kernel's ids of the attached programs, as `bpftool prog` shows them; empty once stopped. Signals that share a program
    /// each have its id.
    pub fn program_ids(&self) -> Vec<u32> {
        self.shared.program_ids()
    }

    /// Detaches the programs, but keeps what they emitted: [`Events`](crate::Events) hands out the rest and then ends. Idempotent.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Detaches and unloads everything; drops events not yet read. Idempotent. Never waits for a reader, so it may be called from
    /// anywhere, even from the callback of a reader; then the ring goes when the callback returns.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// A signal whose programs and maps are in the kernel, attached to nothing yet. Dropping it unloads them.
#[derive(Debug)]
pub struct Prepared {
    handle: Handle,
}

impl Prepared {
    pub(super) fn new(shared: std::sync::Arc<Shared>) -> Self {
        let hooks = lock(&shared.kernel).programs.as_ref().map_or_else(Vec::new, Share::hooks);
        Self { handle: Handle { shared, hooks } }
    }

    /// Whether its programs are those of other signals, too.
    pub(super) fn is_shared(&self) -> bool {
        lock(&self.handle.shared.kernel).programs.as_ref().is_some_and(Share::is_shared)
    }

    /// Attaches the programs: events come from here on.
    ///
    /// # Errors
    /// [`LoadError::Refused`]; then nothing of it is left in the kernel.
    pub fn attach(self) -> Result<Handle, LoadError> {
        self.handle.shared.attach()?;
        Ok(self.handle)
    }
}

/// What a handle, its loader and its readers share. No lock is held while a reader's callback runs: it may ask for the counters
/// and close any handle.
pub(super) struct Shared {
    pub(super) event_type: EventType,
    /// Set by stop and close: wakes sleeping readers.
    pub(super) ended: Flag,
    attached: AtomicBool,
    closed: AtomicBool,
    seen: AtomicU64,
    kernel: Mutex<KernelSide>,
    /// `None` while a reader drains it, and after closing.
    ring: Mutex<Option<Ring>>,
}

/// What we hold in the kernel, besides the mapping of the ring.
struct KernelSide {
    /// Programs, links and the maps that only programs use.
    programs: Option<Share>,
    events: Option<MapData>,
    counters: Option<SignalCounters>,
    /// As last read, for after the close.
    last: Counters,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("event_type", &self.event_type).finish_non_exhaustive()
    }
}

/// No user code runs under these locks, and ours does not panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// A signal's side of loaded programs, with the ring of that name.
    pub(super) fn new(event_type: EventType, programs: Share, ring: &str, ring_bytes: u32) -> Result<Self, LoadError> {
        let Some(Map::RingBuf(events)) = programs.take_map(ring) else {
            return Err(programs.missing_map(ring));
        };
        let counters = programs.counters().ok_or_else(|| programs.missing_map("counters"))?;
        let ring = Ring::map(events.fd().as_fd(), ring_bytes as usize)
            .map_err(|error| LoadError::Io("cannot map the ring buffer", error))?;
        Ok(Self {
            event_type,
            ended: Flag::new().map_err(|error| LoadError::Io("cannot create an eventfd", error))?,
            attached: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            seen: AtomicU64::new(0),
            kernel: Mutex::new(KernelSide {
                programs: Some(programs),
                events: Some(events),
                counters: Some(counters),
                last: Counters::default(),
            }),
            ring: Mutex::new(Some(ring)),
        })
    }

    fn attach(&self) -> Result<(), LoadError> {
        // None when it was closed; then there is nothing to attach.
        if let Some(programs) = &lock(&self.kernel).programs {
            programs.attach()?;
        }
        self.attached.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Attached, and not closed since.
    pub(super) fn is_loaded(&self) -> bool {
        self.attached.load(Ordering::SeqCst) && !self.is_closed()
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn counters(&self) -> Counters {
        lock(&self.kernel).read()
    }

    fn program_ids(&self) -> Vec<u32> {
        lock(&self.kernel).programs.as_ref().map_or_else(Vec::new, Share::program_ids)
    }

    /// True when every event that was emitted has been read or counted as lost.
    pub(super) fn is_drained(&self) -> bool {
        let counters = self.counters();
        counters.emitted == self.seen() + counters.lost
    }

    pub(super) fn stop(&self) {
        let mut kernel = lock(&self.kernel);
        kernel.read();
        kernel.programs = None;
        drop(kernel);
        self.ended.set();
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.stop();
        {
            let mut kernel = lock(&self.kernel);
            kernel.read();
            kernel.events = None;
            kernel.counters = None;
        }
        // A reader that holds it drops it, since `closed` is set.
        *lock(&self.ring) = None;
    }

    /// Runs `f` with the ring's descriptor, for registering it with epoll; `None` once closed.
    pub(super) fn with_ring_fd<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        lock(&self.kernel).events.as_ref().map(|events| f(events.fd().as_fd()))
    }

    /// Hands up to `limit` waiting records to `f`; none while another reader does so.
    pub(super) fn drain(&self, limit: usize, mut f: impl FnMut(&[u8]) -> ControlFlow<()>) -> (usize, ControlFlow<()>) {
        let Some(ring) = lock(&self.ring).take() else {
            return (0, ControlFlow::Continue(()));
        };
        let mut reading = Reading { shared: self, ring: Some(ring), seen: 0 };
        let Reading { ring: Some(ring), seen, .. } = &mut reading else {
            return (0, ControlFlow::Continue(()));
        };
        let flow = ring.drain(limit, |data| {
            let flow = f(data);
            *seen += 1;
            if self.is_closed() { ControlFlow::Break(()) } else { flow }
        });
        (reading.seen, flow)
    }
}

/// Puts the ring back and counts what was read from it, even if the callback panics; that record is then read again.
struct Reading<'a> {
    shared: &'a Shared,
    ring: Option<Ring>,
    seen: usize,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.shared.seen.fetch_add(self.seen as u64, Ordering::Relaxed);
        let mut ring = lock(&self.shared.ring);
        // Under the lock: close() sets the flag before it looks for the ring.
        if !self.shared.is_closed() {
            *ring = self.ring.take();
        }
    }
}

impl KernelSide {
    fn read(&mut self) -> Counters {
        if let Some(wire) = self.counters.as_ref().and_then(SignalCounters::read) {
            self.last.emitted = wire.emitted;
            self.last.lost = wire.lost;
            self.last.untracked = wire.untracked;
        }
        if let Some(programs) = &self.programs {
            self.last.missed_runs = programs.missed_runs();
        }
        self.last
    }
}
