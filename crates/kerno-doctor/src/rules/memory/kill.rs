use kerno_model::amount::{bytes, number};
use kerno_model::fill;
use kerno_model::{
    CgroupMemory, Entity, Exemplar, Fact, Finding, KillScope, Limit, MemoryHolder, OomKill, OomSummary, Safety, Scope,
    Severity, Subject, Unit, Window,
};

use super::{CGROUP, MACHINE, advise_cgroup, advise_machine, is_in, place, user};
use crate::shell::word;
use crate::title::title;
use crate::{Words, rule};

/// How many victims are named, and how many kills shown.
const MAX_NAMED: usize = 10;

rule! {
    /// The kernel killed processes because memory ran out.
    OomKilled = "oom_kill", "oom_track", "the kernel killed processes because memory ran out",
        "Takes kills together by whose memory ran out: the machine's or a cgroup's, which have different cures. Names the process \
         that used most of that memory, which is not always the one that was killed.",
        judge, words;
    causes: [MemoryRanOut, MemoryShort];
    suffers: [];
    thresholds: {
        min_kills: 1.0 Count, 1.0 ..= 1e6, "kills in the window";
    }
    evidence: {
        kills: "processes killed";
        memory_bytes: "memory of {}";
        killed_memory_bytes: "memory of {} when it was killed";
        limit_bytes: "limit of the cgroup";
        limit_hits: "times the limit was reached";
        machine_bytes: "memory of the machine";
    }
}

fn judge(window: &Window, rule: &OomKilled) -> Vec<Finding> {
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
    let itself = kills.iter().any(|kill| kill.pid == *pid);
    let name = |pid: u32, comm: &str| Subject::process(window, pid, comm).label().unwrap_or_default();

    let mut subject = Subject::process(window, *pid, comm);
    if let Some(path) = place {
        subject.cgroup = Some(path.to_owned());
    }
    let mut finding = OomKilled::finding(Severity::Critical)
        .variant(if place.is_some() { CGROUP } else { MACHINE })
        .about(subject)
        .detail("user_was_killed", itself)
        .measured("kills", number, Unit::Count, Some(rule.min_kills))
        .measured_of("memory_bytes", name(*pid, comm), *size as f64, Unit::Bytes, None)
        .measured_of("killed_memory_bytes", name(first.pid, &first.comm), first.rss_bytes as f64, Unit::Bytes, None);
    finding = match place {
        Some(path) => {
            finding.fact(Fact::Scope(Scope::Cgroup(path.to_owned()))).fact(Fact::AtLimit(Limit::CgroupMemory))
        }
        None if first.scope == KillScope::Global => {
            finding.fact(Fact::Scope(Scope::Machine)).fact(Fact::AtLimit(Limit::Memory))
        }
        None => finding,
    };
    if let Some(available) = part.available_bytes.last() {
        finding = finding.detail("available_bytes", (available, Unit::Bytes));
    }
    if let Some(cgroup) = limited {
        finding = finding.measured("limit_bytes", cgroup.limit_bytes as f64, Unit::Bytes, None).measured(
            "limit_hits",
            cgroup.limit_hits as f64,
            Unit::Count,
            None,
        );
    } else if place.is_none() {
        finding = finding.measured("machine_bytes", part.total_bytes as f64, Unit::Bytes, None);
    }
    let exemplar = |kill: &&OomKill| {
        let killed = name(kill.pid, &kill.comm);
        let mut what = format!("{killed} was killed with {} in use", bytes(kill.rss_bytes as f64));
        if kill.triggered_pid > 0 {
            what = format!("{what}, when {} needed memory", name(kill.triggered_pid, &kill.triggered_comm));
        }
        Exemplar::new(window.moment_ns(kill.timestamp_ns), what)
    };
    finding.exemplars = kills.iter().take(MAX_NAMED).map(exemplar).collect();
    let victim = |kill: &&OomKill| {
        fill!(Subject { cgroup: kill.cgroup.clone(), ..Subject::process(window, kill.pid, &kill.comm) })
    };
    finding.victims = kills.iter().take(MAX_NAMED).map(victim).collect();
    finding.since = Some(window.moment_ns(first.timestamp_ns));
    finding.excess = number / rule.min_kills;
    finding.confidence = 0.98;
    finding = finding.look(
        "dmesg -T | grep -E 'oom-kill|Out of memory|Killed process'",
        "shows what the kernel logged of each kill",
    );
    Some(match (limited, place) {
        (Some(cgroup), _) => advise_cgroup(finding, cgroup),
        (None, Some(path)) => advise_unknown_limit(finding, window, first, path),
        (None, None) => advise_machine(finding, itself),
    })
}

/// Where to look when the limit of the cgroup could not be read.
fn advise_unknown_limit(mut finding: Finding, window: &Window, kill: &OomKill, path: &str) -> Finding {
    if kill.triggered_pid > 0 {
        finding = finding.fix(
            Entity::Process(window.process_id(kill.triggered_pid)),
            Safety::ReadOnly,
            format!("cat /proc/{}/cgroup", kill.triggered_pid),
            "shows the cgroup of the process that needed memory",
        );
    }
    finding.fix(
        Entity::Cgroup(path.to_owned()),
        Safety::ReadOnly,
        format!("systemd-cgls {}", word(path)),
        "shows the cgroup, whose limit could not be read",
    )
}

fn words(finding: &Finding) -> Words {
    let who = user(finding);
    let of_cgroup = finding.variant == CGROUP;
    let of_machine = finding.has(&Fact::Scope(Scope::Machine));
    // Not all victims are named.
    let itself = finding.flag("user_was_killed")
        || finding.pid().is_some_and(|pid| finding.victims.iter().any(|victim| victim.pid() == Some(pid)));
    let limit = finding.number("limit_bytes").map(bytes);
    let what = match &limit {
        Some(limit) if of_cgroup => format!("{who} used up the memory of {} ({limit})", place(finding)),
        None if of_cgroup => format!("{who} used up the memory of {}", place(finding)),
        _ if of_machine => format!("{who} used up the memory of the machine"),
        _ => format!("{who} used up the memory"),
    };
    let killed = match finding.number("kills") {
        Some(kills) if kills > 1.0 => Some(format!("{} processes were killed", number(kills))),
        _ if itself => Some("it was killed".to_owned()),
        _ => finding
            .victims
            .first()
            .and_then(|victim| victim.process.as_ref())
            .map(|victim| format!("{victim} was killed")),
    };
    let cause = if of_cgroup {
        let available = finding.number("available_bytes");
        let limit = limit.map_or_else(|| "its limit".to_owned(), |limit| format!("its limit of {limit}"));
        let machine = available.map_or_else(String::new, |available| {
            format!(" The machine itself still has {} available.", bytes(available))
        });
        format!(
            "The processes of {} needed more than {limit}, and nothing could be reclaimed.{machine}",
            place(finding)
        )
    } else if of_machine {
        "The machine had no memory left that could be reclaimed.".to_owned()
    } else {
        "No memory could be reclaimed. The kernel does not tell whether the machine or a cgroup ran out.".to_owned()
    };
    let ended = finding.subject.process.as_ref().is_some_and(|process| process.ended);
    let impact = if itself {
        "The killed process could not shut down: its requests and unsaved work are lost.".to_owned()
    } else if ended {
        format!("Others were killed for the memory that {who} held.")
    } else {
        format!("Others were killed for the memory that {who} holds. It still runs, so it will happen again.")
    };
    Words { title: title(&what, [killed]), cause, impact, outlook: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use crate::rules::testing::words_hold;

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

    fn found(kills: Vec<OomKill>) -> Vec<Finding> {
        let cgroup = CgroupMemory {
            path: "/app".into(),
            directory: "/sys/fs/cgroup/memory/app".into(),
            limit_bytes: 256 << 20,
            limit_hits: 9,
            ..CgroupMemory::default()
        };
        let kills_total = kills.len() as u64;
        let part = OomSummary { kills, kills_total, cgroups: vec![cgroup], ..OomSummary::default() };
        let mut window = fill!(Window { oom_track: Some(part) });
        window.span.started_ns = 1_000_000_000;
        judge(&window, &OomKilled::with(&Thresholds::default()))
    }

    fn title(finding: &Finding) -> String {
        crate::words(finding).title
    }

    #[test]
    fn a_victim_that_used_the_memory_itself_is_the_culprit() {
        let findings = found(vec![kill(7, Some("/app/inner"), &[(7, "victim", 250 << 20), (8, "other", 1 << 20)])]);
        let [finding] = &findings[..] else { panic!("one finding") };
        assert_eq!(title(finding), "victim (7) used up the memory of cgroup /app (256 MiB): it was killed");
        assert_eq!((finding.pid(), finding.subject.cgroup.as_deref()), (Some(7), Some("/app")));
        assert_eq!((finding.since.unwrap().monotonic_ns, finding.severity), (2_500_000_000, Severity::Critical));
        assert_eq!(finding.scope(), Some(&Scope::Cgroup("/app".into())));
        assert!(finding.is_at(Limit::CgroupMemory));
        let raise = finding.fixes.iter().find(|fix| fix.effect == Safety::Changing).unwrap();
        assert_eq!(raise.command, "echo 402653184 > /sys/fs/cgroup/memory/app/memory.limit_in_bytes");
        assert_eq!(raise.acts_on, Entity::Cgroup("/app".into()));
    }

    #[test]
    fn who_used_the_memory_is_not_always_who_was_killed() {
        let findings = found(vec![kill(7, Some("/app"), &[(8, "hog", 200 << 20), (7, "victim", 20 << 20)])]);
        assert_eq!(title(&findings[0]), "hog (8) used up the memory of cgroup /app (256 MiB): victim (7) was killed");
        assert_eq!((findings[0].pid(), findings[0].victims[0].pid()), (Some(8), Some(7)));
        assert!(crate::words(&findings[0]).impact.contains("it will happen again"));
    }

    #[test]
    fn the_machine_and_cgroups_are_told_apart() {
        let unknown = OomKill { scope: KillScope::Unknown, ..kill(12, None, &[]) };
        let findings = found(vec![
            kill(7, Some("/app"), &[(7, "victim", 1)]),
            kill(8, None, &[(9, "hog", 2)]),
            kill(10, Some("/app"), &[]),
            kill(11, Some("/gone"), &[]),
        ]);
        assert_eq!(
            findings.iter().map(title).collect::<Vec<_>>(),
            [
                "victim (7) used up the memory of cgroup /app (256 MiB): 2 processes were killed",
                "hog (9) used up the memory of the machine: victim (8) was killed",
                "victim (11) used up the memory of cgroup /gone: it was killed",
            ]
        );
        assert_eq!(
            findings.iter().map(|finding| &*finding.variant).collect::<Vec<_>>(),
            ["cgroup", "machine", "cgroup"]
        );
        assert_eq!(findings[1].scope(), Some(&Scope::Machine));
        let findings = found(vec![unknown]);
        assert_eq!(title(&findings[0]), "victim (12) used up the memory: it was killed");
        assert_eq!(findings[0].scope(), None, "nobody knows whose memory it was");
    }

    #[test]
    fn without_kills_nothing_is_found() {
        assert!(found(Vec::new()).is_empty());
    }

    #[test]
    fn one_that_was_killed_is_not_to_be_killed_again() {
        let kills = |first| found(vec![kill(7, None, &[(first, "hog", 200 << 20)])]).remove(0);
        let kills = |first| kills(first).fixes.iter().any(|fix| fix.command.starts_with("kill "));
        assert!(!kills(7) && kills(8));
    }

    #[test]
    fn commands_for_a_process_act_on_it() {
        let kill = OomKill { triggered_pid: 9, triggered_comm: "asks".into(), ..kill(7, Some("/gone"), &[]) };
        let finding = found(vec![kill]).remove(0);
        let acts_on = |command: &str| finding.fixes.iter().find(|fix| fix.command == command).unwrap().acts_on.clone();
        assert!(matches!(acts_on("cat /proc/9/cgroup"), Entity::Process(id) if id.pid == 9));
        assert_eq!(acts_on("systemd-cgls /gone"), Entity::Cgroup("/gone".into()));
        assert_eq!(finding.exemplars[0].what, "victim (7) was killed with 20 MiB in use, when asks (9) needed memory");
        assert_eq!(finding.exemplars[0].at.monotonic_ns, 2_500_000_000);
    }

    #[test]
    fn words_are_of_the_finding_alone() {
        let unknown = OomKill { scope: KillScope::Unknown, ..kill(12, None, &[]) };
        let kills = vec![
            kill(7, Some("/app"), &[(8, "hog", 200 << 20)]),
            kill(8, None, &[(9, "hog", 2)]),
            kill(11, Some("/gone"), &[]),
        ];
        found(kills).iter().chain(&found(vec![unknown])).for_each(words_hold);
    }
}
