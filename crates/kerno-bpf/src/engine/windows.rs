//! Hands windows from the engine to its consumers. Each has a queue of its own, which is bounded.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use kerno_model::Window;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::probe::CancelToken;

#[derive(Debug)]
struct State {
    windows: VecDeque<Arc<Window>>,
    /// Windows that were dropped before they were taken.
    lost: u64,
    ended: bool,
}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    capacity: usize,
    /// Readable while there is a window, or after the end.
    ready: OwnedFd,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is done under the lock that could leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the descriptor readable, or not, as the queue is. Called under the lock.
    fn tell(&self, state: &State) {
        if state.ended || !state.windows.is_empty() {
            // This fails only if the count is at 2^64 - 2, when it is readable already.
            let _ = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
        } else {
            let _ = rustix::io::read(&self.ready, &mut [0; 8]);
        }
    }

    /// Never waits: if the consumer is too slow, its oldest window is dropped.
    fn push(&self, window: Arc<Window>) {
        let mut state = self.lock();
        if state.windows.len() >= self.capacity {
            state.windows.pop_front();
            state.lost += 1;
        }
        state.windows.push_back(window);
        self.tell(&state);
    }

    fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        self.tell(&state);
    }
}

/// The result of waiting for a window.
#[derive(Clone, Debug)]
pub enum Next {
    /// The oldest window in the queue.
    Window(Arc<Window>),
    /// None came in time.
    TimedOut,
    /// The token was cancelled.
    Cancelled,
    /// The engine has ended and the queue is empty. [`Engine::stop`](super::Engine::stop) gives the reason.
    Ended,
}

/// A consumer of windows, which come in their order. As an iterator it waits for each and ends with the engine. Its file descriptor is
/// readable, for poll(2) and the like, while there is a window to take or after the engine has ended.
#[derive(Debug)]
pub struct Windows(Arc<Queue>);

impl Windows {
    /// Waits for the next window. `None` when the engine has ended and the queue is empty.
    pub fn recv(&self) -> Option<Arc<Window>> {
        match self.wait(None, None) {
            Next::Window(window) => Some(window),
            _ => None,
        }
    }

    /// Waits for the next window, until the timeout or until the token is cancelled.
    pub fn next_within(&self, timeout: Duration, cancel: &CancelToken) -> Next {
        self.wait(Some(timeout), Some(cancel))
    }

    /// The next window, if there is one now.
    pub fn try_next(&self) -> Option<Arc<Window>> {
        match self.wait(Some(Duration::ZERO), None) {
            Next::Window(window) => Some(window),
            _ => None,
        }
    }

    /// How many windows were dropped because this consumer did not take them in time.
    pub fn lost(&self) -> u64 {
        self.0.lock().lost
    }

    fn wait(&self, timeout: Option<Duration>, cancel: Option<&CancelToken>) -> Next {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            {
                let mut state = self.0.lock();
                if let Some(window) = state.windows.pop_front() {
                    self.0.tell(&state);
                    return Next::Window(window);
                }
                if state.ended {
                    return Next::Ended;
                }
            }
            if cancel.is_some_and(CancelToken::is_cancelled) {
                return Next::Cancelled;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Next::TimedOut;
            }
            let mut fds = vec![PollFd::new(&self.0.ready, PollFlags::IN)];
            fds.extend(cancel.map(|cancel| PollFd::new(cancel, PollFlags::IN)));
            // Endless only if no clock can hold the deadline. A signal ends the poll early, and it is done again.
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let _ = poll(&mut fds, left.as_ref());
        }
    }
}

impl Iterator for Windows {
    type Item = Arc<Window>;

    fn next(&mut self) -> Option<Arc<Window>> {
        self.recv()
    }
}

impl AsFd for Windows {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.ready.as_fd()
    }
}

/// All consumers.
#[derive(Debug, Default)]
pub(super) struct Hub(Mutex<Consumers>);

#[derive(Debug, Default)]
struct Consumers {
    queues: Vec<Weak<Queue>>,
    ended: bool,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, Consumers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a consumer, whose queue holds up to `capacity` windows, at least one.
    pub(super) fn subscribe(&self, capacity: usize) -> io::Result<Windows> {
        let ready = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let state = Mutex::new(State { windows: VecDeque::new(), lost: 0, ended: false });
        let queue = Arc::new(Queue { state, capacity: capacity.max(1), ready });
        let mut consumers = self.lock();
        if consumers.ended {
            queue.end();
        }
        consumers.queues.push(Arc::downgrade(&queue));
        Ok(Windows(queue))
    }

    /// Gives a window to every consumer.
    pub(super) fn publish(&self, window: Window) {
        let window = Arc::new(window);
        self.lock().queues.retain(|queue| {
            let queue = queue.upgrade();
            if let Some(queue) = &queue {
                queue.push(Arc::clone(&window));
            }
            queue.is_some()
        });
    }

    /// There will be no more windows.
    pub(super) fn end(&self) {
        let mut consumers = self.lock();
        consumers.ended = true;
        consumers.queues.iter().filter_map(Weak::upgrade).for_each(|queue| queue.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(number: u32) -> Window {
        kerno_model::fill!(Window { schema_version: number })
    }

    fn numbers(windows: &Windows) -> Vec<u32> {
        std::iter::from_fn(|| windows.try_next()).map(|window| window.schema_version).collect()
    }

    fn is_readable(windows: &Windows) -> bool {
        poll(&mut [PollFd::new(windows, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1)
    }

    #[test]
    fn a_slow_consumer_loses_the_oldest_and_holds_up_nobody() {
        let hub = Hub::default();
        let (slow, fast) = (hub.subscribe(2).unwrap(), hub.subscribe(100).unwrap());
        (0..5).for_each(|number| hub.publish(window(number)));
        assert_eq!((numbers(&slow), slow.lost()), (vec![3, 4], 3));
        assert_eq!((numbers(&fast), fast.lost()), (vec![0, 1, 2, 3, 4], 0));
        let late = hub.subscribe(0).unwrap();
        hub.publish(window(5));
        assert_eq!((numbers(&late), numbers(&slow)), (vec![5], vec![5]));
        drop(fast);
        hub.publish(window(6));
        assert_eq!(hub.lock().queues.len(), 2, "one that is gone is forgotten");
    }

    #[test]
    fn its_descriptor_tells_what_there_is() {
        let hub = Hub::default();
        let windows = hub.subscribe(8).unwrap();
        assert!(!is_readable(&windows));
        hub.publish(window(1));
        hub.publish(window(2));
        assert!(is_readable(&windows) && windows.try_next().is_some() && is_readable(&windows));
        assert!(windows.try_next().is_some() && !is_readable(&windows));
        hub.publish(window(3));
        hub.end();
        assert_eq!(windows.map(|window| window.schema_version).collect::<Vec<_>>(), [3]);
        let late = hub.subscribe(8).unwrap();
        assert!(is_readable(&late) && matches!(late.wait(None, None), Next::Ended));
    }

    #[test]
    fn waiting_ends_in_time_or_when_it_is_cancelled() {
        let (hub, cancel) = (Hub::default(), CancelToken::new().unwrap());
        let windows = hub.subscribe(1).unwrap();
        assert!(matches!(windows.next_within(Duration::from_millis(20), &cancel), Next::TimedOut));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                cancel.cancel();
            });
            assert!(matches!(windows.next_within(Duration::MAX, &cancel), Next::Cancelled));
        });
        hub.publish(window(1));
        assert!(matches!(windows.next_within(Duration::MAX, &cancel), Next::Window(_)), "what there is comes first");
    }
}
