//! What takes a processor's time at the start, on all of them.

use std::sync::{Mutex, PoisonError};
use std::thread;

/// Calls `each` for every item, on as many threads as may run at once, and gives what came of them in the items' order. Where there can be
/// no more threads, this one does it all. Threads are begun in the network namespace and with the signal mask of this one.
pub(crate) fn each<T: Send, R: Send>(items: Vec<T>, each: impl Fn(T) -> R + Sync) -> Vec<R> {
    let others = thread::available_parallelism().map_or(1, usize::from).min(items.len()).saturating_sub(1);
    let mut done: Vec<(usize, R)> = Vec::with_capacity(items.len());
    let waiting = Mutex::new(items.into_iter().enumerate());
    let work = || {
        let mut done = Vec::new();
        loop {
            // The lock is let go of before the work.
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((place, item)) = next else { return done };
            done.push((place, each(item)));
        }
    };
    thread::scope(|scope| {
        let started: Vec<_> =
            (0..others).map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        done.extend(work());
        for thread in started {
            match thread.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    done.sort_unstable_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn everything_is_done_once_and_stays_in_order() {
        let calls = AtomicUsize::new(0);
        let squares = super::each((0..1000u64).collect(), |number| {
            calls.fetch_add(1, Ordering::Relaxed);
            number * number
        });
        assert_eq!(calls.into_inner(), 1000);
        assert!(squares.iter().zip(0u64..).all(|(square, number)| *square == number * number));
        assert!(super::each(Vec::<u8>::new(), |byte| byte).is_empty());
    }
}
