//! Memory as the summary has it. Every kill happens in a small cgroup of the test's own.

use std::io::Write as _;
use std::time::Duration;

use crate::cgroups::Cgroup;
use crate::fd_summary::{findings, watch};
use crate::oom_track::{run_out, use_memory};
use crate::support::{Child, observer, set_comm};
use kerno_model::KillScope;

const MIB: usize = 1 << 20;

fn name_of(group: &Cgroup) -> String {
    group.path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn kills_are_counted_with_victim_and_cgroup() {
    let group = Cgroup::with_memory(24 << 20, "oom");
    let name = name_of(&group);
    let mut child = Child::new(|_| {
        set_comm("kerno-doomed");
        run_out();
    });
    group.add(child.pid);
    let mut observer = observer(&["oom_track"]);
    child.go();
    assert!(libc::WIFSIGNALED(child.wait()));
    observer.sample().unwrap();
    let signals = observer.finish().unwrap();
    let part = signals.oom_track.as_ref().unwrap();
    let kills: Vec<_> = part.kills.iter().filter(|kill| kill.pid == child.pid).collect();
    let [kill] = kills[..] else { panic!("{} kills", kills.len()) };
    assert_eq!((&*kill.comm, kill.scope), ("kerno-doomed", KillScope::Cgroup));
    assert!(kill.cgroup.as_ref().unwrap().ends_with(&name), "{kill:?}");
    assert!(kill.rss_bytes > 16 << 20 && kill.largest[0].pid == child.pid, "{kill:?}");
    assert!(part.kills_total >= 1);
    let cgroup = part.cgroups.iter().find(|cgroup| cgroup.path.ends_with(&name)).expect("the cgroup is told of");
    assert_eq!((cgroup.limit_bytes, cgroup.oom_kills), (24 << 20, 1));
    assert!(cgroup.limit_hits > 0);
    let found = findings(&signals, "oom_kill");
    let finding = found.iter().find(|finding| finding.culprit.pid == Some(child.pid)).expect("it is found");
    assert!(finding.title.contains("used up the memory of cgroup") && finding.title.contains("(24 MiB)") && finding.title.contains(&name), "{finding:#?}");
    assert_eq!(finding.victims[0].pid, Some(child.pid));
    // And it is gone in the next window.
    let next = observer.finish().unwrap();
    assert!(next.oom_track.unwrap().kills.iter().all(|kill| kill.pid != child.pid));
}

#[test]
fn a_cgroup_that_is_removed_after_the_kill_keeps_its_name() {
    let mut observer = observer(&["oom_track"]);
    // Made after the window began and gone before the next sample: only the kernel side saw it.
    let group = Cgroup::with_memory(24 << 20, "oom");
    let name = name_of(&group);
    let mut child = Child::new(|_| run_out());
    group.add(child.pid);
    child.go();
    assert!(libc::WIFSIGNALED(child.wait()));
    drop(group);
    let signals = observer.finish().unwrap();
    let part = signals.oom_track.as_ref().unwrap();
    let kill = part.kills.iter().find(|kill| kill.pid == child.pid).expect("the kill is told of");
    assert!(kill.cgroup.as_ref().unwrap().ends_with(&name), "{kill:?}");
    assert!(findings(&signals, "oom_kill").iter().any(|finding| finding.title.contains(&name)));
}

#[test]
fn the_user_of_the_memory_is_told_from_the_victim() {
    let group = Cgroup::with_memory(48 << 20, "oom");
    let mut large = Child::new(|link| {
        set_comm("kerno-hog");
        std::fs::write("/proc/self/oom_score_adj", "0").unwrap();
        use_memory(30 * MIB, libc::MAP_PRIVATE);
        link.tell(0);
        std::thread::sleep(Duration::from_secs(60));
    });
    let mut small = Child::new(|_| {
        set_comm("kerno-victim");
        std::fs::write("/proc/self/oom_score_adj", "1000").unwrap();
        use_memory(30 * MIB, libc::MAP_PRIVATE);
    });
    group.add(large.pid);
    group.add(small.pid);
    large.go();
    large.heard();
    let mut observer = observer(&["oom_track"]);
    small.go();
    assert!(libc::WIFSIGNALED(small.wait()));
    let signals = observer.finish().unwrap();
    let found = findings(&signals, "oom_kill");
    let of_group = |finding: &&kerno_doctor::report::Diagnosis| finding.title.contains(&name_of(&group));
    let finding = found.iter().find(of_group).expect("it is found");
    assert_eq!(finding.culprit.pid, Some(large.pid), "{}", finding.title);
    assert_eq!(finding.victims[0].pid, Some(small.pid));
}

#[test]
fn growth_towards_a_cgroups_limit_is_found_and_page_cache_is_not() {
    let growing = Cgroup::with_memory(600 << 20, "grow");
    let mut leak = Child::new(|_| {
        set_comm("kerno-grow");
        loop {
            use_memory(MIB, libc::MAP_PRIVATE);
            std::thread::sleep(Duration::from_millis(25));
        }
    });
    growing.add(leak.pid);
    let caching = Cgroup::with_memory(24 << 20, "cache");
    let mut cache = Child::new(|link| {
        let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
        for _ in 0..64 {
            file.write_all(&[1; MIB]).unwrap();
            file.sync_data().unwrap();
        }
        link.tell(0);
        link.wait();
    });
    caching.add(cache.pid);
    cache.go();
    cache.heard();
    let mut observer = observer(&["oom_track"]);
    leak.go();
    watch(&mut observer, Duration::from_millis(3500));
    let signals = observer.finish().unwrap();
    let found = findings(&signals, "oom_imminent");
    let part = signals.oom_track.as_ref().unwrap();
    let of = |group: &Cgroup| {
        let name = name_of(group);
        let cgroup = part.cgroups.iter().find(|cgroup| cgroup.path.ends_with(&name));
        (found.iter().find(|finding| finding.title.contains(&name)), cgroup)
    };
    let (finding, cgroup) = of(&growing);
    let finding = finding.unwrap_or_else(|| panic!("not found: {cgroup:#?}"));
    assert_eq!(finding.culprit.pid, Some(leak.pid), "{}", finding.title);
    // No faster than a mebibyte each 25 ms.
    let eta = finding.eta.as_ref().unwrap();
    let left = 600.0 - cgroup.unwrap().used_bytes.last().unwrap() / MIB as f64;
    assert!(eta.seconds >= left / 45.0 && eta.fit >= 0.9, "{eta:?}, {left} MiB left");
    assert!(cgroup.unwrap().largest[0].pid == leak.pid);
    let (finding, cgroup) = of(&caching);
    assert!(finding.is_none(), "{finding:#?} {cgroup:#?}");
    let usage = |file: &str| std::fs::read_to_string(caching.path.join(file)).ok()?.trim().parse::<f64>().ok();
    let usage = usage("memory.usage_in_bytes").or_else(|| usage("memory.current")).unwrap();
    assert!(usage > 20e6 && cgroup.unwrap().used_bytes.last().unwrap() < 8e6, "{usage} {cgroup:#?}");
    cache.go();
    assert_eq!(cache.wait(), 0);
}

#[test]
fn the_machines_memory_is_that_of_procfs() {
    let mut observer = observer(&["oom_track"]);
    watch(&mut observer, Duration::from_millis(300));
    let signals = observer.finish().unwrap();
    let part = signals.oom_track.as_ref().unwrap();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kib = |name: &str| -> u64 {
        let line = meminfo.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert_eq!((part.total_bytes, part.swap_total_bytes), (kib("MemTotal:") * 1024, kib("SwapTotal:") * 1024));
    assert!(part.available_bytes.points().len() >= 3);
    assert!(part.available_bytes.max().unwrap() <= part.total_bytes as f64);
    assert!(observer.pulse().iter().any(|(signal, words)| *signal == "oom" && words.ends_with("iB available")));
}
