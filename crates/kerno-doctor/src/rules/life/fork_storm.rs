//! Processes that start so many others that it costs.

use kerno_model::amount::{number, share, span};
use kerno_model::{Finding, ForkStarter, Severity, Subject, Unit, Window};

use super::float;
use crate::knowledge::starters::builds;
use crate::title::title;
use crate::{Words, rule};

rule! {
    /// Many short processes.
    ForkStorm = "fork_storm", "process_life", "a process starts so many others that starting them is most of the work",
        "Counts the processes that begin, by the nearest ancestor that had lived for a second: a script, not what it is made of. It is a \
        storm if there are many, of few different programs, and each does so little that starting it is what costs. Builds start many \
        processes that have work to do, and scripts such as configure many different ones: these are none. Processes that multiply and \
        do not end are told as well.",
        judge, words;
    causes: [];
    suffers: [];
    thresholds: {
        per_second: 300.0 PerSecond, 1.0 ..= 1e7, "processes or programs that are started per second";
        max_ms_each: 5.0 Count, 0.1 ..= 1e4, "milliseconds of CPU time that each uses, at most";
        same_share: 0.9 Ratio, 0.0 ..= 1.0, "share of the programs that are one of the first few";
        warning_share: 0.2 Ratio, 0.01 ..= 1.0, "share of the machine's CPU time that is worth a warning";
        multiply_per_second: 100.0 PerSecond, 1.0 ..= 1e7, "processes per second that begin and do not end";
        multiply: 500.0 Count, 10.0 ..= 1e7, "processes that begin and do not end";
    }
    evidence: {
        forks_per_second: "processes started per second";
        execs_per_second: "programs executed per second";
        cpu_share: "share of the machine's CPU time";
        ms_each: "milliseconds of CPU time of each";
        more: "processes more than at the begin";
    }
}

fn judge(window: &Window, rule: &ForkStorm) -> Vec<Finding> {
    let Some(part) = &window.process_life else { return Vec::new() };
    let worst = part.starters.iter().filter_map(|starter| storm(window, starter, rule));
    let mut findings: Vec<_> = worst.collect();
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.excess.total_cmp(&a.excess)));
    findings.truncate(3);
    findings
}

fn storm(window: &Window, starter: &ForkStarter, rule: &ForkStorm) -> Option<Finding> {
    let seconds = window.seconds();
    let (forks, execs) = (float(starter.forks) / seconds, float(starter.execs) / seconds);
    let more = float(starter.forks) - float(starter.ends);
    let cpu = float(starter.cpu_ns) / 1e9;
    let of_machine = cpu / (seconds * f64::from(window.host.cpus.max(1)));
    let ms_each = cpu * 1e3 / float(starter.brief.max(1));
    let told: u64 = starter.programs.iter().map(|started| started.count).sum();
    let same = starter.execs == 0 || float(told) >= rule.same_share * float(starter.execs);
    let multiplies = more >= rule.multiply && more / seconds >= rule.multiply_per_second;
    let brief = float(starter.brief) >= 0.9 * float(starter.ends.max(1));
    let many =
        forks.max(execs) >= rule.per_second && brief && same && ms_each <= rule.max_ms_each && !builds(&starter.comm);
    if !multiplies && !many {
        return None;
    }
    let severity = match (multiplies, of_machine >= rule.warning_share) {
        (true, _) => Severity::Critical,
        (false, true) => Severity::Warning,
        (false, false) => Severity::Info,
    };
    let mut finding = ForkStorm::finding(severity)
        .variant(if multiplies { "multiplies" } else { "short" })
        .about(Subject::process(window, starter.pid, &starter.comm))
        .measured("forks_per_second", forks, Unit::PerSecond, Some(rule.per_second))
        .measured("execs_per_second", execs, Unit::PerSecond, None)
        .measured("cpu_share", of_machine, Unit::Ratio, Some(rule.warning_share));
    if multiplies {
        finding = finding.measured("more", more, Unit::Count, Some(rule.multiply));
    } else {
        finding = finding
            .measured("ms_each", ms_each, Unit::Count, Some(rule.max_ms_each))
            .detail("cpu_seconds", (cpu, Unit::Seconds));
    }
    if let Some(most) = starter.programs.first() {
        finding = finding.detail("program", most.program.clone());
    }
    finding.excess = if multiplies { more / rule.multiply } else { forks.max(execs) / rule.per_second };
    let pid = starter.pid;
    finding = finding
        .look_at_process(
            format!("timeout 5 strace -f -c -e trace=process -p {pid}"),
            "counts the processes that it starts",
        )
        .look_at_process(
            format!("tr '\\0' ' ' </proc/{pid}/cmdline; ls -l /proc/{pid}/cwd"),
            "shows its command line, and where it runs",
        );
    if multiplies && pid > 1 {
        finding = finding.change_process(format!("kill -STOP {pid}"), "stops it, so that the others can be looked at");
    }
    Some(finding)
}

fn words(finding: &Finding) -> Words {
    let who = finding.subject.label().unwrap_or_else(|| "a process".to_owned());
    let rate = |name| finding.number(name).map(|rate| format!("{} per second", number(rate)));
    if finding.variant == "multiplies" {
        let more = finding.number("more").map(|more| format!("{} more", number(more)));
        return Words {
            title: title(&format!("{who} starts processes that do not end"), [more, rate("forks_per_second")]),
            cause: "It and its descendants start others faster than they end.".into(),
            impact: "Process ids and memory run out, and then nothing can be started.".into(),
            outlook: String::new(),
        };
    }
    let most = if finding.number("execs_per_second") > finding.number("forks_per_second") {
        "execs_per_second"
    } else {
        "forks_per_second"
    };
    let program = finding.text("program").filter(|name| !name.is_empty());
    let of = program.map_or_else(String::new, |program| format!(", {program} most of all"));
    let cost = finding.number("cpu_share").map(|part| format!("{} of the CPU time", share(part)));
    let each =
        finding.number("ms_each").map_or_else(String::new, |ms| format!(" Each uses {} of CPU time.", span(ms / 1e3)));
    Words {
        title: title(&format!("{who} starts many short processes"), [rate(most), cost]),
        cause: format!("It starts a process for each piece of work{of}.{each}"),
        impact: "Most of that time goes into starting and ending them.".into(),
        outlook: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use kerno_model::{LifeSummary, StartedProgram, fill};

    use super::*;
    use crate::Thresholds;
    use crate::rules::testing::words_hold;

    fn starter(forks: u64, execs: u64, cpu_seconds: f64, programs: &[(&str, u64)]) -> ForkStarter {
        let started = |(program, count): &(&str, u64)| StartedProgram { program: (*program).to_owned(), count: *count };
        ForkStarter {
            pid: 12,
            comm: "sh".into(),
            forks,
            execs,
            ends: forks,
            brief: forks,
            cpu_ns: (cpu_seconds * 1e9) as u64,
            programs: programs.iter().map(started).collect(),
        }
    }

    fn found(starter: ForkStarter) -> Vec<Finding> {
        let part = LifeSummary { starters: vec![starter], ..LifeSummary::default() };
        let mut window = fill!(Window { process_life: Some(part) });
        window.span.seconds = 5.0;
        window.host.cpus = 2;
        let findings = judge(&window, &ForkStorm::with(&Thresholds::default()));
        findings.iter().for_each(words_hold);
        findings
    }

    #[test]
    fn many_short_processes_are_a_storm() {
        let findings = found(starter(4000, 4000, 4.0, &[("true", 3990), ("date", 10)]));
        let words = crate::words(&findings[0]);
        assert_eq!(words.title, "sh (12) starts many short processes: 800 per second, 40 % of the CPU time");
        assert!(words.cause.contains("true most of all"), "{words:?}");
        assert_eq!(findings[0].severity, Severity::Warning);
        // On a large machine that is little.
        assert_eq!(found(starter(4000, 4000, 1.0, &[("true", 4000)]))[0].severity, Severity::Info);
        // Parts of a script that execute nothing.
        assert_eq!(found(starter(9000, 0, 4.0, &[])).len(), 1);
    }

    #[test]
    fn builds_and_scripts_of_many_programs_are_none() {
        assert!(found(starter(100, 100, 1.0, &[("true", 100)])).is_empty(), "few");
        assert!(found(starter(4000, 4000, 40.0, &[("cc1", 2000), ("as", 2000)])).is_empty(), "they have work to do");
        assert!(found(starter(4000, 4000, 4.0, &[("sed", 500), ("cat", 400), ("gcc", 300), ("rm", 200)])).is_empty());
    }

    #[test]
    fn processes_that_multiply_are_told_whatever_they_are() {
        let findings = found(ForkStarter { ends: 100, brief: 100, ..starter(2000, 0, 0.1, &[]) });
        assert_eq!((findings[0].severity, &*findings[0].variant), (Severity::Critical, "multiplies"));
        assert_eq!(
            crate::words(&findings[0]).title,
            "sh (12) starts processes that do not end: 1,900 more, 400 per second"
        );
    }
}
