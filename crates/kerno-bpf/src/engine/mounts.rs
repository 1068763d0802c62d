use std::fs::File;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Tells when something was mounted or unmounted here.
#[derive(Debug, Default)]
pub(crate) struct MountWatch {
    /// Readable, in poll(2)'s sense, as long as nothing is mounted or unmounted.
    file: Option<File>,
}

impl MountWatch {
    /// Whether it was so since the last call; true at the first, and where that cannot be told.
    pub(crate) fn changed(&mut self) -> bool {
        if let Some(file) = &self.file {
            let mut fds = [PollFd::new(file, PollFlags::PRI)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut fds, Some(&now)) == Ok(0) {
                return false;
            }
        }
        // Opened anew: a change is told once to each open file.
        self.file = File::open("/proc/self/mountinfo").ok();
        true
    }
}
