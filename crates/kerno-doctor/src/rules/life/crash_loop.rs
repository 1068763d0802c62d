//! Programs that fail, are started again, and fail again.

use std::collections::BTreeMap;

use kerno_model::amount::span;
use kerno_model::{Effect, Ending, Finding, LifeSummary, ProgramLife, Severity, Subject, Unit, WaitStatus, Window};

use super::{float, times};
use crate::knowledge::starters::{answers_by_exit_code, builds, is_supervisor, repeats_on_purpose};
use crate::shell::{is_service, word};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// The same program fails again and again.
    CrashLoop = "crash_loop", "process_life", "a program fails, is started again, and fails again",
        "Counts how often a program ended, and how, by who started it: the process that forked it, not one that adopted it later. It is \
        a loop if each start follows a failure, with the same arguments and one at a time. Signals that a program gets for what it did \
        itself, and kills by the OOM killer, count most; those by which somebody stops it do not count. Exit codes are no failure where \
        programs answer questions with them (grep, test), or where a script starts many other programs besides. A program that ends \
        with exit code 0 is in a loop only if a supervisor starts it again each time and it never lives for ten seconds.",
        judge, words;
    causes: [];
    suffers: [
        suffers(Effect::MemoryRanOut, |ties, a, b| ties.kills_what_is_started_again(a, b), "it was killed for want of memory each time"),
        suffers(Effect::NoSpace, |ties, a, b| ties.of_what_is_started_again(a, b), "it fails for want of space"),
        suffers(Effect::StorageFails, |ties, a, b| ties.of_what_is_started_again(a, b), "it fails with the errors of its storage"),
        suffers(Effect::NoDescriptors, |ties, a, b| ties.of_what_is_started_again(a, b), "it fails for want of a file descriptor"),
        suffers(Effect::LimitReached, |ties, a, b| ties.of_what_is_started_again(a, b), "it fails at that limit"),
        suffers(Effect::OpensFail, |ties, a, b| ties.of_what_is_started_again(a, b), "it cannot open its files"),
        suffers(Effect::ConnectsFail, |ties, a, b| ties.of_what_is_started_again(a, b), "it cannot connect"),
        suffers(Effect::PathBroken, |ties, a, b| ties.of_what_is_started_again(a, b), "it gets no answer"),
    ];
    thresholds: {
        min_failures: 3.0 Count, 2.0 ..= 1e6, "failures in a row that are a loop";
        min_worker_failures: 5.0 Count, 2.0 ..= 1e6, "crashes of workers that a server forks again";
        per_minute: 6.0 Count, 0.1 ..= 1e6, "failures per minute";
        failed_share: 0.8 Ratio, 0.1 ..= 1.0, "share of ends that are failures";
        critical_failures: 10.0 Count, 2.0 ..= 1e9, "failures in a row that are critical";
    }
    evidence: {
        failures: "times it failed";
        ends: "times it ended";
        core_dumps: "core dumps";
        shortest: "shortest life";
        longest: "longest life";
        cpu: "CPU time of all of them";
    }
}

/// The findings at most: the worst.
const MAX_FINDINGS: usize = 5;

/// Codes that shells and supervisors give to what could not be executed: 126 and 127 by POSIX, 203 by systemd.
const NOT_EXECUTED: [u32; 3] = [126, 127, 203];

/// Which of the programs of one starter fails most tells what is wrong with it.
fn judge(window: &Window, rule: &CrashLoop) -> Vec<Finding> {
    let Some(part) = &window.process_life else { return Vec::new() };
    let mut worst: BTreeMap<(u32, String), Loop<'_>> = BTreeMap::new();
    for program in &part.programs {
        let Some(found) = Loop::of(program, part, window, rule) else { continue };
        let service = if is_service(&program.unit) { program.unit.clone() } else { String::new() };
        let key = (program.starter_pid, service);
        match worst.get_mut(&key) {
            Some(known) if known.weight() >= found.weight() => {}
            _ => drop(worst.insert(key, found)),
        }
    }
    let mut findings: Vec<_> = worst.into_values().map(|found| found.finding(window, rule)).collect();
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.excess.total_cmp(&a.excess)));
    findings.truncate(MAX_FINDINGS);
    findings
}

/// A program that fails again and again.
struct Loop<'a> {
    program: &'a ProgramLife,
    variant: &'static str,
    /// How it failed most.
    ending: WaitStatus,
    failures: u64,
}

impl<'a> Loop<'a> {
    fn of(program: &'a ProgramLife, part: &LifeSummary, window: &Window, rule: &CrashLoop) -> Option<Self> {
        // Who started it is not known.
        if program.starter_pid == 0 || program.ends == 0 || repeats_on_purpose(&program.starter_comm) {
            return None;
        }
        let found = crashed(program, rule).or_else(|| failed(program, part, rule)).or_else(|| ended(program, rule))?;
        let ends = float(program.ends.max(1));
        let per_minute = float(found.failures) / window.covered_seconds() * 60.0;
        (float(found.failures) / ends >= rule.failed_share && per_minute >= rule.per_minute).then_some(found)
    }

    fn weight(&self) -> (u64, u64) {
        (self.failures, self.program.last_pid.into())
    }

    fn finding(&self, window: &Window, rule: &CrashLoop) -> Finding {
        let Self { program, variant, ending, failures } = self;
        let starter = Subject::process(window, program.starter_pid, &program.starter_comm);
        let label = starter.label().unwrap_or_default();
        let severity = match *variant {
            "ends" => Severity::Warning,
            _ if float(*failures) >= rule.critical_failures => Severity::Critical,
            _ => Severity::Warning,
        };
        let subject = if is_service(&program.unit) {
            let mut subject = Subject::process(window, program.last_pid, &program.program);
            subject.unit = Some(program.unit.clone());
            subject
        } else {
            starter
        };
        let mut finding = CrashLoop::finding(severity)
            .variant(variant)
            .about(subject)
            .detail("program", program.program.clone())
            .detail("starter", label)
            .detail("ending", ending.to_string())
            .detail("forked", program.forked)
            .measured("failures", float(*failures), Unit::Count, Some(rule.min_failures))
            .measured("ends", float(program.ends), Unit::Count, None);
        if program.core_dumps > 0 {
            finding = finding.measured("core_dumps", float(program.core_dumps), Unit::Count, None);
        }
        if program.longest_ns > 0 {
            finding = finding.measured("shortest", float(program.shortest_ns) / 1e9, Unit::Seconds, None).measured(
                "longest",
                float(program.longest_ns) / 1e9,
                Unit::Seconds,
                None,
            );
        }
        if program.cpu_ns > 0 {
            finding = finding.measured("cpu", float(program.cpu_ns) / 1e9, Unit::Seconds, None);
        }
        finding.victims = vec![Subject::process(window, program.last_pid, &program.program)];
        finding.excess = float(*failures) / rule.min_failures;
        finding.confidence = if *variant == "ends" { 0.8 } else { 0.92 };
        self.advise(finding)
    }

    fn advise(&self, mut finding: Finding) -> Finding {
        let program = self.program;
        let service = is_service(&program.unit).then(|| word(&program.unit));
        if let Some(unit) = &service {
            finding = finding
                .look(format!("systemctl status {unit}"), "shows how it ended last, and what it said")
                .look(format!("journalctl -u {unit} -n 50 --no-pager"), "shows what it said before it failed");
        } else {
            let pid = program.starter_pid;
            finding = finding
                .look_at_process(
                    format!("timeout 10 strace -f -e trace=execve,openat,connect,write,exit_group -s 200 -p {pid}"),
                    "shows what it does and writes before it ends",
                )
                .look_at_process(
                    format!("ls -l /proc/{pid}/cwd; tr '\\0' ' ' </proc/{pid}/cmdline"),
                    "shows who starts it, and where",
                );
        }
        if program.core_dumps > 0 {
            finding = finding
                .look("cat /proc/sys/kernel/core_pattern", "shows where its core dumps go; gdb shows where it crashed");
        } else if self.ending.is_crash() {
            finding = finding.look(
                "dmesg -T | grep -E 'segfault|traps:|general protection' | tail",
                "shows where it crashed, by address",
            );
        }
        if self.variant == "oom" {
            finding = finding.look(
                "dmesg -T | grep -E 'oom-kill|Killed process' | tail",
                "shows what the kernel logged of each kill",
            );
        }
        if program.file.starts_with('/') && !program.forked {
            finding =
                finding.look(format!("ls -l {}", word(&program.file)), "shows the program, and when it was changed");
        }
        if let Some(unit) = service {
            finding = finding.change(format!("systemctl stop {unit}"), "ends the attempts until it is repaired");
        }
        finding
    }
}

/// Killed by what it did itself, or for want of memory.
fn crashed<'a>(program: &'a ProgramLife, rule: &CrashLoop) -> Option<Loop<'a>> {
    let crashes = most(program, |ending| ending.status.is_crash());
    let of_crashes = |count: u64, variant, ending| Loop { program, variant, ending, failures: count };
    let found = if program.oom_killed * 2 >= program.ends.max(1) {
        of_crashes(program.oom_killed, "oom", WaitStatus(9))
    } else {
        let (ending, count) = crashes?;
        of_crashes(count, if program.core_dumps * 2 >= count { "core_dumps" } else { "signal" }, ending)
    };
    // Workers that were forked may run beside each other; what is executed is started after it has failed.
    let enough = if program.forked {
        float(found.failures) >= rule.min_worker_failures
    } else {
        float(found.failures) >= rule.min_failures && float(program.again_failed) + 1.0 >= rule.min_failures
    };
    enough.then_some(found)
}

/// Ended with an exit code that tells of a failure.
fn failed<'a>(program: &'a ProgramLife, part: &LifeSummary, rule: &CrashLoop) -> Option<Loop<'a>> {
    // 128 and a signal is what shells and supervisors make of programs that were stopped.
    let is_failure = |ending: &Ending| {
        ending.status.code().is_some_and(|code| code != 0 && !matches!(code.wrapping_sub(128), 1 | 2 | 9 | 13 | 15))
    };
    let (ending, failures) = most(program, is_failure)?;
    let supervised = is_supervisor(&program.starter_comm);
    if program.forked {
        // It could not be executed: shells say so as well of a command that a script lacks.
        let not_executed = ending.code().is_some_and(|code| NOT_EXECUTED.contains(&code));
        let enough = float(failures) >= rule.min_worker_failures && supervised && not_executed;
        return enough.then_some(Loop { program, variant: "not_executed", ending, failures });
    }
    // One after the other, as with most failures the next start.
    let follows = float(program.again_failed) + 1.0 >= rule.min_failures.max(rule.failed_share * float(program.starts));
    if program.most_running > 1 || !follows || float(failures) < rule.min_failures {
        return None;
    }
    let asks = answers_by_exit_code(&program.program) || builds(&program.program) || is_inline(program);
    if !supervised && (asks || is_a_script_at_work(program, part)) {
        return None;
    }
    Some(Loop { program, variant: "exit_code", ending, failures })
}

/// Ended well, each time too soon.
fn ended<'a>(program: &'a ProgramLife, rule: &CrashLoop) -> Option<Loop<'a>> {
    let again =
        float(program.again_ended) >= rule.min_failures && float(program.again_ended) + 2.0 >= float(program.starts);
    let well = program.failed + program.killed == 0 && program.brief == program.ends;
    // Process 1 starts jobs and connections, too, each of which has another unit or is done soon.
    let meant_to_stay = is_supervisor(&program.starter_comm)
        && (program.starter_pid != 1 || (is_service(&program.unit) && !program.unit.contains('@')));
    let found = !program.forked && again && well && meant_to_stay && program.most_running <= 1;
    found.then_some(Loop { program, variant: "ends", ending: WaitStatus(0), failures: program.ends })
}

/// How often it ended in one of these ways, and in which most.
fn most(program: &ProgramLife, wanted: impl Fn(&Ending) -> bool) -> Option<(WaitStatus, u64)> {
    let wanted: Vec<_> = program.endings.iter().filter(|ending| wanted(ending)).collect();
    let first = wanted.iter().max_by_key(|ending| ending.count)?;
    Some((first.status, wanted.iter().map(|ending| ending.count).sum()))
}

/// A condition that a script has a shell or an interpreter look at: `bash -c '...'`. Without its arguments one may be that.
fn is_inline(program: &ProgramLife) -> bool {
    let name = program.program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let shells = ["ash", "bash", "busybox", "dash", "ksh", "node", "perl", "php", "python", "ruby", "sh", "zsh"];
    shells.contains(&name) && program.args.get(1).is_none_or(|first| first.is_empty() || first.starts_with('-'))
}

/// A script that does something else than to start one program: it starts others more often, or very different ones.
fn is_a_script_at_work(program: &ProgramLife, part: &LifeSummary) -> bool {
    let is_other = |other: &&ProgramLife| {
        other.starter_pid == program.starter_pid && !other.forked && other.program != program.program
    };
    let others: Vec<_> = part.programs.iter().filter(is_other).collect();
    let starts: u64 = others.iter().map(|other| other.starts).sum();
    others.len() > 8 || starts > 6 * program.starts
}

fn words(finding: &Finding) -> Words {
    let program = finding.text("program").filter(|name| !name.is_empty()).unwrap_or("a program");
    let starter = finding.text("starter").filter(|name| !name.is_empty()).unwrap_or("its parent");
    let unit = finding.subject.unit.as_deref().filter(|unit| is_service(unit));
    let who = match unit {
        Some(unit) => format!("{program} of {unit}"),
        None => format!("{program}, which {starter} starts,"),
    };
    let ending = finding.text("ending").unwrap_or("a failure");
    let what = match &*finding.variant {
        "oom" => format!("{who} is killed for want of memory again and again"),
        "core_dumps" => format!("{who} dumps core again and again"),
        "signal" => format!("{who} crashes again and again"),
        "not_executed" => format!("{who} cannot be executed"),
        "ends" => format!("{who} ends at once and is started again"),
        _ => format!("{who} fails again and again"),
    };
    let number = |name| finding.number(name);
    let count = number("failures").map(times);
    let how = (finding.variant != "ends" && finding.variant != "oom").then(|| ending.to_owned());
    let lived = match (number("shortest"), number("longest")) {
        (Some(shortest), Some(longest)) if longest > 2.0 * shortest => {
            format!(" It lived for {} to {}.", span(shortest), span(longest))
        }
        (Some(_), Some(longest)) => format!(" It lived for {} each time.", span(longest)),
        _ => String::new(),
    };
    let again = if finding.flag("forked") {
        format!("{starter} forks it again each time.")
    } else {
        format!("{starter} starts it again each time.")
    };
    let cause = match &*finding.variant {
        "oom" => format!("The kernel kills it when memory runs out. {again}{lived}"),
        "core_dumps" | "signal" => {
            format!(
                "It ends by {ending}, which it gets for what it does itself or for a limit that it reaches. {again}{lived}"
            )
        }
        "not_executed" => format!(
            "Its child ends with {ending} before it has executed anything: the program is missing, or may not be executed."
        ),
        "ends" => format!(
            "It ends with exit code 0 although it is meant to stay: it may have gone to the background. {again}{lived}"
        ),
        _ => format!("It ends with {ending}. {again}{lived} Why it fails is in what it writes."),
    };
    let impact = match number("cpu").filter(|cpu| *cpu >= 1.0) {
        Some(cpu) => format!("What it is there for is not done, and its starts cost {} of CPU time.", span(cpu)),
        None => "What it is there for is not done.".to_owned(),
    };
    Words { title: title(&what, [count, how]), cause, impact, outlook: String::new() }
}

#[cfg(test)]
#[path = "crash_loop/tests.rs"]
mod tests;
