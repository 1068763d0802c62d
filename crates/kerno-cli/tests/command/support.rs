//! What these tests share: the running command, calls it can see, and users with less than root.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CapabilitySet, CapabilitySets};

/// The uid and gid of nobody.
pub const NOBODY: u32 = 65534;

/// No command in these tests takes longer.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Tests that count this process's calls must not run beside others that make some.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The variable that says where the command is when it was carried to another machine.
const UNDER_TEST: &str = "KERNO_UNDER_TEST";

pub fn built() -> std::ffi::OsString {
    std::env::var_os(UNDER_TEST).unwrap_or_else(|| env!("CARGO_BIN_EXE_kerno").into())
}

/// The command as it was built, with an environment that says nothing about colours.
pub fn kerno(args: &[&str]) -> Command {
    command_at(built(), args)
}

/// The command in a time namespace whose clocks are so many seconds ahead of the machine's.
pub fn kerno_ahead(seconds: u32, args: &[&str]) -> Command {
    let seconds = seconds.to_string();
    let mut command = command_at("unshare", &["-T", "--monotonic", &seconds, "--boottime", &seconds]);
    command.arg(built()).args(args);
    command
}

fn command_at(path: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(path);
    command.args(args).stdin(Stdio::null()).env_remove("NO_COLOR").env("TERM", "xterm-256color").env("TZ", "UTC");
    // The command takes what begins so for its own settings.
    command.env_remove(UNDER_TEST);
    command
}

/// A user who may do little runs the command.
pub struct Unprivileged {
    /// The built command may lie where nobody else may go.
    directory: tempfile::TempDir,
}

impl Unprivileged {
    pub fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let copy = directory.path().join("kerno");
        std::fs::copy(built(), &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    /// A file beside the command, where they may read.
    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// The command as nobody with these capabilities and, for good, no others.
    pub fn with(&self, capabilities: CapabilitySet, args: &[&str]) -> Command {
        let mut command = command_at(self.directory.path().join("kerno"), args);
        let become_nobody = move || {
            for bit in 0..63 {
                let capability = CapabilitySet::from_bits_retain(1 << bit);
                if !capabilities.contains(capability) {
                    // Fails for bits that this kernel has no capability for.
                    let _ = rustix::thread::remove_capability_from_bounding_set(capability);
                }
            }
            rustix::thread::set_keep_capabilities(true)?;
            // SAFETY: plain system calls; the process has one thread after the fork.
            unsafe {
                assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
                assert_eq!(libc::setresgid(NOBODY, NOBODY, NOBODY), 0);
                assert_eq!(libc::setresuid(NOBODY, NOBODY, NOBODY), 0);
            }
            let sets = CapabilitySets { effective: capabilities, permitted: capabilities, inheritable: capabilities };
            rustix::thread::set_capabilities(None, sets)?;
            for capability in capabilities {
                rustix::thread::configure_capability_in_ambient_set(capability, true)?;
            }
            Ok(())
        };
        // SAFETY: system calls only, nothing that a fork could have left locked.
        unsafe { command.pre_exec(become_nobody) };
        command
    }
}

/// Runs it to its end; fails when it hangs.
pub fn run(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = gather(child.stdout.take().unwrap());
    let stderr = gather(child.stderr.take().unwrap());
    let status = wait(&mut child);
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn gather(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Waits for its end, which must come.
pub fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("the command hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is UTF-8")
}

pub fn signal(child: &Child, signal: i32) {
    // SAFETY: our own child, not yet waited for.
    assert_eq!(unsafe { libc::kill(child.id().cast_signed(), signal) }, 0);
}

/// A `kerno trace` whose lines are read as they come.
pub struct Trace {
    child: Child,
    lines: Receiver<String>,
    stderr: JoinHandle<Vec<u8>>,
}

impl Trace {
    /// Starts it and waits until it sees this process's getpgid calls, which the arguments must let through.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = gather(child.stderr.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let _ = send.send(line.expect("a line of UTF-8"));
            }
        });
        let mut trace = Self { child, lines, stderr };
        let deadline = Instant::now() + LIMIT;
        loop {
            call(libc::SYS_getpgid, 0);
            match trace.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => {
                    assert!(line.contains("getpgid"), "{line}");
                    return trace;
                }
                Err(_) if trace.child.try_wait().unwrap().is_some() => {
                    panic!("it ended: {}", text(&trace.stderr.join().unwrap()));
                }
                Err(_) => assert!(Instant::now() < deadline, "it sees nothing"),
            }
        }
    }

    /// Sends the signal; the remaining lines without those of getpgid, how it ended, and what it said on standard error.
    pub fn end(mut self, signal_number: i32) -> (Vec<String>, ExitStatus, String) {
        signal(&self.child, signal_number);
        let status = wait(&mut self.child);
        let lines = self.lines.iter().filter(|line| !line.contains("getpgid")).collect();
        (lines, status, text(&self.stderr.join().unwrap()).to_owned())
    }
}

/// One system call of this thread.
pub fn call(number: i64, argument: i64) -> i64 {
    // SAFETY: used for getpgid, getppid and dup, which touch no memory.
    unsafe { libc::syscall(number, argument) }
}

/// Makes getppid calls until it is dropped.
pub struct Busy(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Busy {
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                (0..100).for_each(|_| {
                    call(libc::SYS_getppid, 0);
                });
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(JoinHandle::join);
    }
}

/// This process, as a flag's value.
pub fn own_pid() -> String {
    std::process::id().to_string()
}

/// Arguments for tracing some of this process's calls.
pub fn own_calls<'a>(pid: &'a str, calls: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["trace", "syscall", "--pid", pid, "--syscall", calls];
    args.extend(more);
    args
}

/// The number before a word of the summary line: `1009 events seen`, `3 lost`.
pub fn figure(stderr: &str, word: &str) -> u64 {
    let summary = stderr.lines().last().unwrap_or_default();
    let words: Vec<_> = summary.split([' ', ',']).filter(|part| !part.is_empty()).collect();
    let at = words.iter().position(|found| *found == word).unwrap_or_else(|| panic!("no {word:?} in {stderr:?}"));
    words[at - 1].parse().unwrap_or_else(|_| panic!("no number of {word:?} in {stderr:?}"))
}
