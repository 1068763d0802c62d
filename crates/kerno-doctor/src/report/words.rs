//! Numbers, times and names as people read them, the same in every form of the report.

use kerno_model::amount::{bytes, number, quantity, span};
use kerno_model::text::Escaped;
use kerno_model::{KernelVersion, SummaryLoss};
use kerno_model::{Missing, Severity, Span, Unit};

use super::{Culprit, Diagnosis, Report};

/// The time of day in UTC: `15:54:06`. UTC, since a report may be read far from where it was made.
pub(super) fn clock(unix: f64) -> String {
    let second = whole_seconds(unix).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

/// A moment in nanoseconds since 1970 as `2026-11-29T03:02:10Z`.
pub fn rfc3339(unix_ns: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "whole seconds")]
    let unix = (unix_ns / 1_000_000_000) as f64;
    format!("{}T{}Z", date(unix), clock(unix))
}

/// The same with milliseconds: `15:54:06.312`.
pub(super) fn clock_ms(unix: f64) -> String {
    let unix = (unix * 1e3).round() / 1e3;
    let fraction = ((unix - unix.floor()) * 1e3).round();
    format!("{}.{fraction:03}", clock(unix))
}

/// The date in UTC: `2026-11-22`.
pub(super) fn date(unix: f64) -> String {
    // Howard Hinnant's days-to-civil algorithm: eras of 400 years that begin on 1 March.
    let days = whole_seconds(unix).div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[allow(clippy::cast_possible_truncation, reason = "a date")]
fn whole_seconds(unix: f64) -> i64 {
    unix.floor() as i64
}

/// When a finding began: `15:54:06 UTC, 26 s before the end`; of an incident, whose span is a moment, only the time.
pub(super) fn since(finding: &Diagnosis, window: &Span) -> String {
    let is_moment = window.covered_seconds() == 0.0;
    match finding.since {
        #[allow(clippy::cast_precision_loss, reason = "a time of day")]
        Some(_) if is_moment && finding.since_unix_ns.is_some() => {
            format!("{} UTC", clock(finding.since_unix_ns.unwrap_or(0) as f64 / 1e9))
        }
        None if is_moment => format!("before {} UTC", clock(window.started_unix)),
        Some(seconds) => {
            let before_end = (window.seconds - seconds).max(0.0);
            let before_end = if before_end >= 10.0 { before_end.round() } else { before_end };
            format!("{} UTC, {} before the end", clock(window.started_unix + seconds), span(before_end))
        }
        None => format!("before {} UTC, when the window began", clock(window.started_unix)),
    }
}

/// Escapes untrusted text, so that a terminal shows it but does not obey it.
pub(super) fn safe(text: &str) -> String {
    Escaped(text.as_bytes()).to_string()
}

/// Leaves text for copying, such as a command or a path, as it is, unless a terminal would obey part of it.
pub(super) fn verbatim(text: &str) -> String {
    let escaped = safe(text);
    if escaped.replace("\\\\", "\\") == text { text.to_owned() } else { escaped }
}

/// The process of a culprit, in short: `dd (4711)`. Not escaped.
pub(super) fn name(culprit: &Culprit) -> Option<String> {
    let process = culprit.process.as_deref().filter(|name| !name.is_empty());
    match (process, culprit.pid) {
        (Some(name), Some(pid)) => Some(format!("{name} ({pid})")),
        (None, Some(pid)) => Some(format!("process {pid}")),
        (Some(name), None) => Some(name.to_owned()),
        (None, None) => None,
    }
}

/// What else is known about a culprit, with labels. Not escaped.
pub(super) fn particulars(culprit: &Culprit) -> Vec<(&'static str, String)> {
    let container = culprit.container.as_ref().map(|container| {
        let id: String =
            if container.id.len() == 64 { container.id.chars().take(12).collect() } else { container.id.clone() };
        let named = container.name.is_some() || container.pod.is_some();
        let pod = container.pod_uid.as_ref().filter(|_| !named).map(|uid| format!(", pod {uid}")).unwrap_or_default();
        let image = container.image.as_ref().map(|image| format!(", {image}")).unwrap_or_default();
        if named {
            let workload = container.workload.as_ref().map(|workload| format!(", {workload}")).unwrap_or_default();
            format!("{} ({} {id}{image}{workload})", container.label(), container.runtime)
        } else {
            format!("{id} ({}{pod}{image})", container.runtime)
        }
    });
    let parts = [
        ("user", culprit.user.clone()),
        ("command", culprit.cmdline.clone()),
        ("unit", culprit.unit.clone()),
        ("container", container),
        ("cgroup", culprit.cgroup.clone().filter(|path| path != "/" && !is_of_unit(path, culprit))),
        ("device", culprit.device.clone()),
        ("mount", culprit.mount.clone()),
        ("interface", culprit.interface.clone()),
        ("remote", culprit.remote.clone()),
        ("local", culprit.local.clone()),
    ];
    parts.into_iter().filter_map(|(label, value)| Some((label, value.filter(|value| !value.is_empty())?))).collect()
}

/// Whether the path of the cgroup only repeats the unit.
fn is_of_unit(path: &str, culprit: &Culprit) -> bool {
    culprit.unit.as_deref().is_some_and(|unit| path.strip_suffix(unit).is_some_and(|slice| slice.ends_with('/')))
}

/// A victim, in one line. Not escaped.
pub(super) fn one_line(culprit: &Culprit) -> String {
    let named = name(culprit);
    let who = named.is_some();
    // The command line and the path of the cgroup are too long for a list, unless nothing else is known.
    let wanted =
        |label: &str| if who { matches!(label, "user" | "unit" | "device" | "remote") } else { label != "command" };
    let rest = particulars(culprit)
        .into_iter()
        .filter(|(label, _)| wanted(label))
        .map(|(label, value)| format!("{label} {value}"));
    let parts: Vec<String> = named.into_iter().chain(rest).collect();
    parts.join(", ")
}

/// The machine, in two lines: system and hardware.
pub(super) fn machine(report: &Report) -> [String; 2] {
    let host = &report.host;
    let mut system = vec![format!("Linux {} {}", host.kernel, host.machine).trim_end().to_owned()];
    system.extend([host.os.clone()].into_iter().filter(|os| !os.is_empty()));
    if host.uptime_seconds > 0.0 {
        system.push(format!("up {}", span(host.uptime_seconds)));
    }
    let cpus = if host.cpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", host.cpus) };
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut hardware = vec![cpus, format!("{} memory", bytes(host.memory_bytes as f64))];
    hardware.push(match (&host.virtualization, &host.cloud) {
        (Some(virtual_by), Some(cloud)) => format!("virtual ({virtual_by}, {cloud})"),
        (Some(virtual_by), None) => format!("virtual ({virtual_by})"),
        (None, Some(cloud)) => cloud.clone(),
        (None, None) => "no hypervisor found".to_owned(),
    });
    hardware.extend(host.container.as_ref().map(|container| format!("kerno in a container ({container})")));
    hardware.extend(host.kubernetes.then(|| "Kubernetes node".to_owned()));
    [system.join(", "), hardware.join(", ")]
}

/// The cost of observing.
pub(super) fn cost(report: &Report) -> String {
    let share = report.cost.cpu_seconds / report.window.seconds.max(1e-3);
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let memory = bytes(report.cost.resident_bytes as f64);
    format!("{} of one CPU, {memory} memory", quantity(share, Unit::Ratio))
}

/// What the kernel programs lost, one line per signal.
pub(super) fn losses(report: &Report) -> Vec<String> {
    let kernel = KernelVersion::parse(&report.host.kernel);
    report.cost.loss.iter().map(|(signal, loss)| format!("{signal}: {}", loss_in_words(*loss, kernel))).collect()
}

#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
fn loss_in_words(loss: SummaryLoss, kernel: KernelVersion) -> String {
    let skipped = if kernel.preempts_programs() {
        "of a program skipped by the kernel, because another task had been preempted in the middle of it (possible since Linux 7.0)"
    } else {
        "of a program skipped by the kernel"
    };
    let parts = [
        (loss.overflow, ["value", "values"], "did not fit, so the source is unknown"),
        (loss.untracked, ["start", "starts"], "could not be tracked"),
        (loss.missed_runs, ["run", "runs"], skipped),
    ];
    let told = parts.into_iter().filter(|(count, ..)| *count > 0).map(|(count, [one, many], what)| {
        let noun = if count == 1 { one } else { many };
        format!("{} {noun} {what}", number(count as f64))
    });
    told.collect::<Vec<_>>().join(", ")
}

/// What could not be observed, and why. Not escaped.
pub(super) fn unseen(missing: &Missing) -> String {
    match (missing.signal.as_str(), missing.what.as_str()) {
        (signal, "all") => format!("{signal}: {}", missing.reason),
        ("all", what) => format!("{what}: {}", missing.reason),
        (signal, what) => format!("{signal}, {what}: {}", missing.reason),
    }
}

/// The number of root causes of each severity: `2 root causes in 30 s: 1 critical, 1 warning.`
pub(super) fn verdict(report: &Report) -> String {
    let count = |severity| report.findings.iter().filter(|finding| finding.severity == severity).count();
    let counts: Vec<String> = [Severity::Critical, Severity::Warning, Severity::Info]
        .into_iter()
        .filter(|severity| count(*severity) > 0)
        .map(|severity| format!("{} {severity}", count(severity)))
        .collect();
    let window = span(report.window.seconds.round().max(1.0));
    match report.findings.len() {
        0 => format!("Healthy: nothing wrong found in {window}."),
        1 if report.healthy => format!("Healthy: no warnings in {window}, 1 finding for information."),
        n if report.healthy => format!("Healthy: no warnings in {window}, {n} findings for information."),
        1 => format!("1 root cause in {window}: {}.", counts.join(", ")),
        n => format!("{n} root causes in {window}: {}.", counts.join(", ")),
    }
}

/// The signals and what the rules look for in each: (signal, what).
pub(super) fn looked_for(report: &Report) -> Vec<(String, String)> {
    let titles = |signal: &str| {
        let rules = crate::rules().filter(|rule| rule.signal == signal);
        rules.map(|rule| lower_first(rule.title)).collect::<Vec<_>>().join("; ")
    };
    report.observed.iter().map(|signal| (signal.clone(), titles(signal))).collect()
}

/// Lower-cases a title for a list: `Storage fails` becomes `storage fails`, but `TCP` stays.
fn lower_first(title: &str) -> String {
    let mut chars = title.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if !second.is_uppercase() => first.to_lowercase().chain(chars).collect(),
        _ => title.to_owned(),
    }
}

/// The first measurement and its threshold, in words: `wait: 400 ms (threshold 50 ms)`.
pub(super) fn first_evidence(finding: &Diagnosis) -> Option<String> {
    let evidence = finding.evidence.first()?;
    let threshold = evidence.threshold.map(|at| format!(" (threshold {})", quantity(at, evidence.unit)));
    Some(format!("{}: {}{}", evidence.what, quantity(evidence.value, evidence.unit), threshold.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use kerno_model::fill;

    use super::*;

    fn began(since: Option<f64>) -> Diagnosis {
        Diagnosis {
            since,
            since_unix_ns: since.map(|_| 20_000_000_000),
            ..Diagnosis::made("fd_leak", "fd_track", Severity::Warning, "")
        }
    }

    #[test]
    fn times_are_utc() {
        assert_eq!((date(0.0), clock(0.0)), ("1970-01-01".into(), "00:00:00".into()));
        assert_eq!((date(951_826_154.0), clock(951_826_154.0)), ("2000-02-29".into(), "12:09:14".into()));
        assert_eq!((date(1_795_362_894.5), clock_ms(1_795_362_894.5)), ("2026-11-22".into(), "15:54:54.500".into()));
        assert_eq!(clock_ms(1.9999), "00:00:02.000");
        let window = fill!(Span { started_unix: 0.0, seconds: 30.0 });
        assert_eq!(since(&began(Some(18.0)), &window), "00:00:18 UTC, 12 s before the end");
        assert_eq!(since(&began(None), &window), "before 00:00:00 UTC, when the window began");
        let moment = fill!(Span { started_unix: 30.0 });
        assert_eq!(since(&began(Some(0.0)), &moment), "00:00:20 UTC");
        assert_eq!(since(&began(None), &moment), "before 00:00:30 UTC");
    }

    #[test]
    fn a_cgroup_is_told_where_it_says_something() {
        let labels = |cgroup: &str, unit: Option<&str>| {
            let culprit =
                Culprit { unit: unit.map(str::to_owned), cgroup: Some(cgroup.to_owned()), ..Culprit::default() };
            particulars(&culprit).into_iter().map(|(label, _)| label).collect::<Vec<_>>()
        };
        assert_eq!(labels("/", None), Vec::<&str>::new());
        assert_eq!(labels("/system.slice/a.service", Some("a.service")), ["unit"]);
        assert_eq!(labels("/system.slice/a.service/jail", Some("a.service")), ["unit", "cgroup"]);
        assert_eq!(labels("/jail", None), ["cgroup"]);
    }

    #[test]
    fn findings_for_information_leave_the_machine_healthy() {
        let notes = |count: usize| {
            let findings = (0..count).map(|_| Diagnosis::made("x", "y", Severity::Info, "z")).collect();
            verdict(&Report::with(&kerno_model::Window::default(), findings))
        };
        assert_eq!(notes(0), "Healthy: nothing wrong found in 1 s.");
        assert_eq!(notes(1), "Healthy: no warnings in 1 s, 1 finding for information.");
        assert_eq!(notes(2), "Healthy: no warnings in 1 s, 2 findings for information.");
    }

    #[test]
    fn many_findings_are_named_first() {
        let finding = |title: &str| Diagnosis::made("x", "y", Severity::Warning, title);
        let shown = |titles: &[&str]| {
            let findings = titles.iter().map(|title| finding(title)).collect();
            let report = Report::with(&kerno_model::Window::default(), findings);
            super::super::text(&report, &super::super::TextStyle { width: 80, color: false })
        };
        assert!(
            shown(&["one", "two"]).contains("2 warning.\n  1  one\n  2  two\n\nWARNING   one\n"),
            "{}",
            shown(&["one", "two"])
        );
        assert!(!shown(&["one"]).contains("1  one"));
    }

    #[test]
    fn what_was_not_seen_is_named_once() {
        let missing =
            |signal: &str, what: &str| fill!(Missing { signal: signal.into(), what: what.into(), reason: "r".into() });
        assert_eq!(unseen(&missing("disk_io", "all")), "disk_io: r");
        assert_eq!(unseen(&missing("all", "cgroups")), "cgroups: r");
        assert_eq!(unseen(&missing("disk_io", "files")), "disk_io, files: r");
        let lost = SummaryLoss { overflow: 1, untracked: 2, ..SummaryLoss::default() };
        assert_eq!(
            loss_in_words(lost, KernelVersion::default()),
            "1 value did not fit, so the source is unknown, 2 starts could not be tracked"
        );
        let skipped = SummaryLoss { missed_runs: 1, ..SummaryLoss::default() };
        assert_eq!(loss_in_words(skipped, KernelVersion::new(6, 18)), "1 run of a program skipped by the kernel");
        let why = "because another task had been preempted in the middle of it";
        assert!(loss_in_words(skipped, KernelVersion::new(7, 0)).contains(why));
    }

    #[test]
    fn what_is_to_be_copied_stays_as_it_is_unless_it_is_dangerous() {
        assert_eq!(verbatim("awk '{print \"\\n\"}'"), "awk '{print \"\\n\"}'");
        assert_eq!(verbatim("cat 'a\x1b[31m'"), "cat 'a\\x1b[31m'");
        assert_eq!(verbatim("cat 'a\\\x07'"), "cat 'a\\\\\\x07'");
    }
}
