//! Open connections on which nothing moves any more.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use kerno_model::amount::{bytes, number, span};
use kerno_model::fill;
use kerno_model::{Address, Effect, Finding, Severity, Subject, TcpStuck, TcpSummary, Unit, Window};

use super::{Namespace, is_public, process, ss_address, who, worst};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Open connections on which nothing moves.
    StuckConnection = "tcp_connection_stuck", "tcp_monitor", "data on an open connection is not acknowledged",
        "Looks at open connections whose oldest segment was sent again several times over some seconds. If nothing at all came back since, \
        the other end or the way to it is gone without a word, and the kernel goes on for about 15 minutes (tcp_retries2). If the same \
        host answers on other connections, something on the way has forgotten this one. If only large segments get lost while \
        small ones arrive, they are larger than the way allows, and the message that would say so (ICMP) does not come through. A path \
        that loses packets at random is told by tcp_retransmit_storm instead. A connection whose other end has had no room for some seconds \
        is told for information only: a slow reader looks the same. Clients from the Internet come and go, and do not count.",
        judge, words;
    causes: [PathBroken];
    suffers: [
        suffers(Effect::NotAccepted, |ties, a, b| ties.to_listener(a, b), "the listener drops what it sends"),
        suffers(Effect::HoldsUp, |ties, a, b| ties.same_process(a, b), "does not read while it stands still"),
    ];
    thresholds: {
        warning_seconds: 3.0 Seconds, 1.0 ..= 3600.0, "time without an acknowledgement that counts";
        critical_seconds: 30.0 Seconds, 1.0 ..= 3600.0, "time without an acknowledgement that is critical";
        min_retransmits: 3.0 Count, 1.0 ..= 255.0, "times that the same segment was sent again, needed for it to count";
        closed_seconds: 10.0 Seconds, 1.0 ..= 3600.0, "time without room at the other end that counts";
    }
    evidence: {
        unanswered: "longest time without an acknowledgement";
        retransmits: "times that the same segment was sent again";
        closed: "longest time without room at the other end";
        connections: "connections that are stuck";
        waiting_bytes: "data that waits";
    }
}

/// An answer that came this long after a segment was sent first is no answer to what came before.
const MARGIN_SECONDS: f64 = 1.0;
/// Whoever answered this shortly before a segment was sent did not go away just then.
const JUST_BEFORE_SECONDS: f64 = 2.0;
/// Segments up to this size pass wherever IPv4 does (576 less headers).
const PASSES_BYTES: u64 = 536;
/// What has this part of the largest size is a large segment; what is smaller on average is a small one.
const LARGE: f64 = 0.5;

/// From this confidence on there is proof that the other end is there.
const SURE: f64 = 0.8;

/// What is wrong with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Large segments do not get through.
    Large,
    /// Nothing comes back.
    Silent,
    /// The host answers on other connections.
    Forgotten,
    /// The other end has no room.
    Closed,
}

impl Fault {
    const fn name(self) -> &'static str {
        match self {
            Self::Large => "large_segments",
            Self::Silent => "no_answer",
            Self::Forgotten => "forgotten",
            Self::Closed => "no_room",
        }
    }
}

/// What is wrong with it, and how sure that is.
#[allow(clippy::cast_precision_loss, reason = "bytes")]
fn fault(stuck: &TcpStuck, rule: &StuckConnection) -> Option<(Fault, f64)> {
    if stuck.closed_seconds >= rule.closed_seconds && f64::from(stuck.probes) < rule.min_retransmits {
        return Some((Fault::Closed, 0.9));
    }
    if seconds(stuck) < rule.warning_seconds || f64::from(stuck.retransmits.max(stuck.probes)) < rule.min_retransmits {
        return None;
    }
    let sent = stuck.outstanding_seconds;
    let on_its_way = stuck.unacknowledged_bytes / stuck.unacknowledged_segments.max(1);
    let largest = f64::from(stuck.segment_bytes);
    let is_large = on_its_way > PASSES_BYTES && on_its_way as f64 >= LARGE * largest;
    let usual = stuck.acknowledged_bytes as f64 / stuck.acknowledged_segments.max(1) as f64;
    let only_small_arrived = usual < LARGE * largest;
    let too_large = sent > 0.0 && is_large && only_small_arrived;
    let answers = |silent_seconds: f64| sent > 0.0 && silent_seconds < sent - MARGIN_SECONDS;
    if answers(stuck.silent_seconds) {
        // It is there. Where it loses some of everything, another rule tells.
        return too_large.then_some((Fault::Large, 0.95));
    }
    if stuck.others_silent_seconds.is_some_and(answers) {
        let loses_at_random = stuck.others_losing > 0;
        let fault = if too_large { (Fault::Large, 0.85) } else { (Fault::Forgotten, 0.8) };
        return (!loses_at_random).then_some(fault);
    }
    let was_there = stuck.silent_seconds - sent < JUST_BEFORE_SECONDS;
    Some(if too_large && was_there { (Fault::Large, 0.7) } else { (Fault::Silent, 0.9) })
}

/// For how long nothing has moved.
fn seconds(stuck: &TcpStuck) -> f64 {
    let unknown = stuck.outstanding_seconds <= 0.0 && stuck.closed_seconds <= 0.0;
    if unknown { stuck.silent_seconds } else { stuck.outstanding_seconds.max(stuck.closed_seconds) }
}

/// Connections with one service, or from one host to a service of ours, that have the same fault.
type Key = (Fault, u32, IpAddr, u16, bool);

fn judge(window: &Window, rule: &StuckConnection) -> Vec<Finding> {
    let Some(tcp) = &window.tcp_monitor else { return Vec::new() };
    let mut groups: BTreeMap<Key, Vec<(&TcpStuck, f64)>> = BTreeMap::new();
    for stuck in &tcp.stuck {
        if !stuck.outgoing && is_public(stuck.remote) {
            continue;
        }
        let Some((fault, confidence)) = fault(stuck, rule) else { continue };
        // Those who fetch something from us may take their time.
        if fault == Fault::Closed && !stuck.outgoing {
            continue;
        }
        let service = if stuck.outgoing { stuck.remote_port } else { stuck.local_port };
        let key = (fault, stuck.net_namespace, stuck.remote, service, stuck.outgoing);
        groups.entry(key).or_default().push((stuck, confidence));
    }
    worst(groups.iter().map(|(key, group)| found(window, tcp, rule, *key, group)).collect())
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn found(
    window: &Window,
    tcp: &TcpSummary,
    rule: &StuckConnection,
    (fault, netns, remote, service, outgoing): Key,
    group: &[(&TcpStuck, f64)],
) -> Finding {
    let longest = group.iter().map(|(stuck, _)| seconds(stuck)).fold(0.0, f64::max);
    let confidence = group.iter().map(|(_, confidence)| *confidence).fold(0.0, f64::max);
    let severity = match fault {
        Fault::Closed => Severity::Info,
        // A client that has gone misses nothing, and one may go just before it gets an answer.
        Fault::Silent | Fault::Forgotten if !outgoing => Severity::Info,
        Fault::Large if !outgoing && confidence < SURE && group.len() < 2 => Severity::Info,
        _ if longest >= rule.critical_seconds => Severity::Critical,
        _ => Severity::Warning,
    };
    let limit = if fault == Fault::Closed { rule.closed_seconds } else { rule.warning_seconds };
    let there: Address = if outgoing { SocketAddr::new(remote, service).into() } else { remote.into() };
    let mut owners: BTreeMap<u32, (usize, &str)> = BTreeMap::new();
    for (stuck, _) in group.iter().filter(|(stuck, _)| stuck.pid != 0) {
        owners.entry(stuck.pid).or_insert((0, &stuck.comm)).0 += 1;
    }
    let mut owners: Vec<_> = owners.into_iter().collect();
    owners.sort_by_key(|(pid, (count, _))| (std::cmp::Reverse(*count), *pid));
    let own = owners.first().map_or_else(Subject::default, |(pid, (_, comm))| process(window, *pid, comm));
    let waiting: u64 = group.iter().map(|(stuck, _)| stuck.unacknowledged_bytes + stuck.unsent_bytes).sum();
    let again = group.iter().map(|(stuck, _)| stuck.retransmits).max().unwrap_or(0);
    let size = group.iter().map(|(stuck, _)| stuck.segment_bytes).max().unwrap_or(0);
    let mut finding = StuckConnection::finding(severity)
        .variant(fault.name())
        .about(fill!(Subject { remote: Some(there), ..own }))
        .detail("outgoing", outgoing)
        .detail("segment_bytes", (f64::from(size), Unit::Bytes));
    // Who has the other end, where that is a process here.
    if let Some((stuck, _)) = group.iter().find(|(stuck, _)| stuck.peer_pid != 0) {
        finding = finding.detail("peer", process_name(window, stuck));
    }
    finding = if fault == Fault::Closed {
        finding.measured("closed", longest, Unit::Seconds, Some(limit))
    } else {
        let threshold = Some(rule.min_retransmits);
        let finding = finding.measured("unanswered", longest, Unit::Seconds, Some(limit));
        finding.measured("retransmits", f64::from(again), Unit::Count, threshold)
    };
    finding = finding.measured("connections", group.len() as f64, Unit::Count, None).measured(
        "waiting_bytes",
        waiting as f64,
        Unit::Bytes,
        None,
    );
    finding.victims =
        owners.iter().take(super::MAX_FINDINGS).map(|(pid, (_, comm))| process(window, *pid, comm)).collect();
    finding.since = Some(window.moment(window.covered_seconds() - longest));
    finding.excess = longest / limit;
    finding.confidence = confidence;
    fixes(window, tcp, netns, remote, fault, size, finding)
}

/// "receiver (31)".
fn process_name(window: &Window, stuck: &TcpStuck) -> String {
    format!("{} ({})", window.name_of(stuck.peer_pid, &stuck.peer_comm), stuck.peer_pid)
}

fn fixes(
    window: &Window,
    tcp: &TcpSummary,
    netns: u32,
    remote: IpAddr,
    fault: Fault,
    size: u32,
    finding: Finding,
) -> Finding {
    let within = Namespace::new(window, tcp, netns);
    let there = ss_address(remote);
    let state = (format!("ss -tnoemi dst {there}"), "how often each was sent again, and what waits");
    match fault {
        Fault::Large => {
            // Such a segment has 32 bytes of TCP before its data, that is 24 more than a ping.
            let ping = size + 24;
            let looks = [
                (format!("ping -M do -c 3 -s {ping} {remote}"), "whether a packet of that size gets there"),
                (format!("tracepath -n {remote}"), "the largest packet that each hop lets through"),
                (
                    "nft list ruleset".into(),
                    "whether ICMP (\"fragmentation needed\", \"packet too big\") is dropped here",
                ),
                state,
            ];
            let why = "the kernel then finds out by itself which size gets through".to_owned();
            let finding = within.look(finding, looks);
            within.change(finding, "sysctl -w net.ipv4.tcp_mtu_probing=1", why)
        }
        Fault::Silent | Fault::Forgotten => {
            let looks = [
                (format!("ping -c 3 {remote}"), "whether the host is there at all"),
                (format!("ip route get {remote}"), "which interface and router the packets take"),
                (format!("ip neigh show to {remote}"), "whether it answers on its own network"),
                state,
                (format!("tcpdump -ni any -c 20 tcp and host {remote}"), "what comes back, if anything"),
            ];
            let why = "ends the connections to that host, so that the program notices and opens new ones".to_owned();
            let finding = within.look(finding, looks);
            within.change(finding, &format!("ss -K dst {there}"), why)
        }
        Fault::Closed => within.look(finding, [state]),
    }
}

fn words(finding: &Finding) -> Words {
    let remote = finding.subject.remote.map_or_else(|| "a host".to_owned(), |remote| remote.to_string());
    let who = who(finding);
    let connections = finding.number("connections").filter(|n| *n > 1.0);
    let on = connections.map(|n| format!("{} connections", number(n)));
    let again = finding.number("retransmits").filter(|n| *n > 0.0).map(|n| format!("sent again {} times", number(n)));
    let unanswered = finding.number("unanswered").map(span);
    let size = finding.number("segment_bytes").map_or_else(String::new, |size| format!(" ({} bytes)", number(size)));
    let timeouts = "The kernel tries for about 15 minutes (tcp_retries2) before the program gets an error. TCP_USER_TIMEOUT makes it \
                    notice sooner; keepalives do not, while data is outstanding.";
    match &*finding.variant {
        "large_segments" => Words {
            title: title(&format!("Large segments from {who} do not reach {remote}"), [unanswered, again, on]),
            cause: format!(
                "Small segments arrive there, those of full size{size} do not: they are larger than a link on the way allows, and \
                 the ICMP message that says so is not sent, or dropped by a firewall (a path MTU black hole)."
            ),
            impact: "Connections open and small requests work; the first large one hangs until it times out."
                .to_owned(),
            ..Words::default()
        },
        "forgotten" => Words {
            title: title(&format!("{who} gets no answer on an open connection to {remote}"), [unanswered, again, on]),
            cause: format!(
                "The host answers on other connections: a firewall, a load balancer or the host itself has forgotten this one, and \
                 drops what comes on it instead of resetting it. {timeouts}"
            ),
            impact: "What waits for the answer hangs, while new connections work.".to_owned(),
            ..Words::default()
        },
        "no_room" => {
            let peer = finding.text("peer").map_or_else(|| remote.clone(), |peer| format!("{peer} at {remote}"));
            let waiting = finding.number("waiting_bytes").map(|n| format!("{} wait", bytes(n)));
            Words {
                title: title(
                    &format!("{peer} has no room for what {who} sends"),
                    [finding.number("closed").map(span), waiting, on],
                ),
                cause: "It reads more slowly than the data comes, or not at all: its receive window is closed."
                    .to_owned(),
                impact: "What is sent there waits. A sender that does nothing else meanwhile stands still.".to_owned(),
                ..Words::default()
            }
        }
        _ => {
            let (cause, impact) = if finding.flag("outgoing") {
                (
                    format!(
                        "Nothing has come back from there since: the host is gone, or packets are dropped on the way, without a \
                         reset or an error. {timeouts}"
                    ),
                    "What waits for the answer hangs.",
                )
            } else {
                (
                    "Nothing has come back from the client since: it has gone without closing the connection, or its packets are \
                     dropped on the way."
                        .to_owned(),
                    "The connection and what belongs to it are kept until it times out.",
                )
            };
            let title =
                title(&format!("{who} gets no answer from {remote} on an open connection"), [unanswered, again, on]);
            Words { title, cause, impact: impact.to_owned(), ..Words::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judge, title_of};
    use super::*;

    const RULE: &crate::Rule = &StuckConnection::RULE;

    fn stuck(edit: impl FnOnce(&mut TcpStuck)) -> TcpStuck {
        let mut stuck = TcpStuck {
            remote: "10.0.0.9".parse().unwrap(),
            remote_port: 5432,
            outgoing: true,
            net_namespace: 1,
            pid: 815,
            outstanding_seconds: 6.0,
            retransmits: 5,
            silent_seconds: 20.0,
            unacknowledged_bytes: 40,
            unacknowledged_segments: 1,
            acknowledged_bytes: 900_000,
            acknowledged_segments: 1_000,
            segment_bytes: 1448,
            ..TcpStuck::default()
        };
        edit(&mut stuck);
        stuck
    }

    fn found(list: Vec<TcpStuck>) -> Vec<Finding> {
        judge(RULE, |tcp| tcp.stuck = list)
    }

    fn variant(edit: impl FnOnce(&mut TcpStuck)) -> Option<String> {
        found(vec![stuck(edit)]).first().map(|finding| finding.variant.to_string())
    }

    #[test]
    fn a_host_that_is_gone_is_told_once_for_all_connections() {
        let findings = found(vec![stuck(|_| ()), stuck(|s| (s.local_port, s.outstanding_seconds) = (2, 8.0))]);
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(
            title_of(finding),
            "client (815) gets no answer from 10.0.0.9:5432 on an open connection: 8 s, sent again 5 times, 2 connections"
        );
        assert_eq!((finding.severity, &*finding.variant), (Severity::Warning, "no_answer"));
        assert!(finding.fixes.iter().any(|fix| fix.command == "ss -K dst 10.0.0.9"));
        assert_eq!(
            found(vec![stuck(|s| (s.outstanding_seconds, s.silent_seconds) = (40.0, 60.0))])[0].severity,
            Severity::Critical
        );
    }

    #[test]
    fn a_lost_segment_or_two_are_nothing() {
        assert_eq!(variant(|s| s.outstanding_seconds = 2.0), None);
        assert_eq!(variant(|s| s.retransmits = 2), None);
        // Its time is not known, but it was sent again so often that it must be long.
        assert_eq!(variant(|s| s.outstanding_seconds = 0.0).as_deref(), Some("no_answer"));
    }

    #[test]
    fn a_client_that_goes_is_no_trouble() {
        let client = |remote: &str| found(vec![stuck(|s| (s.outgoing, s.remote) = (false, remote.parse().unwrap()))]);
        assert!(client("8.8.4.4").is_empty());
        assert_eq!(client("10.0.0.9")[0].severity, Severity::Info);
    }

    #[test]
    fn a_connection_that_is_forgotten_while_others_work() {
        let beside = |silent, losing| variant(|s| (s.others_silent_seconds, s.others_losing) = (Some(silent), losing));
        assert_eq!(beside(0.5, 0).as_deref(), Some("forgotten"));
        assert_eq!(beside(0.5, 2), None, "a path that loses packets");
        assert_eq!(beside(6.5, 1).as_deref(), Some("no_answer"), "that was before");
    }

    #[test]
    fn large_segments_that_do_not_arrive() {
        let large = |s: &mut TcpStuck| {
            (s.unacknowledged_bytes, s.unacknowledged_segments) = (4_000, 3);
            (s.acknowledged_bytes, s.acknowledged_segments) = (300, 6);
        };
        // The last, smaller one has arrived.
        let told = |edit: &dyn Fn(&mut TcpStuck)| {
            variant(|s| {
                large(s);
                edit(s);
            })
        };
        assert_eq!(told(&|s| (s.silent_seconds, s.arrived_segments) = (1.0, 1)).as_deref(), Some("large_segments"));
        assert_eq!(told(&|s| s.silent_seconds = 6.2).as_deref(), Some("large_segments"), "it was there just before");
        assert_eq!(told(&|s| s.silent_seconds = 600.0).as_deref(), Some("no_answer"));
        assert_eq!(told(&|s| s.others_silent_seconds = Some(0.1)).as_deref(), Some("large_segments"));
        let full_size_before = |s: &mut TcpStuck| (s.acknowledged_bytes, s.silent_seconds) = (8_000, 1.0);
        assert_eq!(told(&full_size_before), None, "it is there, and loses some");
        let small = |s: &mut TcpStuck| (s.unacknowledged_bytes, s.silent_seconds) = (1_500, 6.2);
        assert_eq!(told(&small).as_deref(), Some("no_answer"), "such segments pass anywhere");
    }

    #[test]
    fn a_closed_window_is_for_information() {
        let closed = |edit: &dyn Fn(&mut TcpStuck)| {
            found(vec![stuck(|s| {
                (s.outstanding_seconds, s.retransmits, s.unacknowledged_segments) = (0.0, 0, 0);
                (s.closed_seconds, s.unsent_bytes, s.silent_seconds) = (12.0, 65_536, 2.0);
                edit(s);
            })])
        };
        let findings = closed(&|s| (s.peer_pid, s.peer_comm) = (4711, String::new()));
        assert_eq!(findings[0].severity, Severity::Info);
        assert_eq!(
            title_of(&findings[0]),
            "postgres (4711) at 10.0.0.9:5432 has no room for what client (815) sends: 12 s, 64 KiB wait"
        );
        // Nobody answers the probes.
        assert_eq!(closed(&|s| s.probes = 4)[0].variant, "no_answer");
    }
}
