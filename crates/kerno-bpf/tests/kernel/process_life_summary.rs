//! The summary of processes against what their parent knows of them.

use std::ffi::{CStr, CString};
use std::time::Duration;

use kerno_model::{Ending, LifeSummary, ProgramLife, WaitStatus, Window};

use crate::process_life::{crash, exec, exit, fork, wait};
use crate::support::{self, Child, Link, compare_but_for_skipped, preempts_programs, scaled, set_comm, usage};

/// What one window sees of a child's work, and what the child tells. The child lives until the window has ended.
fn seen(work: impl FnOnce(&mut Link)) -> (u32, Window, u64) {
    let mut child = Child::new(|link| {
        set_comm("kerno-starter");
        work(link);
        link.wait();
    });
    let mut observer = support::observer(&["process_life"]);
    child.go();
    let told = child.heard();
    let window = observer.finish().unwrap();
    let loss = window.cost.loss.get("process_life").copied().unwrap_or_default();
    assert!(loss.missed_runs == 0 || preempts_programs(), "{loss:?}");
    assert_eq!((loss.untracked, loss.overflow), (0, 0));
    child.go();
    assert_eq!(child.wait(), 0, "the child's work failed");
    (child.pid, window, told)
}

fn part(window: &Window) -> &LifeSummary {
    window.process_life.as_ref().unwrap()
}

fn program<'a>(window: &'a Window, starter: u32, name: &str) -> &'a ProgramLife {
    let found = part(window).programs.iter().find(|program| program.starter_pid == starter && program.program == name);
    found.unwrap_or_else(|| panic!("no {name} of {starter}: {:#?}", part(window)))
}

fn start(args: &[&CStr]) -> i32 {
    wait(fork(|| exec(args)))
}

fn children_ns() -> u64 {
    let used = usage(libc::RUSAGE_CHILDREN);
    let ns = |time: libc::timeval| (time.tv_sec * 1_000_000_000 + time.tv_usec * 1000).cast_unsigned();
    ns(used.ru_utime) + ns(used.ru_stime)
}

#[test]
fn a_program_that_fails_again_and_again_is_counted_exactly() {
    let count = scaled(13) as u64;
    let (pid, window, cpu_ns) = seen(|link| {
        for _ in 0..count {
            assert_eq!(start(&[c"/bin/sh", c"-c", c"i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; exit 3"]), 3 << 8);
        }
        // What they used is complete when the kernel frees them.
        std::thread::sleep(Duration::from_millis(1000));
        link.tell(children_ns());
    });
    let program = program(&window, pid, "sh");
    compare_but_for_skipped("process_life", "starts, summary", program.starts, count, 1, "the caller");
    compare_but_for_skipped("process_life", "ends, summary", program.ends, count, 1, "wait4");
    compare_but_for_skipped("process_life", "failures, summary", program.failed, count, 1, "wait4");
    if preempts_programs() && program.ends < count {
        return;
    }
    assert_eq!((program.again_failed, program.again_ended, program.most_running), (count - 1, 0, 1));
    assert_eq!(program.endings, [Ending::new(WaitStatus(3 << 8), count)]);
    assert_eq!((program.brief, program.killed, program.replaced, program.same_args), (count, 0, 0, count - 1));
    assert_eq!(
        (program.starter_comm.as_str(), program.file.as_str(), program.forked),
        ("kerno-starter", "/bin/sh", false)
    );
    assert_eq!(program.args[..2], ["/bin/sh", "-c"]);
    assert!(program.shortest_ns > 0 && program.shortest_ns <= program.longest_ns);
    assert!(program.shortest_ns * count <= program.lived_ns && program.lived_ns <= program.longest_ns * count);
    // The clock of getrusage is cut to microseconds, twice a child. What a process used is known when the kernel frees it, which a busy machine
    // does later.
    println!("compared: process_life | CPU time of children, summary | {} | {cpu_ns} | getrusage", program.cpu_ns);
    let freed = program.cpu_ns as f64 / cpu_ns as f64;
    assert!((0.6..1.05).contains(&freed), "{} of {cpu_ns}", program.cpu_ns);
    let starter = part(&window).starters.iter().find(|starter| starter.pid == pid).unwrap();
    assert_eq!(
        (starter.forks, starter.execs, starter.ends, starter.comm.as_str()),
        (count, count, count, "kerno-starter")
    );
    assert_eq!((starter.programs[0].program.as_str(), starter.programs[0].count), ("sh", count));
    assert_eq!(starter.cpu_ns, program.cpu_ns);
    assert!(part(&window).ends >= count && part(&window).forks >= count && part(&window).failed >= count);
}

#[test]
fn those_that_run_beside_each_other_do_not_follow_each_other() {
    let (pid, window, _) = seen(|link| {
        for _ in 0..5 {
            let children: Vec<_> = (0..4).map(|_| fork(|| exec(&[c"/bin/sh", c"-c", c"sleep 0.05; exit 1"]))).collect();
            children.into_iter().for_each(|child| assert_eq!(wait(child), 1 << 8));
        }
        link.tell(1);
    });
    if preempts_programs() {
        return;
    }
    let program = program(&window, pid, "sh");
    assert_eq!((program.starts, program.ends, program.failed), (20, 20, 20));
    assert!(program.most_running >= 2, "{program:?}");
    assert!(program.again_failed <= 4, "only the first of a round: {program:?}");
}

#[test]
fn other_arguments_are_another_start_and_an_exec_goes_on() {
    let (pid, window, _) = seen(|link| {
        for number in 0..7 {
            let script = CString::new(format!("exit {number}")).unwrap();
            start(&[c"/bin/sh", c"-c", &script]);
        }
        for _ in 0..3 {
            assert_eq!(start(&[c"/bin/sh", c"-c", c"exec /bin/false"]), 1 << 8);
        }
        for _ in 0..5 {
            assert_eq!(start(&[c"/bin/true"]), 0);
        }
        link.tell(1);
    });
    if preempts_programs() {
        return;
    }
    let sh = program(&window, pid, "sh");
    assert_eq!((sh.starts, sh.ends, sh.replaced, sh.failed), (10, 7, 3, 6));
    assert_eq!(sh.again_failed, 0, "{sh:?}");
    let codes: u64 = sh.endings.iter().map(|ending| ending.count).sum();
    assert_eq!((codes, sh.endings.len()), (6, 4), "the last has what found no room");
    let no = program(&window, pid, "false");
    assert_eq!((no.starts, no.ends, no.failed, no.again_failed), (3, 3, 3, 2));
    let yes = program(&window, pid, "true");
    assert_eq!((yes.starts, yes.ends, yes.failed, yes.again_failed, yes.again_ended), (5, 5, 0, 0, 4));
    assert!(yes.endings.is_empty());
}

#[test]
fn workers_that_crash_are_told_and_parts_of_scripts_are_not() {
    let (pid, window, status) = seen(|link| {
        let mut status = 0;
        for _ in 0..7 {
            status = wait(fork(|| {
                set_comm("kerno-worker");
                crash();
            }));
            assert_eq!(wait(fork(|| exit(0))), 0);
        }
        link.tell(u64::from(status.cast_unsigned()));
    });
    if preempts_programs() {
        return;
    }
    let worker = program(&window, pid, "kerno-worker");
    assert_eq!((worker.ends, worker.killed, worker.failed, worker.forked), (7, 7, 0, true));
    assert_eq!(worker.endings, [Ending::new(WaitStatus(status as u32), 7)]);
    assert!(worker.file.is_empty() && worker.args.is_empty());
    assert!(part(&window).programs.iter().filter(|program| program.starter_pid == pid).count() == 1);
    assert!(part(&window).ends_not_told >= 7);
}

#[test]
fn who_adopts_an_orphan_has_not_started_it() {
    let (pid, window, _) = seen(|link| {
        // SAFETY: this process adopts the orphans of its descendants.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }, 0);
        for _ in 0..7 {
            assert_eq!(
                wait(fork(|| {
                    fork(|| {
                        std::thread::sleep(Duration::from_millis(20));
                        exec(&[c"/bin/false"]);
                    });
                    exit(0);
                })),
                0
            );
            assert_eq!(wait(orphan()), 1 << 8);
        }
        link.tell(1);
    });
    let its = part(&window).programs.iter().filter(|program| program.program == "false");
    assert!(its.clone().all(|program| program.starter_pid != pid && program.again_failed == 0), "{:#?}", part(&window));
    assert!(its.map(|program| program.ends).sum::<u64>() >= if preempts_programs() { 0 } else { 7 });
}

/// The child that this process has now.
fn orphan() -> i32 {
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_script_is_the_starter_of_all_that_it_is_made_of() {
    let (pid, window, _) = seen(|link| {
        // It has lived for a while; the shells below it have not.
        std::thread::sleep(Duration::from_millis(1200));
        for _ in 0..5 {
            assert_eq!(start(&[c"/bin/sh", c"-c", c"for i in 1 2 3; do /bin/true; (/bin/true); done; exit 0"]), 0);
        }
        link.tell(1);
    });
    if preempts_programs() {
        return;
    }
    let starter = part(&window).starters.iter().find(|starter| starter.pid == pid).unwrap();
    assert_eq!((starter.execs, starter.comm.as_str()), (5 + 30, "kerno-starter"));
    assert_eq!(starter.ends, starter.forks);
    assert_eq!(starter.programs.iter().map(|started| started.count).sum::<u64>(), 35);
}

#[test]
fn children_that_nobody_waits_for_are_told_by_parent() {
    let (pid, window, _) = seen(|link| {
        (0..37).for_each(|_| {
            fork(|| exit(0));
        });
        std::thread::sleep(Duration::from_millis(100));
        link.tell(1);
    });
    // Younger than a second.
    assert!(part(&window).zombies.iter().all(|parent| parent.pid != pid));
}

#[test]
fn zombies_are_told_once_they_have_been_there_for_a_second() {
    let mut child = Child::new(|link| {
        set_comm("kerno-careless");
        let children: Vec<_> = (0..37).map(|_| fork(|| exit(0))).collect();
        link.tell(1);
        link.wait();
        children.into_iter().for_each(|child| assert_eq!(wait(child), 0));
        link.tell(1);
        link.wait();
    });
    let mut observer = support::observer(&["process_life"]);
    child.go();
    child.heard();
    for _ in 0..7 {
        std::thread::sleep(Duration::from_millis(250));
        observer.sample().unwrap();
    }
    let window = observer.finish().unwrap();
    let parent = part(&window).zombies.iter().find(|parent| parent.pid == child.pid).unwrap();
    assert_eq!((parent.zombies, parent.at_begin, parent.comm.as_str()), (37, 0, "kerno-careless"));
    assert_eq!((parent.of.as_str(), parent.namespace_init), ("kerno-careless", false));
    assert!(parent.oldest_ns >= 1_000_000_000);
    let again = observer.finish().unwrap();
    let parent = part(&again).zombies.iter().find(|parent| parent.pid == child.pid).unwrap();
    assert_eq!((parent.zombies, parent.at_begin), (37, 37));
    child.go();
    child.heard();
    let after = observer.finish().unwrap();
    assert!(part(&after).zombies.iter().all(|parent| parent.pid != child.pid), "they were waited for");
    child.go();
    assert_eq!(child.wait(), 0);
}

beside_all! {
    a_program_that_fails_again_and_again_is_counted_exactly
    other_arguments_are_another_start_and_an_exec_goes_on
    workers_that_crash_are_told_and_parts_of_scripts_are_not
}
