//! Listening sockets that cannot take more connections.

use std::net::SocketAddr;

use super::{who, within, worst};
use crate::shell::{is_service, word};
use crate::{Culprit, Finding, Severity, Unit, rule};
use kerno_model::Window;
use kerno_model::{TcpListener, TcpNamespace, TcpSummary};

rule! {
    /// Full accept queues.
    AcceptQueueOverflow = "tcp_accept_queue_overflow", "tcp_monitor", "a server does not accept its connections in time",
        "Connections that a listening socket dropped because its queue was full: the process does not call accept as fast as clients \
        come, or the queue is too short for a burst. Clients notice by waiting a second or more, for they try again. A socket's own \
        count of drops has other reasons too, so the network namespace's count of overflows, or a full queue, must agree.", overflow;
    min_drops: 3.0 Count, 1.0 ..= 1e9, "connections dropped before it is a symptom";
    per_second: 0.2 PerSecond, 0.0 ..= 1e6, "connections dropped a second";
    critical_per_second: 20.0 PerSecond, 0.0 ..= 1e6, "connections dropped a second that are critical";
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
        let overflows = namespace.map_or(0, |namespace| namespace.listen_overflows + namespace.syn_drops);
        let full = listener.queued > listener.backlog;
        // The socket's own count has what was malformed or unwanted, too: no more than overflowed anywhere are for want of room.
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
    let (pid, local) = (listener.pid, SocketAddr::new(listener.local, listener.port));
    let per_second = listener.drops as f64 / window.seconds();
    let stuck = listener.queued > listener.backlog;
    let severity = if per_second >= rule.critical_per_second { Severity::Critical } else { Severity::Warning };
    let title = format!(
        "{} does not accept connections to {local} in time: {} dropped ({per_second:.1} a second)",
        who(window, pid),
        listener.drops
    );
    let mut finding = AcceptQueueOverflow::finding(severity, title)
        .measured("connections dropped", listener.drops as f64, Unit::Count, Some(rule.min_drops))
        .measured("connections dropped", per_second, Unit::PerSecond, Some(rule.per_second))
        .measured("connections waiting to be accepted, at most", f64::from(listener.queued), Unit::Count, None)
        .measured("room in the accept queue", f64::from(listener.backlog), Unit::Count, None);
    if let Some(namespace) = namespace {
        let overflows = namespace.listen_overflows as f64;
        finding = finding.measured("overflows in its network namespace", overflows, Unit::Count, None);
    }
    finding.cause = if stuck {
        "its queue is full when looked at: the process is stuck, or slower than its clients come".into()
    } else {
        "bursts of clients are longer than the queue, which is empty again when looked at".into()
    };
    finding.impact = "clients wait for a second or more before they try again, or give up".into();
    let process = if pid == 0 { Culprit::default() } else { Culprit::process(window, pid, &listener.comm) };
    let unit = process.unit.clone();
    finding.culprit = Culprit { local: Some(local.to_string()), ..process };
    finding.excess = excess;
    finding.confidence = if stuck { 0.95 } else { 0.85 };
    let (port, within) = (listener.port, |command: String| within(tcp, listener.net_namespace, &command));
    finding = finding
        .look(within(format!("ss -ltn 'sport = :{port}'")), "Recv-Q is the queue, Send-Q its room")
        .look(within("nstat -az TcpExtListenOverflows TcpExtListenDrops".into()), "the kernel's own counts");
    if pid != 0 {
        finding = finding
            .look(format!("top -H -b -n 1 -p {pid}"), "whether it has no time to accept")
            .look(format!("timeout 5 strace -f -e trace=accept,accept4 -p {pid}"), "whether it accepts at all");
    }
    if let Some(unit) = unit.filter(|unit| is_service(unit)) {
        finding = finding.change(format!("systemctl restart {}", word(&unit)), "ends the standstill if it is stuck");
    }
    finding.change(
        within("sysctl -w net.core.somaxconn=4096".into()),
        format!(
            "allows longer queues than {}; the program must ask for one in listen() and be started again",
            listener.backlog
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
    let (overflows, inode) = (namespace.listen_overflows, namespace.inode);
    let title = format!("a server did not accept its connections in time: {overflows} dropped");
    let mut finding = AcceptQueueOverflow::finding(Severity::Warning, title)
        .measured("connections dropped", overflows as f64, Unit::Count, Some(rule.min_drops))
        .measured("connections dropped", overflows as f64 / window.seconds(), Unit::PerSecond, Some(rule.per_second));
    finding.cause = "which socket it was is not known: it has gone, or could not be looked at".into();
    finding.impact = "clients wait for a second or more before they try again, or give up".into();
    finding.excess = excess;
    finding.confidence = 0.6;
    finding
        .look(within(tcp, inode, "ss -ltnp"), "whose Recv-Q comes near its Send-Q")
        .look(within(tcp, inode, "nstat -az TcpExtListenOverflows"), "whether it goes on")
}

#[cfg(test)]
mod tests {
    use super::super::testing::judge;
    use super::*;
    use crate::Effect;

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
            }];
        })
    }

    #[test]
    fn the_listener_and_its_process_are_named() {
        let findings = found(400, 129, 400);
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(
            finding.title,
            "postgres (4711) does not accept connections to 0.0.0.0:5432 in time: 400 dropped (40.0 a second)"
        );
        assert_eq!((finding.severity, finding.culprit.pid), (Severity::Critical, Some(4711)));
        assert_eq!(finding.culprit.local.as_deref(), Some("0.0.0.0:5432"));
        assert_eq!(finding.fixes[0].command, "nsenter -t 222 -n ss -ltn 'sport = :5432'");
        let change = finding.fixes.iter().find(|fix| fix.effect == Effect::Changing).unwrap();
        assert_eq!(change.command, "nsenter -t 222 -n sysctl -w net.core.somaxconn=4096");
        assert!((finding.excess - 400.0 / 3.0).abs() < 1e-9);
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
    fn an_overflow_of_a_socket_that_is_gone_is_told_all_the_same() {
        let findings = judge(&AcceptQueueOverflow::RULE, |tcp| tcp.namespaces[0].listen_overflows = 50);
        assert_eq!(findings[0].title, "a server did not accept its connections in time: 50 dropped");
        assert_eq!(findings[0].fixes[0].command, "ss -ltnp");
    }
}
