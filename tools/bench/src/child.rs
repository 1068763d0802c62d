//! Processes for a measurement: what is measured must not be the process that observes.

use std::fs::File;
use std::io::{Read as _, Write as _};

/// A process that ends when this is dropped, or when we end.
pub(super) struct Child(pub(super) i32);

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: our own child, not reaped before.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// Runs `body` in a process of its own until it is dropped, or `body` ends.
pub(super) fn spawn(body: impl FnOnce()) -> anyhow::Result<Child> {
    // SAFETY: we have one thread, so the child may do whatever we may; it ends without running our destructors.
    let pid = unsafe { libc::fork() };
    anyhow::ensure!(pid >= 0, "fork failed");
    if pid == 0 {
        // SAFETY: plain calls; the first so that nothing stays behind when we are killed.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        body();
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    Ok(Child(pid))
}

/// Two processes that wake each other in turn: this one's ends of the pipes.
pub(super) struct PingPong {
    to: File,
    from: File,
    other: Child,
}

impl PingPong {
    pub(super) fn start() -> anyhow::Result<Self> {
        let (mut there, to) = std::io::pipe()?;
        let (from, mut back) = std::io::pipe()?;
        let other = spawn(|| {
            let mut byte = [0];
            while there.read_exact(&mut byte).is_ok() && back.write_all(&byte).is_ok() {}
        })?;
        let file = |fd: std::os::fd::OwnedFd| File::from(fd);
        Ok(Self { to: file(to.into()), from: file(from.into()), other })
    }

    pub(super) const fn other(&self) -> i32 {
        self.other.0
    }

    /// There and back: two switches and two wake-ups each, where both share a CPU.
    pub(super) fn rounds(&mut self, count: usize) -> anyhow::Result<()> {
        let mut byte = [1];
        for _ in 0..count {
            self.to.write_all(&byte)?;
            self.from.read_exact(&mut byte)?;
        }
        Ok(())
    }
}
