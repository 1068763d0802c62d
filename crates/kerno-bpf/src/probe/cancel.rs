use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

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

/// Ends [`Events`](crate::Events) from another thread, such as one that handles signals. Clones share one state.
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

    /// Ends every stream made with this token, at once even if it sleeps. Cannot be undone.
    pub fn cancel(&self) {
        self.0.set();
    }

    /// Sleeps for this long, or until it is cancelled. Returns whether it is cancelled.
    pub fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        while !self.is_cancelled() {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break;
            }
            let mut poll = [PollFd::new(&self.0.wake, PollFlags::IN)];
            // Without end only if no clock can hold the deadline. A signal wakes it early, and it sleeps on.
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let _ = rustix::event::poll(&mut poll, left.as_ref());
        }
        self.is_cancelled()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_wakes_in_time_or_when_it_is_cancelled() {
        let token = CancelToken::new().unwrap();
        let start = Instant::now();
        assert!(!token.wait(Duration::from_millis(30)));
        assert!(start.elapsed() >= Duration::from_millis(30));
        let other = token.clone();
        let sleeper = std::thread::spawn(move || other.wait(Duration::MAX));
        std::thread::sleep(Duration::from_millis(20));
        token.cancel();
        assert!(sleeper.join().unwrap());
        assert!(token.wait(Duration::from_secs(3600)));
    }
}
