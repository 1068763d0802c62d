//! No memory: for others, who are killed, and for ourselves, who say so.

use std::os::unix::process::CommandExt as _;

use kerno::model::KillScope;
use kerno::{OomScope, OomTrackLoader, Options};

use super::findings;
use crate::cgroups::Cgroup;
use crate::command::{kerno, run, text};
use crate::guest::watched;
use crate::support::{Child, Run, set_comm};
use crate::truth::{observer, traces_exactly};

#[test]
fn a_kill_for_the_whole_machine_is_told_as_one() {
    watched(|| {
        let mut child = Child::new(|_| {
            set_comm("kerno-glutton");
            std::fs::write("/proc/self/oom_score_adj", "1000").unwrap();
            let mut kept = Vec::new();
            loop {
                kept.push(vec![1u8; 1 << 20]);
            }
        });
        let mut observer = observer(&["oom_track"]);
        let run = Run::start(OomTrackLoader::new(Options::default()));
        child.go();
        assert!(libc::WIFSIGNALED(child.wait()));
        let events = run.finish();
        let [raw] = &events[..] else { panic!("{} events", events.len()) };
        let event = raw.as_raw().decode_as::<kerno::OomEvent>().unwrap();
        assert_eq!((event.pid, &*event.comm(), event.scope), (child.pid, "kerno-glutton", OomScope::Global));
        let meminfo = crate::guest::read("/proc/meminfo");
        let total_bytes = meminfo.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024;
        assert!(event.rss_bytes() > total_bytes / 3 && event.rss_bytes() < total_bytes, "{event}");
        let signals = observer.finish().unwrap();
        let kills = &signals.oom_track.as_ref().unwrap().kills;
        assert_eq!(
            kills.iter().map(|kill| (kill.pid, kill.scope)).collect::<Vec<_>>(),
            [(child.pid, KillScope::Global)]
        );
        let findings = findings(&signals);
        let finding = findings.iter().find(|finding| finding.id == "oom_kill").expect("it is found");
        assert!(finding.title.contains("kerno-glutton"), "{}", finding.title);
        assert_eq!(finding.victims[0].pid, Some(child.pid));
    });
}

/// The one line of what is refused for want of memory.
fn refused(command: &mut std::process::Command) {
    let output = run(command);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{:?}: {stderr}", output.status);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for word in ["map events of syscall_latency", "Cannot allocate memory", "cgroup", "--ring-size"] {
        assert!(stderr.contains(word), "no {word:?} in {stderr}");
    }
}

#[test]
fn rings_larger_than_the_machine_are_refused_with_the_reason() {
    watched(|| {
        refused(&mut kerno(&["trace", "syscall", "--ring-size", "1G", "--duration", "1s"]));
        traces_exactly(kerno);
    });
}

#[test]
fn so_are_rings_larger_than_a_cgroup() {
    watched(|| {
        let group = Cgroup::with_memory(192 << 20, "small");
        let procs = group.path.join("cgroup.procs");
        let mut command = kerno(&["trace", "syscall", "--ring-size", "256M", "--duration", "1s"]);
        // SAFETY: one process with one thread after the fork; allocating is fine with glibc.
        unsafe { command.pre_exec(move || std::fs::write(&procs, "0")) };
        refused(&mut command);
    });
}
