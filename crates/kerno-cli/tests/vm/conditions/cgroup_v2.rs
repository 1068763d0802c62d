//! All controllers in the v2 hierarchy. And what is asked of every arrangement.

use std::time::Duration;

use crate::cgroups::{Cgroup, v2_mount};
use crate::guest::watched;
use crate::support::{Child, Run, options};
use crate::truth::{observer, rare};

#[test]
fn what_happens_in_a_cgroup_is_told_with_its_name() {
    what_happens_is_told_with_the_cgroups_name();
}

/// By filters too, where there is a v2 hierarchy, which they need.
pub fn what_happens_is_told_with_the_cgroups_name() {
    watched(|| {
        if crate::guest::read("/proc/self/mounts").contains(" cgroup2 ") {
            filters_by_cgroup();
        }
        held_back_is_attributed();
        killed_is_attributed();
    });
}

fn name_of(group: &Cgroup) -> &str {
    group.path.file_name().unwrap().to_str().unwrap()
}

/// Only what a cgroup's process does is told by a trace of that cgroup.
fn filters_by_cgroup() {
    let group = Cgroup::new(&v2_mount(), "filter");
    let child = || Child::new(|_| (0..211).for_each(|_| rare()));
    let (mut inside, mut outside) = (child(), child());
    group.add(inside.pid);
    let filter = kerno::Filter {
        cgroups: vec![group.path.clone()],
        syscalls: vec!["get_mempolicy".into()],
        ..kerno::Filter::default()
    };
    let run = Run::start(kerno::SyscallLatencyLoader::new(options(filter)));
    inside.run();
    outside.run();
    let events = run.finish();
    assert_eq!(events.len(), 211);
    assert!(events.iter().all(|raw| raw.as_raw().decode().unwrap().pid() == inside.pid));
}

/// A cgroup that uses up its CPU quota is found, by its name.
fn held_back_is_attributed() {
    let group = Cgroup::with_cpu_quota(10_000, 100_000, "quota");
    let mut child = Child::new(|link| {
        link.tell(0);
        loop {
            std::hint::black_box(0);
        }
    });
    group.add(child.pid);
    let mut observer = observer(&["sched_delay"]);
    child.go();
    child.heard();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(500));
        observer.sample().unwrap();
    }
    let signals = observer.finish().unwrap();
    let process = &signals.processes[&child.pid];
    assert!(process.cgroup.as_ref().is_some_and(|path| path.ends_with(name_of(&group))), "{process:?}");
    let findings = kerno::doctor::judge(&signals, &kerno::doctor::Thresholds::default());
    let named = findings.iter().any(|finding| finding.title.contains(name_of(&group)));
    let titles: Vec<_> = findings.iter().map(|finding| &finding.title).collect();
    assert!(named, "no {} in {titles:#?}", name_of(&group));
}

/// A kill in a cgroup is told with the cgroup's name and limit. Kernels without `CONFIG_MEMCG_V1` have no memory controller in v1: there
/// nobody is killed by one.
fn killed_is_attributed() {
    const LIMIT: u64 = 24 << 20;
    let mounts = crate::guest::read("/proc/self/mounts");
    let v1 = mounts.contains(" cgroup rw");
    if v1 && !mounts.contains(" /sys/fs/cgroup/memory cgroup ") {
        assert!(std::fs::read_dir("/sys/fs/cgroup/memory").unwrap().next().is_none());
        return;
    }
    let group = Cgroup::with_memory(LIMIT, "oom");
    let mut child = Child::new(|_| {
        let mut kept = Vec::new();
        loop {
            kept.push(vec![1u8; 1 << 20]);
        }
    });
    group.add(child.pid);
    let mut observer = observer(&["oom_track"]);
    child.go();
    assert!(libc::WIFSIGNALED(child.wait()));
    let signals = observer.finish().unwrap();
    let summary = signals.oom_track.as_ref().unwrap();
    let kill = summary.kills.iter().find(|kill| kill.pid == child.pid).expect("the kill is told of");
    assert_eq!(kill.scope, kerno::model::KillScope::Cgroup);
    assert!(kill.cgroup.as_ref().is_some_and(|path| path.ends_with(name_of(&group))), "{kill:?}");
    let cgroup = summary.cgroups.iter().find(|cgroup| cgroup.path.ends_with(name_of(&group)));
    assert_eq!(cgroup.map(|cgroup| cgroup.limit_bytes), Some(LIMIT), "{:?}", summary.cgroups);
}
