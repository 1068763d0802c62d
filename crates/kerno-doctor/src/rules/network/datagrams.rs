//! UDP sockets whose process reads too slowly.

use std::net::SocketAddr;

use kerno_model::amount::{bytes, number, quantity};
use kerno_model::{DatagramSocket, Effect, Finding, Severity, Unit, Window};

use super::{Namespace, process, who, worst};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Full receive buffers of UDP sockets.
    DatagramsDropped = "udp_receive_buffer_full", "tcp_monitor", "a program reads datagrams too slowly, and they are dropped",
        "Counts the datagrams that a UDP socket dropped because its receive buffer was full: its program reads too slowly, or too little fits \
        into the buffer for a burst. Nobody is told of it: the sender believes that they arrived. A socket also drops damaged and filtered \
        datagrams, so no more count than its network namespace dropped for want of room. Some programs keep a socket that they never \
        read; what little arrives there stays below the limit.",
        judge, words;
    causes: [];
    suffers: [
        suffers(
            Effect::HeldBackByQuota,
            |ties, a, b| ties.in_throttled_cgroup(a, b),
            "held back by the quota of its cgroup, it reads too slowly",
        ),
        suffers(Effect::HoldsUp, |ties, a, b| ties.same_process(a, b), "cannot read while it stands still"),
        suffers(Effect::CpusTaken, |ties, a, b| ties.waits_for_cpu(a, b), "waits for a CPU, and so reads too slowly"),
    ];
    thresholds: {
        min_drops: 20.0 Count, 1.0 ..= 1e9, "dropped datagrams needed";
        per_second: 5.0 PerSecond, 0.0 ..= 1e6, "dropped datagrams per second";
        busy_share: 0.9 Ratio, 0.1 ..= 1.0, "share of one CPU from which on the program has all that one thread can use";
    }
    evidence: {
        dropped: "datagrams dropped";
        dropped_per_second: "datagrams dropped per second";
        queued: "waited to be read at the end of the window";
        cpu_share: "CPUs that the program used";
        holders: "processes that have the socket open";
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn judge(window: &Window, rule: &DatagramsDropped) -> Vec<Finding> {
    let Some(tcp) = &window.tcp_monitor else { return Vec::new() };
    let excess = |socket: &DatagramSocket| {
        let drops = socket.drops as f64;
        (drops / rule.min_drops).min(drops / window.seconds() / rule.per_second.max(1e-9))
    };
    let sockets = tcp.datagram_sockets.iter().map(|socket| (socket, excess(socket)));
    let finding = |(socket, excess): (&DatagramSocket, f64)| {
        let mut subject = process(window, socket.pid, &socket.comm);
        subject.local = Some(SocketAddr::new(socket.local, socket.port).into());
        let per_second = socket.drops as f64 / window.seconds();
        let mut finding = DatagramsDropped::finding(Severity::Warning)
            .about(subject)
            .detail("stopped", socket.state.is_held())
            .measured("dropped", socket.drops as f64, Unit::Count, Some(rule.min_drops))
            .measured("dropped_per_second", per_second, Unit::PerSecond, Some(rule.per_second));
        if socket.queued_bytes > 0 {
            finding = finding.measured("queued", socket.queued_bytes as f64, Unit::Bytes, None);
        }
        if socket.holders > 1 {
            finding = finding.measured("holders", f64::from(socket.holders), Unit::Count, None);
        }
        if let Some(process) = window.process(socket.pid) {
            let share = process.used.run_ns as f64 / 1e9 / window.seconds();
            finding = finding.detail("busy", share >= rule.busy_share).measured(
                "cpu_share",
                share,
                Unit::Ratio,
                Some(rule.busy_share),
            );
        }
        finding.excess = excess;
        finding.confidence = if socket.pid == 0 { 0.7 } else { 0.95 };
        let within = Namespace::new(window, tcp, socket.net_namespace);
        finding = within.look(
            finding,
            [
                (
                    format!("ss -uanpm 'sport = :{}'", socket.port),
                    "Recv-Q is what waits to be read; in skmem, rb is the buffer and d what was dropped",
                ),
                ("nstat -az UdpRcvbufErrors Udp6RcvbufErrors".into(), "the kernel's counters"),
            ],
        );
        if socket.pid != 0 {
            let threads = format!("top -H -b -n 1 -p {}", socket.pid);
            finding = finding.look_at_process(threads, "whether one of its threads has a whole CPU");
        }
        let larger = "sysctl -w net.core.rmem_max=16777216";
        let why =
            "lets programs have a larger buffer, for bursts; this one must ask for it (SO_RCVBUF) and be restarted";
        within.change(finding, larger, why.into())
    };
    worst(sockets.filter(|(_, excess)| *excess >= 1.0).map(finding).collect())
}

fn words(finding: &Finding) -> Words {
    let who = who(finding);
    let place = finding.subject.local.map_or_else(String::new, |local| format!(" on {local}"));
    let rate = finding.number("dropped_per_second");
    let rate = rate.map_or_else(String::new, |rate| format!(" ({})", quantity(rate, Unit::PerSecond)));
    let dropped = finding.number("dropped").map(|count| format!("{} dropped{rate}", number(count)));
    let full = match finding.number("queued") {
        Some(queued) => format!(" {} waited in its buffer at the end of the window.", bytes(queued)),
        None => String::new(),
    };
    let cause = if finding.flag("stopped") {
        format!("It is stopped, so it reads nothing.{full}")
    } else if finding.flag("busy") {
        format!("It has all of a CPU that one thread can use, and cannot keep up with what arrives.{full}")
    } else {
        format!("It reads too rarely, or the buffer is too small for bursts.{full}")
    };
    Words {
        title: title(&format!("{who} reads datagrams{place} too slowly"), [dropped]),
        cause,
        impact: "What was dropped is lost, and neither side is told: log lines, metrics or queries are missing.".into(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judge as judged, title_of};
    use super::*;
    use kerno_model::StandingState;

    fn found(drops: u64, state: StandingState) -> Vec<Finding> {
        judged(&DatagramsDropped::RULE, |tcp| {
            tcp.datagram_sockets = vec![DatagramSocket {
                local: "0.0.0.0".parse().unwrap(),
                port: 8125,
                net_namespace: 2,
                pid: 4711,
                comm: "statsd".into(),
                holders: 1,
                state,
                drops,
                queued_bytes: 212_992,
            }];
        })
    }

    #[test]
    fn who_reads_too_slowly_is_named() {
        let findings = found(4_000, StandingState::Unknown);
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(
            title_of(finding),
            "postgres (4711) reads datagrams on 0.0.0.0:8125 too slowly: 4,000 dropped (400/s)"
        );
        assert_eq!(finding.fixes[0].command, "nsenter -t 222 -n ss -uanpm 'sport = :8125'");
        assert!(crate::words(finding).cause.contains("208 KiB waited"), "{}", crate::words(finding).cause);
    }

    #[test]
    fn one_that_is_stopped_is_said_to_be() {
        assert!(crate::words(&found(100, StandingState::Stopped)[0]).cause.starts_with("It is stopped"));
    }

    #[test]
    fn a_socket_that_nobody_reads_drops_little() {
        assert!(found(19, StandingState::Unknown).is_empty());
        assert!(found(49, StandingState::Unknown).is_empty(), "4.9 a second");
        assert_eq!(found(50, StandingState::Unknown).len(), 1);
    }
}
