use super::*;
use crate::rules::testing::words_hold;
use crate::{Thresholds, words};
use kerno_model::{CgroupThrottle, CpuHolder, CpuStat, Histogram, Process, Safety, Series, TaskUse};

const MS: u64 = 1_000_000;

fn waits(count: u32, ns: u64) -> Histogram {
    let mut waits = Histogram::new();
    (0..count).for_each(|_| waits.record(ns));
    waits
}

/// A window of five seconds on two CPUs, with this many runnable tasks.
fn machine(runnable: f64, stalled: f64) -> Window {
    let mut window = Window::default();
    window.span.seconds = 5.0;
    window.sched_delay = Some(SchedSummary {
        cpus: (0..2).map(|cpu| CpuStat { cpu, busy: 1.0, ..CpuStat::default() }).collect(),
        runnable: (0..25).map(|i| (f64::from(i) * 0.2, runnable)).collect::<Series>(),
        some_stalled: Some(stalled),
        preempted_ns: waits(500, 20 * MS),
        ..SchedSummary::default()
    });
    window
}

fn sched(window: &mut Window) -> &mut SchedSummary {
    window.sched_delay.as_mut().unwrap()
}

/// Adds processes with one name and ids from `pid` on, which together ran and waited this long.
fn group(window: &mut Window, comm: &str, pid: u32, processes: u32, run_ms: u64, wait_ms: u64) {
    let pids: Vec<_> = (pid..pid + processes).collect();
    for pid in &pids {
        let used = TaskUse {
            run_ns: run_ms * MS / u64::from(processes),
            wait_ns: wait_ms * MS / u64::from(processes),
            ..TaskUse::default()
        };
        window.processes.insert(*pid, Process { pid: *pid, comm: comm.into(), used, ..Process::default() });
    }
    let (run_ns, wait_ns) = (run_ms * MS, wait_ms * MS);
    let pids = pids.into_iter().take(8).collect();
    let group =
        CpuGroup { comm: comm.into(), processes, threads: processes, run_ns, wait_ns, pids, ..CpuGroup::default() };
    sched(window).groups.push(group);
}

/// Adds a process that waited this often and this long for another one.
fn waiter(window: &mut Window, (pid, comm): (u32, &str), slow: u64, total_ms: u64, behind: (u32, &str)) {
    let waiter = SchedWaiter {
        pid,
        comm: comm.into(),
        slow,
        slow_ns: 5 * MS,
        slow_total_ns: total_ms * MS,
        max_ns: total_ms * MS * 2 / slow,
        first_ns: 0,
        held_by: vec![CpuHolder { pid: behind.0, comm: behind.1.into(), waits: slow }],
    };
    sched(window).waiters.push(waiter);
}

/// A cgroup that was throttled for much of the time.
fn capped() -> CgroupThrottle {
    CgroupThrottle { path: "/pods/a".into(), throttled_ns: 2_000 * MS, ..CgroupThrottle::default() }
}

fn found(window: &Window) -> Vec<Finding> {
    judge(window, &SchedulerContention::with(&Thresholds::default()))
}

#[test]
fn a_herd_of_hogs_is_found_without_another_victim() {
    let mut window = machine(16.0, 0.99);
    group(&mut window, "python3", 100, 16, 9_900, 70_000);
    group(&mut window, "sshd", 50, 1, 20, 100);
    let findings = found(&window);
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!(words(finding).title, "python3 (16 processes) overloads the CPUs: 16 runnable tasks on 2 CPUs");
    assert_eq!((finding.severity, finding.pid(), finding.since), (Severity::Warning, Some(100), None));
    assert!((finding.excess - 2.0).abs() < 1e-9);
    let change = finding.fixes.iter().find(|fix| fix.effect == Safety::Changing).unwrap();
    assert_eq!(change.command, "renice -n 19 -p 100 101 102 103 104 105 106 107");
}

#[test]
fn full_cpus_are_no_contention() {
    let mut batch = machine(2.0, 0.05);
    group(&mut batch, "gzip", 100, 2, 9_900, 60);
    assert!(found(&batch).is_empty());
    // A build with as many jobs as CPUs next to another program, with some waits after wake-ups.
    let mut build = machine(4.4, 0.89);
    group(&mut build, "rustc", 100, 27, 7_400, 7_800);
    waiter(&mut build, (110, "rustc"), 15, 105, (111, "rustc"));
    assert!(found(&build).is_empty());
    // A short burst.
    let mut burst = machine(2.0, 0.6);
    sched(&mut burst).runnable = (0..25).map(|i| (f64::from(i) * 0.2, if i < 15 { 20.0 } else { 2.0 })).collect();
    group(&mut burst, "make", 100, 20, 6_000, 50_000);
    assert!(found(&burst).is_empty());
    // A server with many clients, each of which needs a CPU for a moment.
    let mut server = machine(16.0, 0.99);
    group(&mut server, "postgres", 100, 20, 8_000, 60_000);
    sched(&mut server).preempted_ns = waits(400, 5 * MS);
    sched(&mut server).wakeup_ns = waits(100_000, MS / 2);
    assert!(found(&server).is_empty());
    // Many tasks are runnable at every sample, but hardly any waits.
    let mut samples = machine(8.0, 0.3);
    group(&mut samples, "worker", 100, 8, 5_000, 3_000);
    assert!(found(&samples).is_empty());
}

#[test]
fn the_hog_and_not_the_one_it_keeps_waiting_is_the_culprit() {
    let mut window = machine(3.0, 0.8);
    group(&mut window, "spinner", 100, 1, 4_700, 0);
    group(&mut window, "kworker/0:1", 9, 1, 10, 100);
    group(&mut window, "web", 200, 1, 300, 4_000);
    sched(&mut window).groups[0].realtime = true;
    waiter(&mut window, (200, "web"), 50, 3_500, (100, "spinner"));
    sched(&mut window).waiters[0].held_by.push(CpuHolder { pid: 9, comm: "kworker/0:1".into(), waits: 80 });
    let findings = found(&window);
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!(words(finding).title, "spinner (100) keeps web (200) off the CPU: it waited 70 % of the time");
    assert_eq!((finding.severity, finding.pid()), (Severity::Critical, Some(100)));
    assert_eq!(finding.victims.iter().map(Subject::pid).collect::<Vec<_>>(), [Some(200)]);
    assert!(
        words(finding).cause.contains("real-time")
            && finding.fixes.iter().any(|fix| fix.command.starts_with("chrt --other"))
    );
}

#[test]
fn some_waits_are_somebody_elses_fault() {
    let victim = |change: fn(&mut Window)| {
        let mut window = machine(3.0, 0.8);
        group(&mut window, "spinner", 100, 1, 4_700, 0);
        group(&mut window, "web", 200, 1, 300, 4_000);
        waiter(&mut window, (200, "web"), 50, 3_500, (100, "spinner"));
        change(&mut window);
        found(&window).len()
    };
    assert_eq!(victim(|_| {}), 1);
    assert_eq!(
        victim(|s| sched(s).waiters[0].held_by = vec![CpuHolder { pid: 0, comm: "idle".into(), waits: 40 }]),
        0,
        "nobody held the CPU"
    );
    assert_eq!(victim(|s| sched(s).waiters[0].slow = 600), 0, "each wait is short");
    assert_eq!(victim(|s| sched(s).waiters[0].slow_total_ns = 900 * MS), 0, "not much of the window");
    assert_eq!(victim(|s| s.processes.get_mut(&200).unwrap().kernel_thread = true), 0);
    assert_eq!(
        victim(|s| s.processes.get_mut(&200).unwrap().used.run_ns = 5_000 * MS),
        0,
        "it runs more than it waits"
    );
    let quota = |s: &mut Window| sched(s).throttled.push(CgroupThrottle { pids: vec![200], ..capped() });
    assert_eq!(victim(quota), 0, "its quota keeps it waiting");
    let one_of_many = |s: &mut Window| {
        sched(s).throttled.push(capped());
        s.processes.get_mut(&200).unwrap().cgroup = Some("/pods/a/web".into());
    };
    assert_eq!(victim(one_of_many), 0, "so does that of a cgroup above, which lists its busiest processes only");
    let a_moment =
        |s: &mut Window| sched(s).throttled.push(CgroupThrottle { pids: vec![200], throttled_ns: 50 * MS, ..capped() });
    assert_eq!(victim(a_moment), 1, "held back for a moment");
}

#[test]
fn a_realtime_hog_is_behind_it_also_in_a_crowd() {
    let mut window = machine(9.0, 0.99);
    group(&mut window, "qemu", 300, 1, 2_000, 9_000);
    group(&mut window, "spinner", 100, 1, 3_800, 200);
    group(&mut window, "capped", 400, 2, 800, 9_000);
    group(&mut window, "web", 200, 1, 16, 3_800);
    sched(&mut window).throttled.push(CgroupThrottle { pids: vec![400], ..capped() });
    waiter(&mut window, (200, "web"), 3, 1_900, (300, "qemu"));
    assert_eq!(found(&window)[0].pid(), Some(300), "the quota's waits are none of the CPU's");
    sched(&mut window).groups[1].realtime = true;
    let findings = found(&window);
    assert_eq!(words(&findings[0]).title, "spinner (100) keeps web (200) off the CPU: it waited 38 % of the time");
    assert_eq!((findings[0].severity, findings[0].pid()), (Severity::Critical, Some(100)));
}

#[test]
fn words_are_made_of_the_finding_alone() {
    let mut crowd = machine(16.0, 0.99);
    group(&mut crowd, "python3", 100, 16, 9_900, 70_000);
    words_hold(&found(&crowd)[0]);
    let mut one = machine(12.0, 0.99);
    group(&mut one, "jvm", 100, 1, 9_900, 70_000);
    sched(&mut one).groups[0].threads = 40;
    sched(&mut one).groups[0].nice = -5;
    words_hold(&found(&one)[0]);
    let told = words(&found(&one)[0]);
    assert_eq!(
        told.cause,
        "jvm (100) makes up 100 % of the demand for CPU time. It has 40 threads for 2 CPUs. It runs at high priority (nice -5)."
    );
    let mut starved = machine(3.0, 0.8);
    group(&mut starved, "spinner", 100, 1, 4_700, 0);
    group(&mut starved, "web", 200, 1, 300, 4_000);
    waiter(&mut starved, (200, "web"), 50, 3_500, (100, "spinner"));
    let finding = &found(&starved)[0];
    words_hold(finding);
    // A victim of a consequence is not one of its own.
    let mut joined = finding.clone();
    joined.victims.insert(0, Subject::process(&starved, 300, "other"));
    assert_eq!(words(&joined), words(finding));
}

#[test]
fn a_crowd_and_a_starved_process_are_told_apart() {
    let mut window = machine(9.0, 0.99);
    group(&mut window, "spinner", 100, 1, 3_800, 200);
    group(&mut window, "web", 200, 1, 16, 3_800);
    waiter(&mut window, (200, "web"), 3, 1_900, (100, "spinner"));
    let variant = |window: &Window| found(window)[0].variant.clone();
    assert_eq!(variant(&window), "overload");
    sched(&mut window).groups[0].realtime = true;
    assert_eq!(variant(&window), "starvation", "in a crowd too");
    sched(&mut window).runnable = [(0.0, 3.0)].into_iter().collect();
    assert_eq!(variant(&window), "starvation");
}

#[test]
fn the_oldest_of_the_busiest_stands_for_all() {
    let mut window = Window::default();
    for (pid, run_ns, started_ns) in [(10, 100, 1_000), (11, 950, 2_000), (12, 1_000, 3_000), (13, 1_000, 2_000)] {
        let used = TaskUse { run_ns, ..TaskUse::default() };
        window.processes.insert(pid, Process { pid, started_ns, used, ..Process::default() });
    }
    assert_eq!(representative(&window, &[12, 13, 11, 10]), Some(11));
    assert_eq!(representative(&window, &[13, 11, 12, 10]), Some(11), "whichever is the busiest");
    assert_eq!(representative(&window, &[12, 10]), Some(12), "the other one is idle");
    assert_eq!(representative(&window, &[7]), Some(7), "nothing is known of it");
    assert_eq!(representative(&window, &[]), None);
}
