//! Round trips that take much longer than they need to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kerno_model::amount::millis;
use kerno_model::fill;
use kerno_model::{Effect, Finding, Severity, Subject, Unit, Window};

use super::{Namespace, is_client_from_afar, process, ss_address, who, worst};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Round trips.
    RttInflation = "tcp_rtt_inflation", "tcp_monitor", "round trips take much longer than the path needs",
        "Compares the smoothed round-trip time of connections that send with the lowest that the same connections have seen, which \
        is what the path takes when nothing queues. Both a factor and a difference are needed: short paths vary by large factors, \
        and acknowledgements may be delayed by 40 ms. A client from the Internet that fills its own line is reported for \
        information only.",
        inflation, words;
    causes: [];
    suffers: [
        suffers(Effect::CpusStolen, |ties, a, b| ties.loopback(a, b), "the other end waits for a CPU before it answers"),
        suffers(Effect::CpusTaken, |ties, a, b| ties.loopback(a, b), "the other end waits for a CPU before it answers"),
        suffers(Effect::NotAccepted, |ties, a, b| ties.to_listener(a, b), "the listener drops what it sends"),
        suffers(Effect::SegmentsLost, |ties, a, b| ties.same_remote(a, b), "segments arrive late because they are sent again"),
    ];
    thresholds: {
        factor: 5.0 Times, 1.5 ..= 1000.0, "round trip as a multiple of the lowest";
        above_ms: 50.0 Milliseconds, 1.0 ..= 60000.0, "round trip above the lowest";
        min_segments: 20.0 Count, 1.0 ..= 1e9, "segments sent in the window, needed before the time counts";
    }
    evidence: {
        round_trip: "round trip";
        lowest_round_trip: "lowest round trip";
        multiple_of_lowest: "round trip as a multiple of the lowest";
        above_lowest: "round trip above the lowest";
    }
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
        let severity = if is_client_from_afar(peer) { Severity::Info } else { Severity::Warning };
        let mut finding = RttInflation::finding(severity)
            .about(fill!(Subject { remote: Some(remote.into()), ..process(window, pid, "") }))
            .measured("round_trip", f64::from(now) / 1000.0, Unit::Milliseconds, None)
            .measured("lowest_round_trip", f64::from(lowest) / 1000.0, Unit::Milliseconds, None)
            .measured("multiple_of_lowest", factor, Unit::Times, Some(rule.factor))
            .measured("above_lowest", above_ms, Unit::Milliseconds, Some(rule.above_ms));
        let owners = peer.owners.iter().filter(|owner| owner.pid != 0);
        finding.victims = owners.map(|owner| process(window, owner.pid, "")).collect();
        finding.excess = (factor / rule.factor).min(above_ms / rule.above_ms);
        finding.confidence = 0.75;
        let finding = Namespace::new(window, tcp, peer.net_namespace).look(
            finding,
            [
                (
                    format!("ss -tin dst {}", ss_address(remote)),
                    "each connection's round trip, congestion window and send queue",
                ),
                ("tc -s qdisc".into(), "whether a queue of this machine is full"),
                (format!("mtr -rwbc 50 {remote}"), "at which hop the time is spent"),
            ],
        );
        let key = (peer.net_namespace, remote);
        // One for each other end, whatever its services.
        if findings.get(&key).is_none_or(|known| known.excess < finding.excess) {
            findings.insert(key, finding);
        }
    }
    worst(findings.into_values().collect())
}

fn words(finding: &Finding) -> Words {
    let remote = finding.subject.remote.map_or_else(|| "a host".to_owned(), |remote| remote.to_string());
    let now = finding.number("round_trip").map(millis);
    let lowest = finding.number("lowest_round_trip").map(|ms| format!("lowest {}", millis(ms)));
    Words {
        title: title(&format!("{} has slow round trips to {remote}", who(finding)), [now, lowest]),
        cause: "Packets or acknowledgements wait in a queue on the way, or the other end is slow to receive.".into(),
        impact: "Each request takes that much longer.".into(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::is_public;
    use super::super::testing::{judge, peer, title_of};
    use super::*;
    use kerno_model::TcpPeer;

    #[test]
    fn round_trips_are_held_against_the_lowest_of_the_same_path() {
        let found = |now, lowest, sent| {
            judge(&RttInflation::RULE, |tcp| {
                tcp.peers = vec![TcpPeer { srtt_us: Some(now), min_rtt_us: Some(lowest), ..peer("10.0.0.2", sent, 0) }];
            })
        };
        let findings = found(120_000, 2_000, 500);
        assert_eq!(title_of(&findings[0]), "client (815) has slow round trips to 10.0.0.2: 120 ms, lowest 2 ms");
        assert_eq!((findings[0].severity, findings[0].subject.pid()), (Severity::Warning, Some(815)));
        assert!(found(120_000, 80_000, 500).is_empty(), "far away is not slow");
        assert!(found(41_000, 50, 500).is_empty(), "acknowledgements held back");
        assert!(found(120_000, 2_000, 5).is_empty(), "hardly used");
    }

    #[test]
    fn a_client_from_the_internet_fills_its_own_line() {
        let client = TcpPeer { outgoing: false, port: 443, ..peer("8.8.4.4", 500, 0) };
        let slow = TcpPeer { srtt_us: Some(400_000), min_rtt_us: Some(20_000), ..client };
        assert_eq!(judge(&RttInflation::RULE, |tcp| tcp.peers = vec![slow])[0].severity, Severity::Info);
        assert!(!is_public("192.168.1.1".parse().unwrap()) && !is_public("::ffff:10.0.0.1".parse().unwrap()));
    }
}
