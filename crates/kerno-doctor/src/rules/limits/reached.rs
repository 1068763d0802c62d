//! A limit is full, and calls fail for it.

use std::collections::BTreeMap;

use kerno_model::{
    Address, Fact, Finding, LimitFailure, LimitHolder, LimitScope, LimitUse, Process, Resource, Scope, Severity,
    Subject, Unit, Window, fill,
};

use super::words::words;
use crate::knowledge::limits::{self, LimitEntry};
use crate::rule;

rule! {
    /// A limit of any kind is reached.
    LimitReached = "limit_reached", "syscall_latency", "a limit is reached, and calls fail for it",
        "When a call fails with an error that a limit gives, the limits that give it are read at once, in the namespaces and the cgroup of the \
        process that fails: processes of a cgroup, of a user and of the machine, local ports, tracked connections, watches, keys, memory \
        mappings, System V IPC and so on. One that is full is the cause, and whoever has most of it the culprit. One failure is enough, because \
        programs give up; of a limit of its own that a process copes with, several are needed. Where none is full, nothing is said. File \
        descriptors, full disks and backlogs have rules of their own.",
        judge, words;
    causes: [LimitReached];
    suffers: [];
    thresholds: {
        min_failures: 1.0 Count, 1.0 ..= 1e6, "calls that failed while the limit was full";
        min_own_failures: 3.0 Count, 1.0 ..= 1e6, "such calls of a process that goes on, where the limit is its own: some programs try how much they get";
        critical_per_second: 1.0 PerSecond, 0.01 ..= 1e6, "such calls per second that are critical";
    }
    evidence: {
        used: "in use";
        limit: "limit";
        bytes_used: "in use";
        bytes_limit: "limit";
        failed: "calls that failed for it";
        failed_per_second: "calls that failed for it per second";
        idle: "of what is in use: zombies, or connections in TIME_WAIT";
        refused: "refused by the kernel for this limit so far";
        held: "held by {}";
        bytes_held: "held by {}";
    }
}

/// The most findings of a window.
const MAX_FINDINGS: usize = 6;
/// The most victims of one.
const MAX_VICTIMS: usize = 8;
/// Who has at least this share of what is used is the culprit.
const CULPRIT: f64 = 0.25;

/// What failed for one limit.
#[derive(Debug)]
pub(super) struct Reached<'a> {
    limit: &'a LimitUse,
    entry: &'static LimitEntry,
    failures: Vec<&'a LimitFailure>,
}

impl Reached<'_> {
    fn count(&self) -> u64 {
        self.failures.iter().map(|failure| failure.count).fold(0, u64::saturating_add)
    }

    /// Who failed most often.
    fn worst(&self) -> Option<&LimitFailure> {
        self.failures.iter().max_by_key(|failure| failure.count).copied()
    }
}

fn judge(window: &Window, rule: &LimitReached) -> Vec<Finding> {
    let mut reached: BTreeMap<(Resource, LimitScope, &str, u32), Reached<'_>> = BTreeMap::new();
    for failure in &window.limits {
        let Some((limit, entry)) = full(failure) else { continue };
        // A process has each of its limits for itself.
        let own = if limit.scope == LimitScope::Process { failure.pid } else { 0 };
        let key = (limit.resource, limit.scope, limit.place.as_str(), own);
        let known = reached.entry(key).or_insert_with(|| Reached { limit, entry, failures: Vec::new() });
        if limit.share() > known.limit.share() {
            known.limit = limit;
        }
        known.failures.push(failure);
    }
    let mut findings: Vec<_> = reached.values().filter_map(|reached| finding(window, rule, reached)).collect();
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.excess.total_cmp(&a.excess)));
    findings.truncate(MAX_FINDINGS);
    findings
}

/// The limit that a failure is due to: of several the fullest, and then the narrowest.
fn full(failure: &LimitFailure) -> Option<(&LimitUse, &'static LimitEntry)> {
    let watched = |limit: &&LimitUse| {
        !matches!(limit.resource, Resource::Descriptors | Resource::OpenFiles | Resource::UnixBacklog)
            && limits::explains(limit, &failure.call, failure.errno)
    };
    let full = failure.limits.iter().filter(watched);
    let best = full
        .max_by(|a, b| a.is_full().cmp(&b.is_full()).then_with(|| a.share().min(1.0).total_cmp(&b.share().min(1.0))))?;
    Some((best, limits::entry(best.resource)?))
}

#[allow(clippy::cast_precision_loss, reason = "counts, shown and compared")]
fn finding(window: &Window, rule: &LimitReached, reached: &Reached<'_>) -> Option<Finding> {
    let (limit, entry, count) = (reached.limit, reached.entry, reached.count() as f64);
    let worst = reached.worst()?;
    if count < rule.min_failures {
        return None;
    }
    let per_second = count / window.seconds();
    let lives = |failure: &&LimitFailure| {
        !failure.ended && window.process_seen(failure.pid, &failure.comm).is_none_or(|process: &Process| process.alive)
    };
    // What is switched off, and what a process tries to have of its own, programs do without.
    let copes = (limit.scope == LimitScope::Process || limit.limit == 0) && reached.failures.iter().all(lives);
    let severity = match () {
        () if copes && count < rule.min_own_failures => Severity::Info,
        () if per_second >= rule.critical_per_second => Severity::Critical,
        () => Severity::Warning,
    };
    let culprit = culprit(window, reached);
    let unit = limit.unit.unit();
    let (used_name, limit_name, held_name) =
        if unit == Unit::Bytes { ("bytes_used", "bytes_limit", "bytes_held") } else { ("used", "limit", "held") };
    let mut finding = LimitReached::finding(severity)
        .variant(limit.resource.name())
        .about(subject(window, limit, culprit.as_ref()))
        .fact(Fact::Scope(scope(limit)))
        .detail("limit_name", limits::name(limit))
        .detail("what", entry.what)
        .detail("place", limit.place.clone())
        .detail("scope", limit.scope.name())
        .detail("zombies", zombies(limit) as f64 * 2.0 > limit.used as f64)
        .detail(
            "failing",
            Subject::process(window, worst.pid, window.name_of(worst.pid, &worst.comm)).process.unwrap_or_default(),
        )
        .measured(used_name, limit.used as f64, unit, Some(limit.limit as f64))
        .measured(limit_name, limit.limit as f64, unit, None)
        .measured("failed", count, Unit::Count, Some(rule.min_failures))
        .measured("failed_per_second", per_second, Unit::PerSecond, None);
    if limit.idle > 0 {
        finding = finding.measured("idle", limit.idle as f64, Unit::Count, None);
    }
    if limit.refused > 0 {
        finding = finding.measured("refused", limit.refused as f64, Unit::Count, None);
    }
    for holder in &limit.holders {
        let who = named(window, holder).unwrap_or_else(|| holder.comm.clone());
        finding = finding.measured_of(held_name, who, holder.amount as f64, unit, None);
    }
    if let Some(holder) = &culprit {
        finding = finding.detail("namespace_init", holder.namespace_init);
        if holder.zombies > 0 {
            finding = finding.detail("own_zombies", (holder.zombies as f64, Unit::Count));
        }
    }
    for failure in &reached.failures {
        let (call, errno) = (Fact::Call(failure.call.clone()), Fact::Errno(failure.errno));
        for fact in [call, errno] {
            if !finding.has(&fact) {
                finding = finding.fact(fact);
            }
        }
    }
    let mut failing = reached.failures.clone();
    failing.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    finding.victims = failing
        .iter()
        .take(MAX_VICTIMS)
        .map(|failure| Subject::process(window, failure.pid, window.name_of(failure.pid, &failure.comm)))
        .collect();
    finding.victims.dedup_by_key(|victim| victim.pid());
    finding.since = first(window, reached);
    finding.excess = (count / rule.min_failures).max(1.0);
    finding.confidence = if limit.is_full() { 0.95 } else { 0.8 };
    Some(fixes(finding, reached, worst.pid, culprit.as_ref()))
}

fn zombies(limit: &LimitUse) -> u64 {
    limit.holders.iter().map(|holder| holder.zombies).sum()
}

fn named(window: &Window, holder: &LimitHolder) -> Option<String> {
    Subject::process(window, holder.pid, &holder.comm).label().filter(|_| holder.pid != 0)
}

#[allow(clippy::cast_precision_loss, reason = "seconds")]
fn first(window: &Window, reached: &Reached<'_>) -> Option<kerno_model::Moment> {
    let first = reached.failures.iter().map(|failure| failure.first_ns).filter(|first| *first > 0).min()?;
    let seconds = first.checked_sub(window.span.started_ns)? as f64 / 1e9;
    (seconds > 0.1 * window.covered_seconds()).then(|| window.moment_ns(first))
}

/// Who has most of it. Of connections that nobody has open any more, whoever opened most.
#[allow(clippy::cast_precision_loss, reason = "shares")]
fn culprit(window: &Window, reached: &Reached<'_>) -> Option<LimitHolder> {
    let limit = reached.limit;
    let enough = |amount: u64| amount as f64 >= CULPRIT * limit.used as f64;
    let holder = limit.holders.first().filter(|holder| holder.pid != 0 && enough(holder.amount)).cloned();
    let opener = || opener(window, limit);
    match limit.resource {
        Resource::EphemeralPorts => holder.or_else(opener).or_else(|| asker(reached)),
        Resource::TrackedConnections => opener(),
        // Of these the kernel does not tell who has them; whoever asks for more is of the same user, or in the same namespace.
        Resource::Keys
        | Resource::KeyBytes
        | Resource::PendingSignals
        | Resource::SemaphoreSets
        | Resource::Semaphores
        | Resource::MessageQueues
        | Resource::MessageBytes
        | Resource::UdpPorts
        | Resource::QuotaBytes
        | Resource::QuotaFiles => holder.or_else(|| asker(reached)),
        _ => holder,
    }
}

/// Who asks for more most often.
fn asker(reached: &Reached<'_>) -> Option<LimitHolder> {
    let worst = reached.worst()?;
    Some(LimitHolder { pid: worst.pid, comm: worst.comm.clone(), ..LimitHolder::default() })
}

/// Who has opened, or accepted, most connections there in this window, if it is clear.
fn opener(window: &Window, limit: &LimitUse) -> Option<LimitHolder> {
    let tcp = window.tcp_monitor.as_ref()?;
    let to: Option<std::net::SocketAddr> = limit.place.parse().ok();
    let initial = tcp.namespaces.iter().find(|namespace| namespace.initial).map(|namespace| namespace.inode);
    let namespace = if limit.place.is_empty() { initial } else { limit.place.parse().ok() };
    let there = tcp.peers.iter().filter(|peer| match limit.resource {
        Resource::EphemeralPorts => {
            peer.outgoing && to.is_some_and(|to| (peer.remote.to_canonical(), peer.port) == (to.ip(), to.port()))
        }
        _ => peer.outgoing && namespace == Some(peer.net_namespace),
    });
    let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
    there.flat_map(|peer| &peer.owners).for_each(|owner| *counts.entry(owner.pid).or_default() += owner.connections);
    let all: u64 = counts.values().sum();
    let (pid, most) = counts.into_iter().filter(|(pid, _)| *pid != 0).max_by_key(|(_, count)| *count)?;
    let comm = window.name_of(pid, "").to_owned();
    (2 * most >= all).then_some(LimitHolder { pid, comm, ..LimitHolder::default() })
}

fn subject(window: &Window, limit: &LimitUse, culprit: Option<&LimitHolder>) -> Subject {
    let own = culprit
        .map(|holder| Subject::process(window, holder.pid, window.name_of(holder.pid, &holder.comm)))
        .unwrap_or_default();
    match limit.scope {
        LimitScope::Cgroup => fill!(Subject { cgroup: Some(limit.place.clone()), ..own }),
        LimitScope::FileSystem => fill!(Subject { mount: Some(limit.place.clone()), ..own }),
        LimitScope::Destination => {
            let remote = limit.place.parse::<std::net::SocketAddr>().ok().map(Address::from);
            fill!(Subject { remote, ..own })
        }
        _ => own,
    }
}

fn scope(limit: &LimitUse) -> Scope {
    match limit.scope {
        LimitScope::Process | LimitScope::Destination | LimitScope::Listener => Scope::Process,
        LimitScope::Cgroup => Scope::Cgroup(limit.place.clone()),
        _ => Scope::Machine,
    }
}

fn fixes(finding: Finding, reached: &Reached<'_>, pid: u32, culprit: Option<&LimitHolder>) -> Finding {
    let (limit, entry) = (reached.limit, reached.entry);
    let fill_in = |text: &str| limits::filled_in(text, limit, pid);
    let mut finding = finding;
    if let Some(holder) = culprit.filter(|holder| holder.zombies > 0) {
        finding = finding.look_at_process(
            format!("ps -o pid,ppid,stat,etime,comm --ppid {} | grep -w Z", holder.pid),
            "its children that have ended (Z); kill does nothing to them, only its wait() or its own end does",
        );
    }
    finding = finding.look(fill_in(entry.look), "how full it is");
    let raise = fill_in(entry.raise);
    let changes =
        ["-w ", "prlimit", "echo ", "remount", "set-property", "edquota"].iter().any(|word| raise.contains(word));
    let why = if culprit.is_some_and(|holder| holder.zombies > 0) {
        "gains time only: zombies fill it again"
    } else {
        "raises it"
    };
    match (changes, limit.scope) {
        (true, LimitScope::Process) => finding.change_process(raise, why),
        (true, _) => finding.change(raise, why),
        (false, _) => finding.look(raise, "where it is set"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use crate::rules::testing::words_hold;
    use kerno_model::{ConnectionOwner, Span, TcpPeer, TcpSummary, errno as e};

    fn failure(call: &str, errno: i32, count: u64, limits: Vec<LimitUse>) -> LimitFailure {
        fill!(LimitFailure { pid: 40, comm: "client".into(), call: call.into(), errno, count, limits })
    }

    fn found(failures: Vec<LimitFailure>) -> Vec<Finding> {
        let window = fill!(Window { span: fill!(Span { seconds: 10.0 }), limits: failures });
        let findings = judge(&window, &LimitReached::with(&Thresholds::default()));
        findings.iter().for_each(words_hold);
        findings
    }

    fn held(limit: LimitUse, holders: &[(u32, &str, u64, u64)]) -> LimitUse {
        let holder = |(pid, comm, amount, zombies): &(u32, &str, u64, u64)| LimitHolder {
            pid: *pid,
            comm: (*comm).into(),
            amount: *amount,
            zombies: *zombies,
            namespace_init: *zombies > 0,
        };
        fill!(LimitUse { holders: holders.iter().map(holder).collect(), ..limit })
    }

    fn pids(used: u64) -> LimitUse {
        LimitUse::new(Resource::Pids, LimitScope::Cgroup, used, 60).at("/k-pids")
    }

    #[test]
    fn zombies_are_told_with_their_parent() {
        let mut limit = held(pids(60), &[(9, "init", 60, 59)]);
        limit.idle = 59;
        let findings = found(vec![failure("clone", e::EAGAIN, 90, vec![limit])]);
        assert_eq!(findings.len(), 1);
        let (finding, words) = (&findings[0], crate::words(&findings[0]));
        assert_eq!(words.title, "init (9) keeps 59 zombies and fills pids.max of cgroup /k-pids: 60 of 60");
        assert_eq!(
            (finding.severity, finding.subject.pid(), finding.subject.cgroup.as_deref()),
            (Severity::Critical, Some(9), Some("/k-pids"))
        );
        assert_eq!(finding.victims[0].pid(), Some(40));
        assert!(
            words.cause.contains("kill") && words.cause.contains("first process of its pid namespace"),
            "{}",
            words.cause
        );
        assert!(finding.fixes[0].command.contains("--ppid 9"));
    }

    #[test]
    fn with_none_full_it_does_not_guess() {
        assert!(found(vec![failure("clone", e::EAGAIN, 900, vec![pids(40)])]).is_empty());
        assert!(found(vec![failure("clone", e::EAGAIN, 900, vec![])]).is_empty());
        // Full, but not what gives this error.
        assert!(found(vec![failure("clone", e::ENOMEM, 900, vec![pids(60)])]).is_empty());
    }

    #[test]
    fn one_failure_of_a_shared_limit_is_enough() {
        let limit = held(
            LimitUse::new(Resource::InotifyInstances, LimitScope::User, 128, 128).at("1000"),
            &[(7, "code", 120, 0)],
        );
        let findings = found(vec![failure("inotify_init1", e::EMFILE, 1, vec![limit])]);
        assert_eq!(
            crate::words(&findings[0]).title,
            "code (7) fills fs.inotify.max_user_instances of user 1000: 128 of 128"
        );
        assert_eq!(findings[0].severity, Severity::Warning);
        assert!(findings[0].fixes.iter().any(|fix| fix.command == "sysctl -w fs.inotify.max_user_instances=256"));
    }

    #[test]
    fn a_program_that_tries_how_much_it_gets_is_no_alarm() {
        let limit = || LimitUse::new(Resource::AddressSpace, LimitScope::Process, 1 << 30, 1 << 30).bytes();
        assert_eq!(found(vec![failure("mmap", e::ENOMEM, 2, vec![limit()])])[0].severity, Severity::Info);
        assert_eq!(found(vec![failure("mmap", e::ENOMEM, 5, vec![limit()])])[0].severity, Severity::Warning);
        // It gave up.
        let ended = fill!(LimitFailure { ended: true, ..failure("mmap", e::ENOMEM, 1, vec![limit()]) });
        assert_eq!(found(vec![ended])[0].severity, Severity::Warning);
    }

    #[test]
    fn ports_in_time_wait_are_whose_who_opened_them() {
        let mut limit = LimitUse::new(Resource::EphemeralPorts, LimitScope::Destination, 61, 61).at("127.0.0.1:8080");
        limit.idle = 58;
        let owner = |pid, connections| ConnectionOwner { pid, connections, open: None };
        let peer = TcpPeer {
            remote: "127.0.0.1".parse().unwrap(),
            port: 8080,
            outgoing: true,
            owners: vec![owner(5, 3), owner(6, 90)],
            ..TcpPeer::default()
        };
        let window = fill!(Window {
            span: fill!(Span { seconds: 10.0 }),
            tcp_monitor: Some(TcpSummary { peers: vec![peer], ..TcpSummary::default() }),
            limits: vec![failure("connect", e::EADDRNOTAVAIL, 420, vec![limit])],
        });
        let findings = judge(&window, &LimitReached::with(&Thresholds::default()));
        findings.iter().for_each(words_hold);
        assert_eq!((findings[0].subject.pid(), findings[0].subject.remote.unwrap().port), (Some(6), Some(8080)));
        let words = crate::words(&findings[0]);
        assert!(words.cause.contains("58 of them are in TIME_WAIT"), "{}", words.cause);
    }

    #[test]
    fn a_full_table_without_a_culprit_is_told_by_its_place() {
        let mut limit = LimitUse::new(Resource::TrackedConnections, LimitScope::NetNamespace, 64, 64).at("4026532000");
        limit.refused = 77;
        let findings = found(vec![failure("connect", e::ETIMEDOUT, 5, vec![limit])]);
        assert_eq!(
            crate::words(&findings[0]).title,
            "network namespace 4026532000 has reached net.netfilter.nf_conntrack_max: 64 of 64"
        );
        assert_eq!(findings[0].number("refused"), Some(77.0));
    }

    #[test]
    fn two_that_fail_for_the_same_limit_are_one_finding() {
        let limit = || held(pids(60), &[(9, "sh", 50, 0)]);
        let other = fill!(LimitFailure { pid: 41, ..failure("clone3", e::EAGAIN, 3, vec![limit()]) });
        let findings = found(vec![failure("clone", e::EAGAIN, 7, vec![limit()]), other]);
        assert_eq!((findings.len(), findings[0].victims.len(), findings[0].number("failed")), (1, 2, Some(10.0)));
        assert_eq!(findings[0].calls().count(), 2);
    }
}
