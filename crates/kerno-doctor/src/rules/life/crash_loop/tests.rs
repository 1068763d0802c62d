use kerno_model::{Process, fill};

use super::*;
use crate::Thresholds;
use crate::causes::{Tie, Ties};
use crate::rules::testing::words_hold;

/// A program that ended so often so, each time after the one before had failed.
fn program(starter: &str, name: &str, status: u32, count: u64) -> ProgramLife {
    let status = WaitStatus(status);
    ProgramLife {
        program: name.into(),
        file: format!("/usr/bin/{name}"),
        args: vec![name.into()],
        starter_pid: 12,
        starter_comm: starter.into(),
        starts: count,
        ends: count,
        failed: if status.code().is_some_and(|code| code != 0) { count } else { 0 },
        killed: if status.signal().is_some() { count } else { 0 },
        core_dumps: if status.dumped() { count } else { 0 },
        brief: count,
        again_failed: if status.is_success() { 0 } else { count - 1 },
        again_ended: if status.is_success() { count - 1 } else { 0 },
        same_args: count - 1,
        endings: if status.is_success() { Vec::new() } else { vec![Ending::new(status, count)] },
        shortest_ns: 9_000_000,
        longest_ns: 12_000_000,
        most_running: 1,
        last_pid: 99,
        last_ending: status,
        ..ProgramLife::default()
    }
}

fn found(programs: Vec<ProgramLife>) -> Vec<Finding> {
    let part = LifeSummary { programs, ..LifeSummary::default() };
    let mut window = fill!(Window { process_life: Some(part) });
    window.span.seconds = 5.0;
    let findings = judge(&window, &CrashLoop::with(&Thresholds::default()));
    findings.iter().for_each(words_hold);
    findings
}

fn title(findings: &[Finding]) -> String {
    let [finding] = findings else { panic!("one finding: {findings:#?}") };
    crate::words(finding).title
}

#[test]
fn a_program_that_fails_again_and_again_is_told_with_who_starts_it() {
    let findings = found(vec![program("runsv", "app", 1 << 8, 5)]);
    assert_eq!(title(&findings), "app, which runsv (12) starts, fails again and again: 5 times, exit code 1");
    assert_eq!((findings[0].pid(), findings[0].victims[0].pid()), (Some(12), Some(99)));
    assert!(crate::words(&findings[0]).cause.contains("It lived for 12 ms each time."));
    let findings = found(vec![program("sh", "app", 0x8b, 12)]);
    assert_eq!(title(&findings), "app, which sh (12) starts, dumps core again and again: 12 times, SIGSEGV");
    assert_eq!(findings[0].severity, Severity::Critical);
    let findings = found(vec![program("sh", "app", 6, 3)]);
    assert_eq!(title(&findings), "app, which sh (12) starts, crashes again and again: 3 times, SIGABRT");
    let oom = ProgramLife { oom_killed: 4, ..program("python3", "app", 9, 4) };
    assert_eq!(
        title(&found(vec![oom])),
        "app, which python3 (12) starts, is killed for want of memory again and again: 4 times"
    );
}

#[test]
fn a_unit_is_named() {
    let of_unit = ProgramLife { unit: "app.service".into(), starter_pid: 1, ..program("systemd", "app", 1 << 8, 5) };
    let findings = found(vec![of_unit]);
    assert_eq!(title(&findings), "app of app.service fails again and again: 5 times, exit code 1");
    assert!(findings[0].fixes.iter().any(|fix| fix.command == "systemctl status app.service"));
    let two = |unit: &str| ProgramLife { unit: unit.into(), starter_pid: 1, ..program("systemd", "app", 1 << 8, 5) };
    let findings = found(vec![two("a.service"), two("b.service")]);
    assert_eq!(findings.len(), 2, "two services");
    assert_ne!(findings[0].fingerprint(), findings[1].fingerprint());
}

#[test]
fn it_is_the_same_incident_in_the_next_window() {
    let first = found(vec![program("runsv", "app", 1 << 8, 5)]);
    let next = found(vec![ProgramLife { last_pid: 204, ..program("runsv", "app", 1 << 8, 6) }]);
    assert_eq!(first[0].fingerprint(), next[0].fingerprint());
    // One starter, one finding: the worst.
    assert_eq!(found(vec![program("make", "a", 11, 5), program("make", "b", 11, 7)]).len(), 1);
}

#[test]
fn what_ends_well_is_in_a_loop_only_under_a_supervisor() {
    assert_eq!(
        title(&found(vec![program("runsv", "app", 0, 5)])),
        "app, which runsv (12) starts, ends at once and is started again: 5 times"
    );
    assert!(found(vec![program("sh", "date", 0, 5)]).is_empty());
    let lives = ProgramLife { brief: 4, ..program("runsv", "app", 0, 5) };
    assert!(found(vec![lives]).is_empty());
    let connection = |unit: &str| ProgramLife { starter_pid: 1, unit: unit.into(), ..program("systemd", "sshd", 0, 5) };
    assert!(found(vec![connection("ssh@7.service")]).is_empty());
    assert_eq!(found(vec![connection("app.service")]).len(), 1);
}

#[test]
fn what_is_no_failure_is_none() {
    let silent = |program: ProgramLife| assert!(found(vec![program.clone()]).is_empty(), "{program:?}");
    for signal in [1, 2, 9, 13, 15] {
        silent(program("runsv", "app", signal, 9));
        silent(program("runsv", "app", (128 + signal) << 8, 9));
    }
    silent(program("sh", "grep", 1 << 8, 9));
    silent(program("sh", "dd", 1 << 8, 9));
    silent(program("sh", "pg_isready", 2 << 8, 9));
    silent(program("watch", "app", 1 << 8, 9));
    silent(program("sh", "bash", 1 << 8, 9));
    silent(ProgramLife {
        args: ["bash", "-c", "test -e x"].map(str::to_owned).into(),
        ..program("sh", "bash", 1 << 8, 9)
    });
    // Beside each other, as make -j and xargs -P start them.
    silent(ProgramLife { most_running: 4, ..program("make", "app", 1 << 8, 9) });
    // Other arguments each time, as a build has.
    silent(ProgramLife { again_failed: 0, ..program("make", "cc1", 1 << 8, 9) });
    // Some succeed.
    silent(ProgramLife { ends: 20, starts: 20, ..program("sh", "app", 1 << 8, 9) });
    // Too few, and nobody knows who started it.
    silent(program("runsv", "app", 1 << 8, 2));
    silent(ProgramLife { starter_pid: 0, ..program("runsv", "app", 1 << 8, 9) });
    // A server's workers that are recycled, and parts of a script that a command lacks.
    silent(ProgramLife { forked: true, ..program("gunicorn", "gunicorn", 0, 9) });
    silent(ProgramLife { forked: true, ..program("sh", "sh", 127 << 8, 9) });
}

#[test]
fn a_script_that_tries_compilers_is_at_work() {
    let mut programs = vec![program("configure", "gcc", 1 << 8, 5)];
    let other = |name: &str| program("configure", name, 0, 4);
    programs.extend(["sed", "cat", "rm", "cp", "expr", "sort", "conftest", "uname", "hostname"].map(other));
    assert!(found(programs).is_empty());
    let looped = vec![program("sh", "app", 1 << 8, 5), program("sh", "sleep", 0, 5), program("sh", "date", 0, 5)];
    assert_eq!(title(&found(looped)), "app, which sh (12) starts, fails again and again: 5 times, exit code 1");
}

#[test]
fn workers_that_crash_and_programs_that_cannot_be_executed_are_told() {
    let worker = ProgramLife {
        forked: true,
        again_failed: 0,
        most_running: 0,
        file: String::new(),
        ..program("nginx", "nginx", 11, 7)
    };
    let findings = found(vec![worker]);
    assert!(crate::words(&findings[0]).cause.contains("nginx (12) forks it again each time."), "{findings:#?}");
    let missing = ProgramLife { forked: true, again_failed: 0, ..program("supervisord", "supervisord", 127 << 8, 6) };
    assert_eq!(
        title(&found(vec![missing])),
        "supervisord, which supervisord (12) starts, cannot be executed: 6 times, exit code 127"
    );
}

#[test]
fn a_slow_row_is_none() {
    let part = LifeSummary { programs: vec![program("runsv", "app", 1 << 8, 20)], ..LifeSummary::default() };
    let mut window = fill!(Window { process_life: Some(part) });
    window.span.seconds = 3600.0;
    assert!(judge(&window, &CrashLoop::with(&Thresholds::default())).is_empty());
}

#[test]
fn what_keeps_it_from_working_explains_it() {
    let looped = found(vec![program("sh", "app", 1 << 8, 5)]).remove(0);
    let mut window = Window::default();
    let process = |pid: u32, parent_pid: u32| Process { pid, parent_pid, comm: "app".into(), ..Process::default() };
    for (pid, parent) in [(7, 12), (8, 1), (99, 12)] {
        window.processes.insert(pid, process(pid, parent));
    }
    let tie = |victim: u32| {
        let mut full = Finding::new(kerno_model::RuleId::new("disk_full"), Severity::Critical);
        full.victims = vec![Subject::process(&window, victim, "app")];
        Ties::new(&window).of_what_is_started_again(&full, &looped)
    };
    assert_eq!(tie(99), Some(Tie::Process), "the last of them");
    assert_eq!(tie(7), Some(Tie::Process), "another that the same one started");
    assert_eq!(tie(8), None, "one of the same name that another started");
    assert_eq!(tie(12), None, "who starts them");
}
