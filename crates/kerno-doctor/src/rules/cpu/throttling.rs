use kerno_model::amount::{millis, share as percent};
use kerno_model::paths::is_within;
use kerno_model::{CgroupThrottle, Entity, Fact, Finding, Limit, Safety, Scope, Severity, Subject, Unit, Window};

use super::{cpus, seconds};
use crate::shell::word;
use crate::title::title;
use crate::{Words, rule};

rule! {
    /// A cgroup wants more CPU time than its quota allows.
    CpuThrottling = "cpu_throttling", "sched_delay", "a cgroup is throttled by its CPU quota",
        "The kernel counts, for each cgroup with a quota, the periods in which it ran and the periods in which it used up its quota \
         and was stopped until the next one. A stop can last most of a period (usually 100 ms) even while CPUs are idle, and shows up \
         as latency that no CPU graph explains. A stop now and then is normal; stops in a large share of the periods mean that the \
         quota limits the program. Does not judge a cgroup that ran in a few periods only. Reports a cgroup and its parent once if \
         the same process is the busiest in both.",
        judge, words;
    causes: [HeldBackByQuota];
    suffers: [];
    thresholds: {
        warning_share: 0.25 Ratio, 0.01 ..= 1.0, "share of periods with a stop that counts as a problem";
        critical_share: 0.75 Ratio, 0.01 ..= 1.0, "share of periods with a stop that is critical";
        min_periods: 10.0 Count, 1.0 ..= 100000.0, "periods that the cgroup must have run in";
    }
    evidence: {
        throttled: "share of periods in which it was throttled";
        periods: "periods in which it ran";
        throttled_seconds: "time throttled, summed over CPUs";
        limit: "limit, in CPUs";
        used: "CPUs used";
    }
}

/// The most findings; more would bury the rest.
const MAX_FINDINGS: usize = 5;

fn judge(window: &Window, rule: &CpuThrottling) -> Vec<Finding> {
    let Some(sched) = &window.sched_delay else { return Vec::new() };
    let mut found: Vec<&CgroupThrottle> = Vec::new();
    for cgroup in &sched.throttled {
        #[allow(clippy::cast_precision_loss, reason = "periods of a window")]
        let (periods, length) = (cgroup.periods as f64, cgroup.period_us as f64 / 1e6);
        // More periods than fit into the window mean that the counters were not read when it started.
        let in_window = periods * length <= window.seconds() * 1.5 + 2.0 * length;
        let held_back = periods >= rule.min_periods && in_window && share(cgroup) >= rule.warning_share;
        // A pod and its only container have the same quota and are throttled together.
        let same = |other: &&CgroupThrottle| {
            (is_within(&cgroup.path, &other.path) || is_within(&other.path, &cgroup.path))
                && cgroup.pids.first() == other.pids.first()
        };
        if held_back && !found.iter().any(same) {
            found.push(cgroup);
        }
    }
    found.into_iter().take(MAX_FINDINGS).map(|cgroup| finding(window, rule, cgroup, share(cgroup))).collect()
}

#[allow(clippy::cast_precision_loss, reason = "periods of a window")]
fn share(cgroup: &CgroupThrottle) -> f64 {
    cgroup.throttled_periods as f64 / cgroup.periods.max(1) as f64
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a period")]
fn finding(window: &Window, rule: &CpuThrottling, cgroup: &CgroupThrottle, share: f64) -> Finding {
    let severity = if share >= rule.critical_share { Severity::Critical } else { Severity::Warning };
    let period_us = cgroup.period_us.max(1) as f64;
    let top = cgroup.pids.first().copied();
    let mut subject = top.map_or_else(Subject::default, |pid| Subject::process(window, pid, ""));
    subject.cgroup = Some(cgroup.path.clone());
    let mut finding = CpuThrottling::finding(severity)
        .about(subject)
        .fact(Fact::Scope(Scope::Cgroup(cgroup.path.clone())))
        .fact(Fact::AtLimit(Limit::CgroupCpu))
        .detail("quota", (cgroup.quota_us as f64, Unit::Microseconds))
        .detail("period", (cgroup.period_us as f64, Unit::Microseconds))
        .measured("throttled", share, Unit::Ratio, Some(rule.warning_share))
        .measured("periods", cgroup.periods as f64, Unit::Count, None)
        .measured("throttled_seconds", seconds(cgroup.throttled_ns), Unit::Seconds, None)
        .measured("limit", cgroup.quota_us as f64 / period_us, Unit::Count, None)
        .measured("used", seconds(cgroup.used_ns) / window.seconds(), Unit::Count, None);
    let others = cgroup.pids.iter().skip(1);
    let running = others.filter(|pid| window.process(**pid).is_some_and(|process| process.used.run_ns > 0));
    finding.victims = running.map(|pid| Subject::process(window, *pid, "")).collect();
    finding.excess = share / rule.warning_share;
    finding.confidence = 0.95;
    with_fixes(finding, cgroup)
}

fn with_fixes(finding: Finding, cgroup: &CgroupThrottle) -> Finding {
    let file = word(&cgroup.file);
    let stat = word(&match cgroup.file.rsplit_once('/') {
        Some((dir, _)) => format!("{dir}/cpu.stat"),
        None => "cpu.stat".into(),
    });
    let doubled = cgroup.quota_us.saturating_mul(2);
    let write = if cgroup.v2 {
        format!("echo \"{doubled} {}\" > {file}", cgroup.period_us)
    } else {
        format!("echo {doubled} > {file}")
    };
    let itself = || Entity::Cgroup(cgroup.path.clone());
    let finding = finding
        .fix(
            itself(),
            Safety::ReadOnly,
            format!("cat {file}"),
            "shows its quota, in microseconds of CPU time per period",
        )
        .fix(
            itself(),
            Safety::ReadOnly,
            format!("cat {stat}"),
            "counts its periods and those in which it was throttled; repeat it to see them grow",
        )
        .fix(itself(), Safety::Changing, write, "doubles the quota, until something sets it again");
    let unit = cgroup.path.rsplit('/').next().unwrap_or_default();
    if [".service", ".scope", ".slice"].iter().any(|kind| unit.ends_with(kind)) {
        let share = doubled.saturating_mul(100) / cgroup.period_us.max(1);
        let command = format!("systemctl set-property {} CPUQuota={share}%", word(unit));
        return finding.fix(
            Entity::Unit(unit.to_owned()),
            Safety::Changing,
            command,
            "doubles it for good, through systemd",
        );
    }
    finding
}

fn words(finding: &Finding) -> Words {
    let process = finding.subject.process.as_ref().filter(|process| !process.comm.is_empty());
    let who = match (process, finding.subject.cgroup.as_deref()) {
        (Some(process), Some(path)) => format!("{process} in cgroup {path}"),
        (Some(process), None) => process.to_string(),
        (None, Some(path)) => format!("cgroup {path}"),
        (None, None) => "a cgroup".to_owned(),
    };
    let limit = match finding.number("limit") {
        Some(limit) => format!("limit of {}", cpus(limit)),
        None => "CPU limit".to_owned(),
    };
    let throttled = finding.number("throttled").map(|share| format!("{} of its periods", percent(share)));
    let period = finding.number("period").map(|period_us| millis(period_us / 1e3));
    let quota = finding.number("quota").map(|quota_us| millis(quota_us / 1e3));
    let cause = match (quota, &period) {
        (Some(quota), Some(period)) => format!(
            "It may use {quota} of CPU time in every {period} and wants more. Once that is used up, the kernel stops all its tasks \
             until the next period."
        ),
        _ => "It wants more CPU time than its quota. Once that is used up, the kernel stops all its tasks until the next period."
            .to_owned(),
    };
    let pause = period.map_or_else(String::new, |period| format!(" for up to {period} at a time"));
    Words {
        title: title(&format!("{who} is throttled by its {limit}"), [throttled]),
        cause,
        impact: format!("Its tasks stop{pause}, even while CPUs are idle."),
        outlook: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use crate::rules::testing::words_hold;
    use kerno_model::{Process, SchedSummary};

    fn throttled(periods: u64, throttled_periods: u64, v2: bool) -> Vec<Finding> {
        let file = if v2 { "cpu.max" } else { "cpu.cfs_quota_us" };
        let cgroup = CgroupThrottle {
            path: "/app/web.service".into(),
            v2,
            file: format!("/sys/fs/cgroup/app/web.service/{file}"),
            quota_us: 50_000,
            period_us: 100_000,
            periods,
            throttled_periods,
            throttled_ns: 1_500_000_000,
            used_ns: 2_500_000_000,
            pids: vec![4711],
        };
        let mut window = Window::default();
        window.span.seconds = 5.0;
        window.sched_delay = Some(SchedSummary { throttled: vec![cgroup], ..SchedSummary::default() });
        window.processes.insert(4711, Process { pid: 4711, comm: "nginx".into(), ..Process::default() });
        judge(&window, &CpuThrottling::with(&Thresholds::default()))
    }

    #[test]
    fn a_cgroup_held_back_is_found_with_its_process_and_file() {
        assert!(throttled(50, 12, true).is_empty(), "below the share");
        assert!(throttled(9, 9, true).is_empty(), "too few periods to tell");
        let found = throttled(52, 13, true);
        let [finding] = &found[..] else { panic!("{found:?}") };
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(
            crate::words(finding).title,
            "nginx (4711) in cgroup /app/web.service is throttled by its limit of 0.5 CPUs: 25 % of its periods"
        );
        assert_eq!((finding.pid(), finding.subject.cgroup.as_deref()), (Some(4711), Some("/app/web.service")));
        assert!(finding.is_at(Limit::CgroupCpu));
        assert_eq!(finding.scope(), Some(&Scope::Cgroup("/app/web.service".into())));
        let change = finding.fixes.iter().find(|fix| fix.effect == Safety::Changing).unwrap();
        assert_eq!(change.command, "echo \"100000 100000\" > /sys/fs/cgroup/app/web.service/cpu.max");
        assert!(finding.fixes.iter().any(|fix| fix.command == "systemctl set-property web.service CPUQuota=100%"));
        assert_eq!(throttled(50, 45, true)[0].severity, Severity::Critical);
    }

    #[test]
    fn v1_has_its_own_files() {
        let found = throttled(50, 45, false);
        let commands: Vec<_> = found[0].fixes.iter().map(|fix| fix.command.as_str()).collect();
        assert!(commands.contains(&"cat /sys/fs/cgroup/app/web.service/cpu.cfs_quota_us"), "{commands:?}");
        assert!(commands.contains(&"cat /sys/fs/cgroup/app/web.service/cpu.stat"));
        assert!(commands.contains(&"echo 100000 > /sys/fs/cgroup/app/web.service/cpu.cfs_quota_us"));
    }

    fn judged(cgroups: Vec<CgroupThrottle>) -> Vec<Finding> {
        let mut window = Window::default();
        window.span.seconds = 5.0;
        window.sched_delay = Some(SchedSummary { throttled: cgroups, ..SchedSummary::default() });
        judge(&window, &CpuThrottling::with(&Thresholds::default()))
    }

    fn half(path: &str, periods: u64, pid: u32) -> CgroupThrottle {
        let (path, pids) = (path.to_owned(), vec![pid]);
        CgroupThrottle {
            path,
            pids,
            periods,
            throttled_periods: periods / 2,
            quota_us: 1,
            period_us: 100_000,
            ..CgroupThrottle::default()
        }
    }

    #[test]
    fn a_pod_and_its_container_are_one() {
        let one = judged(vec![half("/pod/app", 50, 7), half("/pod", 50, 7)]);
        assert_eq!(one.len(), 1);
        assert!(crate::words(&one[0]).title.starts_with("cgroup /pod/app is throttled"), "its process is not known");
        assert_eq!(judged(vec![half("/pod/app", 50, 7), half("/pod/db", 50, 8), half("/podium", 50, 7)]).len(), 3);
    }

    #[test]
    fn periods_of_other_days_are_not_of_this_window() {
        assert!(judged(vec![half("/app", 800_000, 7)]).is_empty());
    }

    #[test]
    fn words_are_made_of_the_finding_alone() {
        words_hold(&throttled(50, 45, true)[0]);
        words_hold(&judged(vec![half("/pod/app", 50, 7)])[0]);
    }
}
