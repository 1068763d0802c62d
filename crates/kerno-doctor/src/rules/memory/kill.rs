use super::{advise_cgroup, advise_machine, is_in};
use crate::shell::word;
use crate::{Culprit, Exemplar, Finding, Severity, Unit, rule};
use kerno_model::OomKill;
use kerno_model::Window;
use kerno_model::amount::{bytes, count};
use kerno_model::{CgroupMemory, KillScope, MemoryHolder, OomSummary};

/// How many victims are named, and how many kills shown.
const MAX_NAMED: usize = 10;

rule! {
    /// The kernel killed processes for want of memory.
    OomKilled = "oom_kill", "oom_track", "the kernel killed processes for want of memory",
        "Each kill, taken together by whose memory ran out: the machine's or a cgroup's, which have different cures. The culprit is \
         whoever used the memory, which is not always the one that was killed.",
        oom_kill;
    min_kills: 1.0 Count, 1.0 ..= 1e6, "kills in the window";
}

fn oom_kill(window: &Window, rule: &OomKilled) -> Vec<Finding> {
    let Some(part) = &window.oom_track else { return Vec::new() };
    let mut groups: Vec<(Option<String>, Vec<&OomKill>)> = Vec::new();
    for kill in &part.kills {
        let place = (kill.scope == KillScope::Cgroup).then(|| {
            let path = kill.cgroup.as_deref().unwrap_or("/");
            limited_by(part, path).map_or_else(|| path.to_owned(), |cgroup| cgroup.path.clone())
        });
        match groups.iter_mut().find(|group| group.0 == place) {
            Some(group) => group.1.push(kill),
            None => groups.push((place, vec![kill])),
        }
    }
    let only = groups.len() == 1;
    groups
        .into_iter()
        .filter_map(|(place, kills)| {
            // Of very many not each one is told of.
            #[allow(clippy::cast_precision_loss, reason = "a number of kills")]
            let number = if only { part.kills_total.max(kills.len() as u64) } else { kills.len() as u64 } as f64;
            (number >= rule.min_kills).then(|| describe(window, rule, part, place.as_deref(), &kills, number)).flatten()
        })
        .collect()
}

/// The innermost cgroup with a limit that this one is in; of those that reached it, if any did.
fn limited_by<'a>(part: &'a OomSummary, path: &str) -> Option<&'a CgroupMemory> {
    let within = part.cgroups.iter().filter(|cgroup| is_in(path, &cgroup.path));
    within.max_by_key(|cgroup| (cgroup.limit_hits > 0, cgroup.path.len()))
}

#[allow(clippy::cast_precision_loss, reason = "bytes")]
fn describe(
    window: &Window,
    rule: &OomKilled,
    part: &OomSummary,
    place: Option<&str>,
    kills: &[&OomKill],
    number: f64,
) -> Option<Finding> {
    let first = kills.first()?;
    let limited = place.and_then(|path| part.cgroups.iter().find(|cgroup| cgroup.path == path));
    // The victim alone is named where nothing is known of the others.
    let alone = MemoryHolder { pid: first.pid, comm: first.comm.clone(), bytes: first.rss_bytes };
    let largest =
        kills.iter().filter_map(|kill| kill.largest.first()).max_by_key(|process| process.bytes).unwrap_or(&alone);
    let MemoryHolder { pid, comm, bytes: size } = largest;
    let whose = match (place, limited) {
        (Some(path), Some(cgroup)) => format!("the {} of cgroup {path}", bytes(cgroup.limit_bytes as f64)),
        (Some(path), None) => format!("the memory of cgroup {path}"),
        (None, _) if first.scope == KillScope::Global => "the machine's memory".to_owned(),
        (None, _) => "memory".to_owned(),
    };
    let itself = kills.iter().any(|kill| kill.pid == *pid);
    let killed = match (number as u64, itself) {
        (1, true) => "it was killed".to_owned(),
        (1, false) => format!("{} ({}) was killed", first.comm, first.pid),
        _ => format!("{} processes were killed", count(number)),
    };
    let title = format!("{comm} ({pid}) used up {whose}: {killed}");
    let mut finding = OomKilled::finding(Severity::Critical, title);
    finding.cause = match place {
        Some(path) => format!(
            "The processes in cgroup {path} needed more than the cgroup's limit, and there was nothing left to reclaim. The \
             machine itself has memory: {} available.",
            bytes(part.available_bytes.last().unwrap_or(0.0))
        ),
        None => "The machine had no memory left that could be reclaimed.".to_owned(),
    };
    finding.impact = if itself {
        "What was killed did not end in order: its requests and unsaved work are lost.".into()
    } else {
        format!("Others died for the memory that {comm} ({pid}) holds; it still runs, so it will happen again.")
    };
    finding = finding
        .measured("processes killed for want of memory", number, Unit::Count, Some(rule.min_kills))
        .measured(format!("memory of {comm} ({pid})"), *size as f64, Unit::Bytes, None)
        .measured(
            format!("memory of {} ({}) when it was killed", first.comm, first.pid),
            first.rss_bytes as f64,
            Unit::Bytes,
            None,
        );
    if let Some(cgroup) = limited {
        finding = finding.measured("the cgroup's limit", cgroup.limit_bytes as f64, Unit::Bytes, None).measured(
            "times it reached the limit",
            cgroup.limit_hits as f64,
            Unit::Count,
            None,
        );
    } else if place.is_none() {
        finding = finding.measured("memory of the machine", part.total_bytes as f64, Unit::Bytes, None);
    }
    let seconds = |ns: u64| ns.saturating_sub(window.span.started_ns) as f64 / 1e9;
    let exemplar = |kill: &&OomKill| Exemplar {
        seconds: seconds(kill.timestamp_ns),
        what: format!(
            "{} ({}) was killed with {} in use, because {} ({}) needed memory",
            kill.comm,
            kill.pid,
            bytes(kill.rss_bytes as f64),
            kill.triggered_comm,
            kill.triggered_pid
        ),
    };
    finding.exemplars = kills.iter().take(MAX_NAMED).map(exemplar).collect();
    finding.culprit = Culprit::process(window, *pid, comm);
    if let Some(path) = place {
        finding.culprit.cgroup = Some(path.to_owned());
    }
    let victim =
        |kill: &&OomKill| Culprit { cgroup: kill.cgroup.clone(), ..Culprit::process(window, kill.pid, &kill.comm) };
    finding.victims = kills.iter().take(MAX_NAMED).map(victim).collect();
    finding.since = Some(seconds(first.timestamp_ns));
    finding.excess = number / rule.min_kills;
    finding.confidence = 0.98;
    finding = finding
        .look("dmesg -T | grep -E 'oom-kill|Out of memory|Killed process'", "the kernel's own account of each kill");
    Some(match (limited, place) {
        (Some(cgroup), _) => advise_cgroup(finding, cgroup),
        (None, Some(path)) => finding.look(
            format!("cat /proc/{}/cgroup; systemd-cgls {}", first.triggered_pid, word(path)),
            "the cgroup, whose limit could not be read",
        ),
        (None, None) => advise_machine(finding, itself),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Effect, Thresholds};

    fn kill(pid: u32, path: Option<&str>, largest: &[(u32, &str, u64)]) -> OomKill {
        OomKill {
            timestamp_ns: 2_500_000_000,
            pid,
            comm: "victim".into(),
            cgroup: path.map(str::to_owned),
            scope: if path.is_some() { KillScope::Cgroup } else { KillScope::Global },
            rss_bytes: 20 << 20,
            largest: largest
                .iter()
                .map(|(pid, comm, bytes)| MemoryHolder { pid: *pid, comm: (*comm).to_owned(), bytes: *bytes })
                .collect(),
            ..OomKill::default()
        }
    }

    fn judge(kills: Vec<OomKill>) -> Vec<Finding> {
        let cgroup = CgroupMemory {
            path: "/app".into(),
            directory: "/sys/fs/cgroup/memory/app".into(),
            limit_bytes: 256 << 20,
            limit_hits: 9,
            ..CgroupMemory::default()
        };
        let kills_total = kills.len() as u64;
        let part = OomSummary { kills, kills_total, cgroups: vec![cgroup], ..OomSummary::default() };
        let mut window = Window { oom_track: Some(part), ..Window::default() };
        window.span.started_ns = 1_000_000_000;
        oom_kill(&window, &OomKilled::with(&Thresholds::default()))
    }

    #[test]
    fn a_victim_that_used_the_memory_itself_is_the_culprit() {
        let findings = judge(vec![kill(7, Some("/app/inner"), &[(7, "victim", 250 << 20), (8, "other", 1 << 20)])]);
        let [finding] = &findings[..] else { panic!("one finding") };
        assert_eq!(finding.title, "victim (7) used up the 256 MiB of cgroup /app: it was killed");
        assert_eq!((finding.culprit.pid, finding.culprit.cgroup.as_deref()), (Some(7), Some("/app")));
        assert_eq!((finding.since, finding.severity), (Some(1.5), Severity::Critical));
        let raise = finding.fixes.iter().find(|fix| fix.effect == Effect::Changing).unwrap();
        assert_eq!(raise.command, "echo 402653184 > /sys/fs/cgroup/memory/app/memory.limit_in_bytes");
    }

    #[test]
    fn who_used_the_memory_is_not_always_who_was_killed() {
        let findings = judge(vec![kill(7, Some("/app"), &[(8, "hog", 200 << 20), (7, "victim", 20 << 20)])]);
        assert_eq!(findings[0].title, "hog (8) used up the 256 MiB of cgroup /app: victim (7) was killed");
        assert_eq!((findings[0].culprit.pid, findings[0].victims[0].pid), (Some(8), Some(7)));
    }

    #[test]
    fn the_machine_and_cgroups_are_told_apart() {
        let findings = judge(vec![
            kill(7, Some("/app"), &[(7, "victim", 1)]),
            kill(8, None, &[(9, "hog", 2)]),
            kill(10, Some("/app"), &[]),
            kill(11, Some("/gone"), &[]),
        ]);
        let titles: Vec<_> = findings.iter().map(|finding| &*finding.title).collect();
        assert_eq!(
            titles,
            [
                "victim (7) used up the 256 MiB of cgroup /app: 2 processes were killed",
                "hog (9) used up the machine's memory: victim (8) was killed",
                "victim (11) used up the memory of cgroup /gone: it was killed",
            ]
        );
    }

    #[test]
    fn without_kills_nothing_is_found() {
        assert!(judge(Vec::new()).is_empty());
    }

    #[test]
    fn one_that_was_killed_is_not_to_be_killed_again() {
        let kills = |first| judge(vec![kill(7, None, &[(first, "hog", 200 << 20)])]).remove(0);
        let kills = |first| kills(first).fixes.iter().any(|fix| fix.command.starts_with("kill "));
        assert!(!kills(7) && kills(8));
    }
}
