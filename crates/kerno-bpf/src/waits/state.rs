//! Why a process does not do its part.

use std::io;

/// The state of a thread, with what is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Runs, or could run.
    Runs,
    /// Sleeps and can be woken.
    Sleeps,
    /// Sleeps uninterruptibly (D).
    Blocked,
    /// Stopped by a signal (T).
    Stopped,
    /// Held by a debugger or the like (t).
    Traced {
        /// The one that traces it; `None` if it is not known.
        by: Option<Named>,
    },
    /// Its cgroup is frozen.
    Frozen {
        /// The cgroup that was frozen: its own or one above.
        cgroup: String,
        /// The file that thaws it.
        file: String,
    },
    /// It has ended and its parent has not asked for it.
    Zombie,
}

impl Condition {
    /// It cannot go on by itself: somebody has to let it.
    pub(crate) const fn is_held(&self) -> bool {
        matches!(self, Self::Stopped | Self::Traced { .. } | Self::Frozen { .. })
    }
}

/// A process by id and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) pid: u32,
    pub(crate) comm: String,
}

/// What `/proc/PID/stat` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) comm: String,
    /// R, S, D, T, t, Z and so on.
    pub(crate) state: char,
    pub(crate) parent: u32,
    pub(crate) session: u32,
    /// Its terminal, and the process group that has it; 0 and -1 without one.
    pub(crate) terminal: i32,
    pub(crate) group: i32,
    pub(crate) foreground_group: i32,
    /// How many threads it has; 0 of a zombie.
    pub(crate) threads: u64,
    /// When it started, in clock ticks since boot.
    pub(crate) start_ticks: u64,
}

/// Of a thread; of a process as a whole with its own id as the thread's.
pub(crate) fn stat(pid: u32, tid: u32) -> io::Result<Stat> {
    let path = if pid == tid { format!("/proc/{pid}/stat") } else { format!("/proc/{pid}/task/{tid}/stat") };
    // The name may be any bytes.
    let text = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
    parse_stat(&text).ok_or_else(|| io::Error::other("not as /proc/PID/stat should be"))
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name may hold spaces and brackets.
    let (head, tail) = text.rsplit_once(") ")?;
    let comm = head.split_once(" (")?.1.to_owned();
    let fields: Vec<_> = tail.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<i64>().ok();
    let small = |place: usize| i32::try_from(number(place)?).ok();
    Some(Stat {
        comm,
        state: fields.first()?.chars().next()?,
        parent: u32::try_from(number(1)?).ok()?,
        group: small(2)?,
        session: u32::try_from(number(3)?).unwrap_or(0),
        terminal: small(4)?,
        foreground_group: small(5)?,
        threads: u64::try_from(number(17)?).unwrap_or(0),
        start_ticks: u64::try_from(number(19)?).ok()?,
    })
}

/// The state of a thread; of a process with its own id as the thread's.
pub(crate) fn condition(pid: u32, tid: u32) -> io::Result<(Stat, Condition)> {
    let stat = stat(pid, tid)?;
    let condition = match stat.state {
        'T' => Condition::Stopped,
        't' => Condition::Traced { by: tracer(pid, tid) },
        'Z' | 'X' | 'x' => Condition::Zombie,
        'R' => Condition::Runs,
        // Tasks of a frozen cgroup look asleep.
        state => match frozen(pid) {
            Some((cgroup, file)) => Condition::Frozen { cgroup, file },
            None if state == 'D' => Condition::Blocked,
            None => Condition::Sleeps,
        },
    };
    Ok((stat, condition))
}

/// Who traces a thread.
pub(crate) fn tracer(pid: u32, tid: u32) -> Option<Named> {
    let status = std::fs::read(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let tracer: u32 = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()?;
    if tracer == 0 {
        return None;
    }
    // It is the thread that traces.
    let pid = process_of(tracer).unwrap_or(tracer);
    Some(Named { pid, comm: name(pid).unwrap_or_default() })
}

/// The process that a thread belongs to.
pub(crate) fn process_of(tid: u32) -> Option<u32> {
    let status = std::fs::read(format!("/proc/{tid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// The name of a process.
pub(crate) fn name(pid: u32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned())
}

/// The cgroup that freezes a process, and the file that thaws it.
pub(crate) fn frozen(pid: u32) -> Option<(String, String)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mounts = Mounts::get();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let found = if controllers.is_empty() {
            mounts.v2.as_deref().and_then(|mount| frozen_v2(mount, path))
        } else if controllers.split(',').any(|name| name == "freezer") {
            mounts.freezer.as_deref().and_then(|mount| frozen_v1(mount, path))
        } else {
            None
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Where the hierarchies are mounted that can freeze.
struct Mounts {
    v2: Option<String>,
    freezer: Option<String>,
}

impl Mounts {
    fn get() -> &'static Self {
        static MOUNTS: std::sync::OnceLock<Mounts> = std::sync::OnceLock::new();
        MOUNTS.get_or_init(|| {
            let path = |hierarchy: crate::engine::Hierarchy| hierarchy.mount.to_str().map(str::to_owned);
            let v1 = crate::engine::Hierarchy::of_controller("freezer").filter(|hierarchy| !hierarchy.v2);
            Self { v2: crate::engine::Hierarchy::v2().and_then(path), freezer: v1.and_then(path) }
        })
    }
}

/// The cgroup itself and those above it, the outermost first; without the root, which can neither be frozen nor limited.
pub(crate) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(place, _)| place).filter(|place| *place > 0).chain([path.len()]);
    ends.filter_map(|end| path.get(..end)).filter(|path| path.len() > 1)
}

fn frozen_v2(mount: &str, path: &str) -> Option<(String, String)> {
    let events = std::fs::read_to_string(format!("{mount}{path}/cgroup.events")).ok()?;
    if !events.lines().any(|line| line == "frozen 1") {
        return None;
    }
    let file = |cgroup: &str| format!("{mount}{cgroup}/cgroup.freeze");
    let is_set = |cgroup: &&str| std::fs::read_to_string(file(cgroup)).is_ok_and(|text| text.trim() == "1");
    let cgroup = ancestors(path).find(is_set).unwrap_or(path);
    Some((cgroup.to_owned(), file(cgroup)))
}

fn frozen_v1(mount: &str, path: &str) -> Option<(String, String)> {
    let file = |cgroup: &str, name: &str| format!("{mount}{cgroup}/freezer.{name}");
    let state = std::fs::read_to_string(file(path, "state")).ok()?;
    if state.trim() == "THAWED" {
        return None;
    }
    let is_set =
        |cgroup: &&str| std::fs::read_to_string(file(cgroup, "self_freezing")).is_ok_and(|text| text.trim() == "1");
    let cgroup = ancestors(path).find(is_set).unwrap_or(path);
    Some((cgroup.to_owned(), file(cgroup, "state")))
}

/// The ids of the threads of a process, at most so many.
pub(crate) fn threads(pid: u32, most: usize) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.take(most).filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The thread of a process that has this id in the process's own pid namespace, as the program itself knows its threads.
pub(crate) fn thread_by_own_id(pid: u32, own: u32, most: usize) -> Option<u32> {
    let is_it = |tid: &u32| {
        let status = std::fs::read(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
        let status = String::from_utf8_lossy(&status);
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        ids.split_whitespace().next_back().and_then(|id| id.parse().ok()) == Some(own)
    };
    // Mostly it is in the initial one.
    if std::path::Path::new(&format!("/proc/{pid}/task/{own}")).exists() && is_it(&own) {
        return Some(own);
    }
    threads(pid, most).into_iter().find(is_it)
}

/// The process in the same pid namespace as another that has this id there: for ids that calls were given.
pub(crate) fn process_by_own_id(of: u32, own: u32) -> Option<u32> {
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let here = namespace(of)?;
    if namespace(own).is_some_and(|there| there == here)
        && namespace(std::process::id()).is_some_and(|ours| ours == here)
    {
        return Some(own);
    }
    let is_it = |pid: &u32| thread_by_own_id(*pid, own, 1) == Some(*pid) && namespace(*pid).as_ref() == Some(&here);
    children(of).into_iter().find(is_it)
}

/// The children of a process: of all of its threads, as far as the kernel tells (`CONFIG_PROC_CHILDREN`).
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for tid in threads(pid, 64) {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).unwrap_or_default();
        children.extend(text.split_whitespace().filter_map(|child| child.parse::<u32>().ok()).take(256));
    }
    children
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waits::testing::{Child, alone, eventually};

    fn of(pid: u32) -> Option<Condition> {
        condition(pid, pid).ok().map(|(_, condition)| condition)
    }

    #[test]
    fn each_level_of_a_path_is_looked_at() {
        assert_eq!(ancestors("/a/b/c").collect::<Vec<_>>(), ["/a", "/a/b", "/a/b/c"]);
        assert!(ancestors("/").next().is_none() && ancestors("").next().is_none());
    }

    #[test]
    fn stat_is_read_whatever_the_name() {
        let text = "12 (a) b (c) S 3 4 5 34816 4 4194304 0 0 0 0 1 2 3 4 20 0 1 0 777 0 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!((&*stat.comm, stat.state, stat.parent, stat.session), ("a) b (c", 'S', 3, 5));
        assert_eq!((stat.terminal, stat.group, stat.foreground_group, stat.start_ticks), (34816, 4, 4, 777));
        assert_eq!(parse_stat("12 (a) S"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn stopped_and_ended_processes_are_told_from_those_that_sleep() {
        let _alone = alone();
        let child = Child::forked(|| {});
        eventually(|| (of(child.pid()) == Some(Condition::Sleeps)).then_some(()));
        child.signal(libc::SIGSTOP);
        eventually(|| (of(child.pid()) == Some(Condition::Stopped)).then_some(()));
        child.signal(libc::SIGCONT);
        eventually(|| (of(child.pid()) == Some(Condition::Sleeps)).then_some(()));
        child.signal(libc::SIGKILL);
        eventually(|| (of(child.pid()) == Some(Condition::Zombie)).then_some(()));
    }

    #[test]
    fn one_that_is_traced_is_told_with_who_traces_it() {
        let _alone = alone();
        // SAFETY: asks to be traced by its parent.
        let child = Child::forked(|| unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGUSR1);
        });
        let traced = eventually(|| of(child.pid()).filter(|now| matches!(now, Condition::Traced { .. })));
        let Condition::Traced { by: Some(tracer) } = traced else { panic!("{traced:?}") };
        assert_eq!(tracer.pid, std::process::id());
    }

    #[test]
    fn a_frozen_cgroup_is_named() {
        let _alone = alone();
        if !rustix::process::geteuid().is_root() {
            eprintln!("not tested: it takes root");
            return;
        }
        let mounts = Mounts::get();
        for (mount, file, freeze, thaw) in
            [(&mounts.v2, "cgroup.freeze", "1", "0"), (&mounts.freezer, "freezer.state", "FROZEN", "THAWED")]
        {
            let Some(mount) = mount else { continue };
            let name = format!("/kerno-frozen-{}", std::process::id());
            let (outer, inner) = (format!("{mount}{name}"), format!("{mount}{name}/in"));
            std::fs::create_dir_all(&inner).unwrap();
            let mut child = Child::forked(|| {});
            std::fs::write(format!("{inner}/cgroup.procs"), child.pid().to_string()).unwrap();
            assert_eq!(frozen(child.pid()), None);
            std::fs::write(format!("{outer}/{file}"), freeze).unwrap();
            let found = eventually(|| of(child.pid()).filter(Condition::is_held));
            std::fs::write(format!("{outer}/{file}"), thaw).unwrap();
            eventually(|| (of(child.pid()) == Some(Condition::Sleeps)).then_some(()));
            child.kill();
            eventually(|| std::fs::remove_dir(&inner).ok());
            std::fs::remove_dir(&outer).unwrap();
            assert_eq!(found, Condition::Frozen { cgroup: name, file: format!("{outer}/{file}") });
        }
    }

    #[test]
    fn ids_of_another_namespace_lead_to_the_thread() {
        let _alone = alone();
        let me = std::process::id();
        assert_eq!(thread_by_own_id(me, me, 64), Some(me));
        assert_eq!(thread_by_own_id(me, 0, 64), None);
        let child = Child::forked(|| {});
        assert!(children(me).contains(&child.pid()));
        assert_eq!(process_by_own_id(me, child.pid()), Some(child.pid()));
    }
}
