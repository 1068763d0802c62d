use std::fs::File;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Notices when something is mounted or unmounted in this mount namespace.
#[derive(Debug, Default)]
pub(crate) struct MountWatch {
    /// poll(2) reports a priority event on it after a change.
    file: Option<File>,
}

impl MountWatch {
    /// Whether there was a change since the last call. True at the first call, and if that cannot be known.
    pub(crate) fn changed(&mut self) -> bool {
        if let Some(file) = &self.file {
            let mut fds = [PollFd::new(file, PollFlags::PRI)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut fds, Some(&now)) == Ok(0) {
                return false;
            }
        }
        // Opened again: each open file reports a change once.
        self.file = File::open("/proc/self/mountinfo").ok();
        true
    }
}

/// What is mounted on the host (`/proc/1/mountinfo`); `None` if this process sees the same mounts.
/// A service manager gives a service mounts of its own, with the same file systems and other options.
pub(crate) fn host_mounts() -> Option<String> {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
    // Which namespace it is may be hidden, though its mounts are not.
    if let (Some(first), Some(own)) = (namespace("1"), namespace("self"))
        && first == own
    {
        return None;
    }
    Some(String::from_utf8_lossy(&std::fs::read("/proc/1/mountinfo").ok()?).into_owned())
}
