//! Segments that have to be sent again, and round trips that take much longer than they need to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{culprit, since, ss_address, who, within, worst};
use crate::{Culprit, Finding, Severity, Unit, rule};
use kerno_model::Window;
use kerno_model::amount;
use kerno_model::{TcpPeer, TcpSummary};

rule! {
    /// Segments sent again.
    RetransmitStorm = "tcp_retransmit_storm", "tcp_monitor", "segments have to be sent again",
        "The share of data segments sent to one other end that had to be sent again. The kernel sends again what is not \
        acknowledged in time, so the share is about that of lost packets; a healthy network stays far below one in a hundred. SYNs do \
        not count: a host that does not answer is no lossy path; nor does what the other end says had arrived all the same. Clients \
        from the Internet come over all sorts of networks of their own, where some loss is usual: of each of them four times as much \
        is asked for. Where most of the other ends are affected it is one finding, for the \
        fault is then on our side.", storm;
    min_segments: 10.0 Count, 1.0 ..= 1e9, "segments sent again before a share means anything";
    warning_ratio: 0.005 Ratio, 0.0001 ..= 1.0, "share of segments sent again that is a warning";
    critical_ratio: 0.05 Ratio, 0.0001 ..= 1.0, "share that is critical: throughput falls to a fraction";
}

rule! {
    /// Round trips.
    RttInflation = "tcp_rtt_inflation", "tcp_monitor", "round trips take much longer than the path needs",
        "The smoothed round-trip time of connections that send, against the lowest that the same connections have seen, which is what \
        the path takes when nothing waits. Both a factor and an absolute difference are asked for: short paths vary by large \
        factors, and acknowledgements may be held back for 40 ms. A client from the Internet that fills its own line is told for \
        information only.", inflation;
    factor: 5.0 Times, 1.5 ..= 1000.0, "round trip now, as a multiple of the lowest";
    above_ms: 50.0 Milliseconds, 1.0 ..= 60000.0, "round trip now, above the lowest";
    min_segments: 20.0 Count, 1.0 ..= 1e9, "segments sent in the window before the time means anything";
}

/// From how many lossy other ends on it may be our own side, if they are also most of all.
const EVERYWHERE: usize = 5;
/// Segments from which on an other end counts for what is "most".
const BUSY_SEGMENTS: u64 = 100;

/// So many times the loss of other paths is usual with clients from the Internet.
const USUAL_OF_CLIENTS: f64 = 4.0;

/// A client from the Internet: what its network does is nobody's here.
fn is_client_from_afar(peer: &TcpPeer) -> bool {
    !peer.outgoing && is_public(peer.remote)
}

/// An address of the Internet at large.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let shared = matches!(v4.octets(), [100, 64..=127, ..]);
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || shared)
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_unspecified())
        }
    }
}

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

    /// With the port where there is but one.
    fn name(&self, remote: IpAddr) -> String {
        match self.peers[..] {
            [peer] if peer.outgoing => std::net::SocketAddr::new(remote, peer.port).to_string(),
            _ => remote.to_string(),
        }
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
        for owner in &peer.owners {
            // Whose segments are lost weighs more than who has most connections.
            *path.owners.entry(owner.pid).or_default() += owner.connections + again;
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
        return scattered(tcp, rule);
    }
    worst(lossy.into_iter().map(|((netns, remote), path)| one(window, tcp, rule, *netns, *remote, path)).collect())
}

fn severity(share: f64, rule: &RetransmitStorm) -> Severity {
    if share >= rule.critical_ratio { Severity::Critical } else { Severity::Warning }
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
    let (share, pid, name) = (path.share(), path.main_owner(), path.name(remote));
    let title = format!("{} of what {} sends to {name} is lost and sent again", amount::share(share), who(window, pid));
    let mut finding = RetransmitStorm::finding(severity(share, rule), title)
        .measured("data segments sent again", share, Unit::Ratio, Some(path.warning_ratio(rule)))
        .measured("segments sent again", path.again as f64, Unit::Count, Some(rule.min_segments))
        .measured("segments sent", path.sent as f64, Unit::Count, None);
    finding.cause =
        format!("packets between this machine and {remote} are dropped on the way, or its acknowledgements are");
    finding.impact = "each loss holds a connection up for a round trip or more, and makes it send slower".into();
    finding.culprit = culprit(window, pid, name);
    finding.victims = victims(window, path);
    finding.since = since(window, path.first_ns);
    finding.excess = share / path.warning_ratio(rule);
    // Ten segments are few to tell a share from.
    finding.confidence = if path.again as f64 >= 3.0 * rule.min_segments { 0.95 } else { 0.8 };
    let within = |command: String| within(tcp, netns, &command);
    finding
        .look(
            within(format!("ss -tin dst {}", ss_address(remote))),
            "each connection's retransmissions, round trip and congestion window",
        )
        .look(within("ip -s link".into()), "drops and errors of our own interfaces")
        .look(within("nft list ruleset".into()), "rules here that drop or limit")
        .look(within(format!("mtr -rwbc 50 {remote}")), "at which hop packets are lost")
        .look(within(format!("tcpdump -ni any -c 200 tcp and host {remote}")), "which direction loses them")
}

fn victims(window: &Window, path: &Path<'_>) -> Vec<Culprit> {
    let mut owners: Vec<_> = path.owners.iter().filter(|(pid, _)| **pid != 0).collect();
    owners.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    owners.iter().take(super::MAX_FINDINGS).map(|(pid, _)| Culprit::process(window, **pid, "")).collect()
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
    let title =
        format!("{} of what this machine sends to {} hosts is lost and sent again", amount::share(share), lossy.len());
    let mut finding = RetransmitStorm::finding(severity(share, rule), title)
        .measured("data segments sent again", share, Unit::Ratio, Some(rule.warning_ratio))
        .measured("segments sent again", again as f64, Unit::Count, Some(rule.min_segments))
        .measured("segments sent", sent as f64, Unit::Count, None)
        .measured("other ends affected", lossy.len() as f64, Unit::Count, None);
    finding.cause =
        "most of the other ends are affected, so packets are lost near this machine: its link, its switch, a rule here"
            .into();
    finding.impact = "each loss holds a connection up for a round trip or more, and makes it send slower".into();
    let mut by_share: Vec<_> = lossy.iter().collect();
    by_share.sort_by_key(|(_, path)| std::cmp::Reverse(path.again));
    finding.victims = by_share
        .iter()
        .take(super::MAX_FINDINGS)
        .map(|(key, path)| culprit(window, path.main_owner(), path.name(key.1)))
        .collect();
    finding.since = lossy.iter().map(|(_, path)| path.first_ns).min().and_then(|first| since(window, first));
    finding.excess = share / rule.warning_ratio;
    let netns = lossy.first().map_or(0, |(key, _)| key.0);
    own_side(finding, tcp, netns)
}

fn own_side(finding: Finding, tcp: &TcpSummary, netns: u32) -> Finding {
    let within = |command: &str| within(tcp, netns, command);
    finding
        .look(within("ip -s link"), "drops and errors of each interface")
        .look(within("nft list ruleset"), "rules here that drop or limit")
        .look(within("nstat -az TcpRetransSegs TcpExtTCPLostRetransmit TcpExtTCPTimeouts"), "the kernel's own counts")
        .look(within("tc -s qdisc"), "packets dropped by our own queues")
}

/// Many other ends with few segments each: only the namespace's own counters show it.
#[allow(clippy::cast_precision_loss, reason = "counts of segments")]
fn scattered(tcp: &TcpSummary, rule: &RetransmitStorm) -> Vec<Finding> {
    let mut findings = Vec::new();
    for namespace in &tcp.namespaces {
        let of_here = tcp.peers.iter().filter(|peer| peer.net_namespace == namespace.inode);
        let not_lost: u64 = of_here.map(|peer| peer.syn_retransmits + peer.spurious_retransmits).sum();
        let again = namespace.retransmitted_segments.saturating_sub(not_lost);
        let share = again as f64 / namespace.sent_segments.max(again).max(1) as f64;
        let (from_afar, here) = tcp
            .peers
            .iter()
            .filter(|peer| peer.net_namespace == namespace.inode)
            .fold((0, 0), |(afar, all), peer| (afar + usize::from(is_client_from_afar(peer)), all + 1));
        let usual = if from_afar > 0 && 2 * from_afar >= here { USUAL_OF_CLIENTS } else { 1.0 };
        let warning_ratio = (rule.warning_ratio * usual).min(1.0);
        // Ten times as many as for one path: SYNs to hosts that are not listed are among them.
        if (again as f64) < 10.0 * rule.min_segments || share < warning_ratio {
            continue;
        }
        let title =
            format!("{} of what this machine sends is lost and sent again, to many hosts", amount::share(share));
        let mut finding = RetransmitStorm::finding(severity(share, rule), title)
            .measured("segments sent again", share, Unit::Ratio, Some(warning_ratio))
            .measured("segments sent again", again as f64, Unit::Count, Some(10.0 * rule.min_segments))
            .measured("segments sent", namespace.sent_segments as f64, Unit::Count, None);
        finding.cause = "no single other end stands out, so packets are lost near this machine".into();
        finding.impact = "each loss holds a connection up for a round trip or more, and makes it send slower".into();
        finding.excess = share / warning_ratio;
        finding.confidence = 0.7;
        findings.push(own_side(finding, tcp, namespace.inode));
    }
    worst(findings)
}

#[allow(clippy::cast_precision_loss, reason = "counts of segments")]
fn inflation(window: &Window, rule: &RttInflation) -> Vec<Finding> {
    let Some(tcp) = &window.tcp_monitor else { return Vec::new() };
    let mut findings: BTreeMap<(u32, IpAddr), Finding> = BTreeMap::new();
    for peer in &tcp.peers {
        let (Some(now), Some(lowest)) = (peer.srtt_us, peer.min_rtt_us) else { continue };
        let factor = f64::from(now) / f64::from(lowest.max(1));
        let above_ms = (f64::from(now) - f64::from(lowest)) / 1000.0;
        if factor < rule.factor || above_ms < rule.above_ms || (peer.sent_segments as f64) < rule.min_segments {
            continue;
        }
        let (remote, pid) = (peer.remote, peer.owners.first().map_or(0, |owner| owner.pid));
        let title = format!(
            "round trips of {} to {remote} take {}, the path needs {}",
            who(window, pid),
            time(now),
            time(lowest)
        );
        let severity = if is_client_from_afar(peer) { Severity::Info } else { Severity::Warning };
        let mut finding = RttInflation::finding(severity, title)
            .measured("round trip", f64::from(now) / 1000.0, Unit::Milliseconds, None)
            .measured("lowest round trip", f64::from(lowest) / 1000.0, Unit::Milliseconds, None)
            .measured("round trip, as a multiple of the lowest", factor, Unit::Times, Some(rule.factor))
            .measured("round trip above the lowest", above_ms, Unit::Milliseconds, Some(rule.above_ms));
        finding.cause =
            "packets or acknowledgements wait in a queue on the way, or the other end is slow to take them".into();
        finding.impact = "each request takes that much longer".into();
        finding.culprit = culprit(window, pid, remote.to_string());
        finding.victims = peer
            .owners
            .iter()
            .filter(|owner| owner.pid != 0)
            .map(|owner| Culprit::process(window, owner.pid, ""))
            .collect();
        finding.excess = (factor / rule.factor).min(above_ms / rule.above_ms);
        finding.confidence = 0.75;
        let within = |command: String| within(tcp, peer.net_namespace, &command);
        let finding = finding
            .look(
                within(format!("ss -tin dst {}", ss_address(remote))),
                "each connection's round trip, congestion window and send queue",
            )
            .look(within("tc -s qdisc".into()), "a queue of our own that is full")
            .look(within(format!("mtr -rwbc 50 {remote}")), "at which hop the time is spent");
        let key = (peer.net_namespace, remote);
        // One for each other end, whatever its services.
        if findings.get(&key).is_none_or(|known| known.excess < finding.excess) {
            findings.insert(key, finding);
        }
    }
    worst(findings.into_values().collect())
}

fn time(us: u32) -> String {
    match us {
        ..1000 => format!("{us} us"),
        1000..10_000 => format!("{:.1} ms", f64::from(us) / 1000.0),
        _ => format!("{} ms", us / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judge, peer};
    use super::*;
    use kerno_model::TcpNamespace;

    #[test]
    fn only_the_lossy_path_is_named() {
        let findings = judge(&RetransmitStorm::RULE, |tcp| {
            tcp.peers = vec![peer("10.0.0.1", 10_000, 4), peer("10.0.0.2", 10_000, 1000)];
        });
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(finding.title, "10 % of what client (815) sends to 10.0.0.2:5432 is lost and sent again");
        assert_eq!((finding.severity, finding.since), (Severity::Critical, Some(2.0)));
        assert_eq!(finding.culprit.remote.as_deref(), Some("10.0.0.2:5432"));
        assert_eq!(finding.culprit.pid, Some(815));
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
    fn what_had_arrived_all_the_same_was_not_lost() {
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
        assert_eq!(finding.title, "2 % of what this machine sends to 6 hosts is lost and sent again");
        assert_eq!(finding.victims.len(), 6);
        let findings = judge(&RetransmitStorm::RULE, |tcp| {
            tcp.namespaces[0] =
                TcpNamespace { sent_segments: 5000, retransmitted_segments: 150, ..tcp.namespaces[0].clone() };
        });
        assert_eq!(findings.len(), 1, "{findings:#?}");
    }

    #[test]
    fn round_trips_are_held_against_the_lowest_of_the_same_path() {
        let found = |now, lowest, sent| {
            judge(&RttInflation::RULE, |tcp| {
                tcp.peers = vec![TcpPeer { srtt_us: Some(now), min_rtt_us: Some(lowest), ..peer("10.0.0.2", sent, 0) }];
            })
        };
        let findings = found(120_000, 2_000, 500);
        assert_eq!(findings[0].title, "round trips of client (815) to 10.0.0.2 take 120 ms, the path needs 2.0 ms");
        assert!(found(120_000, 80_000, 500).is_empty(), "far away is not slow");
        assert!(found(41_000, 50, 500).is_empty(), "acknowledgements held back");
        assert!(found(120_000, 2_000, 5).is_empty(), "hardly used");
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
        let slow = TcpPeer { srtt_us: Some(400_000), min_rtt_us: Some(20_000), ..client(500, 0) };
        assert_eq!(judge(&RttInflation::RULE, |tcp| tcp.peers = vec![slow])[0].severity, Severity::Info);
        assert!(!is_public("192.168.1.1".parse().unwrap()) && !is_public("::ffff:10.0.0.1".parse().unwrap()));
    }
}
