//! Where a fault is staged: what is made for it, and how all of it goes again, whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Everything that the lab makes has this in its name, and the lab's process id after it.
pub(super) const PREFIX: &str = "kerno-lab";

/// The environment of everything that is started has this, with the lab's process id.
const MARK: &str = "KERNO_LAB";

/// Of each process that was started, by its id: those that were seen of it and of its descendants.
pub(super) type Families = BTreeMap<u32, BTreeSet<u32>>;

type Undo = Box<dyn FnOnce()>;

/// What was made for one fault. Dropping it ends the processes and undoes the rest, the last first.
pub(super) struct Scene {
    /// How long the doctor will watch.
    pub(super) window: Duration,
    dir: PathBuf,
    number: u32,
    loads: Vec<Child>,
    /// Everything that was started.
    families: Families,
    undo: Vec<Undo>,
    interrupted: Arc<AtomicBool>,
    deadline: Instant,
}

impl Scene {
    /// An empty one. Nothing waits in it longer than `limit` after now.
    pub(super) fn new(window: Duration, limit: Duration, interrupted: Arc<AtomicBool>) -> Result<Self> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Not /tmp, which may be in memory: some loads must reach a disk.
        let dir = PathBuf::from(format!("/var/tmp/{PREFIX}-{}-{number}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let remove = dir.clone();
        let undo: Undo = Box::new(move || complain(fs::remove_dir_all(&remove), &remove));
        let deadline = Instant::now() + limit;
        Ok(Self {
            window,
            dir,
            number,
            loads: Vec::new(),
            families: Families::new(),
            undo: vec![undo],
            interrupted,
            deadline,
        })
    }

    /// A folder of its own, on a disk.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A name that nothing else on the machine has.
    pub(super) fn unique(&self, name: &str) -> String {
        format!("{PREFIX}-{}-{}-{name}", std::process::id(), self.number)
    }

    /// The seconds from now to the doctor's last look, when it starts at once.
    pub(super) fn window_seconds(&self) -> f64 {
        self.window.as_secs_f64()
    }

    /// Something to be undone at the end, before everything that was made earlier.
    pub(super) fn at_end(&mut self, undo: impl FnOnce() + 'static) {
        self.undo.push(Box::new(undo));
    }

    /// Starts a load. It is ended first of all.
    pub(super) fn spawn(&mut self, run: &Run) -> Result<u32> {
        let child = self.start(run)?;
        let pid = child.id();
        self.loads.push(child);
        self.families.insert(pid, [pid].into());
        Ok(pid)
    }

    /// Starts something that others stand on: it is ended only after what was made later is gone.
    pub(super) fn serve(&mut self, run: &Run) -> Result<u32> {
        let mut child = self.start(run)?;
        let pid = child.id();
        self.families.insert(pid, [pid].into());
        self.at_end(move || end(std::slice::from_mut(&mut child), Duration::from_secs(5)));
        Ok(pid)
    }

    fn start(&self, run: &Run) -> Result<Child> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log"))?;
        let errors = log.try_clone()?;
        let mut command = run.command();
        command.current_dir(&self.dir).stdin(Stdio::null()).stdout(log).stderr(errors);
        command.spawn().with_context(|| format!("cannot start {}", run.argv.join(" ")))
    }

    /// What the loads said last, for when a fault did not take place.
    pub(super) fn log(&self) -> String {
        let text = fs::read(self.dir.join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last: Vec<_> =
            text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).rev().take(5).collect();
        last.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// Fails when somebody pressed Ctrl-C or this takes too long.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        ensure!(Instant::now() < self.deadline, "took too long");
        Ok(())
    }

    /// Sleeps, unless interrupted.
    pub(super) fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.check()?;
            std::thread::sleep(Duration::from_millis(20).min(end - Instant::now().min(end)));
        }
        Ok(())
    }

    /// Waits until it is so, for at most 10 seconds.
    pub(super) fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while !is_so() {
            ensure!(Instant::now() < end, "waited in vain for {what}; the loads say: {}", self.log());
            self.sleep(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// Who was seen so far of each process that was started.
    pub(super) fn families(&self) -> &Families {
        &self.families
    }

    /// Notes who is there now of each process that was started.
    pub(super) fn look_at_families(&mut self) {
        for pid in pids() {
            let family = session_of(pid).and_then(|session| self.families.get_mut(&session));
            if let Some(family) = family {
                family.insert(pid);
            }
        }
    }

    /// Whether every load still runs.
    pub(super) fn is_running(&mut self) -> bool {
        self.loads.iter_mut().all(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Those that hang until a file system is thawed are waited for below, again.
        end(&mut self.loads, Duration::from_secs(1));
        while self.undo.len() > 1 {
            if let Some(undo) = self.undo.pop() {
                undo();
            }
        }
        end(&mut self.loads, Duration::from_secs(5));
        if let Some(undo) = self.undo.pop() {
            undo();
        }
    }
}

/// Kills these and everything that they started, and waits for them.
fn end(children: &mut [Child], patience: Duration) {
    let until = Instant::now() + patience;
    loop {
        let mut left = false;
        for child in children.iter_mut() {
            for pid in members(child.id()) {
                kill(pid, Signal::KILL);
                left = true;
            }
            left |= matches!(child.try_wait(), Ok(None));
        }
        if !left || Instant::now() > until {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal to a process that we started; it may be gone.
pub(super) fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The living processes of a session: who we started as `session`, and its descendants.
pub(super) fn members(session: u32) -> BTreeSet<u32> {
    pids().filter(|pid| session_of(*pid) == Some(session)).collect()
}

/// CPU seconds that a session's processes used so far, and those of them that ended.
pub(super) fn cpu_seconds(session: u32) -> f64 {
    let ticks = |pid: u32| -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // utime, stime, cutime, cstime
        Some(fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum())
    };
    let ticks: u64 = members(session).into_iter().filter_map(ticks).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Kills what labs that were killed have left running.
pub(super) fn kill_orphans() {
    for pid in pids() {
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { continue };
        let mark = |variable: &[u8]| {
            let value = variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?;
            std::str::from_utf8(value).ok()?.parse::<u32>().ok()
        };
        let lab = environment.split(|byte| *byte == 0).find_map(mark);
        if lab.is_some_and(|lab| !Path::new(&format!("/proc/{lab}")).exists()) {
            kill(pid, Signal::KILL);
        }
    }
}

fn session_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(2)?.parse().ok() }
}

/// A program to be started, and in what surroundings.
pub(super) struct Run {
    argv: Vec<String>,
    setup: Vec<String>,
    net: Option<String>,
}

impl Run {
    pub(super) fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), setup: Vec::new(), net: None }
    }

    /// Words separated by blanks.
    pub(super) fn words(line: &str) -> Self {
        Self::new(line.split_whitespace())
    }

    pub(super) fn shell(script: impl Into<String>) -> Self {
        Self::new(["/bin/sh".to_owned(), "-c".to_owned(), script.into()])
    }

    /// The system's Python, which starts nothing else first as a version manager's would.
    pub(super) fn python(script: impl Into<String>) -> Self {
        Self::new(["/usr/bin/python3".to_owned(), "-u".to_owned(), "-c".to_owned(), script.into()])
    }

    /// Adds an argument.
    pub(super) fn arg(mut self, arg: impl std::fmt::Display) -> Self {
        self.argv.push(arg.to_string());
        self
    }

    /// In a cgroup.
    pub(super) fn in_cgroup(mut self, cgroup: &Path) -> Self {
        self.setup.push(format!("echo 0 > '{}/cgroup.procs'", cgroup.display()));
        self
    }

    /// With that many descriptors at most.
    pub(super) fn max_files(mut self, limit: u32) -> Self {
        self.setup.push(format!("ulimit -n {limit}"));
        self
    }

    /// In a network namespace.
    pub(super) fn in_net(mut self, name: &str) -> Self {
        self.net = Some(name.to_owned());
        self
    }

    /// All of this happens in the one process, whose id is what starting it gives: each step executes the next.
    fn command(&self) -> Command {
        let mut script = String::from("set -e; ");
        for step in &self.setup {
            script.push_str(step);
            script.push_str("; ");
        }
        script.push_str("exec setpriv --pdeathsig KILL -- setsid ");
        if let Some(net) = &self.net {
            script.push_str(&format!("nsenter --net=/run/netns/{net} -- "));
        }
        script.push_str("\"$@\"");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script, "sh"]).args(&self.argv).env(MARK, std::process::id().to_string());
        command
    }
}

/// The number that a load keeps in a file; 0 before it has begun to.
pub(super) fn number_in(path: &Path) -> f64 {
    fs::read_to_string(path).unwrap_or_default().trim().parse().unwrap_or(0.0)
}

/// Runs a command to its end and fails when it fails.
pub(super) fn run(line: &str) -> Result<String> {
    let output = output(line)?;
    if !output.status.success() {
        bail!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn output(line: &str) -> Result<Output> {
    Command::new("/bin/sh")
        .args(["-c", line])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {line}"))
}

/// Runs a command of the teardown; a failure is told, and the rest goes on.
pub(super) fn undo(line: &str) {
    complain(run(line), Path::new(line));
}

/// The same, for at most 5 seconds, for what fails while somebody is on his way out.
pub(super) fn undo_patiently(line: &str) {
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        if run(line).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    undo(line);
}

fn complain<T, E: std::fmt::Display>(result: Result<T, E>, what: &Path) {
    if let Err(error) = result {
        eprintln!("lab: cannot clean up {}: {error:#}", what.display());
    }
}
