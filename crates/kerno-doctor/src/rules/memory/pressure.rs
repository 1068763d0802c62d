mod thrashing;

use kerno_model::amount::{quantity, share};
use kerno_model::{CgroupMemory, Effect, Fact, Finding, Process, Scope, Severity, Subject, Unit, WaitsFor, Window};

use self::thrashing::thrashes;
use super::{CGROUP, MACHINE, advise_cgroup, advise_machine, place, subject, user, user_of_memory};
use crate::title::title;
use crate::{Words, rule, suffers};

/// How many of those who wait are named.
const MAX_VICTIMS: usize = 5;

rule! {
    /// Tasks wait for memory.
    MemoryPressure = "memory_pressure", "oom_track", "tasks wait for memory: reclaim, swapping, thrashing",
        "Uses the time that tasks stalled on memory (PSI), and of each cgroup at its limit the page faults that needed storage: pages of \
         files that it drops at its limit and reads again at once. The kernel counts waits for such pages as I/O as long as none of them \
         is used twice in a row, so PSI need not show them. Where the kernel does not have PSI, tasks must reclaim memory themselves \
         (direct reclaim) while dropped pages are soon read again (refaults). Reclaim in the background and a full page cache are \
         normal.",
        judge, words;
    causes: [MemoryShort];
    suffers: [
        suffers(Effect::StorageSlow, |t, a, b| t.memory_waits_for_disk(a, b), "pages come back from the device too slowly"),
        suffers(Effect::MemoryRanOut, |t, a, b| t.same_memory(a, b), "tasks waited for memory until the kill"),
        suffers(Effect::MemoryRunsOut, |t, a, b| t.same_memory(a, b), "tasks wait for memory to be reclaimed"),
    ];
    thresholds: {
        some_stalled: 0.1 Ratio, 0.0 ..= 1.0, "share of the window in which some task waited for memory";
        all_stalled: 0.05 Ratio, 0.0 ..= 1.0, "share of the window in which all tasks with work waited for memory";
        critical_all_stalled: 0.3 Ratio, 0.0 ..= 1.0, "critical when all tasks with work waited for this share";
        reclaims_per_second: 100.0 PerSecond, 0.0 ..= 1e9, "without PSI: direct reclaims per second";
        refaults_per_second: 1000.0 PerSecond, 0.0 ..= 1e9, "without PSI: pages read again per second";
        cgroup_faults_per_second: 100.0 PerSecond, 1.0 ..= 1e9, "major faults per second of a cgroup at its limit, of which a good part are for pages that it had dropped";
        fault_share: 0.2 Ratio, 0.0 ..= 1.0, "share of the window that one of its processes spent in such faults";
        cgroup_full: 0.9 Ratio, 0.1 ..= 1.0, "share of its limit in use above which a cgroup itself is short of memory";
    }
    evidence: {
        some_stalled: "share of the window in which some task waited for memory";
        all_stalled: "share of the window in which all tasks with work waited for memory";
        reclaims_per_second: "direct reclaims";
        refaults_per_second: "pages read again soon after they were dropped";
        major_faults_per_second: "page faults that needed storage";
        swapped_out_per_second: "pages written to swap";
        cgroup_faults_per_second: "page faults in the cgroup that needed storage";
        cgroup_refaults_per_second: "pages that it read again soon after it had dropped them";
        limit_hits_per_second: "times that the cgroup reached its limit";
        fault_share: "share of the window that the process spent in such faults";
        available_bytes: "available memory";
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of a window")]
fn judge(window: &Window, rule: &MemoryPressure) -> Vec<Finding> {
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
    let thrashing = part.cgroups.iter().filter_map(|cgroup| Some((cgroup, thrashes(window, rule, cgroup)?)));
    let thrashing = thrashing.max_by(|a, b| a.1.excess().total_cmp(&b.1.excess()));
    let excess = excess.max(thrashing.as_ref().map_or(0.0, |(_, thrashing)| thrashing.excess()));
    if excess < 1.0 {
        return Vec::new();
    }
    let all = part.all_stalled.unwrap_or(0.0);
    let short = part.cgroups.iter().filter(|cgroup| is_short(rule, cgroup)).max_by(|a, b| {
        let stalled = |cgroup: &CgroupMemory| cgroup.some_stalled.unwrap_or(0.0);
        stalled(a).total_cmp(&stalled(b)).then(a.limit_hits.cmp(&b.limit_hits))
    });
    let cgroup = thrashing.as_ref().map(|(cgroup, _)| *cgroup).or(short);
    let process = user_of_memory(window, cgroup.map_or("/", |cgroup| &cgroup.path), 0.0);
    // One that is small beside the machine's largest is still the largest in its cgroup.
    let largest = cgroup.and_then(|cgroup| cgroup.largest.first()).map(|holder| (holder.pid, holder.comm.as_str()));
    let who = match (&thrashing, process) {
        (Some((_, thrashing)), _) => Some((thrashing.pid, thrashing.comm.as_str())),
        (None, Some(process)) => Some((process.pid, process.comm.as_str())),
        (None, None) => largest,
    };
    let severity = if all >= rule.critical_all_stalled { Severity::Critical } else { Severity::Warning };
    let mut finding = MemoryPressure::finding(severity)
        .variant(if cgroup.is_some() { CGROUP } else { MACHINE })
        .about(subject(window, who, cgroup.map(|cgroup| cgroup.path.as_str())))
        .fact(Fact::Scope(cgroup.map_or(Scope::Machine, |cgroup| Scope::Cgroup(cgroup.path.clone()))))
        .fact(Fact::WaitsFor(WaitsFor::Memory));
    finding = match &thrashing {
        Some((_, thrashing)) => thrashing.describe(finding),
        None => finding.detail("thrashing", refaults >= rule.refaults_per_second),
    };
    if let Some(some) = part.some_stalled {
        finding = finding.measured("some_stalled", some, Unit::Ratio, Some(rule.some_stalled)).measured(
            "all_stalled",
            all,
            Unit::Ratio,
            Some(rule.all_stalled),
        );
    }
    finding = finding
        .measured("reclaims_per_second", reclaims, Unit::PerSecond, Some(rule.reclaims_per_second))
        .measured("refaults_per_second", refaults, Unit::PerSecond, Some(rule.refaults_per_second))
        .measured("major_faults_per_second", rate(part.major_faults), Unit::PerSecond, None)
        .measured("swapped_out_per_second", rate(part.swapped_out_pages), Unit::PerSecond, None)
        .measured("available_bytes", part.available_bytes.last().unwrap_or(0.0), Unit::Bytes, None);
    finding.victims = victims(window, finding.pid(), cgroup);
    finding.excess = excess;
    finding.confidence = if part.some_stalled.is_some() { 0.85 } else { 0.7 };
    finding = finding.look("cat /proc/pressure/memory; vmstat 1 5", "shows whether it goes on");
    vec![match cgroup {
        Some(cgroup) => advise_cgroup(finding, cgroup),
        None => advise_machine(finding, process.is_some_and(|process| !process.alive)),
    }]
}

fn words(finding: &Finding) -> Words {
    let stalled = finding.number("some_stalled").map(|some| format!("tasks waited for it {} of the time", share(some)));
    let faults = finding.number("cgroup_faults_per_second");
    let faults = faults.map(|faults| format!("major faults at {}", quantity(faults, Unit::PerSecond)));
    let part = finding.number("fault_share").map(|part| format!("{} of its time in them", share(part)));
    let reclaims = finding.number("reclaims_per_second");
    let reclaims = reclaims.map(|reclaims| format!("direct reclaims at {}", quantity(reclaims, Unit::PerSecond)));
    let what = format!("{} keeps {} short of memory", user(finding), place(finding));
    let cause = if faults.is_some() {
        "What its processes need does not fit into the memory limit: at the limit the kernel drops pages of their programs and files, which \
         are needed at once, so that they are read from storage again and again (thrashing). Reads of the disk are a consequence."
    } else if finding.flag("thrashing") {
        "The memory in use does not fit: pages are dropped, needed again at once, and read back (thrashing)."
    } else {
        "Free memory is short, so tasks have to reclaim some themselves before they can go on (direct reclaim)."
    };
    Words {
        title: match faults {
            Some(_) => title(&what, [faults, part]),
            None => title(&what, [stalled.or(reclaims)]),
        },
        cause: cause.to_owned(),
        impact: "Tasks that allocate memory or touch a dropped page have to wait.".to_owned(),
        outlook: String::new(),
    }
}

/// Whether memory is short in this cgroup rather than in the machine.
#[allow(clippy::cast_precision_loss, reason = "bytes")]
fn is_short(rule: &MemoryPressure, cgroup: &CgroupMemory) -> bool {
    let stalled = cgroup.some_stalled.map_or(cgroup.limit_hits > 0, |stalled| stalled >= rule.some_stalled);
    let used = cgroup.used_bytes.max().unwrap_or(0.0) / cgroup.limit_bytes.max(1) as f64;
    // Its page cache can be what does not fit, too.
    stalled && (used >= rule.cgroup_full || cgroup.limit_hits > 0)
}

/// Those who waited for reclaim, or for pages to be read again; where a cgroup is short, only its own.
fn victims(window: &Window, culprit: Option<u32>, cgroup: Option<&CgroupMemory>) -> Vec<Subject> {
    let memory = || window.oom_track.iter().flat_map(|memory| &memory.processes);
    let inside = |pid: u32| {
        cgroup.is_none_or(|cgroup| {
            let path = memory().find(|process| process.pid == pid).and_then(|process| process.cgroup.as_deref());
            cgroup.largest.iter().any(|holder| holder.pid == pid)
                || path.is_some_and(|path| kerno_model::paths::is_within(path, &cgroup.path))
        })
    };
    let waited = |process: &Process| (process.used.reclaim_delay_ns, process.used.major_faults);
    let mut processes: Vec<_> = window
        .processes
        .values()
        .filter(|process| Some(process.pid) != culprit && !process.kernel_thread && inside(process.pid))
        .filter(|process| waited(process) > (0, 0))
        .collect();
    processes.sort_by_key(|process| std::cmp::Reverse(waited(process)));
    processes
        .into_iter()
        .take(MAX_VICTIMS)
        .map(|process| Subject::process(window, process.pid, &process.comm))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use crate::rules::testing::words_hold;
    use kerno_model::fill;
    use kerno_model::{OomSummary, ProcessMemory, TaskUse};

    fn found(part: OomSummary) -> Vec<Finding> {
        let mut window = fill!(Window { oom_track: Some(part) });
        window.span.seconds = 10.0;
        let used = TaskUse { major_faults: 500, ..TaskUse::default() };
        window.processes.insert(9, Process { pid: 9, comm: "slow".into(), used, ..Process::default() });
        judge(&window, &MemoryPressure::with(&Thresholds::default()))
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

    fn title(finding: &Finding) -> String {
        crate::words(finding).title
    }

    #[test]
    fn stalls_are_found_with_who_holds_and_who_waits() {
        let findings = found(pressure(0.4, 0.02));
        let [finding] = &findings[..] else { panic!("one finding") };
        assert_eq!(title(finding), "hog (4) keeps the machine short of memory: tasks waited for it 40 % of the time");
        assert_eq!((finding.scope(), &*finding.variant), (Some(&Scope::Machine), "machine"));
        assert_eq!((finding.pid(), finding.victims[0].pid(), finding.severity), (Some(4), Some(9), Severity::Warning));
        assert!((finding.excess - 4.0).abs() < 1e-9);
        assert_eq!(found(pressure(0.5, 0.4))[0].severity, Severity::Critical);
    }

    #[test]
    fn reclaim_without_stalls_is_normal() {
        let busy = OomSummary { direct_reclaims: 50_000, refaulted_pages: 90_000, ..pressure(0.03, 0.0) };
        assert!(found(busy).is_empty());
        assert!(found(OomSummary::default()).is_empty());
    }

    #[test]
    fn without_psi_reclaim_and_refaults_together_tell() {
        let part = |reclaims, refaults| OomSummary {
            direct_reclaims: reclaims,
            refaulted_pages: refaults,
            ..OomSummary::default()
        };
        assert!(found(part(5000, 0)).is_empty() && found(part(0, 90_000)).is_empty());
        let findings = found(part(5000, 90_000));
        assert_eq!(findings.len(), 1);
        assert_eq!(title(&findings[0]), "a process keeps the machine short of memory: direct reclaims at 500/s");
        assert!(crate::words(&findings[0]).cause.contains("thrashing"));
    }

    #[test]
    fn a_cgroup_at_its_limit_is_told_from_the_machine() {
        let cgroup = CgroupMemory { path: "/app".into(), limit_bytes: 100, limit_hits: 80, ..CgroupMemory::default() };
        let findings = found(OomSummary { cgroups: vec![cgroup], ..pressure(0.4, 0.0) });
        assert_eq!(findings[0].subject.cgroup.as_deref(), Some("/app"));
        assert_eq!(findings[0].scope(), Some(&Scope::Cgroup("/app".into())));
        assert!(title(&findings[0]).contains("keeps cgroup /app short of memory: "));
    }

    fn thrashing(faults: u64, refaults: u64, hits: u64, read_ms: u64) -> Vec<Finding> {
        let reader = kerno_model::MemoryHolder { pid: 9, comm: "slow".into(), bytes: 1 << 24 };
        let cgroup = CgroupMemory {
            path: "/app".into(),
            limit_bytes: 32 << 20,
            limit_hits: hits,
            major_faults: faults,
            refaulted_pages: refaults,
            largest: vec![reader],
            ..CgroupMemory::default()
        };
        let mut reads = kerno_model::Histogram::new();
        (0..faults.max(1)).for_each(|_| reads.record(read_ms * 1_000_000));
        let stat = kerno_model::DiskOpStat {
            op: kerno_model::RequestKind::Read,
            count: faults.max(1),
            device_ns: reads,
            ..kerno_model::DiskOpStat::default()
        };
        let device = kerno_model::DiskDevice { ops: vec![stat], ..kerno_model::DiskDevice::default() };
        let disk = kerno_model::DiskSummary { devices: vec![device], ..kerno_model::DiskSummary::default() };
        let part = OomSummary { cgroups: vec![cgroup], ..pressure(0.0, 0.0) };
        let mut window = fill!(Window { oom_track: Some(part), disk_io: Some(disk) });
        window.span.seconds = 10.0;
        let used = TaskUse { major_faults: faults, ..TaskUse::default() };
        window.processes.insert(9, Process { pid: 9, comm: "slow".into(), used, ..Process::default() });
        judge(&window, &MemoryPressure::with(&Thresholds::default()))
    }

    #[test]
    fn a_cgroup_that_reads_its_own_pages_again_is_found_without_pressure() {
        let findings = thrashing(6000, 4400, 5000, 1);
        let [finding] = &findings[..] else { panic!("one finding") };
        words_hold(finding);
        let told = "slow (9) keeps cgroup /app short of memory: major faults at 600/s, 60 % of its time in them";
        assert_eq!(title(finding), told);
        assert!(crate::words(finding).cause.contains("does not fit into the memory limit"));
        assert_eq!(finding.scope(), Some(&Scope::Cgroup("/app".into())));
    }

    #[test]
    fn faults_that_cost_little_or_are_for_new_pages_are_normal() {
        assert!(thrashing(6000, 100, 5000, 1).is_empty(), "a large file, read once");
        assert!(thrashing(6000, 4400, 20, 1).is_empty(), "not at its limit");
        assert!(thrashing(500, 400, 5000, 1).is_empty(), "few");
        assert!(thrashing(1500, 1400, 5000, 1).is_empty(), "15 % of the time");
        assert!(thrashing(0, 0, 0, 1).is_empty());
    }

    #[test]
    fn words_are_of_the_finding_alone() {
        let cgroup = CgroupMemory { path: "/app".into(), limit_bytes: 100, limit_hits: 80, ..CgroupMemory::default() };
        let without_psi = OomSummary { direct_reclaims: 5000, refaulted_pages: 90_000, ..OomSummary::default() };
        for part in [pressure(0.4, 0.02), OomSummary { cgroups: vec![cgroup], ..pressure(0.4, 0.0) }, without_psi] {
            let findings = found(part);
            assert_eq!(findings.len(), 1);
            findings.iter().for_each(words_hold);
        }
    }
}
