//! Opens that fail.

use crate::{Culprit, Finding, Severity, Unit, rule};
use kerno_model::FileProcess;
use kerno_model::Window;
use kerno_model::errno;

rule! {
    /// The same files again and again.
    FileOpenStorm = "file_open_storm", "file_audit", "a process tries to open files that it cannot open, again and again",
        "Counts the opens of each process that fail, and how many of these are on one of the last eight paths that failed: a retry \
         loop tries the same ones, while a search (a compiler for its headers, an interpreter for its modules) tries many and stays \
         silent. Opens that succeed are told, as information only, when there are so many that they must cost a good part of a CPU. \
         When the table of descriptors is full it is fd_track that tells.",
        judge;
    failed_per_second: 500.0 PerSecond, 1.0 ..= 1e6, "failed opens a second";
    failed_share: 0.5 Ratio, 0.01 ..= 1.0, "of all opens of the process";
    repeated_share: 0.5 Ratio, 0.0 ..= 1.0, "of the failed opens are on one of the last few paths that failed";
    critical_per_second: 20_000.0 PerSecond, 1.0 ..= 1e7, "critical from so many failed opens a second: much of a CPU";
    opens_per_second: 50_000.0 PerSecond, 1.0 ..= 1e8, "opens a second, whatever comes of them, that are worth knowing of";
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
    let comm = window.name_of(pid, &process.comm);
    let severity = if rate >= rule.critical_per_second { Severity::Critical } else { Severity::Warning };
    let what = if path.is_empty() { "files" } else { path.as_str() };
    let title = format!("{comm} ({pid}) fails to open {what}: {rate:.0} times a second, {}", error.name);
    let mut finding = FileOpenStorm::finding(severity, title)
        .measured("failed opens", rate, Unit::PerSecond, Some(rule.failed_per_second))
        .measured("of all its opens", share, Unit::Ratio, Some(rule.failed_share))
        .measured("on a path that had just failed", repeated, Unit::Ratio, Some(rule.repeated_share))
        .measured("failed in a row on the last path", float(process.same_path), Unit::Count, None);
    finding.cause =
        format!("it tries {what} again at once when that fails with {}, without waiting or giving up", error.name);
    finding.impact =
        "it uses CPU time and the locks of the folder for nothing, and what it needs the file for does not happen"
            .into();
    finding.culprit = Culprit::process(window, pid, comm);
    finding.since = process
        .first_failed_ns
        .checked_sub(window.span.started_ns)
        .map(|ns| float(ns) / 1e9)
        .filter(|since| *since > 0.1 * seconds);
    finding.excess = rate / rule.failed_per_second;
    if let Some(folder) = folder(path) {
        let (path, folder) = (quoted(path), quoted(folder));
        finding = finding
            .look(format!("namei -l {path}"), "which part of the path is missing or closed to it")
            .look(format!("ls -la {folder}"), "what is there instead");
    }
    Some(
        finding
            .look(
                format!("timeout 5 strace -f -e trace=open,openat,openat2 -Z -p {pid}"),
                "each failed open with its path",
            )
            .look(
                format!("tr '\\0' ' ' < /proc/{pid}/cmdline; ls -l /proc/{pid}/cwd /proc/{pid}/root"),
                "what it was started with, and where its relative paths begin",
            ),
    )
}

fn many(window: &Window, process: &FileProcess, rule: &FileOpenStorm) -> Option<Finding> {
    let rate = float(process.opens) / window.seconds();
    if rate < rule.opens_per_second {
        return None;
    }
    let pid = process.pid;
    let comm = window.name_of(pid, &process.comm);
    let title = format!("{comm} ({pid}) opens {rate:.0} files a second");
    let mut finding = FileOpenStorm::finding(Severity::Info, title).measured(
        "opens",
        rate,
        Unit::PerSecond,
        Some(rule.opens_per_second),
    );
    finding.cause = "it opens files for each piece of work, or walks a large tree".into();
    finding.impact = "opening takes a good part of a CPU".into();
    finding.culprit = Culprit::process(window, pid, comm);
    finding.excess = rate / rule.opens_per_second;
    finding.confidence = 0.6;
    Some(
        finding
            .look(format!("timeout 5 strace -f -c -e trace=file -p {pid}"), "which calls it makes, and how many fail"),
    )
}

/// The folder of an absolute path; relative ones begin where the process is.
fn folder(path: &str) -> Option<&str> {
    let (folder, _) = path.strip_prefix('/').and(path.rsplit_once('/'))?;
    Some(if folder.is_empty() { "/" } else { folder })
}

/// As one word of a shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use kerno_model::FileSummary;
    use kerno_model::{ErrnoCount, Span};

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
        let window = Window {
            span: Span { started_ns: 1_000_000_000, seconds: 10.0, ..Span::default() },
            file_audit: Some(FileSummary { processes: vec![process], ..FileSummary::default() }),
            ..Window::default()
        };
        judge(&window, &FileOpenStorm::with(&Thresholds::default()))
    }

    #[test]
    fn a_retry_loop_is_found_with_its_path() {
        let findings = found(process(6500, 6400, 6399));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].title, "agent (4711) fails to open /etc/agent's.conf: 640 times a second, ENOENT");
        assert_eq!((findings[0].severity, findings[0].culprit.pid), (Severity::Warning, Some(4711)));
        assert_eq!(findings[0].since, Some(3.0));
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
    }

    #[test]
    fn paths_are_words_of_a_shell() {
        assert_eq!(folder("/etc/x"), Some("/etc"));
        assert_eq!(folder("/x"), Some("/"));
        assert_eq!(folder("x/y"), None);
        assert_eq!(quoted("a; rm -rf /"), "'a; rm -rf /'");
    }
}
