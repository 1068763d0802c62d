use super::{advise_cgroup, advise_machine, culprit, is_in, named, user_of_memory};
use crate::growth::{Growth, steady_growth};
use crate::{Culprit, Eta, Finding, Severity, Unit, rule};
use kerno_model::amount::{bytes, seconds, share};
use kerno_model::{CgroupMemory, OomSummary};
use kerno_model::{Series, Window};

rule! {
    /// Memory will run out.
    OomImminent = "oom_imminent", "oom_track", "memory will run out soon, the machine's or a cgroup's",
        "Use that grows along a line to the window's end, far enough towards the limit and fast enough to reach it soon. Page cache \
         does not count, since it can be dropped, so a cgroup that fills its limit with cache is healthy. For the machine only when \
         little is left: builds and start-ups take memory quickly and stop. A cgroup that stands at its limit and is held up \
         there is found without a trend.",
        oom_imminent;
    horizon_seconds: 600.0 Seconds, 1.0 ..= 1e6, "how far ahead a trend is believed";
    critical_seconds: 120.0 Seconds, 0.0 ..= 1e6, "critical when it runs out sooner than this";
    min_fit: 0.9 Ratio, 0.0 ..= 1.0, "how well a straight line must fit (R squared)";
    min_growth: 0.02 Ratio, 0.0 ..= 1.0, "growth in the window, as a share of the limit";
    min_used: 0.3 Ratio, 0.0 ..= 1.0, "use of a cgroup's limit below which a trend counts only if it ends within critical_seconds";
    machine_available: 0.25 Ratio, 0.0 ..= 1.0, "the machine's available memory (with free swap) must be below this share";
    full: 0.95 Ratio, 0.1 ..= 1.0, "use of a cgroup's limit that counts as full";
    stalled: 0.1 Ratio, 0.0 ..= 1.0, "share of the window in which tasks of a full cgroup waited for memory";
}

fn oom_imminent(window: &Window, rule: &OomImminent) -> Vec<Finding> {
    let Some(part) = &window.oom_track else { return Vec::new() };
    let mut found: Vec<(&CgroupMemory, Finding)> = part
        .cgroups
        .iter()
        // What has happened already is another rule's.
        .filter(|cgroup| cgroup.oom_kills == 0)
        .filter_map(|cgroup| Some((cgroup, of_cgroup(window, rule, cgroup)?)))
        .collect();
    let eta = |finding: &Finding| finding.eta.as_ref().map_or(f64::INFINITY, |eta| eta.seconds);
    found.sort_by(|a, b| eta(&a.1).total_cmp(&eta(&b.1)).then(b.0.path.len().cmp(&a.0.path.len())));
    // A cgroup and one above it that grow by the same process are one thing: whichever is reached first.
    let mut findings: Vec<(&CgroupMemory, Finding)> = Vec::new();
    for (cgroup, finding) in found {
        let same = |other: &(&CgroupMemory, Finding)| {
            other.1.culprit.pid == finding.culprit.pid
                && (is_in(&cgroup.path, &other.0.path) || is_in(&other.0.path, &cgroup.path))
        };
        if !findings.iter().any(same) {
            findings.push((cgroup, finding));
        }
    }
    let cgroups = findings.into_iter().map(|(_, finding)| finding);
    of_machine(window, rule, part).into_iter().chain(cgroups).collect()
}

#[allow(clippy::cast_precision_loss, reason = "bytes")]
fn of_cgroup(window: &Window, rule: &OomImminent, cgroup: &CgroupMemory) -> Option<Finding> {
    let limit = cgroup.limit_bytes.max(1) as f64;
    let used = cgroup.used_bytes.last()?;
    let growth = steady_growth(&cgroup.used_bytes, rule.min_fit).filter(|growth| {
        let left = growth.seconds_until(limit);
        let far = used >= rule.min_used * limit || left <= rule.critical_seconds;
        growth.net >= rule.min_growth * limit && left <= rule.horizon_seconds && far
    });
    let held_up = cgroup.limit_hits > 0 || cgroup.some_stalled.is_some_and(|stalled| stalled >= rule.stalled);
    if growth.is_none() && (used < rule.full * limit || !held_up) {
        return None;
    }
    let process = user_of_memory(window, &cgroup.path, cgroup.used_bytes.change());
    let who = named(process, "a process");
    let path = &cgroup.path;
    let (size, of_limit) = (bytes(limit), share(used / limit));
    let title = match &growth {
        Some(growth) => format!(
            "{who} fills the {size} of cgroup {path}: {of_limit} used, {} a second, full in {}",
            bytes(growth.per_second),
            seconds(growth.seconds_until(limit))
        ),
        None => format!("{who} keeps cgroup {path} at its limit: {of_limit} of {size} used"),
    };
    let mut finding = OomImminent::finding(severity(rule, growth.as_ref(), limit), title);
    let only_slows = cgroup.v2 && cgroup.high_bytes == Some(cgroup.limit_bytes);
    finding.cause = format!(
        "The processes in cgroup {path} need more and more memory that cannot be reclaimed (page cache left out)."
    );
    finding.impact = if only_slows {
        "At memory.high the kernel makes its processes wait.".into()
    } else {
        "At the limit the kernel kills a process of the cgroup.".into()
    };
    finding = finding
        .measured("share of its limit in use, without caches", used / limit, Unit::Ratio, Some(rule.full))
        .measured("in use, without caches", used, Unit::Bytes, None)
        .measured("its limit", limit, Unit::Bytes, None);
    if cgroup.limit_hits > 0 {
        finding = finding.measured("times it reached the limit", cgroup.limit_hits as f64, Unit::Count, None);
    }
    if let Some(stalled) = cgroup.some_stalled {
        finding = finding.measured(
            "share of the window its tasks waited for memory",
            stalled,
            Unit::Ratio,
            Some(rule.stalled),
        );
    }
    finding.culprit = culprit(window, process, Some(path));
    finding.victims = cgroup
        .largest
        .iter()
        .filter(|holder| Some(holder.pid) != finding.culprit.pid)
        .map(|holder| Culprit::process(window, holder.pid, ""))
        .collect();
    finding.excess = used / (rule.full * limit);
    finding.confidence = 0.85;
    if let Some(growth) = growth {
        let what = format!("cgroup {path} reaches its limit of {size}");
        finding = with_trend(finding, rule, &growth, limit, what);
    }
    Some(advise_cgroup(finding, cgroup))
}

/// The machine: what is neither available nor free swap.
#[allow(clippy::cast_precision_loss, reason = "bytes")]
fn of_machine(window: &Window, rule: &OomImminent, part: &OomSummary) -> Option<Finding> {
    let total = (part.total_bytes + part.swap_total_bytes) as f64;
    let free = |index: usize| part.swap_free_bytes.points().get(index).map_or(0.0, |point| point.1);
    let points = part.available_bytes.points().iter().enumerate();
    let used: Series = points.map(|(i, (at, available))| (*at, total - available - free(i))).collect();
    let growth = steady_growth(&used, rule.min_fit)?;
    let left = growth.seconds_until(total);
    let available = total - growth.last;
    let soon = available <= rule.machine_available * total && left <= rule.horizon_seconds;
    if total <= 0.0 || !soon || growth.net < rule.min_growth * total {
        return None;
    }
    let process = user_of_memory(window, "/", growth.net);
    let title = format!(
        "{} uses up the machine's memory: {} available, {} a second less, none in {}",
        named(process, "a process"),
        bytes(available),
        bytes(growth.per_second),
        seconds(left)
    );
    let mut finding = OomImminent::finding(severity(rule, Some(&growth), total), title);
    finding.cause = "Memory that cannot be reclaimed grows along a line.".into();
    finding.impact =
        "When nothing is left everything slows down, and the kernel kills a process, not always the culprit.".into();
    finding = finding
        .measured("available memory and free swap", available, Unit::Bytes, Some(rule.machine_available * total))
        .measured("memory and swap of the machine", total, Unit::Bytes, None);
    finding.culprit = culprit(window, process, None);
    finding.excess = rule.machine_available * total / available.max(1.0);
    finding.confidence = 0.8;
    let what = "the machine has no memory left".to_owned();
    Some(advise_machine(with_trend(finding, rule, &growth, total, what), process.is_some_and(|process| !process.alive)))
}

fn severity(rule: &OomImminent, growth: Option<&Growth>, limit: f64) -> Severity {
    match growth {
        Some(growth) if growth.seconds_until(limit) <= rule.critical_seconds => Severity::Critical,
        _ => Severity::Warning,
    }
}

fn with_trend(mut finding: Finding, rule: &OomImminent, growth: &Growth, limit: f64, what: String) -> Finding {
    finding = finding.measured("growth a second", growth.per_second, Unit::BytesPerSecond, None).measured(
        "how well a straight line fits the growth (R squared)",
        growth.fit,
        Unit::Ratio,
        Some(rule.min_fit),
    );
    finding.since = growth.since;
    finding.eta = Some(Eta { seconds: growth.seconds_until(limit), what, fit: growth.fit });
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use kerno_model::ProcessMemory;

    const MIB: f64 = 1048576.0;

    fn series(value: impl Fn(f64) -> f64) -> Series {
        (0..25).map(|i| f64::from(i) * 0.2).map(|t| (t, value(t) * MIB)).collect()
    }

    fn cgroup(used_mib: impl Fn(f64) -> f64) -> CgroupMemory {
        CgroupMemory {
            path: "/app".into(),
            directory: "/sys/fs/cgroup/app".into(),
            v2: true,
            limit_bytes: 256 << 20,
            used_bytes: series(used_mib),
            ..CgroupMemory::default()
        }
    }

    fn process(pid: u32, cgroup: &str, mib: impl Fn(f64) -> f64) -> ProcessMemory {
        let (comm, cgroup) = (format!("p{pid}"), Some(cgroup.to_owned()));
        ProcessMemory { pid, comm, cgroup, anon_bytes: series(mib), alive: true }
    }

    fn judge(part: OomSummary) -> Vec<Finding> {
        let window = Window { oom_track: Some(part), ..Window::default() };
        oom_imminent(&window, &OomImminent::with(&Thresholds::default()))
    }

    fn of(cgroups: Vec<CgroupMemory>) -> Vec<Finding> {
        let processes = vec![
            process(1, "/app/inner", |t| 10.0 + 8.0 * t),
            process(2, "/app", |_| 60.0),
            process(3, "/", |_| 9000.0),
        ];
        judge(OomSummary { cgroups, processes, ..OomSummary::default() })
    }

    #[test]
    fn growth_towards_a_limit_names_who_grows_and_when_it_is_full() {
        let findings = of(vec![cgroup(|t| 100.0 + 8.0 * t)]);
        let [finding] = &findings[..] else { panic!("one finding") };
        assert_eq!(finding.title, "p1 (1) fills the 256 MiB of cgroup /app: 54 % used, 8.0 MiB a second, full in 15s");
        assert_eq!((finding.severity, finding.culprit.pid), (Severity::Critical, Some(1)));
        assert!((finding.eta.as_ref().unwrap().seconds - 14.7).abs() < 0.5);
        assert!(finding.fixes.iter().any(|fix| fix.command == "echo 402653184 > /sys/fs/cgroup/app/memory.max"));
    }

    #[test]
    fn without_growth_of_its_own_the_largest_is_named() {
        let mut full = cgroup(|_| 250.0);
        full.limit_hits = 12;
        let findings = of(vec![full]);
        assert_eq!(findings[0].title, "p2 (2) keeps cgroup /app at its limit: 98 % of 256 MiB used");
        assert!(findings[0].eta.is_none());
    }

    #[test]
    fn what_settles_or_is_slow_is_none() {
        assert!(of(vec![cgroup(|t| 100.0 + 50.0 * t.min(2.0))]).is_empty(), "it settled");
        assert!(of(vec![cgroup(|t| 100.0 + 30.0 * (t * 8.0).sin())]).is_empty(), "noise");
        assert!(of(vec![cgroup(|t| 100.0 + 0.1 * t)]).is_empty(), "hours away");
        assert!(of(vec![cgroup(|_| 250.0)]).is_empty(), "full and at ease: maxmemory");
        let killed = CgroupMemory { oom_kills: 1, ..cgroup(|t| 100.0 + 8.0 * t) };
        assert!(of(vec![killed]).is_empty(), "told of as a kill");
    }

    #[test]
    fn a_cgroup_and_the_one_above_are_one_finding() {
        let outer = CgroupMemory { path: "/".into(), limit_bytes: 1 << 30, ..cgroup(|t| 500.0 + 8.0 * t) };
        let findings = of(vec![outer, cgroup(|t| 100.0 + 8.0 * t)]);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].culprit.cgroup.as_deref(), Some("/app"));
    }

    #[test]
    fn the_machine_counts_only_when_little_is_left() {
        let machine = |available: &dyn Fn(f64) -> f64| {
            judge(OomSummary {
                total_bytes: 8000 << 20,
                available_bytes: series(available),
                processes: vec![process(3, "/", |t| 100.0 + 200.0 * t)],
                ..OomSummary::default()
            })
        };
        assert!(machine(&|t| 7000.0 - 200.0 * t).is_empty(), "a build that starts");
        assert!(machine(&|_| 500.0).is_empty(), "little, but steady");
        let findings = machine(&|t| 1800.0 - 200.0 * t);
        assert!(
            findings[0]
                .title
                .starts_with("p3 (3) uses up the machine's memory: 840 MiB available, 200 MiB a second less")
        );
        assert_eq!(findings[0].severity, Severity::Critical);
    }

    #[test]
    fn the_unit_that_is_limited_is_raised_and_in_its_own_setting() {
        let raise = |path: &str, high| {
            let cgroup = CgroupMemory { path: path.into(), high_bytes: high, ..cgroup(|t| 100.0 + 8.0 * t) };
            let part = OomSummary {
                cgroups: vec![cgroup],
                processes: vec![process(1, "/", |_| 9.0)],
                ..OomSummary::default()
            };
            judge(part).remove(0).fixes.into_iter().rfind(|fix| fix.command.contains("402653184")).unwrap().command
        };
        assert_eq!(raise("/system.slice/db.service", None), "systemctl set-property db.service MemoryMax=402653184");
        let escaped = raise(r"/user.slice/app-a\x2db.scope", Some(256 << 20));
        assert_eq!(escaped, r"systemctl set-property 'app-a\x2db.scope' MemoryHigh=402653184");
        assert_eq!(raise("/system.slice/db.service/init", None), "echo 402653184 > /sys/fs/cgroup/app/memory.max");
    }
}
