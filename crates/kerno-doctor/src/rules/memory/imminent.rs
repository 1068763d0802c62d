use kerno_model::amount::{bytes, quantity, share, span};
use kerno_model::{
    CgroupMemory, Effect, Eta, Fact, Finding, Limit, OomSummary, Scope, Series, Severity, Subject, Unit, Window,
};

use super::{CGROUP, MACHINE, advise_cgroup, advise_machine, is_in, place, subject, user, user_of_memory};
use crate::growth::{Growth, horizon, is_current, steady_growth};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Memory will run out.
    OomImminent = "oom_imminent", "oom_track", "the machine or a cgroup will soon run out of memory",
        "Looks for use that grows along a line to the end of the window, fast enough to reach the limit soon. Page cache does not \
         count, since it can be dropped: a cgroup that fills its limit with cache is healthy. The machine must also have little memory \
         left, because builds and programs that start take memory quickly and then stop. A cgroup that stands at its limit, with tasks \
         that wait for memory, needs no trend.",
        judge, words;
    causes: [MemoryRunsOut, MemoryShort];
    suffers: [suffers(Effect::MemoryRanOut, |t, a, b| t.same_memory(a, b), "memory was about to run out, and did")];
    trend: in_use;
    thresholds: {
        horizon_seconds: 600.0 Seconds, 1.0 ..= 1e6, "how far ahead a trend is believed; proportionally farther in windows longer than 30 seconds, 12 hours at most";
        critical_seconds: 120.0 Seconds, 0.0 ..= 1e6, "critical when memory runs out sooner than this";
        min_fit: 0.9 Ratio, 0.0 ..= 1.0, "how well a straight line must fit (R squared)";
        min_growth: 0.02 Ratio, 0.0 ..= 1.0, "growth in the window, as a share of the limit";
        min_used: 0.3 Ratio, 0.0 ..= 1.0, "below this share of a cgroup's limit a trend counts only if it ends within critical_seconds";
        machine_available: 0.25 Ratio, 0.0 ..= 1.0, "available memory and free swap of the machine must be below this share";
        full: 0.95 Ratio, 0.1 ..= 1.0, "share of a cgroup's limit in use that counts as full";
        stalled: 0.1 Ratio, 0.0 ..= 1.0, "share of the window in which tasks of a full cgroup waited for memory";
    }
    evidence: {
        used: "share of the limit in use, without page cache";
        used_bytes: "memory in use, without page cache";
        limit_bytes: "limit of the cgroup";
        limit_hits: "times the limit was reached";
        stalled: "share of the window in which its tasks waited for memory";
        available_bytes: "available memory and free swap";
        machine_bytes: "memory and swap of the machine";
        growth_per_second: "growth of memory in use";
        fit: "fit of a straight line to the growth (R squared)";
    }
}

fn judge(window: &Window, rule: &OomImminent) -> Vec<Finding> {
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
            other.1.pid() == finding.pid() && (is_in(&cgroup.path, &other.0.path) || is_in(&other.0.path, &cgroup.path))
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
        growth.net >= rule.min_growth * limit && left <= horizon(window, rule.horizon_seconds) && far
    });
    let growth = growth.filter(|_| is_current(window, &cgroup.used_bytes));
    let held_up = cgroup.limit_hits > 0 || cgroup.some_stalled.is_some_and(|stalled| stalled >= rule.stalled);
    let full = used >= rule.full * limit;
    if growth.is_none() && !(full && held_up) {
        return None;
    }
    let process = user_of_memory(window, &cgroup.path, cgroup.used_bytes.change());
    let path = &cgroup.path;
    let only_slows = cgroup.v2 && cgroup.high_bytes == Some(cgroup.limit_bytes);
    let mut finding = OomImminent::finding(severity(rule, growth.as_ref(), limit))
        .variant(CGROUP)
        .about(subject(window, process.map(|process| (process.pid, process.comm.as_str())), Some(path)))
        .fact(Fact::Scope(Scope::Cgroup(path.clone())))
        .detail("only_slows", only_slows)
        .measured("used", used / limit, Unit::Ratio, Some(rule.full))
        .measured("used_bytes", used, Unit::Bytes, None)
        .measured("limit_bytes", limit, Unit::Bytes, None);
    if full {
        finding = finding.fact(Fact::AtLimit(Limit::CgroupMemory));
    }
    if cgroup.limit_hits > 0 {
        finding = finding.measured("limit_hits", cgroup.limit_hits as f64, Unit::Count, None);
    }
    if let Some(stalled) = cgroup.some_stalled {
        finding = finding.measured("stalled", stalled, Unit::Ratio, Some(rule.stalled));
    }
    let others = cgroup.largest.iter().filter(|holder| Some(holder.pid) != finding.pid());
    finding.victims = others.map(|holder| Subject::process(window, holder.pid, "")).collect();
    finding.excess = used / (rule.full * limit);
    finding.confidence = 0.85;
    if let Some(growth) = growth {
        finding = with_trend(finding, window, rule, &growth, limit);
    }
    Some(advise_cgroup(finding, cgroup))
}

/// The machine: what is neither available nor free swap.
#[allow(clippy::cast_precision_loss, reason = "bytes")]
fn of_machine(window: &Window, rule: &OomImminent, part: &OomSummary) -> Option<Finding> {
    let total = (part.total_bytes + part.swap_total_bytes) as f64;
    let growth = steady_growth(&used_of_machine(part), rule.min_fit)?;
    let left = growth.seconds_until(total);
    let available = total - growth.last;
    let soon = available <= rule.machine_available * total && left <= horizon(window, rule.horizon_seconds);
    if total <= 0.0 || !soon || growth.net < rule.min_growth * total {
        return None;
    }
    let process = user_of_memory(window, "/", growth.net);
    let mut finding = OomImminent::finding(severity(rule, Some(&growth), total))
        .variant(MACHINE)
        .about(subject(window, process.map(|process| (process.pid, process.comm.as_str())), None))
        .fact(Fact::Scope(Scope::Machine))
        .measured("available_bytes", available, Unit::Bytes, Some(rule.machine_available * total))
        .measured("machine_bytes", total, Unit::Bytes, None);
    finding.excess = rule.machine_available * total / available.max(1.0);
    finding.confidence = 0.8;
    finding = with_trend(finding, window, rule, &growth, total);
    Some(advise_machine(finding, process.is_some_and(|process| !process.alive)))
}

/// The machine's memory and swap that are neither available nor free. In long series the points of the two may be at other times: the nearest
/// later one is taken.
#[allow(clippy::cast_precision_loss, reason = "bytes")]
fn used_of_machine(part: &OomSummary) -> Series {
    let total = (part.total_bytes + part.swap_total_bytes) as f64;
    let free = |at: f64| {
        let points = part.swap_free_bytes.points();
        let next = points.partition_point(|point| point.0 < at);
        points.get(next).or_else(|| points.last()).map_or(0.0, |point| point.1)
    };
    let points = part.available_bytes.points().iter();
    points.map(|(at, available)| (*at, total - available - free(*at))).collect()
}

/// What grows.
fn in_use(window: &Window, finding: &Finding) -> Option<Series> {
    let part = window.oom_track.as_ref()?;
    if finding.variant == MACHINE {
        return Some(used_of_machine(part));
    }
    let is_it = |cgroup: &&CgroupMemory| finding.has(&Fact::Scope(Scope::Cgroup(cgroup.path.clone())));
    part.cgroups.iter().find(is_it).map(|cgroup| cgroup.used_bytes.clone())
}

fn severity(rule: &OomImminent, growth: Option<&Growth>, limit: f64) -> Severity {
    match growth {
        Some(growth) if growth.seconds_until(limit) <= rule.critical_seconds => Severity::Critical,
        _ => Severity::Warning,
    }
}

fn with_trend(finding: Finding, window: &Window, rule: &OomImminent, growth: &Growth, limit: f64) -> Finding {
    let seconds = growth.seconds_until(limit);
    let mut finding = finding.measured("growth_per_second", growth.per_second, Unit::BytesPerSecond, None).measured(
        "fit",
        growth.fit,
        Unit::Ratio,
        Some(rule.min_fit),
    );
    finding.since = growth.since.map(|since| window.moment(since));
    finding.eta = Some(Eta::new(window.moment(window.covered_seconds() + seconds), seconds, growth.fit));
    finding
}

fn words(finding: &Finding) -> Words {
    let who = user(finding);
    let of_cgroup = finding.variant == CGROUP;
    let place = place(finding);
    let limit = finding.number("limit_bytes").map(bytes);
    let growth = finding.number("growth_per_second").map(|growth| quantity(growth, Unit::BytesPerSecond));
    let left = finding.eta.as_ref().map(|eta| eta.seconds);
    let used = finding.number("used").map(|used| match &limit {
        Some(limit) => format!("{} of {limit} used", share(used)),
        None => format!("{} used", share(used)),
    });
    let title = match left {
        None if of_cgroup => title(&format!("{who} keeps {place} at its memory limit"), [used]),
        Some(left) if of_cgroup => {
            let full = if left > 0.0 { format!("full in {}", span(left)) } else { "limit reached".to_owned() };
            let growth = growth.map(|growth| format!("growing by {growth}"));
            title(&format!("{who} fills the memory of {place}"), [used, growth, Some(full)])
        }
        _ => {
            let available =
                finding.number("available_bytes").map(|available| format!("{} available", bytes(available)));
            let growth = growth.map(|growth| format!("falling by {growth}"));
            let none = left
                .map(|left| if left > 0.0 { format!("none left in {}", span(left)) } else { "none left".to_owned() });
            title(&format!("{who} uses up the memory of {place}"), [available, growth, none])
        }
    };
    let cause = if left.is_none() {
        format!("The processes of {place} need about as much memory as its limit allows, page cache not counted.")
    } else {
        format!(
            "The processes of {place} use more and more memory that cannot be reclaimed. Page cache is not counted."
        )
    };
    let impact = if !of_cgroup {
        "When no memory is left, everything slows down and the kernel kills a process, not always the one at fault."
    } else if finding.flag("only_slows") {
        "At memory.high the kernel makes its processes wait."
    } else {
        "At the limit the kernel kills a process of the cgroup."
    };
    let outlook = match (left, limit) {
        (None, _) => String::new(),
        (Some(_), Some(limit)) if of_cgroup => format!("{place} reaches its limit of {limit}"),
        (Some(_), None) if of_cgroup => format!("{place} reaches its limit"),
        _ => format!("{place} has no memory left"),
    };
    Words { title, cause, impact: impact.to_owned(), outlook }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use crate::rules::testing::words_hold;
    use kerno_model::fill;
    use kerno_model::{Entity, ProcessMemory};

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

    fn found(part: OomSummary) -> Vec<Finding> {
        let window = fill!(Window { oom_track: Some(part) });
        judge(&window, &OomImminent::with(&Thresholds::default()))
    }

    fn of(cgroups: Vec<CgroupMemory>) -> Vec<Finding> {
        let processes = vec![
            process(1, "/app/inner", |t| 10.0 + 8.0 * t),
            process(2, "/app", |_| 60.0),
            process(3, "/", |_| 9000.0),
        ];
        found(OomSummary { cgroups, processes, ..OomSummary::default() })
    }

    fn title(finding: &Finding) -> String {
        crate::words(finding).title
    }

    #[test]
    fn growth_towards_a_limit_names_who_grows_and_when_it_is_full() {
        let findings = of(vec![cgroup(|t| 100.0 + 8.0 * t)]);
        let [finding] = &findings[..] else { panic!("one finding") };
        assert_eq!(
            title(finding),
            "p1 (1) fills the memory of cgroup /app: 54.1 % of 256 MiB used, growing by 8 MiB/s, full in 14.7 s"
        );
        assert_eq!(crate::words(finding).outlook, "cgroup /app reaches its limit of 256 MiB");
        assert_eq!(finding.scope(), Some(&Scope::Cgroup("/app".into())));
        assert!(!finding.is_at(Limit::CgroupMemory));
        assert_eq!((finding.severity, finding.pid()), (Severity::Critical, Some(1)));
        let eta = finding.eta.as_ref().unwrap();
        assert!((eta.seconds - 14.7).abs() < 0.5);
        assert_eq!(eta.at, Window::default().moment(Window::default().seconds() + eta.seconds));
        assert!(finding.fixes.iter().any(|fix| fix.command == "echo 402653184 > /sys/fs/cgroup/app/memory.max"));
    }

    #[test]
    fn without_growth_of_its_own_the_largest_is_named() {
        let mut full = cgroup(|_| 250.0);
        full.limit_hits = 12;
        let findings = of(vec![full]);
        assert_eq!(title(&findings[0]), "p2 (2) keeps cgroup /app at its memory limit: 97.7 % of 256 MiB used");
        assert!(findings[0].eta.is_none() && findings[0].is_at(Limit::CgroupMemory));
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
        assert_eq!(findings[0].subject.cgroup.as_deref(), Some("/app"));
    }

    #[test]
    fn the_machine_counts_only_when_little_is_left() {
        let machine = |available: &dyn Fn(f64) -> f64| {
            found(OomSummary {
                total_bytes: 8000 << 20,
                available_bytes: series(available),
                processes: vec![process(3, "/", |t| 100.0 + 200.0 * t)],
                ..OomSummary::default()
            })
        };
        assert!(machine(&|t| 7000.0 - 200.0 * t).is_empty(), "a build that starts");
        assert!(machine(&|_| 500.0).is_empty(), "little, but steady");
        let findings = machine(&|t| 1800.0 - 200.0 * t);
        assert_eq!(
            title(&findings[0]),
            "p3 (3) uses up the memory of the machine: 840 MiB available, falling by 200 MiB/s, none left in 4.2 s"
        );
        assert_eq!((findings[0].scope(), &*findings[0].variant), (Some(&Scope::Machine), "machine"));
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
            found(part).remove(0).fixes.into_iter().rfind(|fix| fix.command.contains("402653184")).unwrap().command
        };
        assert_eq!(raise("/system.slice/db.service", None), "systemctl set-property db.service MemoryMax=402653184");
        let escaped = raise(r"/user.slice/app-a\x2db.scope", Some(256 << 20));
        assert_eq!(escaped, r"systemctl set-property 'app-a\x2db.scope' MemoryHigh=402653184");
        assert_eq!(raise("/system.slice/db.service/init", None), "echo 402653184 > /sys/fs/cgroup/app/memory.max");
    }

    #[test]
    fn commands_for_a_cgroup_act_on_it_or_its_unit() {
        let acts_on = |path: &str| {
            let findings = of(vec![CgroupMemory { path: path.into(), ..cgroup(|t| 100.0 + 8.0 * t) }]);
            findings[0].fixes.last().unwrap().acts_on.clone()
        };
        assert_eq!(acts_on("/app"), Entity::Cgroup("/app".into()));
        assert_eq!(acts_on("/system.slice/db.service"), Entity::Unit("db.service".into()));
    }

    #[test]
    fn words_are_of_the_finding_alone() {
        let full = CgroupMemory { limit_hits: 12, ..cgroup(|_| 250.0) };
        let at_limit = cgroup(|t| 216.0 + 8.0 * t);
        let slowed =
            CgroupMemory { high_bytes: Some(256 << 20), some_stalled: Some(0.2), ..cgroup(|t| 100.0 + 8.0 * t) };
        for cgroup in [full, at_limit, slowed] {
            let findings = of(vec![cgroup]);
            assert_eq!(findings.len(), 1);
            findings.iter().for_each(words_hold);
        }
        let findings = found(OomSummary {
            total_bytes: 8000 << 20,
            available_bytes: series(|t| 1800.0 - 200.0 * t),
            processes: vec![process(3, "/", |t| 100.0 + 200.0 * t)],
            ..OomSummary::default()
        });
        assert_eq!(findings.len(), 1);
        findings.iter().for_each(words_hold);
    }
}
