//! What is made, by processes of their own that count it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// getppid(2).
    Calls,
    /// Processes that begin and end.
    Processes,
    /// Threads that begin and end.
    Threads,
    /// Connections over loopback.
    Connections,
    /// Files with names of their own.
    Files,
    /// Cgroups with a process in them.
    Cgroups,
}

/// Each with how many a second, but for calls, of which that is asked.
const RATES: [(Kind, u64); 5] =
    [(Kind::Processes, 40), (Kind::Threads, 200), (Kind::Connections, 200), (Kind::Files, 200), (Kind::Cgroups, 2)];

/// A part of the load that runs.
pub(super) struct Load {
    kind: Kind,
    child: Child,
}

/// What a part has made.
pub(super) struct Made {
    pub(super) kind: Kind,
    pub(super) count: u64,
    pub(super) seconds: f64,
}

impl Load {
    /// Starts all parts.
    pub(super) fn all(calls: u64) -> Result<Vec<Self>> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let start = |(kind, rate): (Kind, u64)| {
            let name = kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            let child = Command::new(&program)
                .args(["load", &name, &rate.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot start the load of {name}"))?;
            Ok(Self { kind, child })
        };
        [(Kind::Calls, calls)].into_iter().chain(RATES).map(start).collect()
    }

    /// Ends it, and says what it has made.
    pub(super) fn end(&mut self) -> Result<Made> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.child
            .stdout
            .take()
            .context("no output")?
            .read_to_string(&mut text)
            .context("cannot read what was made")?;
        let status = self.child.wait().context("cannot wait")?;
        ensure!(status.success(), "the load of {:?} failed: {status}", self.kind);
        let mut words = text.split_whitespace();
        let mut number = || words.next().and_then(|word| word.parse::<f64>().ok()).context("no count");
        let (count, seconds) = (number()?, number()?);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        Ok(Made { kind: self.kind, count: count as u64, seconds })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // One that has ended is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process of one part: until its input ends.
pub(super) fn run(kind: Kind, rate: u64) -> ExitCode {
    let ended = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&ended);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        set.store(true, Ordering::Relaxed);
    });
    match make(kind, rate, &ended) {
        Ok((count, seconds)) => {
            println!("{count} {seconds}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("soak: {kind:?}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn make(kind: Kind, rate: u64, ended: &AtomicBool) -> Result<(u64, f64)> {
    let mut one = maker(kind)?;
    // Made in batches, so that waiting is no work.
    let batch = (rate / 100).max(1);
    let begun = Instant::now();
    let mut count = 0;
    while !ended.load(Ordering::Relaxed) {
        for _ in 0..batch {
            one(count)?;
            count += 1;
        }
        #[allow(clippy::cast_precision_loss, reason = "a time")]
        let due = Duration::from_secs_f64(count as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    Ok((count, begun.elapsed().as_secs_f64()))
}

type Maker = Box<dyn FnMut(u64) -> Result<()>>;

fn maker(kind: Kind) -> Result<Maker> {
    Ok(match kind {
        Kind::Calls => Box::new(|_| {
            // SAFETY: no arguments.
            unsafe { libc::syscall(libc::SYS_getppid) };
            Ok(())
        }),
        Kind::Processes => Box::new(|_| {
            Command::new("/bin/true").status().context("cannot run /bin/true")?;
            Ok(())
        }),
        Kind::Threads => Box::new(|_| {
            std::thread::Builder::new()
                .spawn(|| ())
                .context("cannot start a thread")?
                .join()
                .ok()
                .context("it panicked")
        }),
        Kind::Connections => {
            let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
            let address = listener.local_addr()?;
            Box::new(move |_| {
                let mut near = TcpStream::connect(address).context("cannot connect")?;
                let (mut far, _) = listener.accept()?;
                near.write_all(&[7; 2000])?;
                far.read_exact(&mut [0; 2000])?;
                reset(&near);
                Ok(())
            })
        }
        Kind::Files => {
            let directory = tempfile::tempdir().context("no directory for files")?;
            Box::new(move |count| {
                let path = directory.path().join(format!("file-{count}"));
                fs::write(&path, b"x")?;
                fs::remove_file(&path)?;
                Ok(())
            })
        }
        Kind::Cgroups => {
            let mount = hierarchy()?;
            Box::new(move |count| {
                let path = mount.join(format!("kerno-soak-{}-{count}", std::process::id()));
                fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
                let result = in_cgroup(&path);
                // The process has gone, or is about to.
                while fs::remove_dir(&path).is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                result
            })
        }
    })
}

/// Where cgroups are made: in the hierarchy of memory, or in the unified one.
fn hierarchy() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let of = |wanted: fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            let [_, target, kind, options, ..] = fields[..] else { return None };
            wanted(kind, options).then(|| PathBuf::from(target))
        })
    };
    of(|kind, options| kind == "cgroup" && options.split(',').any(|option| option == "memory"))
        .or_else(|| of(|kind, _| kind == "cgroup2"))
        .context("no hierarchy of cgroups is mounted")
}

fn in_cgroup(path: &Path) -> Result<()> {
    let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().context("cannot run /bin/cat")?;
    let moved = fs::write(path.join("cgroup.procs"), child.id().to_string());
    drop(child.stdin.take());
    child.wait()?;
    moved.context("cannot move a process")
}

/// Closes without TIME_WAIT, of which a machine has not enough for a long time.
fn reset(stream: &TcpStream) {
    use std::os::fd::AsRawFd as _;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = libc::socklen_t::try_from(size_of::<libc::linger>()).unwrap_or(0);
    // SAFETY: a descriptor that is open, and a value of the size that is told.
    unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size);
    }
}
