//! Loads for `kerno doctor` to run beside.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::child::{Child, PingPong, spawn};
use super::{getppids, pin};

/// A hundred times a second, so much of it that so many are done in a second.
fn paced(a_second: usize, mut work: impl FnMut(usize)) {
    let start = Instant::now();
    for slot in 1u32.. {
        work(a_second / 100);
        let rest = (Duration::from_millis(10) * slot).saturating_sub(start.elapsed());
        std::thread::sleep(rest);
    }
}

pub(super) fn calls(a_second: usize) -> anyhow::Result<Vec<Child>> {
    Ok(vec![spawn(|| paced(a_second, getppids))?])
}

pub(super) fn switches(a_second: usize) -> anyhow::Result<Vec<Child>> {
    Ok(vec![spawn(|| {
        if let (Ok(()), Ok(mut pair)) = (pin(1), PingPong::start()) {
            paced(a_second / 2, |count| drop(pair.rounds(count)));
        }
    })?])
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
