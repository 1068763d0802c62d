use super::{TcpFailureReason, TcpNamespace, TcpSummary};
use crate::metric::labels::UNIT;
use crate::metric::{Describe, Described, Give, Label, Measure, Metric, ROUND_TRIP, Values};

const OPENED_BY: Label =
    Label::new("opened_by", "kerno.tcp.opened_by", Values::Of(&["us", "them"]), "Which end opened the connection.");
const ENDED_BY: Label = Label::new(
    "ended_by",
    "kerno.tcp.ended_by",
    Values::Of(&["close", "reset"]),
    "Whether it was closed in order, or reset by either end.",
);
const REASON: Label =
    Label::new("reason", "error.type", Values::Of(TcpFailureReason::NAMES), "Why it could not be opened.");
const NAMESPACE: Label = Label::new(
    "namespace",
    "kerno.network.namespace",
    Values::Of(&["host", "others"]),
    "The network namespace of the machine, or all others together, such as those of containers.",
);

const SEGMENTS: Measure = Measure::things("segment");
const CONNECTIONS: Measure = Measure::things("connection");

/// A counter of each namespace.
fn by_namespace(part: &TcpSummary, give: &mut Give<'_>, pick: fn(&TcpNamespace) -> u64) {
    for namespace in &part.namespaces {
        give.of(&[if namespace.initial { "host" } else { "others" }], 0.0).add(pick(namespace));
    }
}

impl Describe for TcpSummary {
    const ABOUT: &'static str = "TCP, in all network namespaces in use";
    const METRICS: &'static [Described<Self>] = &[
        Described {
            metric: Metric::counter(
                "kerno.tcp.connections.established",
                CONNECTIONS,
                "TCP connections that were established.",
            )
            .by(&[OPENED_BY]),
            give: |part, give| {
                give.of(&["us"], 0.0).add(part.opened);
                give.of(&["them"], 0.0).add(part.accepted);
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.tcp.connections.ended",
                CONNECTIONS,
                "TCP connections that had been established and ended.",
            )
            .by(&[ENDED_BY]),
            give: |part, give| {
                give.of(&["close"], 0.0).add(part.closed.saturating_sub(part.reset));
                give.of(&["reset"], 0.0).add(part.reset);
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.tcp.connections.failed",
                CONNECTIONS,
                "Attempts to open a TCP connection that failed, without those that still wait for an answer, of the most frequent kinds.",
            )
            .by(&[REASON]),
            give: |part, give| {
                for reason in TcpFailureReason::ALL {
                    let alike = part.failures.iter().filter(|failure| failure.reason == *reason);
                    let failed = alike.map(|failure| failure.count.saturating_sub(failure.waiting)).sum();
                    give.of(&[reason.name()], 0.0).add(failed);
                }
            },
        },
        Described {
            metric: Metric::gauge(
                "kerno.tcp.connections.unanswered",
                CONNECTIONS,
                "Attempts to open a TCP connection that still wait for an answer after their SYN has been sent again.",
            ),
            give: |part, give| give.all().count(part.failures.iter().map(|failure| failure.waiting).sum()),
        },
        Described {
            metric: Metric::counter(
                "kerno.tcp.segments.sent",
                SEGMENTS,
                "TCP segments sent, retransmitted ones included (OutSegs and RetransSegs).",
            )
            .by(&[NAMESPACE]),
            give: |part, give| by_namespace(part, give, |namespace| namespace.sent_segments),
        },
        Described {
            metric: Metric::counter(
                "kerno.tcp.segments.retransmitted",
                SEGMENTS,
                "TCP segments retransmitted (RetransSegs).",
            )
            .by(&[NAMESPACE]),
            give: |part, give| by_namespace(part, give, |namespace| namespace.retransmitted_segments),
        },
        Described {
            metric: Metric::counter(
                "kerno.tcp.retransmission.timeouts",
                Measure::things("timeout"),
                "Retransmission timeouts (TCPTimeouts).",
            )
            .by(&[NAMESPACE]),
            give: |part, give| by_namespace(part, give, |namespace| namespace.timeouts),
        },
        Described {
            metric: Metric::counter(
                "kerno.tcp.listen.overflows",
                CONNECTIONS,
                "Connections dropped because the accept queue of a listening socket was full (ListenOverflows).",
            )
            .by(&[NAMESPACE]),
            give: |part, give| by_namespace(part, give, |namespace| namespace.listen_overflows),
        },
        Described {
            metric: Metric::counter(
                "kerno.tcp.listen.drops",
                CONNECTIONS,
                "Connections dropped by listening sockets for any reason, a full queue included (ListenDrops).",
            )
            .by(&[NAMESPACE]),
            give: |part, give| by_namespace(part, give, |namespace| namespace.listen_drops),
        },
        Described {
            metric: Metric::counter(
                "kerno.tcp.syn.drops",
                CONNECTIONS,
                "SYNs dropped or answered with cookies because a SYN queue was full (TCPReqQFullDrop, TCPReqQFullDoCookies).",
            )
            .by(&[NAMESPACE]),
            give: |part, give| by_namespace(part, give, |namespace| namespace.syn_drops),
        },
        Described {
            metric: Metric::histogram(
                "kerno.tcp.round_trip.time",
                Measure::MICROSECONDS,
                ROUND_TRIP,
                "Smoothed round-trip times of TCP, one for each segment that was acknowledged, of all connections.",
            ),
            give: |part, give| give.all().values(&part.rtt_us, None),
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.tcp.segments.sent",
                SEGMENTS,
                "TCP segments sent, by unit, of the processes with most traffic.",
            )
            .by(&[UNIT]),
            give: |part, give| {
                part.processes.iter().for_each(|process| give.unit(process.pid).add(process.sent_segments));
            },
        },
        Described {
            metric: Metric::counter(
                "kerno.unit.tcp.segments.retransmitted",
                SEGMENTS,
                "TCP segments retransmitted, by unit, of the processes with most traffic.",
            )
            .by(&[UNIT]),
            give: |part, give| {
                part.processes.iter().for_each(|process| give.unit(process.pid).add(process.retransmitted_segments));
            },
        },
        Described {
            metric: Metric::largest(
                "kerno.unit.tcp.accept_queue.utilization",
                Measure::RATIO,
                "How full the fullest accept queue of a listening socket was since the last reading, as a share of its backlog, by unit.",
            )
            .by(&[UNIT]),
            give: |part, give| {
                for listener in &part.listeners {
                    let full = f64::from(listener.queued) / f64::from(listener.backlog.max(1));
                    give.unit(listener.pid).largest(Some(full));
                }
            },
        },
    ];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[
        ("failures[].error.*", "counted by reason"),
        ("failures[].first_ns", "a time, for findings"),
        ("failures[].net_namespace", "without bound"),
        ("failures[].pid", "without bound; failures are counted by reason"),
        ("failures[].port", "without bound"),
        ("listeners[].drops", "in `kerno.tcp.listen.drops`, with those of all other sockets"),
        ("listeners[].net_namespace", "without bound"),
        ("listeners[].port", "without bound"),
        ("namespaces[].inode", "without bound"),
        ("namespaces[].pid", "without bound"),
        ("processes[].open", "needed to add up windows; the connections of a window are counted whole"),
        (
            "peers[].*",
            "by address, which has no bound; totals are in `kerno.tcp.segments.*` and `kerno.tcp.round_trip.time`",
        ),
        (
            "processes[].connections",
            "connections that were open, which windows may share; those that began are in `kerno.tcp.connections.*`",
        ),
        ("backlogs[].*", "by CPU; what is wrong with them is told as findings"),
        ("datagram_sockets[].*", "by socket, which has no bound; what is wrong with them is told as findings"),
        ("interfaces[].*", "by interface, which has no bound; what is wrong with them is told as findings"),
        ("listeners[].half_open*", "by socket; looked at only where the SYN queue was full"),
        ("namespaces[].syn_retransmits", "a part of those that are sent again"),
        ("namespaces[].syn_cookies", "a part of `kerno.tcp.syn.drops`"),
        ("stuck[].*", "by connection, which has no bound; what is wrong with them is told as findings"),
    ];
}
