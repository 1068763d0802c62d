//! Other tools, and the command, as their users run them.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::super::cpus;

/// A tool that runs until this is dropped.
pub(crate) struct Running {
    child: Child,
    /// From exec until the last of its programs was attached.
    pub(crate) attached_after: Duration,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// So long nothing more is attached: then all is.
const QUIET: Duration = Duration::from_millis(250);
/// bpftrace compiles first.
const PATIENCE: Duration = Duration::from_secs(20);

impl Running {
    /// Starts a tool on the CPU for that, with its output thrown away, and waits until its programs are attached. An error
    /// is what it says itself.
    pub(crate) fn start(program: &OsStr, args: &[&str]) -> anyhow::Result<Self> {
        let mut said = tempfile::tempfile()?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.try_clone()?);
        // SAFETY: only calls that are allowed between fork and exec.
        unsafe {
            command.pre_exec(|| {
                cpus::pin(cpus::others()).map_err(std::io::Error::other)?;
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot run {}", program.to_string_lossy()))?;
        let mut running = Self { child, attached_after: Duration::ZERO };
        let mut attached = 0;
        while attached == 0 || started.elapsed() - running.attached_after < QUIET {
            if let Some(status) = running.child.try_wait()? {
                let mut text = String::new();
                said.rewind()?;
                said.read_to_string(&mut text)?;
                bail!("{}", reason(&text).unwrap_or_else(|| format!("ended with {status} and no word")));
            }
            if attached == 0 && started.elapsed() > PATIENCE {
                bail!("attached nothing within {} s", PATIENCE.as_secs());
            }
            let now = running.attachments();
            if now > attached {
                (attached, running.attached_after) = (now, started.elapsed());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(running)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Links to hooks and events of perf, by which programs are attached.
    fn attachments(&self) -> usize {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.child.id())).into_iter().flatten().flatten();
        let targets = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        let attached = |target: &PathBuf| {
            let target = target.to_string_lossy();
            target.contains("bpf_link") || target.contains("bpf-link") || target.contains("[perf_event]")
        };
        targets.filter(attached).count()
    }
}

/// The line that says best what went wrong, else the first.
fn reason(text: &str) -> Option<String> {
    // The plainest first.
    const WORDS: [&str; 5] = ["unable", "no such", "failed", "error", "cannot"];
    // bpftrace says so whenever the limit is not infinite to begin with, and goes on.
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("RLIMIT_MEMLOCK"));
    let with = |word: &&str| lines().find(|line| line.to_lowercase().contains(word));
    let line = WORDS.iter().find_map(with).or_else(|| lines().next())?;
    Some(line.chars().take(100).collect())
}

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn the_reason_is_the_line_that_has_one() {
        let bcc = "modprobe: FATAL: Module kheaders not found\nchdir: No such file\nUnable to find kernel headers. Try\nTraceback\n";
        assert_eq!(reason(bcc).unwrap(), "Unable to find kernel headers. Try");
        assert_eq!(reason("\n  odd\n").unwrap(), "odd");
        assert_eq!(reason(""), None);
    }

    #[test]
    fn a_tool_that_ends_says_why() {
        let error = super::Running::start("sh".as_ref(), &["-c", "echo went wrong: failed >&2; exit 3"]).err().unwrap();
        assert_eq!(error.to_string(), "went wrong: failed");
        assert!(super::Running::start("no-such-tool".as_ref(), &[]).is_err());
    }
}
