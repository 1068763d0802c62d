//! Connections that cannot be opened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use kerno_model::amount::number;
use kerno_model::fill;
use kerno_model::{
    Effect, Fact, Finding, Severity, Subject, TcpFailure, TcpFailureReason, TcpPeer, TcpSummary, Unit, Window, errno,
};

use super::{Namespace, process, since, ss_address, who, worst};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Connections that cannot be opened.
    ConnectFailures = "tcp_connect_failures", "tcp_monitor", "connections cannot be opened",
        "Counts failed attempts to connect, by service: refused, reset, without a route, or without an answer. Refusals are quick, so \
        they count by their rate, or by their share of all attempts at that service. A missing answer takes long to show: a SYN that \
        was retransmitted counts at once when several wait, and a single one after some seconds, unless nearly all other attempts \
        were answered. Occasional refusals, such as health checks of a service that is down on purpose, are reported for information \
        only. So is a process that fails to reach some of very many hosts, as crawlers and mail servers do. A refusal on ::1 does not \
        count when the same port answers on 127.0.0.1: programs try both addresses of a name.",
        failures, words;
    causes: [ConnectsFail];
    suffers: [
        suffers(Effect::LimitReached, |ties, a, b| ties.same_limit(a, b), "a table or a range on this machine is full"),
        suffers(Effect::NotAccepted, |ties, a, b| ties.to_listener(a, b), "nobody accepts what it opens"),
        suffers(
            Effect::SegmentsLost,
            |ties, a, b| ties.timed_out_to_same_remote(a, b),
            "what it sends to open connections is lost",
        ),
        suffers(
            Effect::PathBroken,
            |ties, a, b| ties.timed_out_to_same_remote(a, b),
            "open connections to that host get no answer either",
        ),
    ];
    thresholds: {
        min_refused: 5.0 Count, 1.0 ..= 1e9, "failed attempts needed, other than those without an answer";
        per_second: 0.5 PerSecond, 0.0 ..= 1e6, "failed attempts per second that count whatever their share";
        share: 0.5 Ratio, 0.0 ..= 1.0, "failed share of all attempts at that service that counts whatever the rate";
        min_timeouts: 2.0 Count, 1.0 ..= 1e9, "attempts without an answer needed";
        waiting_seconds: 3.0 Seconds, 1.0 ..= 3600.0, "time without an answer after which a single attempt counts";
    }
    evidence: {
        attempts: "failed attempts";
        attempts_per_second: "failed attempts per second";
        share_of_attempts: "failed share of all attempts at this service";
        waiting: "attempts still waiting for an answer";
        services: "services that it cannot reach";
        services_reached: "services that it reaches";
    }
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

    fn comm(&self) -> &str {
        self.failures.iter().max_by_key(|failure| failure.count).map_or("", |failure| &failure.comm)
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
        let end_ns = window.span.started_ns as f64 + window.covered_seconds() * 1e9;
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

/// The errors that the attempts ended with, or will end with: the most frequent first.
fn errnos(reason: TcpFailureReason, groups: &[&Group<'_>]) -> Vec<i32> {
    match reason {
        TcpFailureReason::Refused => vec![errno::ECONNREFUSED],
        // One that was given up, or still waits, has no error.
        TcpFailureReason::TimedOut => vec![errno::ETIMEDOUT],
        TcpFailureReason::Reset => vec![errno::ECONNRESET],
        _ => {
            let mut counts: BTreeMap<i32, u64> = BTreeMap::new();
            for failure in groups.iter().flat_map(|group| &group.failures) {
                *counts.entry(failure.error.errno).or_default() += failure.count;
            }
            let mut errnos: Vec<_> = counts.into_iter().collect();
            errnos.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            errnos.into_iter().map(|(errno, _)| errno).collect()
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn severity(count: u64, succeeded: u64, seconds: f64, reason: TcpFailureReason) -> Severity {
    let nothing_works = succeeded == 0;
    let often = count as f64 / seconds >= 5.0 || (reason == TcpFailureReason::TimedOut && count >= 3);
    if nothing_works && often { Severity::Critical } else { Severity::Warning }
}

/// A finding with what one service and several have in common.
#[allow(clippy::cast_precision_loss, reason = "counts")]
fn found(window: &Window, rule: &ConnectFailures, severity: Severity, groups: &[&Group<'_>]) -> Finding {
    let count: u64 = groups.iter().map(|group| group.count).sum();
    let succeeded: u64 = groups.iter().map(|group| group.succeeded).sum();
    let waiting: u64 = groups.iter().flat_map(|group| &group.failures).map(|failure| failure.waiting).sum();
    let reason = groups.first().map_or(TcpFailureReason::Other, |group| group.reason);
    let timed_out = reason == TcpFailureReason::TimedOut;
    let minimum = if timed_out { rule.min_timeouts } else { rule.min_refused };
    let per_second = count as f64 / window.seconds();
    let mut finding = ConnectFailures::finding(severity)
        .variant(reason.name())
        .fact(Fact::Call("connect".into()))
        .detail("succeeded", (succeeded as f64, Unit::Count))
        .measured("attempts", count as f64, Unit::Count, Some(minimum))
        .measured("attempts_per_second", per_second, Unit::PerSecond, (!timed_out).then_some(rule.per_second));
    if waiting > 0 {
        finding = finding.measured("waiting", waiting as f64, Unit::Count, None);
    }
    let first_ns = groups.iter().map(|group| group.first_ns()).min();
    finding.since = first_ns.and_then(|first| since(window, first));
    finding.excess = groups.iter().map(|group| group.excess).fold(0.0, f64::max);
    errnos(reason, groups).into_iter().fold(finding, |finding, errno| finding.fact(Fact::Errno(errno)))
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn one(window: &Window, tcp: &TcpSummary, rule: &ConnectFailures, group: &Group<'_>) -> Finding {
    let reason = group.reason;
    let per_second = group.count as f64 / window.seconds();
    let seldom = reason != TcpFailureReason::TimedOut && per_second < rule.per_second;
    let severity =
        if seldom { Severity::Info } else { severity(group.count, group.succeeded, window.seconds(), reason) };
    let own = process(window, group.pid(), group.comm());
    let mut finding = found(window, rule, severity, &[group])
        .about(fill!(Subject { remote: Some(group.service.into()), ..own }))
        .detail("server_overflows", reason == TcpFailureReason::TimedOut && overflows(tcp, group))
        .measured("share_of_attempts", group.share(), Unit::Ratio, Some(rule.share));
    let mut victims: Vec<_> = group.failures.iter().filter(|failure| failure.pid != 0).collect();
    victims.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    finding.victims = victims.iter().take(super::MAX_FINDINGS).map(|f| process(window, f.pid, &f.comm)).collect();
    fixes(window, finding, tcp, group)
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

fn fixes(window: &Window, finding: Finding, tcp: &TcpSummary, group: &Group<'_>) -> Finding {
    let (remote, port) = (group.service.ip(), group.service.port());
    let within = Namespace::new(window, tcp, group.net_namespace);
    let listening = format!("ss -ltnp 'sport = :{port}'");
    let who_listens = "whether anything listens, and on which address";
    if group.reason == TcpFailureReason::Refused && remote.is_loopback() {
        return within
            .look(finding, [(listening, who_listens)])
            .look("systemctl list-units --state=failed", "whether the service has failed")
            .look("journalctl -p err --since -10min", "why it is not running");
    }
    let commands = [
        (format!("ss -tnp state syn-sent dst {}", ss_address(remote)), "attempts that are waiting now"),
        (format!("ip route get {remote}"), "which interface and router the packets take"),
        ("nft list ruleset".into(), "firewall rules here that drop or reject"),
    ];
    let finding = within.look(finding, commands);
    let finding = match group.reason {
        TcpFailureReason::Refused => finding.look(format!("ssh {remote} \"{listening}\""), who_listens),
        _ => {
            within.look(finding, [(format!("mtr -rwbc 10 -T -P {port} {remote}"), "how far packets to that port get")])
        }
    };
    let dump = format!("tcpdump -ni any -c 20 tcp port {port} and host {remote}");
    within.look(finding, [(dump, "what comes back, if anything")])
}

/// One process that cannot reach many services.
#[allow(clippy::cast_precision_loss, reason = "counts")]
fn several(window: &Window, tcp: &TcpSummary, rule: &ConnectFailures, pid: u32, groups: &[Group<'_>]) -> Finding {
    let count: u64 = groups.iter().map(|group| group.count).sum();
    let reason = groups.first().map_or(TcpFailureReason::Other, |group| group.reason);
    let succeeded = groups.iter().map(|group| group.succeeded).sum();
    // Connections of its own to others: it reaches as many as it does not.
    let own = |peer: &&TcpPeer| peer.outgoing && peer.owners.iter().any(|owner| owner.pid == pid);
    let others = tcp.peers.iter().filter(own).count();
    let severity =
        if others >= groups.len() { Severity::Info } else { severity(count, succeeded, window.seconds(), reason) };
    let mut worst: Vec<_> = groups.iter().collect();
    worst.sort_by_key(|group| std::cmp::Reverse(group.count));
    let mut finding = found(window, rule, severity, &worst)
        .about(process(window, pid, groups.first().map_or("", Group::comm)))
        .measured("services", groups.len() as f64, Unit::Count, None)
        .measured("services_reached", others as f64, Unit::Count, None);
    finding.victims = worst.iter().take(super::MAX_FINDINGS).map(|group| Subject::remote(group.service)).collect();
    finding.confidence = 0.8;
    match worst.first() {
        Some(group) => fixes(window, finding, tcp, group),
        None => finding,
    }
}

fn words(finding: &Finding) -> Words {
    let services = finding.number("services").filter(|_| finding.subject.remote.is_none());
    let to = match (finding.subject.remote, services) {
        (Some(remote), _) => remote.to_string(),
        (None, Some(services)) => format!("{} services", number(services)),
        (None, None) => "a service".to_owned(),
    };
    let counted = |n: f64, what: &str| format!("{} {what}{}", number(n), if n > 1.0 { "s" } else { "" });
    let attempts = finding.number("attempts").map(|n| counted(n, "attempt"));
    let many =
        "With so many services at once, the fault is likely near this machine's network. Or the process scans ports.";
    let cause = cause(finding);
    let impact = match (finding.number("succeeded"), finding.subject.remote) {
        (None, _) => "What needs the connection waits or fails.".to_owned(),
        (Some(n), _) if n > 0.0 => format!("Other attempts succeed: {} in the window.", counted(n, "connection")),
        (Some(_), Some(remote)) => format!("Nothing on this machine gets a connection to {remote}."),
        (Some(_), None) => "It gets no connection to any of them.".to_owned(),
    };
    Words {
        title: title(&format!("{} cannot connect to {to}", who(finding)), [Some(error(finding)), attempts]),
        cause: if services.is_some() { format!("{cause} {many}") } else { cause },
        impact,
        ..Words::default()
    }
}

/// What the attempts ended with, in words.
fn error(finding: &Finding) -> String {
    match (&*finding.variant, finding.errnos().next()) {
        ("refused", _) => "connection refused".to_owned(),
        ("timed_out", _) => "no answer".to_owned(),
        ("reset", _) => "connection reset".to_owned(),
        (_, Some(errno)) => match errno::description(errno) {
            Some(text) => text.to_lowercase(),
            None => format!("error {errno}"),
        },
        ("unreachable", None) => "unreachable".to_owned(),
        (_, None) => "failed".to_owned(),
    }
}

fn cause(finding: &Finding) -> String {
    let errno = finding.errnos().next();
    match (&*finding.variant, errno) {
        ("refused", _) => {
            "Nothing listens there: the service is not running, or it listens on another address or port.".into()
        }
        ("timed_out", _) if finding.flag("server_overflows") => {
            "The server is on this machine. It does not accept connections fast enough, so the kernel drops new ones."
                .into()
        }
        ("timed_out", _) => "The host is down, or a firewall on the way drops the packets silently.".into(),
        ("reset", _) => {
            "The other end, or a firewall on the way, resets the connection while it is being opened.".into()
        }
        (_, Some(errno::ENETUNREACH)) => "This machine or a router on the way has no route to that network.".into(),
        (_, Some(errno::EHOSTUNREACH | errno::EHOSTDOWN)) => {
            "The host does not answer on its network, or a router on the way has no route to it or rejects the packets."
                .into()
        }
        (_, Some(errno::ENETDOWN)) => "The network interface that leads there is down.".into(),
        (_, Some(errno::EADDRNOTAVAIL)) => {
            "All local ports for this destination are in use, or the local address does not exist here.".into()
        }
        (_, Some(errno::EPERM | errno::EACCES)) => {
            "A firewall rule or a security module on this machine forbids it.".into()
        }
        (_, Some(errno)) => match errno::name(errno) {
            Some(name) => format!("Its connects fail with {name}."),
            None => format!("Its connects fail with error {errno}."),
        },
        (_, None) => "Its connects fail.".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{began, judge, peer, title_of};
    use super::*;
    use kerno_model::ErrnoCount;

    fn failure(reason: TcpFailureReason, remote: &str, count: u64) -> TcpFailure {
        let errno = match reason {
            TcpFailureReason::Refused => errno::ECONNREFUSED,
            TcpFailureReason::TimedOut => errno::ETIMEDOUT,
            TcpFailureReason::Reset => errno::ECONNRESET,
            TcpFailureReason::Unreachable => errno::EHOSTUNREACH,
            _ => errno::EADDRNOTAVAIL,
        };
        TcpFailure {
            reason,
            error: ErrnoCount::new(errno, count),
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
        assert_eq!(
            title_of(&findings[0]),
            "client (815) cannot connect to 127.0.0.1:5432: connection refused, 60 attempts"
        );
        assert_eq!((findings[0].severity, began(&findings[0])), (Severity::Critical, Some(3.0)));
        assert_eq!(findings[0].fixes[0].command, "ss -ltnp 'sport = :5432'");
        assert_eq!(findings[0].subject.remote.unwrap().to_string(), "127.0.0.1:5432");
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
        assert_eq!(title_of(&findings[0]), "client (815) cannot connect to 10.0.0.9:5432: no answer, 1 attempt");
        assert!(findings[0].fixes.iter().any(|fix| fix.command == "ss -tnp state syn-sent dst 10.0.0.9"));
        assert_eq!(waiting(3, 9_500_000_000)[0].severity, Severity::Critical);
    }

    #[test]
    fn a_process_that_reaches_nothing_is_one_finding() {
        let failures = (1..=6).map(|i| failure(TcpFailureReason::Unreachable, &format!("10.0.0.{i}"), 10)).collect();
        let findings = found(failures, vec![]);
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(title_of(finding), "client (815) cannot connect to 6 services: no route to host, 60 attempts");
        assert_eq!((finding.victims.len(), finding.severity), (6, Severity::Critical));
        assert!(crate::words(finding).cause.ends_with("Or the process scans ports."));
    }

    #[test]
    fn each_reason_is_a_trouble_of_its_own_and_names_its_error() {
        use TcpFailureReason::{Other, Refused, Reset, TimedOut, Unreachable};
        let mut known = BTreeSet::new();
        for (reason, errno, says) in [
            (Refused, errno::ECONNREFUSED, "Nothing listens there"),
            (TimedOut, errno::ETIMEDOUT, "firewall"),
            (Reset, errno::ECONNRESET, "resets"),
            (Unreachable, errno::EHOSTUNREACH, "does not answer on its network"),
            (Other, errno::EADDRNOTAVAIL, "local ports"),
        ] {
            let findings = found(vec![failure(reason, "10.0.0.9", 60)], vec![]);
            let [finding] = &findings[..] else { panic!("{findings:#?}") };
            assert_eq!(finding.errnos().collect::<Vec<_>>(), [errno]);
            assert_eq!(finding.calls().collect::<Vec<_>>(), ["connect"]);
            let words = crate::words(finding);
            assert!(words.cause.contains(says), "{words:?}");
            assert!(known.insert(finding.fingerprint()) && known.len() <= 5, "{reason:?}");
        }
        let mixed = |errno, count| TcpFailure {
            error: ErrnoCount::new(errno, count),
            pid: 816,
            ..failure(Unreachable, "10.0.0.9", count)
        };
        let findings = found(vec![mixed(errno::EHOSTUNREACH, 20), mixed(errno::ENETUNREACH, 50)], vec![]);
        assert_eq!(findings[0].errnos().collect::<Vec<_>>(), [errno::ENETUNREACH, errno::EHOSTUNREACH]);
        assert_eq!(
            title_of(&findings[0]),
            "client (816) cannot connect to 10.0.0.9:5432: network is unreachable, 70 attempts"
        );
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
