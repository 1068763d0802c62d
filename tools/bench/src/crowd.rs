//! Loads for `kerno` to run beside.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::child::{Child, PingPong, spawn};
use super::{cpus, getppids};

/// A process that does so much a second, if it can.
pub(super) struct Paced {
    _child: Child,
    done: File,
}

impl Paced {
    /// A hundred times a second, so much of it that so many are done in a second.
    fn start(a_second: usize, mut work: impl FnMut(usize)) -> anyhow::Result<Self> {
        let done = tempfile::tempfile_in("/dev/shm")?;
        let child = spawn(|| {
            let start = Instant::now();
            for slot in 1u32.. {
                work(a_second / 100);
                let all = u64::from(slot) * (a_second / 100) as u64;
                drop(done.write_all_at(&all.to_ne_bytes(), 0));
                std::thread::sleep((Duration::from_millis(10) * slot).saturating_sub(start.elapsed()));
            }
        })?;
        Ok(Self { _child: child, done })
    }

    /// How many it has done by now.
    pub(super) fn done(&self) -> u64 {
        let mut bytes = [0; 8];
        self.done.read_exact_at(&mut bytes, 0).map_or(0, |()| u64::from_ne_bytes(bytes))
    }

    /// System calls.
    pub(super) fn calls(a_second: usize) -> anyhow::Result<Self> {
        Self::start(a_second, getppids)
    }

    /// Switches between two processes on one CPU.
    pub(super) fn switches(a_second: usize) -> anyhow::Result<Self> {
        let mut pair = None;
        Self::start(a_second, move |count| {
            if pair.is_none() {
                pair = cpus::pin(cpus::measured()).and_then(|()| PingPong::start()).ok();
            }
            if let Some(pair) = &mut pair {
                drop(pair.rounds(count / 2));
            }
        })
    }
}

/// Processes that sleep, each with so many descriptors.
pub(super) fn processes(count: usize, fds: usize) -> anyhow::Result<Vec<Child>> {
    let sleeper = || {
        let _open: Vec<_> = (0..fds).filter_map(|_| File::open("/dev/null").ok()).collect();
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    };
    (0..count).map(|_| spawn(sleeper)).collect()
}

/// Processes that sleep, each with so many connections to itself: two sockets and two descriptors each. Waits until all are made.
pub(super) fn connected(count: usize, connections: usize) -> anyhow::Result<Vec<Child>> {
    let (mut ready, tell) = std::io::pipe()?;
    let mut made = Vec::new();
    for _ in 0..count {
        let mut tell = tell.try_clone()?;
        made.push(spawn(move || {
            let Ok(_ends) = connect_to_itself(connections) else { return };
            let _ = tell.write_all(&[1]);
            drop(tell);
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        })?);
    }
    drop(tell);
    let mut done = vec![0; count];
    ready.read_exact(&mut done).context("a process could not make its connections")?;
    Ok(made)
}

fn connect_to_itself(connections: usize) -> std::io::Result<Vec<(TcpStream, TcpStream)>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let to = listener.local_addr()?;
    (0..connections).map(|_| Ok((TcpStream::connect(to)?, listener.accept()?.0))).collect()
}

/// Cgroups, in each hierarchy that has a controller of ours.
pub(super) struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    pub(super) fn make(count: usize) -> anyhow::Result<Self> {
        let mut made = Self(Vec::new());
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        for line in mounts.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            let [_, target, kind, options, ..] = fields[..] else { continue };
            let ours = ["memory", "cpu", "blkio"].iter().any(|name| options.split(',').any(|option| option == *name));
            if kind != "cgroup2" && !(kind == "cgroup" && ours) {
                continue;
            }
            let parent = PathBuf::from(target).join(format!("kerno-bench-{}", std::process::id()));
            made.create(parent.clone())?;
            for i in 0..count {
                made.create(parent.join(i.to_string()))?;
            }
        }
        Ok(made)
    }

    fn create(&mut self, dir: PathBuf) -> anyhow::Result<()> {
        fs::create_dir(&dir)?;
        self.0.push(dir);
        Ok(())
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.0.iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
    }
}
