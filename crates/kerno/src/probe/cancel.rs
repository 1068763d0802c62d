use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::EventfdFlags;

/// A flag with a file descriptor that becomes readable when it is set, so that a sleeping reader wakes at once.
#[derive(Debug)]
pub(crate) struct Flag {
    set: AtomicBool,
    wake: OwnedFd,
}

impl Flag {
    pub(crate) fn new() -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { set: AtomicBool::new(false), wake })
    }

    pub(crate) fn set(&self) {
        self.set.store(true, Ordering::SeqCst);
        // The counter is full only after 2^64 - 2 calls, and then the descriptor is readable already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }
}

impl AsFd for Flag {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// Ends [`Events`](crate::Events) from elsewhere: another thread, a signal handler's thread. Clones share one state.
#[derive(Clone, Debug)]
pub struct CancelToken(Arc<Flag>);

impl CancelToken {
    /// A token that is not cancelled.
    ///
    /// # Errors
    /// When the process has no file descriptor left for it.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Flag::new()?)))
    }

    /// Ends every stream made with this token, at once also when it sleeps. Lasting.
    pub fn cancel(&self) {
        self.0.set();
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_set()
    }
}

impl AsFd for CancelToken {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
