use std::fmt;

use serde::{Deserialize, Serialize};

/// How a process ended, as wait(2) gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct WaitStatus(pub u32);

/// The names of the signals that x86 and arm64 share, by number.
const NAMES: [&str; 32] = [
    "",
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

impl WaitStatus {
    /// The code it exited with; `None` if a signal ended it.
    pub const fn code(self) -> Option<u32> {
        if self.signal().is_none() { Some(self.0 >> 8 & 0xff) } else { None }
    }

    /// The signal that ended it.
    pub const fn signal(self) -> Option<u32> {
        match self.0 & 0x7f {
            0 => None,
            signal => Some(signal),
        }
    }

    /// The name of that signal, such as `SIGSEGV`; `None` also for a real-time signal.
    pub fn signal_name(self) -> Option<&'static str> {
        NAMES.get(self.signal()? as usize).copied()
    }

    /// Whether the kernel wrote a core dump, to a file or to a program.
    pub const fn dumped(self) -> bool {
        self.signal().is_some() && self.0 & 0x80 != 0
    }

    /// It exited with 0.
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }

    /// A signal that a program gets for what it did itself, or for a limit that it reached: nobody stopped it on purpose.
    pub const fn is_crash(self) -> bool {
        // ILL, TRAP, ABRT, BUS, FPE, SEGV, STKFLT, XCPU, XFSZ, SYS
        matches!(self.signal(), Some(4..=8 | 11 | 16 | 24 | 25 | 31))
    }
}

impl fmt::Display for WaitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code(), self.signal_name()) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(name)) => f.write_str(name),
            (None, None) => write!(f, "signal {}", self.0 & 0x7f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_wait_says() {
        for status in 0..=0xffff_u32 {
            let ours = WaitStatus(status);
            let raw = status.cast_signed();
            let theirs = std::os::unix::process::ExitStatusExt::from_raw(raw);
            let theirs: std::process::ExitStatus = theirs;
            use std::os::unix::process::ExitStatusExt as _;
            // 0x7f is stopped, which no process that ended is.
            if status & 0x7f != 0x7f {
                assert_eq!(ours.code().map(u32::cast_signed), theirs.code(), "{status:#x}");
                assert_eq!(ours.signal().map(u32::cast_signed), theirs.signal(), "{status:#x}");
                assert_eq!(ours.dumped(), theirs.core_dumped() && theirs.signal().is_some(), "{status:#x}");
            }
            assert!(!ours.to_string().is_empty());
        }
        assert_eq!(WaitStatus(0x100).to_string(), "exit code 1");
        assert_eq!(WaitStatus(0x8b).to_string(), "SIGSEGV");
        assert_eq!(WaitStatus(40).to_string(), "signal 40");
    }
}
