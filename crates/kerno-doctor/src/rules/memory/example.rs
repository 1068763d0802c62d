//! Memory that a process has to read back from disk.

use kerno_model::amount::number;
use kerno_model::{Effect, Finding, Severity, Subject, Unit, Window};

use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Major faults of one process.
    MajorFaults = "major_faults", "oom_track", "a process waits for its own memory to be read from disk",
        "Counts the page faults of each process that needed storage. A program that has just started has some, so a rate is needed.",
        judge, words;
    causes: [];
    suffers: [
        suffers(Effect::MemoryShort, |ties, a, b| ties.slow_for_memory(a, b), "its pages were reclaimed and are read again"),
    ];
    thresholds: {
        per_second: 500.0 PerSecond, 1.0 ..= 1e6, "major faults per second";
    }
    evidence: {
        per_second: "major faults per second";
    }
}

fn judge(window: &Window, rule: &MajorFaults) -> Vec<Finding> {
    let mut findings = Vec::new();
    for process in window.processes.values() {
        #[allow(clippy::cast_precision_loss, reason = "a count, for a rate")]
        let rate = process.used.major_faults as f64 / window.seconds();
        if rate >= rule.per_second {
            let mut finding = MajorFaults::finding(Severity::Warning)
                .about(Subject::process(window, process.pid, &process.comm))
                .measured("per_second", rate, Unit::PerSecond, Some(rule.per_second))
                .look_at_process(
                    format!("pidstat -r -p {} 1 5", process.pid),
                    "shows its major faults (majflt/s) over time",
                );
            finding.excess = rate / rule.per_second;
            findings.push(finding);
        }
    }
    findings
}

fn words(finding: &Finding) -> Words {
    let who = finding.subject.label().unwrap_or_else(|| "a process".to_owned());
    let rate = finding.number("per_second").map(|rate| format!("{} major faults per second", number(rate)));
    Words {
        title: title(&format!("{who} reads its memory back from disk"), [rate]),
        cause: "The pages that it needs are not in memory any more.".to_owned(),
        impact: "Each such fault makes one of its threads wait for the disk.".to_owned(),
        outlook: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use kerno_model::fill;
    use kerno_model::{Process, Span, TaskUse};

    fn found(major_faults: u64) -> Vec<Finding> {
        let used = TaskUse { major_faults, ..TaskUse::default() };
        let process = Process { pid: 815, comm: "java".into(), used, ..Process::default() };
        let span = fill!(Span { seconds: 10.0 });
        let window = fill!(Window { span, processes: [(815, process)].into() });
        judge(&window, &MajorFaults::with(&Thresholds::default()))
    }

    #[test]
    fn the_rate_decides() {
        assert!(found(4_999).is_empty());
        let findings = found(5_000);
        assert_eq!(
            words(&findings[0]).title,
            "java (815) reads its memory back from disk: 500 major faults per second"
        );
        assert_eq!(findings[0].pid(), Some(815));
    }
}
