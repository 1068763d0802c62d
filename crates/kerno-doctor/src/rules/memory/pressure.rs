use super::{advise_cgroup, advise_machine, culprit, named, user_of_memory};
use crate::{Culprit, Finding, Severity, Unit, rule};
use kerno_model::CgroupMemory;
use kerno_model::amount::share;
use kerno_model::{Process, Window};

/// How many of those who wait are named.
const MAX_VICTIMS: usize = 5;

rule! {
    /// Tasks wait for memory.
    MemoryPressure = "memory_pressure", "oom_track", "tasks wait for memory: reclaim, swapping, thrashing",
        "Time that tasks were stalled for want of memory (PSI). Where the kernel does not tell that: tasks that reclaim memory \
         themselves (direct reclaim) while pages that were dropped are read again at once (refaults). Reclaim in the background and a \
         full page cache are normal.",
        memory_pressure;
    some_stalled: 0.1 Ratio, 0.0 ..= 1.0, "share of the window in which some task waited for memory";
    all_stalled: 0.05 Ratio, 0.0 ..= 1.0, "share in which all that had work waited";
    critical_all_stalled: 0.3 Ratio, 0.0 ..= 1.0, "critical when all waited for this share";
    reclaims_per_second: 100.0 PerSecond, 0.0 ..= 1e9, "without PSI: direct reclaims a second";
    refaults_per_second: 1000.0 PerSecond, 0.0 ..= 1e9, "without PSI: pages read again a second";
    cgroup_full: 0.9 Ratio, 0.1 ..= 1.0, "use of its limit from where on a cgroup is what memory is short in";
}

#[allow(clippy::cast_precision_loss, reason = "counts of a window")]
fn memory_pressure(window: &Window, rule: &MemoryPressure) -> Vec<Finding> {
    let Some(part) = &window.oom_track else { return Vec::new() };
    let rate = |count: u64| count as f64 / window.seconds();
    let (reclaims, refaults) = (rate(part.direct_reclaims), rate(part.refaulted_pages));
    let excess = match part.some_stalled {
        Some(some) => {
            let all = part.all_stalled.unwrap_or(0.0);
            (some / rule.some_stalled.max(1e-9)).max(all / rule.all_stalled.max(1e-9))
        }
        None => (reclaims / rule.reclaims_per_second.max(1e-9)).min(refaults / rule.refaults_per_second.max(1e-9)),
    };
    if excess < 1.0 {
        return Vec::new();
    }
    let all = part.all_stalled.unwrap_or(0.0);
    let cgroup = part.cgroups.iter().filter(|cgroup| is_short(rule, cgroup)).max_by(|a, b| {
        let stalled = |cgroup: &CgroupMemory| cgroup.some_stalled.unwrap_or(0.0);
        stalled(a).total_cmp(&stalled(b)).then(a.limit_hits.cmp(&b.limit_hits))
    });
    let process = user_of_memory(window, cgroup.map_or("/", |cgroup| &cgroup.path), 0.0);
    let place = cgroup.map_or_else(|| "the machine's memory".to_owned(), |cgroup| format!("cgroup {}", cgroup.path));
    let who = named(process, "a process");
    let title = match part.some_stalled {
        Some(some) => format!("{who} keeps {place} short: tasks waited for memory {} of the time", share(some)),
        None => format!("{who} keeps {place} short: {reclaims:.0} direct reclaims a second"),
    };
    let severity = if all >= rule.critical_all_stalled { Severity::Critical } else { Severity::Warning };
    let mut finding = MemoryPressure::finding(severity, title);
    finding.cause = if refaults >= rule.refaults_per_second {
        "What is in use does not fit: pages that were just dropped are needed and read again at once (thrashing)."
            .into()
    } else {
        "There is too little free memory, so that tasks must reclaim some themselves before they go on.".into()
    };
    finding.impact = "Whoever allocates memory or touches a page that was dropped stands still meanwhile.".into();
    if let Some(some) = part.some_stalled {
        finding = finding
            .measured("share of the window some task waited for memory", some, Unit::Ratio, Some(rule.some_stalled))
            .measured("share of the window all tasks with work waited", all, Unit::Ratio, Some(rule.all_stalled));
    }
    finding = finding
        .measured("direct reclaims a second", reclaims, Unit::PerSecond, Some(rule.reclaims_per_second))
        .measured(
            "pages read again soon after they were dropped, a second",
            refaults,
            Unit::PerSecond,
            Some(rule.refaults_per_second),
        )
        .measured("page faults that needed storage, a second", rate(part.major_faults), Unit::PerSecond, None)
        .measured("pages written to swap a second", rate(part.swapped_out_pages), Unit::PerSecond, None)
        .measured("available memory", part.available_bytes.last().unwrap_or(0.0), Unit::Bytes, None);
    finding.culprit = culprit(window, process, cgroup.map(|cgroup| cgroup.path.as_str()));
    finding.victims = victims(window, finding.culprit.pid);
    finding.excess = excess;
    finding.confidence = if part.some_stalled.is_some() { 0.85 } else { 0.7 };
    finding = finding.look("cat /proc/pressure/memory; vmstat 1 5", "whether it goes on");
    vec![match cgroup {
        Some(cgroup) => advise_cgroup(finding, cgroup),
        None => advise_machine(finding, process.is_some_and(|process| !process.alive)),
    }]
}

/// Whether memory is short in this cgroup rather than in the machine.
#[allow(clippy::cast_precision_loss, reason = "bytes")]
fn is_short(rule: &MemoryPressure, cgroup: &CgroupMemory) -> bool {
    let stalled = cgroup.some_stalled.map_or(cgroup.limit_hits > 0, |stalled| stalled >= rule.some_stalled);
    let used = cgroup.used_bytes.max().unwrap_or(0.0) / cgroup.limit_bytes.max(1) as f64;
    // Its page cache can be what does not fit, too.
    stalled && (used >= rule.cgroup_full || cgroup.limit_hits > 0)
}

/// Those who waited for reclaim, or for pages to be read again.
fn victims(window: &Window, culprit: Option<u32>) -> Vec<Culprit> {
    let waited = |process: &Process| (process.used.reclaim_delay_ns, process.used.major_faults);
    let mut processes: Vec<_> = window
        .processes
        .values()
        .filter(|process| Some(process.pid) != culprit && !process.kernel_thread && waited(process) > (0, 0))
        .collect();
    processes.sort_by_key(|process| std::cmp::Reverse(waited(process)));
    processes
        .into_iter()
        .take(MAX_VICTIMS)
        .map(|process| Culprit::process(window, process.pid, &process.comm))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use kerno_model::TaskUse;
    use kerno_model::{OomSummary, ProcessMemory};

    fn judge(part: OomSummary) -> Vec<Finding> {
        let mut window = Window { oom_track: Some(part), ..Window::default() };
        window.span.seconds = 10.0;
        let used = TaskUse { major_faults: 500, ..TaskUse::default() };
        window.processes.insert(9, Process { pid: 9, comm: "slow".into(), used, ..Process::default() });
        memory_pressure(&window, &MemoryPressure::with(&Thresholds::default()))
    }

    fn pressure(some: f64, all: f64) -> OomSummary {
        let hog = ProcessMemory {
            pid: 4,
            comm: "hog".into(),
            alive: true,
            anon_bytes: [(0.0, 1e9)].into_iter().collect(),
            ..ProcessMemory::default()
        };
        let processes = vec![hog];
        OomSummary { some_stalled: Some(some), all_stalled: Some(all), processes, ..OomSummary::default() }
    }

    #[test]
    fn stalls_are_found_with_who_holds_and_who_waits() {
        let findings = judge(pressure(0.4, 0.02));
        let [finding] = &findings[..] else { panic!("one finding") };
        assert_eq!(finding.title, "hog (4) keeps the machine's memory short: tasks waited for memory 40 % of the time");
        assert_eq!(
            (finding.culprit.pid, finding.victims[0].pid, finding.severity),
            (Some(4), Some(9), Severity::Warning)
        );
        assert!((finding.excess - 4.0).abs() < 1e-9);
        assert_eq!(judge(pressure(0.5, 0.4))[0].severity, Severity::Critical);
    }

    #[test]
    fn reclaim_without_stalls_is_normal() {
        let busy = OomSummary { direct_reclaims: 50_000, refaulted_pages: 90_000, ..pressure(0.03, 0.0) };
        assert!(judge(busy).is_empty());
        assert!(judge(OomSummary::default()).is_empty());
    }

    #[test]
    fn without_psi_reclaim_and_refaults_together_tell() {
        let part = |reclaims, refaults| OomSummary {
            direct_reclaims: reclaims,
            refaulted_pages: refaults,
            ..OomSummary::default()
        };
        assert!(judge(part(5000, 0)).is_empty() && judge(part(0, 90_000)).is_empty());
        assert_eq!(judge(part(5000, 90_000)).len(), 1);
    }

    #[test]
    fn a_cgroup_at_its_limit_is_told_from_the_machine() {
        let cgroup = CgroupMemory { path: "/app".into(), limit_bytes: 100, limit_hits: 80, ..CgroupMemory::default() };
        let findings = judge(OomSummary { cgroups: vec![cgroup], ..pressure(0.4, 0.0) });
        assert_eq!(findings[0].culprit.cgroup.as_deref(), Some("/app"));
    }
}
