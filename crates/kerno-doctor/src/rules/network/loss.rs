//! Segments that have to be retransmitted.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use kerno_model::amount::{number, share};
use kerno_model::fill;
use kerno_model::{
    Address, ConnectionOwner, Effect, Fact, Finding, Scope, Severity, Subject, TcpPeer, TcpSummary, Unit, Window,
};

use super::{Namespace, is_client_from_afar, process, since, ss_address, who, worst};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Segments sent again.
    RetransmitStorm = "tcp_retransmit_storm", "tcp_monitor", "segments are lost and retransmitted",
        "Measures the share of data segments sent to one remote host that were retransmitted. The kernel retransmits what is not \
        acknowledged in time, so this is about the share of lost packets; a healthy network stays far below 1 %. SYNs do not count, \
        because a host that does not answer is no lossy path. Segments that the other end reports as received (DSACK) do not count \
        either. Clients from the Internet use networks where some loss is usual, so the limit is four times as high for them. When \
        most remote hosts are affected, there is one finding for all: the fault is on this side.",
        storm, words;
    causes: [SegmentsLost];
    suffers: [
        suffers(Effect::NotAccepted, |ties, a, b| ties.to_listener(a, b), "the listener drops what it sends"),
        suffers(Effect::PacketsDropped, |ties, a, b| ties.dropped_here(a, b), "this machine drops packets"),
        suffers(Effect::PathBroken, |ties, a, b| ties.same_remote(a, b), "sends the same segments again and again"),
        suffers(
            Effect::LimitReached,
            |ties, a, b| ties.dropped_by_full_table(a, b),
            "the kernel here drops the first segments of connections",
        ),
    ];
    thresholds: {
        min_segments: 10.0 Count, 1.0 ..= 1e9, "retransmitted segments needed before the share counts";
        warning_ratio: 0.005 Ratio, 0.0001 ..= 1.0, "share of retransmitted segments that is a warning";
        critical_ratio: 0.05 Ratio, 0.0001 ..= 1.0, "share that is critical: throughput falls to a fraction";
    }
    evidence: {
        retransmitted_share: "share of segments retransmitted";
        retransmitted: "segments retransmitted";
        sent: "segments sent";
        hosts: "remote hosts affected";
    }
}

/// From how many lossy other ends on it may be our own side, if they are also most of all.
const EVERYWHERE: usize = 5;
/// Segments from which on an other end counts for what is "most".
const BUSY_SEGMENTS: u64 = 100;

/// So many times the loss of other paths is usual with clients from the Internet.
const USUAL_OF_CLIENTS: f64 = 4.0;

/// An other end, its services taken together.
#[derive(Debug, Default)]
struct Path<'a> {
    sent: u64,
    again: u64,
    first_ns: u64,
    peers: Vec<&'a TcpPeer>,
    owners: BTreeMap<u32, u64>,
}

impl Path<'_> {
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    fn share(&self) -> f64 {
        // Fewer segments than were sent again: they had been sent before the window.
        if self.again == 0 { 0.0 } else { self.again as f64 / self.sent.max(self.again) as f64 }
    }

    /// The share that is a warning.
    fn warning_ratio(&self, rule: &RetransmitStorm) -> f64 {
        let from_afar = !self.peers.is_empty() && self.peers.iter().all(|peer| is_client_from_afar(peer));
        if from_afar { (rule.warning_ratio * USUAL_OF_CLIENTS).min(1.0) } else { rule.warning_ratio }
    }

    fn main_owner(&self) -> u32 {
        self.owners.iter().max_by_key(|(pid, count)| (**count, std::cmp::Reverse(**pid))).map_or(0, |owner| *owner.0)
    }

    /// Whose segments are lost most, and the other end: with the port where there is but one.
    fn subject(&self, window: &Window, remote: IpAddr) -> Subject {
        let remote: Address = match self.peers[..] {
            [peer] if peer.outgoing => SocketAddr::new(remote, peer.port).into(),
            _ => remote.into(),
        };
        fill!(Subject { remote: Some(remote), ..process(window, self.main_owner(), "") })
    }
}

fn paths(tcp: &TcpSummary) -> BTreeMap<(u32, IpAddr), Path<'_>> {
    let mut paths: BTreeMap<(u32, IpAddr), Path<'_>> = BTreeMap::new();
    for peer in &tcp.peers {
        let path = paths.entry((peer.net_namespace, peer.remote)).or_default();
        let not_lost = peer.syn_retransmits + peer.spurious_retransmits;
        let again = peer.retransmitted_segments.saturating_sub(not_lost);
        path.sent += peer.sent_segments;
        path.again += again;
        if again > 0 && (path.first_ns == 0 || peer.first_retransmit_ns < path.first_ns) {
            path.first_ns = peer.first_retransmit_ns;
        }
        for ConnectionOwner { pid, connections, .. } in &peer.owners {
            // Whose segments are lost weighs more than who has most connections.
            *path.owners.entry(*pid).or_default() += connections + again;
        }
        path.peers.push(peer);
    }
    paths
}

#[allow(clippy::cast_precision_loss, reason = "counts of segments")]
fn storm(window: &Window, rule: &RetransmitStorm) -> Vec<Finding> {
    let Some(tcp) = &window.tcp_monitor else { return Vec::new() };
    let paths = paths(tcp);
    let lossy: Vec<_> = paths
        .iter()
        .filter(|(_, path)| path.again as f64 >= rule.min_segments && path.share() >= path.warning_ratio(rule))
        .collect();
    let busy = paths.values().filter(|path| path.sent >= BUSY_SEGMENTS || path.again > 0).count();
    if lossy.len() >= EVERYWHERE && 2 * lossy.len() > busy {
        return vec![everywhere(window, tcp, rule, &lossy)];
    }
    if lossy.is_empty() {
        return scattered(window, tcp, rule);
    }
    worst(lossy.into_iter().map(|((netns, remote), path)| one(window, tcp, rule, *netns, *remote, path)).collect())
}

fn severity(share: f64, rule: &RetransmitStorm) -> Severity {
    if share >= rule.critical_ratio { Severity::Critical } else { Severity::Warning }
}

#[allow(clippy::cast_precision_loss, reason = "counts of segments")]
fn measured(finding: Finding, share: f64, again: u64, sent: u64, limits: (f64, f64)) -> Finding {
    finding
        .measured("retransmitted_share", share, Unit::Ratio, Some(limits.0))
        .measured("retransmitted", again as f64, Unit::Count, Some(limits.1))
        .measured("sent", sent as f64, Unit::Count, None)
}

#[allow(clippy::cast_precision_loss, reason = "counts of segments")]
fn one(
    window: &Window,
    tcp: &TcpSummary,
    rule: &RetransmitStorm,
    netns: u32,
    remote: IpAddr,
    path: &Path<'_>,
) -> Finding {
    let (share, limit) = (path.share(), path.warning_ratio(rule));
    let finding =
        RetransmitStorm::finding(severity(share, rule)).variant("one_host").about(path.subject(window, remote));
    let mut finding = measured(finding, share, path.again, path.sent, (limit, rule.min_segments));
    finding.victims = victims(window, path);
    finding.since = since(window, path.first_ns);
    finding.excess = share / limit;
    // Ten segments are few to tell a share from.
    finding.confidence = if path.again as f64 >= 3.0 * rule.min_segments { 0.95 } else { 0.8 };
    Namespace::new(window, tcp, netns).look(
        finding,
        [
            (
                format!("ss -tin dst {}", ss_address(remote)),
                "each connection's retransmissions, round trip and congestion window",
            ),
            ("ip -s link".into(), "drops and errors of this machine's interfaces"),
            ("nft list ruleset".into(), "firewall rules here that drop or limit"),
            (format!("mtr -rwbc 50 {remote}"), "at which hop packets are lost"),
            (format!("tcpdump -ni any -c 200 tcp and host {remote}"), "in which direction packets are lost"),
        ],
    )
}

fn victims(window: &Window, path: &Path<'_>) -> Vec<Subject> {
    let mut owners: Vec<_> = path.owners.iter().filter(|(pid, _)| **pid != 0).collect();
    owners.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    owners.iter().take(super::MAX_FINDINGS).map(|(pid, _)| process(window, **pid, "")).collect()
}

#[allow(clippy::cast_precision_loss, reason = "counts of segments")]
fn everywhere(
    window: &Window,
    tcp: &TcpSummary,
    rule: &RetransmitStorm,
    lossy: &[(&(u32, IpAddr), &Path<'_>)],
) -> Finding {
    let (sent, again) = lossy.iter().fold((0, 0), |(sent, again), (_, path)| (sent + path.sent, again + path.again));
    let share = again as f64 / sent.max(again).max(1) as f64;
    let finding =
        RetransmitStorm::finding(severity(share, rule)).variant("most_hosts").fact(Fact::Scope(Scope::Machine));
    let mut finding = measured(finding, share, again, sent, (rule.warning_ratio, rule.min_segments)).measured(
        "hosts",
        lossy.len() as f64,
        Unit::Count,
        None,
    );
    let mut by_loss: Vec<_> = lossy.iter().collect();
    by_loss.sort_by_key(|(_, path)| std::cmp::Reverse(path.again));
    finding.victims = by_loss.iter().take(super::MAX_FINDINGS).map(|(key, path)| path.subject(window, key.1)).collect();
    finding.since = lossy.iter().map(|(_, path)| path.first_ns).min().and_then(|first| since(window, first));
    finding.excess = share / rule.warning_ratio;
    own_side(window, finding, tcp, lossy.first().map_or(0, |(key, _)| key.0))
}

fn own_side(window: &Window, finding: Finding, tcp: &TcpSummary, netns: u32) -> Finding {
    Namespace::new(window, tcp, netns).look(
        finding,
        [
            ("ip -s link".into(), "drops and errors of each interface"),
            ("nft list ruleset".into(), "firewall rules here that drop or limit"),
            ("nstat -az TcpRetransSegs TcpExtTCPLostRetransmit TcpExtTCPTimeouts".into(), "the kernel's counters"),
            ("tc -s qdisc".into(), "packets dropped by this machine's own queues"),
        ],
    )
}

/// Many other ends with few segments each: only the namespace's own counters show it.
#[allow(clippy::cast_precision_loss, reason = "counts of segments")]
fn scattered(window: &Window, tcp: &TcpSummary, rule: &RetransmitStorm) -> Vec<Finding> {
    let mut findings = Vec::new();
    for namespace in &tcp.namespaces {
        let of_here = || tcp.peers.iter().filter(|peer| peer.net_namespace == namespace.inode);
        // SYNs go to hosts that are not listed, too.
        let syns: u64 = of_here().map(|peer| peer.syn_retransmits).sum();
        let spurious: u64 = of_here().map(|peer| peer.spurious_retransmits).sum();
        let not_lost = syns.max(namespace.syn_retransmits) + spurious;
        let again = namespace.retransmitted_segments.saturating_sub(not_lost);
        let share = again as f64 / namespace.sent_segments.max(again).max(1) as f64;
        let (from_afar, here) = tcp
            .peers
            .iter()
            .filter(|peer| peer.net_namespace == namespace.inode)
            .fold((0, 0), |(afar, all), peer| (afar + usize::from(is_client_from_afar(peer)), all + 1));
        let usual = if from_afar > 0 && 2 * from_afar >= here { USUAL_OF_CLIENTS } else { 1.0 };
        let warning_ratio = (rule.warning_ratio * usual).min(1.0);
        // Ten times as many as for one path: they are of hosts that are not listed, of which nothing else is known.
        let min_segments = 10.0 * rule.min_segments;
        if (again as f64) < min_segments || share < warning_ratio {
            continue;
        }
        let finding =
            RetransmitStorm::finding(severity(share, rule)).variant("many_hosts").fact(Fact::Scope(Scope::Machine));
        let mut finding = measured(finding, share, again, namespace.sent_segments, (warning_ratio, min_segments));
        finding.excess = share / warning_ratio;
        finding.confidence = 0.7;
        findings.push(own_side(window, finding, tcp, namespace.inode));
    }
    worst(findings)
}

fn words(finding: &Finding) -> Words {
    let own_side = matches!(&*finding.variant, "most_hosts" | "many_hosts");
    let who = if own_side { "this machine".to_owned() } else { who(finding) };
    let to = match (finding.subject.remote, finding.number("hosts")) {
        (Some(remote), _) => remote.to_string(),
        (None, Some(hosts)) => format!("{} hosts", number(hosts)),
        (None, None) if own_side => "many hosts".to_owned(),
        (None, None) => "a host".to_owned(),
    };
    let lost = finding.number("retransmitted_share").map(|lost| format!("{} retransmitted", share(lost)));
    let cause = match (&*finding.variant, finding.subject.remote) {
        ("most_hosts", _) => {
            "Most remote hosts are affected, so packets are lost near this machine: on its link, at its switch, or \
             by a firewall rule here."
                .to_owned()
        }
        ("many_hosts", _) => "No single remote host stands out, so packets are lost near this machine.".to_owned(),
        (_, Some(remote)) => format!("Packets to {}, or its acknowledgements, are dropped on the way.", remote.ip),
        (_, None) => "Packets, or their acknowledgements, are dropped on the way.".to_owned(),
    };
    Words {
        title: title(&format!("{who} loses segments to {to}"), [lost]),
        cause,
        impact: "Each loss delays its connection by a round trip or more, and makes it send more slowly.".into(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{began, judge, peer, title_of};
    use super::*;
    use kerno_model::TcpNamespace;

    #[test]
    fn only_the_lossy_path_is_named() {
        let findings = judge(&RetransmitStorm::RULE, |tcp| {
            tcp.peers = vec![peer("10.0.0.1", 10_000, 4), peer("10.0.0.2", 10_000, 1000)];
        });
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(title_of(finding), "client (815) loses segments to 10.0.0.2:5432: 10 % retransmitted");
        assert_eq!((finding.severity, began(finding)), (Severity::Critical, Some(2.0)));
        assert_eq!(finding.subject.remote.unwrap().to_string(), "10.0.0.2:5432");
        assert_eq!(finding.subject.pid(), Some(815));
        assert!(finding.fixes.iter().any(|fix| fix.command == "ss -tin dst 10.0.0.2"), "{:#?}", finding.fixes);
        assert!((finding.excess - 20.0).abs() < 1e-9);
    }

    #[test]
    fn one_in_a_hundred_is_a_warning_and_noise_is_none() {
        let found = |sent, again| judge(&RetransmitStorm::RULE, |tcp| tcp.peers = vec![peer("10.0.0.2", sent, again)]);
        assert_eq!(found(10_000, 100)[0].severity, Severity::Warning);
        assert!(found(10_000, 49).is_empty() && found(100, 9).is_empty() && found(0, 0).is_empty());
        let within = judge(&RetransmitStorm::RULE, |tcp| {
            tcp.peers = vec![TcpPeer { net_namespace: 2, ..peer("10.0.0.2", 100, 50) }];
        });
        assert!(within[0].fixes[0].command.starts_with("nsenter -t 222 -n ss "));
    }

    #[test]
    fn syns_without_an_answer_are_no_lossy_path() {
        let findings = judge(&RetransmitStorm::RULE, |tcp| {
            tcp.peers = vec![TcpPeer { syn_retransmits: 200, ..peer("10.0.0.2", 0, 200) }];
            tcp.namespaces[0] =
                TcpNamespace { sent_segments: 400, retransmitted_segments: 200, ..tcp.namespaces[0].clone() };
        });
        assert!(findings.is_empty(), "{findings:#?}");
    }

    #[test]
    fn what_had_arrived_was_not_lost() {
        let findings = judge(&RetransmitStorm::RULE, |tcp| {
            tcp.peers = vec![TcpPeer { spurious_retransmits: 195, ..peer("10.0.0.2", 10_000, 200) }];
        });
        assert!(findings.is_empty(), "{findings:#?}");
    }

    #[test]
    fn loss_everywhere_is_one_finding() {
        let findings = judge(&RetransmitStorm::RULE, |tcp| {
            tcp.peers = (1..=6).map(|i| peer(&format!("10.0.0.{i}"), 1000, 20)).collect();
        });
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(title_of(finding), "this machine loses segments to 6 hosts: 2 % retransmitted");
        assert_eq!(finding.victims.len(), 6);
        let findings = judge(&RetransmitStorm::RULE, |tcp| {
            tcp.namespaces[0] =
                TcpNamespace { sent_segments: 5000, retransmitted_segments: 150, ..tcp.namespaces[0].clone() };
        });
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(title_of(finding), "this machine loses segments to many hosts: 3 % retransmitted");
        assert!(finding.has(&Fact::Scope(Scope::Machine)));
    }

    #[test]
    fn addresses_are_given_to_ss_as_it_takes_them() {
        let findings = judge(&RetransmitStorm::RULE, |tcp| tcp.peers = vec![peer("fd00::2", 10_000, 1000)]);
        assert_eq!(findings[0].fixes[0].command, "ss -tin dst '[fd00::2]'");
    }

    #[test]
    fn clients_from_the_internet_have_networks_of_their_own() {
        let client = |sent, again| TcpPeer { outgoing: false, port: 443, ..peer("8.8.4.4", sent, again) };
        let found = |peer: TcpPeer| judge(&RetransmitStorm::RULE, |tcp| tcp.peers = vec![peer]);
        assert!(found(client(2000, 30)).is_empty(), "usual");
        assert_eq!(found(client(2000, 50))[0].severity, Severity::Warning);
        assert_eq!(found(TcpPeer { outgoing: true, ..client(2000, 30) }).len(), 1, "a service that we use");
        let many = |again| {
            judge(&RetransmitStorm::RULE, |tcp| {
                tcp.peers = (1..40)
                    .map(|i| TcpPeer { remote: format!("8.8.{i}.1").parse().unwrap(), ..client(300, 5) })
                    .collect();
                tcp.namespaces[0] =
                    TcpNamespace { sent_segments: 20_000, retransmitted_segments: again, ..tcp.namespaces[0].clone() };
            })
        };
        assert!(many(250).is_empty());
        assert_eq!(many(600).len(), 1);
    }
}
