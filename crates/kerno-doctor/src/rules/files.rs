//! Opens that fail.

use kerno_model::amount::quantity;
use kerno_model::{Effect, ErrnoCount, Fact, FileProcess, Finding, Severity, Subject, Unit, Window, errno};

use crate::shell::word;
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// The same files again and again.
    FileOpenStorm = "file_open_storm", "file_audit", "a process keeps trying to open files that it cannot open",
        "Counts the failed opens of each process, and how many of them were of one of the last eight paths that had failed. A retry \
        loop tries the same paths again, while a search (a compiler for headers, an interpreter for modules) tries many and does not \
        count. Successful opens are reported, for information only, when there are so many that they cost a good part of a CPU. When \
        the process has no file descriptor left, fd_track reports it.",
        judge, words;
    causes: [OpensFail];
    suffers: [
        suffers(Effect::StorageFails, |ties, a, b| ties.failing_storage(a, b), "its opens fail with I/O errors"),
        suffers(Effect::NoSpace, |ties, a, b| ties.no_space(a, b), "its opens fail for want of space"),
        suffers(
            Effect::NoDescriptors,
            |ties, a, b| ties.no_descriptor(a, b),
            "its opens fail for want of a file descriptor",
        ),
    ];
    thresholds: {
        failed_per_second: 500.0 PerSecond, 1.0 ..= 1e6, "failed opens per second";
        failed_share: 0.5 Ratio, 0.01 ..= 1.0, "failed share of all opens of the process";
        repeated_share: 0.5 Ratio, 0.0 ..= 1.0, "share of failed opens that are of one of the last few failed paths";
        critical_per_second: 20_000.0 PerSecond, 1.0 ..= 1e7, "failed opens per second that are critical: much of a CPU";
        opens_per_second: 50_000.0 PerSecond, 1.0 ..= 1e8, "opens per second, failed or not, that are reported for information";
    }
    evidence: {
        failed_per_second: "failed opens per second";
        failed_share: "failed share of its opens";
        repeated_share: "share of failed opens that are of a path that had just failed";
        same_path: "failures in a row on the last path";
        opens_per_second: "opens per second";
    }
}

/// The processes told of at most: the worst.
const MAX_FINDINGS: usize = 5;

#[allow(clippy::cast_precision_loss, reason = "shown, and compared with thresholds")]
fn float(count: u64) -> f64 {
    count as f64
}

fn judge(window: &Window, rule: &FileOpenStorm) -> Vec<Finding> {
    let Some(summary) = &window.file_audit else { return Vec::new() };
    let mut findings: Vec<_> = summary
        .processes
        .iter()
        .filter_map(|process| storm(window, process, rule).or_else(|| many(window, process, rule)))
        .collect();
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.excess.total_cmp(&a.excess)));
    findings.truncate(MAX_FINDINGS);
    findings
}

fn storm(window: &Window, process: &FileProcess, rule: &FileOpenStorm) -> Option<Finding> {
    let seconds = window.seconds();
    let rate = float(process.failed) / seconds;
    let share = float(process.failed) / float(process.opens.max(1));
    let repeated = float(process.repeated) / float(process.failed.max(1));
    if rate < rule.failed_per_second || share < rule.failed_share || repeated < rule.repeated_share {
        return None;
    }
    let error = process.errors.first()?;
    if matches!(error.errno, errno::EMFILE | errno::ENFILE) {
        return None;
    }
    let (pid, path) = (process.pid, &process.last_failed_path);
    let severity = if rate >= rule.critical_per_second { Severity::Critical } else { Severity::Warning };
    let mut finding = FileOpenStorm::finding(severity)
        .variant("failed")
        .about(subject(window, process))
        .fact(Fact::Errno(error.errno))
        .measured("failed_per_second", rate, Unit::PerSecond, Some(rule.failed_per_second))
        .measured("failed_share", share, Unit::Ratio, Some(rule.failed_share))
        .measured("repeated_share", repeated, Unit::Ratio, Some(rule.repeated_share))
        .measured("same_path", float(process.same_path), Unit::Count, None);
    if !path.is_empty() {
        finding = finding.detail("path", path.clone());
    }
    let since = process.first_failed_ns.checked_sub(window.span.started_ns).map(|ns| float(ns) / 1e9);
    finding.since = since
        .filter(|since| *since > 0.1 * window.covered_seconds())
        .map(|_| window.moment_ns(process.first_failed_ns));
    finding.excess = rate / rule.failed_per_second;
    if let Some(folder) = folder(path) {
        finding = finding
            .look(format!("namei -l {}", word(path)), "which part of the path is missing or not accessible")
            .look(format!("ls -la {}", word(folder)), "what is there instead");
    }
    Some(
        finding
            .look_at_process(
                format!("timeout 5 strace -f -e trace=open,openat,openat2 -Z -p {pid}"),
                "each failed open with its path",
            )
            .look_at_process(
                format!("tr '\\0' ' ' < /proc/{pid}/cmdline; ls -l /proc/{pid}/cwd /proc/{pid}/root"),
                "its command line, and where its relative paths start",
            ),
    )
}

fn subject(window: &Window, process: &FileProcess) -> Subject {
    Subject::process(window, process.pid, window.name_of(process.pid, &process.comm))
}

fn many(window: &Window, process: &FileProcess, rule: &FileOpenStorm) -> Option<Finding> {
    let rate = float(process.opens) / window.seconds();
    if rate < rule.opens_per_second {
        return None;
    }
    let mut finding = FileOpenStorm::finding(Severity::Info).variant("many").about(subject(window, process)).measured(
        "opens_per_second",
        rate,
        Unit::PerSecond,
        Some(rule.opens_per_second),
    );
    finding.excess = rate / rule.opens_per_second;
    finding.confidence = 0.6;
    let count = format!("timeout 5 strace -f -c -e trace=file -p {}", process.pid);
    Some(finding.look_at_process(count, "which calls it makes, and how many fail"))
}

fn words(finding: &Finding) -> Words {
    let who = finding.subject.label().unwrap_or_else(|| "a process".to_owned());
    let rate = |name| finding.number(name).map(|rate| quantity(rate, Unit::PerSecond));
    if finding.variant == "many" {
        return Words {
            title: title(&format!("{who} opens many files"), [rate("opens_per_second")]),
            cause: "It opens files for each piece of work, or walks a large tree.".into(),
            impact: "The opens take a good part of a CPU.".into(),
            ..Words::default()
        };
    }
    let path = finding.text("path").unwrap_or("files");
    let error = finding.errnos().next().map(|error| ErrnoCount::new(error, 0).name);
    let with = error.as_ref().map_or_else(String::new, |error| format!(" with {error}"));
    Words {
        title: title(&format!("{who} fails to open {path}"), [error, rate("failed_per_second")]),
        cause: format!("It retries at once when the open fails{with}, without waiting or giving up."),
        impact: "It wastes CPU time and contends for the locks of the directory. What it needs the file for does not happen."
            .into(),
        ..Words::default()
    }
}

/// The folder of an absolute path; relative ones begin where the process is.
fn folder(path: &str) -> Option<&str> {
    let (folder, _) = path.strip_prefix('/').and(path.rsplit_once('/'))?;
    Some(if folder.is_empty() { "/" } else { folder })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use crate::rules::testing::words_hold;
    use kerno_model::fill;
    use kerno_model::{FileSummary, Span};

    fn process(opens: u64, failed: u64, repeated: u64) -> FileProcess {
        FileProcess {
            pid: 4711,
            comm: "agent".into(),
            opens,
            failed,
            errors: vec![ErrnoCount::new(errno::ENOENT, failed)],
            last_failed_path: "/etc/agent's.conf".into(),
            last_errno: errno::ENOENT,
            last_error: "ENOENT".into(),
            same_path: repeated,
            repeated,
            first_failed_ns: 4_000_000_000,
        }
    }

    fn found(process: FileProcess) -> Vec<Finding> {
        let window = fill!(Window {
            span: fill!(Span { started_ns: 1_000_000_000, seconds: 10.0 }),
            file_audit: Some(FileSummary { processes: vec![process], ..FileSummary::default() }),
        });
        let findings = judge(&window, &FileOpenStorm::with(&Thresholds::default()));
        findings.iter().for_each(words_hold);
        findings
    }

    #[test]
    fn a_retry_loop_is_found_with_its_path() {
        let findings = found(process(6500, 6400, 6399));
        assert_eq!(findings.len(), 1);
        assert_eq!(crate::words(&findings[0]).title, "agent (4711) fails to open /etc/agent's.conf: ENOENT, 640/s");
        assert_eq!((findings[0].severity, findings[0].subject.pid()), (Severity::Warning, Some(4711)));
        assert_eq!(findings[0].since.map(|since| since.monotonic_ns), Some(4_000_000_000));
        assert_eq!(findings[0].errnos().collect::<Vec<_>>(), [errno::ENOENT]);
        assert_eq!(findings[0].fixes[0].command, r"namei -l '/etc/agent'\''s.conf'");
        assert_eq!(found(process(300_000, 300_000, 299_999))[0].severity, Severity::Critical);
    }

    #[test]
    fn searches_and_small_numbers_are_not() {
        assert!(found(process(4990, 4990, 4990)).is_empty(), "below the rate");
        assert!(found(process(20_000, 8000, 8000)).is_empty(), "most succeed");
        assert!(found(process(20_000, 20_000, 500)).is_empty(), "a search tries many paths");
        let mut full = process(20_000, 20_000, 20_000);
        full.errors = vec![ErrnoCount::new(errno::EMFILE, 20_000)];
        assert!(found(full).is_empty(), "descriptors are another signal's");
    }

    #[test]
    fn an_enormous_rate_of_good_opens_is_information() {
        let findings = found(process(600_000, 0, 0));
        assert_eq!((findings.len(), findings[0].severity), (1, Severity::Info));
        assert_eq!(crate::words(&findings[0]).title, "agent (4711) opens many files: 60,000/s");
    }

    #[test]
    fn paths_are_words_of_a_shell() {
        assert_eq!(folder("/etc/x"), Some("/etc"));
        assert_eq!(folder("/x"), Some("/"));
        assert_eq!(folder("x/y"), None);
        let mut hostile = process(6500, 6400, 6399);
        hostile.last_failed_path = "/tmp/a; rm -rf /".into();
        assert_eq!(found(hostile)[0].fixes[1].command, "ls -la '/tmp/a; rm -rf '");
    }
}
