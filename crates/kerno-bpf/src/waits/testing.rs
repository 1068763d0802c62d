//! Processes that wait, for the tests.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A child process, forked: it shares what is open. Ends with the value.
pub(super) struct Child {
    pid: u32,
    ended: bool,
}

impl Child {
    /// Runs this in a child, which then sleeps for ever.
    pub(super) fn forked(work: impl FnOnce()) -> Self {
        // SAFETY: the child only makes system calls, and never returns from here.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "{}", std::io::Error::last_os_error());
        if pid == 0 {
            // SAFETY: numbers only. It must not outlive a test that fails.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            work();
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        }
        Self { pid: pid.cast_unsigned(), ended: false }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn signal(&self, signal: libc::c_int) {
        // SAFETY: a child of ours that has not been waited for.
        unsafe { libc::kill(self.pid.cast_signed(), signal) };
    }

    pub(super) fn kill(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.signal(libc::SIGKILL);
            // SAFETY: a child of ours; a null pointer asks for no status.
            unsafe { libc::waitpid(self.pid.cast_signed(), std::ptr::null_mut(), 0) };
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A child has what is open when it is forked: only one test at a time may open something that others count.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks again until there is an answer.
pub(super) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it has not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}
