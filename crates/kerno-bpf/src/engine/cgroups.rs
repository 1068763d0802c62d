//! Finds the cgroups of each controller on v1, v2 and hybrid hosts, and reads their files.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::probe::faults::read_text;

/// The most cgroups that one walk reads; [`Walk::cut`] says that there were more.
const MAX_CGROUPS: usize = 8192;

/// The hierarchy that a controller is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// Its file names are those of v2.
    pub(crate) v2: bool,
}

/// One cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CgroupDir {
    /// From the hierarchy's root, beginning with `/`.
    pub(crate) path: String,
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// Its id in the kernel: the directory's inode number.
    pub(crate) id: u64,
}

/// When to walk a hierarchy again: walks take at most this part of the time (one in 400),
const WALK_SHARE: u32 = 400;
/// and a walk is never older than this.
const MAX_WALK_AGE: Duration = Duration::from_secs(20);

/// How old the last walk is, and how old it may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalkAge {
    walked: Instant,
    cost: Duration,
}

impl WalkAge {
    /// The age of a walk, including reading the files of the cgroups, that began then and ends now.
    pub(crate) fn since(begun: Instant) -> Self {
        Self { walked: begun, cost: begun.elapsed() }
    }

    /// Whether it is time for another.
    pub(crate) fn is_over(self) -> bool {
        self.walked.elapsed() >= (self.cost * WALK_SHARE).min(MAX_WALK_AGE)
    }
}

/// All cgroups of a hierarchy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Walk {
    pub(crate) cgroups: Vec<CgroupDir>,
    /// There were more than could be looked at.
    pub(crate) cut: bool,
}

impl Hierarchy {
    /// The hierarchy that a controller (`memory`, `cpu`, `io`; v1's name for `io` is `blkio`) is in; v2 only where it is enabled
    /// there.
    pub(crate) fn of_controller(controller: &str) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
        let v1_name = if controller == "io" { "blkio" } else { controller };
        let mut v2 = None;
        for line in mounts.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            let [_, target, kind, options, ..] = fields[..] else { continue };
            let mount = PathBuf::from(crate::probe::unescape_mount(target));
            match kind {
                "cgroup" if options.split(',').any(|option| option == v1_name) => {
                    return Some(Self { mount, v2: false });
                }
                "cgroup2" => {
                    let enabled = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
                    if enabled.split_whitespace().any(|name| name == controller) {
                        v2.get_or_insert(Self { mount, v2: true });
                    }
                }
                _ => {}
            }
        }
        v2
    }

    /// The v2 hierarchy, whatever controllers it has: the one whose ids the kernel side sees.
    pub(crate) fn v2() -> Option<Self> {
        crate::probe::v2_mount().map(|mount| Self { mount, v2: true })
    }

    /// Every cgroup below the root, parents before children.
    pub(crate) fn walk(&self) -> Walk {
        let mut walk = Walk::default();
        let mut queue = std::collections::VecDeque::from([(String::new(), self.mount.clone())]);
        while let Some((path, dir)) = queue.pop_front() {
            // A cgroup that is removed meanwhile is left out.
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                if walk.cgroups.len() >= MAX_CGROUPS {
                    walk.cut = true;
                    return walk;
                }
                let path = format!("{path}/{}", entry.file_name().to_string_lossy());
                queue.push_back((path.clone(), entry.path()));
                walk.cgroups.push(CgroupDir { path, dir: entry.path(), id: entry.ino() });
            }
        }
        walk
    }
}

impl CgroupDir {
    /// A file with one number; `None` for `max` and other words.
    pub(crate) fn number(&self, file: &str) -> io::Result<Option<u64>> {
        Ok(self.text(file)?.trim().parse().ok())
    }

    /// A file of lines `name number`.
    pub(crate) fn numbers(&self, file: &str) -> io::Result<HashMap<String, u64>> {
        read_numbers(&self.dir.join(file))
    }

    /// A file as it is.
    pub(crate) fn text(&self, file: &str) -> io::Result<String> {
        read_text(&self.dir.join(file))
    }

    /// The processes directly in it.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let text = self.text("cgroup.procs").unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect()
    }
}

/// A file of lines `name number`, such as `cpu.stat` or `/proc/vmstat`.
pub(crate) fn read_numbers(path: &Path) -> io::Result<HashMap<String, u64>> {
    let text = read_text(path)?;
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    Ok(text.lines().filter_map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_hierarchies_are_found() {
        let memory = Hierarchy::of_controller("memory").unwrap();
        assert!(memory.mount.join("cgroup.procs").exists());
        let walk = memory.walk();
        assert!(!walk.cut);
        assert!(walk.cgroups.iter().all(|cgroup| cgroup.path.starts_with('/') && cgroup.id != 0));
        assert!(Hierarchy::of_controller("no-such-controller").is_none());
    }
}
