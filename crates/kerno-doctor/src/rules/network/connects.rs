//! Connections that cannot be opened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::{culprit, since, ss_address, who, within, worst};
use crate::{Culprit, Finding, Severity, Unit, rule};
use kerno_model::Window;
use kerno_model::{TcpFailure, TcpFailureReason, TcpPeer, TcpSummary};

rule! {
    /// Connections that cannot be opened.
    ConnectFailures = "tcp_connect_failures", "tcp_monitor", "connections cannot be opened",
        "Attempts that were refused, found no way or got no answer, by the service that they were for. Refusals are quick, so they \
        count by their rate or by their share of all attempts at that service. A missing answer shows slowly: a SYN that has been \
        sent again counts at once when several wait, and a single one when it has waited for seconds; not where next to all others \
        were answered. What is refused now and then only, as a check of a service's health may be that is down on purpose, is told for \
        information, and so is a process that finds some of very many hosts gone, as crawlers and mail servers do. A refusal on ::1 is no symptom \
        where the same port answers on 127.0.0.1: that is how a name with both addresses is tried.", failures;
    min_refused: 5.0 Count, 1.0 ..= 1e9, "attempts refused (or without a way) before it is a symptom";
    per_second: 0.5 PerSecond, 0.0 ..= 1e6, "refused attempts a second that are a symptom whatever their share";
    share: 0.5 Ratio, 0.0 ..= 1.0, "share of all attempts at that service that is a symptom whatever the rate";
    min_timeouts: 2.0 Count, 1.0 ..= 1e9, "attempts without an answer that are a symptom";
    waiting_seconds: 3.0 Seconds, 1.0 ..= 3600.0, "wait for an answer from which on a single attempt is a symptom";
}

/// From how many services on, that one process cannot reach, it is one finding about the process.
const MANY_SERVICES: usize = 4;

/// A smaller share of attempts that were not answered is bad luck.
const BAD_LUCK: f64 = 0.01;

/// Attempts at one service that failed alike.
#[derive(Debug)]
struct Group<'a> {
    net_namespace: u32,
    service: SocketAddr,
    reason: TcpFailureReason,
    failures: Vec<&'a TcpFailure>,
    count: u64,
    /// Connections to the same service in the window.
    succeeded: u64,
    /// How far past the threshold.
    excess: f64,
}

impl Group<'_> {
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    fn share(&self) -> f64 {
        self.count as f64 / (self.count + self.succeeded).max(1) as f64
    }

    /// Who tried most often.
    fn pid(&self) -> u32 {
        self.failures.iter().max_by_key(|failure| failure.count).map_or(0, |failure| failure.pid)
    }

    fn first_ns(&self) -> u64 {
        self.failures.iter().map(|failure| failure.first_ns).filter(|first| *first > 0).min().unwrap_or(0)
    }
}

fn failures(window: &Window, rule: &ConnectFailures) -> Vec<Finding> {
    let Some(tcp) = &window.tcp_monitor else { return Vec::new() };
    let groups: Vec<_> = groups(tcp).into_iter().filter_map(|group| judged(window, tcp, rule, group)).collect();
    let mut of_process: BTreeMap<(u32, TcpFailureReason), BTreeSet<SocketAddr>> = BTreeMap::new();
    for group in &groups {
        of_process.entry((group.pid(), group.reason)).or_default().insert(group.service);
    }
    let (many, few): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| {
        let services = of_process.get(&(group.pid(), group.reason));
        group.pid() != 0 && services.is_some_and(|services| services.len() >= MANY_SERVICES)
    });
    let mut findings: Vec<_> = few.iter().map(|group| one(window, tcp, rule, group)).collect();
    let mut by_process: BTreeMap<(u32, TcpFailureReason), Vec<Group<'_>>> = BTreeMap::new();
    for group in many {
        by_process.entry((group.pid(), group.reason)).or_default().push(group);
    }
    findings.extend(by_process.iter().map(|((pid, _), groups)| several(window, tcp, rule, *pid, groups)));
    worst(findings)
}

fn groups(tcp: &TcpSummary) -> Vec<Group<'_>> {
    let mut groups: BTreeMap<(u32, SocketAddr, TcpFailureReason), Group<'_>> = BTreeMap::new();
    for failure in &tcp.failures {
        let service = SocketAddr::new(failure.remote, failure.port);
        let key = (failure.net_namespace, service, failure.reason);
        let group = groups.entry(key).or_insert_with(|| Group {
            net_namespace: failure.net_namespace,
            service,
            reason: failure.reason,
            failures: Vec::new(),
            count: 0,
            succeeded: connections(tcp, failure.net_namespace, service),
            excess: 0.0,
        });
        group.count += failure.count;
        group.failures.push(failure);
    }
    groups.into_values().collect()
}

fn connections(tcp: &TcpSummary, net_namespace: u32, service: SocketAddr) -> u64 {
    let same = tcp.peers.iter().filter(|peer| {
        peer.outgoing
            && peer.net_namespace == net_namespace
            && peer.remote == service.ip()
            && peer.port == service.port()
    });
    same.map(|peer| peer.connections).sum()
}

/// Sets how far past the threshold it is; `None` when it is below.
#[allow(clippy::cast_precision_loss, reason = "counts")]
fn judged<'a>(window: &Window, tcp: &TcpSummary, rule: &ConnectFailures, mut group: Group<'a>) -> Option<Group<'a>> {
    let count = group.count as f64;
    group.excess = if group.reason == TcpFailureReason::TimedOut {
        let end_ns = window.span.started_ns as f64 + window.seconds() * 1e9;
        let waiting = group.failures.iter().filter(|failure| failure.waiting > 0 && failure.first_ns > 0);
        let longest = waiting.map(|failure| (end_ns - failure.first_ns as f64) / 1e9).fold(0.0, f64::max);
        if group.share() < BAD_LUCK {
            return None;
        }
        (count / rule.min_timeouts).max(longest / rule.waiting_seconds)
    } else {
        if tried_both(tcp, &group) {
            return None;
        }
        let frequent = count / window.seconds() / rule.per_second.max(1e-9);
        let excess = (count / rule.min_refused).min(frequent);
        // Seldom, but hardly ever anything else.
        if group.share() >= rule.share { excess.max((count / rule.min_refused).min(1.0)) } else { excess }
    };
    (group.excess >= 1.0).then_some(group)
}

/// Refused on `::1`, and the same port answers on 127.0.0.1.
fn tried_both(tcp: &TcpSummary, group: &Group<'_>) -> bool {
    let IpAddr::V6(address) = group.service.ip() else { return false };
    let other = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), group.service.port());
    address.is_loopback() && 2 * connections(tcp, group.net_namespace, other) >= group.count
}

const fn verb(reason: TcpFailureReason) -> &'static str {
    match reason {
        TcpFailureReason::Refused => "refused",
        TcpFailureReason::TimedOut => "not answered",
        TcpFailureReason::Reset => "broken off",
        TcpFailureReason::Unreachable => "without a way there",
        _ => "failed",
    }
}

const fn cause(reason: TcpFailureReason) -> &'static str {
    match reason {
        TcpFailureReason::Refused => {
            "nobody listens there: the service is not running, or listens on another address or port"
        }
        TcpFailureReason::TimedOut => "the host is down, or a firewall on the way drops the packets without a word",
        TcpFailureReason::Reset => {
            "the other end, or a firewall in its name, breaks the connection off while it is opened"
        }
        TcpFailureReason::Unreachable => {
            "a router or this machine knows no way there, or the host does not answer on its network"
        }
        _ => "see the error",
    }
}

fn times(count: u64) -> String {
    if count == 1 { "once".into() } else { format!("{count} times") }
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn severity(count: u64, succeeded: u64, seconds: f64, reason: TcpFailureReason) -> Severity {
    let nothing_works = succeeded == 0;
    let often = count as f64 / seconds >= 5.0 || (reason == TcpFailureReason::TimedOut && count >= 3);
    if nothing_works && often { Severity::Critical } else { Severity::Warning }
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn one(window: &Window, tcp: &TcpSummary, rule: &ConnectFailures, group: &Group<'_>) -> Finding {
    let (pid, service, reason) = (group.pid(), group.service, group.reason);
    let per_second = group.count as f64 / window.seconds();
    let title = format!("{} cannot connect to {service}: {} {}", who(window, pid), verb(reason), times(group.count));
    let seldom = reason != TcpFailureReason::TimedOut && per_second < rule.per_second;
    let severity =
        if seldom { Severity::Info } else { severity(group.count, group.succeeded, window.seconds(), reason) };
    let mut finding = ConnectFailures::finding(severity, title)
        .measured(format!("attempts {}", verb(reason)), group.count as f64, Unit::Count, Some(minimum(rule, reason)))
        .measured(
            format!("attempts {}", verb(reason)),
            per_second,
            Unit::PerSecond,
            (reason != TcpFailureReason::TimedOut).then_some(rule.per_second),
        )
        .measured("share of all attempts at it", group.share(), Unit::Ratio, Some(rule.share));
    let waiting: u64 = group.failures.iter().map(|failure| failure.waiting).sum();
    if waiting > 0 {
        finding = finding.measured("of these, still waiting for an answer", waiting as f64, Unit::Count, None);
    }
    finding.cause = match (reason, group.failures.first()) {
        (TcpFailureReason::Other, Some(failure)) => format!("the error is {}", failure.error.name),
        (TcpFailureReason::TimedOut, _) if overflows(tcp, group) => {
            "the server is on this machine and drops what comes, because it does not accept its connections in time"
                .into()
        }
        _ => cause(reason).into(),
    };
    finding.impact = if group.succeeded == 0 {
        format!("nothing on this machine got a connection to {service}")
    } else {
        format!("{} connections to {service} were there all the same", group.succeeded)
    };
    finding.culprit = culprit(window, pid, service.to_string());
    let mut victims: Vec<_> = group.failures.iter().filter(|failure| failure.pid != 0).collect();
    victims.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    finding.victims =
        victims.iter().take(super::MAX_FINDINGS).map(|f| Culprit::process(window, f.pid, &f.comm)).collect();
    finding.since = since(window, group.first_ns());
    finding.excess = group.excess;
    fixes(finding, tcp, group)
}

/// A socket that listens at that port here drops connections.
fn overflows(tcp: &TcpSummary, group: &Group<'_>) -> bool {
    let local = group.service.ip().is_loopback();
    tcp.listeners.iter().any(|listener| {
        listener.drops > 0
            && listener.port == group.service.port()
            && (listener.local == group.service.ip() || (local && listener.local.is_unspecified()))
    })
}

const fn minimum(rule: &ConnectFailures, reason: TcpFailureReason) -> f64 {
    match reason {
        TcpFailureReason::TimedOut => rule.min_timeouts,
        _ => rule.min_refused,
    }
}

fn fixes(finding: Finding, tcp: &TcpSummary, group: &Group<'_>) -> Finding {
    let (remote, port) = (group.service.ip(), group.service.port());
    let within = |command: String| within(tcp, group.net_namespace, &command);
    if group.reason == TcpFailureReason::Refused && remote.is_loopback() {
        return finding
            .look(within(format!("ss -ltnp 'sport = :{port}'")), "whether anybody listens, and on which address")
            .look("systemctl list-units --state=failed", "whether the service has failed")
            .look("journalctl -p err --since -10min", "why it is not running");
    }
    let finding = finding
        .look(within(format!("ss -tnp state syn-sent dst {}", ss_address(remote))), "attempts that wait right now")
        .look(within(format!("ip route get {remote}")), "by which interface and router it goes")
        .look(within("nft list ruleset".into()), "rules here that drop or reject");
    let finding = match group.reason {
        TcpFailureReason::Refused => finding.look(
            format!("ssh {remote} \"ss -ltnp 'sport = :{port}'\""),
            "whether anybody listens there, and on which address",
        ),
        _ => finding.look(within(format!("mtr -rwbc 10 -T -P {port} {remote}")), "how far packets to that port come"),
    };
    finding.look(
        within(format!("tcpdump -ni any -c 20 tcp port {port} and host {remote}")),
        "what comes back, if anything",
    )
}

/// One process that cannot reach many services.
#[allow(clippy::cast_precision_loss, reason = "counts")]
fn several(window: &Window, tcp: &TcpSummary, rule: &ConnectFailures, pid: u32, groups: &[Group<'_>]) -> Finding {
    let count: u64 = groups.iter().map(|group| group.count).sum();
    let reason = groups.first().map_or(TcpFailureReason::Other, |group| group.reason);
    let excess = groups.iter().map(|group| group.excess).fold(0.0, f64::max);
    let title =
        format!("{} cannot connect to {} services: {} {}", who(window, pid), groups.len(), verb(reason), times(count));
    let succeeded = groups.iter().map(|group| group.succeeded).sum();
    // Connections of its own to others: it reaches as many as it does not.
    let own = |peer: &&TcpPeer| peer.outgoing && peer.owners.iter().any(|owner| owner.pid == pid);
    let others = tcp.peers.iter().filter(own).count();
    let severity =
        if others >= groups.len() { Severity::Info } else { severity(count, succeeded, window.seconds(), reason) };
    let mut finding = ConnectFailures::finding(severity, title)
        .measured(format!("attempts {}", verb(reason)), count as f64, Unit::Count, Some(minimum(rule, reason)))
        .measured(format!("attempts {}", verb(reason)), count as f64 / window.seconds(), Unit::PerSecond, None)
        .measured("services", groups.len() as f64, Unit::Count, None)
        .measured("services that it reached", others as f64, Unit::Count, None);
    finding.cause = format!(
        "{}; with so many at once the fault is likely nearer: this machine's network, or the process tries ports out",
        cause(reason)
    );
    finding.impact = if succeeded == 0 {
        "it gets no connection to any of them".into()
    } else {
        format!("{succeeded} connections to them were there all the same")
    };
    finding.culprit = Culprit::process(window, pid, "");
    let mut worst: Vec<_> = groups.iter().collect();
    worst.sort_by_key(|group| std::cmp::Reverse(group.count));
    finding.victims = worst.iter().take(super::MAX_FINDINGS).map(|group| Culprit::remote(group.service)).collect();
    finding.since = groups.iter().map(Group::first_ns).min().and_then(|first| since(window, first));
    finding.excess = excess;
    finding.confidence = 0.8;
    match worst.first() {
        Some(group) => fixes(finding, tcp, group),
        None => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judge, peer};
    use super::*;
    use kerno_model::ErrnoCount;

    fn failure(reason: TcpFailureReason, remote: &str, count: u64) -> TcpFailure {
        TcpFailure {
            reason,
            error: ErrnoCount::new(kerno_model::errno::ECONNREFUSED, count),
            remote: remote.parse().unwrap(),
            port: 5432,
            pid: 815,
            comm: "client".into(),
            net_namespace: 1,
            count,
            waiting: 0,
            first_ns: 4_000_000_000,
        }
    }

    fn found(failures: Vec<TcpFailure>, peers: Vec<TcpPeer>) -> Vec<Finding> {
        judge(&ConnectFailures::RULE, |tcp| (tcp.failures, tcp.peers) = (failures, peers))
    }

    #[test]
    fn refusals_count_by_rate_or_by_share() {
        use TcpFailureReason::Refused;
        let findings = found(vec![failure(Refused, "127.0.0.1", 60)], vec![]);
        assert_eq!(findings[0].title, "client (815) cannot connect to 127.0.0.1:5432: refused 60 times");
        assert_eq!((findings[0].severity, findings[0].since), (Severity::Critical, Some(3.0)));
        assert_eq!(findings[0].fixes[0].command, "ss -ltnp 'sport = :5432'");
        assert_eq!(findings[0].culprit.remote.as_deref(), Some("127.0.0.1:5432"));
        assert!(found(vec![failure(Refused, "10.0.0.9", 4)], vec![]).is_empty());
        let busy = || TcpPeer { connections: 1000, ..peer("10.0.0.9", 1000, 0) };
        assert_eq!(found(vec![failure(Refused, "10.0.0.9", 6)], vec![busy()])[0].severity, Severity::Warning);
        let seldom = |peers| {
            let mut window = super::super::testing::observed(|tcp| {
                (tcp.failures, tcp.peers) = (vec![failure(Refused, "10.0.0.9", 6)], peers);
            });
            window.span.seconds = 60.0;
            (ConnectFailures::RULE.judge)(&window, &crate::Thresholds::default())
        };
        assert!(seldom(vec![busy()]).is_empty());
        assert_eq!(seldom(vec![])[0].severity, Severity::Info, "a check of a service that is down on purpose");
    }

    #[test]
    fn trying_both_addresses_of_localhost_is_no_symptom() {
        let refused = || vec![failure(TcpFailureReason::Refused, "::1", 100)];
        assert!(found(refused(), vec![TcpPeer { connections: 100, ..peer("127.0.0.1", 1000, 0) }]).is_empty());
        assert_eq!(found(refused(), vec![]).len(), 1);
    }

    #[test]
    fn an_answer_that_does_not_come_shows_while_it_is_waited_for() {
        let waiting = |count, first_ns| {
            let failure = failure(TcpFailureReason::TimedOut, "10.0.0.9", count);
            found(vec![TcpFailure { waiting: count, first_ns, ..failure }], vec![])
        };
        assert!(waiting(1, 9_500_000_000).is_empty(), "one SYN may get lost");
        let findings = waiting(1, 6_000_000_000);
        assert_eq!(findings[0].title, "client (815) cannot connect to 10.0.0.9:5432: not answered once");
        assert!(findings[0].fixes.iter().any(|fix| fix.command == "ss -tnp state syn-sent dst 10.0.0.9"));
        assert_eq!(waiting(3, 9_500_000_000)[0].severity, Severity::Critical);
    }

    #[test]
    fn a_process_that_reaches_nothing_is_one_finding() {
        let failures = (1..=6).map(|i| failure(TcpFailureReason::Unreachable, &format!("10.0.0.{i}"), 10)).collect();
        let findings = found(failures, vec![]);
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(finding.title, "client (815) cannot connect to 6 services: without a way there 60 times");
        assert_eq!((finding.victims.len(), finding.severity), (6, Severity::Critical));
    }

    #[test]
    fn some_of_very_many_hosts_are_always_gone() {
        let gone = || (1..=6).map(|i| failure(TcpFailureReason::TimedOut, &format!("10.0.0.{i}"), 3)).collect();
        let there = |n| (1..=n).map(|i| peer(&format!("10.0.1.{i}"), 30, 0)).collect();
        assert_eq!(found(gone(), there(2))[0].severity, Severity::Critical);
        assert_eq!(found(gone(), there(20))[0].severity, Severity::Info);
        let unlucky = || vec![failure(TcpFailureReason::TimedOut, "10.0.0.9", 3)];
        let of = |connections| vec![TcpPeer { connections, ..peer("10.0.0.9", 1000, 0) }];
        assert_eq!(found(unlucky(), of(100)).len(), 1);
        assert!(found(unlucky(), of(1000)).is_empty());
    }
}
