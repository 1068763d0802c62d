//! What this signal's summary says is wrong.

mod connects;
mod loss;
mod queue;

use std::net::IpAddr;

use super::TcpSummary;
use crate::doctor::{Culprit, Finding, Rule};
use crate::summary::Signals;

/// The rules of this signal.
pub(crate) const RULES: &[Rule] = &[
    loss::RetransmitStorm::RULE,
    loss::RttInflation::RULE,
    connects::ConnectFailures::RULE,
    queue::AcceptQueueOverflow::RULE,
];

/// At most so many findings of a rule.
const MAX_FINDINGS: usize = 8;

/// The command, to be run in that network namespace.
fn within(tcp: &TcpSummary, net_namespace: u32, command: &str) -> String {
    match tcp.namespaces.iter().find(|namespace| namespace.inode == net_namespace) {
        Some(namespace) if !namespace.initial && namespace.pid != 0 => {
            format!("nsenter -t {} -n {command}", namespace.pid)
        }
        _ => command.to_owned(),
    }
}

/// An address as filters of ss(8) take it: without brackets the end of an IPv6 address would be a port.
fn ss_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("'[{address}]'"),
    }
}

/// "postgres (4711)", or "a process" when it is not known.
fn who(signals: &Signals, pid: u32) -> String {
    match signals.process(pid) {
        _ if pid == 0 => "a process".to_owned(),
        Some(process) => format!("{} ({pid})", process.comm),
        None => format!("process {pid}"),
    }
}

/// The process, if it is known, and the other end.
fn culprit(signals: &Signals, pid: u32, remote: String) -> Culprit {
    let process = if pid == 0 { Culprit::default() } else { Culprit::process(signals, pid, "") };
    Culprit { remote: Some(remote), ..process }
}

/// When it began, if that was well within the window: seconds since the window began.
#[allow(clippy::cast_precision_loss, reason = "a time")]
fn since(signals: &Signals, at_ns: u64) -> Option<f64> {
    let seconds = at_ns.checked_sub(signals.window.started_ns)? as f64 / 1e9;
    (seconds > 0.5 && seconds <= signals.seconds()).then_some(seconds)
}

/// The worst, by how far past the threshold they are.
fn worst(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|a, b| b.excess.total_cmp(&a.excess).then_with(|| a.title.cmp(&b.title)));
    findings.truncate(MAX_FINDINGS);
    findings
}

#[cfg(test)]
mod testing {
    use super::*;
    use crate::doctor::Thresholds;
    use crate::signals::tcp_monitor::{TcpNamespace, TcpPeer};
    use crate::summary::{Process, Window};

    pub(super) fn signals(edit: impl FnOnce(&mut TcpSummary)) -> Signals {
        let mut tcp = TcpSummary {
            namespaces: vec![
                TcpNamespace { inode: 1, pid: 1, initial: true, ..TcpNamespace::default() },
                TcpNamespace { inode: 2, pid: 222, ..TcpNamespace::default() },
            ],
            ..TcpSummary::default()
        };
        edit(&mut tcp);
        let mut signals = Signals {
            window: Window { started_ns: 1_000_000_000, seconds: 10.0, ..Window::default() },
            tcp_monitor: Some(tcp),
            ..Signals::default()
        };
        for (pid, comm) in [(4711, "postgres"), (815, "client")] {
            let process = Process { pid, comm: comm.into(), ..Process::default() };
            signals.processes.insert(pid, process);
        }
        signals
    }

    pub(super) fn judge(rule: &Rule, edit: impl FnOnce(&mut TcpSummary)) -> Vec<Finding> {
        (rule.judge)(&signals(edit), &Thresholds::default())
    }

    pub(super) fn peer(remote: &str, sent: u64, again: u64) -> TcpPeer {
        TcpPeer {
            remote: remote.parse().unwrap(),
            port: 5432,
            outgoing: true,
            net_namespace: 1,
            connections: 3,
            sent_segments: sent,
            retransmitted_segments: again,
            syn_retransmits: 0,
            spurious_retransmits: 0,
            srtt_us: Some(400),
            min_rtt_us: Some(300),
            owners: vec![(815, 3)],
            first_retransmit_ns: if again > 0 { 3_000_000_000 } else { 0 },
        }
    }
}
