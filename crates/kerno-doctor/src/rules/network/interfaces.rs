//! Interfaces that drop packets, damage them, or lose their link; CPUs that cannot take what was received.

use kerno_model::amount::{number, quantity, share};
use kerno_model::{
    CpuBacklog, Effect, Entity, Finding, NetworkInterface, Safety, Severity, Subject, TcpSummary, Unit, Window, fill,
};

use super::{Namespace, process, worst};
use crate::shell::word;
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Packets that an interface has no room for.
    InterfaceDropping = "interface_dropping", "tcp_monitor", "a network interface drops packets",
        "Counts what an interface could not take: packets received while its ring was full (rx_missed_errors, rx_fifo_errors), packets that \
        it should send and had no room for (tx_dropped), and, for information, those that were dropped after they had been received \
        (rx_dropped): no protocol wanted them, or there was no memory. A few of the last are usual on any network. The reader of a tun \
        or tap device, such as a VPN or a virtual machine, is named if it does not take what is sent to it.",
        dropping, words_of_dropping;
    causes: [PacketsDropped];
    suffers: [
        suffers(
            Effect::PacketsDropped,
            |ties, a, b| ties.dropped_by_backlog(a, b),
            "the CPU that should take its packets has no room for them",
        ),
    ];
    thresholds: {
        min_packets: 50.0 Count, 1.0 ..= 1e9, "dropped packets needed";
        per_second: 10.0 PerSecond, 0.0 ..= 1e9, "dropped packets per second";
        share: 0.001 Ratio, 0.0 ..= 1.0, "share of the packets in that direction";
        unwanted_per_second: 100.0 PerSecond, 0.0 ..= 1e9, "packets per second that are dropped after they were received";
        unwanted_share: 0.05 Ratio, 0.0 ..= 1.0, "share of those";
    }
    evidence: {
        dropped: "packets dropped";
        dropped_per_second: "packets dropped per second";
        dropped_share: "share of the packets in that direction";
    }
}

rule! {
    /// Damaged packets, and links that come and go.
    InterfaceFaults = "interface_faults", "tcp_monitor", "a network interface receives damaged packets, or its link comes and goes",
        "Counts packets that an interface received damaged or could not send (rx_errors, tx_errors), and how often its carrier came or went \
        (carrier_changes). Both come from cables, transceivers, switches and drivers. Bridges have a carrier while any port of theirs is up, \
        and tun devices while somebody has them open, so theirs do not count.",
        faults, words_of_faults;
    causes: [PacketsDropped];
    suffers: [];
    thresholds: {
        min_errors: 10.0 Count, 1.0 ..= 1e9, "packets with errors needed";
        share: 0.0001 Ratio, 0.0 ..= 1.0, "share of packets with errors";
        carrier_changes: 4.0 Count, 2.0 ..= 1e6, "changes of the carrier from which on the link comes and goes";
    }
    evidence: {
        errors: "packets with errors";
        error_share: "share of packets with errors";
        changes: "changes of the carrier";
    }
}

rule! {
    /// Full backlogs of CPUs.
    CpuBacklogFull = "packet_backlog_full", "tcp_monitor", "a CPU cannot take all packets that are received",
        "Counts the received packets that a CPU dropped because so many waited there already (net.core.netdev_max_backlog): packets of \
        virtual interfaces and loopback, and those that were steered to it (RPS). They come faster than that CPU works on them, usually \
        because all go to one.",
        backlogs, words_of_backlogs;
    causes: [PacketsDropped];
    suffers: [];
    thresholds: {
        min_packets: 50.0 Count, 1.0 ..= 1e9, "dropped packets needed";
        per_second: 10.0 PerSecond, 0.0 ..= 1e9, "dropped packets per second";
    }
    evidence: {
        dropped: "packets dropped";
        dropped_per_second: "packets dropped per second";
        packets: "packets that the CPU worked on";
        limit: "the most that may wait";
    }
}

/// A direction, and what is said of it.
const MISSED: &str = "receive";
const UNWANTED: &str = "unwanted";
const SEND: &str = "send";

fn about(name: &str) -> Subject {
    fill!(Subject { interface: Some(name.to_owned()) })
}

fn of_interface(finding: Finding, within: &Namespace, interface: &NetworkInterface) -> Finding {
    let name = word(&interface.name);
    let mut finding =
        within.look(finding, [(format!("ip -s -s link show dev {name}"), "its counters, each kind of error apart")]);
    if !interface.driver.is_empty() && !["tun", "bridge"].contains(&interface.driver.as_str()) {
        finding =
            within.look(finding, [(format!("ethtool -S {name}"), "the counters of its driver, each queue apart")]);
    }
    finding
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn dropping(window: &Window, rule: &InterfaceDropping) -> Vec<Finding> {
    let Some(tcp) = &window.tcp_monitor else { return Vec::new() };
    let mut findings = Vec::new();
    for interface in &tcp.interfaces {
        let directions = [
            (MISSED, interface.received_missed, interface.received_packets, rule.per_second, rule.share),
            (
                UNWANTED,
                interface.received_dropped,
                interface.received_packets,
                rule.unwanted_per_second,
                rule.unwanted_share,
            ),
            (SEND, interface.sent_dropped, interface.sent_packets, rule.per_second, rule.share),
        ];
        for (direction, dropped, others, per_second, least) in directions {
            // What is dropped is not among the packets that were received or sent.
            let (dropped, all) = (dropped as f64, (dropped + others).max(1) as f64);
            let rate = dropped / window.seconds();
            let over = |value: f64, threshold: f64| value / threshold.max(1e-9);
            let excess = over(dropped, rule.min_packets).min(over(rate, per_second)).min(over(dropped / all, least));
            if excess < 1.0 {
                continue;
            }
            findings.push(drops(window, tcp, interface, direction, (dropped, rate, dropped / all, excess), per_second));
        }
    }
    worst(findings)
}

fn drops(
    window: &Window,
    tcp: &TcpSummary,
    interface: &NetworkInterface,
    direction: &'static str,
    (dropped, rate, share, excess): (f64, f64, f64, f64),
    per_second: f64,
) -> Finding {
    let severity = if direction == UNWANTED { Severity::Info } else { Severity::Warning };
    let reader = (direction == SEND && interface.reader_pid != 0).then_some(interface.reader_pid);
    let subject = match reader {
        Some(pid) => {
            fill!(Subject { interface: Some(interface.name.clone()), ..process(window, pid, &interface.reader_comm) })
        }
        None => about(&interface.name),
    };
    let mut finding = InterfaceDropping::finding(severity)
        .variant(direction)
        .about(subject)
        .detail("driver", interface.driver.clone())
        .measured("dropped", dropped, Unit::Count, None)
        .measured("dropped_per_second", rate, Unit::PerSecond, Some(per_second))
        .measured("dropped_share", share, Unit::Ratio, None);
    finding.excess = excess;
    finding.confidence = if direction == UNWANTED { 0.6 } else { 0.9 };
    let within = Namespace::new(window, tcp, interface.net_namespace);
    finding = of_interface(finding, &within, interface);
    let name = word(&interface.name);
    match (direction, reader) {
        (MISSED, _) => {
            within.look(finding, [(format!("ethtool -g {name}"), "how large its rings are, and may be")]).fix(
                Entity::Interface(interface.name.clone()),
                Safety::Changing,
                format!("ethtool -G {name} rx 4096"),
                "a larger ring holds longer bursts",
            )
        }
        (SEND, Some(pid)) => {
            finding.look_at_process(format!("top -H -b -n 1 -p {pid}"), "whether it is too busy to read")
        }
        _ => finding,
    }
}

fn words_of_dropping(finding: &Finding) -> Words {
    let name = finding.subject.interface.clone().unwrap_or_else(|| "a network interface".to_owned());
    let reader = finding.subject.process.as_ref().map(ToString::to_string);
    let rate = finding.number("dropped_per_second").map(|rate| format!("{} dropped", quantity(rate, Unit::PerSecond)));
    let of = finding.number("dropped_share").map(|part| format!("{} of the packets", share(part)));
    let (head, cause, impact) = match (finding.variant.as_ref(), reader) {
        (SEND, Some(reader)) => (
            format!("{reader} does not read what is sent to {name}"),
            "The queue of the device is full: the program behind it is stuck, or slower than what is sent.",
            "What is sent that way does not arrive.",
        ),
        (SEND, None) => (
            format!("{name} drops packets that it should send"),
            "The interface does not take them: it has no room, its other end is down or does not read, or its driver refuses them.",
            "Connections that go that way slow down or stop.",
        ),
        (UNWANTED, _) => (
            format!("packets received on {name} are dropped"),
            "No protocol of this machine wanted them (other VLANs, unknown protocols), or the driver had no memory for them.",
            "None, if they were not meant for this machine. Otherwise connections that come that way slow down.",
        ),
        _ => (
            format!("{name} drops packets that it receives"),
            "Its ring was full: they come faster than the kernel takes them, or in bursts longer than the ring.",
            "Connections that come that way slow down, and datagrams are lost.",
        ),
    };
    Words { title: title(&head, [rate, of]), cause: cause.into(), impact: impact.into(), ..Words::default() }
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn faults(window: &Window, rule: &InterfaceFaults) -> Vec<Finding> {
    let Some(tcp) = &window.tcp_monitor else { return Vec::new() };
    let mut findings = Vec::new();
    for interface in &tcp.interfaces {
        let within = Namespace::new(window, tcp, interface.net_namespace);
        let directions = [
            ("damaged", interface.received_errors, interface.received_packets),
            ("not_sent", interface.sent_errors, interface.sent_packets),
        ];
        for (variant, errors, others) in directions {
            let (errors, all) = (errors as f64, (errors + others).max(1) as f64);
            let excess = (errors / rule.min_errors).min(errors / all / rule.share.max(1e-9));
            if excess < 1.0 {
                continue;
            }
            let mut finding = InterfaceFaults::finding(Severity::Warning)
                .variant(variant)
                .about(about(&interface.name))
                .measured("errors", errors, Unit::Count, Some(rule.min_errors))
                .measured("error_share", errors / all, Unit::Ratio, Some(rule.share));
            finding.excess = excess;
            findings.push(of_interface(finding, &within, interface));
        }
        let lost = interface.carrier == Some(false) && interface.carrier_changes > 0;
        let virtual_one = ["tun", "bridge"].contains(&interface.driver.as_str());
        let changes = interface.carrier_changes as f64;
        if virtual_one || !(lost || changes >= rule.carrier_changes) {
            continue;
        }
        let mut finding = InterfaceFaults::finding(if lost { Severity::Critical } else { Severity::Warning })
            .variant("link")
            .about(about(&interface.name))
            .detail("lost", lost)
            .measured("changes", changes, Unit::Count, Some(rule.carrier_changes));
        finding.excess = (changes / rule.carrier_changes).max(1.0);
        let why = "when the link came and went, as its driver tells";
        findings.push(of_interface(finding, &within, interface).fix(
            Entity::Machine,
            Safety::ReadOnly,
            "dmesg -T | tail -n 50",
            why,
        ));
    }
    worst(findings)
}

fn words_of_faults(finding: &Finding) -> Words {
    let name = finding.subject.interface.clone().unwrap_or_else(|| "a network interface".to_owned());
    let (head, detail, cause) = match finding.variant.as_ref() {
        "link" => {
            let changes = finding.number("changes").map(|count| counted(count, "change"));
            let head = if finding.flag("lost") {
                format!("{name} has lost its link")
            } else {
                format!("the link of {name} comes and goes")
            };
            (
                head,
                changes,
                "A cable, a transceiver, the other end or the driver: the link went down without being told to here.",
            )
        }
        "not_sent" => (
            format!("{name} cannot send packets"),
            errors(finding),
            "The driver or the device refuses them: no link, a stuck queue, or a fault of the device.",
        ),
        _ => (
            format!("{name} receives damaged packets"),
            errors(finding),
            "A cable, a transceiver or a port that damages them, or two ends that disagree about speed or duplex.",
        ),
    };
    Words {
        title: title(&head, [detail]),
        cause: cause.into(),
        impact: "Connections over it slow down or break.".into(),
        ..Words::default()
    }
}

fn counted(count: f64, what: &str) -> String {
    if count == 1.0 { format!("1 {what}") } else { format!("{} {what}s", number(count)) }
}

fn errors(finding: &Finding) -> Option<String> {
    let part = finding.number("error_share").map_or_else(String::new, |part| format!(" ({})", share(part)));
    finding.number("errors").map(|count| format!("{}{part}", number(count)))
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn backlogs(window: &Window, rule: &CpuBacklogFull) -> Vec<Finding> {
    let Some(tcp) = &window.tcp_monitor else { return Vec::new() };
    let dropped: u64 = tcp.backlogs.iter().map(|backlog| backlog.dropped).sum();
    let (dropped, rate) = (dropped as f64, dropped as f64 / window.seconds());
    let excess = (dropped / rule.min_packets).min(rate / rule.per_second.max(1e-9));
    let Some(worst) = tcp.backlogs.iter().max_by_key(|backlog| backlog.dropped).filter(|_| excess >= 1.0) else {
        return Vec::new();
    };
    vec![of_backlog(worst, tcp.backlogs.len(), (dropped, rate, excess), rule)]
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn of_backlog(
    worst: &CpuBacklog,
    cpus: usize,
    (dropped, rate, excess): (f64, f64, f64),
    rule: &CpuBacklogFull,
) -> Finding {
    let mut finding = CpuBacklogFull::finding(Severity::Warning)
        .detail("cpu", (f64::from(worst.cpu), Unit::Count))
        .detail("cpus", (cpus as f64, Unit::Count))
        .measured("dropped", dropped, Unit::Count, Some(rule.min_packets))
        .measured("dropped_per_second", rate, Unit::PerSecond, Some(rule.per_second))
        .measured("packets", worst.packets as f64, Unit::Count, None)
        .measured("limit", worst.limit as f64, Unit::Count, None);
    finding.excess = excess;
    let look =
        |finding: Finding, command: &str, why: &str| finding.fix(Entity::Machine, Safety::ReadOnly, command, why);
    let finding =
        look(finding, "cat /proc/net/softnet_stat", "a line for each CPU: the second number is what it dropped");
    look(finding, "mpstat -P ALL 1 3", "whether one CPU has all of the work (%soft)").change(
        "sysctl -w net.core.netdev_max_backlog=10000",
        "lets more wait, for bursts; if one CPU is busy all the time, spread the work over others (RPS, more queues)",
    )
}

fn words_of_backlogs(finding: &Finding) -> Words {
    let cpu = finding.number("cpu").map_or_else(|| "a CPU".to_owned(), |cpu| format!("CPU {cpu:.0}"));
    let several = finding.number("cpus").filter(|cpus| *cpus > 1.0);
    let (who, verb, most) = match several {
        Some(cpus) => (format!("{} CPUs", number(cpus)), "drop", format!(" Most of all {cpu}.")),
        None => (cpu, "drops", String::new()),
    };
    let rate = finding.number("dropped_per_second").map(|rate| format!("{} dropped", quantity(rate, Unit::PerSecond)));
    let limit = finding.number("limit").map_or_else(String::new, |limit| format!(" {} may wait there.", number(limit)));
    Words {
        title: title(&format!("{who} {verb} received packets"), [rate]),
        cause: format!("More packets arrive than are worked on, and the backlog is full.{limit}{most}"),
        impact: "Connections slow down, and datagrams are lost, as on a lossy network.".into(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judge, title_of};
    use super::*;

    fn interface(edit: impl FnOnce(&mut NetworkInterface)) -> NetworkInterface {
        let mut interface = NetworkInterface {
            name: "eth0".into(),
            net_namespace: 1,
            driver: "ixgbe".into(),
            received_packets: 100_000,
            sent_packets: 100_000,
            ..NetworkInterface::default()
        };
        edit(&mut interface);
        interface
    }

    fn titles(rule: &crate::Rule, edit: impl FnOnce(&mut NetworkInterface)) -> Vec<String> {
        let interface = interface(edit);
        judge(rule, |tcp| tcp.interfaces = vec![interface]).iter().map(title_of).collect()
    }

    #[test]
    fn a_full_ring_is_told_apart_from_what_nobody_wanted() {
        let rule = &InterfaceDropping::RULE;
        assert_eq!(
            titles(rule, |eth| eth.received_missed = 5_000),
            ["eth0 drops packets that it receives: 500/s dropped, 4.76 % of the packets"]
        );
        assert_eq!(
            titles(rule, |eth| eth.received_dropped = 20_000),
            ["packets received on eth0 are dropped: 2,000/s dropped, 16.7 % of the packets"]
        );
        assert!(titles(rule, |eth| eth.received_dropped = 900).is_empty(), "90 a second are usual on some networks");
        assert!(titles(rule, |eth| eth.received_missed = 90).is_empty(), "few");
        assert!(titles(rule, |eth| (eth.received_missed, eth.received_packets) = (101, 1_000_000)).is_empty());
    }

    #[test]
    fn the_reader_of_a_tun_device_is_named() {
        let tun = |eth: &mut NetworkInterface| {
            (eth.name, eth.driver) = ("tun0".into(), "tun".into());
            (eth.sent_dropped, eth.reader_pid, eth.reader_comm) = (2_000, 815, "client".into());
        };
        assert_eq!(
            titles(&InterfaceDropping::RULE, tun),
            ["client (815) does not read what is sent to tun0: 200/s dropped, 1.96 % of the packets"]
        );
        assert_eq!(
            titles(&InterfaceDropping::RULE, |eth| eth.sent_dropped = 2_000),
            ["eth0 drops packets that it should send: 200/s dropped, 1.96 % of the packets"]
        );
    }

    #[test]
    fn damage_and_lost_links_are_told() {
        let rule = &InterfaceFaults::RULE;
        assert_eq!(titles(rule, |eth| eth.received_errors = 500), ["eth0 receives damaged packets: 500 (0.498 %)"]);
        assert_eq!(titles(rule, |eth| eth.carrier_changes = 6), ["the link of eth0 comes and goes: 6 changes"]);
        let lost = |eth: &mut NetworkInterface| (eth.carrier_changes, eth.carrier) = (1, Some(false));
        assert_eq!(titles(rule, lost), ["eth0 has lost its link: 1 change"]);
        assert!(titles(rule, |eth| eth.carrier_changes = 2).is_empty(), "somebody took it down and up");
        let bridge = |eth: &mut NetworkInterface| (eth.carrier_changes, eth.driver) = (8, "bridge".into());
        assert!(titles(rule, bridge).is_empty());
        assert!(titles(rule, |eth| eth.received_errors = 9).is_empty());
    }

    #[test]
    fn a_full_backlog_names_the_cpu() {
        let full = |dropped: &[u64]| {
            let backlog = |(cpu, dropped): (usize, &u64)| CpuBacklog {
                cpu: u32::try_from(cpu).unwrap(),
                packets: 1_000_000,
                dropped: *dropped,
                limit: 1000,
            };
            let all = dropped.iter().enumerate().map(backlog).filter(|backlog| backlog.dropped > 0).collect();
            judge(&CpuBacklogFull::RULE, |tcp| tcp.backlogs = all).iter().map(title_of).collect::<Vec<_>>()
        };
        assert_eq!(full(&[0, 3_000]), ["CPU 1 drops received packets: 300/s dropped"]);
        assert_eq!(full(&[1_000, 3_000]), ["2 CPUs drop received packets: 400/s dropped"]);
        assert!(full(&[0, 40]).is_empty() && full(&[]).is_empty());
    }

    #[test]
    fn packets_dropped_here_are_an_effect_of_their_own() {
        for rule in [&InterfaceDropping::RULE, &InterfaceFaults::RULE, &CpuBacklogFull::RULE] {
            assert_eq!(rule.causes, [Effect::PacketsDropped]);
        }
    }
}
