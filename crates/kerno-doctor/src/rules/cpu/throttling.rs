use super::{is_within, seconds, shell_word};
use crate::{Culprit, Finding, Severity, Unit, rule};
use kerno_model::CgroupThrottle;
use kerno_model::Window;
use kerno_model::amount;

rule! {
    /// A cgroup wants more CPU time than its quota.
    CpuThrottling = "cpu_throttling", "sched_delay", "a cgroup is held back by its CPU quota",
    "The kernel counts, for each cgroup with a quota, the periods in which it ran and those in which it had used its quota up and \
     was stopped until the next one. A stop lasts up to a whole period (100 ms mostly), whatever else the CPUs do, and shows \
     as latency that no CPU graph explains. Now and then is normal; in a good share of the periods it is what limits the program. \
     A cgroup that ran in a few periods only is not judged; one and that above it, with the same process, are one finding.", judge;
    warning_share: 0.25 Ratio, 0.01 ..= 1.0, "share of its periods in which it was stopped, from where on it is found";
    critical_share: 0.75 Ratio, 0.01 ..= 1.0, "share from where on it is critical";
    min_periods: 10.0 Count, 1.0 ..= 100000.0, "periods it must have run in";
}

/// More findings than this would bury the rest.
const MAX_FINDINGS: usize = 5;

fn judge(window: &Window, rule: &CpuThrottling) -> Vec<Finding> {
    let Some(sched) = &window.sched_delay else { return Vec::new() };
    let mut found: Vec<&CgroupThrottle> = Vec::new();
    for cgroup in &sched.throttled {
        #[allow(clippy::cast_precision_loss, reason = "periods of a window")]
        let (periods, length) = (cgroup.periods as f64, cgroup.period_us as f64 / 1e6);
        // More than fit in are not of this window: the cgroup was not looked at when it began.
        let in_window = periods * length <= window.seconds() * 1.5 + 2.0 * length;
        let held_back = periods >= rule.min_periods && in_window && share(cgroup) >= rule.warning_share;
        // A pod and its only container have the same quota and are held back as one.
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
    let limit = cgroup.quota_us as f64 / cgroup.period_us.max(1) as f64;
    let top = cgroup.pids.first().copied();
    let name = top.and_then(|pid| window.process(pid)).map(|process| process.comm.clone());
    let who = match (top, &name) {
        (Some(pid), Some(name)) => format!("{name} ({pid}) in cgroup {}", cgroup.path),
        _ => format!("cgroup {}", cgroup.path),
    };
    let title =
        format!("{who} is held back by its limit of {limit:.2} CPUs in {} of its periods", amount::share(share));
    let mut finding = CpuThrottling::finding(severity, title)
        .measured("periods in which it was held back", share, Unit::Ratio, Some(rule.warning_share))
        .measured("periods in which it ran", cgroup.periods as f64, Unit::Count, None)
        .measured("time held back, summed over CPUs", seconds(cgroup.throttled_ns), Unit::Seconds, None)
        .measured("its limit, in CPUs", limit, Unit::Count, None)
        .measured("CPUs that it used", seconds(cgroup.used_ns) / window.seconds(), Unit::Count, None);
    finding.culprit = top.map_or_else(Culprit::default, |pid| Culprit::process(window, pid, ""));
    finding.culprit.cgroup = Some(cgroup.path.clone());
    let others = cgroup.pids.iter().skip(1).filter(|pid| window.process(**pid).is_some_and(|p| p.used.run_ns > 0));
    finding.victims = others.map(|pid| Culprit::process(window, *pid, "")).collect();
    finding.cause = format!(
        "It may use {:.1} ms of CPU time in {:.1} ms and wants more; then all of it is stopped until the next period begins.",
        cgroup.quota_us as f64 / 1e3,
        cgroup.period_us as f64 / 1e3
    );
    finding.impact = format!(
        "Whatever it does stands still for up to {:.0} ms at a time, although CPUs may be idle.",
        cgroup.period_us as f64 / 1e3
    );
    finding.excess = share / rule.warning_share;
    finding.confidence = 0.95;
    with_fixes(finding, cgroup)
}

fn with_fixes(finding: Finding, cgroup: &CgroupThrottle) -> Finding {
    let file = shell_word(&cgroup.file);
    let stat = shell_word(&match cgroup.file.rsplit_once('/') {
        Some((dir, _)) => format!("{dir}/cpu.stat"),
        None => "cpu.stat".into(),
    });
    let doubled = cgroup.quota_us.saturating_mul(2);
    let finding = finding
        .look(format!("cat {file}"), "its quota: microseconds of CPU time in each period")
        .look(format!("cat {stat}"), "periods, and those in which it was held back; twice, to see it grow");
    let finding = if cgroup.v2 {
        finding.change(
            format!("echo \"{doubled} {}\" > {file}", cgroup.period_us),
            "doubles the quota, until it is set anew",
        )
    } else {
        finding.change(format!("echo {doubled} > {file}"), "doubles the quota, until it is set anew")
    };
    let unit = cgroup.path.rsplit('/').next().unwrap_or_default();
    if [".service", ".scope", ".slice"].iter().any(|kind| unit.ends_with(kind)) {
        let share = doubled.saturating_mul(100) / cgroup.period_us.max(1);
        let command = format!("systemctl set-property {} CPUQuota={share}%", shell_word(unit));
        return finding.change(command, "the same for good, by systemd");
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Effect, Thresholds};
    use kerno_model::Process;
    use kerno_model::SchedSummary;

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
            finding.title,
            "nginx (4711) in cgroup /app/web.service is held back by its limit of 0.50 CPUs in 25 % of its periods"
        );
        assert_eq!((finding.culprit.pid, finding.culprit.cgroup.as_deref()), (Some(4711), Some("/app/web.service")));
        let change = finding.fixes.iter().find(|fix| fix.effect == Effect::Changing).unwrap();
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
        assert_eq!(judged(vec![half("/pod/app", 50, 7), half("/pod", 50, 7)]).len(), 1);
        assert_eq!(judged(vec![half("/pod/app", 50, 7), half("/pod/db", 50, 8), half("/podium", 50, 7)]).len(), 3);
    }

    #[test]
    fn periods_of_other_days_are_not_of_this_window() {
        assert!(judged(vec![half("/app", 800_000, 7)]).is_empty());
    }
}
