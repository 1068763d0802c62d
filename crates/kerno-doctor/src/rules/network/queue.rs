//! Listening sockets that cannot take more connections.

use std::net::SocketAddr;

use kerno_model::amount::{number, quantity};
use kerno_model::{
    Effect, Entity, Fact, Finding, Limit, Safety, Severity, TcpListener, TcpNamespace, TcpSummary, Unit, Window,
};

use super::half_open::is_flooded;
use super::{Namespace, process, who, worst};
use crate::shell::{is_service, word};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Full accept queues.
    AcceptQueueOverflow = "tcp_accept_queue_overflow", "tcp_monitor", "a server accepts connections too slowly",
        "Counts the connections that a listening socket dropped because its accept queue was full: the process calls accept too \
        rarely, or the backlog is too short for a burst. Clients notice a delay of a second or more until they retry. A socket also \
        drops connections for other reasons, so the overflows counted for its network namespace, or a full queue, must agree.",
        overflow, words;
    causes: [NotAccepted];
    suffers: [
        suffers(
            Effect::NoDescriptors,
            |ties, a, b| ties.at_limit_and_same_process(a, b),
            "cannot accept without a file descriptor",
        ),
        suffers(
            Effect::HeldBackByQuota,
            |ties, a, b| ties.in_throttled_cgroup(a, b),
            "held back by the quota of its cgroup, it accepts too slowly",
        ),
        suffers(Effect::HoldsUp, |ties, a, b| ties.same_process(a, b), "cannot accept while it stands still"),
        suffers(Effect::CpusTaken, |ties, a, b| ties.waits_for_cpu(a, b), "waits for a CPU, and so accepts too slowly"),
    ];
    thresholds: {
        min_drops: 3.0 Count, 1.0 ..= 1e9, "dropped connections needed";
        per_second: 0.2 PerSecond, 0.0 ..= 1e6, "dropped connections per second";
        critical_per_second: 20.0 PerSecond, 0.0 ..= 1e6, "dropped connections per second that are critical";
    }
    evidence: {
        dropped: "connections dropped";
        dropped_per_second: "connections dropped per second";
        queued: "connections waiting in the accept queue, at most";
        backlog: "backlog: the most that may wait";
        overflows: "accept queue overflows in its network namespace";
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn overflow(window: &Window, rule: &AcceptQueueOverflow) -> Vec<Finding> {
    let Some(tcp) = &window.tcp_monitor else { return Vec::new() };
    let excess = |drops: u64| {
        let drops = drops as f64;
        (drops / rule.min_drops).min(drops / window.seconds() / rule.per_second.max(1e-9))
    };
    let mut findings = Vec::new();
    for listener in &tcp.listeners {
        let namespace = tcp.namespaces.iter().find(|namespace| namespace.inode == listener.net_namespace);
        // Half-open connections are another matter, and what was answered with cookies was not dropped.
        let overflows = |namespace: &TcpNamespace| match is_flooded(namespace) {
            true => namespace.listen_overflows,
            false => namespace.listen_overflows + namespace.syn_drops,
        };
        let overflows = namespace.map_or(0, overflows);
        let full = listener.queued > listener.backlog;
        // The socket's own count includes malformed and unwanted packets: for want of room it dropped no more than overflowed anywhere.
        let drops = match namespace {
            Some(_) => listener.drops.min(overflows),
            None if full => listener.drops,
            None => 0,
        };
        if excess(drops) >= 1.0 {
            let listener = TcpListener { drops, ..listener.clone() };
            findings.push(of_listener(window, tcp, rule, &listener, namespace, excess(drops)));
        }
    }
    // The socket is gone, or could not be looked at.
    for namespace in &tcp.namespaces {
        let known = tcp.listeners.iter().any(|l| l.net_namespace == namespace.inode && l.drops > 0);
        if !known && excess(namespace.listen_overflows) >= 1.0 {
            findings.push(of_namespace(window, tcp, rule, namespace, excess(namespace.listen_overflows)));
        }
    }
    worst(findings)
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn of_listener(
    window: &Window,
    tcp: &TcpSummary,
    rule: &AcceptQueueOverflow,
    listener: &TcpListener,
    namespace: Option<&TcpNamespace>,
    excess: f64,
) -> Finding {
    let pid = listener.pid;
    let per_second = listener.drops as f64 / window.seconds();
    let full = listener.queued > listener.backlog;
    let severity = if per_second >= rule.critical_per_second { Severity::Critical } else { Severity::Warning };
    let mut subject = process(window, pid, &listener.comm);
    let unit = subject.unit.clone();
    subject.local = Some(SocketAddr::new(listener.local, listener.port).into());
    let mut finding = AcceptQueueOverflow::finding(severity)
        .variant("listener")
        .about(subject)
        .fact(Fact::AtLimit(Limit::AcceptQueue))
        .detail("full", full)
        .measured("dropped", listener.drops as f64, Unit::Count, Some(rule.min_drops))
        .measured("dropped_per_second", per_second, Unit::PerSecond, Some(rule.per_second))
        .measured("queued", f64::from(listener.queued), Unit::Count, None)
        .measured("backlog", f64::from(listener.backlog), Unit::Count, None);
    if let Some(namespace) = namespace {
        finding = finding.measured("overflows", namespace.listen_overflows as f64, Unit::Count, None);
    }
    finding.excess = excess;
    finding.confidence = if full { 0.95 } else { 0.85 };
    let within = Namespace::new(window, tcp, listener.net_namespace);
    finding = within.look(
        finding,
        [
            (
                format!("ss -ltn 'sport = :{}'", listener.port),
                "Recv-Q is the length of the accept queue, Send-Q the backlog",
            ),
            ("nstat -az TcpExtListenOverflows TcpExtListenDrops".into(), "the kernel's counters"),
        ],
    );
    if pid != 0 {
        finding = finding
            .look_at_process(format!("top -H -b -n 1 -p {pid}"), "whether it is too busy to accept")
            .look_at_process(
                format!("timeout 5 strace -f -e trace=accept,accept4 -p {pid}"),
                "whether it accepts at all",
            );
    }
    if let Some(unit) = unit.filter(|unit| is_service(unit)) {
        let restart = format!("systemctl restart {}", word(&unit));
        finding = finding.fix(Entity::Unit(unit), Safety::Changing, restart, "gets it going again if it is stuck");
    }
    within.change(
        finding,
        "sysctl -w net.core.somaxconn=4096",
        format!(
            "allows a backlog above {}; the program must ask for it in listen() and be restarted",
            number(f64::from(listener.backlog))
        ),
    )
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn of_namespace(
    window: &Window,
    tcp: &TcpSummary,
    rule: &AcceptQueueOverflow,
    namespace: &TcpNamespace,
    excess: f64,
) -> Finding {
    let overflows = namespace.listen_overflows as f64;
    let mut finding = AcceptQueueOverflow::finding(Severity::Warning)
        .variant("unknown_listener")
        .fact(Fact::AtLimit(Limit::AcceptQueue))
        .measured("dropped", overflows, Unit::Count, Some(rule.min_drops))
        .measured("dropped_per_second", overflows / window.seconds(), Unit::PerSecond, Some(rule.per_second));
    finding.excess = excess;
    finding.confidence = 0.6;
    Namespace::new(window, tcp, namespace.inode).look(
        finding,
        [
            ("ss -ltnp".into(), "which socket's Recv-Q comes near its Send-Q"),
            ("nstat -az TcpExtListenOverflows".into(), "whether it still happens"),
        ],
    )
}

fn words(finding: &Finding) -> Words {
    let unknown = finding.variant == "unknown_listener";
    let who = if unknown { "a server".to_owned() } else { who(finding) };
    let place = finding.subject.local.map_or_else(String::new, |local| format!(" on {local}"));
    let rate = finding.number("dropped_per_second").filter(|_| !unknown);
    let rate = rate.map_or_else(String::new, |rate| format!(" ({})", quantity(rate, Unit::PerSecond)));
    let dropped = finding.number("dropped").map(|count| format!("{} dropped{rate}", number(count)));
    let cause = match finding.get("full") {
        _ if unknown => "Which socket it is cannot be told: it was closed, or could not be looked at.",
        Some(_) if finding.flag("full") => {
            "The accept queue was full when sampled: the process is stuck, or accepts more slowly than clients connect."
        }
        Some(_) => "The backlog is too short for bursts of clients. The accept queue was not full when sampled.",
        None => "The process accepts more slowly than clients connect, or its backlog is too short for bursts.",
    };
    Words {
        title: title(&format!("{who} accepts connections{place} too slowly"), [dropped]),
        cause: cause.into(),
        impact: "Clients wait a second or more before they retry, or give up.".into(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judge, title_of};
    use super::*;

    fn found(drops: u64, queued: u32, overflows: u64) -> Vec<Finding> {
        judge(&AcceptQueueOverflow::RULE, |tcp| {
            tcp.namespaces[1].listen_overflows = overflows;
            tcp.listeners = vec![TcpListener {
                local: "0.0.0.0".parse().unwrap(),
                port: 5432,
                net_namespace: 2,
                pid: 4711,
                comm: "postgres".into(),
                drops,
                queued,
                backlog: 128,
                ..TcpListener::default()
            }];
        })
    }

    #[test]
    fn the_listener_and_its_process_are_named() {
        let findings = found(400, 129, 400);
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(
            title_of(finding),
            "postgres (4711) accepts connections on 0.0.0.0:5432 too slowly: 400 dropped (40/s)"
        );
        assert_eq!((finding.severity, finding.subject.pid()), (Severity::Critical, Some(4711)));
        assert_eq!(finding.subject.local.unwrap().to_string(), "0.0.0.0:5432");
        assert!(finding.is_at(Limit::AcceptQueue));
        assert_eq!(finding.fixes[0].command, "nsenter -t 222 -n ss -ltn 'sport = :5432'");
        let change = finding.fixes.iter().find(|fix| fix.effect == Safety::Changing).unwrap();
        assert_eq!(change.command, "nsenter -t 222 -n sysctl -w net.core.somaxconn=4096");
        let pids: Vec<_> = finding
            .fixes
            .iter()
            .map(|fix| match &fix.acts_on {
                Entity::Process(id) => id.pid,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(pids, [222, 222, 4711, 4711, 222], "what each command needs to be there");
        assert!((finding.excess - 400.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_full_queue_and_a_short_one_are_told_apart_in_words_only() {
        let [stuck, burst] = [found(400, 129, 400), found(400, 3, 400)].map(|found| found[0].clone());
        assert!(crate::words(&stuck).cause.contains("stuck") && crate::words(&burst).cause.contains("bursts"));
        assert_eq!(stuck.fingerprint(), burst.fingerprint(), "how full it is changes from sample to sample");
    }

    #[test]
    fn a_queue_in_use_and_drops_for_other_reasons_are_no_symptom() {
        assert!(found(0, 100, 0).is_empty());
        assert!(found(2, 129, 2).is_empty());
        assert!(found(400, 3, 0).is_empty(), "no overflow was counted");
        assert!(found(400, 3, 2).is_empty(), "nearly all for other reasons");
        assert_eq!(found(3, 129, 3)[0].severity, Severity::Warning);
    }

    #[test]
    fn an_overflow_of_a_socket_that_is_gone_is_told_as_well() {
        let findings = judge(&AcceptQueueOverflow::RULE, |tcp| tcp.namespaces[0].listen_overflows = 50);
        assert_eq!(title_of(&findings[0]), "a server accepts connections too slowly: 50 dropped");
        assert_eq!(findings[0].fixes[0].command, "ss -ltnp");
    }
}
