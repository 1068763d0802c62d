//! Half-open connections that fill the queue of a listening socket.

use std::net::SocketAddr;

use kerno_model::amount::{number, quantity};
use kerno_model::{Finding, Severity, Subject, TcpListener, TcpNamespace, Unit, Window};

use super::{Namespace, process, ss_address, worst};
use crate::Words;
use crate::rule;
use crate::title::title;

rule! {
    /// Half-open connections.
    HalfOpenFlood = "tcp_half_open_flood", "tcp_monitor", "half-open connections fill the queue of a server",
        "A connection is half-open from the client's SYN until it has answered the server's. Counts the SYNs that found the queue of half-open \
        connections full (TCPReqQFullDrop, TCPReqQFullDoCookies): somebody sends SYNs and does not answer, or what this machine answers \
        does not arrive. A program that accepts too slowly fills that queue as well, so its accept queue must have had room.",
        judge, words;
    causes: [];
    suffers: [];
    thresholds: {
        min_syns: 20.0 Count, 1.0 ..= 1e9, "SYNs that found the queue full";
        per_second: 2.0 PerSecond, 0.0 ..= 1e6, "of them per second";
        one_source: 0.5 Ratio, 0.01 ..= 1.0, "share of the half-open connections from which on one address is named";
    }
    evidence: {
        syns: "SYNs that found the queue full";
        syns_per_second: "of them per second";
        cookies: "of them answered with cookies";
        half_open: "half-open connections at the end of the window";
        addresses: "addresses that they come from";
        backlog: "backlog: the most that may be half-open";
    }
}

/// Of the connections dropped for a full accept queue there are so many fewer than of SYNs that found theirs full.
const FEWER: u64 = 20;

/// Whether half-open connections fill the queues there, and not a program that does not accept.
pub(super) fn is_flooded(namespace: &TcpNamespace) -> bool {
    namespace.syn_drops > 0 && namespace.listen_overflows.saturating_mul(FEWER) <= namespace.syn_drops
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn judge(window: &Window, rule: &HalfOpenFlood) -> Vec<Finding> {
    let Some(tcp) = &window.tcp_monitor else { return Vec::new() };
    let mut findings = Vec::new();
    for namespace in tcp.namespaces.iter().filter(|namespace| is_flooded(namespace)) {
        let syns = namespace.syn_drops as f64;
        let excess = (syns / rule.min_syns).min(syns / window.seconds() / rule.per_second.max(1e-9));
        let listeners = tcp.listeners.iter().filter(|listener| listener.net_namespace == namespace.inode);
        let listener = listeners.max_by_key(|listener| listener.half_open).filter(|listener| listener.half_open > 0);
        if excess < 1.0 || listener.is_some_and(|listener| listener.queued > listener.backlog && listener.backlog > 0) {
            continue;
        }
        let cookies = namespace.syn_cookies.min(namespace.syn_drops);
        let refused = cookies < namespace.syn_drops;
        let severity = if refused { Severity::Critical } else { Severity::Warning };
        let mut finding = HalfOpenFlood::finding(severity)
            .detail("refused", refused)
            .measured("syns", syns, Unit::Count, Some(rule.min_syns))
            .measured("syns_per_second", syns / window.seconds(), Unit::PerSecond, Some(rule.per_second))
            .measured("cookies", cookies as f64, Unit::Count, None);
        finding.excess = excess;
        finding.confidence = if listener.is_some() { 0.9 } else { 0.7 };
        if let Some(listener) = listener {
            finding = with_listener(finding, window, rule, listener);
        }
        let within = Namespace::new(window, tcp, namespace.inode);
        let from = finding.subject.remote.map(|remote| format!(" dst {}", ss_address(remote.ip)));
        finding = within.look(
            finding,
            [
                (format!("ss -Htn state syn-recv{}", from.unwrap_or_default()), "the half-open connections"),
                (
                    "nstat -az TcpExtTCPReqQFullDrop TcpExtTCPReqQFullDoCookies TcpExtSyncookiesFailed".into(),
                    "the kernel's counters",
                ),
            ],
        );
        if refused {
            let why = "answers SYNs for which there is no room with cookies, so that clients still get in";
            finding = within.change(finding, "sysctl -w net.ipv4.tcp_syncookies=1", why.into());
        }
        findings.push(finding);
    }
    worst(findings)
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn with_listener(mut finding: Finding, window: &Window, rule: &HalfOpenFlood, listener: &TcpListener) -> Finding {
    let one = listener.half_open_from_it as f64 >= rule.one_source * listener.half_open as f64;
    let mut subject = Subject::default();
    subject.remote = listener.half_open_from.filter(|_| one).map(Into::into);
    subject.local = Some(SocketAddr::new(listener.local, listener.port).into());
    finding = finding.about(subject).measured("half_open", listener.half_open as f64, Unit::Count, None).measured(
        "addresses",
        listener.half_open_addresses as f64,
        Unit::Count,
        None,
    );
    if listener.backlog > 0 {
        finding = finding.measured("backlog", f64::from(listener.backlog), Unit::Count, None);
    }
    let server = process(window, listener.pid, &listener.comm);
    if server.process.is_some() {
        finding.victims.push(server);
    }
    finding
}

fn words(finding: &Finding) -> Words {
    let place = finding.subject.local.map_or_else(String::new, |local| format!(" of {local}"));
    let from = match (finding.subject.remote, finding.number("addresses")) {
        (Some(remote), _) => format!(" from {}", remote.ip),
        (None, Some(addresses)) => format!(" from {} addresses", number(addresses)),
        (None, None) => String::new(),
    };
    let rate = finding.number("syns_per_second").map(|rate| quantity(rate, Unit::PerSecond));
    let rate = rate.map(|rate| format!("{rate} find no room"));
    let cause = match finding.subject.remote {
        Some(remote) => format!(
            "{} sends SYNs and does not answer in turn, or what this machine answers does not arrive there.",
            remote.ip
        ),
        None => "Many clients send SYNs and do not answer in turn, as in a SYN flood with made-up addresses; or what this machine \
                 answers does not arrive, as on a path that works in one direction only."
            .to_owned(),
    };
    let impact = if finding.flag("refused") {
        "New clients cannot connect: their SYNs are dropped."
    } else {
        "New clients are answered with SYN cookies: they get in, without window scaling and selective acknowledgements."
    };
    Words {
        title: title(&format!("half-open connections{from} fill the queue{place}"), [rate]),
        cause,
        impact: impact.into(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judge as judged, title_of};
    use super::*;

    fn found(syns: u64, cookies: u64, overflows: u64, from_one: u64) -> Vec<Finding> {
        judged(&HalfOpenFlood::RULE, |tcp| {
            let namespace = &mut tcp.namespaces[1];
            (namespace.syn_drops, namespace.syn_cookies, namespace.listen_overflows) = (syns, cookies, overflows);
            tcp.listeners = vec![TcpListener {
                local: "0.0.0.0".parse().unwrap(),
                port: 443,
                net_namespace: 2,
                pid: 4711,
                comm: "postgres".into(),
                backlog: 128,
                half_open: 128,
                half_open_addresses: 90,
                half_open_from: "10.9.9.9".parse().ok(),
                half_open_from_it: from_one,
                ..TcpListener::default()
            }];
        })
    }

    #[test]
    fn one_address_or_many_are_told_apart() {
        let one = &found(500, 500, 0, 100)[0];
        assert_eq!(
            title_of(one),
            "half-open connections from 10.9.9.9 fill the queue of 0.0.0.0:443: 50/s find no room"
        );
        assert_eq!((one.severity, one.victims[0].pid()), (Severity::Warning, Some(4711)));
        assert_eq!(one.fixes[0].command, "nsenter -t 222 -n ss -Htn state syn-recv dst 10.9.9.9");
        let many = &found(500, 0, 0, 2)[0];
        assert_eq!(
            title_of(many),
            "half-open connections from 90 addresses fill the queue of 0.0.0.0:443: 50/s find no room"
        );
        assert_eq!(many.severity, Severity::Critical, "they are dropped");
    }

    #[test]
    fn a_server_that_does_not_accept_is_another_matter() {
        assert!(found(500, 500, 500, 100).is_empty());
        assert!(found(19, 19, 0, 10).is_empty());
        assert!(found(0, 0, 0, 10).is_empty());
    }
}
