//! The CPU time of watching: that of the thread that watches and of the threads that work for it. The process may have other threads with
//! other work.

use std::cell::Cell;

use rustix::time::{ClockId, clock_gettime};

thread_local! {
    /// CPU time of other threads for this one.
    static ELSEWHERE_NS: Cell<u64> = const { Cell::new(0) };
}

/// CPU time of this thread since it began, in nanoseconds.
pub(crate) fn thread_ns() -> u64 {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(used.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(used.tv_nsec).unwrap_or(0)
}

/// Adds CPU time that another thread has used for this one.
pub(crate) fn charge(ns: u64) {
    ELSEWHERE_NS.set(ELSEWHERE_NS.get() + ns);
}

/// CPU time of this thread since it began, and of others for it, in seconds.
#[allow(clippy::cast_precision_loss, reason = "seconds")]
pub(crate) fn seconds() -> f64 {
    (thread_ns() + ELSEWHERE_NS.get()) as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_done_for_this_thread_counts() {
        let spin = || {
            let begun = thread_ns();
            while thread_ns() - begun < 20_000_000 {
                std::hint::spin_loop();
            }
        };
        let before = seconds();
        std::thread::spawn(spin).join().unwrap();
        let others = seconds() - before;
        assert!(others < 0.015, "{others}");
        spin();
        charge(30_000_000);
        let own = seconds() - before;
        assert!((0.05..0.08).contains(&own), "{own}");
    }
}
